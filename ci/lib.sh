# What every check shares. Sourced by ci/*.sh, never run.
#
# A check exits 0 when it passed, 1 when it failed, and says `not run: <why>` when it could not tell:
# with 77 if it should have been able to, with 78 if the missing tool may be missing (Go, valgrind).

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

# One target directory, with a subdirectory for each set of flags that would otherwise rebuild it.
target=${CARGO_TARGET_DIR:-$root/target}
case $target in /*) ;; *) target=$root/$target ;; esac
export CARGO_TARGET_DIR=$target
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}

# Tools that a check installs for itself.
tools=${KL_CACHE:-$HOME/.cache/keylane}/tools
nightly=${KL_NIGHTLY:-nightly}
host=$(rustc -vV | sed -n 's/^host: //p')

not_run() { echo "not run: $*"; exit 77; }
not_run_optional() { echo "not run: $*"; exit 78; }
fail() { echo "FAILED: $*" >&2; exit 1; }

have() { command -v "$1" >/dev/null 2>&1; }

# need_toolchain NAME [COMPONENT…]: installs what is missing of a toolchain, if rustup can.
need_toolchain() {
    local toolchain=$1 component
    shift
    have rustup || not_run "toolchain $toolchain needs rustup"
    if ! rustup run "$toolchain" rustc --version >/dev/null 2>&1; then
        rustup toolchain install "$toolchain" --profile minimal --no-self-update \
            || not_run "rustup cannot install toolchain $toolchain"
    fi
    for component in "$@"; do
        rustup component list --toolchain "$toolchain" --installed 2>/dev/null | grep -q "^$component" \
            || rustup component add "$component" --toolchain "$toolchain" \
            || not_run "rustup cannot add $component to $toolchain"
    done
}

# need_component NAME COMMAND: the same for a component of the default toolchain.
need_component() {
    "${@:2}" >/dev/null 2>&1 && return
    have rustup || not_run "$1 is missing and there is no rustup to add it"
    rustup component add "$1" || not_run "rustup cannot add $1"
}

# One value of Cargo.toml's [package] table.
package_field() { sed -n '/^\[package\]/,/^\[/s/^'"$1"' *= *"\(.*\)".*/\1/p' Cargo.toml; }

# The features of Cargo.toml, one a line. `loom` is a build of its own, see ci/loom.sh.
features() {
    sed -n '/^\[features\]/,/^\[/s/^\([a-z][a-z0-9_-]*\) *=.*/\1/p' Cargo.toml | grep -vx -e default -e loom
}

all_features() { features | paste -sd, -; }
# Without the brokers' buses: what a model checker or a sanitizer looks at.
core_features() { features | grep -vx nats | paste -sd, -; }
# Without the parts that semver does not cover.
public_features() { features | grep -vx internals | paste -sd, -; }

# stamp: what figures belong to.
stamp() {
    local commit
    commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
    [ -z "$(git status --porcelain -- src Cargo.lock benches/support 2>/dev/null)" ] || commit+=" and changes"
    echo "commit $commit, $(rustc -V), $host, $(date +%F)"
}

# now: seconds, for tables.
now() { date +%s; }
