#!/usr/bin/env bash
# The documentation builds without a warning, and so does that of the private items.
. "$(dirname "$0")/lib.sh"

export RUSTDOCFLAGS="-D warnings"
cargo doc --locked --no-deps --features "$(public_features)"
CARGO_TARGET_DIR=$target/doc-private RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" \
    cargo doc --locked --no-deps --document-private-items --features "$(all_features)"
