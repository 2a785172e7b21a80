//! What /proc knows about processes: who is alive, who is whose child, what a process holds.

use std::collections::HashSet;
use std::fs;

/// The variable that marks the processes of one test.
pub const COOKIE: &str = "POOL_TESTS_COOKIE";

/// One process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its parent's id.
    pub parent: u32,
    /// Its name, cut to 15 characters.
    pub name: String,
    /// `R`, `S`, `D`, `T`, `Z`, ...
    pub state: char,
}

/// The numbers (processes, threads, descriptors) that a directory of /proc lists.
#[must_use]
pub fn list(directory: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// What /proc says about a process; `None` if there is none.
#[must_use]
pub fn process(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (start, rest) = stat.rsplit_once(") ")?;
    let name = start.split_once('(')?.1.to_owned();
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    Some(Process { pid, parent, name, state })
}

/// Whether the process exists and has not ended.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    pid != 0 && process(pid).is_some_and(|process| !matches!(process.state, 'Z' | 'X'))
}

/// Whether the process is stopped by a signal.
#[must_use]
pub fn is_stopped(pid: u32) -> bool {
    process(pid).is_some_and(|process| process.state == 'T')
}

fn all() -> Vec<Process> {
    list("/proc").into_iter().filter_map(process).collect()
}

/// The children of a process, zombies included.
#[must_use]
pub fn children(parent: u32) -> Vec<Process> {
    all().into_iter().filter(|process| process.parent == parent).collect()
}

/// The children of a process, theirs, and so on.
#[must_use]
pub fn descendants(ancestor: u32) -> Vec<Process> {
    let all = all();
    let mut family = HashSet::from([ancestor]);
    loop {
        let size = family.len();
        family.extend(
            all.iter().filter(|p| family.contains(&p.parent)).map(|p| p.pid).collect::<Vec<_>>(),
        );
        if family.len() == size {
            break;
        }
    }
    all.into_iter().filter(|p| p.pid != ancestor && family.contains(&p.pid)).collect()
}

/// The process, its parent, the parent of that, and so on.
#[must_use]
pub fn with_ancestors(pid: u32) -> Vec<u32> {
    std::iter::successors(Some(pid), |&pid| process(pid).map(|found| found.parent)).collect()
}

/// The number of this process in /proc, by which a test knows it also if it is in a PID namespace of its own.
///
/// # Panics
/// Without /proc.
#[must_use]
pub fn me() -> u32 {
    fs::read_link("/proc/self").unwrap().to_str().unwrap().parse().unwrap()
}

/// The live processes that have this cookie in their environment.
#[must_use]
pub fn with_cookie(cookie: &str) -> Vec<Process> {
    let line = format!("{COOKIE}={cookie}").into_bytes();
    let has = |process: &Process| {
        fs::read(format!("/proc/{}/environ", process.pid))
            .is_ok_and(|environ| environ.split(|&byte| byte == 0).any(|entry| entry == line))
    };
    all().into_iter().filter(has).filter(|process| process.state != 'Z').collect()
}

/// What a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holdings {
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads that are not ending.
    pub threads: usize,
    /// Children, zombies included.
    pub children: usize,
    /// Resident memory in KiB.
    pub rss_kib: u64,
}

/// What a process holds now.
#[must_use]
pub fn holdings(pid: u32) -> Holdings {
    Holdings {
        descriptors: list(&format!("/proc/{pid}/fd")).len(),
        threads: threads(pid),
        children: children(pid).len(),
        rss_kib: rss_kib(pid),
    }
}

/// The threads of a process. One that has been joined may be listed for a moment more, but the kernel has marked it.
fn threads(pid: u32) -> usize {
    /// Of the kernel's sched.h.
    const EXITING: u64 = 4;
    let runs = |thread: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/task/{thread}/stat")).ok()?;
        let flags = stat.rsplit_once(") ")?.1.split(' ').nth(6)?.parse::<u64>().ok()?;
        Some(flags & EXITING == 0)
    };
    list(&format!("/proc/{pid}/task")).iter().filter(|thread| runs(thread) == Some(true)).count()
}

/// Resident memory of a process in KiB.
#[must_use]
pub fn rss_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// The entries of a directory, sorted.
#[must_use]
pub fn entries(directory: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<_> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
