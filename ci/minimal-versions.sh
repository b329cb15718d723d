#!/usr/bin/env bash
# The lower bounds in Cargo.toml are true: the library builds with the oldest versions they admit.
. "$(dirname "$0")/lib.sh"

need_toolchain "$nightly"
copy=$target/minimal-versions/keylane
rm -rf "$copy"
mkdir -p "$copy"
cp -R Cargo.toml src "$copy"
# The resolver wants to see every target that the manifest names.
for folder in examples tests; do if [ -d "$folder" ]; then cp -R "$folder" "$copy"; fi; done
mkdir "$copy/benches"
cp benches/versus.rs "$copy/benches"
# Bounds of other workspace members and of what only tests use are not what a user gets.
sed -i.orig -e 's/^members *=.*/members = ["."]/' \
    -e '/^\[.*dev-dependencies/,/^\[/{/^\[.*dev-dependencies/d;/^\[/!d;}' "$copy/Cargo.toml"

cd "$copy"
export CARGO_TARGET_DIR=$target/minimal-versions/target
rustup run "$nightly" cargo update --quiet -Z direct-minimal-versions
cargo tree --locked --depth 1 --edges normal --features "$(all_features)"
cargo check --locked --lib
cargo check --locked --lib --features "$(all_features)"
