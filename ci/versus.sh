#!/usr/bin/env bash
# keylane beside its peers, in short: the bench builds, its judge and its arms pass their tests, and
# `cargo bench --bench versus -- --quick --json` ends in time with lines that say what they must. No figure fails
# it but a record out of order or lost in an arm of ours; peers' ratios are for a quiet machine.
#
# In time: within 60 s by the bench's own clock, its build not counted, unless others had more than a tenth of the
# processors meanwhile (their load, or stolen by other machines): then it is late through no fault of its own, which
# is said. Five times that is too late on any machine.
. "$(dirname "$0")/lib.sh"

need_component clippy cargo clippy --version
cargo clippy --locked -p keylane-versus --all-targets -- -D warnings
cargo test --locked --release -p keylane-versus
if have go; then
    (cd benches/versus/go && go vet ./... && [ -z "$(gofmt -l .)" ]) || fail "benches/versus/go is not as gofmt and vet want it"
fi

cargo build --locked --release -p keylane-versus
lines=$target/versus.jsonl
said=$target/versus.said
cargo bench --locked --bench versus -- --quick --json >"$lines" 2>"$said" || { cat "$said" >&2; fail "the quick form"; }
cat "$said"
cargo run --locked --quiet --release -p keylane-versus -- --check "$lines"
read -r seconds others <<<"$(sed -n 's/^quick: \([0-9]*\)[0-9.]* s, others had \([0-9?]*\) % of the processors$/\1 \2/p' "$said")"
[ -n "$seconds" ] || fail "the quick form does not say how long it took"
echo "$(wc -l <"$lines") lines in $seconds s"
within=${KL_VERSUS_SECONDS:-60}
if [ "$seconds" -ge "$within" ]; then
    [ "$others" != '?' ] && [ "$others" -gt 10 ] || fail "the quick form took $seconds s, at most $within"
    [ "$seconds" -lt $((within * 5)) ] || fail "the quick form took $seconds s on a busy machine"
    echo "late: $seconds s, not gated: others had $others % of the processors"
fi
