#!/usr/bin/env bash
# The crates whose types or traits appear in public signatures are those listed in
# ci/public-deps.txt: a major version of any of them is a major version of ours.
. "$(dirname "$0")/lib.sh"

need_toolchain "$nightly"
CARGO_TARGET_DIR=$target/public-deps rustup run "$nightly" \
    cargo rustdoc --locked --lib --features "$(public_features)" \
    -- -Z unstable-options --output-format json
KL_RUSTDOC_JSON=$target/public-deps/doc/keylane.json \
    cargo test --locked --features "$(all_features)" --test public_deps -- --include-ignored --nocapture
