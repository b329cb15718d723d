#!/usr/bin/env bash
# Tests that must fail when what they are there for is broken (the loom models' variants: ci/loom.sh).
#
# A line `// convict: NAME` above a test in tests/*.rs, or above a name in a list from which a macro makes tests,
# says: built with `--cfg keylane_weak="NAME"`, the code is broken in one place, and this test must notice.
# tests/convictions.rs holds the tests of order and isolation to it.
. "$(dirname "$0")/lib.sh"

wrappers=$target/convict
mkdir -p "$wrappers"
limit=${KL_CONVICT_SECONDS:-300}
table=
failures=0

# marked FILE: `NAME test` for each marked test of a file.
marked() {
    awk '/^ *\/\/ convict:/ { name = $3; next }
        name && /^ *(fn [a-z0-9_]+\(|[a-z0-9_]+,$)/ {
            sub(/^ *(fn )?/, ""); sub(/[(,].*/, ""); print name, $0; name = ""
        }' "$1"
}

# build FILE: builds one test file and prints the path of its binary.
build() {
    cargo test --locked --features "$(all_features)" --test "$1" --no-run --message-format=json \
        | sed -n 's/.*"target":{[^}]*"name":"'"$1"'".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1
}

found=
for path in tests/*.rs; do
    file=$(basename "$path" .rs)
    case $file in loom_*) continue ;; esac
    for name in $(marked "$path" | cut -d ' ' -f 1 | sort -u); do
        found=yes
        # Only our own crates differ: the dependencies are those of every other check.
        wrapper=$wrappers/$name
        if [ ! -x "$wrapper" ]; then
            printf '#!/bin/sh\nexec "$@" --cfg '\''keylane_weak="%s"'\''\n' "$name" >"$wrapper"
            chmod +x "$wrapper"
        fi
        binary=$(RUSTC_WORKSPACE_WRAPPER=$wrapper build "$file")
        [ -x "$binary" ] || fail "$file does not build with keylane_weak=\"$name\""
        tests=$(marked "$path" | sed -n "s/^$name //p")
        log=$wrappers/$file-$name.log
        # shellcheck disable=SC2086 # test names hold no spaces
        timeout -k 5 "$limit" "$binary" --include-ignored --exact $tests >"$log" 2>&1 || true
        for test in $tests; do
            verdict=convicted
            if ! grep -qxF "test $test ... FAILED" "$log"; then
                verdict="NOT CONVICTED"
                failures=$((failures + 1))
            fi
            table+=$(printf '%-12s %-18s %-90s %s' "$file" "$name" "$test" "$verdict")$'\n'
        done
    done
done
[ -n "$found" ] || fail "no test in tests/*.rs says what it convicts"

printf '\n%s' "$table"
[ $failures = 0 ] || fail "$failures tests do not notice what they are there for"
