#!/usr/bin/env bash
# The code is formatted, in every workspace member and in the fuzz crate.
. "$(dirname "$0")/lib.sh"

need_component rustfmt cargo fmt --version
cargo fmt --all -- --check
if [ -f fuzz/Cargo.toml ]; then cargo fmt --manifest-path fuzz/Cargo.toml -- --check; fi
