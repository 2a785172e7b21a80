//! The kernel's out-of-memory killer. Alone in its program and, by .config/nextest.toml, alone on the machine: the kernel counts these kills
//! for all processes together.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]

use pool_core::{ExitCause, TaskError};
use pool_tests::Case;
use pool_tests::fault::Fault;

pool_core::test_support!();

/// The kernel's out-of-memory killer strikes a worker that lives in a memory cgroup of its own.
#[test]
fn an_out_of_memory_kill_is_told_as_such() {
    let Some(group) = MemoryGroup::create(48 << 20) else {
        println!("SKIPPED: this user cannot make a memory cgroup here");
        return;
    };
    let case = Case::new();
    let pool = case.pool(2);
    let hog = |procs: String| {
        std::fs::write(procs, std::process::id().to_string()).unwrap();
        let mut hoard = Vec::new();
        for _ in 0..64 {
            hoard.push(vec![1u8; 4 << 20]);
        }
        hoard.len()
    };
    let outcome = pool.apply(hog, (group.processes(),));
    assert!(
        matches!(outcome, Err(TaskError::WorkerLost { cause: ExitCause::OutOfMemory, .. })),
        "{outcome:?}"
    );
    assert_eq!(pool.apply(u64::pow, (2, 3)), Ok(8));
    // the next SIGKILL is no such kill
    let outcome = pool.apply(|| Fault::Raise(9).happen(), ());
    assert!(
        matches!(
            outcome,
            Err(TaskError::WorkerLost { cause: ExitCause::Signaled { signal: 9, .. }, .. })
        ),
        "{outcome:?}"
    );
}

/// A memory cgroup below that of this process, removed at the end.
struct MemoryGroup(std::path::PathBuf);

impl MemoryGroup {
    fn create(limit: u64) -> Option<MemoryGroup> {
        let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = |controller: &str| {
            groups.lines().find_map(|line| line.split_once(&format!(":{controller}:"))).map(|s| s.1)
        };
        let (root, file) = match own("memory") {
            Some(path) => (format!("/sys/fs/cgroup/memory{path}"), "memory.limit_in_bytes"),
            None => (format!("/sys/fs/cgroup{}", own("")?), "memory.max"),
        };
        let group = std::path::Path::new(&root).join(format!("pool-tests-{}", std::process::id()));
        std::fs::create_dir(&group).ok()?;
        let group = MemoryGroup(group);
        std::fs::write(group.0.join(file), limit.to_string()).ok()?;
        Some(group)
    }

    fn processes(&self) -> String {
        self.0.join("cgroup.procs").to_str().unwrap().to_owned()
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}
