#!/usr/bin/env bash
# Every behaviour of tests/BEHAVIOURS.md has its test, or a reason why not.
. "$(dirname "$0")/lib.sh"

cargo test --locked --features "$(all_features)" --test behaviours
