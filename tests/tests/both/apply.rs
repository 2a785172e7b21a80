//! One task at a time, and what becomes of its errors.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};

use pool_core::{SubmitError, TaskError, TrySubmitError};
use pool_tests::{Case, Gate, eventually};
use serde::{Deserialize, Serialize};

use crate::{Backend, SOON, square, squares, wait_at};

with_both![
    c1_1_apply_gives_what_the_function_gives,
    c1_72_one_failing_task_does_not_affect_others,
    c1_21_a_panic_is_told_with_message_place_and_backtrace,
    c1_22_errors_are_the_same_with_both_kinds_of_workers,
    c2_98_an_error_value_is_a_success_and_an_anyhow_error_a_failure,
    c1_46_try_apply_async_hands_the_arguments_back,
    c1_46_apply_async_waits_for_room_and_is_woken,
    c1_54_ten_threads_use_one_pool,
    c1_51_saturation_does_not_start_more_workers,
    c1_70_workers_stay_the_same_across_calls,
];

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Shape {
    Nothing,
    Circle { radius: f64, label: Option<String> },
    Path(Vec<(i32, i32)>, BTreeMap<String, Box<Shape>>),
}

fn c1_22_errors_are_the_same_with_both_kinds_of_workers(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 1);
    let fails = || -> anyhow::Result<u8> {
        Err(anyhow::anyhow!("the cause").context("the middle").context("the end"))
    };
    let error = TaskError::Failed("the end: the middle: the cause".to_owned());
    assert_eq!(pool.apply(fails, ()), Err(error.clone()));
    assert_eq!(pool.map(|()| -> anyhow::Result<u8> { fails_too() }, [()]), Err(error));
    let text = pool.apply(|| -> u8 { panic!("{}", "formatted") }, ()).unwrap_err().to_string();
    assert!(text.ends_with(": formatted") && text.contains("apply.rs:"), "{text}");
}

fn fails_too() -> anyhow::Result<u8> {
    Err(anyhow::anyhow!("the cause").context("the middle").context("the end"))
}

fn c1_70_workers_stay_the_same_across_calls(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 2);
    let who = |_: u32| nix::unistd::gettid().as_raw();
    let first: HashSet<_> = pool.task(who).chunk_size(1).map(0..50).unwrap().into_iter().collect();
    for _ in 0..20 {
        let next = pool.task(who).chunk_size(1).map(0..50).unwrap();
        assert!(next.iter().collect::<HashSet<_>>().len() + first.len() <= 4);
    }
    assert_eq!(pool.stats().workers_started, 2);
}

fn c1_1_apply_gives_what_the_function_gives(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 2);
    assert_eq!(pool.apply(square, (7,)), Ok(49));
    assert_eq!(pool.apply(|| "nothing in".to_owned(), ()), Ok("nothing in".to_owned()));
    assert_eq!(pool.apply(|_: u8| (), (1,)), Ok(()));
    let eight = |a: u8, b: u16, c: u32, d: u64, e: i8, f: f32, g: char, h: String| {
        format!("{a} {b} {c} {d} {e} {f} {g} {h}")
    };
    let args = (1, 2, 3, 4, -5, 0.5, 'x', "y".to_owned());
    assert_eq!(pool.apply(eight, args), Ok("1 2 3 4 -5 0.5 x y".to_owned()));
    let inner = BTreeMap::from([
        ("none".to_owned(), Box::new(Shape::Nothing)),
        ("c".to_owned(), Box::new(Shape::Circle { radius: 1.5, label: Some("ü".to_owned()) })),
    ]);
    let shape = Shape::Path(vec![(1, -1), (i32::MIN, i32::MAX)], inner);
    assert_eq!(pool.apply(|shape: Shape| shape, (shape.clone(),)), Ok(shape));
    let here = pool.apply(std::process::id, ()) == Ok(std::process::id());
    assert_eq!(here, backend.is_threads());
}

fn c1_72_one_failing_task_does_not_affect_others(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 4);
    let panics = |x: u32| {
        assert!(!x.is_multiple_of(4), "no multiples of four: {x}");
        x
    };
    let handles: Vec<_> = (0..16).map(|x| pool.apply_async(panics, (x,)).unwrap()).collect();
    let outcomes: Vec<_> = handles.into_iter().map(pool_core::AsyncResult::get).collect();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 12);
    assert_eq!(pool.stats().workers_started, 4, "a panic costs no worker");
}

fn c1_21_a_panic_is_told_with_message_place_and_backtrace(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 1);
    fn the_guilty_one(index: usize) -> u32 {
        [1, 2, 3][index]
    }
    let line = line!() - 2;
    match pool.apply(the_guilty_one, (7,)).unwrap_err() {
        TaskError::Panicked { message, location, backtrace } => {
            assert_eq!(message, "index out of bounds: the len is 3 but the index is 7");
            assert!(location.contains(&format!("apply.rs:{line}:")), "{location}");
            assert!(backtrace.contains("the_guilty_one"), "{backtrace}");
        }
        other => panic!("{other:?}"),
    }
    // a payload that is no text, and one whose drop panics
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("in the payload's drop");
        }
    }
    let number = pool.apply(
        || {
            if true {
                std::panic::panic_any(7u8)
            }
        },
        (),
    );
    assert!(matches!(number, Err(TaskError::Panicked { .. })), "{number:?}");
    let bomb = pool.apply(
        || {
            if true {
                std::panic::panic_any(Bomb)
            }
        },
        (),
    );
    assert!(matches!(bomb, Err(TaskError::Panicked { .. })), "{bomb:?}");
    assert_eq!(pool.apply(square, (3,)), Ok(9));
    assert_eq!(pool.stats().workers_started, 1);
}

fn c2_98_an_error_value_is_a_success_and_an_anyhow_error_a_failure(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 1);
    let parse = |text: String| text.parse::<i32>().map_err(|error| error.to_string());
    let handle = pool.apply_async(parse, ("x".to_owned(),)).unwrap();
    handle.wait();
    assert!(handle.successful());
    assert_eq!(handle.get(), Ok(Err("invalid digit found in string".to_owned())));

    fn load(path: String) -> anyhow::Result<usize> {
        use anyhow::Context;
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        Ok(text.len())
    }
    let handle = pool.apply_async(load, ("/no/such/file".to_owned(),)).unwrap();
    handle.wait();
    assert!(handle.ready() && !handle.successful());
    let Err(TaskError::Failed(text)) = handle.get() else { panic!() };
    assert_eq!(text, "cannot read /no/such/file: No such file or directory (os error 2)");
    assert!(pool.apply(load, ("/proc/self/stat".to_owned(),)).is_ok());
}

fn c1_46_try_apply_async_hands_the_arguments_back(backend: Backend) {
    let case = Case::new();
    let gate = Gate::new();
    let pool = backend.builder(&case, 1).max_pending(2).build().unwrap();
    let one = pool.try_apply_async(wait_at, (gate.path(),)).unwrap();
    let two = pool.try_apply_async(wait_at, (gate.path(),)).unwrap();
    let text = vec!["my own".to_owned()];
    match pool.try_apply_async(|text: Vec<String>| text, (text,)) {
        Err(TrySubmitError::Full((text,))) => assert_eq!(text, ["my own"]),
        other => panic!("{other:?}"),
    }
    gate.let_pass(2);
    assert!(one.get().is_ok() && two.get().is_ok());
    assert_eq!(pool.try_apply_async(square, (4,)).unwrap().get(), Ok(16));
    pool.close();
    match pool.try_apply_async(square, (4,)) {
        Err(error @ TrySubmitError::Closed(_)) => assert_eq!(error.into_args(), (4,)),
        other => panic!("{other:?}"),
    }
}

fn c1_46_apply_async_waits_for_room_and_is_woken(backend: Backend) {
    let case = Case::new();
    let gate = Gate::new();
    let pool = backend.builder(&case, 1).max_pending(3).build().unwrap();
    let handles: Vec<_> =
        (0..3).map(|_| pool.apply_async(wait_at, (gate.path(),)).unwrap()).collect();
    gate.await_arrivals(1);
    let submitted = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let fourth = scope.spawn(|| {
            let handle = pool.apply_async(square, (6,));
            submitted.store(1, Ordering::SeqCst);
            handle.unwrap().get()
        });
        assert_eq!(submitted.load(Ordering::SeqCst), 0);
        assert_eq!(pool.stats().submitted, 3);
        gate.let_pass(3);
        assert_eq!(fourth.join().unwrap(), Ok(36));
    });
    assert!(handles.into_iter().all(|handle| handle.get().is_ok()));
    // and a terminated pool wakes whoever waits
    let gate = Gate::new();
    let handles: Vec<_> =
        (0..3).map(|_| pool.apply_async(wait_at, (gate.path(),)).unwrap()).collect();
    std::thread::scope(|scope| {
        let fourth = scope.spawn(|| pool.apply_async(square, (6,)).map(drop));
        gate.await_arrivals(1);
        pool.terminate();
        assert_eq!(fourth.join().unwrap(), Err(SubmitError::Closed));
    });
    drop(handles);
}

fn c1_54_ten_threads_use_one_pool(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 3);
    std::thread::scope(|scope| {
        for thread in 0..10u64 {
            let pool = &pool;
            scope.spawn(move || {
                for round in 0..50 {
                    let x = thread * 1_000 + round;
                    match round % 4 {
                        0 => assert_eq!(pool.apply(square, (x,)), Ok(x * x)),
                        1 => {
                            let handles: Vec<_> = (0..20)
                                .map(|i| pool.apply_async(square, (x + i,)).unwrap())
                                .collect();
                            for (i, handle) in handles.into_iter().enumerate() {
                                assert_eq!(handle.get(), Ok(square(x + i as u64)));
                            }
                        }
                        2 => assert_eq!(pool.map(square, x..x + 30).unwrap(), squares(x..x + 30)),
                        _ => assert!(
                            pool.imap(square, x..x + 30).map(Result::unwrap).eq(squares(x..x + 30))
                        ),
                    }
                }
            });
        }
    });
    let stats = pool.stats();
    assert_eq!((stats.queued, stats.leased, stats.workers_started), (0, 0, 3));
    assert_eq!(stats.submitted, stats.finished);
}

fn c1_51_saturation_does_not_start_more_workers(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 3);
    let gate = Gate::new();
    let handles: Vec<_> =
        (0..45).map(|_| pool.apply_async(wait_at, (gate.path(),)).unwrap()).collect();
    gate.await_arrivals(3);
    assert_eq!(pool.workers().len(), 3);
    // row 74: only running tasks have a process
    eventually(SOON, "three tasks have a pid", || {
        handles.iter().filter(|handle| handle.pid().is_some()).count() == 3
    });
    gate.let_pass(45);
    let pids: HashSet<_> = handles.into_iter().map(|handle| handle.get().unwrap()).collect();
    assert!(pids.len() <= 3);
    assert_eq!(pool.stats().workers_started, 3);
}
