//! What Linux says of this process.

use std::fs;

/// One thread of this process.
pub struct Thread {
    /// Its name, at most 15 bytes.
    pub name: String,
    /// Times that it went to sleep, and so was woken.
    pub sleeps: u64,
    /// Nanoseconds that it ran.
    pub ran: u64,
}

/// Resident anonymous memory, in bytes: heap, stacks and slabs, not the program's own pages. `None` where /proc
/// does not say.
pub fn anonymous() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    Some(field(&status, "RssAnon:")? * 1_024)
}

/// Resident memory of the mappings that are `bytes` large, and how many there are.
pub fn mappings_of(bytes: u64) -> Option<(usize, u64)> {
    let maps = fs::read_to_string("/proc/self/smaps").ok()?;
    let (mut count, mut resident, mut inside) = (0, 0, false);
    for line in maps.lines() {
        if let Some(size) = line.strip_prefix("Size:") {
            inside = number(size)? * 1_024 == bytes;
            count += usize::from(inside);
        } else if let Some(rss) = line.strip_prefix("Rss:").filter(|_| inside) {
            resident += number(rss)? * 1_024;
        }
    }
    Some((count, resident))
}

/// The threads whose names begin with `prefix`.
pub fn threads(prefix: &str) -> Option<Vec<Thread>> {
    let mut threads = Vec::new();
    for task in fs::read_dir("/proc/self/task").ok()? {
        let task = task.ok()?.path();
        let name = fs::read_to_string(task.join("comm")).ok()?.trim().to_string();
        if !name.starts_with(prefix) {
            continue;
        }
        let status = fs::read_to_string(task.join("status")).ok()?;
        let schedule = fs::read_to_string(task.join("schedstat")).ok()?;
        let sleeps = field(&status, "voluntary_ctxt_switches:")?;
        threads.push(Thread { name, sleeps, ran: number(&schedule)? });
    }
    threads.sort_by(|a, b| a.name.cmp(&b.name));
    Some(threads)
}

fn field(text: &str, name: &str) -> Option<u64> {
    number(text.lines().find_map(|line| line.strip_prefix(name))?)
}

fn number(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}
