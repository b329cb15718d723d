#!/usr/bin/env bash
# Unit, integration and documentation tests with every feature; then the library's with none.
. "$(dirname "$0")/lib.sh"

# What needs a server is a check of its own: ci/nats-test.sh.
export KL_NATS=off

cargo test --locked --no-fail-fast --features "$(all_features)" "$@"
cargo test --locked --lib "$@"
