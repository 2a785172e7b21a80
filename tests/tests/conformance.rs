//! Rows of the conformance list that only processes have. What both kinds of workers have is in `both`.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]

use std::collections::{BTreeMap, HashSet};
use std::num::NonZero;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pool_core::{Pool, PoolError, TaskError};
use pool_tests::fault::Fault;
use pool_tests::{Case, Gate, Ledger, eventually, seats};

pool_core::test_support!();

fn square(x: u64) -> u64 {
    x * x
}

fn squares(range: std::ops::Range<u64>) -> Vec<u64> {
    range.map(square).collect()
}

fn wait_at(gate: String) -> u32 {
    Gate::wait_at(&gate);
    std::process::id()
}

#[test]
fn c2_103_task_names_and_numbers_are_in_errors() {
    let case = Case::new();
    let pool = case.pool(1);
    pool.apply(square, (1,)).unwrap();
    fn leaves(code: i32) {
        Fault::ExitAtOnce(code).happen();
    }
    match pool.apply(leaves, (5,)).unwrap_err() {
        TaskError::WorkerLost { task, worker, pid, .. } => {
            assert!(task.name.ends_with("leaves"), "{}", task.name);
            assert_eq!((task.id.get(), worker.get()), (2, 0));
            assert!(pid > 1);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn c1_17_a_directory_that_is_not_there_is_told() {
    let case = Case::new();
    let gone = case.builder(1).current_dir("/no/such/directory").build().unwrap_err();
    assert!(matches!(&gone, PoolError::StartFailed(_)), "{gone:?}");
    assert!(matches!(Pool::new(0), Err(PoolError::Config(_))));
}

static TABLE: OnceLock<Vec<u64>> = OnceLock::new();

fn load_table(ledger: String, size: u64) {
    Ledger::note(&ledger, u64::from(std::process::id()));
    TABLE.set(squares(0..size)).unwrap();
}

#[test]
fn c1_35_the_initializer_runs_once_per_worker_before_its_first_task() {
    let case = Case::new();
    let ledger = Ledger::new();
    let builder = case.builder(3).initializer(load_table, (ledger.path(), 100));
    let pool = builder.build().unwrap();
    let look_up = |i: usize| TABLE.get().map(|table| table[i]);
    let found = pool.task(look_up).chunk_size(1).map(0..100).unwrap();
    assert!(found.into_iter().eq(squares(0..100).into_iter().map(Some)));
    assert_eq!(ledger.notes().len(), 3);
    ledger.assert_at_most_once();
    // and in each replacement
    assert!(pool.apply(|| Fault::ExitAtOnce(1).happen(), ()).is_err());
    seats(&pool, 3);
    let found = pool.task(look_up).chunk_size(1).map(0..100).unwrap();
    assert!(found.into_iter().eq(squares(0..100).into_iter().map(Some)));
    assert_eq!(ledger.notes().len(), 4);
    ledger.assert_at_most_once();
}

#[test]
fn c1_66_state_of_a_worker_survives_across_tasks_and_not_its_death() {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let case = Case::new();
    let pool = case.pool(1);
    let count = || COUNT.fetch_add(1, Ordering::Relaxed) + 1;
    assert_eq!((0..3).map(|_| pool.apply(count, ()).unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(pool.apply(|| Fault::ExitAtOnce(1).happen(), ()).is_err());
    assert_eq!(pool.apply(count, ()), Ok(1));
}

#[test]
fn c1_28_recycling_replaces_every_process_and_loses_nothing() {
    let case = Case::new();
    let ten = NonZero::new(10).unwrap();
    let pool = case.builder(2).max_tasks_per_child(ten).build().unwrap();
    let first = seats(&pool, 2);
    let with_pid = |x: u64| (x * x, std::process::id());
    let results = pool.task(with_pid).chunk_size(1).map(0..100).unwrap();
    assert!(results.iter().map(|(square, _)| *square).eq(squares(0..100)));
    let mut by_pid: BTreeMap<u32, usize> = BTreeMap::new();
    results.iter().for_each(|(_, pid)| *by_pid.entry(*pid).or_default() += 1);
    assert!(by_pid.values().all(|&tasks| tasks <= 10), "{by_pid:?}");
    assert!(by_pid.len() >= 10);
    let last = seats(&pool, 2);
    assert!(last.iter().all(|pid| !first.contains(pid)), "{first:?} {last:?}");
    assert_eq!(pool.stats().workers_lost, 0, "leaving is not dying");
    // row 31: items count, not chunks
    let results = pool.task(with_pid).chunk_size(10).map(0..100).unwrap();
    let pids: HashSet<_> = results.iter().map(|(_, pid)| *pid).collect();
    assert!(pids.len() >= 9, "each chunk fills a worker's measure: {pids:?}");
}

#[test]
fn c4_162_env_env_remove_and_env_clear() {
    let case = Case::new();
    let variable = |name: String| std::env::var(name).ok();
    let ask = |pool: &Pool, name: &str| pool.apply(variable, (name.to_owned(),)).unwrap();
    assert!(std::env::var("PATH").is_ok());
    let builder = case.builder(1).env("POOL_TESTS_A", "1").env("POOL_TESTS_A", "2");
    let pool = builder.env_remove("PATH").build().unwrap();
    assert_eq!(ask(&pool, "POOL_TESTS_A"), Some("2".to_owned()));
    assert_eq!(ask(&pool, "PATH"), None);
    assert_eq!(ask(&pool, "CARGO_PKG_NAME"), std::env::var("CARGO_PKG_NAME").ok());
    let pool = case.builder(1).env("POOL_TESTS_A", "3").env_clear().build().unwrap();
    assert_eq!(ask(&pool, "POOL_TESTS_A"), Some("3".to_owned()));
    assert_eq!(ask(&pool, "HOME"), None);
    let names = pool.apply(|| std::env::vars().map(|(name, _)| name).collect::<Vec<_>>(), ());
    let own: Vec<_> = names.unwrap().into_iter().filter(|n| !n.starts_with("POOL_")).collect();
    assert!(own.is_empty(), "only the pool's own: {own:?}");
}

#[test]
fn c4_162_current_dir_is_the_workers_working_directory() {
    let case = Case::new();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().canonicalize().unwrap();
    let pool = case.builder(1).current_dir(&path).build().unwrap();
    assert_eq!(pool.apply(|| std::env::current_dir().unwrap(), ()), Ok(path));
    let pool = case.pool(1);
    let here = std::env::current_dir().unwrap();
    assert_eq!(pool.apply(|| std::env::current_dir().unwrap(), ()), Ok(here));
}

#[test]
fn c4_163_standard_input_is_empty_and_outputs_go_where_they_are_sent() {
    let case = Case::new();
    let link = |fd: u32| std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
    let read = || {
        let mut text = String::new();
        std::io::stdin().read_line(&mut text).map(|_| text).map_err(|error| error.to_string())
    };
    let pool = case.pool(1);
    assert_eq!(pool.apply(read, ()), Ok(Ok(String::new())));
    assert_eq!(pool.apply(link, (0,)), Ok("/dev/null".into()));
    for fd in [1, 2] {
        assert_eq!(pool.apply(link, (fd,)), Ok(link(fd)), "inherited");
    }
    let discard = pool_core::Output::Discard;
    let pool = case.builder(1).stdout(discard).stderr(discard).build().unwrap();
    assert_eq!(pool.apply(link, (1,)), Ok("/dev/null".into()));
    assert_eq!(pool.apply(link, (2,)), Ok("/dev/null".into()));
    // printing breaks nothing
    let pool = case.builder(1).stdout(discard).build().unwrap();
    let chatter = |lines: u32| (0..lines).for_each(|line| println!("{line} {line} {line}"));
    pool.apply(chatter, (10_000,)).unwrap();
    assert_eq!(pool.apply(square, (2,)), Ok(4));
}

#[test]
fn c1_44_workers_inherit_no_descriptors() {
    let case = Case::new();
    // open in this process and inheritable, as a careless library would leave it
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_owned();
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let holds = |path: std::path::PathBuf| {
        let fds = pool_tests::census::list("/proc/self/fd");
        fds.iter()
            .any(|fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).is_ok_and(|l| l == path))
    };
    assert!(holds(path.clone()), "this process has it");
    assert_eq!(case.pool(1).apply(holds, (path,)), Ok(false));
    let count = || pool_tests::census::list("/proc/self/fd").len();
    let alone = case.pool(1).apply(count, ()).unwrap();
    let pool = case.pool(10);
    let many = pool.task(|_: u8| pool_tests::census::list("/proc/self/fd").len()).chunk_size(1);
    let counts = many.map(0..100).unwrap();
    assert!(counts.iter().all(|count| *count == alone), "{alone} alone, of ten: {counts:?}");
    drop(file);
}

// ---- nesting ----

/// Builds a pool in a worker, which does the same, until it is refused: gives how deep it got and why it ended.
fn nest(depth: u32) -> (u32, String) {
    match pool_tests::plain_builder(1).build() {
        Ok(pool) => pool.apply(nest, (depth + 1,)).unwrap(),
        Err(error) => (depth, format!("{error:?}")),
    }
}

fn nest_or_fail(depth: u32) -> anyhow::Result<u32> {
    use anyhow::Context;
    let pool = pool_tests::plain_builder(1).build()?;
    pool.apply(nest_or_fail, (depth + 1,)).with_context(|| format!("level {depth}"))
}

#[test]
fn c1_61_pools_in_workers_up_to_a_limit() {
    let case = Case::new();
    let pool = case.pool(2);
    let inner = |n: u64| pool_tests::plain_pool(2).map(square, 0..n).unwrap();
    assert_eq!(pool.apply(inner, (20,)), Ok(squares(0..20)));
    let (depth, error) = pool.apply(nest, (1,)).unwrap();
    assert!(error.starts_with("NestedTooDeep"), "{error}");
    assert!((2..=16).contains(&depth), "{depth}");
    // who passes the error up says it once, with what each level has added
    let error = pool.apply(nest_or_fail, (1,)).unwrap_err().to_string();
    assert_eq!(error.matches("the task failed").count(), 1, "{error}");
    assert!(error.starts_with("the task failed: level 1: level 2: "), "{error}");
    assert!(error.contains("deep, the limit is"), "{error}");
    // a terminated worker takes its inner pool with it
    let gate = Gate::new();
    let keeps = |gate: String| {
        let inner = pool_tests::plain_pool(2);
        let _at_work = inner.apply_async(wait_at, (gate.clone(),)).unwrap();
        Gate::wait_at(&gate);
    };
    let handle = pool.apply_async(keeps, (gate.path(),)).unwrap();
    gate.await_arrivals(2);
    pool.terminate();
    assert_eq!(handle.get(), Err(TaskError::Terminated));
    eventually(Duration::from_secs(1), "inner workers end with theirs", || {
        case.processes().is_empty()
    });
}
