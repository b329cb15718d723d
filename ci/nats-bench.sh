#!/usr/bin/env bash
# The bench of the NATS bus, in short: every arm runs once on a real server and judges what it handled by order and
# completeness, and what it records is rendered. No figure fails it, and none is kept.
. "$(dirname "$0")/lib.sh"

bash ci/nats.sh fetch >/dev/null || not_run "a nats-server cannot be had here"
cargo test --locked --release -p keylane-nats-bench
cargo build --locked --quiet --release -p keylane-nats-bench
lines=$target/nats-bench.jsonl
page=$target/nats-bench.md
rm -f "$lines"
begun=$(now)
"$target/release/keylane-nats-bench" --quick --into "$lines" >"$target/nats-bench.log"
for table in run round capacity 'latency round'; do
    grep -q "\"table\":\"$table\"" "$lines" || fail "the bench records nothing of $table"
done
for table in rate ratio latency added; do
    grep -q "\"table\":\"$table\"" "$target/nats-bench.log" || fail "the bench says nothing of $table"
done
"$target/release/keylane-nats-bench" --render --from "$lines" --page "$page"
for word in 'p1024 floor' 'raw none, whole' 'handlers of 10 ms' 'publish 1 ' 'runtime'; do
    grep -q "$word" "$page" || fail "the page says nothing of $word"
done
echo "$(wc -l <"$lines") lines in $(($(now) - begun)) s"
