#!/usr/bin/env bash
# Seeded simulations of the whole runtime (src/testing/sim), and the deliberate bugs (src/sabotage.rs) that they must
# convict.
#
#   ci/sim.sh            20,000 seeds
#   ci/sim.sh SEEDS      as many
#   ci/sim.sh --seed N   one seed, with all that happens in it
#   KL_SIM_FIRST=N       from that seed on
#
# A failing seed is made as short as it gets, and what happens in it is printed. Fails as well if a seed has too
# little in it, if a fault meets a state too seldom, and if the seeds take more processor time than three minutes of
# two cores for 20,000: not by the clock, which others on the machine move.
. "$(dirname "$0")/lib.sh"

# run TEST CFG: runs one test of tests/sim.rs, built with these flags.
run() {
    CARGO_TARGET_DIR=$target/sim${2:+-sabotage} RUSTFLAGS="${2:-}" \
        cargo test --locked --profile sim --features testing,internals --test sim -- \
        --ignored --nocapture --exact "$1"
}

if [ "${1:-}" = --seed ]; then
    export KL_SIM_SEED=${2:?which seed}
    run one_seed
    exit
fi
export KL_SIM_SEEDS=${1:-20000}
run seeds
run every_deliberate_bug_is_convicted "--cfg keylane_sabotage"
