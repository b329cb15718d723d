#!/usr/bin/env bash
# Every bench runs once, as a test of itself: no figure comes out, a rotten bench does.
. "$(dirname "$0")/lib.sh"

cargo test --locked -p keylane-benches --benches "$@"
