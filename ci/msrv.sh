#!/usr/bin/env bash
# The library builds with exactly the toolchain that Cargo.toml names as rust-version.
. "$(dirname "$0")/lib.sh"

version=$(package_field rust-version)
[ -n "$version" ] || fail "Cargo.toml names no rust-version"
need_toolchain "$version"

export CARGO_TARGET_DIR=$target/msrv
rustup run "$version" cargo --version
rustup run "$version" cargo check --locked --lib
rustup run "$version" cargo check --locked --lib --features "$(all_features)"
