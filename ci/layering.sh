#!/usr/bin/env bash
# A file uses files of lower layers only, unsafe stays where it is allowed, no file outgrows its concept.
. "$(dirname "$0")/lib.sh"

cargo test --locked --features "$(all_features)" --test layering
