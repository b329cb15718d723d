#!/usr/bin/env bash
# What an idle runtime costs: resident memory of its lanes, wake-ups and CPU of its workers.
. "$(dirname "$0")/lib.sh"

[ "$(uname -s)" = Linux ] || not_run "the footprint is read from /proc, which $(uname -s) lacks"
grep -rqs '"footprint"' benches/Cargo.toml || [ -f benches/src/bin/footprint.rs ] \
    || not_run "benches has no binary named footprint"
cargo run --locked --release -p keylane-benches --bin footprint -- "$@"
