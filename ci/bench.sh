#!/usr/bin/env bash
# Every figure of PERFORMANCE.md, and a short criterion run: what to look at after a change that may cost speed.
#
#   ci/bench.sh          some minutes
#   ci/bench.sh quick    fewer rounds and no criterion: for a first look
#
# Times of a machine that does other things too say little; compare the counts and the ratios.
. "$(dirname "$0")/lib.sh"

rounds=201
[ "${1:-}" = quick ] && rounds=31

echo "commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown), $(rustc -V), $(uname -sr), $(nproc) cores"
sed -n 's/^model name[^:]*: //p;T;q' /proc/cpuinfo 2>/dev/null || true

cargo build --locked --release -p keylane-benches -p keylane-bench-support --bins
printf '\n== instructions a record (callgrind)\n'
# Not here to judge.
bash ci/instructions.sh || true
printf '\n== footprint\n'
"$target/release/footprint" || [ $? = 77 ]
printf '\n== ratios, in turns\n'
"$target/release/ratios" "$rounds"
[ "${1:-}" = quick ] && exit

printf '\n== criterion, short\n'
cargo bench --locked -p keylane-benches --benches -- --warm-up-time 0.3 --measurement-time 1 --sample-size 10 \
    --noplot 2>/dev/null | grep -E '^[^ ].*|thrpt:' | grep -vE '^(Benchmarking|Found|running|test )'
