//! Lazy maps.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use pool_core::TaskError;
use pool_tests::{Case, Gate};

use crate::{Backend, SOON, square, squares};

with_both![
    c1_11_imap_is_ordered_and_stays_at_its_end,
    c1_13_imap_unordered_does_not_wait_for_a_slow_item,
    c1_14_imap_reads_at_most_its_window_ahead_of_an_endless_input,
    c1_14_a_window_of_nothing_is_refused,
    c1_15_a_partly_consumed_imap_does_not_hinder_close_and_join,
    c1_48_results_before_a_failure_are_delivered,
    c1_49_a_time_limit_on_waiting_keeps_what_came_before,
    c1_58_an_items_error_does_not_end_an_imap,
];

/// Item 2 waits at the gate.
fn slow_at_2((gate, x): (String, u64)) -> u64 {
    if x == 2 {
        Gate::wait_at(&gate);
    }
    x
}

fn c1_49_a_time_limit_on_waiting_keeps_what_came_before(backend: Backend) {
    let case = Case::new();
    let gate = Gate::new();
    let pool = backend.pool(&case, 2);
    let late = |limit| Some(Err(TaskError::NotReady(limit)));
    let mut results = pool.imap(slow_at_2, (0..5).map(|x| (gate.path(), x)));
    assert_eq!(results.next_timeout(SOON), Some(Ok(0)));
    assert_eq!(results.next_timeout(SOON), Some(Ok(1)));
    for limit in [Duration::ZERO, Duration::from_millis(5)] {
        assert_eq!(results.next_timeout(limit), late(limit));
    }
    gate.let_pass(1);
    assert_eq!(results.next_timeout(SOON), Some(Ok(2)), "it goes on where it was");
    assert_eq!(results.next(), Some(Ok(3)));
    assert_eq!(results.next_timeout(SOON), Some(Ok(4)));
    assert_eq!(results.next_timeout(Duration::ZERO), None);

    let mut results = pool.imap_unordered(slow_at_2, (0..5).map(|x| (gate.path(), x)));
    let mut given: Vec<_> = (0..4).map(|_| results.next_timeout(SOON).unwrap().unwrap()).collect();
    given.sort_unstable();
    assert_eq!(given, [0, 1, 3, 4]);
    for limit in [Duration::ZERO, Duration::from_millis(5)] {
        assert_eq!(results.next_timeout(limit), late(limit));
    }
    gate.let_pass(1);
    assert_eq!(results.next_timeout(SOON), Some(Ok(2)));
    assert_eq!(results.next_timeout(Duration::ZERO), None);
    assert_eq!(results.next(), None);
}

fn c1_48_results_before_a_failure_are_delivered(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 2);
    let until_30 = |x: u64| -> anyhow::Result<u64> {
        anyhow::ensure!(x < 30, "{x} is too much");
        Ok(x)
    };
    for size in [1, 7] {
        let mut results = pool.task(until_30).chunk_size(size).imap(0..40);
        for x in 0..30 {
            assert_eq!(results.next(), Some(Ok(x)));
        }
        let error = TaskError::Failed("30 is too much".to_owned());
        assert_eq!(results.next(), Some(Err(error)));
    }
}

fn c1_14_a_window_of_nothing_is_refused(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 1);
    let refused = catch_unwind(AssertUnwindSafe(|| pool.task(square).window(0).imap(0..3).count()));
    let message = *refused.unwrap_err().downcast::<String>().unwrap();
    assert_eq!(message, "a window has at least 1 item");
}

fn c1_11_imap_is_ordered_and_stays_at_its_end(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 2);
    for size in [1, 7, 100] {
        let mut results = pool.task(square).chunk_size(size).imap(0..500);
        for x in 0..500 {
            assert_eq!(results.next(), Some(Ok(x * x)));
        }
        assert!((0..3).all(|_| results.next().is_none()));
        let mut results: Vec<_> =
            pool.task(square).chunk_size(size).imap_unordered(0..500).map(Result::unwrap).collect();
        results.sort_unstable();
        assert_eq!(results, squares(0..500));
    }
}

fn c1_13_imap_unordered_does_not_wait_for_a_slow_item(backend: Backend) {
    let case = Case::new();
    let gate = Gate::new();
    let pool = backend.pool(&case, 2);
    let task = |(gate, x): (String, u64)| {
        if x == 0 {
            Gate::wait_at(&gate);
        }
        x
    };
    // at first nothing is known of the function; then it is known to be quick, and its tasks are many
    for count in [10, 1_000] {
        let items = (0..count).map(|x| (gate.path(), (x + count / 2) % count));
        let mut results = pool.imap_unordered(task, items);
        let others = results.by_ref().take(count as usize - 1);
        let mut others: Vec<_> = others.map(Result::unwrap).collect();
        others.sort_unstable();
        assert_eq!(others, (1..count).collect::<Vec<_>>());
        gate.let_pass(1);
        assert_eq!(results.next(), Some(Ok(0)));
        assert_eq!(results.next(), None);
        let quick = pool.task(task).chunk_size(1).map((1..500).map(|x| (gate.path(), x)));
        assert_eq!(quick.unwrap().len(), 499);
    }
}

fn c1_14_imap_reads_at_most_its_window_ahead_of_an_endless_input(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 2);
    let read = std::cell::Cell::new(0);
    let input = || (0u64..).inspect(|_| read.set(read.get() + 1));
    let mut results = pool.task(square).window(5).imap(input());
    assert_eq!(read.get(), 0, "nothing is read before the first next()");
    for consumed in 0..100 {
        assert_eq!(results.next(), Some(Ok(consumed * consumed)));
        assert!(read.get() <= consumed + 1 + 5, "{} read, {consumed} consumed", read.get());
    }
    drop(results);
    read.set(0);
    let mut results = pool.task(square).window(5).imap_unordered(input());
    for consumed in 0..100 {
        assert!(results.next().unwrap().is_ok());
        assert!(read.get() <= consumed + 1 + 5, "{} read, {consumed} consumed", read.get());
    }
    drop(results);
    // row 16: the default is bounded, too
    read.set(0);
    let mut results = pool.imap(square, input());
    assert_eq!(results.next(), Some(Ok(0)));
    assert!(read.get() <= 1_000, "{} read for the first result", read.get());
}

fn c1_15_a_partly_consumed_imap_does_not_hinder_close_and_join(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 2);
    let mut kept = pool.imap(square, 0u64..);
    let mut kept_unordered = pool.imap_unordered(square, 0u64..);
    assert_eq!(kept.next(), Some(Ok(0)));
    assert!(kept_unordered.next().is_some());
    pool.close();
    pool.join_timeout(SOON).unwrap();
    // what was submitted is there, then one error, then the end
    let rest: Vec<_> = kept.by_ref().take(10_000).collect();
    assert!(rest.len() < 10_000);
    assert!(rest[..rest.len() - 1].iter().all(Result::is_ok));
    assert!(rest.last().unwrap().is_err());
    assert_eq!(kept.next(), None);
    assert!(kept_unordered.by_ref().take(10_000).count() < 10_000);
    assert!(kept_unordered.next().is_none());
}

fn c1_58_an_items_error_does_not_end_an_imap(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 2);
    let picky = |x: u64| -> anyhow::Result<u64> {
        anyhow::ensure!(!x.is_multiple_of(3), "no");
        Ok(x)
    };
    for size in [1, 4] {
        let outcomes: Vec<_> = pool.task(picky).chunk_size(size).imap(0..30).collect();
        assert_eq!(outcomes.len(), 30);
        for (x, outcome) in outcomes.iter().enumerate() {
            assert_eq!(outcome.is_ok(), x % 3 != 0, "{x}: {outcome:?}");
        }
    }
}
