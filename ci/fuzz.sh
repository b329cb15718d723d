#!/usr/bin/env bash
# Every fuzz target for SECONDS each (default 10), from a fixed seed.
#
#   ci/fuzz.sh 60             all targets, a minute each
#   ci/fuzz.sh 600 envelope   one target, ten minutes
. "$(dirname "$0")/lib.sh"

seconds=${1:-10}
only=${2:-}
version=0.13.2

[ -f fuzz/Cargo.toml ] || not_run "there is no fuzz crate"
have c++ || have g++ || have clang++ || not_run "libFuzzer needs a C++ compiler"
need_toolchain "$nightly"
PATH=$tools/bin:$PATH
if ! have cargo-fuzz; then
    # Built beside the tool's home, not in our target directory.
    CARGO_TARGET_DIR=$tools/build cargo install cargo-fuzz --locked --version "$version" --root "$tools" \
        || not_run "cargo-fuzz cannot be installed"
    rm -rf "$tools/build"
fi

fuzz() { rustup run "$nightly" cargo fuzz "$@"; }
targets=${only:-$(fuzz list)}
[ -n "$targets" ] || fail "the fuzz crate has no target"

# Built once for all; cargo-fuzz adds the sanitizer and the coverage.
fuzz build --target-dir "$target/fuzz"
printf '\n%-12s %10s %8s %8s\n' target executions corpus seconds
failed=
for name in $targets; do
    corpus=$root/fuzz/corpus/$name
    log=$target/fuzz/$name.log
    seeds=()
    mkdir -p "$corpus"
    if [ -d "fuzz/seeds/$name" ]; then seeds=("$root/fuzz/seeds/$name"); fi
    started=$(now)
    if fuzz run --target-dir "$target/fuzz" "$name" "$corpus" ${seeds[@]+"${seeds[@]}"} -- \
        -seed=1 -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        >"$log" 2>&1; then
        executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        printf '%-12s %10s %8s %8s\n' "$name" "$executions" "$(find "$corpus" -type f | wc -l)" $(($(now) - started))
        [ "${executions:-0}" -gt 0 ] || failed+=" $name"
    else
        printf '%-12s %10s\n' "$name" FAILED
        tail -n 40 "$log"
        failed+=" $name"
    fi
done
[ -z "$failed" ] || fail "fuzzing found something in:$failed"
