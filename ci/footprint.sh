#!/usr/bin/env bash
# What a runtime costs at rest: memory of its lanes, of subscriptions and topics, of keys that were seen and of keys that
# are pending; wake-ups and CPU of its threads.
. "$(dirname "$0")/lib.sh"

[ -r /proc/self/smaps ] || not_run_optional "the footprint is read from /proc, which $(uname -s) does not show here"
cargo build --locked --release -p keylane-bench-support --bin footprint
stamp
# Status 77 with `not run: …` if the system does not say; 1 if a limit is missed.
"$target/release/footprint"
