#!/bin/sh
# Writes the golden vectors of the envelope anew and compares them with those that are kept.
# `ci/golden.sh --write` keeps the new ones.
set -eu
cd "$(dirname "$0")/../tests/golden"
if ! command -v go >/dev/null 2>&1; then
    echo "golden vectors: not run: no go"
    exit 0
fi
new=$(mktemp)
trap 'rm -f "$new"' EXIT
GOFLAGS=-mod=mod go run . >"$new"
if [ "${1:-}" = --write ]; then
    cp "$new" vectors.json
    echo "golden vectors: written"
elif cmp "$new" vectors.json; then
    echo "golden vectors: as kept"
else
    echo "golden vectors: they differ; if that is meant, run ci/golden.sh --write" >&2
    exit 1
fi
