#!/usr/bin/env bash
# The NATS bus on real servers: every test of tests/nats_*.rs, and those of the recovery barrier on the oldest server.
#
#   ci/nats-test.sh [NAME…]   only tests whose name contains one of these
#   ci/nats-test.sh --full    also the long ones, on every server line and on a cluster of three
. "$(dirname "$0")/lib.sh"

# Once built, what a plain run may take.
limit=${KL_NATS_SECONDS:-900}
# They wait more than they work.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-6}
# It knows no reset of a consumer, so that the barrier has another way there.
oldest=debian
barrier=(barrier {each,floor,checkpoint}::{cut,deliveries_swallowed,server_killed,consumer_deleted,killed_with_a_full_window})

# What a cluster of three may do otherwise than one server: the rest looks at one server, or starts one for itself.
clustered=()
for name in conformance faults faults_of_others processes; do clustered+=(--test "nats_$name"); done

tests=()
for path in tests/nats_*.rs; do tests+=(--test "$(basename "$path" .rs)"); done
cargo test --locked --no-run --features "$(all_features)" "${tests[@]}"
# Here, and not by the tests: each would wait for cargo's lock, for as long as anybody builds.
cargo build --locked --features "$(all_features)" --example service --example quickstart
export KL_EXAMPLES=built

# run VERSION NODES SECONDS [ARGUMENT…]: the tests there, with these arguments for their harness. What fails is told at
# the end: of several servers each is tried.
failed=()
run() {
    local version=$1 nodes=$2 seconds=$3 server
    shift 3
    echo "== nats-server $version, nodes: $nodes${*:+, $*}"
    server=$(ci/nats.sh fetch "$version") || not_run "nats-server $version is not to be had"
    "$server" --version
    KL_NATS_VERSION=$version KL_NATS_NODES=$nodes timeout -k 10 "$seconds" \
        cargo test --locked --no-fail-fast --features "$(all_features)" "${tests[@]}" -- "$@" \
        || failed+=("nats-server $version, nodes: $nodes;")
}

if [ "${1:-}" = --full ]; then
    for version in 2.15.1 2.14 2.12 2.11 2.10 $oldest; do run "$version" 1 3600 --include-ignored; done
    tests=("${clustered[@]}")
    run 2.15.1 3 3600 --include-ignored
else
    begun=$(now)
    run 2.15.1 1 "$limit" "$@"
    left=$((limit - $(now) + begun))
    [ "$left" -gt 0 ] || fail "no time is left of $limit s ${failed[*]}"
    [ $# -gt 0 ] || run $oldest 1 "$left" "${barrier[@]}"
fi

[ ${#failed[@]} = 0 ] || fail "${failed[*]}"
