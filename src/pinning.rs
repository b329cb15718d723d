//! Which worker runs on which core, and how long an idle worker spins: pure functions of a
//! [`Machine`], so that every kind of machine is a test.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::error::ConfigError;
use crate::machine::{Core, Machine, parse_cores};

/// Cores past this number cannot be named in the mask that pins a thread.
const MAX_PINNED: usize = 1_024;
/// More workers than this are not started, however large the machine.
const MAX_WORKERS: usize = 1_024;
/// About as long as waking a parked thread takes (25 to 50 µs on a virtual machine, a few on bare
/// metal): longer spinning cannot pay for itself.
const SPIN: Duration = Duration::from_micros(20);

/// Whether workers are bound to cores.
///
/// ```
/// use keylane::Pinning;
///
/// assert_eq!("0,2,4-5".parse(), Ok(Pinning::Cores(vec![0, 2, 4, 5])));
/// assert_eq!(Pinning::default(), Pinning::Auto);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Pinning {
    /// No: the operating system places them.
    Off,
    /// One worker a physical core, close to one another, where cores are left over for the rest of the
    /// process (one, or a quarter of them on a machine with more than 8) and no quota of a control
    /// group is below the number of workers. Otherwise as [`Pinning::Off`], with the reason reported.
    #[default]
    Auto,
    /// The first worker to the first core listed, and so on, by the operating system's numbers. Workers
    /// past the list's end are left unpinned, and reported; a core that cannot be had is a warning.
    Cores(Vec<usize>),
}

impl Pinning {
    pub(crate) const ALLOWED: &str =
        "`off`, `auto` or a list of up to 1024 different cores such as 0,2,4-5";

    /// Whether a list of cores is one that can be meant.
    pub(crate) fn is_sound(&self) -> bool {
        let Self::Cores(cores) = self else { return true };
        let mut sorted = cores.clone();
        sorted.sort_unstable();
        sorted.dedup();
        (1..=MAX_PINNED).contains(&cores.len())
            && sorted.len() == cores.len()
            && sorted.last().is_some_and(|&last| last < MAX_PINNED)
    }
}

impl fmt::Display for Pinning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Auto => f.write_str("auto"),
            Self::Cores(cores) => {
                for (index, core) in cores.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    write!(f, "{comma}{core}")?;
                }
                Ok(())
            }
        }
    }
}

impl FromStr for Pinning {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match text {
            "off" => Ok(Self::Off),
            "auto" => Ok(Self::Auto),
            list => parse_cores(list)
                .map(Self::Cores)
                .ok_or_else(|| ConfigError::invalid("pinning", text, Self::ALLOWED)),
        }
    }
}

/// What becomes of a [`Pinning`] on a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The core of each worker; `None`: not pinned.
    pub cores: Vec<Option<usize>>,
    /// Why workers that could have been pinned are not, in words for a log line and the snapshot.
    pub declined: Option<String>,
}

impl Plan {
    fn unpinned(workers: usize, declined: Option<String>) -> Self {
        Self { cores: vec![None; workers], declined }
    }
}

/// Workers to start: as many as configured, otherwise one for each thread that can run at once.
pub fn workers(configured: Option<usize>, machine: &Machine) -> usize {
    configured.unwrap_or(machine.parallelism).clamp(1, MAX_WORKERS)
}

/// Places `workers` workers.
pub fn plan(pinning: &Pinning, workers: usize, machine: &Machine) -> Plan {
    match pinning {
        Pinning::Off => Plan::unpinned(workers, None),
        _ if !machine.can_pin => {
            let reason = "threads cannot be pinned on this platform";
            Plan::unpinned(workers, Some(reason.to_owned()))
        }
        Pinning::Cores(cores) => {
            let declined = (cores.len() < workers).then(|| {
                let listed = cores.len();
                format!("{listed} cores are listed for {workers} workers: the rest is not pinned")
            });
            Plan { cores: (0..workers).map(|index| cores.get(index).copied()).collect(), declined }
        }
        Pinning::Auto => match decline(workers, machine) {
            Some(reason) => Plan::unpinned(workers, Some(reason)),
            None => {
                let cores = preferred(&machine.cores).into_iter().take(workers).map(Some).collect();
                Plan { cores, declined: None }
            }
        },
    }
}

/// Why `Auto` had better not pin, if so.
fn decline(workers: usize, machine: &Machine) -> Option<String> {
    let physical = physical_cores(&machine.cores).len();
    let reserve = reserve(physical);
    if let Some(quota) = machine.quota.filter(|&quota| quota < workers as f64) {
        return Some(format!("a quota of {quota} cores is less than {workers} workers need"));
    }
    (workers + reserve > physical).then(|| {
        format!(
            "{workers} workers and {reserve} left for the rest of the process are more than \
             {physical} physical cores"
        )
    })
}

/// Physical cores to leave to the rest of the process: I/O threads, the publisher, the system.
fn reserve(physical: usize) -> usize {
    if physical > 8 { physical.div_ceil(4) } else { 1 }
}

/// One logical core for each physical one: the first in the mask.
fn physical_cores(cores: &[Core]) -> Vec<Core> {
    let mut found: Vec<Core> = cores.to_vec();
    found.sort_by_key(|core| (core.physical, core.id));
    found.dedup_by_key(|core| core.physical);
    found
}

/// Physical cores in the order in which workers take them: cache by cache, the largest first, in
/// each the fastest cores first, save those held back there (the slowest, then the first, which
/// serves most interrupts) so that the I/O that feeds the workers shares their cache. The cores held
/// back come last; no plan reaches past the reserve into all of them.
fn preferred(cores: &[Core]) -> Vec<usize> {
    let physical = physical_cores(cores);
    let mut caches: Vec<usize> = physical.iter().map(|core| core.cache).collect();
    caches.sort_unstable();
    caches.dedup();
    let mut groups: Vec<Vec<Core>> = caches
        .iter()
        .map(|&cache| physical.iter().filter(|core| core.cache == cache).copied().collect())
        .collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.len()));

    let (mut taken, mut held) = (Vec::new(), Vec::new());
    for mut group in groups {
        group.sort_by_key(|core| (core.capacity, core.id));
        let mut rest = group.split_off(reserve(group.len()).min(group.len()));
        rest.sort_by_key(|core| (std::cmp::Reverse(core.capacity), core.id));
        taken.extend(rest);
        held.extend(group.into_iter().rev());
    }
    taken.into_iter().chain(held).map(|core| core.id).collect()
}

/// Binds the calling thread to a core. Children inherit it: threads that are not workers have to be
/// started from unpinned ones. `false`: it could not be done, and the thread runs on as it was.
pub fn pin_current(core: usize) -> bool {
    // The affinity crate indexes a mask of 1,024 bits.
    cfg!(target_os = "linux")
        && core < MAX_PINNED
        && core_affinity::set_for_current(core_affinity::CoreId { id: core })
}

/// How long an idle worker spins before it parks: as configured; otherwise 20 µs, and nothing where
/// a spinner takes the core of a thread it waits for (fewer cores than workers and one producer) or
/// burns the time that a quota grants.
pub fn spin_budget(configured: Option<Duration>, workers: usize, machine: &Machine) -> Duration {
    let short = machine.cores.len().min(machine.parallelism) <= workers;
    match configured {
        Some(budget) => budget,
        None if short || machine.quota.is_some() => Duration::ZERO,
        None => SPIN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `caches` groups of `each` physical cores with `threads` hardware threads; siblings are
    /// numbered as Linux does on x86: all first threads, then all second ones.
    fn machine(caches: usize, each: usize, threads: usize) -> Machine {
        let physical = caches * each;
        let cores: Vec<Core> = (0..physical * threads)
            .map(|id| {
                let core = id % physical;
                Core { id, physical: core, cache: core / each * each, capacity: 0 }
            })
            .collect();
        Machine { parallelism: cores.len(), cores, quota: None, can_pin: true }
    }

    fn pinned(plan: &Plan) -> Vec<usize> {
        plan.cores.iter().flatten().copied().collect()
    }

    #[test]
    fn auto_leaves_a_core_to_the_rest() {
        let plan_of = |workers| plan(&Pinning::Auto, workers, &machine(1, 4, 1));
        assert_eq!(plan_of(3), Plan { cores: vec![Some(1), Some(2), Some(3)], declined: None });
        let refused = plan_of(4);
        assert_eq!(refused.cores, [None; 4]);
        assert!(refused.declined.unwrap().contains("4 physical cores"));
    }

    #[test]
    fn auto_leaves_a_quarter_of_a_large_machine() {
        assert!(plan(&Pinning::Auto, 12, &machine(1, 16, 1)).declined.is_none());
        assert!(plan(&Pinning::Auto, 13, &machine(1, 16, 1)).declined.is_some());
        assert!(plan(&Pinning::Auto, 7, &machine(1, 8, 1)).declined.is_none());
        assert_eq!((reserve(8), reserve(9), reserve(17)), (1, 3, 5));
    }

    #[test]
    fn siblings_count_once() {
        let two = machine(1, 4, 2);
        assert!(plan(&Pinning::Auto, 4, &two).declined.is_some(), "8 threads are 4 cores");
        assert_eq!(pinned(&plan(&Pinning::Auto, 3, &two)), [1, 2, 3]);
    }

    #[test]
    fn caches_are_filled_one_after_the_other() {
        let plan_of = |workers| pinned(&plan(&Pinning::Auto, workers, &machine(2, 4, 1)));
        assert_eq!(plan_of(3), [1, 2, 3]);
        assert_eq!(plan_of(5), [1, 2, 3, 5, 6]);
        assert_eq!(plan_of(7), [1, 2, 3, 5, 6, 7, 0], "one core is enough below nine");

        let mut uneven = machine(2, 4, 1);
        uneven.cores.retain(|core| core.id > 1);
        let plan = plan(&Pinning::Auto, 3, &uneven);
        assert_eq!(pinned(&plan), [5, 6, 7], "the larger cache first");
    }

    #[test]
    fn fast_cores_first() {
        let mut hybrid = machine(1, 4, 1);
        hybrid.cores[2].capacity = 1_024;
        hybrid.cores[3].capacity = 1_024;
        assert_eq!(pinned(&plan(&Pinning::Auto, 3, &hybrid)), [2, 3, 1]);
    }

    #[test]
    fn a_short_quota_declines_and_says_so() {
        let mut limited = machine(1, 8, 1);
        limited.quota = Some(2.5);
        assert!(plan(&Pinning::Auto, 2, &limited).declined.is_none());
        let exact = Machine { quota: Some(3.0), ..limited.clone() };
        assert!(plan(&Pinning::Auto, 3, &exact).declined.is_none(), "just enough");
        let refused = plan(&Pinning::Auto, 3, &limited);
        assert_eq!(refused.cores, [None; 3]);
        assert!(refused.declined.unwrap().contains("quota of 2.5"));
    }

    #[test]
    fn listed_cores_are_taken_in_order_even_outside_of_the_mask() {
        let plan_of = |workers| plan(&Pinning::Cores(vec![9, 2]), workers, &machine(1, 4, 1));
        assert_eq!(plan_of(1), Plan { cores: vec![Some(9)], declined: None });
        assert_eq!(plan_of(3).cores, [Some(9), Some(2), None]);
        assert!(plan_of(3).declined.unwrap().contains("2 cores are listed for 3 workers"));
    }

    #[test]
    fn off_is_silent_and_other_platforms_say_why() {
        let elsewhere = Machine { parallelism: 8, ..Machine::default() };
        assert_eq!(plan(&Pinning::Off, 2, &elsewhere), Plan::unpinned(2, None));
        for pinning in [Pinning::Auto, Pinning::Cores(vec![0])] {
            let plan = plan(&pinning, 2, &elsewhere);
            assert_eq!(plan.cores, [None, None]);
            assert!(plan.declined.unwrap().contains("platform"));
        }
    }

    #[test]
    fn every_machine_keeps_its_reserve_and_no_core_is_taken_twice() {
        for caches in 1..=4 {
            for each in 1..=9 {
                for threads in 1..=2 {
                    let machine = machine(caches, each, threads);
                    for workers in 0..=caches * each + 1 {
                        let plan = plan(&Pinning::Auto, workers, &machine);
                        assert_eq!(plan.cores.len(), workers);
                        let mut cores = pinned(&plan);
                        assert!(cores.len() == workers || cores.is_empty());
                        assert_eq!(cores.is_empty() && workers > 0, plan.declined.is_some());
                        assert!(cores.iter().all(|&core| core < caches * each), "one a core");
                        cores.sort_unstable();
                        cores.dedup();
                        assert!(cores.is_empty() || cores.len() == workers);
                        assert!(
                            cores.is_empty() || workers + reserve(caches * each) <= caches * each
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn spinning_needs_a_spare_core_and_no_quota() {
        let four = machine(1, 4, 1);
        assert_eq!(spin_budget(None, 3, &four), SPIN);
        assert_eq!(spin_budget(None, 4, &four), Duration::ZERO);
        assert_eq!(spin_budget(Some(Duration::from_micros(5)), 4, &four).as_micros(), 5);
        assert_eq!(spin_budget(Some(Duration::ZERO), 1, &four), Duration::ZERO);
        let limited = Machine { quota: Some(4.0), ..four };
        assert_eq!(spin_budget(None, 1, &limited), Duration::ZERO);
        let unknown = Machine { parallelism: 8, ..Machine::default() };
        assert_eq!(spin_budget(None, 1, &unknown), Duration::ZERO);
    }

    #[test]
    fn workers_follow_the_machine_unless_told() {
        assert_eq!(workers(None, &machine(1, 4, 2)), 8);
        assert_eq!(workers(Some(3), &machine(1, 4, 2)), 3);
        assert_eq!(workers(None, &Machine::default()), 1);
    }

    #[test]
    fn a_core_that_is_not_there_is_false_not_a_panic() {
        for core in [usize::MAX, 1_024, 1_023] {
            // A thread of its own: if the machine had the core, the test's thread would keep the mask.
            let pinned = std::thread::spawn(move || pin_current(core)).join().unwrap();
            assert!(!pinned || Machine::read().cores.iter().any(|found| found.id == core));
        }
    }

    #[test]
    fn a_pinned_thread_has_one_core() {
        let machine = Machine::read();
        let Some(core) = machine.cores.last().filter(|_| machine.can_pin).map(|core| core.id)
        else {
            return;
        };
        let seen = std::thread::spawn(move || {
            let mask = pin_current(core).then(core_affinity::get_core_ids).flatten();
            (mask, Machine::read())
        });
        let (mask, later) = seen.join().unwrap();
        assert_eq!(mask, Some(vec![core_affinity::CoreId { id: core }]));
        assert_eq!(later.cores, machine.cores, "a pinned thread's mask is not the machine's");
    }

    #[test]
    fn text_goes_there_and_back() {
        for pinning in [Pinning::Off, Pinning::Auto, Pinning::Cores(vec![3, 0, 7])] {
            assert_eq!(pinning.to_string().parse(), Ok(pinning));
        }
        for bad in ["", "on", "Auto", "1;2", "-1", "0-99999999999"] {
            assert!(bad.parse::<Pinning>().is_err(), "{bad:?}");
        }
        assert!(!Pinning::Cores(vec![]).is_sound());
        assert!(!Pinning::Cores(vec![1, 1]).is_sound());
        assert!(!Pinning::Cores(vec![1_024]).is_sound());
        assert!(Pinning::Cores(vec![1_023, 0]).is_sound());
    }
}
