#!/usr/bin/env bash
# The bench of the NATS bus, in short: every arm runs on a real server and judges what it handled by order and
# completeness. No figure fails it.
. "$(dirname "$0")/lib.sh"

bash ci/nats.sh fetch >/dev/null || not_run "a nats-server cannot be had here"
cargo test --locked --release -p keylane-nats-bench
lines=$target/nats-bench.jsonl
begun=$(now)
cargo run --locked --quiet --release -p keylane-nats-bench -- --quick >"$lines"
for table in run rate ratio latency added; do
    grep -q "\"table\":\"$table\"" "$lines" || fail "the bench says nothing of $table"
done
echo "$(wc -l <"$lines") lines in $(($(now) - begun)) s"
