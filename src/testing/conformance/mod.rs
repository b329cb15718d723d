//! The one suite that every bus passes: what a bus promises, as cases that try it.
//!
//! A bus implements [`Fixture`], and [`Conformance`] runs the cases against it, each on a runtime, a bus and
//! topics of its own. Order, loss and duplicates are judged by the [`Oracle`](super::Oracle), which knows
//! nothing of the bus.
//!
//! ```
//! use keylane::memory::MemoryBus;
//! use keylane::testing::conformance::{Conformance, Failed, Fixture, Opened, Shape};
//! use keylane::{Bus, Runtime};
//!
//! struct Memory;
//! struct Open(MemoryBus);
//!
//! impl Fixture for Memory {
//!     fn has_virtual_time(&self) -> bool {
//!         true
//!     }
//!     fn open(&self, runtime: &Runtime, shape: &Shape) -> Result<Box<dyn Opened>, Failed> {
//!         let bus = MemoryBus::builder(runtime).partitions(shape.partitions).build()?;
//!         Ok(Box::new(Open(bus)))
//!     }
//! }
//!
//! impl Opened for Open {
//!     fn bus(&self) -> Bus {
//!         self.0.bus()
//!     }
//! }
//!
//! let suite = Conformance::new(Memory);
//! suite.run_case("publishing_without_a_subscriber_succeeds").assert_passed();
//! ```

mod closing;
mod envelopes;
mod failing;
mod fixture;
mod grouping;
mod keys;
mod ordering;
mod parking;
mod publishing;
mod refusing;
mod restarting;
mod seeing;
mod several;
mod stage;
mod tools;
mod waiting;

use std::fmt;
use std::time::Duration;

pub use fixture::{Failed, Fixture, Loss, Opened, Progress, Restart, Shape};

use self::stage::{Case, Stager};
use crate::unwind::guard;

/// All cases, in the order in which they are run.
fn all() -> impl Iterator<Item = Case> {
    [
        publishing::CASES,
        refusing::CASES,
        ordering::CASES,
        waiting::CASES,
        failing::CASES,
        parking::CASES,
        envelopes::CASES,
        keys::CASES,
        grouping::CASES,
        several::CASES,
        seeing::CASES,
        restarting::CASES,
        closing::CASES,
    ]
    .into_iter()
    .flatten()
    .copied()
}

/// The suite, for one kind of bus.
#[derive(Debug)]
pub struct Conformance<F> {
    fixture: F,
    patience: Duration,
}

impl<F: Fixture> Conformance<F> {
    /// The suite for the buses that `fixture` opens.
    pub fn new(fixture: F) -> Self {
        Self { fixture, patience: Duration::from_secs(60) }
    }

    /// How long, in real time, a case waits for what is to happen before it fails. 60 s unless said otherwise.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Runs every case, one after the other.
    pub fn run(&self) -> Report {
        Report { results: all().map(|case| self.try_case(case)).collect() }
    }

    /// Runs one case; a name that no case has is a failure.
    pub fn run_case(&self, name: &str) -> CaseResult {
        match all().find(|case| case.name == name) {
            Some(case) => self.try_case(case),
            None => CaseResult {
                name: "",
                ended: Ended::Failed(format!("no case is called {name:?}; see `names`")),
            },
        }
    }

    fn try_case(&self, case: Case) -> CaseResult {
        let stager = Stager::new(&self.fixture, case.name, self.patience);
        let ended = match guard(|| (case.run)(&stager)) {
            Ok(Ok(())) => Ended::Passed,
            Ok(Err(Failed::Unsupported(why))) => Ended::NotRun(why),
            Ok(Err(Failed::Broken(why))) => Ended::Failed(why),
            Err(panicked) => Ended::Failed(panicked.to_string()),
        };
        CaseResult { name: case.name, ended }
    }
}

/// The names of all cases, for a test of its own for each.
pub fn names() -> impl Iterator<Item = &'static str> {
    all().map(|case| case.name)
}

/// How a case ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// The promise was kept.
    Passed,
    /// It was not, for this reason.
    Failed(String),
    /// The fixture cannot do what the case needs: this.
    NotRun(&'static str),
}

/// A case that was run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a result that nobody reads convicts nobody"]
pub struct CaseResult {
    /// Its name.
    pub name: &'static str,
    /// How it ended.
    pub ended: Ended,
}

impl CaseResult {
    /// Fails the test if the case failed. One that was not run has not.
    ///
    /// # Panics
    /// If it failed.
    #[track_caller]
    pub fn assert_passed(&self) {
        assert!(!self.has_failed(), "{self}");
    }

    /// Whether the promise was broken.
    pub fn has_failed(&self) -> bool {
        matches!(self.ended, Ended::Failed(_))
    }
}

impl fmt::Display for CaseResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.ended {
            Ended::Passed => write!(f, "{}: passed", self.name),
            Ended::Failed(why) => write!(f, "{}: FAILED: {why}", self.name),
            Ended::NotRun(why) => write!(f, "{}: not run: {why}", self.name),
        }
    }
}

/// Every case, run.
#[derive(Debug, Clone)]
#[must_use = "a report that nobody reads convicts nobody"]
pub struct Report {
    /// The cases, in order.
    pub results: Vec<CaseResult>,
}

impl Report {
    /// The cases that failed.
    pub fn failed(&self) -> impl Iterator<Item = &CaseResult> {
        self.results.iter().filter(|result| result.has_failed())
    }

    /// Fails the test if a case failed.
    ///
    /// # Panics
    /// With this report's `Display`, if one did.
    #[track_caller]
    pub fn assert_passed(&self) {
        assert!(self.failed().next().is_none(), "{self}");
    }
}

/// One case a line.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.results.iter().try_for_each(|result| writeln!(f, "{result}"))
    }
}
