//! Threads that wait for a result read it themselves: what happens when they stop.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]

use std::sync::mpsc;
use std::time::Duration;

use pool_core::{Pool, TaskError};
use pool_tests::{Case, Gate, census, eventually};

pool_core::test_support!();

const SOON: Duration = Duration::from_secs(30);

/// Quick, so that a caller looks for its result instead of sleeping at once; or not, if there is a gate.
fn quick_or_not(gate: Option<String>) -> u64 {
    if let Some(gate) = gate {
        Gate::wait_at(&gate);
    }
    7
}

/// The pool knows the function as a quick one.
fn know(pool: &Pool) {
    for _ in 0..200 {
        assert_eq!(pool.apply(quick_or_not, (None,)), Ok(7));
    }
}

/// A result that the pool's own thread has to read: nobody waits for it in `get`.
fn is_told(pool: &Pool) {
    let handle = pool.apply_async(quick_or_not, (None,)).unwrap();
    await_callback(&handle);
    assert_eq!(handle.get(), Ok(7));
}

/// Returns when the callback of the handle has been called: this thread does not look itself.
fn await_callback(handle: &pool_core::AsyncResult<u64>) {
    let (done, is_done) = mpsc::channel();
    handle.on_done(move || done.send(()).unwrap());
    is_done.recv().unwrap();
}

#[test]
fn a_time_limit_that_ends_while_the_caller_looks_leaves_the_task_and_the_worker_as_they_were() {
    let case = Case::new();
    let pool = case.pool(2);
    know(&pool);
    for round in 0..20 {
        let gate = Gate::new();
        let mut handle = pool.apply_async(quick_or_not, (Some(gate.path()),)).unwrap();
        // none at all, within the first look, about its end, and after it
        for limit in [0, 1, 5, 20, 50, 100, 500, 2_000].map(Duration::from_micros) {
            assert_eq!(handle.get_timeout(limit), Err(TaskError::NotReady(limit)), "{round}");
        }
        gate.await_arrivals(1);
        gate.let_pass(1);
        // the last look has not left the worker without a reader
        if round % 2 == 0 {
            await_callback(&handle);
        }
        assert_eq!(handle.get(), Ok(7));
        is_told(&pool);
    }
}

#[test]
fn several_callers_whose_time_ends_while_they_look_at_one_worker_leave_it_a_reader() {
    let case = Case::new();
    let pool = case.pool(1);
    know(&pool);
    for _ in 0..20 {
        let gate = Gate::new();
        let handles: Vec<_> =
            (0..4).map(|_| pool.apply_async(quick_or_not, (Some(gate.path()),)).unwrap()).collect();
        let ask = |mut handle: pool_core::AsyncResult<u64>| {
            for limit in [0, 10, 30, 100].map(Duration::from_micros) {
                assert_eq!(handle.get_timeout(limit), Err(TaskError::NotReady(limit)));
            }
            handle
        };
        let handles: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                handles.into_iter().map(|handle| scope.spawn(|| ask(handle))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        gate.let_pass(4);
        for handle in handles {
            await_callback(&handle);
            assert_eq!(handle.get(), Ok(7));
        }
        is_told(&pool);
    }
}

/// Whether the thread of this name sleeps.
fn sleeps(name: &str) -> bool {
    census::list("/proc/self/task").into_iter().any(|id| {
        let stat = std::fs::read_to_string(format!("/proc/self/task/{id}/stat"));
        stat.is_ok_and(|stat| stat.contains(&format!("({name}) S")))
    })
}

/// The pool is closed while a thread waits for the last task, so that thread has told the worker to leave when it reads the result, and reads no more. What the finalizer gives then is more
/// than a socket holds: somebody else has to read it, or the worker would be killed for not leaving.
#[test]
fn what_a_finalizer_gives_is_read_when_the_thread_that_waited_has_stopped() {
    let case = Case::new();
    for _ in 0..5 {
        let (task, last) = (Gate::new(), Gate::new());
        let give = |gate: String| {
            Gate::wait_at(&gate);
            vec![7_u8; 8 << 20]
        };
        let pool = case.builder(1).finalizer(give, (last.path(),)).build().unwrap();
        let handle = pool.apply_async(|gate: String| Gate::wait_at(&gate), (task.path(),)).unwrap();
        task.await_arrivals(1);
        let waits = std::thread::Builder::new().name("waits".to_owned());
        let waits = waits.spawn(move || handle.get()).unwrap();
        eventually(SOON, "it waits", || sleeps("waits"));
        pool.close();
        task.let_pass(1);
        assert_eq!(waits.join().unwrap(), Ok(()));
        last.await_arrivals(1);
        last.let_pass(1);
        pool.join().unwrap();
        let given: Vec<Result<Vec<u8>, TaskError>> = pool.finalized();
        assert_eq!(given, [Ok(vec![7; 8 << 20])]);
        assert_eq!(pool.stats().workers_lost, 0, "it left by itself");
    }
}
