#!/usr/bin/env bash
# What would be published is complete, small, and builds by itself.
. "$(dirname "$0")/lib.sh"

# A clean clone must package as it is; while you work, what you have is packaged.
dirty=--allow-dirty
[ "${CI:-}" = true ] && dirty=
list=$(cargo package --locked --list $dirty)
for file in Cargo.toml README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE src/lib.rs; do
    grep -qx "$file" <<<"$list" || fail "the package lacks $file"
done
cargo package --locked $dirty
crate=$target/package/keylane-$(package_field version).crate
bytes=$(wc -c <"$crate")
echo "$bytes bytes, $(wc -l <<<"$list") files"
[ "$bytes" -lt 10000000 ] || fail "a package of $bytes bytes is too large for the registry (10 MB)"
