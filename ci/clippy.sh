#!/usr/bin/env bash
# Clippy and rustc have nothing to say: as a user gets the crate, with everything on, and as loom sees it.
. "$(dirname "$0")/lib.sh"

need_component clippy cargo clippy --version
echo "== default features"
cargo clippy --locked --all-targets -- -D warnings
echo "== all features"
cargo clippy --locked -p keylane -p keylane-bench-support --all-targets --features "$(all_features)" -- -D warnings
echo "== loom"
models=()
for path in tests/loom_*.rs; do
    if [ -f "$path" ]; then models+=(--test "$(basename "$path" .rs)"); fi
done
RUSTFLAGS="--cfg keylane_loom" CARGO_TARGET_DIR=$target/loom \
    cargo clippy --locked --profile loom --features "loom,$(core_features)" --lib ${models[@]+"${models[@]}"} \
    -- -D warnings
