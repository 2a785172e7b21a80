//! Arguments and results of every size, both ways, and what a transfer that stands still means for the others.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]

use std::time::Duration;

use nix::sys::signal::Signal;
use pool_core::{ExitCause, Pool, TaskError, WorkerState};
use pool_tests::fault::{self, Fault};
use pool_tests::{Case, census, eventually, reply_socket, seats};
use serde_bytes::ByteBuf;

pool_core::test_support!();

const SOON: Duration = Duration::from_secs(30);
const MIB: usize = 1 << 20;

/// Bytes of which no two neighbouring pieces of a transfer are the same.
fn pattern(size: usize) -> ByteBuf {
    let block: Vec<u8> = (0..=250).collect();
    let mut bytes = block.repeat(size / 251 + 1);
    bytes.truncate(size);
    ByteBuf::from(bytes)
}

fn length(bytes: ByteBuf) -> (usize, bool) {
    (bytes.len(), bytes == pattern(bytes.len()))
}

fn echo(bytes: ByteBuf) -> ByteBuf {
    bytes
}

/// A vector of numbers, which goes as it lies in memory.
fn echo_plain(bytes: Vec<u8>) -> Vec<u8> {
    bytes
}

#[track_caller]
fn check(pool: &Pool, size: usize) {
    let plain = pattern(size).into_vec();
    assert!(pool.apply(echo_plain, (plain.clone(),)) == Ok(plain), "{size} plain");
    assert_eq!(pool.apply(length, (pattern(size),)), Ok((size, true)), "{size} to the worker");
    assert!(pool.apply(pattern, (size,)) == Ok(pattern(size)), "{size} to the parent");
    assert!(pool.apply(echo, (pattern(size),)) == Ok(pattern(size)), "{size} both ways");
}

#[test]
fn every_size_around_the_limits_of_the_ways_it_may_take() {
    let case = Case::new();
    let pool = case.pool(1);
    // inline, ring, message, lane, read buffer, piece, all pieces, budget: each with its header and its length, give or take
    let limits = [0, 8, 32, 64, 96, 100, 128, 256, 512, 1024, 1024 + 128, 2048];
    for limit in limits.map(|limit| limit << 10) {
        for size in (limit as i64 - 34..=limit as i64 + 2).filter(|size| *size >= 0) {
            // all of them near the small limits, where frames have their edges
            if limit <= 8 << 10 || size % 8 == 0 || (size - limit as i64).abs() <= 1 {
                check(&pool, size as usize);
            }
        }
    }
    assert_eq!(pool.stats().workers_lost, 0);
}

#[test]
fn medium_sizes_mixed_and_in_flight_together() {
    let case = Case::new();
    let pool = case.pool(3);
    let sizes: Vec<usize> = (0..300).map(|i| (i * i * 7919) % (300 << 10)).collect();
    let handles: Vec<_> =
        sizes.iter().map(|size| pool.apply_async(echo, (pattern(*size),)).unwrap()).collect();
    for (size, handle) in sizes.iter().zip(handles) {
        assert!(handle.get() == Ok(pattern(*size)), "{size}");
    }
    let mapped = pool.map(echo, sizes.iter().map(|size| pattern(*size))).unwrap();
    assert!(mapped.into_iter().eq(sizes.iter().map(|size| pattern(*size))));
}

#[test]
fn c1_56_up_to_64_mib_both_ways() {
    let case = Case::new();
    let pool = case.pool(1);
    for size in [MIB - 1, 4 * MIB + 1, 16 * MIB, 64 * MIB] {
        check(&pool, size);
    }
}

/// POOL_TESTS_HUGE=1: takes some 10 GiB of memory.
#[test]
fn c1_56_more_than_2_gib_both_ways() {
    if std::env::var_os("POOL_TESTS_HUGE").is_none() {
        println!("SKIPPED: set POOL_TESTS_HUGE=1 to pass 2 GiB and more");
        return;
    }
    let case = Case::with_limit(Duration::from_secs(600));
    let pool = case.pool(1);
    for size in [2048 * MIB - 1, 2048 * MIB + 1, 2200 * MIB] {
        assert_eq!(pool.apply(length, (pattern(size),)), Ok((size, true)), "{size}");
        assert!(pool.apply(pattern, (size,)) == Ok(pattern(size)), "{size}");
    }
}

#[test]
fn a_vector_of_numbers_is_no_special_case() {
    let case = Case::new();
    let pool = case.pool(1);
    let numbers: Vec<u64> = (0..1_000_000).collect();
    let sum = |numbers: Vec<u64>| numbers.iter().sum::<u64>();
    assert_eq!(pool.apply(sum, (numbers.clone(),)), Ok(499_999_500_000));
    assert!(pool.apply(|n: u64| (0..n).collect::<Vec<_>>(), (1_000_000,)) == Ok(numbers));
    let text = "ä".repeat(MIB);
    assert!(pool.apply(|text: String| text, (text.clone(),)) == Ok(text));
}

#[test]
fn big_results_that_nobody_waits_for_are_no_obstacle() {
    for lane in [true, false] {
        let case = Case::new();
        let pool = case.builder(2).fast_lane(lane).build().unwrap();
        let plain = |size: usize| pattern(size).into_vec();
        let handles: Vec<_> = (1..=8)
            .map(|i| (i * 3 * MIB, pool.apply_async(plain, (i * 3 * MIB,)).unwrap()))
            .collect();
        eventually(SOON, "all are there", || handles.iter().all(|(_, handle)| handle.ready()));
        for (size, handle) in handles {
            assert!(handle.get() == Ok(plain(size)), "{size}, lane: {lane}");
        }
        assert_eq!(pool.stats().workers_lost, 0);
    }
}

#[test]
fn large_results_of_initializers_and_finalizers_harm_nobody() {
    for lane in [true, false] {
        let case = Case::new();
        let numbers = |count: usize| vec![1.0_f64; count];
        let built = case.builder(1).fast_lane(lane).initializer(numbers, (100_000,));
        let pool = built.finalizer(numbers, (100_000,)).build().unwrap();
        assert_eq!(pool.apply(u64::pow, (2, 10)), Ok(1024));
        pool.close();
        pool.join().unwrap();
        assert_eq!(pool.stats().workers_lost, 0, "lane: {lane}");
        let given = pool.finalized::<Vec<f64>>();
        assert!(given == [Ok(vec![1.0; 100_000])], "lane: {lane}");
    }
}

#[test]
fn row_50_big_arguments_and_big_results_at_the_same_time() {
    let case = Case::new();
    let pool = case.pool(2);
    // both directions of both workers are full: nobody may wait for the other for ever
    let handles: Vec<_> =
        (0..6).map(|_| pool.apply_async(echo, (pattern(24 * MIB),)).unwrap()).collect();
    let small: Vec<_> =
        (0..100).map(|size| pool.apply_async(echo, (pattern(size),)).unwrap()).collect();
    for handle in handles {
        assert!(handle.get() == Ok(pattern(24 * MIB)));
    }
    for (size, handle) in small.into_iter().enumerate() {
        assert_eq!(handle.get(), Ok(pattern(size)));
    }
}

#[test]
fn row_23_a_stopped_worker_in_mid_argument_does_not_delay_others() {
    let case = Case::new();
    let pool = case.pool(2);
    let stopped = seats(&pool, 2)[0];
    fault::send(stopped, Signal::SIGSTOP);
    eventually(SOON, "the worker stops", || census::is_stopped(stopped));
    let mut big: Vec<_> =
        (0..2).map(|_| pool.apply_async(length, (pattern(32 * MIB),)).unwrap()).collect();
    // one of them goes to the worker that runs
    let done = pool_core::wait_any(&big).unwrap();
    assert_eq!(big.swap_remove(done).get(), Ok((32 * MIB, true)));
    let at_work = |pool: &Pool| {
        pool.workers().iter().any(|w| w.pid() == stopped && w.state() == WorkerState::Busy)
    };
    if at_work(&pool) {
        for size in 0..500 {
            assert_eq!(pool.apply(length, (pattern(size),)), Ok((size, true)));
        }
    }
    fault::send(stopped, Signal::SIGCONT);
    assert_eq!(big.pop().unwrap().get(), Ok((32 * MIB, true)));
    assert_eq!(pool.stats().workers_lost, 0);
}

/// A result of 32 MiB whose sender stops itself in the middle; `None` if it was too quick for that.
fn stopped_in_mid_reply(pool: &Pool) -> Option<(u32, pool_core::AsyncResult<ByteBuf>)> {
    let stops = |size: usize| {
        reply_socket::when_sending(|| Fault::Raise(Signal::SIGSTOP as i32).happen());
        pattern(size)
    };
    for _ in 0..20 {
        let handle = pool.apply_async(stops, (32 * MIB,)).unwrap();
        let mut stopped = None;
        eventually(SOON, "the worker stops or answers", || {
            let pids = pool.workers();
            stopped = pids.iter().map(|w| w.pid()).find(|&pid| pid != 0 && census::is_stopped(pid));
            stopped.is_some() || handle.ready()
        });
        match stopped {
            // all that it had sent has been read by now or will be, and it is not all of it
            Some(pid) if !handle.wait_timeout(Duration::from_millis(50)) => {
                return Some((pid, handle));
            }
            Some(pid) => fault::send(pid, Signal::SIGCONT),
            None => {}
        }
        drop(handle.get());
    }
    None
}

#[test]
fn row_24_a_worker_stopped_in_mid_reply_does_not_delay_others() {
    let case = Case::new();
    let pool = case.builder(2).fast_lane(false).build().unwrap();
    let (pid, handle) = stopped_in_mid_reply(&pool).expect("one of 20 is stopped in time");
    for size in 0..500 {
        assert_eq!(pool.apply(length, (pattern(size),)), Ok((size, true)));
    }
    assert!(!handle.ready());
    fault::send(pid, Signal::SIGCONT);
    assert!(handle.get() == Ok(pattern(32 * MIB)), "nothing is lost by a pause");

    let (pid, handle) = stopped_in_mid_reply(&pool).expect("one of 20 is stopped in time");
    fault::send(pid, Signal::SIGKILL);
    let outcome = handle.get();
    assert!(
        matches!(
            outcome,
            Err(TaskError::WorkerLost { cause: ExitCause::Signaled { signal: 9, .. }, .. })
        ),
        "never partial data"
    );
    let (pid, handle) = stopped_in_mid_reply(&pool).expect("one of 20 is stopped in time");
    assert!(census::is_stopped(pid));
    pool.terminate();
    assert!(matches!(handle.get(), Err(TaskError::Terminated)));
}
