//! Work without end runs in flat memory and ends when the pool does.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]

use std::sync::mpsc;

use pool_core::{SubmitError, TaskError};
use pool_tests::{Case, Program};

pool_core::test_support!();

const PARENT: &str = env!("CARGO_BIN_EXE_parent");

#[test]
fn one_thread_submits_another_takes_and_it_ends_with_closed() {
    let case = Case::new();
    let pool = case.builder(2).max_pending(500).build().unwrap();
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        let pool = &pool;
        let submitter = scope.spawn(move || {
            for number in 0..50_000_000_000u64 {
                match pool.apply_async(u64::wrapping_mul, (number, 7)) {
                    Ok(handle) => sender.send((number, handle)).unwrap(),
                    Err(error) => return (number, error),
                }
            }
            unreachable!("an endless input");
        });
        let (mut taken, mut terminated) = (0, 0);
        for (number, handle) in receiver {
            match handle.get() {
                Ok(result) => {
                    assert_eq!(result, number * 7);
                    taken += 1;
                }
                Err(TaskError::Terminated) => terminated += 1,
                Err(other) => panic!("{other:?}"),
            }
            if number == 100_000 {
                pool.terminate();
            }
        }
        let (submitted, error) = submitter.join().unwrap();
        assert_eq!(error, SubmitError::Closed);
        assert_eq!(taken + terminated, submitted, "each handle settles");
        assert!(taken > 100_000);
    });
    pool.join().unwrap();
}

#[test]
fn results_that_nobody_takes_do_not_pile_up_in_the_pool() {
    let case = Case::new();
    let pool = case.builder(2).max_pending(500).build().unwrap();
    for number in 0..50_000 {
        drop(pool.apply_async(u64::wrapping_mul, (number, 7)).unwrap());
    }
    pool.close();
    pool.join().unwrap();
    let stats = pool.stats();
    assert_eq!((stats.submitted, stats.finished), (50_000, 50_000));
}

/// A million: POOL_TESTS_TASKS=1000000.
#[test]
fn memory_stays_flat_over_many_tasks() {
    let case = Case::new();
    let count = std::env::var("POOL_TESTS_TASKS").unwrap_or_else(|_| "200000".to_owned());
    Program::new(&case, PARENT, &["many-tasks", &count]).assert_stays_flat(4_096);
}

#[test]
fn memory_stays_flat_over_an_endless_imap() {
    let case = Case::new();
    Program::new(&case, PARENT, &["endless-imap", "40000"]).assert_stays_flat(4_096);
}

#[test]
fn an_endless_imap_ends_when_the_pool_is_terminated() {
    let case = Case::new();
    let pool = case.pool(2);
    let mut taken = 0u64;
    let mut last = None;
    for outcome in pool.imap(|x: u64| x + 1, 0..) {
        if outcome.is_ok() {
            taken += 1;
        }
        last = Some(outcome);
        if taken == 10_000 {
            pool.terminate();
        }
    }
    assert!(taken >= 10_000);
    assert_eq!(last, Some(Err(TaskError::Closed)));
}
