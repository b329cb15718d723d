#!/usr/bin/env bash
# The loom models that take more than a minute each. Measured to their ends:
#
#   loom_lane  two_producers_wait_for_one_slot   75 s of processor time (836 s by the clock, on two busy cores)
exec "$(dirname "$0")/loom.sh" --ignored "$@"
