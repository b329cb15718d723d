#!/usr/bin/env bash
# The loom models that take more than a minute each. Measured to their ends, with two cores shared by others:
#
#   loom_lane  two_producers_wait_for_one_slot                   75 s of processor time (836 s by the clock)
#   loom_ring  three_producers_wrap_and_fill_a_ring_of_two_slots 502 s by the clock
exec "$(dirname "$0")/loom.sh" --ignored "$@"
