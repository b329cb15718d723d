//! Deliberate bugs, which the simulator must convict: only under the private `--cfg keylane_sabotage`, where one
//! of them at a time can be put into force. Without it `sabotage!` is `false`, and nothing of this is compiled.

/// Whether this bug is in force.
macro_rules! sabotage {
    ($bug:ident) => {
        cfg!(keylane_sabotage) && $crate::sabotage::is_in_force($crate::sabotage::Bug::$bug)
    };
}
pub(crate) use sabotage;

/// Each bug: its name, what it does, the invariant that convicts it.
macro_rules! bugs {
    ($($name:ident: $what:literal, $invariant:ident;)+) => {
        /// A deliberate bug.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Bug {
            $(#[doc = $what] $name,)+
        }

        /// All bugs, with what they do and the invariant that convicts each.
        pub const BUGS: &[(Bug, &str, &str)] =
            &[$((Bug::$name, $what, stringify!($invariant)),)+];
    };
}

bugs! {
    LostWakeUp: "the waker of an async attempt wakes nobody", I11;
    RoomUnsaid: "who waits for room in a lane is not told of it", I11;
    TimerLost: "a lane's timer is not set", I11;
    FinishUnsaid: "a finish does not wake the consume loop that waits for it", I18;
    FullLaneLoses: "a source's record that finds its lane full is dropped", I1;
    FrontierOverGap: "the frontier passes what is not finished", I2;
    StaleEpochCounted: "the finish of an earlier assignment counts for the next", I2;
    ReleasedIsFinished: "a record that is released unfinished is marked finished", I2;
    RedeliverySkipped: "what lies below a finished run counts as finished", I2;
    FinishedAgain: "the finished runs of a stored position are not looked at", I6;
    DuplicateCounts: "a record that comes again while it is held counts as finished", I2;
    DuplicateTaken: "a record that comes again while it is held is taken again", I6;
    EpochNotFenced: "a record of an assignment that is over is started", I4;
    RetryPassed: "a failed record goes to the end of its lane", I3;
    SuccessorOutOfTurn: "of the records that wait for a key the last is next", I3;
    ParkedLetThrough: "a parked key's record is started", I3;
    SkipsAnother: "a skip hits the first busy key of the lane", I3;
    GateForgets: "the gate does not remember a busy key", I5;
    NextBeforeEnd: "a key that nobody waits for counts as free", I5;
    TwoOnALane: "a push takes a token out of a lane that has none", I5;
    HandledTwice: "a record that was handled is tried again", I7;
    ReceiptUnfilled: "a receipt gets no outcome", I7;
    LetterUnconfirmed: "a dead letter on its way counts as confirmed", I8;
    AnotherComesBack: "a refusal gives another record back", I10;
    PanicLoses: "a record whose handler panics is dropped", I12;
    GateUnbounded: "the gate takes more than its lane may hold", I13;
    CloseKeeps: "a record that is not handled does not come back", I15;
    DeadlineIgnored: "the close has no deadline", I15;
    StartsAfterStop: "records are started in a stopped runtime", I15;
    SwapWaitsNot: "a swap does not wait for attempts of the old handler", I19;
    RemovalWaitsNot: "a removal does not wait for what runs and is queued", I20;
    BusyKeyHoldsLane: "a busy key holds up its lane", I21;
    KeyMixedUp: "a source's record is handled under another key", I22;
}

/// Which bug is in force, from 1; 0 for none.
#[cfg(keylane_sabotage)]
static CHOSEN: crate::sync::atomic::AtomicUsize = crate::sync::atomic::AtomicUsize::new(0);

/// Puts a bug into force, or none.
#[cfg(keylane_sabotage)]
pub fn choose(bug: Option<Bug>) {
    let number = bug.map_or(0, |bug| bug as usize + 1);
    CHOSEN.store(number, crate::sync::atomic::Ordering::SeqCst);
}

#[cfg(keylane_sabotage)]
pub(crate) fn is_in_force(bug: Bug) -> bool {
    CHOSEN.load(crate::sync::atomic::Ordering::Relaxed) == bug as usize + 1
}

#[cfg(not(keylane_sabotage))]
pub(crate) const fn is_in_force(_bug: Bug) -> bool {
    false
}
