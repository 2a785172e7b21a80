//! Cancelling, time limits, retries and size limits: each concerns exactly the task that it is meant for.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]

use std::time::{Duration, Instant};

use pool_core::{AsyncResult, ExitCause, Oversize, Pool, TaskError};
use pool_tests::fault::{Fault, hang};
use pool_tests::{Case, Gate, Ledger, census, eventually, seats};

pool_core::test_support!();

const SOON: Duration = Duration::from_secs(20);
const LIMIT: Duration = Duration::from_millis(200);

fn wait_at(gate: String) -> u32 {
    Gate::wait_at(&gate);
    census::me()
}

fn note(ledger: String, number: u64) -> u64 {
    Ledger::note(&ledger, number);
    number
}

fn notes(pool: &Pool, ledger: &Ledger, numbers: std::ops::Range<u64>) -> Vec<AsyncResult<u64>> {
    numbers.map(|number| pool.apply_async(note, (ledger.path(), number)).unwrap()).collect()
}

fn never_ends(ledger: String, number: u64) {
    Ledger::note(&ledger, number);
    hang();
}

#[test]
fn a_queued_task_that_is_cancelled_never_runs() {
    let case = Case::new();
    let (gate, ledger) = (Gate::new(), Ledger::new());
    let pool = case.pool(1);
    let first = pool.apply_async(wait_at, (gate.path(),)).unwrap();
    gate.await_arrivals(1);
    // some of these have been sent ahead to the worker, others have not
    let queued = notes(&pool, &ledger, 0..300);
    for handle in &queued {
        assert!(handle.cancel());
    }
    for handle in &queued {
        assert!(!handle.cancel(), "cancelled before");
    }
    gate.let_pass(1);
    first.get().unwrap();
    for handle in queued {
        assert_eq!(handle.get(), Err(TaskError::Cancelled));
    }
    let more = notes(&pool, &ledger, 1_000..1_001);
    assert!(more.into_iter().all(|handle| handle.get().is_ok()));
    pool.close();
    pool.join().unwrap();
    assert_eq!(ledger.notes().keys().copied().collect::<Vec<_>>(), [1_000]);
}

#[test]
fn cancelling_some_of_the_queued_tasks_leaves_the_others() {
    let case = Case::new();
    let (gate, ledger) = (Gate::new(), Ledger::new());
    let pool = case.pool(2);
    let first: Vec<_> =
        (0..2).map(|_| pool.apply_async(wait_at, (gate.path(),)).unwrap()).collect();
    gate.await_arrivals(2);
    let queued = notes(&pool, &ledger, 0..300);
    for handle in queued.iter().skip(1).step_by(2) {
        assert!(handle.cancel());
    }
    gate.let_pass(2);
    for (number, handle) in queued.into_iter().enumerate() {
        let expected = if number % 2 == 1 { Err(TaskError::Cancelled) } else { Ok(number as u64) };
        assert_eq!(handle.get(), expected);
    }
    assert!(ledger.notes().keys().all(|number| number % 2 == 0));
    ledger.assert_at_most_once();
    assert!(first.into_iter().all(|handle| handle.get().is_ok()));
    assert_eq!(pool.stats().workers_lost, 0, "cancelling what is queued costs no worker");
}

#[test]
fn cancelling_a_running_task_kills_only_its_worker() {
    let case = Case::new();
    let (gate, ledger) = (Gate::new(), Ledger::new());
    let pool = case.pool(2);
    let one = pool.apply_async(wait_at, (gate.path(),)).unwrap();
    let other = pool.apply_async(wait_at, (gate.path(),)).unwrap();
    gate.await_arrivals(2);
    let queued = notes(&pool, &ledger, 0..50);
    let pids = (one.pid().unwrap(), other.pid().unwrap());
    assert!(one.cancel());
    assert!(!one.cancel());
    assert!(one.ready(), "the handle does not wait for the worker's end");
    assert_eq!(one.get(), Err(TaskError::Cancelled));
    eventually(SOON, "the worker ends", || !census::is_alive(pids.0));
    for (number, handle) in queued.into_iter().enumerate() {
        assert_eq!(handle.get(), Ok(number as u64));
    }
    ledger.assert_at_most_once();
    gate.let_pass(1);
    assert_eq!(other.get(), Ok(pids.1));
    let after = seats(&pool, 2);
    assert!(after.contains(&pids.1) && !after.contains(&pids.0));
}

#[test]
fn cancelling_again_and_again_at_any_moment_settles_everything_once() {
    let case = Case::new();
    let ledger = Ledger::new();
    let pool = case.pool(2);
    let handles = notes(&pool, &ledger, 0..2_000);
    let cancelled: Vec<_> = handles.iter().map(AsyncResult::cancel).collect();
    for (number, (handle, cancelled)) in handles.into_iter().zip(cancelled).enumerate() {
        let expected = if cancelled { Err(TaskError::Cancelled) } else { Ok(number as u64) };
        assert_eq!(handle.get(), expected);
    }
    ledger.assert_at_most_once();
    seats(&pool, 2);
}

#[test]
fn cancelling_a_task_with_64_mib_on_their_way() {
    let case = Case::new();
    let pool = case.pool(1);
    let pid = seats(&pool, 1)[0];
    pool_tests::fault::send(pid, nix::sys::signal::Signal::SIGSTOP);
    eventually(SOON, "the worker stops", || census::is_stopped(pid));
    let length = |bytes: Vec<u64>| bytes.len();
    let big = pool.apply_async(length, (vec![1; 8 << 20],)).unwrap();
    let next = pool.apply_async(length, (vec![1; 1 << 20],)).unwrap();
    assert!(big.cancel());
    assert_eq!(big.get(), Err(TaskError::Cancelled));
    pool_tests::fault::send(pid, nix::sys::signal::Signal::SIGCONT);
    assert_eq!(next.get(), Ok(1 << 20));
    assert_eq!(pool.apply(length, (vec![1; 3],)), Ok(3));
}

#[test]
fn cancelling_a_map_ends_what_has_not_finished() {
    let case = Case::new();
    let gate = Gate::new();
    let pool = case.pool(2);
    let mapped = pool.task(wait_at).chunk_size(1).map_async((0..50).map(|_| gate.path())).unwrap();
    gate.await_arrivals(2);
    assert!(mapped.cancel());
    assert!(mapped.ready());
    assert!(!mapped.cancel());
    let outcomes = mapped.get_each();
    assert!(outcomes.into_iter().all(|outcome| outcome == Err(TaskError::Cancelled)));
    assert_eq!(gate.arrived().len(), 2);
    seats(&pool, 2);
}

#[test]
fn a_time_limit_ends_the_task_and_its_worker_and_nothing_else() {
    let case = Case::new();
    let ledger = Ledger::new();
    let pool = case.builder(2).task_timeout(LIMIT).build().unwrap();
    let before = seats(&pool, 2);
    let start = Instant::now();
    let stuck = pool.apply_async(never_ends, (ledger.path(), 1)).unwrap();
    let others = notes(&pool, &ledger, 100..200);
    assert_eq!(stuck.get(), Err(TaskError::TimedOut));
    assert!(start.elapsed() >= LIMIT, "not before its time");
    for (number, handle) in others.into_iter().enumerate() {
        assert_eq!(handle.get(), Ok(100 + number as u64));
    }
    ledger.assert_at_most_once();
    let after = seats(&pool, 2);
    assert_eq!(after.iter().filter(|pid| before.contains(pid)).count(), 1);
}

#[test]
fn a_time_limit_strikes_spinning_stopped_and_deaf_workers() {
    let case = Case::new();
    let pool = case.pool(3);
    let gate = Gate::new();
    let spins = |gate: String| {
        Gate::announce(&gate);
        while std::hint::black_box(true) {
            std::hint::spin_loop();
        }
    };
    let deaf = |gate: String| {
        pool_tests::fault::become_deaf();
        Gate::wait_at(&gate);
    };
    let stops = |gate: String| {
        Gate::announce(&gate);
        Fault::Raise(nix::sys::signal::Signal::SIGSTOP as i32).happen();
    };
    let handles = [
        pool.task(spins).timeout(LIMIT).apply_async((gate.path(),)).unwrap(),
        pool.task(deaf).timeout(LIMIT).apply_async((gate.path(),)).unwrap(),
        pool.task(stops).timeout(LIMIT).apply_async((gate.path(),)).unwrap(),
    ];
    for handle in handles {
        assert_eq!(handle.get(), Err(TaskError::TimedOut));
    }
    seats(&pool, 3);
}

#[test]
fn time_counts_from_the_start_not_from_the_submission() {
    let case = Case::new();
    let gate = Gate::new();
    let pool = case.pool(1);
    let first = pool.apply_async(wait_at, (gate.path(),)).unwrap();
    gate.await_arrivals(1);
    // some of these lie in front of the worker, the others in the queue, all for longer than their limit
    let quick = |x: u64| x + 1;
    let waiting: Vec<_> =
        (0..50).map(|x| pool.task(quick).timeout(LIMIT).apply_async((x,)).unwrap()).collect();
    assert!(!waiting[0].wait_timeout(LIMIT * 3), "it waits behind the first");
    assert!(waiting.iter().all(|handle| !handle.ready()));
    gate.let_pass(1);
    first.get().unwrap();
    for (x, handle) in waiting.into_iter().enumerate() {
        assert_eq!(handle.get(), Ok(x as u64 + 1));
    }
    assert_eq!(pool.stats().workers_lost, 0);
}

#[test]
fn all_expired_tasks_are_interrupted() {
    let case = Case::new();
    let ledger = Ledger::new();
    let pool = case.builder(4).task_timeout(LIMIT).build().unwrap();
    let start = Instant::now();
    let handles: Vec<_> =
        (0..8).map(|n| pool.apply_async(never_ends, (ledger.path(), n)).unwrap()).collect();
    for handle in handles {
        assert_eq!(handle.get(), Err(TaskError::TimedOut));
    }
    assert!(start.elapsed() >= LIMIT * 2, "two rounds of four");
    assert_eq!(ledger.notes().len(), 8);
    ledger.assert_at_most_once();
    assert_eq!(pool.apply(note, (ledger.path(), 100)), Ok(100));
}

#[test]
fn a_call_has_its_own_limit_instead_of_the_pools() {
    let case = Case::new();
    let ledger = Ledger::new();
    let pool = case.builder(2).task_timeout(Duration::from_millis(100)).build().unwrap();
    let gate = Gate::new();
    let patient = pool.task(wait_at).timeout(SOON).apply_async((gate.path(),)).unwrap();
    let hasty = pool.apply_async(never_ends, (ledger.path(), 1)).unwrap();
    assert_eq!(hasty.get(), Err(TaskError::TimedOut));
    // the same time has passed for the other, which goes on
    gate.let_pass(1);
    assert!(patient.get().is_ok());
}

#[test]
fn tasks_within_their_limit_know_nothing_of_it() {
    let case = Case::new();
    let pool = case.builder(2).task_timeout(Duration::from_secs(30)).build().unwrap();
    let squares = pool.task(|x: u64| x * x).chunk_size(1).map(0..2_000).unwrap();
    assert!(squares.into_iter().eq((0..2_000).map(|x| x * x)));
    assert_eq!(pool.stats().workers_lost, 0);
}

/// Dies in its first `deaths` executions, counted in the ledger; then gives how often it ran.
fn fails_at_first(ledger: String, deaths: usize, fault: Fault) -> usize {
    Ledger::note(&ledger, 0);
    let executions = std::fs::read_to_string(&ledger).unwrap().lines().count();
    if executions <= deaths {
        fault.happen();
    }
    executions
}

#[test]
fn retries_start_a_task_again_after_a_death() {
    let case = Case::new();
    let pool = case.pool(2);
    for fault in [Fault::Raise(9), Fault::Exit(0), Fault::Abort] {
        let ledger = Ledger::new();
        let call = pool.task(fails_at_first).retries(3);
        assert_eq!(call.apply((ledger.path(), 3, fault)), Ok(4));
        let pids = &ledger.notes()[&0];
        let distinct: std::collections::HashSet<_> = pids.iter().collect();
        assert_eq!(distinct.len(), 4, "each time in another process");
    }
    assert_eq!(pool.stats().retried, 9);
    // for the whole pool
    let pool = case.builder(1).retries(1).build().unwrap();
    let ledger = Ledger::new();
    assert_eq!(pool.apply(fails_at_first, (ledger.path(), 1, Fault::Raise(9))), Ok(2));
    let ledger = Ledger::new();
    let never_again = pool.task(fails_at_first).retries(0);
    assert!(never_again.apply((ledger.path(), 1, Fault::Raise(9))).is_err());
    assert_eq!(ledger.count(0), 1);
}

#[test]
fn retries_end_with_the_last_error_and_are_exact() {
    let case = Case::new();
    let pool = case.pool(2);
    for retries in [0, 1, 2, 5] {
        let ledger = Ledger::new();
        let call = pool.task(fails_at_first).retries(retries);
        let outcome = call.apply((ledger.path(), usize::MAX, Fault::ExitAtOnce(7)));
        match outcome {
            Err(TaskError::WorkerLost { cause: ExitCause::Exited(7), .. }) => {}
            Err(TaskError::Quarantined { workers, .. }) => assert_eq!(workers, retries + 1),
            other => panic!("{other:?}"),
        }
        assert_eq!(ledger.count(0), retries as usize + 1, "{retries} retries");
    }
    // what has failed by itself is not tried again
    let ledger = Ledger::new();
    let call = pool.task(fails_at_first).retries(3);
    let outcome = call.apply((ledger.path(), usize::MAX, Fault::Panic));
    assert!(matches!(outcome, Err(TaskError::Panicked { .. })), "{outcome:?}");
    assert_eq!(ledger.count(0), 1);
}

#[test]
fn retries_apply_to_time_limits_too() {
    let case = Case::new();
    let pool = case.pool(1);
    let slow_at_first = |ledger: String| {
        Ledger::note(&ledger, 0);
        let executions = std::fs::read_to_string(&ledger).unwrap().lines().count();
        if executions < 3 {
            hang();
        }
        executions
    };
    let ledger = Ledger::new();
    let call = pool.task(slow_at_first).retries(2).timeout(LIMIT);
    assert_eq!(call.apply((ledger.path(),)), Ok(3));
    let ledger = Ledger::new();
    let call = pool.task(slow_at_first).retries(1).timeout(LIMIT);
    assert_eq!(call.apply((ledger.path(),)), Err(TaskError::TimedOut));
    assert_eq!(ledger.count(0), 2);
}

#[test]
fn a_task_being_retried_can_be_cancelled() {
    let case = Case::new();
    let (ledger, pool) = (Ledger::new(), case.pool(1));
    let call = pool.task(fails_at_first).retries(u32::MAX);
    let handle = call.apply_async((ledger.path(), usize::MAX, Fault::ExitAtOnce(1))).unwrap();
    eventually(SOON, "it has been tried a few times", || ledger.count(0) > 3);
    assert!(handle.cancel());
    assert_eq!(handle.get(), Err(TaskError::Cancelled));
    assert_eq!(pool.apply(note, (ledger.path(), 5)), Ok(5));
    let executions = ledger.count(0);
    seats(&pool, 1);
    assert_eq!(pool.apply(note, (ledger.path(), 6)), Ok(6));
    assert_eq!(ledger.count(0), executions, "it is not started any more");
}

#[test]
fn arguments_above_the_limit_are_too_large_and_never_sent() {
    let case = Case::new();
    let pool = case.builder(1).max_task_bytes(10_000).build().unwrap();
    let length = |bytes: Vec<u8>| bytes.len();
    for size in [10_000, 20_000, 64 << 20] {
        match pool.apply(length, (vec![0; size],)) {
            Err(TaskError::TooLarge { what, size: told, limit, setting }) => {
                assert_eq!((what, limit, setting), (Oversize::Arguments, 10_000, "max_task_bytes"));
                assert!(told > 10_000 && told <= size as u64 + 64, "{told}");
            }
            other => panic!("{size}: {other:?}"),
        }
    }
    assert_eq!(pool.apply(length, (vec![0; 9_000],)), Ok(9_000));
    assert_eq!(pool.stats().submitted, 1);
    // results have a limit of their own
    assert_eq!(pool.apply(|n: usize| vec![1u8; n], (50_000,)), Ok(vec![1; 50_000]));
}

#[test]
fn results_above_the_limit_are_too_large_and_the_worker_goes_on() {
    let case = Case::new();
    let pool = case.builder(1).max_result_bytes(10_000).build().unwrap();
    let pid = seats(&pool, 1);
    let zeros = |size: usize| vec![0u8; size];
    for size in [10_000, 20_000, 64 << 20] {
        match pool.apply(zeros, (size,)) {
            Err(TaskError::TooLarge { what, size: told, limit, setting }) => {
                assert_eq!((what, limit, setting), (Oversize::Result, 10_000, "max_result_bytes"));
                assert!(told > 10_000 && told <= size as u64 + 64, "{told}");
            }
            other => panic!("{size}: {other:?}"),
        }
    }
    assert_eq!(pool.apply(zeros, (9_000,)), Ok(vec![0; 9_000]));
    let outcomes = pool.task(zeros).chunk_size(1).map_async([1, 20_000, 2]).unwrap().get_each();
    assert!(outcomes[0].is_ok() && outcomes[2].is_ok());
    assert!(matches!(outcomes[1], Err(TaskError::TooLarge { .. })));
    assert_eq!(seats(&pool, 1), pid);
    // errors and panics are told even so
    let shouts = || -> anyhow::Result<()> { anyhow::bail!("{}", "e".repeat(20_000)) };
    assert!(matches!(pool.apply(shouts, ()), Err(TaskError::Failed(text)) if text.len() == 20_000));
}

#[test]
fn the_size_limits_are_exact() {
    let case = Case::new();
    // a vector of bytes is its length, 8 bytes, and the bytes
    let pool = case.builder(1).max_task_bytes(1_008).max_result_bytes(1_008).build().unwrap();
    let same = |bytes: Vec<u8>| bytes.len();
    assert_eq!(pool.apply(same, (vec![0; 1_000],)), Ok(1_000));
    assert!(matches!(pool.apply(same, (vec![0; 1_001],)), Err(TaskError::TooLarge { .. })));
    let zeros = |size: usize| vec![0u8; size];
    assert_eq!(pool.apply(zeros, (1_000,)), Ok(vec![0; 1_000]));
    assert!(matches!(pool.apply(zeros, (1_001,)), Err(TaskError::TooLarge { .. })));
}

#[test]
fn a_memory_limit_ends_the_task_that_exceeds_it() {
    let case = Case::new();
    let pool = case.builder(1).memory_limit(1 << 30).build().unwrap();
    let takes = |size: usize| vec![1u8; size].len();
    assert_eq!(pool.apply(takes, (64 << 20,)), Ok(64 << 20));
    let outcome = pool.apply(takes, (2 << 30,));
    assert!(
        matches!(
            outcome,
            Err(TaskError::WorkerLost { cause: ExitCause::Signaled { signal: 6, .. }, .. })
        ),
        "{outcome:?}"
    );
    assert_eq!(pool.apply(takes, (64 << 20,)), Ok(64 << 20));
}

#[test]
fn a_start_timeout_ends_workers_that_do_not_come_up() {
    let case = Case::new();
    let ledger = Ledger::new();
    let hangs = |ledger: String| {
        Ledger::note(&ledger, 0);
        hang();
    };
    let builder = case.builder(2).start_timeout(Duration::from_millis(100));
    let error = builder.initializer(hangs, (ledger.path(),)).build().unwrap_err();
    assert!(matches!(error, pool_core::PoolError::StartFailed(_)), "{error:?}");
    assert!((2..=20).contains(&ledger.count(0)), "{}", ledger.count(0));
    case.assert_nothing_left();
}
