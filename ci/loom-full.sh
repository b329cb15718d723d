#!/usr/bin/env bash
# The loom models that take more than a minute each.
exec "$(dirname "$0")/loom.sh" --ignored "$@"
