#!/usr/bin/env bash
# What a record costs on the steady path: instructions and locked instructions, on the producer's side and on the
# worker's, counted by callgrind. And that none of it allocates.
#
#   ci/instructions.sh [WAY…]     ways: see benches/support/bin/steady.rs
#
# Each way runs twice, with 10 and with 30 rounds: the difference is what 20 rounds cost, whatever starting costs.
. "$(dirname "$0")/lib.sh"

have valgrind || not_run_optional "instructions are counted with valgrind, which is missing"
have objdump || not_run_optional "locked instructions are found with objdump, which is missing"
case $host in x86_64-*linux*) ;; *) not_run_optional "locked instructions are known by name on x86-64 only" ;; esac

ways=("$@")
[ $# -gt 0 ] || ways=(single spread sparse batch grouped ready)
few=10 many=30

cargo build --locked --release -p keylane-bench-support --bin steady
steady=$target/release/steady
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

# Addresses of instructions that lock a line: `lock …`, and `xchg` with memory, which locks by itself.
objdump -d --no-show-raw-insn "$steady" | awk '
    /^ +[0-9a-f]+:/ && (/\tlock / || /\txchg .*\(/) { sub(":", "", $1); print $1 }' >"$out/locked"

# count FILE: instructions and locked ones of one thread.
count() {
    awk '
        FNR == NR { locked["0x" $1]; next }
        /^ob=/ { own = ($0 ~ /\/steady$/); next }
        /^calls=/ { called = 1; next }
        /^0x/ {
            if (called) { called = 0; next }
            all += $3
            if (own && $1 in locked) some += $3
        }
        END { print all + 0, some + 0 }' "$out/locked" "$1"
}

printf '%-8s %12s %12s %12s %12s\n' way producer locked worker locked
for way in "${ways[@]}"; do
    for rounds in $few $many; do
        valgrind --tool=callgrind --separate-threads=yes --dump-instr=yes --compress-strings=no --compress-pos=no \
            --callgrind-out-file="$out/$way.$rounds" "$steady" "$way" $rounds >"$out/said.$rounds" 2>"$out/log" \
            || { cat "$out/log" >&2; fail "$way $rounds"; }
    done
    records=$(($(awk '{ print $2 }' "$out/said.$many") - $(awk '{ print $2 }' "$out/said.$few")))
    # The first thread is the producer, the second the monitor, the third the worker.
    {
        count "$out/$way.$few-01"; count "$out/$way.$many-01"
        count "$out/$way.$few-03"; count "$out/$way.$many-03"
    } | awk -v way="$way" -v n="$records" '
        { all[NR] = $1; some[NR] = $2 }
        END { printf "%-8s %12.1f %12.3f %12.1f %12.3f\n", way, (all[2] - all[1]) / n, (some[2] - some[1]) / n,
                  (all[4] - all[3]) / n, (some[4] - some[3]) / n }'
done
