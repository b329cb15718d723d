#!/usr/bin/env bash
# keylane beside its peers, in short: the bench builds, its judge and its arms pass their tests, and
# `cargo bench --bench versus -- --quick --json` ends in time with lines that say what they must. No figure fails
# it but a record out of order or lost in an arm of ours; peers' ratios are for a quiet machine.
. "$(dirname "$0")/lib.sh"

need_component clippy cargo clippy --version
cargo clippy --locked -p keylane-versus --all-targets -- -D warnings
cargo test --locked --release -p keylane-versus
if have go; then
    (cd benches/versus/go && go vet ./... && [ -z "$(gofmt -l .)" ]) || fail "benches/versus/go is not as gofmt and vet want it"
fi

cargo build --locked --release -p keylane-versus
lines=$target/versus.jsonl
begun=$(now)
cargo bench --locked --bench versus -- --quick --json >"$lines"
seconds=$(($(now) - begun))
cargo run --locked --quiet --release -p keylane-versus -- --check "$lines"
echo "$(wc -l <"$lines") lines in $seconds s"
[ "$seconds" -le "${KL_VERSUS_SECONDS:-300}" ] || fail "the quick form took $seconds s"
