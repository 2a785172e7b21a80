//! Everything at once: cancellations, sizes that change, workers that are replaced, and ends that come in the middle.

use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use pool_core::{Pool, PoolEvent, SubmitError, TaskError};
use pool_tests::{Case, Ledger, eventually};

use crate::{Backend, SOON, square, squares};

with_both![
    c2_91_cancelling_at_any_moment_is_exact,
    c4_159_sizes_ages_and_recycling_under_load_lose_nothing,
    c4_140_every_handle_settles_however_the_pool_ends,
    c4_145_a_pool_dropped_on_its_own_callback_and_event_threads,
    c2_80_terminate_from_an_observer_of_events,
];

/// As good as random, and the same each time.
fn mixed(x: u64) -> u64 {
    let x = (x ^ (x >> 31)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB) >> 16
}

fn note(ledger: String, number: u64) -> u64 {
    Ledger::note(&ledger, number);
    number
}

fn c2_91_cancelling_at_any_moment_is_exact(backend: Backend) {
    let case = Case::new();
    let ledger = Ledger::new();
    let pool = backend.pool(&case, 3);
    let told = Arc::new(AtomicU64::new(0));
    let mut cancelled = 0;
    for round in 0..20 {
        let (good, bad) = (Arc::clone(&told), Arc::clone(&told));
        let call = pool
            .task(note)
            .on_success(move |_: &u64| {
                good.fetch_add(1, Ordering::SeqCst);
            })
            .on_error(move |_| {
                bad.fetch_add(1, Ordering::SeqCst);
            });
        let handles: Vec<_> =
            (0..40).map(|n| call.apply_async((ledger.path(), round * 40 + n)).unwrap()).collect();
        // while they run
        let cancels: Vec<bool> = (0..40)
            .zip(&handles)
            .map(|(n, handle)| mixed(round * 40 + n).is_multiple_of(3) && handle.cancel())
            .collect();
        let outcomes = handles.into_iter().map(pool_core::AsyncResult::get);
        for (n, (was_cancelled, outcome)) in cancels.into_iter().zip(outcomes).enumerate() {
            let number = round * 40 + n as u64;
            match outcome {
                Ok(result) => assert!(!was_cancelled && result == number),
                Err(TaskError::Cancelled) => {
                    assert!(was_cancelled);
                    cancelled += 1;
                    // a thread can't be stopped: what was cancelled never began
                    assert!(!backend.is_threads() || ledger.count(number) == 0);
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    ledger.assert_at_most_once();
    pool.close();
    pool.join_timeout(SOON).unwrap();
    assert_eq!(told.load(Ordering::SeqCst), 800, "one callback each, {cancelled} were cancelled");
    let stats = pool.stats();
    assert_eq!((stats.submitted, stats.finished), (800, 800));
}

fn c4_159_sizes_ages_and_recycling_under_load_lose_nothing(backend: Backend) {
    let case = Case::with_limit(Duration::from_secs(180));
    let finished = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&finished);
    let observer = move |event: &PoolEvent| {
        if matches!(event, PoolEvent::TaskFinished { .. }) {
            count.fetch_add(1, Ordering::SeqCst);
        }
    };
    let pool = backend
        .builder(&case, 4)
        .min_size(1)
        .idle_timeout(Duration::from_millis(5))
        .max_age(Duration::from_millis(20))
        .max_tasks_per_child(NonZero::new(17).unwrap())
        .max_pending(50)
        .on_event(observer)
        .build()
        .unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let pool = &pool;
            scope.spawn(move || {
                for round in 0..60 {
                    let x = mixed(thread * 1_000 + round) % 1_000;
                    match x % 5 {
                        0 => assert_eq!(pool.apply(square, (x,)), Ok(x * x)),
                        1 => assert_eq!(pool.map(square, 0..x).unwrap(), squares(0..x)),
                        2 => {
                            let handles: Vec<_> = (0..20)
                                .map(|i| pool.apply_async(square, (x + i,)).unwrap())
                                .collect();
                            let sum = pool_core::as_completed(handles).map(|h| h.get().unwrap());
                            assert_eq!(sum.sum::<u64>(), squares(x..x + 20).iter().sum());
                        }
                        3 => assert!(
                            pool.task(square)
                                .window(9)
                                .imap(0..x % 100)
                                .map(Result::unwrap)
                                .eq(squares(0..x % 100))
                        ),
                        _ => pool.resize(1 + x as usize % 6).unwrap(),
                    }
                }
            });
        }
    });
    pool.close();
    pool.join_timeout(SOON).unwrap();
    let stats = pool.stats();
    assert_eq!((stats.submitted, stats.queued, stats.leased), (stats.finished, 0, 0));
    assert_eq!((stats.workers_lost, stats.retried), (0, 0), "{stats:?}");
    assert_eq!(finished.load(Ordering::SeqCst), stats.submitted, "each was told once");
}

fn c4_140_every_handle_settles_however_the_pool_ends(backend: Backend) {
    let case = Case::new();
    for round in 0..30u64 {
        let pool = backend.builder(&case, 2).max_pending(100).build().unwrap();
        let told = Arc::new(AtomicU64::new(0));
        let (good, bad) = (Arc::clone(&told), Arc::clone(&told));
        let submitted = std::thread::scope(|scope| {
            let submitters: Vec<_> = (0..2)
                .map(|_| {
                    let call = pool
                        .task(square)
                        .on_success({
                            let good = Arc::clone(&good);
                            move |_: &u64| {
                                good.fetch_add(1, Ordering::SeqCst);
                            }
                        })
                        .on_error({
                            let bad = Arc::clone(&bad);
                            move |_| {
                                bad.fetch_add(1, Ordering::SeqCst);
                            }
                        });
                    scope.spawn(move || {
                        let mut handles = Vec::new();
                        loop {
                            match call.apply_async((7,)) {
                                Ok(handle) => handles.push(handle),
                                Err(SubmitError::Closed) => return handles,
                                Err(error) => panic!("{error}"),
                            }
                        }
                    })
                })
                .collect();
            eventually(SOON, "it is at work", || pool.stats().finished > mixed(round) % 200);
            match round % 3 {
                0 => pool.terminate(),
                1 => pool.close(),
                _ => {
                    pool.resize(1 + round as usize % 4).unwrap();
                    pool.close();
                    pool.terminate();
                }
            }
            submitters.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        pool.join_timeout(SOON).unwrap();
        let count = submitted.len() as u64;
        for handle in submitted {
            match handle.get() {
                Ok(result) => assert_eq!(result, 49),
                Err(error) => assert!(error == TaskError::Terminated && round % 3 != 1, "{error}"),
            }
        }
        assert_eq!(told.load(Ordering::SeqCst), count, "one callback each");
    }
}

fn c4_145_a_pool_dropped_on_its_own_callback_and_event_threads(backend: Backend) {
    let case = Case::new();
    // the last owner is the observer of events
    let holder: Arc<Mutex<Option<Pool>>> = Arc::default();
    let (sender, dropped) = mpsc::channel();
    let held = Arc::clone(&holder);
    let observer = move |event: &PoolEvent| {
        if matches!(event, PoolEvent::TaskFinished { .. }) {
            drop(held.lock().unwrap().take());
            let _ = sender.send(());
        }
    };
    let mut guard = holder.lock().unwrap();
    let pool = backend.builder(&case, 2).on_event(observer).build().unwrap();
    let handle = pool.apply_async(square, (3,)).unwrap();
    *guard = Some(pool);
    drop(guard);
    dropped.recv_timeout(SOON).unwrap();
    assert_eq!(handle.get(), Ok(9));
    assert!(holder.lock().unwrap().is_none());
}

fn c2_80_terminate_from_an_observer_of_events(backend: Backend) {
    let case = Case::new();
    let holder: Arc<Mutex<Option<Arc<Pool>>>> = Arc::default();
    let held = Arc::clone(&holder);
    let observer = move |event: &PoolEvent| {
        let pool = held.lock().unwrap().clone();
        if let (PoolEvent::TaskStarted { .. }, Some(pool)) = (event, pool) {
            pool.terminate();
            assert!(pool.join().is_err(), "it would wait for itself");
        }
    };
    let pool = Arc::new(backend.builder(&case, 2).on_event(observer).build().unwrap());
    *holder.lock().unwrap() = Some(Arc::clone(&pool));
    let handle = pool.apply_async(std::thread::park, ());
    if let Ok(handle) = handle {
        assert_eq!(handle.get(), Err(TaskError::Terminated));
    }
    pool.join_timeout(SOON).unwrap();
    *holder.lock().unwrap() = None;
}

/// The pool that a task of its own drops.
static OWNED: Mutex<Option<Pool>> = Mutex::new(None);

#[test]
fn c4_145_a_pool_of_threads_dropped_by_its_own_task() {
    let _case = Case::new();
    let drops = || drop(OWNED.lock().unwrap().take());
    let mut owned = OWNED.lock().unwrap();
    let pool = owned.insert(Pool::builder().threads(2).build().unwrap());
    let handle = pool.apply_async(drops, ()).unwrap();
    let other = pool.apply_async(square, (3,)).unwrap();
    drop(owned);
    assert_eq!(handle.get(), Err(TaskError::Terminated), "while it ran");
    assert!(matches!(other.get(), Ok(9) | Err(TaskError::Terminated)));
    assert!(OWNED.lock().unwrap().is_none());
}
