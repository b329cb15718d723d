#!/usr/bin/env bash
# Every check, one after the other, with a table at the end.
#
#   ./ci/test.sh             all checks of the crate
#   ./ci/test.sh NAME…       only these (names: the table, or ./ci/test.sh --list)
#   ./ci/test.sh --members   also those of the benches and of the terminal view, which build what only they need
#   ./ci/test.sh --full      also those that take long: the long loom models, longer fuzzing, every NATS server, TLS with
#                            both of rustls' providers
#
# Each check is a script of its own, ci/NAME.sh. One that cannot run says `not run: <why>`; with CI=true
# that is a failure, unless what is missing may be missing (Go, valgrind). The last line is
# `N passed, M failed`; the exit status is 0 only if nothing failed.
. "$(dirname "$0")/lib.sh"

# A check that takes longer hangs.
limit=${KL_CHECK_SECONDS:-1800}

# Cheap and telling first. Those that share a build stand together.
checks=(
    fmt clippy doc features
    cargo-test nats convict layering behaviours golden
    quickstart footprint instructions locked
    loom sim san fuzz
    package msrv minimal-versions public-deps
)
members=(members benches top versus nats-bench)
full=(loom-full fuzz-long nats-full tls-providers)

# The command of a check that is not just ci/NAME.sh.
command_of() {
    case $1 in
        quickstart) echo "ci/test-quickstart.sh" ;;
        nats) echo "ci/nats-test.sh" ;;
        nats-full) echo "ci/nats-test.sh --full" ;;
        fuzz) echo "ci/fuzz.sh 10" ;;
        fuzz-long) echo "ci/fuzz.sh 300" ;;
        *) echo "ci/$1.sh" ;;
    esac
}

selected=()
for argument; do
    case $argument in
        --members) checks+=("${members[@]}") ;;
        --full) checks+=("${full[@]}"); limit=${KL_CHECK_SECONDS:-14400} ;;
        --list) printf '%s\n' "${checks[@]}" "${members[@]}" "${full[@]}"; exit ;;
        -*) echo "unknown option $argument" >&2; exit 2 ;;
        *)
            [[ " ${checks[*]} ${members[*]} ${full[*]} " == *" $argument "* ]] \
                || { echo "unknown check $argument; there are: ${checks[*]} ${members[*]} ${full[*]}" >&2; exit 2; }
            selected+=("$argument")
            ;;
    esac
done
[ ${#selected[@]} -gt 0 ] || selected=("${checks[@]}")

logs=$target/ci
mkdir -p "$logs"
passed=0
failed=0
table=
begun=$(now)
for name in "${selected[@]}"; do
    log=$logs/$name.log
    printf '%-18s ' "$name"
    started=$(now)
    code=0
    # shellcheck disable=SC2046 # a command is words without spaces
    timeout -k 10 "$limit" bash $(command_of "$name") >"$log" 2>&1 </dev/null || code=$?
    seconds=$(($(now) - started))
    note=$(sed -n 's/^not run: //p' "$log" | tail -n 1)
    case $code in
        0) status=passed; note= ;;
        77) status="not run" ;;
        78) status="not run"; note+=" (may be missing)" ;;
        124 | 137) status=FAILED; note="stopped after $limit s, log: $log" ;;
        *) status=FAILED; note="log: $log" ;;
    esac
    case $code in
        0) passed=$((passed + 1)) ;;
        77) [ "${CI:-}" != true ] || { status="FAILED"; note="not run: $note"; failed=$((failed + 1)); } ;;
        78) ;;
        *) failed=$((failed + 1)) ;;
    esac
    line=$(printf '%-9s %5s s  %s' "$status" "$seconds" "$note")
    line=${line%"${line##*[! ]}"}
    echo "$line"
    if [ "$status" = FAILED ]; then
        echo "--- the end of $log"
        tail -n 60 "$log"
        echo "--- what failed in it"
        grep -nE -A 4 "^test .* FAILED$|panicked at |^error|^FAILED" "$log" | cut -c 1-400 | tail -n 80 || true
        echo "---"
    fi
    table+=$(printf '%-18s %s' "$name" "$line")$'\n'
done

printf '\n%-18s %-9s %7s\n%s\n' check status seconds "$table"
echo "total $(($(now) - begun)) s"
echo "$passed passed, $failed failed"
[ $failed = 0 ]
