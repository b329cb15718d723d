#!/usr/bin/env bash
# Thread sanitizer over the stress tests: every test whose name contains `stress`, in src and in tests.
#
#   ci/san.sh          all of them
#   ci/san.sh NAME     those whose name contains NAME
#
# std comes uninstrumented with the toolchain: what that makes the sanitizer say falsely is suppressed in
# ci/tsan.supp. It does not see standalone fences, so what needs one is left to the loom models.
. "$(dirname "$0")/lib.sh"

[ "$host" = x86_64-unknown-linux-gnu ] || [ "$host" = aarch64-unknown-linux-gnu ] \
    || not_run "no thread sanitizer for $host"
need_toolchain "$nightly"

selection=()
grep -rqsE 'fn [a-z0-9_]*stress' src && selection+=(--lib)
for path in tests/*.rs; do
    grep -qsE 'fn [a-z0-9_]*stress' "$path" && selection+=(--test "$(basename "$path" .rs)")
done
[ ${#selection[@]} -gt 0 ] || not_run "there is no stress test"

export CARGO_TARGET_DIR=$target/tsan
export RUSTFLAGS="-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer"
export TSAN_OPTIONS="suppressions=$root/ci/tsan.supp halt_on_error=1 second_deadlock_stack=1 ${TSAN_OPTIONS:-}"
rustup run "$nightly" cargo test --locked --target "$host" --features "$(all_features)" \
    "${selection[@]}" -- "${1:-stress}"
