//! The machine as the process may use it: its cores and how they share caches, and the share of
//! them that a control group grants. Read once; deciding about it is `pinning`'s.

use std::num::NonZero;
use std::path::{Component, Path, PathBuf};

use crate::sync::{OnceLock, available_parallelism};

/// More cores than this are not looked at (Linux itself stops there).
const MAX_CORES: usize = 8_192;
/// Longer files are cut: those read here have a few lines, or one for each mount.
const MAX_FILE: u64 = 1 << 20;

/// What pinning and spinning are decided by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Machine {
    /// Logical cores in the process's mask, in ascending order of `id`. Empty if unknown.
    pub cores: Vec<Core>,
    /// Cores' worth of time that a control group grants; `None`: all of them.
    pub quota: Option<f64>,
    /// Threads that can run at once, by std's reckoning: at least 1.
    pub parallelism: usize,
    /// Whether a thread can be bound to a core on this platform.
    pub can_pin: bool,
}

/// A logical core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Core {
    /// The operating system's number.
    pub id: usize,
    /// The physical core: the smallest number among its hardware threads.
    pub physical: usize,
    /// The last-level cache: the smallest number among the cores that share it.
    pub cache: usize,
    /// Relative speed; 0 if unknown. Differs on machines with big and little cores.
    pub capacity: u64,
}

impl Machine {
    /// The machine, read at the first call.
    ///
    /// The mask is that of the calling thread, and a pinned thread (and its children) has a single
    /// core in it: the first call has to come before any thread is pinned. Later ones, from a
    /// handler on a pinned worker for one, see what the first saw.
    pub fn read() -> &'static Self {
        static MACHINE: OnceLock<Machine> = OnceLock::new();
        MACHINE.get_or_init(|| {
            let parallelism = available_parallelism().map_or(1, NonZero::get);
            if cfg!(target_os = "linux") {
                let mask = core_affinity::get_core_ids()
                    .map(|cores| cores.into_iter().map(|core| core.id).collect());
                Self::from_files(mask, parallelism, &read_file)
            } else {
                Self { parallelism, ..Self::default() }
            }
        })
    }

    /// A Linux machine, by the files under /proc and /sys that `read` finds. Without a `mask` (the
    /// call behind it knows 1,024 cores), it is read too.
    pub fn from_files(
        mask: Option<Vec<usize>>,
        parallelism: usize,
        read: &dyn Fn(&Path) -> Option<String>,
    ) -> Self {
        let mut ids = mask
            .or_else(|| parse_mask(&read(Path::new("/proc/thread-self/status"))?))
            .unwrap_or_default();
        ids.sort_unstable();
        ids.dedup();
        ids.truncate(MAX_CORES);
        let cores: Vec<Core> = ids.into_iter().map(|id| read_core(id, read)).collect();
        // std looks at the group's quota as well, rounded down: a hint where the files are out of sight.
        let fewer = (parallelism < cores.len()).then_some(parallelism as f64);
        let quota = read_quota(read).or(fewer);
        Self { cores, quota, parallelism: parallelism.max(1), can_pin: true }
    }
}

fn read_file(path: &Path) -> Option<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(MAX_FILE).read_to_string(&mut text).ok()?;
    Some(text)
}

fn read_core(id: usize, read: &dyn Fn(&Path) -> Option<String>) -> Core {
    let base = PathBuf::from(format!("/sys/devices/system/cpu/cpu{id}"));
    let first = |file: &str| parse_cores(&read(&base.join(file))?)?.into_iter().min();
    let number = |file: &str| read(&base.join(file))?.trim().parse().ok();
    // The last level is that of the highest index; what the kernel does not tell is taken as
    // unshared (siblings) and as shared by all (cache).
    let cache = (0..8)
        .rev()
        .find_map(|index| first(&format!("cache/index{index}/shared_cpu_list")))
        .unwrap_or(0);
    Core {
        id,
        physical: first("topology/thread_siblings_list").unwrap_or(id),
        cache,
        capacity: number("cpu_capacity")
            .or_else(|| number("cpufreq/cpuinfo_max_freq"))
            .unwrap_or(0),
    }
}

/// The smallest quota on the way from the process's groups up to their mounts' roots.
fn read_quota(read: &dyn Fn(&Path) -> Option<String>) -> Option<f64> {
    let groups = read(Path::new("/proc/self/cgroup"))?;
    let mounts = read(Path::new("/proc/self/mountinfo"))?;
    let mut least: Option<f64> = None;
    for (mount, version) in mounts.lines().filter_map(parse_mount) {
        let Some(group) = groups.lines().find_map(|line| parse_group(line, version)) else {
            continue;
        };
        for directory in mount.directory(group).ancestors() {
            let quota = match version {
                Version::One => read(&directory.join("cpu.cfs_quota_us"))
                    .zip(read(&directory.join("cpu.cfs_period_us")))
                    .and_then(|(quota, period)| parse_quota(&quota, &period)),
                Version::Two => read(&directory.join("cpu.max"))
                    .and_then(|text| text.split_once(' ').and_then(|(q, p)| parse_quota(q, p))),
            };
            least = quota.into_iter().chain(least).reduce(f64::min);
            if directory == Path::new(mount.point) {
                break;
            }
        }
    }
    least
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// Where a hierarchy of control groups is mounted, and which of its groups is seen there.
#[derive(Debug, PartialEq, Eq)]
struct Mount<'a> {
    root: &'a str,
    point: &'a str,
}

impl Mount<'_> {
    /// The directory of a group. A container may see a path that is not below what is mounted;
    /// its own group is then the mount itself.
    fn directory(&self, group: &str) -> PathBuf {
        let below = Path::new(group).strip_prefix(self.root).ok().filter(|below| {
            below.components().all(|component| matches!(component, Component::Normal(_)))
        });
        match below {
            Some(below) if below != Path::new("") => Path::new(self.point).join(below),
            _ => PathBuf::from(self.point),
        }
    }
}

/// A line of /proc/self/mountinfo, if it mounts groups that can hold a quota.
fn parse_mount(line: &str) -> Option<(Mount<'_>, Version)> {
    let (place, kind) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let mount = Mount { root: place.next()?, point: place.next()? };
    let mut kind = kind.split(' ');
    match kind.next()? {
        "cgroup2" => Some((mount, Version::Two)),
        "cgroup" => {
            let holds_quota = kind.nth(1)?.split(',').any(|option| option == "cpu");
            holds_quota.then_some((mount, Version::One))
        }
        _ => None,
    }
}

/// The group's path in a line of /proc/self/cgroup, if the line is of that version and about `cpu`.
fn parse_group(line: &str, version: Version) -> Option<&str> {
    let (number, rest) = line.split_once(':')?;
    let (controllers, path) = rest.split_once(':')?;
    let wanted = match version {
        Version::One => controllers.split(',').any(|controller| controller == "cpu"),
        Version::Two => number == "0" && controllers.is_empty(),
    };
    wanted.then_some(path)
}

/// Cores' worth of time: `max` and -1 are no limit.
fn parse_quota(quota: &str, period: &str) -> Option<f64> {
    let quota: u64 = quota.trim().parse().ok()?;
    let period: u64 = period.trim().parse().ok()?;
    (quota > 0 && period > 0).then_some(quota as f64 / period as f64)
}

/// The mask in /proc/thread-self/status.
fn parse_mask(status: &str) -> Option<Vec<usize>> {
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    parse_cores(list)
}

/// A list of cores as the kernel and people write it: `0,2,5-7`. In the order given; bounded.
pub(crate) fn parse_cores(text: &str) -> Option<Vec<usize>> {
    let mut cores = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (parse_core(first)?, parse_core(last)?);
        if first > last || cores.len() + (last - first) >= MAX_CORES {
            return None;
        }
        cores.extend(first..=last);
    }
    Some(cores)
}

fn parse_core(text: &str) -> Option<usize> {
    let digits = text.trim();
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|&core| is_number && core < MAX_CORES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn files(files: &[(&str, &str)]) -> impl Fn(&Path) -> Option<String> {
        let files: HashMap<PathBuf, String> =
            files.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect();
        move |path| files.get(path).cloned()
    }

    fn quota(list: &[(&str, &str)]) -> Option<f64> {
        Machine::from_files(Some(vec![0, 1]), 2, &files(list)).quota
    }

    #[test]
    fn core_lists_are_read_in_order_and_bounded() {
        assert_eq!(parse_cores("0-1\n"), Some(vec![0, 1]));
        assert_eq!(parse_cores("7, 0,2-4"), Some(vec![7, 0, 2, 3, 4]));
        for bad in ["", " ", ",", "1,", "3-1", "-1", "1-", "a", "+1", "0-4294967295", "8192"] {
            assert_eq!(parse_cores(bad), None, "{bad:?}");
        }
        let twice = "0-8191,0-8191";
        assert_eq!(parse_cores(twice), None, "more cores than any machine has");
        assert_eq!(parse_mask("Name:\tx\nCpus_allowed_list:\t2,4\nMems:\t0"), Some(vec![2, 4]));
        assert_eq!(parse_mask("Name:\tx\n"), None);
    }

    #[test]
    fn topology_is_read_from_the_kernel_s_files() {
        let read = files(&[
            ("/sys/devices/system/cpu/cpu2/topology/thread_siblings_list", "2,10\n"),
            ("/sys/devices/system/cpu/cpu2/cache/index2/shared_cpu_list", "2,10\n"),
            ("/sys/devices/system/cpu/cpu2/cache/index3/shared_cpu_list", "0-3,8-11\n"),
            ("/sys/devices/system/cpu/cpu2/cpu_capacity", "1024\n"),
            ("/sys/devices/system/cpu/cpu10/topology/thread_siblings_list", "2,10\n"),
            ("/sys/devices/system/cpu/cpu10/cpufreq/cpuinfo_max_freq", "3600000\n"),
        ]);
        let machine = Machine::from_files(Some(vec![10, 2, 10]), 2, &read);
        let expected = [
            Core { id: 2, physical: 2, cache: 0, capacity: 1024 },
            Core { id: 10, physical: 2, cache: 0, capacity: 3_600_000 },
        ];
        assert_eq!(machine.cores, expected);
        assert_eq!(machine.quota, None);

        let bare = Machine::from_files(Some(vec![5]), 1, &|_| None);
        assert_eq!(bare.cores, [Core { id: 5, physical: 5, cache: 0, capacity: 0 }]);
    }

    #[test]
    fn the_mask_falls_back_to_the_thread_s_status() {
        let read = files(&[("/proc/thread-self/status", "Cpus_allowed_list:\t0-2,1500\n")]);
        let machine = Machine::from_files(None, 4, &read);
        assert_eq!(machine.cores.iter().map(|core| core.id).collect::<Vec<_>>(), [0, 1, 2, 1500]);
        assert_eq!(Machine::from_files(None, 0, &|_| None).parallelism, 1);
    }

    const MOUNT_2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn version_two_takes_the_least_quota_up_to_the_mount() {
        let files = [
            ("/proc/self/cgroup", "0::/pods/one\n"),
            ("/proc/self/mountinfo", MOUNT_2),
            ("/sys/fs/cgroup/pods/one/cpu.max", "300000 100000\n"),
            ("/sys/fs/cgroup/pods/cpu.max", "150000 100000\n"),
            ("/sys/fs/cgroup/cpu.max", "max 100000\n"),
            ("/sys/fs/cpu.max", "1 100000\n"),
        ];
        assert_eq!(quota(&files), Some(1.5));
        assert_eq!(quota(&files[..3]), Some(3.0));
        assert_eq!(quota(&files[..2]), None);
    }

    #[test]
    fn version_one_reads_quota_and_period() {
        let mut files = [
            ("/proc/self/cgroup", "3:memory:/m\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/\n"),
            (
                "/proc/self/mountinfo",
                "33 32 0:30 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro,nosuid master:11 - cgroup cgroup rw,cpu,cpuacct\n",
            ),
            ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "50000\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
        ];
        assert_eq!(quota(&files), Some(0.5), "the container sees its own group as the mount");
        files[2].1 = "-1\n";
        assert_eq!(quota(&files), None);
        files[2].1 = "50000";
        files[3].1 = "0";
        assert_eq!(quota(&files), None);
    }

    #[test]
    fn a_group_outside_of_what_is_mounted_is_the_mount_itself() {
        for group in ["0::/../other\n", "0::/\n", "0::/elsewhere\n"] {
            let mount = MOUNT_2.replace(" / ", " /mine ");
            let files = [
                ("/proc/self/cgroup", group),
                ("/proc/self/mountinfo", mount.as_str()),
                ("/sys/fs/cgroup/cpu.max", "200000 100000"),
            ];
            assert_eq!(quota(&files), Some(2.0), "{group:?}");
        }
    }

    #[test]
    fn broken_files_mean_no_quota_and_std_s_count_is_the_hint() {
        let broken = [
            ("/proc/self/cgroup", "0:\n::\n\n0::/"),
            ("/proc/self/mountinfo", "1 2 3\n - \n1 2 3 4 - cgroup2\n1 2 3 / /g - cgroup x\n"),
            ("/g/cpu.max", "max"),
        ];
        assert_eq!(quota(&broken), None);
        assert_eq!(Machine::from_files(Some(vec![0, 1, 2]), 1, &|_| None).quota, Some(1.0));
    }

    #[test]
    fn this_machine_can_be_read() {
        let machine = Machine::read();
        assert!(machine.parallelism >= 1);
        if cfg!(target_os = "linux") {
            assert!(machine.can_pin && !machine.cores.is_empty());
        }
    }
}
