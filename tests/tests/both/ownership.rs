//! When arguments and results are dropped, and that a drop which panics costs only itself.

use std::cell::Cell;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};

use pool_core::{TaskError, TrySubmitError};
use pool_tests::{Case, Gate, eventually};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Backend, SOON, square, squares, wait_at};

with_both![
    c1_24_arguments_and_results_are_dropped_right_after_use,
    c1_24_what_never_runs_is_dropped_too,
    c3_121_an_argument_whose_drop_panics,
    c3_121_a_result_whose_drop_panics,
    c3_121_a_result_that_nobody_wants_whose_drop_panics,
    c3_121_a_state_whose_drop_panics,
];

/// How many [`Tracked`] there are in this process.
static LIVE: AtomicI64 = AtomicI64::new(0);

/// For `cargo test`, where tests are threads of one process: they count the same.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A value that is counted.
#[derive(Debug)]
struct Tracked(u64);

impl Tracked {
    fn new(number: u64) -> Tracked {
        LIVE.fetch_add(1, Ordering::SeqCst);
        Tracked(number)
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        LIVE.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Serialize for Tracked {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Tracked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u64::deserialize(deserializer).map(Tracked::new)
    }
}

fn live() -> i64 {
    LIVE.load(Ordering::SeqCst)
}

fn take(tracked: Tracked) -> u64 {
    tracked.0
}

fn c1_24_arguments_and_results_are_dropped_right_after_use(backend: Backend) {
    let _alone = alone();
    let case = Case::new();
    let pool = backend.pool(&case, 1);
    assert_eq!(pool.apply(take, (Tracked::new(7),)), Ok(7));
    assert_eq!((live(), pool.apply(live, ())), (0, Ok(0)), "the argument, on both sides");
    assert_eq!(pool.map(take, (0..100).map(Tracked::new)).unwrap(), (0..100).collect::<Vec<_>>());
    assert_eq!((live(), pool.apply(live, ())), (0, Ok(0)));

    let handle = pool.apply_async(Tracked::new, (5,)).unwrap();
    handle.wait();
    // on a thread, the value itself is in the handle
    assert_eq!(pool.apply(live, ()), Ok(i64::from(backend.is_threads())));
    let value = handle.get().unwrap();
    assert_eq!(live(), 1);
    drop(value);
    assert_eq!((live(), pool.apply(live, ())), (0, Ok(0)), "the result, on both sides");
    let values = pool.map(Tracked::new, 0..100).unwrap();
    assert_eq!((values.len(), live()), (100, 100));
    drop(values);
    assert_eq!((live(), pool.apply(live, ())), (0, Ok(0)));

    let results = pool.imap(Tracked::new, 0..100).map(|value| value.unwrap().0);
    assert!(results.eq(0..100));
    let call = pool.task(Tracked::new).on_success(|tracked: &Tracked| assert_eq!(tracked.0, 5));
    drop(call.apply((5,)).unwrap());
    assert_eq!((live(), pool.apply(live, ())), (0, Ok(0)));
    let handles: Vec<_> = (0..20).map(|n| pool.apply_async(Tracked::new, (n,)).unwrap()).collect();
    let sum = pool_core::as_completed(handles).map(|handle| handle.get().unwrap().0).sum::<u64>();
    assert_eq!((sum, live()), (190, 0));
}

fn c1_24_what_never_runs_is_dropped_too(backend: Backend) {
    let _alone = alone();
    let case = Case::new();
    let gate = Gate::new();
    let pool = backend.builder(&case, 1).max_pending(11).build().unwrap();
    let first = pool.apply_async(wait_at, (gate.path(),)).unwrap();
    gate.await_arrivals(1);
    let handles: Vec<_> =
        (0..10).map(|n| pool.apply_async(take, (Tracked::new(n),)).unwrap()).collect();
    assert_eq!(live(), if backend.is_threads() { 10 } else { 0 }, "moved, or encoded");
    match pool.try_apply_async(take, (Tracked::new(99),)) {
        Err(TrySubmitError::Full((tracked,))) => assert_eq!(tracked.0, 99),
        other => panic!("{other:?}"),
    }
    assert!(handles.iter().take(5).all(pool_core::AsyncResult::cancel));
    assert_eq!(live(), if backend.is_threads() { 5 } else { 0 }, "cancelled");
    gate.let_pass(1);
    assert!(first.get().is_ok());
    assert!(handles.into_iter().skip(5).all(|handle| handle.get().is_ok()));
    assert_eq!(live(), 0);
    // a result that nobody wants
    drop(pool.apply_async(Tracked::new, (1,)).unwrap());
    assert_eq!(pool.apply(square, (2,)), Ok(4));
    eventually(SOON, "it is dropped", || live() == 0);
    // what waits when the pool ends
    let stuck = pool.apply_async(wait_at, (gate.path(),)).unwrap();
    gate.await_arrivals(2);
    let waiting: Vec<_> =
        (0..5).map(|n| pool.apply_async(take, (Tracked::new(n),)).unwrap()).collect();
    gate.let_pass(usize::from(backend.is_threads()));
    pool.terminate();
    assert_eq!(live(), 0);
    pool.close();
    match pool.try_apply_async(take, (Tracked::new(1),)) {
        Err(TrySubmitError::Closed(args)) => drop(args),
        other => panic!("{other:?}"),
    }
    assert!(pool.apply_async(take, (Tracked::new(1),)).is_err());
    assert_eq!(live(), 0);
    drop((stuck, waiting));
}

thread_local! {
    /// Where [`Bomb`]s are harmless: on the test's own thread.
    static DEFUSED: Cell<bool> = const { Cell::new(false) };
}

/// A value whose drop panics, but for the test's own thread.
#[derive(Debug, Serialize, Deserialize)]
struct Bomb(u64);

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() && !DEFUSED.try_with(Cell::get).unwrap_or(false) {
            panic!("the drop of bomb {}", self.0);
        }
    }
}

fn c3_121_an_argument_whose_drop_panics(backend: Backend) {
    DEFUSED.set(true);
    let case = Case::new();
    let pool = backend.pool(&case, 2);
    let number = |bomb: Bomb| bomb.0;
    for n in 0..10 {
        let handle = pool.apply_async(number, (Bomb(n),)).unwrap();
        let good = pool.apply_async(square, (n,)).unwrap();
        let outcome = handle.get();
        assert!(
            matches!(&outcome, Err(TaskError::Panicked { message, .. }) if *message == format!("the drop of bomb {n}")),
            "{outcome:?}"
        );
        assert_eq!(good.get(), Ok(square(n)));
    }
    let each = pool.task(number).chunk_size(5).map_async((0..20).map(Bomb)).unwrap().get_each();
    assert!(each.iter().all(|outcome| matches!(outcome, Err(TaskError::Panicked { .. }))));
    assert_eq!(pool.map(square, 0..100).unwrap(), squares(0..100));
    assert_eq!(pool.stats().workers_started, 2);
    pool.close();
    pool.join_timeout(SOON).unwrap();
}

fn c3_121_a_result_whose_drop_panics(backend: Backend) {
    DEFUSED.set(true);
    let case = Case::new();
    let pool = backend.pool(&case, 1);
    for n in 0..10 {
        // a process drops it after it was encoded
        match pool.apply(Bomb, (n,)) {
            Ok(bomb) => assert!(backend.is_threads() && bomb.0 == n),
            Err(TaskError::Panicked { .. }) => assert!(!backend.is_threads()),
            other => panic!("{other:?}"),
        }
        assert_eq!(pool.apply(square, (n,)), Ok(square(n)));
    }
    assert_eq!(pool.stats().workers_started, 1);
}

fn c3_121_a_result_that_nobody_wants_whose_drop_panics(backend: Backend) {
    DEFUSED.set(true);
    let case = Case::new();
    let gate = Gate::new();
    let pool = backend.pool(&case, 1);
    for round in 0..5 {
        // all of them are told with one message, or nearly
        let first = pool.apply_async(wait_at, (gate.path(),)).unwrap();
        gate.await_arrivals(round + 1);
        let mut handles = Vec::new();
        for n in 0..20 {
            drop(pool.apply_async(Bomb, (n,)).unwrap());
            handles.push(pool.apply_async(square, (n,)).unwrap());
            pool.apply_async(Bomb, (n,)).unwrap().on_done(|| ());
            drop(pool.task(Bomb).on_success(|_: &Bomb| ()).apply_async((n,)).unwrap());
            drop(pool.map_async(Bomb, 0..1).unwrap());
        }
        let cancelled = pool.apply_async(|bomb: Bomb| bomb.0, (Bomb(1),)).unwrap();
        assert!(std::thread::scope(|scope| scope.spawn(|| cancelled.cancel()).join()).unwrap());
        gate.let_pass(1);
        assert!(first.get().is_ok());
        for (n, handle) in (0..).zip(handles) {
            assert_eq!(handle.get(), Ok(square(n)));
        }
    }
    assert_eq!(pool.stats().workers_started, 1);
    let (sender, done) = mpsc::channel();
    pool.apply_async(square, (1,)).unwrap().on_done(move || sender.send(()).unwrap());
    done.recv_timeout(SOON).unwrap();
    pool.close();
    pool.join_timeout(SOON).unwrap();
}

fn c3_121_a_state_whose_drop_panics(backend: Backend) {
    DEFUSED.set(true);
    let case = Case::new();
    let one = std::num::NonZero::new(1).unwrap();
    let builder = backend.builder(&case, 1).max_tasks_per_child(one);
    let pool = builder.initializer(|| pool_core::worker::set_state(Bomb(1)), ()).build().unwrap();
    for n in 0..5 {
        assert_eq!(pool.apply(square, (n,)), Ok(square(n)));
    }
    pool.close();
    pool.join_timeout(SOON).unwrap();
    assert_eq!(pool.stats().workers_lost, 0);
}
