//! What the oracle found, in numbers and in sentences.

use std::fmt;

use bytes::Bytes;

/// How many violations of one kind are kept; the rest are only counted.
const KEPT_PER_KIND: u64 = 100;
/// How many violations [`Verdict`]'s `Display` lists.
const SHOWN: usize = 20;
/// How many bytes of a key `Display` shows.
const KEY_SHOWN: usize = 64;
/// How many sequence numbers one violation lists.
pub(super) const SEQS_LISTED: usize = 16;

/// Which rule was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ViolationKind {
    /// A record was handled after a later one of its key.
    Order,
    /// A record was started while an earlier one of its key had not finished.
    Gap,
    /// Two attempts of one key ran at the same time.
    Overlap,
    /// A published record has not finished.
    Loss,
    /// A finished record was handled again with no restart to explain it, more often than allowed.
    Duplicate,
    /// A record was handled again after it was committed.
    Regress,
    /// A record was committed before it had finished.
    EarlyCommit,
    /// A record was handled that was never published, or after it was given back.
    Phantom,
}

impl ViolationKind {
    const COUNT: usize = Self::Phantom as usize + 1;

    fn name(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Gap => "gap",
            Self::Overlap => "overlap",
            Self::Loss => "loss",
            Self::Duplicate => "duplicate",
            Self::Regress => "regress",
            Self::EarlyCommit => "early commit",
            Self::Phantom => "phantom",
        }
    }
}

impl fmt::Display for ViolationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One broken rule: where, which records, and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// The rule.
    pub kind: ViolationKind,
    /// The scope's name, empty for the oracle's own.
    pub scope: String,
    /// The key.
    pub key: Bytes,
    /// The records concerned, ascending; of more than 16 the first.
    pub seqs: Vec<u64>,
    /// What happened, as a sentence.
    pub sentence: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.kind)?;
        if !self.scope.is_empty() {
            write!(f, "{}, ", self.scope)?;
        }
        let shown = &self.key[..self.key.len().min(KEY_SHOWN)];
        let cut = if shown.len() < self.key.len() { "..." } else { "" };
        write!(f, "key \"{}{cut}\": {}", shown.escape_ascii(), self.sentence)
    }
}

/// A broken rule as the automaton of one key sees it, before it is told whose key that is.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) kind: ViolationKind,
    pub(super) seqs: Vec<u64>,
    pub(super) sentence: String,
}

impl Finding {
    /// `seqs` ascending.
    pub(super) fn new(kind: ViolationKind, mut seqs: Vec<u64>, sentence: String) -> Self {
        seqs.truncate(SEQS_LISTED);
        Self { kind, seqs, sentence }
    }
}

/// The violations so far: every one counted, the first of each kind kept.
#[derive(Clone, Debug, Default)]
pub(super) struct Violations {
    counts: [u64; ViolationKind::COUNT],
    kept: Vec<Violation>,
}

impl Violations {
    pub(super) fn add(&mut self, scope: &str, key: &Bytes, finding: Finding) {
        let Finding { kind, seqs, sentence } = finding;
        let count = &mut self.counts[kind as usize];
        *count += 1;
        if *count <= KEPT_PER_KIND {
            let (scope, key) = (scope.to_owned(), key.clone());
            self.kept.push(Violation { kind, scope, key, seqs, sentence });
        }
    }

    /// Fills in what `verdict` says of the violations.
    pub(super) fn conclude(self, verdict: &mut Verdict) {
        let count = |kind: ViolationKind| self.counts[kind as usize];
        verdict.overlaps = count(ViolationKind::Overlap);
        verdict.order =
            count(ViolationKind::Order) + count(ViolationKind::Gap) + count(ViolationKind::Regress);
        verdict.counts = self.counts;
        verdict.violations = self.kept;
    }
}

/// What an [`Oracle`](super::Oracle) says at one moment.
///
/// The counts also tell whether a test saw what it was meant to see: a crash test in which nothing was
/// replayed has shown nothing.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
#[must_use = "a verdict that nobody reads convicts nobody"]
pub struct Verdict {
    /// The broken rules, the first 100 of each kind; [`count`](Self::count) counts them all.
    pub violations: Vec<Violation>,
    /// Distinct (scope, key) pairs seen.
    pub keys: u64,
    /// Distinct records published.
    pub published: u64,
    /// Distinct records that finished: done, dead-lettered or skipped.
    pub handled: u64,
    /// Published records that have not finished.
    pub lost: u64,
    /// Attempts at a record that had finished, with no restart to explain them.
    pub duplicates: u64,
    /// Attempts started while another of their key ran.
    pub overlaps: u64,
    /// Violations of order: of the kinds `Order`, `Gap` and `Regress`.
    pub order: u64,
    /// Attempts started, dead letters and skips without one included.
    pub attempts: u64,
    /// Attempts at a record that had been started before and had not finished.
    pub retries: u64,
    /// Attempts at a record that had finished, explained by a restart.
    pub replayed: u64,
    /// Times a record was dead-lettered.
    pub dead_lettered: u64,
    /// Times a record was skipped.
    pub skipped: u64,
    /// Consumer restarts.
    pub restarts: u64,
    counts: [u64; ViolationKind::COUNT],
}

impl Verdict {
    /// Whether no rule was broken.
    pub fn is_clean(&self) -> bool {
        self.counts.iter().all(|&count| count == 0)
    }

    /// How many violations of one kind there were, those not kept included.
    pub fn count(&self, kind: ViolationKind) -> u64 {
        self.counts[kind as usize]
    }

    /// Fails the test if a rule was broken.
    ///
    /// # Panics
    /// With this verdict's `Display`, unless it [is clean](Self::is_clean).
    #[track_caller]
    pub fn assert_clean(&self) {
        assert!(self.is_clean(), "{self}");
    }
}

/// The counts on one line, then the first violations, one a line.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} published records of {} keys handled in {} attempts; lost {}, order {}, \
             overlaps {}, duplicates {}, replayed {}, restarts {}",
            self.handled,
            self.published,
            self.keys,
            self.attempts,
            self.lost,
            self.order,
            self.overlaps,
            self.duplicates,
            self.replayed,
            self.restarts,
        )?;
        for violation in self.violations.iter().take(SHOWN) {
            write!(f, "\n  {violation}")?;
        }
        let total: u64 = self.counts.iter().sum();
        let shown = self.violations.len().min(SHOWN) as u64;
        if total > shown {
            write!(f, "\n  and {} more violations", total - shown)?;
        }
        Ok(())
    }
}
