//! The ordering oracle: fed by a test's producer, handler and committer, it says whether each key was
//! handled in order, one record at a time, with nothing lost and nothing twice.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};

use bytes::Bytes;

use super::track::{Ended, Handling, Track};
use super::verdict::{Finding, Verdict, ViolationKind, Violations};
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::atomic::{AtomicBool, AtomicU32};
use crate::sync::{Arc, Mutex};

/// Keys are spread over this many locks, so that handlers seldom wait for one another here.
const SHARDS: usize = 16;

/// Judges a consumer by what it does: order, gaps, overlap, loss and duplicates, per key.
///
/// A test tells it what happens as it happens: the producer calls [`published`](Self::published), the
/// handler [`start`](Self::start) and [`Attempt::end`], the committer [`committed`](Self::committed),
/// whoever restarts the consumer [`restarted`](Self::restarted). At the end [`verdict`](Self::verdict)
/// names every rule that was broken. It knows nothing of the runtime and asks it nothing, and so can
/// judge any consumer.
///
/// A record is a key and a sequence number that its publisher gave it, ascending in each key, with holes
/// or without. It *finishes* when an attempt ends as [`Done`](Ended::Done),
/// [`DeadLettered`](Ended::DeadLettered) or [`Skipped`](Ended::Skipped). The rules of one key:
///
/// | rule | broken when |
/// |---|---|
/// | [`Order`](ViolationKind::Order) | a record is started after a later one: in the same life of the consumer, or at all if it is its first start |
/// | [`Gap`](ViolationKind::Gap) | a record is started for the first time while an earlier published one has not finished |
/// | [`Overlap`](ViolationKind::Overlap) | an attempt starts while another one runs |
/// | [`Loss`](ViolationKind::Loss) | a published record has not finished at the verdict |
/// | [`Duplicate`](ViolationKind::Duplicate) | a record is started again in the life of the consumer in which it finished, more often than [allowed](Self::allow_duplicates) |
/// | [`Regress`](ViolationKind::Regress) | a record is started again after it finished and was committed |
/// | [`EarlyCommit`](ViolationKind::EarlyCommit) | a record is committed that has not finished |
/// | [`Phantom`](ViolationKind::Phantom) | a record is started that nobody had published by the verdict, or that was given back |
///
/// So a failed record may be tried again in place, and after a restart records that were not committed
/// may be handled again, from any of them on. Clones are the same oracle; [`scope`](Self::scope) gives
/// each of several subscriptions a history of its own. Memory grows with the keys and their records.
///
/// ```
/// use keylane::testing::{Oracle, Ended, ViolationKind};
///
/// let oracle = Oracle::new();
/// for seq in 1..=3 {
///     oracle.published("order-42", seq);
/// }
/// let handle = |seq| oracle.start("order-42", seq).end(Ended::Done);
/// handle(1);
/// handle(3); // a gap: 2 has not finished
/// handle(2); // out of order
///
/// let verdict = oracle.verdict();
/// assert_eq!((verdict.handled, verdict.lost, verdict.order), (3, 0, 2));
/// assert_eq!(verdict.violations[0].kind, ViolationKind::Gap);
/// assert_eq!(
///     verdict.violations[0].to_string(),
///     "gap: key \"order-42\": record 3 was started before record 2 had finished"
/// );
/// ```
///
/// A replay from a point that was not committed is legal after a restart:
///
/// ```
/// use keylane::testing::{Oracle, Ended};
///
/// let oracle = Oracle::new();
/// (1..=3).for_each(|seq| oracle.published(b"k", seq));
/// let handle = |seq| oracle.start(b"k", seq).end(Ended::Done);
/// handle(1);
/// handle(2);
/// oracle.committed(b"k", 1);
/// oracle.restarted();
/// handle(2);
/// handle(3);
/// oracle.verdict().assert_clean();
/// assert_eq!(oracle.verdict().replayed, 1);
/// ```
#[derive(Clone)]
pub struct Oracle {
    shared: Arc<Shared>,
    scope: Arc<Scope>,
}

struct Shared {
    strict_replays: AtomicBool,
    scopes: Mutex<Vec<Arc<Scope>>>,
    hasher: RandomState,
    findings: Mutex<Findings>,
}

/// What is common to all keys and touched only when something is wrong, or asked.
#[derive(Default)]
struct Findings {
    violations: Violations,
    duplicates: u64,
    allowed_duplicates: u64,
}

struct Scope {
    name: String,
    /// How often its consumer restarted.
    life: AtomicU32,
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Default)]
struct Shard {
    tracks: HashMap<Bytes, Track>,
    tally: Tally,
}

#[derive(Clone, Copy, Default)]
struct Tally {
    attempts: u64,
    retries: u64,
    duplicates: u64,
    replayed: u64,
    dead_lettered: u64,
    skipped: u64,
}

impl Oracle {
    /// An oracle that allows no duplicate outside of restarts.
    pub fn new() -> Self {
        let scope = Arc::new(Scope::new(String::new()));
        let shared = Shared {
            strict_replays: AtomicBool::new(false),
            scopes: Mutex::new(vec![scope.clone()]),
            hasher: RandomState::new(),
            findings: Mutex::new(Findings::default()),
        };
        Self { shared: Arc::new(shared), scope }
    }

    /// Allows this many [`duplicates`](Verdict::duplicates) in all, for a consumer whose broker
    /// redelivers without a restart. They are counted all the same.
    #[must_use]
    pub fn allow_duplicates(self, count: u64) -> Self {
        self.shared.findings.lock().allowed_duplicates = count;
        self
    }

    /// Also demands that a replay leaves out nothing that was not [`committed`](Self::committed) or
    /// [`acked`](Self::acked), although it had finished: for handlers whose state goes back to the
    /// committed point with the consumer. A record left out is a [`Gap`](ViolationKind::Gap).
    #[must_use]
    pub fn strict_replays(self) -> Self {
        self.shared.strict_replays.store(true, Relaxed); // a setting; whoever shares the oracle orders it
        self
    }

    /// The same oracle for another consumer of the same keys: a subscription, a topic, or a partition
    /// that restarts by itself. Records, order and restarts are kept apart by scope; one name is one
    /// scope, and the empty name is [`new`](Self::new)'s.
    ///
    /// ```
    /// use keylane::testing::{Oracle, Ended};
    ///
    /// let oracle = Oracle::new();
    /// let (billing, mailing) = (oracle.scope("billing"), oracle.scope("mailing"));
    /// for consumer in [&billing, &mailing] {
    ///     consumer.published("order-42", 1);
    /// }
    /// billing.start("order-42", 1).end(Ended::Done);
    /// let verdict = oracle.verdict();
    /// assert_eq!((verdict.handled, verdict.lost), (1, 1));
    /// assert_eq!(verdict.violations[0].scope, "mailing");
    /// ```
    #[must_use]
    pub fn scope(&self, name: &str) -> Self {
        let mut scopes = self.shared.scopes.lock();
        let known = scopes.iter().find(|scope| scope.name == name).cloned();
        let scope = known.unwrap_or_else(|| {
            let scope = Arc::new(Scope::new(name.to_owned()));
            scopes.push(scope.clone());
            scope
        });
        Self { shared: self.shared.clone(), scope }
    }

    /// The record was published: it must finish, and after every earlier one of its key.
    ///
    /// May be told before the record is sent (then [`returned`](Self::returned) if it was refused) or
    /// once that succeeded, even if it was handled meanwhile. Telling it twice is telling it once.
    pub fn published(&self, key: impl AsRef<[u8]>, seq: u64) {
        self.on_key(key.as_ref(), |track, _, found| track.published(seq, found));
    }

    /// The record may have been published, nobody knows: it may be handled, in order, and need not be.
    pub fn perhaps_published(&self, key: impl AsRef<[u8]>, seq: u64) {
        self.on_key(key.as_ref(), |track, _, _| track.perhaps_published(seq));
    }

    /// The record was given back to its publisher: it is not lost, and must not be started again
    /// unless it is published again.
    pub fn returned(&self, key: impl AsRef<[u8]>, seq: u64) {
        self.on_key(key.as_ref(), |track, _, _| track.returned(seq));
    }

    /// An attempt at the record starts; the handler keeps what this returns and tells it how it ends.
    pub fn start(&self, key: impl AsRef<[u8]>, seq: u64) -> Attempt {
        let (key, id) = self.on_key(key.as_ref(), |track, tally, found| {
            (track.key().clone(), self.begin(track, tally, found, seq))
        });
        Attempt { oracle: self.clone(), key, id, outcome: Ended::Failed }
    }

    /// The record went to the dead letters outside of an attempt: after its last one failed, or with
    /// none because its key is parked. To be told before the key goes on.
    pub fn dead_lettered(&self, key: impl AsRef<[u8]>, seq: u64) {
        self.finish(key.as_ref(), seq, Ended::DeadLettered);
    }

    /// The record was given up on purpose outside of an attempt. To be told before the key goes on.
    pub fn skipped(&self, key: impl AsRef<[u8]>, seq: u64) {
        self.finish(key.as_ref(), seq, Ended::Skipped);
    }

    /// Every record of the key up to and including `seq` is known to be committed: none of them may be
    /// handled again.
    ///
    /// To be told once the broker has confirmed it; a commit whose answer was lost is not known.
    pub fn committed(&self, key: impl AsRef<[u8]>, seq: u64) {
        self.on_key(key.as_ref(), |track, _, found| track.committed(seq, found));
    }

    /// This one record is known to be committed, whatever is known of earlier ones: an acknowledgement
    /// a record, or a stored list of what is finished above the frontier.
    pub fn acked(&self, key: impl AsRef<[u8]>, seq: u64) {
        self.on_key(key.as_ref(), |track, _, found| track.acked(seq, found));
    }

    /// This scope's consumer restarted: attempts that run are written off, their end is ignored, and
    /// records not known to be committed may be handled again.
    ///
    /// To be told once the old consumer starts no handler any more and before the new one starts its
    /// first.
    pub fn restarted(&self) {
        // Read under a shard's lock only; the caller orders it before the new consumer's first start.
        self.scope.life.fetch_add(1, Relaxed);
    }

    /// What happened so far, in all scopes. Records that have not finished count as lost, so a test
    /// asks once its consumer has drained.
    pub fn verdict(&self) -> Verdict {
        let mut verdict = Verdict::default();
        let scopes = self.shared.scopes.lock().clone();
        // The final findings are added to a copy: a later verdict may find that nothing was lost.
        let mut concluded = Vec::new();
        for scope in &scopes {
            verdict.restarts += u64::from(scope.life.load(Relaxed));
            for shard in &scope.shards {
                scope.conclude(&mut shard.lock(), &mut verdict, &mut concluded);
            }
        }
        let mut violations = self.shared.findings.lock().violations.clone();
        for (scope, key, finding) in concluded {
            violations.add(scope, &key, finding);
        }
        violations.conclude(&mut verdict);
        verdict
    }

    fn finish(&self, key: &[u8], seq: u64, outcome: Ended) {
        self.on_key(key, |track, tally, found| {
            let id = self.begin(track, tally, found, seq);
            end(track, tally, id, outcome);
        });
    }

    /// Starts an attempt and returns its number.
    fn begin(
        &self,
        track: &mut Track,
        tally: &mut Tally,
        found: &mut Vec<Finding>,
        seq: u64,
    ) -> u64 {
        tally.attempts += 1;
        let id = tally.attempts;
        match track.start(seq, id, self.shared.strict_replays.load(Relaxed), found) {
            Handling::First => {}
            Handling::Retry => tally.retries += 1,
            Handling::Replay => tally.replayed += 1,
            Handling::Regress => tally.duplicates += 1,
            Handling::Duplicate => {
                tally.duplicates += 1;
                found.extend(self.duplicate_past_bound(seq));
            }
        }
        id
    }

    fn duplicate_past_bound(&self, seq: u64) -> Option<Finding> {
        let mut findings = self.shared.findings.lock();
        findings.duplicates += 1;
        let (count, allowed) = (findings.duplicates, findings.allowed_duplicates);
        (count > allowed).then(|| {
            let sentence = format!(
                "record {seq} was handled again although it had finished and nothing restarted \
                 (duplicate {count}, {allowed} allowed)"
            );
            Finding::new(ViolationKind::Duplicate, vec![seq], sentence)
        })
    }

    /// Runs `f` on the key's history, alone, and keeps what it found.
    fn on_key<R>(
        &self,
        key: &[u8],
        f: impl FnOnce(&mut Track, &mut Tally, &mut Vec<Finding>) -> R,
    ) -> R {
        let hash = self.shared.hasher.hash_one(key) as usize;
        let Shard { tracks, tally } = &mut *self.scope.shards[hash % SHARDS].lock();
        let track = match tracks.get_mut(key) {
            Some(track) => track,
            None => {
                let key = Bytes::copy_from_slice(key);
                tracks.entry(key.clone()).or_insert_with(|| Track::new(key))
            }
        };
        track.enter(self.scope.life.load(Relaxed));
        let mut found = Vec::new();
        let result = f(track, tally, &mut found);
        if !found.is_empty() {
            let violations = &mut self.shared.findings.lock().violations;
            for finding in found {
                violations.add(&self.scope.name, track.key(), finding);
            }
        }
        result
    }
}

impl Scope {
    fn new(name: String) -> Self {
        let shards = std::array::from_fn(|_| Mutex::new(Shard::default()));
        Self { name, life: AtomicU32::new(0), shards }
    }

    /// Adds a shard's numbers to `verdict`, and what only the end can tell to `concluded`.
    fn conclude<'a>(
        &'a self,
        shard: &mut Shard,
        verdict: &mut Verdict,
        concluded: &mut Vec<(&'a str, Bytes, Finding)>,
    ) {
        let tally = shard.tally;
        verdict.keys += shard.tracks.len() as u64;
        verdict.attempts += tally.attempts;
        verdict.retries += tally.retries;
        verdict.duplicates += tally.duplicates;
        verdict.replayed += tally.replayed;
        verdict.dead_lettered += tally.dead_lettered;
        verdict.skipped += tally.skipped;
        for track in shard.tracks.values_mut() {
            track.enter(self.life.load(Relaxed));
            let mut found = Vec::new();
            let totals = track.conclude(&mut found);
            verdict.published += totals.published;
            verdict.handled += totals.finished;
            verdict.lost += totals.lost;
            concluded.extend(found.into_iter().map(|f| (&*self.name, track.key().clone(), f)));
        }
    }
}

fn end(track: &mut Track, tally: &mut Tally, attempt: u64, outcome: Ended) {
    if track.end(attempt, outcome) {
        tally.dead_lettered += u64::from(outcome == Ended::DeadLettered);
        tally.skipped += u64::from(outcome == Ended::Skipped);
    }
}

impl Default for Oracle {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Oracle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Oracle").field("scope", &self.scope.name).finish_non_exhaustive()
    }
}

/// An attempt that runs, from [`Oracle::start`] to [`end`](Self::end).
///
/// Dropped without `end`, by a panic, an early return or a cancelled future, it ends as
/// [`Failed`](Ended::Failed):
///
/// ```
/// use keylane::testing::{Oracle, Ended};
///
/// let oracle = Oracle::new();
/// oracle.published("k", 1);
/// drop(oracle.start("k", 1));
/// assert_eq!(oracle.verdict().lost, 1);
/// oracle.start("k", 1).end(Ended::Done); // the retry
/// oracle.verdict().assert_clean();
/// assert_eq!(oracle.verdict().retries, 1);
/// ```
#[derive(Debug)]
#[must_use = "an attempt that is dropped at once has failed"]
pub struct Attempt {
    oracle: Oracle,
    key: Bytes,
    id: u64,
    outcome: Ended,
}

impl Attempt {
    /// The attempt has ended: to be told while the handler still holds the key, so before it returns.
    pub fn end(mut self, outcome: Ended) {
        self.outcome = outcome; // and drop tells it
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.oracle.on_key(&self.key, |track, tally, _| end(track, tally, self.id, self.outcome));
    }
}
