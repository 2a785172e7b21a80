//! The kernel's out-of-memory killer, and cgroups with a limit. Alone in its program and, by .config/nextest.toml, alone on the machine: where groups tell nothing, the kernel's count is
//! that of all processes together.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]
#![allow(
    clippy::print_stdout,
    reason = "says what is skipped; and what a task prints is what it tells"
)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use pool_core::{ExitCause, Pool, PoolError, StartMethod, TaskError};
use pool_tests::fault::Fault;
use pool_tests::{Case, census, eventually};

pool_core::test_support!();

const SOON: Duration = Duration::from_secs(60);

/// Uses up to 256 MiB.
fn hog() -> usize {
    (0..64).map(|_| vec![1_u8; 4 << 20]).collect::<Vec<_>>().len()
}

#[track_caller]
fn assert_out_of_memory(outcome: &Result<usize, TaskError>) {
    let is_it = matches!(outcome, Err(TaskError::WorkerLost { cause: ExitCause::OutOfMemory, .. }));
    assert!(is_it, "{outcome:?}");
}

#[track_caller]
fn assert_killed_by_somebody(pool: &Pool) {
    let outcome = pool.apply(|| Fault::Raise(9).happen(), ());
    let Err(TaskError::WorkerLost { cause: ExitCause::Signaled { signal: 9, .. }, .. }) = outcome
    else {
        panic!("{outcome:?}");
    };
}

/// Workers share the group of their program: the kernel takes one of them, because they are marked, and counts that there.
#[test]
fn an_out_of_memory_kill_is_told_as_such() {
    let Some(group) = MemoryGroup::create(48 << 20) else { return };
    let case = Case::new();
    let _inside = group.enter();
    let pool = case.pool(2);
    assert_out_of_memory(&pool.apply(hog, ()));
    assert_eq!(pool.apply(u64::pow, (2, 3)), Ok(8));
    // the next SIGKILL is no such kill
    assert_killed_by_somebody(&pool);
    // and another one is
    assert_out_of_memory(&pool.apply(hog, ()));
}

/// Once, the kernel's kills anywhere on the machine were taken for those of workers that somebody had killed at the same time.
#[test]
fn a_kill_in_another_group_explains_nothing() {
    let case = Case::new();
    let Some(limited) = limited(&case, 1, StartMethod::Spawn) else { return };
    let pool = case.pool(1);
    for _ in 0..3 {
        assert_out_of_memory(&limited.apply(hog, ()));
        assert_killed_by_somebody(&pool);
        // of a worker with a group of its own it is known in any case
        assert_killed_by_somebody(&limited);
    }
}

/// A pool whose workers may use 32 MiB each, if they can have groups here.
fn limited(case: &Case, workers: usize, method: StartMethod) -> Option<Pool> {
    match case.builder(workers).start_method(method).cgroup_memory_limit(32 << 20).build() {
        Err(PoolError::NoCgroup(why)) => {
            println!("SKIPPED: {why}");
            None
        }
        pool => Some(pool.unwrap()),
    }
}

/// The directory of the memory cgroup in which this process is.
fn own_group() -> PathBuf {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = |controller: &str| {
        groups.lines().find_map(|line| line.split_once(&format!(":{controller}:"))).map(|s| s.1)
    };
    match own("memory") {
        Some(path) => format!("/sys/fs/cgroup/memory{path}"),
        None => format!("/sys/fs/cgroup{}", own("").unwrap()),
    }
    .into()
}

/// A process that has left its worker's process group, and does not listen.
fn start_runaway() -> (u32, u32) {
    let deaf = "trap '' TERM HUP INT; while :; do sleep 1000; done";
    let child = std::process::Command::new("setsid").args(["sh", "-c", deaf]).spawn().unwrap();
    let pids = (child.id(), std::process::id());
    std::mem::forget(child);
    pids
}

#[test]
fn each_worker_has_a_group_that_ends_with_it() {
    for method in [StartMethod::Spawn, StartMethod::ForkServer] {
        let case = Case::new();
        let Some(pool) = limited(&case, 2, method) else { return };
        let mut groups: Vec<PathBuf> = pool.map(|_: u32| own_group(), 0..2).unwrap();
        assert!(
            groups.iter().all(|group| group.join("cgroup.procs").exists() && *group != own_group())
        );
        // its limit is that of itself and all that it starts together
        let command = || std::process::Command::new("tail").arg("/dev/zero").status().is_ok();
        let outcome = pool.apply(command, ());
        assert!(matches!(outcome, Ok(true) | Err(TaskError::WorkerLost { .. })), "{outcome:?}");
        assert_out_of_memory(&pool.apply(hog, ()));
        // what has left the process group ends with the worker
        let (runaway, worker) = pool.apply(start_runaway, ()).unwrap();
        assert!(census::is_alive(runaway));
        pool_tests::fault::send(worker, nix::sys::signal::Signal::SIGKILL);
        eventually(SOON, "the runaway ends", || !census::is_alive(runaway));
        // or with the pool
        let (runaway, _) = pool.apply(start_runaway, ()).unwrap();
        groups.push(pool.apply(own_group, ()).unwrap());
        pool.terminate();
        for group in groups {
            assert!(!group.exists(), "{method:?}: {} is left", group.display());
        }
        // who has left its group has its end behind it but for the last steps
        eventually(SOON, "the runaway ends", || !census::is_alive(runaway));
    }
}

#[test]
fn a_limit_that_can_not_be_kept_is_refused() {
    let case = Case::new();
    let directory = tempfile::tempdir().unwrap();
    let builder = || case.builder(1).cgroup_memory_limit(64 << 20);
    for parent in [directory.path(), Path::new("/nowhere/at/all")] {
        let refused = builder().cgroup_parent(parent).build();
        let Err(PoolError::NoCgroup(why)) = refused else { panic!("{refused:?}") };
        assert!(why.contains(parent.to_str().unwrap()), "{why}");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left there");
}

/// A program that is killed can't remove its groups: the next one does, with all that lives there.
#[test]
fn what_a_killed_program_has_left_is_removed_by_the_next() {
    let Some(parent) = MemoryGroup::create(256 << 20) else { return };
    let case = Case::new();
    let program = |parent: PathBuf| -> usize {
        let inner =
            pool_tests::plain_builder(1).cgroup_memory_limit(32 << 20).cgroup_parent(&parent);
        let inner = inner.build().unwrap();
        let (runaway, _) = inner.apply(start_runaway, ()).unwrap();
        println!("{runaway}");
        Fault::Raise(9).happen();
        unreachable!("killed")
    };
    let pool = case.builder(1).stdout(pool_core::Output::Captured).build().unwrap();
    let handle = pool.apply_async(program, (parent.0.clone(),)).unwrap();
    handle.wait();
    let printed = String::from_utf8(handle.output().unwrap().stdout).unwrap();
    let runaway: u32 = printed.trim().parse().unwrap();
    let groups = || parent.0.read_dir().unwrap().flatten().filter(|e| e.path().is_dir()).count();
    assert_eq!((census::is_alive(runaway), groups()), (true, 1));
    let next =
        case.builder(1).cgroup_memory_limit(32 << 20).cgroup_parent(&parent.0).build().unwrap();
    eventually(SOON, "the runaway ends", || !census::is_alive(runaway));
    next.terminate();
    assert_eq!(groups(), 0);
}

/// A memory cgroup below that of this process, removed at the end.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    fn create(limit: u64) -> Option<MemoryGroup> {
        let file = match own_group().starts_with("/sys/fs/cgroup/memory") {
            true => "memory.limit_in_bytes",
            false => "memory.max",
        };
        let group = own_group().join(format!("pool-tests-{}", std::process::id()));
        let made = std::fs::create_dir(&group);
        let group = MemoryGroup(group);
        match made.and_then(|()| std::fs::write(group.0.join(file), limit.to_string())) {
            Ok(()) => Some(group),
            Err(error) => {
                println!("SKIPPED: this user cannot make a memory cgroup here: {error}");
                None
            }
        }
    }

    /// Moves this process there, until the result is dropped.
    fn enter(&self) -> Inside {
        let back = own_group();
        std::fs::write(self.0.join("cgroup.procs"), "0").unwrap();
        Inside { back }
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

struct Inside {
    back: PathBuf,
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = std::fs::write(self.back.join("cgroup.procs"), "0");
    }
}
