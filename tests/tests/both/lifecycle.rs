//! Closing, joining, terminating and dropping, from wherever that may come.

use std::num::NonZero;
use std::sync::{Arc, OnceLock, Weak, mpsc};
use std::time::Duration;

use pool_core::{Pool, PoolError, SubmitError, TaskError, TrySubmitError};
use pool_tests::{Case, Gate, Ledger, eventually, within};

use crate::{Backend, SOON, square, squares, until_cancelled, wait_at};

with_both![
    c1_18_terminate_with_many_tasks_waiting,
    c1_19_a_pool_ends_with_its_scope,
    c1_20_close_and_join_before_the_end_of_the_scope_let_everything_finish,
    c1_29_recycling_and_an_early_close_lose_nothing,
    c1_50_close_right_after_more_tasks_than_workers,
    c1_63_pools_off_the_main_thread,
    c2_101_join_with_a_time_limit_and_again,
    c4_136_a_closed_pool_refuses_every_verb,
    c4_139_terminate_ends_what_waits_and_what_runs,
    c4_143_terminate_again_and_with_nothing_to_do,
    c4_145_a_pool_dropped_by_its_own_callback,
    c1_61_pools_of_threads_in_workers,
];

/// A sleep that is its whole task.
fn nap() {
    std::thread::park_timeout(Duration::from_millis(50));
}

fn c1_18_terminate_with_many_tasks_waiting(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 2);
    let handles: Vec<_> = (0..10_000).map(|_| pool.apply_async(nap, ()).unwrap()).collect();
    within(Duration::from_secs(3), "terminate", || pool.terminate());
    pool.join().unwrap();
    let terminated = handles.into_iter().map(pool_core::AsyncResult::get);
    let count = terminated.filter(|outcome| *outcome == Err(TaskError::Terminated)).count();
    assert!(count > 5_000, "{count}");
}

fn c1_19_a_pool_ends_with_its_scope(backend: Backend) {
    let case = Case::new();
    let gate = Gate::new();
    let handles = {
        let pool = backend.pool(&case, 2);
        let handles: Vec<_> =
            (0..4).map(|_| pool.apply_async(until_cancelled, (gate.path(),)).unwrap()).collect();
        gate.await_arrivals(2);
        // a thread can't be killed: it is asked to end, and given up if it does not
        handles
    };
    for handle in handles {
        assert_eq!(handle.get(), Err(TaskError::Terminated));
    }
}

fn c1_20_close_and_join_before_the_end_of_the_scope_let_everything_finish(backend: Backend) {
    let case = Case::new();
    let ledger = Ledger::new();
    let note = |ledger: String, number: u64| Ledger::note(&ledger, number);
    {
        let pool = backend.pool(&case, 2);
        for number in 0..100 {
            drop(pool.apply_async(note, (ledger.path(), number)).unwrap());
        }
        pool.close();
        pool.join().unwrap();
    }
    assert_eq!(ledger.notes().len(), 100);
    ledger.assert_at_most_once();
}

fn c1_50_close_right_after_more_tasks_than_workers(backend: Backend) {
    let case = Case::new();
    for _ in 0..10 {
        let pool = backend.pool(&case, 2);
        let handles: Vec<_> = (0..20).map(|x| pool.apply_async(square, (x,)).unwrap()).collect();
        pool.close();
        pool.join_timeout(SOON).unwrap();
        assert!(handles.into_iter().map(|handle| handle.get().unwrap()).eq(squares(0..20)));
    }
}

fn c1_63_pools_off_the_main_thread(backend: Backend) {
    let case = Case::new();
    let (pool, first) = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let pool = backend.pool(&case, 2);
            let first = pool.apply_async(square, (4,)).unwrap();
            (pool, first)
        });
        thread.join().unwrap()
    });
    assert_eq!(first.get(), Ok(16));
    assert_eq!(pool.map(square, 0..100).unwrap(), squares(0..100));
    let other = std::thread::spawn(move || {
        pool.close();
        pool.join()
    });
    assert_eq!(other.join().unwrap(), Ok(()));
}

fn c2_101_join_with_a_time_limit_and_again(backend: Backend) {
    let case = Case::new();
    let gate = Gate::new();
    let pool = backend.pool(&case, 1);
    let handle = pool.apply_async(wait_at, (gate.path(),)).unwrap();
    assert_eq!(pool.join(), Err(PoolError::StillOpen));
    assert_eq!(pool.join_timeout(SOON), Err(PoolError::StillOpen));
    pool.close();
    let short = Duration::from_millis(5);
    for limit in [Duration::ZERO, short, short] {
        assert_eq!(pool.join_timeout(limit), Err(PoolError::TimedOut(limit)));
    }
    gate.let_pass(1);
    pool.join_timeout(SOON).unwrap();
    pool.join().unwrap();
    assert!(handle.get().is_ok());
    assert!(pool.workers().is_empty());
}

fn c4_139_terminate_ends_what_waits_and_what_runs(backend: Backend) {
    let case = Case::new();
    let (gate, ledger) = (Gate::new(), Ledger::new());
    let pool = backend.pool(&case, 2);
    let running: Vec<_> =
        (0..2).map(|_| pool.apply_async(until_cancelled, (gate.path(),)).unwrap()).collect();
    gate.await_arrivals(2);
    let note = |ledger: String, number: u64| Ledger::note(&ledger, number);
    let waiting: Vec<_> =
        (0..50).map(|n| pool.apply_async(note, (ledger.path(), n)).unwrap()).collect();
    pool.terminate();
    assert!(running.into_iter().all(|handle| handle.get() == Err(TaskError::Terminated)));
    assert!(waiting.into_iter().all(|handle| handle.get() == Err(TaskError::Terminated)));
    pool.join_timeout(SOON).unwrap();
    assert!(ledger.notes().is_empty(), "nothing began: {:?}", ledger.notes());
    case.assert_nothing_left();
}

fn c4_143_terminate_again_and_with_nothing_to_do(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 2);
    for _ in 0..3 {
        pool.terminate();
        pool.join().unwrap();
        assert!(pool.workers().is_empty(), "nobody is started behind it");
    }
    pool.close();
    pool.resize(4).unwrap();
    assert!(pool.workers().is_empty());
    let started = pool.stats().workers_started;
    assert!(started <= 2, "{started}");
    assert_eq!(pool.join_timeout(Duration::ZERO), Ok(()));
}

fn c4_145_a_pool_dropped_by_its_own_callback(backend: Backend) {
    let case = Case::new();
    let gate = Gate::new();
    let pool = Arc::new(backend.pool(&case, 2));
    let weak: Weak<Pool> = Arc::downgrade(&pool);
    let (sender, dropped) = mpsc::channel();
    let others: Vec<_> =
        (0..4).map(|_| pool.apply_async(until_cancelled, (gate.path(),)).unwrap()).collect();
    let mine = Arc::clone(&pool);
    others[0].on_done(move || {
        drop(mine);
        sender.send(()).unwrap();
    });
    drop(pool);
    eventually(SOON, "the first one runs", || others[0].started_at().is_some());
    assert!(others[0].request_cancel());
    dropped.recv_timeout(SOON).unwrap();
    eventually(SOON, "the pool is gone", || weak.strong_count() == 0);
    for handle in others {
        assert!(matches!(handle.get(), Ok(_) | Err(TaskError::Terminated)));
    }
}

// ---- threads only: processes have this in lifetime.rs ----

/// The pool that a task of its own uses.
static OWN: OnceLock<Pool> = OnceLock::new();

#[test]
fn c4_143_a_task_that_terminates_its_own_pool() {
    let pool = OWN.get_or_init(|| Pool::builder().threads(2).build().unwrap());
    static JOINED: OnceLock<[Result<(), PoolError>; 2]> = OnceLock::new();
    let ends = || {
        let pool = OWN.get().unwrap();
        pool.close();
        JOINED.set([pool.join(), pool.join_timeout(SOON)]).unwrap();
        pool.terminate();
    };
    let handle = pool.apply_async(ends, ()).unwrap();
    assert_eq!(handle.get(), Err(TaskError::Terminated), "while it ran");
    pool.join_timeout(SOON).unwrap();
    assert_eq!(
        *JOINED.get().unwrap(),
        [Err(PoolError::WouldDeadlock), Err(PoolError::WouldDeadlock)]
    );
    assert!(pool.workers().is_empty());
}

#[test]
fn c4_145_a_thread_that_does_not_end_holds_nobody_up() {
    let _case = Case::new();
    let gate = Gate::new();
    let pool = Pool::builder().threads(2).grace(Duration::from_millis(100)).build().unwrap();
    let stuck = pool.apply_async(wait_at, (gate.path(),)).unwrap();
    gate.await_arrivals(1);
    within(Duration::from_secs(3), "terminate", || pool.terminate());
    assert_eq!(stuck.get(), Err(TaskError::Terminated));
    within(Duration::from_secs(3), "join", || pool.join()).unwrap();
    drop(pool);

    let pool = Pool::builder().threads(2).build().unwrap();
    let stuck = pool.apply_async(wait_at, (gate.path(),)).unwrap();
    gate.await_arrivals(2);
    within(Duration::from_secs(3), "drop", || drop(pool));
    assert_eq!(stuck.get(), Err(TaskError::Terminated));
    // what was given up ends in silence when its task does
    gate.let_pass(2);
    eventually(SOON, "the threads are gone", || pool_threads() == 0);
}

/// How many threads of this process belong to pools.
fn pool_threads() -> usize {
    let name = |thread: u32| std::fs::read_to_string(format!("/proc/self/task/{thread}/comm"));
    let tasks = pool_tests::census::list("/proc/self/task");
    tasks.into_iter().filter(|&t| name(t).is_ok_and(|name| name.starts_with("pool"))).count()
}

#[test]
fn c4_157_pools_of_threads_come_and_go_without_a_trace() {
    let _case = Case::new();
    let cycle = |round: u64| {
        let pool = Pool::builder().threads(2).build().unwrap();
        assert_eq!(pool.apply(square, (round,)), Ok(square(round)));
        if round.is_multiple_of(2) {
            pool.close();
            pool.join().unwrap();
        }
    };
    cycle(0);
    eventually(SOON, "the threads of the first are gone", || pool_threads() == 0);
    let before = pool_tests::census::holdings(std::process::id());
    (0..200).for_each(cycle);
    eventually(SOON, "all threads are gone", || pool_threads() == 0);
    let after = pool_tests::census::holdings(std::process::id());
    assert_eq!((before.descriptors, before.threads), (after.descriptors, after.threads));
}

// ---- pools in pools ----

fn square_in_threads(count: u64) -> Vec<u64> {
    let pool = Pool::builder().threads(2).build().unwrap();
    let results = pool.map(square, 0..count).unwrap();
    pool.close();
    pool.join().unwrap();
    results
}

fn twice_nested(count: u64) -> Vec<u64> {
    let pool = Pool::builder().threads(2).build().unwrap();
    let indices = pool.map(|_: u8| pool_core::worker::index().unwrap().get(), 0..8).unwrap();
    assert!(indices.iter().all(|&index| index < 2));
    pool.apply(square_in_threads, (count,)).unwrap()
}

fn c1_61_pools_of_threads_in_workers(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 2);
    let nested = pool.task(twice_nested).chunk_size(1).map([20, 50, 0, 100]).unwrap();
    assert_eq!(nested, [squares(0..20), squares(0..50), vec![], squares(0..100)]);
    // the worker is what it was
    let own = pool.apply(|| pool_core::worker::index().is_some(), ());
    assert_eq!(own, Ok(true));
}

#[test]
fn c1_61_pools_of_processes_in_worker_threads() {
    let _case = Case::new();
    let pool = Pool::builder().threads(2).build().unwrap();
    let inner = |n: u64| pool_tests::plain_pool(2).map(square, 0..n).unwrap();
    let both: Vec<_> = pool.task(inner).chunk_size(1).map([20, 30]).unwrap();
    assert_eq!(both, [squares(0..20), squares(0..30)]);
}

/// The pool whose tasks submit to it.
static BUSY: OnceLock<Pool> = OnceLock::new();

#[test]
fn c1_61_a_task_on_a_thread_may_use_its_own_pool() {
    let pool = BUSY.get_or_init(|| Pool::builder().threads(2).build().unwrap());
    let outer = |x: u64| BUSY.get().unwrap().apply(square, (x,)).unwrap() + 1;
    for x in 0..100 {
        assert_eq!(pool.apply(outer, (x,)), Ok(x * x + 1));
    }
}

fn c4_136_a_closed_pool_refuses_every_verb(backend: Backend) {
    let case = Case::new();
    for stop in [Pool::close, Pool::terminate] as [fn(&Pool); 2] {
        let pool = backend.pool(&case, 1);
        stop(&pool);
        assert!(matches!(pool.apply_async(square, (1,)), Err(SubmitError::Closed)));
        assert_eq!(pool.apply(square, (1,)), Err(TaskError::Closed));
        assert!(matches!(pool.map_async(square, 0..3), Err(SubmitError::Closed)));
        assert_eq!(pool.map(square, 0..3), Err(TaskError::Closed));
        assert!(matches!(pool.try_apply_async(square, (1,)), Err(TrySubmitError::Closed(_))));
        let outcomes: Vec<_> = pool.imap(square, 0..3).collect();
        assert_eq!(outcomes, [Err(TaskError::Closed)]);
        let outcomes: Vec<_> = pool.imap_unordered(square, 0..3).collect();
        assert_eq!(outcomes, [Err(TaskError::Closed)]);
        let told = pool.apply(square, (1,)).unwrap_err().to_string();
        assert!(told.starts_with("the pool is closed and takes no new tasks"), "{told}");
        assert_eq!(pool.apply_async(square, (1,)).unwrap_err().to_string(), told);
        assert_eq!(pool.try_apply_async(square, (1,)).unwrap_err().to_string(), told);
        pool.join().unwrap();
    }
}

fn c1_29_recycling_and_an_early_close_lose_nothing(backend: Backend) {
    let case = Case::new();
    // the rows (workers, tasks per child, tasks) of CPython gh-115634
    for (workers, per_child, tasks) in [(1, 1, 6), (1, 2, 6), (2, 2, 8), (3, 10, 100), (2, 1, 40)] {
        let per_child = NonZero::new(per_child).unwrap();
        let pool = backend.builder(&case, workers).max_tasks_per_child(per_child).build().unwrap();
        let handles: Vec<_> = (0..tasks).map(|x| pool.apply_async(square, (x,)).unwrap()).collect();
        pool.close();
        pool.join_timeout(SOON).unwrap();
        for (x, handle) in handles.into_iter().enumerate() {
            assert_eq!(handle.get(), Ok(square(x as u64)), "{workers} {per_child} {tasks}");
        }
    }
}
