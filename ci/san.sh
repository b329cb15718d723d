#!/usr/bin/env bash
# Thread sanitizer over the ring, and over whole runtimes: their lives, orders and takeovers.
#
#   ci/san.sh          all of it
#   ci/san.sh NAME     tests whose name contains NAME
#
# std comes uninstrumented with the toolchain. What that makes the sanitizer say falsely is either avoided here or
# suppressed, row by row with the reason, in ci/tsan.supp. Any other report fails.
. "$(dirname "$0")/lib.sh"

[ "$host" = x86_64-unknown-linux-gnu ] || [ "$host" = aarch64-unknown-linux-gnu ] \
    || not_run "no thread sanitizer for $host"
need_toolchain "$nightly"

export CARGO_TARGET_DIR=$target/tsan
mkdir -p "$CARGO_TARGET_DIR"

# The drop of an `Arc`, which ends in a fence: see ci/tsan.rs.
arc=$CARGO_TARGET_DIR/arc.o
rustup run "$nightly" rustc --edition 2024 --crate-type lib --emit obj -O -o "$arc" ci/tsan.rs

export RUSTFLAGS="-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer"
RUSTFLAGS+=" -Clink-arg=$arc -Clink-arg=-Wl,--wrap=__tsan_atomic64_fetch_sub"
export TSAN_OPTIONS="suppressions=$root/ci/tsan.supp halt_on_error=1 second_deadlock_stack=1 ${TSAN_OPTIONS:-}"
# The tests' handlers panic on purpose. std prints that under a lock of its own, with the symbols' cache and into
# the harness's buffer, which the sanitizer takes for unprotected: no backtraces, and no buffer.
export RUST_BACKTRACE=0
rustup run "$nightly" cargo test --locked --target "$host" --features "$(core_features)" \
    --test stress_ring --test lifecycle_stress --test order --test takeover -- --nocapture "${1:-}"
