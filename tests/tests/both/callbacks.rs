//! Callbacks: one, once, on a thread of their own, whatever they do.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::ThreadId;
use std::time::Duration;

use pool_core::{AsyncResult, Pool, PoolError, TaskError};
use pool_tests::{Case, Gate, within};

use crate::{Backend, SOON, square, squares, until_cancelled, wait_at};

with_both![
    c1_5_exactly_one_of_both_callbacks_is_called_once,
    c1_8_an_empty_map_calls_on_success,
    c1_26_the_error_callback_gets_the_error_and_so_does_the_handle,
    c1_26_a_map_tells_its_callbacks_the_whole_outcome_once,
    c1_55_chains_of_submissions_from_callbacks,
    c2_76_a_cancelled_task_calls_on_error,
    c2_76_a_terminated_pool_calls_on_error,
    c2_77_on_done_of_a_task_that_has_ended_is_called_at_once,
    c2_78_a_panicking_callback_changes_nothing,
    c2_79_a_payload_whose_drop_panics_does_not_stop_the_callbacks,
    c2_80_terminate_from_a_callback,
    c2_80_a_callback_can_not_join_its_pool,
    c1_26_join_waits_for_callbacks,
    c1_26_a_slow_callback_holds_up_no_other_task,
    c1_26_callbacks_do_not_run_on_the_callers_thread,
];

fn halve(x: u64) -> anyhow::Result<u64> {
    anyhow::ensure!(x.is_multiple_of(2), "{x} is odd");
    Ok(x / 2)
}

fn c1_5_exactly_one_of_both_callbacks_is_called_once(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 2);
    for x in 0..100 {
        let (good, bad) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (g, b) = (Arc::clone(&good), Arc::clone(&bad));
        let call = pool
            .task(halve)
            .on_success(move |half: &u64| {
                g.fetch_add(1 + half, Ordering::SeqCst);
            })
            .on_error(move |_| {
                b.fetch_add(1, Ordering::SeqCst);
            });
        let handle = call.apply_async((x,)).unwrap();
        handle.wait();
        // the handle is ready after the callback
        let counts = (good.load(Ordering::SeqCst), bad.load(Ordering::SeqCst));
        assert_eq!(counts, if x % 2 == 0 { (1 + x / 2, 0) } else { (0, 1) });
        assert_eq!(
            handle.get().ok(),
            (x % 2 == 0).then_some(x / 2),
            "the handle has it all the same"
        );
        // once per call of the verb; `apply` waits for it too
        assert_eq!(call.apply((x,)).is_ok(), x % 2 == 0);
        let counts = (good.load(Ordering::SeqCst), bad.load(Ordering::SeqCst));
        assert_eq!(counts, if x % 2 == 0 { (2 + x, 0) } else { (0, 2) });
    }
}

fn c1_8_an_empty_map_calls_on_success(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 1);
    let (sender, results) = mpsc::channel();
    let call =
        pool.task(square).on_success(move |all: &Vec<u64>| sender.send(all.clone()).unwrap());
    assert_eq!(call.map(0..0), Ok(vec![]));
    assert_eq!(results.try_recv().unwrap(), [], "before the map has returned");
    let handle = call.map_async(0..0).unwrap();
    handle.wait();
    assert_eq!(results.try_recv().unwrap(), []);
    assert_eq!(handle.get(), Ok(vec![]));
    assert!(results.try_recv().is_err());
}

fn c1_26_the_error_callback_gets_the_error_and_so_does_the_handle(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 1);
    let (sender, errors) = mpsc::channel();
    let call = pool.task(halve).on_error(move |error| sender.send(error.clone()).unwrap());
    let expected = TaskError::Failed("7 is odd".to_owned());
    assert_eq!(call.apply_async((7,)).unwrap().get(), Err(expected.clone()));
    assert_eq!(errors.try_recv().unwrap(), expected);
    assert_eq!(call.apply_async((8,)).unwrap().get(), Ok(4));
    assert!(errors.try_recv().is_err());
    let caught = call.try_apply_async((9,)).unwrap().get().unwrap_err();
    assert_eq!(errors.try_recv().unwrap(), caught);
}

fn c1_26_a_map_tells_its_callbacks_the_whole_outcome_once(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 2);
    for size in [1, 7, 1000] {
        let (sender, told) = mpsc::channel::<Result<Vec<u64>, TaskError>>();
        let errors = sender.clone();
        let call = pool
            .task(halve)
            .chunk_size(size)
            .on_success(move |all: &Vec<u64>| sender.send(Ok(all.clone())).unwrap())
            .on_error(move |error| errors.send(Err(error.clone())).unwrap());
        let even = || (0..100).map(|x| 2 * x);
        let expected: Vec<u64> = (0..100).collect();
        assert_eq!(call.map(even()), Ok(expected.clone()));
        assert_eq!(told.try_recv().unwrap(), Ok(expected.clone()));
        assert_eq!(
            futures::executor::block_on(call.map_async(even()).unwrap()),
            Ok(expected.clone())
        );
        assert_eq!(told.try_recv().unwrap(), Ok(expected));
        // two items fail: one call, with the first error in the order of the input
        let error = TaskError::Failed("31 is odd".to_owned());
        let bad = || even().map(|x| if x == 62 || x == 30 { x + 1 } else { x });
        assert_eq!(call.map(bad()), Err(error.clone()));
        assert_eq!(told.try_recv().unwrap(), Err(error.clone()));
        let each = call.map_async(bad()).unwrap().get_each();
        assert_eq!(told.try_recv().unwrap(), Err(error));
        assert_eq!(each.len(), 100);
        assert!(each.iter().enumerate().all(|(i, o)| o.is_ok() == (i != 15 && i != 31)));
        assert!(told.try_recv().is_err(), "once each");
    }
}

/// Submits `left` further tasks, each from the callback of the one before.
fn chain(pool: Arc<Pool>, left: u64, sum: Arc<AtomicU64>, done: mpsc::Sender<()>) {
    let next = Arc::clone(&pool);
    let call = pool.task(square).on_success(move |result: &u64| {
        sum.fetch_add(*result, Ordering::SeqCst);
        match left {
            0 => done.send(()).unwrap(),
            _ => chain(Arc::clone(&next), left - 1, Arc::clone(&sum), done.clone()),
        }
    });
    drop(call.apply_async((left,)).unwrap());
}

fn c1_55_chains_of_submissions_from_callbacks(backend: Backend) {
    let case = Case::new();
    let pool = Arc::new(backend.pool(&case, 2));
    let sum = Arc::new(AtomicU64::new(0));
    let (sender, done) = mpsc::channel();
    for _ in 0..3 {
        chain(Arc::clone(&pool), 99, Arc::clone(&sum), sender.clone());
    }
    for _ in 0..3 {
        done.recv_timeout(SOON).unwrap();
    }
    assert_eq!(sum.load(Ordering::SeqCst), 3 * squares(0..100).iter().sum::<u64>());
    // and one that waits for a result in the callback
    let (inner, (sender, results)) = (Arc::clone(&pool), mpsc::channel());
    let call = pool.task(square).on_success(move |x: &u64| {
        sender.send((inner.apply(square, (*x,)), inner.map(square, 0..10))).unwrap();
    });
    assert_eq!(call.apply((3,)), Ok(9));
    assert_eq!(results.try_recv().unwrap(), (Ok(81), Ok(squares(0..10))));
}

fn errors_of(handles: &[&AsyncResult<u32>], errors: &mpsc::Receiver<TaskError>) -> Vec<TaskError> {
    handles.iter().for_each(|handle| handle.wait());
    errors.try_iter().collect()
}

fn c2_76_a_cancelled_task_calls_on_error(backend: Backend) {
    let case = Case::new();
    let gate = Gate::new();
    let pool = backend.pool(&case, 1);
    let first = pool.apply_async(wait_at, (gate.path(),)).unwrap();
    gate.await_arrivals(1);
    let (sender, errors) = mpsc::channel();
    let call = pool.task(wait_at).on_error(move |error| sender.send(error.clone()).unwrap());
    let queued = call.apply_async((gate.path(),)).unwrap();
    assert!(queued.cancel(), "it was waiting: it is cancelled, though its callback is not over");
    assert!(!queued.cancel());
    assert_eq!(errors_of(&[&queued], &errors), [TaskError::Cancelled]);
    assert_eq!(queued.get(), Err(TaskError::Cancelled));
    // all chunks of a map
    let mapped = call.map_async([gate.path(), gate.path()]).unwrap();
    assert!(mapped.cancel());
    assert_eq!(mapped.get(), Err(TaskError::Cancelled));
    assert_eq!(errors.try_iter().collect::<Vec<_>>(), [TaskError::Cancelled], "once");
    gate.let_pass(1);
    assert!(first.get().is_ok());
}

fn c2_76_a_terminated_pool_calls_on_error(backend: Backend) {
    let case = Case::new();
    let gate = Gate::new();
    let pool = backend.pool(&case, 1);
    let (sender, errors) = mpsc::channel();
    let call =
        pool.task(until_cancelled).on_error(move |error| sender.send(error.clone()).unwrap());
    let handles: Vec<_> = (0..3).map(|_| call.apply_async((gate.path(),)).unwrap()).collect();
    gate.await_arrivals(1);
    pool.terminate();
    pool.join().unwrap();
    assert_eq!(errors.try_iter().collect::<Vec<_>>(), [const { TaskError::Terminated }; 3]);
    assert!(handles.into_iter().all(|handle| handle.get() == Err(TaskError::Terminated)));
}

fn c2_77_on_done_of_a_task_that_has_ended_is_called_at_once(backend: Backend) {
    let case = Case::new();
    let gate = Gate::new();
    let pool = backend.pool(&case, 1);
    let (sender, done) = mpsc::channel();
    let tell = |what: &'static str| {
        let sender = sender.clone();
        move || sender.send(what).unwrap()
    };
    let handle = pool.apply_async(wait_at, (gate.path(),)).unwrap();
    handle.on_done(tell("one"));
    handle.on_done(tell("two"));
    assert!(done.recv_timeout(Duration::from_millis(5)).is_err());
    gate.let_pass(1);
    let mut first = [done.recv_timeout(SOON).unwrap(), done.recv_timeout(SOON).unwrap()];
    first.sort_unstable();
    assert_eq!(first, ["one", "two"]);
    handle.on_done(tell("late"));
    assert_eq!(done.recv_timeout(SOON), Ok("late"));
    assert!(handle.get().is_ok());
    let failed = pool.apply_async(halve, (1,)).unwrap();
    failed.on_done(tell("failed"));
    assert_eq!(done.recv_timeout(SOON), Ok("failed"));
    drop(failed);
    // the handle need not live
    pool.apply_async(square, (1,)).unwrap().on_done(tell("dropped"));
    assert_eq!(done.recv_timeout(SOON), Ok("dropped"));
}

fn c2_78_a_panicking_callback_changes_nothing(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 2);
    let call = pool
        .task(halve)
        .on_success(|_: &u64| panic!("in on_success"))
        .on_error(|_| panic!("in on_error"));
    for x in 0..10 {
        let handle = call.apply_async((x,)).unwrap();
        handle.on_done(|| panic!("in on_done"));
        assert_eq!(handle.get().is_ok(), x % 2 == 0);
    }
    let all = pool.task(halve).on_success(|_: &Vec<u64>| panic!("in a map's on_success"));
    assert_eq!(all.map([2, 4]), Ok(vec![1, 2]));
    let (sender, results) = mpsc::channel();
    let good = pool.task(square).on_success(move |x: &u64| sender.send(*x).unwrap());
    assert_eq!(good.apply((5,)), Ok(25));
    assert_eq!(results.try_recv(), Ok(25), "later callbacks are called");
    pool.close();
    pool.join_timeout(SOON).unwrap();
}

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("in the payload's drop");
        }
    }
}

fn explode() {
    std::panic::panic_any(Bomb);
}

fn c2_79_a_payload_whose_drop_panics_does_not_stop_the_callbacks(backend: Backend) {
    let case = Case::new();
    let pool = backend.builder(&case, 1).on_event(|_| explode()).build().unwrap();
    let call = pool.task(halve).on_success(|_: &u64| explode()).on_error(|_| explode());
    let handle = call.apply_async((4,)).unwrap();
    handle.on_done(explode);
    assert_eq!(handle.get(), Ok(2));
    assert_eq!(call.apply((3,)), Err(TaskError::Failed("3 is odd".to_owned())));
    let (sender, done) = mpsc::channel();
    pool.apply_async(square, (1,)).unwrap().on_done(move || sender.send(()).unwrap());
    done.recv_timeout(SOON).unwrap();
    pool.close();
    pool.join_timeout(SOON).unwrap();
}

fn c2_80_terminate_from_a_callback(backend: Backend) {
    let case = Case::new();
    let gate = Gate::new();
    let pool = Arc::new(backend.pool(&case, 2));
    let ends = Arc::clone(&pool);
    let others: Vec<_> =
        (0..10).map(|_| pool.apply_async(until_cancelled, (gate.path(),)).unwrap()).collect();
    gate.await_arrivals(2);
    others[0].on_done(move || ends.terminate());
    assert!(others[0].request_cancel());
    assert!(others[0].wait_timeout(SOON));
    for handle in others.into_iter().skip(1) {
        assert_eq!(handle.get(), Err(TaskError::Terminated));
    }
    pool.join_timeout(SOON).unwrap();
    // from the one that is told the result
    let pool = Arc::new(backend.pool(&case, 2));
    let ends = Arc::clone(&pool);
    let call = pool.task(square).on_success(move |_: &u64| {
        ends.terminate();
        ends.terminate();
    });
    assert_eq!(call.apply((7,)), Ok(49), "it had its result");
    pool.join_timeout(SOON).unwrap();
    case.assert_nothing_left();
}

fn c2_80_a_callback_can_not_join_its_pool(backend: Backend) {
    let case = Case::new();
    let pool = Arc::new(backend.pool(&case, 1));
    let (inner, (sender, joined)) = (Arc::clone(&pool), mpsc::channel());
    let call = pool.task(square).on_success(move |_: &u64| {
        inner.close();
        sender.send((inner.join(), inner.join_timeout(SOON))).unwrap();
    });
    assert_eq!(call.apply((7,)), Ok(49));
    assert_eq!(
        joined.recv().unwrap(),
        (Err(PoolError::WouldDeadlock), Err(PoolError::WouldDeadlock))
    );
    pool.join_timeout(SOON).unwrap();
}

fn c1_26_join_waits_for_callbacks(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 2);
    let (open, opened) = mpsc::channel::<()>();
    let opened = Mutex::new(opened);
    let called = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&called);
    let call = pool.task(square).on_success(move |_: &u64| {
        opened.lock().unwrap().recv().unwrap();
        count.fetch_add(1, Ordering::SeqCst);
    });
    let handles: Vec<_> = (0..5).map(|x| call.apply_async((x,)).unwrap()).collect();
    pool.close();
    let short = Duration::from_millis(5);
    assert_eq!(pool.join_timeout(short), Err(PoolError::TimedOut(short)));
    assert!(!handles[0].ready(), "not before its callback has returned");
    for _ in 0..5 {
        open.send(()).unwrap();
    }
    pool.join().unwrap();
    assert_eq!(called.load(Ordering::SeqCst), 5);
    assert!(handles.iter().all(AsyncResult::ready));
}

fn c1_26_a_slow_callback_holds_up_no_other_task(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 1);
    let (open, opened) = mpsc::channel::<()>();
    let opened = Mutex::new(opened);
    let call = pool.task(square).on_success(move |_: &u64| {
        let _ = opened.lock().unwrap().recv();
    });
    let slow = call.apply_async((6,)).unwrap();
    assert_eq!(pool.map(square, 0..100).unwrap(), squares(0..100));
    assert!(!slow.ready());
    drop(open);
    assert_eq!(slow.get(), Ok(36));
    // a terminate does not wait for one either
    let (open, opened) = mpsc::channel::<()>();
    let opened = Mutex::new(opened);
    let call = pool.task(square).on_success(move |_: &u64| {
        let _ = opened.lock().unwrap().recv();
    });
    let slow = call.apply_async((6,)).unwrap();
    assert_eq!(pool.apply(square, (2,)), Ok(4));
    within(Duration::from_secs(3), "terminate", || pool.terminate());
    drop(open);
    assert!(slow.wait_timeout(SOON));
}

fn c1_26_callbacks_do_not_run_on_the_callers_thread(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 2);
    let (sender, seen) = mpsc::channel();
    let call = pool.task(square).on_success(move |_: &u64| {
        let thread = std::thread::current();
        sender.send((thread.id(), thread.name().map(str::to_owned))).unwrap();
    });
    for x in 0..10 {
        assert_eq!(call.apply((x,)), Ok(x * x));
    }
    let seen: Vec<(ThreadId, Option<String>)> = seen.try_iter().collect();
    assert_eq!(seen.len(), 10);
    let caller = std::thread::current().id();
    assert!(seen.iter().all(|(thread, _)| *thread == seen[0].0 && *thread != caller));
    assert!(seen[0].1.as_deref().is_some_and(|name| name.ends_with("-callbacks")), "{seen:?}");
}
