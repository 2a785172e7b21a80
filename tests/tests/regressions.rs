//! Mistakes that were made once.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]
#![allow(clippy::print_stdout, reason = "it is about what is printed")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pool_core::{Output, PoolError, TaskError, first_error, wait_any_timeout};
use pool_tests::fault::Fault;
use pool_tests::{Case, Gate, Ledger, Program, census, eventually};

pool_core::test_support!();

const SOON: Duration = Duration::from_secs(60);

fn wait_at(gate: String) {
    Gate::wait_at(&gate);
}

/// Waiting submitters are woken rarely while there is plenty to do. With a limit near the number of workers, "rarely" was too late: one worker
/// was idle, there was room for a task, and its submitter slept until one of seven long tasks ended.
#[test]
fn a_submitter_is_woken_when_a_worker_has_nothing_to_do() {
    let case = Case::new();
    let gate = Gate::new();
    let pool = case.builder(8).max_pending(8).build().unwrap();
    let long: Vec<_> = (0..7).map(|_| pool.apply_async(wait_at, (gate.path(),)).unwrap()).collect();
    gate.await_arrivals(7);
    for round in 0..20u64 {
        // blocks while the one before is unfinished, and no longer
        let quick = pool.apply_async(|x: u64| x, (round,)).unwrap();
        drop(quick);
    }
    gate.let_pass(7);
    for handle in long {
        assert_eq!(handle.get(), Ok(()));
    }
}

/// A time that can't be added to the clock is for ever, not a panic that leaves workers behind.
#[test]
fn the_longest_times_are_for_ever() {
    let case = Case::new();
    let pool = case
        .builder(1)
        .start_timeout(Duration::MAX)
        .task_timeout(Duration::MAX)
        .grace(Duration::MAX)
        .build()
        .unwrap();
    let mut handle = pool.apply_async(|x: u64| x, (7,)).unwrap();
    assert_eq!(handle.get_timeout(Duration::MAX), Ok(7));
    pool.terminate();
    assert_eq!(pool.join_timeout(Duration::MAX), Ok(()));
}

/// Each call left a waker in every task that was not ready, and each later call looked through all of them.
#[test]
fn waiting_for_any_leaves_nothing_behind() {
    let case = Case::new();
    let gate = Gate::new();
    let pool = case.pool(1);
    let handles = vec![pool.apply_async(wait_at, (gate.path(),)).unwrap()];
    gate.await_arrivals(1);
    let before = census::rss_kib(std::process::id());
    for _ in 0..100_000 {
        assert_eq!(wait_any_timeout(&handles, Duration::ZERO), None);
    }
    let grown = census::rss_kib(std::process::id()).saturating_sub(before);
    assert!(grown < 4 << 10, "100,000 calls took {grown} KiB");
    gate.let_pass(1);
    assert_eq!(wait_any_timeout(&handles, Duration::from_secs(60)), Some(0));
}

/// Cancelled tasks stayed in the queue until their turn came, which is never while all workers are busy.
#[test]
fn cancelled_tasks_take_no_memory() {
    let case = Case::new();
    let gate = Gate::new();
    let pool = case.pool(1);
    let long = pool.apply_async(wait_at, (gate.path(),)).unwrap();
    gate.await_arrivals(1);
    let mut before = 0;
    for round in 0..200_000 {
        let handle = pool.apply_async(|x: u64| x, (round,)).unwrap();
        assert!(handle.cancel());
        assert_eq!(handle.get(), Err(TaskError::Cancelled));
        if round == 10_000 {
            before = census::rss_kib(std::process::id());
        }
    }
    let grown = census::rss_kib(std::process::id()).saturating_sub(before);
    assert!(grown < 4 << 10, "190,000 cancelled tasks took {grown} KiB");
    gate.let_pass(1);
    assert_eq!(long.get(), Ok(()));
}

/// What an attempt had printed was told as what the next one has printed.
#[test]
fn what_an_attempt_has_printed_is_not_what_the_next_one_prints() {
    let case = Case::new();
    let ledger = Ledger::new();
    let pool = case.builder(1).stdout(Output::Captured).retries(1).build().unwrap();
    let task = |ledger: String| {
        Ledger::note(&ledger, 1);
        if std::fs::read_to_string(&ledger).unwrap().lines().count() == 1 {
            println!("of the first");
            Fault::Raise(9).happen();
        }
    };
    let handle = pool.apply_async(task, (ledger.path(),)).unwrap();
    handle.wait();
    let printed = handle.output().map(|output| output.stdout).unwrap_or_default();
    assert_eq!(String::from_utf8(printed).unwrap(), "");
    assert_eq!((handle.get(), ledger.count(1)), (Ok(()), 2));
}

/// The last reply was read, and the last worker gone, before the callback's thread had heard of its errand: `join` did not wait for it.
#[test]
fn join_waits_for_the_callback_of_the_last_task() {
    let case = Case::new();
    for _ in 0..100 {
        let pool = case.pool(1);
        let called = Arc::new(AtomicBool::new(false));
        let call = Arc::clone(&called);
        let callback = move |_: &u64| call.store(true, Ordering::SeqCst);
        drop(pool.task(|x: u64| x).on_success(callback).apply_async((1,)).unwrap());
        pool.close();
        pool.join().unwrap();
        assert!(called.load(Ordering::SeqCst));
    }
}

#[test]
fn the_waiting_of_few_tasks_is_observed_and_that_of_some_of_many() {
    let case = Case::new();
    let gate = Gate::new();
    let pool = case.pool(1);
    assert_eq!(pool.map(|x: u64| x, 0..8).unwrap().len(), 8);
    let few = pool.stats();
    assert_eq!(few.wait_time.count, few.run_time.count);
    let long = pool.apply_async(wait_at, (gate.path(),)).unwrap();
    gate.await_arrivals(1);
    let many: Vec<_> = (0..2000).map(|x| pool.apply_async(|x: u64| x, (x,)).unwrap()).collect();
    gate.let_pass(1);
    assert_eq!(long.get(), Ok(()));
    assert!(many.into_iter().enumerate().all(|(x, handle)| handle.get() == Ok(x as u64)));
    let stats = pool.stats();
    assert_eq!(stats.run_time.count - few.run_time.count, 2001);
    let waited = stats.wait_time.count - few.wait_time.count;
    assert!((8 + 1992 / 8 - 1..2001).contains(&waited), "{waited}");
}

#[test]
fn a_memory_limit_under_which_nothing_starts_is_named() {
    let case = Case::new();
    let refused = case.builder(1).memory_limit(5 << 20).build();
    let Err(PoolError::StartFailed(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains("memory_limit is 5242880 bytes"), "{why}");
}

/// A task with a short limit behind one with a long limit, at the same worker, was first looked at when the long limit was over.
#[test]
fn a_limit_counts_for_a_task_behind_another_one() {
    let case = Case::new();
    let pool = case.pool(1);
    let gate = Gate::new();
    let step = |ms: u64| {
        let (begin, limit) = (Instant::now(), Duration::from_millis(ms));
        while begin.elapsed() < limit {
            std::thread::park_timeout(limit.saturating_sub(begin.elapsed()));
        }
    };
    for round in 1..=10 {
        for _ in 0..50 {
            // known to be short, so that the next ones are given to the worker together, when it has answered the first
            pool.apply(step, (0,)).unwrap();
        }
        let first = pool.apply_async(wait_at, (gate.path(),)).unwrap();
        gate.await_arrivals(round);
        let long = pool.task(step).timeout(Duration::from_secs(1000));
        let before = long.apply_async((3,)).unwrap();
        // it is looked at while the one before it runs
        let short = pool.task(step).timeout(Duration::from_millis(1));
        let hangs = short.apply_async((1_000_000,)).unwrap();
        gate.let_pass(1);
        assert_eq!((first.get(), before.get()), (Ok(()), Ok(())));
        assert!(matches!(hangs.get(), Err(TaskError::TimedOut)));
    }
}

/// Each call left a waker in every chunk that was not ready.
#[test]
fn asking_a_map_that_may_fail_again_and_again_leaves_nothing_behind() {
    let case = Case::new();
    let gate = Gate::new();
    let pool = case.pool(1);
    let map = pool.task(wait_at).fail_fast().chunk_size(1);
    let mut map = map.map_async(vec![gate.path(), gate.path()]).unwrap();
    gate.await_arrivals(1);
    let before = census::rss_kib(std::process::id());
    for _ in 0..100_000 {
        assert!(matches!(map.get_timeout(Duration::ZERO), Err(TaskError::NotReady(_))));
    }
    let grown = census::rss_kib(std::process::id()).saturating_sub(before);
    assert!(grown < 4 << 10, "100,000 calls took {grown} KiB");
    gate.let_pass(2);
    assert_eq!(map.get().unwrap().len(), 2);
}

#[test]
fn a_result_that_was_taken_is_no_error() {
    let case = Case::new();
    let pool = case.pool(1);
    let mut handles: Vec<_> = (0..3).map(|x| pool.apply_async(|x: u64| x, (x,)).unwrap()).collect();
    assert_eq!(handles[1].get_timeout(SOON), Ok(1));
    assert_eq!(first_error(&handles), None);
}

/// Its decoding panics where it is not in a worker.
#[derive(Debug, PartialEq, serde::Serialize)]
struct Undecodable(u64);

impl<'de> serde::Deserialize<'de> for Undecodable {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u64::deserialize(deserializer)?;
        assert!(number != 5, "undecodable");
        Ok(Undecodable(number))
    }
}

/// The chunks of a map with callbacks wait for each other, and one whose decoding panicked never came.
#[test]
fn a_chunk_whose_decoding_panics_is_an_error_of_its_items() {
    let case = Case::new();
    let pool = case.pool(2);
    let (told, seen) = std::sync::mpsc::channel();
    let map = pool.task(Undecodable).chunk_size(1).on_error(move |error| {
        let _ = told.send(error.clone());
    });
    let map = map.map_async(0..10u64).unwrap();
    let each = map.get_each();
    let failed = |result: &Result<Undecodable, TaskError>| match result {
        Err(TaskError::Decode(text)) => text.contains("panicked"),
        _ => false,
    };
    for (number, result) in (0..).zip(&each) {
        assert!(if number == 5 { failed(result) } else { *result == Ok(Undecodable(number)) });
    }
    assert!(matches!(seen.recv_timeout(SOON), Ok(TaskError::Decode(_))));
}

/// A map took in its first results while it submitted the rest, and a panic of their decoding left the caller without a handle, and most of the input unsubmitted.
#[test]
fn a_result_whose_decoding_panics_does_not_end_the_submission() {
    let case = Case::new();
    let pool = case.pool(2);
    let map = pool.task(Undecodable).chunk_size(1).map_async(0..20_000u64).unwrap();
    map.wait();
    assert_eq!(pool.stats().submitted, 20_000);
    let got = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| map.get()));
    assert!(got.is_err(), "it is told where the result is asked for");
}

fn threads() -> BTreeSet<String> {
    census::entries("/proc/self/task")
        .iter()
        .filter_map(|id| std::fs::read_to_string(format!("/proc/self/task/{id}/comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect()
}

/// The thread that writes tagged output was not told that the pool did not come about.
#[test]
fn a_pool_that_can_not_be_built_leaves_no_thread_for_its_output() {
    let case = Case::new();
    let fails = || -> anyhow::Result<()> { anyhow::bail!("no") };
    let builder = || case.builder(1).name("unbuilt").stderr(Output::Tagged);
    assert!(matches!(builder().initializer(fails, ()).build(), Err(PoolError::InitFailed(_))));
    let left = || threads().into_iter().filter(|name| name.starts_with("unbuilt")).count();
    eventually(SOON, "its threads end", || left() == 0);
}

/// Something that goes on printing for ever held `join` up.
#[test]
fn output_without_end_is_not_waited_for() {
    let case = Case::new();
    let pool = case.builder(1).stdout(Output::Tagged).build().unwrap();
    let start = || {
        let mut yes = std::process::Command::new("setsid").arg("yes").spawn().unwrap();
        assert!(yes.try_wait().unwrap().is_none());
        yes.id()
    };
    let yes = pool.apply(start, ()).unwrap();
    let printed = || {
        let text = std::fs::read_to_string(format!("/proc/{yes}/io")).unwrap();
        text.lines().find_map(|line| line.strip_prefix("wchar: ")?.parse::<u64>().ok())
    };
    eventually(SOON, "it prints", || printed() > Some(1 << 18));
    pool.terminate();
    pool.join().unwrap();
    drop(pool);
    // nobody reads its pipe any more
    eventually(SOON, "it ends by that", || !census::is_alive(yes));
}

/// A program may end as soon as it has joined its process: the thread that writes what that has printed had not always done so.
#[test]
fn the_tagged_output_of_a_process_is_there_when_it_is_joined() {
    let case = Case::new();
    let expected: String = (0..500).map(|line| format!("[printer] line {line}\n")).collect();
    for _ in 0..20 {
        let program = Program::new(&case, env!("CARGO_BIN_EXE_printing"), &["tagged-process"]);
        let (status, stdout, _) = program.run();
        assert!(status.success());
        assert_eq!(stdout, expected);
    }
}
