//! Mistakes that were made once.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]

use std::time::Duration;

use pool_core::{TaskError, wait_any_timeout};
use pool_tests::{Case, Gate, census};

pool_core::test_support!();

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
