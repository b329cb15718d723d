#!/usr/bin/env bash
# The terminal view, in a pseudo-terminal, and the service's side of it.
. "$(dirname "$0")/lib.sh"

cargo test --locked -p keylane-top "$@"
