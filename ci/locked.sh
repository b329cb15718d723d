#!/usr/bin/env bash
# The fast push into a lane that is awake has one locked instruction, the drain of a lane that has messages none: read
# in their machine code. ci/instructions.sh counts the same while they run, with all that they call.
. "$(dirname "$0")/lib.sh"

have objdump || not_run_optional "machine code is read with objdump, which is missing"
case $host in x86_64-*) ;; *) not_run_optional "locked instructions are known by name on x86-64 only" ;; esac

cargo build --locked --release -p keylane-bench-support --bin parts
failures=0
# check FUNCTION COUNT: `lock …`, and `xchg` with memory, which locks by itself.
check() {
    local code locked
    code=$(objdump -d --no-show-raw-insn --disassemble="$1" "$target/release/parts" | grep -E '^ +[0-9a-f]+:' || true)
    # A function that was inlined or merged away is not proof of anything.
    [ "$(grep -c . <<<"$code")" -ge 5 ] || fail "$1 has no machine code of its own"
    locked=$(grep -cE '\slock |\sxchg .*\(' <<<"$code" || true)
    echo "$1: $locked locked instructions in $(grep -c . <<<"$code"), $2 expected"
    if [ "$locked" != "$2" ]; then
        grep -E '\slock |\sxchg .*\(' <<<"$code" || true
        failures=$((failures + 1))
    fi
}
check keylane_push 1
check keylane_pop 0
[ $failures = 0 ] || fail "$failures functions"
