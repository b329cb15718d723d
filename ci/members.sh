#!/usr/bin/env bash
# Clippy has nothing to say about the benches, the rivals and the terminal view.
. "$(dirname "$0")/lib.sh"

need_component clippy cargo clippy --version
cargo clippy --locked --workspace --all-targets --features "$(all_features)" -- -D warnings
