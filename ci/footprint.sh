#!/usr/bin/env bash
# What an idle runtime costs: resident memory of its lanes, wake-ups and CPU of its threads, memory a subscription.
. "$(dirname "$0")/lib.sh"

[ -r /proc/self/smaps ] || not_run_optional "the footprint is read from /proc, which $(uname -s) does not show here"
cargo build --locked --release -p keylane-bench-support --bin footprint
# Status 77 with `not run: …` if the system does not say; 1 if a limit is missed.
"$target/release/footprint"
