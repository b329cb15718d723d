#!/usr/bin/env bash
# The library builds, without a warning, with no feature, with each alone and with all.
. "$(dirname "$0")/lib.sh"

check() {
    echo "== features: ${1:-none}"
    # Warnings become errors for our own code alone, so that dependencies are built once.
    cargo clippy --locked --lib --no-default-features --features "$1" -- -D warnings
}

need_component clippy cargo clippy --version
check ""
for feature in $(features); do check "$feature"; done
check "$(all_features)"
