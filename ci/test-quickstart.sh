#!/usr/bin/env bash
# The first command of the README holds what it promises: nothing lost, doubled or out of order, and as
# many events as the bundled file has, counted here by other means.
. "$(dirname "$0")/lib.sh"

data=examples/data/flights-2013-01.csv.gz
[ -e examples/quickstart.rs ] || [ -e examples/quickstart/main.rs ] || not_run "there is no example quickstart"

json=$(cargo run --locked --release --example quickstart -- --json)
echo "$json"
field() { grep -Eo "\"$1\" *: *-?[0-9.]+" <<<"$json" | head -n 1 | grep -Eo '[-0-9.]+$'; }
# expect NAME VALUE
expect() {
    local got
    got=$(field "$1") || fail "the JSON has no number $1"
    [ "$got" = "$2" ] || fail "$1 is $got, expected $2"
}

# Rows; events (a departure or a cancellation a row, an arrival where there is an air time); aircraft.
read -r rows events keys < <(gzip -dc "$data" | awk -F, '
    NR == 1 { for (i = 1; i <= NF; i++) { sub(/\r$/, "", $i); column[$i] = i } next }
    {
        rows++
        events++
        if ($column["air_time"] != "NA") events++
        tail = $column["tailnum"]
        if (tail != "NA" && tail != "" && !seen[tail]++) keys++
    }
    END { print rows, events, keys }')
[ "$events" -gt 0 ] || fail "$data holds no event"

expect bad_rows 0
expect rows "$rows"
expect events "$events"
expect handled "$events"
expect keys "$keys"
expect lost 0
expect duplicates 0
expect order_violations 0
for name in elapsed_s p50_us p99_us; do field $name >/dev/null || fail "the JSON has no number $name"; done

# A file that is not there, and one that is no table, are told and are a failure, not a panic.
for file in "$target/no-such-file.csv" Cargo.lock; do
    if out=$(cargo run --locked --quiet --release --example quickstart -- --json --file "$file" 2>&1); then
        fail "--file $file succeeded: $out"
    fi
    grep -q "panicked at" <<<"$out" && fail "--file $file panicked: $out"
    echo "$file: $(tail -n 1 <<<"$out")"
done

# A bus that is not built in is told with the way to have it.
code=0
out=$(cargo run --locked --quiet --release --example quickstart -- --bus nats://localhost 2>&1) || code=$?
[ $code = 2 ] || fail "--bus nats: without the feature ended with $code: $out"
grep -q -- "--features nats" <<<"$out" || fail "--bus nats: without the feature says: $out"
echo "$out"
