#!/usr/bin/env bash
# The loom models: every tests/loom_*.rs passes, and every weakened variant is convicted.
#
#   ci/loom.sh             the models of at most a minute
#   ci/loom.sh --ignored   the long ones, which are marked #[ignore] (ci/loom-full.sh)
#   ci/loom.sh ring        only tests/loom_ring.rs
#
# A line `// convict: NAME` in a model file says: run with KEYLANE_WEAK=NAME, the code has an
# ordering weakened or a step dropped, and the test whose name contains NAME (`-` read as `_`) must fail.
. "$(dirname "$0")/lib.sh"

which=quick
only=
for argument; do
    case $argument in
        --ignored) which=long ;;
        *) only=$argument ;;
    esac
done

export CARGO_TARGET_DIR=$target/loom
export RUSTFLAGS="--cfg keylane_loom"
logs=$CARGO_TARGET_DIR/variants
mkdir -p "$logs"
limit=${KEYLANE_LOOM_SECONDS:-$([ $which = quick ] && echo 300 || echo 7200)}

table=
row() { table+=$(printf '%-18s %-44s %-14s %5s s' "$1" "$2" "$3" "$4")$'\n'; }
failures=0

# build FILE: builds one model file and prints the path of its test binary.
build() {
    cargo test --locked --profile loom --features loom,testing --test "$1" --no-run --message-format=json \
        | sed -n 's/.*"target":{[^}]*"name":"'"$1"'".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1
}

# The tests of a binary that belong to this run, one a line.
tests_of() {
    local all long
    all=$("$1" --list --format terse | sed -n 's/: test$//p')
    long=$("$1" --list --format terse --ignored | sed -n 's/: test$//p')
    if [ $which = long ]; then echo "$long"; else grep -vxF -e "$long" <<<"$all" || true; fi
}

convict() {
    local file=$1 name=$2 binary=$3 started seconds test log
    test=$("$binary" --list --format terse | sed -n 's/: test$//p' | grep -F -- "${name//-/_}" || true)
    if [ -z "$test" ]; then
        row "$file" "$name" "NO SUCH TEST" 0
        failures=$((failures + 1))
        return
    fi
    # In the other run?
    test=$(grep -xF -f <(echo "$test") <<<"$(tests_of "$binary")" || true)
    [ -n "$test" ] || return 0
    log=$logs/$name.log
    started=$(now)
    local verdict=convicted status=0
    # shellcheck disable=SC2086 # test names hold no spaces
    KEYLANE_WEAK=$name timeout -k 5 "$limit" "$binary" --include-ignored --exact $test >"$log" 2>&1 || status=$?
    seconds=$(($(now) - started))
    if [ $status = 124 ]; then
        verdict="TIMED OUT"
    elif grep -q 'exceeded maximum number of' "$log"; then
        verdict="TOO LARGE"
    elif [ $status = 0 ] || ! grep -q 'panicked at' "$log"; then
        verdict="NOT CONVICTED"
    fi
    [ "$verdict" = convicted ] || { failures=$((failures + 1)); tail -n 20 "$log"; }
    row "$file" "weakened: $name" "$verdict" "$seconds"
}

found=
for path in tests/loom_*.rs; do
    [ -f "$path" ] || break
    file=$(basename "$path" .rs)
    [ -z "$only" ] || [ "$file" = "$only" ] || [ "$file" = "loom_$only" ] || continue
    found=yes
    echo "== $file"
    binary=$(build "$file")
    [ -x "$binary" ] || fail "$file does not build"
    for test in $(tests_of "$binary"); do
        started=$(now)
        verdict=passed
        timeout -k 5 "$limit" "$binary" --include-ignored --exact --nocapture "$test" || {
            [ $? = 124 ] && verdict="TIMED OUT" || verdict=FAILED
            failures=$((failures + 1))
        }
        row "$file" "$test" "$verdict" $(($(now) - started))
    done
    for name in $(sed -n 's,^ *// convict: *\([a-z0-9_-]*\).*,\1,p' "$path"); do
        echo "== $file, weakened: $name"
        convict "$file" "$name" "$binary"
    done
done
[ -n "$found" ] || not_run "there is no model ${only:-tests/loom_*.rs}"

printf '\n%s' "$table"
[ $failures = 0 ] || fail "$failures of the models above"
