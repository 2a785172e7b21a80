//! What the verbs, handles and settings of a pool mean: the rows of the conformance list that concern what exists.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]

use std::collections::{BTreeMap, HashSet};
use std::num::NonZero;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pool_core::{Pool, PoolError, SubmitError, TaskError, TrySubmitError, WorkerState};
use pool_tests::fault::Fault;
use pool_tests::{Case, Gate, Ledger, eventually, seats};
use serde::{Deserialize, Serialize};

pool_core::test_support!();

const SOON: Duration = Duration::from_secs(20);

fn square(x: u64) -> u64 {
    x * x
}

fn squares(range: std::ops::Range<u64>) -> Vec<u64> {
    range.map(square).collect()
}

fn wait_at(gate: String) -> u32 {
    Gate::wait_at(&gate);
    std::process::id()
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Shape {
    Nothing,
    Circle { radius: f64, label: Option<String> },
    Path(Vec<(i32, i32)>, BTreeMap<String, Box<Shape>>),
}

// ---- apply ----

#[test]
fn c1_1_apply_gives_what_the_function_gives() {
    let case = Case::new();
    let pool = case.pool(2);
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
    assert_ne!(pool.apply(std::process::id, ()), Ok(std::process::id()));
}

#[test]
fn c1_72_one_failing_task_does_not_affect_others() {
    let case = Case::new();
    let pool = case.pool(4);
    let panics = |x: u32| {
        assert!(!x.is_multiple_of(4), "no multiples of four: {x}");
        x
    };
    let handles: Vec<_> = (0..16).map(|x| pool.apply_async(panics, (x,)).unwrap()).collect();
    let outcomes: Vec<_> = handles.into_iter().map(pool_core::AsyncResult::get).collect();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 12);
    assert_eq!(pool.stats().workers_started, 4, "a panic costs no worker");
}

#[test]
fn c1_21_a_panic_is_told_with_message_place_and_backtrace() {
    let case = Case::new();
    let pool = case.pool(1);
    fn the_guilty_one(index: usize) -> u32 {
        [1, 2, 3][index]
    }
    let line = line!() - 2;
    match pool.apply(the_guilty_one, (7,)).unwrap_err() {
        TaskError::Panicked { message, location, backtrace } => {
            assert_eq!(message, "index out of bounds: the len is 3 but the index is 7");
            assert!(location.contains(&format!("conformance.rs:{line}:")), "{location}");
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

#[test]
fn c2_98_an_error_value_is_a_success_and_an_anyhow_error_a_failure() {
    let case = Case::new();
    let pool = case.pool(1);
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

#[test]
fn task_names_and_numbers_are_in_errors() {
    let case = Case::new();
    let pool = case.pool(1);
    pool.apply(square, (1,)).unwrap();
    fn leaves(code: i32) {
        Fault::ExitAtOnce(code).happen();
    }
    match pool.apply(leaves, (5,)).unwrap_err() {
        TaskError::WorkerLost { task, worker, pid, .. } => {
            assert!(task.name.ends_with("leaves"), "{}", task.name);
            assert_eq!((task.id.get(), worker.get()), (2, 0));
            assert!(pid > 1);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn try_apply_async_hands_the_arguments_back() {
    let case = Case::new();
    let gate = Gate::new();
    let pool = case.builder(1).max_pending(2).build().unwrap();
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

#[test]
fn apply_async_waits_for_room_and_is_woken() {
    let case = Case::new();
    let gate = Gate::new();
    let pool = case.builder(1).max_pending(3).build().unwrap();
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

// ---- maps ----

#[test]
fn c1_2_map_equals_a_serial_map_for_every_chunk_size() {
    let case = Case::new();
    let pool = case.pool(2);
    for count in [1, 2, 3, 15, 16, 17, 100, 1_000] {
        assert_eq!(pool.map(square, 0..count).unwrap(), squares(0..count), "{count}");
        for size in [1, 6, 40, 50, 10_000] {
            let mapped = pool.task(square).chunk_size(size).map(0..count);
            assert_eq!(mapped.unwrap(), squares(0..count), "{count} by {size}");
        }
    }
    // an input that does not know its length
    let odd = (0..1_000).filter(|x| x % 2 == 1);
    let expected: Vec<_> = odd.clone().map(square).collect();
    assert_eq!(pool.map(square, odd).unwrap(), expected);
}

#[test]
fn c1_3_starmap_unpacks_tuples() {
    let case = Case::new();
    let pool = case.pool(2);
    let pairs: Vec<(u64, u32)> = (0..100).map(|x| (x, 3)).collect();
    let cubes: Vec<u64> = (0..100).map(|x: u64| x.pow(3)).collect();
    assert_eq!(pool.starmap(u64::pow, pairs.clone()).unwrap(), cubes);
    assert_eq!(pool.starmap_async(u64::pow, pairs).unwrap().get().unwrap(), cubes);
}

#[test]
fn c1_7_empty_inputs_are_done_at_once() {
    let case = Case::new();
    let pool = case.pool(2);
    let none = std::iter::empty::<u64>;
    assert_eq!(pool.map(square, none()), Ok(vec![]));
    assert_eq!(pool.task(square).chunk_size(3).map(none()), Ok(vec![]));
    let handle = pool.map_async(square, none()).unwrap();
    assert!(handle.ready() && handle.wait_timeout(Duration::ZERO));
    assert_eq!(handle.get(), Ok(vec![]));
    assert_eq!(pool.starmap(u64::pow, std::iter::empty::<(u64, u32)>()), Ok(vec![]));
    assert_eq!(pool.imap(square, none()).count(), 0);
    assert_eq!(pool.imap_unordered(square, none()).count(), 0);
    assert_eq!(pool.stats().submitted, 0);
    pool.close();
    assert_eq!(pool.map(square, none()), Err(TaskError::Terminated), "closed, even for nothing");
    assert!(matches!(pool.map_async(square, none()), Err(SubmitError::Closed)));
}

#[test]
#[should_panic(expected = "chunk")]
fn c1_60_a_chunk_of_nothing_is_refused() {
    let case = Case::new();
    let pool = case.pool(1);
    let _ = pool.task(square).chunk_size(0).map(0..3);
}

#[test]
#[should_panic(expected = "window")]
fn c1_14_a_window_of_nothing_is_refused() {
    let case = Case::new();
    let pool = case.pool(1);
    let _ = pool.task(square).window(0).imap(0..3).count();
}

#[test]
fn c1_23_a_failing_map_runs_all_items_and_tells_the_first_error_in_order() {
    let case = Case::new();
    let ledger = Ledger::new();
    let pool = case.pool(2);
    let fails = |(ledger, x): (String, u64)| -> anyhow::Result<u64> {
        Ledger::note(&ledger, x);
        anyhow::ensure!(x != 20 && x != 70, "{x} is out of the question");
        Ok(x)
    };
    for size in [1, 7, 100] {
        let ledger = Ledger::new();
        let items = (0..100).map(|x| (ledger.path(), x));
        let error = pool.task(fails).chunk_size(size).map(items).unwrap_err();
        assert_eq!(error, TaskError::Failed("20 is out of the question".to_owned()));
        assert_eq!(ledger.notes().len(), 100, "all items are run");
        ledger.assert_at_most_once();
    }
    let items = (0..100).map(|x| (ledger.path(), x));
    let outcomes = pool.map_async(fails, items).unwrap().get_each();
    let failed: Vec<_> = (0..100).filter(|x| outcomes[*x].is_err()).collect();
    assert_eq!(failed, [20, 70]);
    // large errors, as large as they may be
    let shouts = |x: u64| -> anyhow::Result<u64> { anyhow::bail!("{x}: {}", "e".repeat(1 << 20)) };
    let outcomes = pool.task(shouts).chunk_size(1).map_async(0..20).unwrap().get_each();
    assert!(outcomes.iter().all(|o| matches!(o, Err(TaskError::Failed(t)) if t.len() > 1_000_000)));
}

#[test]
fn c1_9_a_panicking_input_iterator_meets_the_caller_and_the_pool_goes_on() {
    let case = Case::new();
    let pool = case.pool(2);
    let bad = || (0..100u64).inspect(|x| assert!(*x != 30, "the input breaks off"));
    let caught = |call: &dyn Fn()| {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call));
        let message = *outcome.unwrap_err().downcast::<&str>().unwrap();
        assert_eq!(message, "the input breaks off");
    };
    for _ in 0..3 {
        caught(&|| drop(pool.map(square, bad())));
        caught(&|| drop(pool.task(square).chunk_size(7).map(bad())));
        caught(&|| drop(pool.imap(square, bad()).collect::<Vec<_>>()));
        caught(&|| drop(pool.imap_unordered(square, bad()).collect::<Vec<_>>()));
        assert_eq!(pool.map(square, 0..10).unwrap(), squares(0..10));
    }
    // row 12: what lies before the error is given first
    let mut results = pool.task(square).window(1).imap(bad());
    for x in 0..30 {
        assert_eq!(results.next(), Some(Ok(x * x)));
    }
    drop(results);
    pool.close();
    pool.join().unwrap();
}

#[test]
fn c1_11_imap_is_ordered_and_stays_at_its_end() {
    let case = Case::new();
    let pool = case.pool(2);
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

#[test]
fn c1_13_imap_unordered_does_not_wait_for_a_slow_item() {
    let case = Case::new();
    let gate = Gate::new();
    let pool = case.pool(2);
    let task = |(gate, x): (String, u64)| {
        if x == 0 {
            Gate::wait_at(&gate);
        }
        x
    };
    let items = (0..10).map(|x| (gate.path(), x));
    let mut results = pool.imap_unordered(task, items);
    let mut first: Vec<_> = results.by_ref().take(9).map(Result::unwrap).collect();
    first.sort_unstable();
    assert_eq!(first, (1..10).collect::<Vec<_>>());
    gate.let_pass(1);
    assert_eq!(results.next(), Some(Ok(0)));
    assert_eq!(results.next(), None);
}

#[test]
fn c1_14_imap_reads_at_most_its_window_ahead_of_an_endless_input() {
    let case = Case::new();
    let pool = case.pool(2);
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

#[test]
fn c1_15_a_partly_consumed_imap_does_not_hinder_close_and_join() {
    let case = Case::new();
    let pool = case.pool(2);
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

#[test]
fn c1_58_an_items_error_does_not_end_an_imap() {
    let case = Case::new();
    let pool = case.pool(2);
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

#[test]
fn c1_62_two_maps_at_once_are_both_right() {
    let case = Case::new();
    let pool = case.pool(2);
    let one = pool.map_async(square, 0..5_000).unwrap();
    let other = pool.map_async(|x: u64| x + 1, 0..5_000).unwrap();
    let mixed: Vec<_> = pool.imap(square, 0..10).zip(pool.imap(|x: u64| x, 0..10)).collect();
    assert!(mixed.into_iter().all(|(a, b)| a.unwrap() == square(b.unwrap())));
    assert_eq!(other.get().unwrap(), (1..5_001).collect::<Vec<_>>());
    assert_eq!(one.get().unwrap(), squares(0..5_000));
}

#[test]
fn c1_54_ten_threads_use_one_pool() {
    let case = Case::new();
    let pool = case.pool(3);
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

#[test]
fn c1_51_saturation_does_not_start_more_processes() {
    let case = Case::new();
    let pool = case.pool(3);
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

// ---- sizes and settings ----

#[test]
fn c1_17_senseless_settings_are_refused() {
    let case = Case::new();
    for size in [0, 1 << 40] {
        let error = case.builder(size).build().unwrap_err();
        assert!(matches!(&error, PoolError::Config(text) if text.contains("processes")), "{error}");
    }
    assert!(matches!(Pool::new(0), Err(PoolError::Config(_))));
    assert!(matches!(case.builder(1).max_pending(0).build(), Err(PoolError::Config(_))));
    let gone = case.builder(1).current_dir("/no/such/directory").build().unwrap_err();
    assert!(matches!(&gone, PoolError::StartFailed(_)), "{gone:?}");
}

#[test]
fn c1_34_a_pool_of_200_workers() {
    let case = Case::new();
    let pool = case.pool(200);
    assert_eq!(seats(&pool, 200).len(), 200);
    assert_eq!(pool.task(square).chunk_size(1).map(0..2_000).unwrap(), squares(0..2_000));
    pool.close();
    pool.join().unwrap();
}

static TABLE: OnceLock<Vec<u64>> = OnceLock::new();

fn load_table(ledger: String, size: u64) {
    Ledger::note(&ledger, u64::from(std::process::id()));
    TABLE.set(squares(0..size)).unwrap();
}

#[test]
fn c1_35_the_initializer_runs_once_per_worker_before_its_first_task() {
    let case = Case::new();
    let ledger = Ledger::new();
    let builder = case.builder(3).initializer(load_table, (ledger.path(), 100));
    let pool = builder.build().unwrap();
    let look_up = |i: usize| TABLE.get().map(|table| table[i]);
    let found = pool.task(look_up).chunk_size(1).map(0..100).unwrap();
    assert!(found.into_iter().eq(squares(0..100).into_iter().map(Some)));
    assert_eq!(ledger.notes().len(), 3);
    ledger.assert_at_most_once();
    // and in each replacement
    assert!(pool.apply(|| Fault::ExitAtOnce(1).happen(), ()).is_err());
    seats(&pool, 3);
    let found = pool.task(look_up).chunk_size(1).map(0..100).unwrap();
    assert!(found.into_iter().eq(squares(0..100).into_iter().map(Some)));
    assert_eq!(ledger.notes().len(), 4);
    ledger.assert_at_most_once();
}

#[test]
fn c1_66_state_of_a_worker_survives_across_tasks_and_not_its_death() {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let case = Case::new();
    let pool = case.pool(1);
    let count = || COUNT.fetch_add(1, Ordering::Relaxed) + 1;
    assert_eq!((0..3).map(|_| pool.apply(count, ()).unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(pool.apply(|| Fault::ExitAtOnce(1).happen(), ()).is_err());
    assert_eq!(pool.apply(count, ()), Ok(1));
}

#[test]
fn c1_28_recycling_replaces_every_process_and_loses_nothing() {
    let case = Case::new();
    let ten = NonZero::new(10).unwrap();
    let pool = case.builder(2).max_tasks_per_child(ten).build().unwrap();
    let first = seats(&pool, 2);
    let with_pid = |x: u64| (x * x, std::process::id());
    let results = pool.task(with_pid).chunk_size(1).map(0..100).unwrap();
    assert!(results.iter().map(|(square, _)| *square).eq(squares(0..100)));
    let mut by_pid: BTreeMap<u32, usize> = BTreeMap::new();
    results.iter().for_each(|(_, pid)| *by_pid.entry(*pid).or_default() += 1);
    assert!(by_pid.values().all(|&tasks| tasks <= 10), "{by_pid:?}");
    assert!(by_pid.len() >= 10);
    let last = seats(&pool, 2);
    assert!(last.iter().all(|pid| !first.contains(pid)), "{first:?} {last:?}");
    assert_eq!(pool.stats().workers_lost, 0, "leaving is not dying");
    // row 31: items count, not chunks
    let results = pool.task(with_pid).chunk_size(10).map(0..100).unwrap();
    let pids: HashSet<_> = results.iter().map(|(_, pid)| *pid).collect();
    assert!(pids.len() >= 9, "each chunk fills a worker's measure: {pids:?}");
}

#[test]
fn c1_29_recycling_and_an_early_close_lose_nothing() {
    let case = Case::new();
    // the rows (workers, tasks per child, tasks) of CPython gh-115634
    for (workers, per_child, tasks) in [(1, 1, 6), (1, 2, 6), (2, 2, 8), (3, 10, 100), (2, 1, 40)] {
        let per_child = NonZero::new(per_child).unwrap();
        let pool = case.builder(workers).max_tasks_per_child(per_child).build().unwrap();
        let handles: Vec<_> = (0..tasks).map(|x| pool.apply_async(square, (x,)).unwrap()).collect();
        pool.close();
        pool.join_timeout(SOON).unwrap();
        for (x, handle) in handles.into_iter().enumerate() {
            assert_eq!(handle.get(), Ok(square(x as u64)), "{workers} {per_child} {tasks}");
        }
    }
}

#[test]
fn c4_162_env_env_remove_and_env_clear() {
    let case = Case::new();
    let variable = |name: String| std::env::var(name).ok();
    let ask = |pool: &Pool, name: &str| pool.apply(variable, (name.to_owned(),)).unwrap();
    assert!(std::env::var("PATH").is_ok());
    let builder = case.builder(1).env("POOL_TESTS_A", "1").env("POOL_TESTS_A", "2");
    let pool = builder.env_remove("PATH").build().unwrap();
    assert_eq!(ask(&pool, "POOL_TESTS_A"), Some("2".to_owned()));
    assert_eq!(ask(&pool, "PATH"), None);
    assert_eq!(ask(&pool, "CARGO_PKG_NAME"), std::env::var("CARGO_PKG_NAME").ok());
    let pool = case.builder(1).env("POOL_TESTS_A", "3").env_clear().build().unwrap();
    assert_eq!(ask(&pool, "POOL_TESTS_A"), Some("3".to_owned()));
    assert_eq!(ask(&pool, "HOME"), None);
    let names = pool.apply(|| std::env::vars().map(|(name, _)| name).collect::<Vec<_>>(), ());
    let own: Vec<_> = names.unwrap().into_iter().filter(|n| !n.starts_with("POOL_")).collect();
    assert!(own.is_empty(), "only the pool's own: {own:?}");
}

#[test]
fn current_dir_is_the_workers_working_directory() {
    let case = Case::new();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().canonicalize().unwrap();
    let pool = case.builder(1).current_dir(&path).build().unwrap();
    assert_eq!(pool.apply(|| std::env::current_dir().unwrap(), ()), Ok(path));
    let pool = case.pool(1);
    let here = std::env::current_dir().unwrap();
    assert_eq!(pool.apply(|| std::env::current_dir().unwrap(), ()), Ok(here));
}

#[test]
fn c4_163_standard_input_is_empty_and_outputs_go_where_they_are_sent() {
    let case = Case::new();
    let link = |fd: u32| std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
    let read = || {
        let mut text = String::new();
        std::io::stdin().read_line(&mut text).map(|_| text).map_err(|error| error.to_string())
    };
    let pool = case.pool(1);
    assert_eq!(pool.apply(read, ()), Ok(Ok(String::new())));
    assert_eq!(pool.apply(link, (0,)), Ok("/dev/null".into()));
    for fd in [1, 2] {
        assert_eq!(pool.apply(link, (fd,)), Ok(link(fd)), "inherited");
    }
    let discard = pool_core::Output::Discard;
    let pool = case.builder(1).stdout(discard).stderr(discard).build().unwrap();
    assert_eq!(pool.apply(link, (1,)), Ok("/dev/null".into()));
    assert_eq!(pool.apply(link, (2,)), Ok("/dev/null".into()));
    // printing breaks nothing
    let pool = case.builder(1).stdout(discard).build().unwrap();
    let chatter = |lines: u32| (0..lines).for_each(|line| println!("{line} {line} {line}"));
    pool.apply(chatter, (10_000,)).unwrap();
    assert_eq!(pool.apply(square, (2,)), Ok(4));
}

#[test]
fn c1_44_workers_inherit_no_descriptors() {
    let case = Case::new();
    // open in this process and inheritable, as a careless library would leave it
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_owned();
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let holds = |path: std::path::PathBuf| {
        let fds = pool_tests::census::list("/proc/self/fd");
        fds.iter()
            .any(|fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).is_ok_and(|l| l == path))
    };
    assert!(holds(path.clone()), "this process has it");
    assert_eq!(case.pool(1).apply(holds, (path,)), Ok(false));
    let count = || pool_tests::census::list("/proc/self/fd").len();
    let alone = case.pool(1).apply(count, ()).unwrap();
    let pool = case.pool(10);
    let many = pool.task(|_: u8| pool_tests::census::list("/proc/self/fd").len()).chunk_size(1);
    let counts = many.map(0..100).unwrap();
    assert!(counts.iter().all(|count| *count == alone), "{alone} alone, of ten: {counts:?}");
    drop(file);
}

#[test]
fn c1_64_seats_and_names_are_stable_and_visible() {
    let case = Case::new();
    let pool = case.builder(3).name("crew").build().unwrap();
    let name = || std::fs::read_to_string("/proc/thread-self/comm").unwrap().trim().to_owned();
    let names: HashSet<_> =
        (0..30).map(|_| pool.apply_async(name, ()).unwrap()).map(|h| h.get().unwrap()).collect();
    let all = ["crew-0", "crew-1", "crew-2"].map(str::to_owned);
    assert!(names.iter().all(|name| all.contains(name)), "{names:?}");
    let indices: Vec<_> = pool.workers().iter().map(|worker| worker.index().get()).collect();
    assert_eq!(indices, [0, 1, 2]);
}

#[test]
fn workers_and_stats_tell_what_is_going_on() {
    let case = Case::new();
    let gate = Gate::new();
    let pool = case.pool(2);
    seats(&pool, 2);
    assert!(pool.workers().iter().all(|worker| worker.state() == WorkerState::Idle));
    assert!(pool.workers().iter().all(|worker| worker.current_task().is_none()));
    let handles: Vec<_> =
        (0..5).map(|_| pool.apply_async(wait_at, (gate.path(),)).unwrap()).collect();
    let mut at_work = gate.await_arrivals(2);
    at_work.sort_unstable();
    let workers = pool.workers();
    let mut pids: Vec<_> = workers.iter().map(pool_core::WorkerInfo::pid).collect();
    pids.sort_unstable();
    assert_eq!(pids, at_work);
    for worker in &workers {
        assert_eq!(worker.state(), WorkerState::Busy);
        assert!(worker.current_task().unwrap().name.ends_with("wait_at"));
        assert_eq!(worker.tasks_done(), 0);
    }
    let stats = pool.stats();
    assert_eq!((stats.submitted, stats.finished), (5, 0));
    assert_eq!(stats.queued + stats.leased, 5);
    gate.let_pass(5);
    assert!(handles.into_iter().all(|handle| handle.get().is_ok()));
    assert_eq!(pool.workers().iter().map(pool_core::WorkerInfo::tasks_done).sum::<u64>(), 5);
    let stats = pool.stats();
    assert_eq!((stats.submitted, stats.finished, stats.queued, stats.leased), (5, 5, 0, 0));
    assert_eq!((stats.workers_started, stats.workers_lost, stats.retried), (2, 0, 0));
}

// ---- nesting ----

/// Builds a pool in a worker, which does the same, until it is refused: gives how deep it got and why it ended.
fn nest(depth: u32) -> (u32, String) {
    match Pool::new(1) {
        Ok(pool) => pool.apply(nest, (depth + 1,)).unwrap(),
        Err(error) => (depth, format!("{error:?}")),
    }
}

#[test]
fn c1_61_pools_in_workers_up_to_a_limit() {
    let case = Case::new();
    let pool = case.pool(2);
    let inner = |n: u64| Pool::new(2).unwrap().map(square, 0..n).unwrap();
    assert_eq!(pool.apply(inner, (20,)), Ok(squares(0..20)));
    let (depth, error) = pool.apply(nest, (1,)).unwrap();
    assert!(error.starts_with("NestedTooDeep"), "{error}");
    assert!((2..=16).contains(&depth), "{depth}");
    // a terminated worker takes its inner pool with it
    let gate = Gate::new();
    let keeps = |gate: String| {
        let inner = Pool::new(2).unwrap();
        let _at_work = inner.apply_async(wait_at, (gate.clone(),)).unwrap();
        Gate::wait_at(&gate);
    };
    let handle = pool.apply_async(keeps, (gate.path(),)).unwrap();
    gate.await_arrivals(2);
    pool.terminate();
    assert_eq!(handle.get(), Err(TaskError::Terminated));
    eventually(Duration::from_secs(1), "inner workers end with theirs", || {
        case.processes().is_empty()
    });
}

// ---- handles ----

#[test]
fn c2_82_get_timeout_polls_and_the_handle_stays_good() {
    let case = Case::new();
    let gate = Gate::new();
    let pool = case.pool(1);
    let mut handle = pool.apply_async(wait_at, (gate.path(),)).unwrap();
    let short = Duration::from_millis(10);
    assert_eq!(handle.get_timeout(Duration::ZERO), Err(TaskError::NotReady(Duration::ZERO)));
    assert_eq!(handle.get_timeout(short), Err(TaskError::NotReady(short)));
    assert!(!handle.wait_timeout(short) && !handle.ready() && !handle.successful());
    let pid = gate.await_arrivals(1)[0];
    assert!(format!("{handle:?}").contains("running"), "{handle:?}");
    gate.let_pass(1);
    assert_eq!(handle.get_timeout(SOON), Ok(pid));
    // row 89: the value can be taken once
    assert!(handle.ready());
    assert_eq!(handle.get_timeout(SOON), Err(TaskError::AlreadyTaken));
    assert_eq!(handle.get(), Err(TaskError::AlreadyTaken));
}

#[test]
fn c2_81_the_states_of_a_handle() {
    let case = Case::new();
    let gate = Gate::new();
    let pool = case.pool(1);
    let running = pool.apply_async(wait_at, (gate.path(),)).unwrap();
    let waiting = pool.apply_async(square, (2,)).unwrap();
    let pid = gate.await_arrivals(1)[0];
    assert_eq!((running.pid(), waiting.pid()), (Some(pid), None));
    assert!(!running.ready() && !waiting.ready());
    gate.let_pass(1);
    running.wait();
    waiting.wait();
    for handle in [running.ready(), running.successful(), waiting.ready(), waiting.successful()] {
        assert!(handle);
    }
    assert!(!waiting.cancel(), "too late");
    assert_eq!(waiting.get(), Ok(4));
}

#[test]
fn c2_100_handles_are_futures_on_any_executor() {
    let case = Case::new();
    let pool = case.pool(2);
    let handle = pool.apply_async(square, (5,)).unwrap();
    assert_eq!(futures::executor::block_on(handle), Ok(25));
    let mapped = pool.map_async(square, 0..100).unwrap();
    assert_eq!(futures::executor::block_on(mapped).unwrap(), squares(0..100));

    let handles: Vec<_> = (0..200).map(|x| pool.apply_async(square, (x,)).unwrap()).collect();
    let all = futures::executor::block_on(futures::future::join_all(handles));
    assert!(all.into_iter().map(Result::unwrap).eq(squares(0..200)));

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let handles: Vec<_> = (0..200).map(|x| pool.apply_async(square, (x,)).unwrap()).collect();
        let spawned: Vec<_> = handles.into_iter().map(tokio::spawn).collect();
        for (x, task) in spawned.into_iter().enumerate() {
            assert_eq!(task.await.unwrap(), Ok(square(x as u64)));
        }
        let gate = Gate::new();
        let mut handle = pool.apply_async(wait_at, (gate.path(),)).unwrap();
        // cancel-safe: a dropped wait leaves task and handle alone
        let short = Duration::from_millis(5);
        assert!(tokio::time::timeout(short, &mut handle).await.is_err());
        gate.let_pass(1);
        assert!(handle.await.is_ok());
        let lost = pool.apply_async(|| Fault::ExitAtOnce(1).happen(), ()).unwrap();
        assert!(matches!(lost.await, Err(TaskError::WorkerLost { .. })));
    });
}

#[test]
fn c2_85_wait_any_gives_the_first() {
    let case = Case::new();
    let pool = case.pool(2);
    let gates = [Gate::new(), Gate::new()];
    let handles: Vec<_> =
        gates.iter().map(|gate| pool.apply_async(wait_at, (gate.path(),)).unwrap()).collect();
    let none: [pool_core::AsyncResult<u32>; 0] = [];
    assert_eq!(pool_core::wait_any(&none), None);
    assert_eq!(pool_core::wait_any_timeout(&handles, Duration::from_millis(5)), None);
    gates[1].let_pass(1);
    assert_eq!(pool_core::wait_any(&handles), Some(1));
    assert_eq!(pool_core::wait_any(&handles), Some(1), "one that is ready already");
    gates[0].let_pass(1);
    handles[0].wait();
    assert_eq!(pool_core::wait_any_timeout(&handles, Duration::ZERO), Some(0));
    // a failure is an outcome, too
    let lost = [pool.apply_async(|| Fault::ExitAtOnce(1).happen(), ()).unwrap()];
    assert_eq!(pool_core::wait_any(&lost), Some(0));
}

#[test]
fn c2_100_dropped_handles_detach_their_tasks() {
    let case = Case::new();
    let ledger = Ledger::new();
    let pool = case.pool(2);
    let note = |ledger: String, number: u64| Ledger::note(&ledger, number);
    for number in 0..100 {
        drop(pool.apply_async(note, (ledger.path(), number)).unwrap());
    }
    drop(
        pool.map_async(
            |(ledger, x): (String, u64)| Ledger::note(&ledger, x),
            (100..200).map(|x| (ledger.path(), x)),
        )
        .unwrap(),
    );
    pool.close();
    pool.join().unwrap();
    assert_eq!(ledger.notes().len(), 200);
    ledger.assert_at_most_once();
}

#[test]
fn handles_outlive_their_pool() {
    let case = Case::new();
    let pool = case.pool(1);
    let done = pool.apply_async(square, (9,)).unwrap();
    done.wait();
    let mapped = pool.map_async(square, 0..10).unwrap();
    mapped.wait();
    drop(pool);
    assert_eq!(done.get(), Ok(81));
    assert_eq!(mapped.get().unwrap(), squares(0..10));
}

#[test]
fn c2_71_a_map_handle_waits_and_tells() {
    let case = Case::new();
    let gate = Gate::new();
    let pool = case.pool(2);
    let mapped = pool.task(wait_at).chunk_size(1).map_async((0..4).map(|_| gate.path())).unwrap();
    gate.await_arrivals(2);
    assert!(!mapped.ready() && !mapped.wait_timeout(Duration::from_millis(5)));
    gate.let_pass(4);
    mapped.wait();
    assert!(mapped.ready() && mapped.wait_timeout(Duration::ZERO));
    assert_eq!(mapped.get().unwrap().len(), 4);
}

#[test]
fn a_closed_pool_refuses_every_verb() {
    let case = Case::new();
    for stop in [Pool::close, Pool::terminate] as [fn(&Pool); 2] {
        let pool = case.pool(1);
        stop(&pool);
        assert!(matches!(pool.apply_async(square, (1,)), Err(SubmitError::Closed)));
        assert_eq!(pool.apply(square, (1,)), Err(TaskError::Terminated));
        assert!(matches!(pool.map_async(square, 0..3), Err(SubmitError::Closed)));
        assert_eq!(pool.map(square, 0..3), Err(TaskError::Terminated));
        assert!(matches!(pool.try_apply_async(square, (1,)), Err(TrySubmitError::Closed(_))));
        let outcomes: Vec<_> = pool.imap(square, 0..3).collect();
        assert_eq!(outcomes, [Err(TaskError::Terminated)]);
        let outcomes: Vec<_> = pool.imap_unordered(square, 0..3).collect();
        assert_eq!(outcomes, [Err(TaskError::Terminated)]);
        pool.join().unwrap();
    }
}

#[test]
fn c2_87_wait_all_waits_for_every_handle() {
    let case = Case::new();
    let gate = Gate::new();
    let pool = case.pool(2);
    let handles: Vec<_> =
        (0..4).map(|_| pool.apply_async(wait_at, (gate.path(),)).unwrap()).collect();
    gate.let_pass(4);
    pool_core::wait_all(&handles);
    assert!(handles.iter().all(pool_core::AsyncResult::ready));
    pool_core::wait_all(&handles);
    pool_core::wait_all::<u32>(&[]);
}

#[test]
fn c2_88_as_completed_gives_each_handle_once_in_the_order_of_completion() {
    let case = Case::new();
    let gates = [Gate::new(), Gate::new(), Gate::new()];
    let pool = case.pool(3);
    let handles: Vec<_> =
        gates.iter().map(|gate| pool.apply_async(wait_at, (gate.path(),)).unwrap()).collect();
    let pids: Vec<u32> = gates.iter().map(|gate| gate.await_arrivals(1)[0]).collect();
    let mut completed = pool_core::as_completed(handles);
    for (left, next) in [(3, 2), (2, 0), (1, 1)] {
        assert_eq!(completed.len(), left);
        gates[next].let_pass(1);
        assert_eq!(completed.next().unwrap().get(), Ok(pids[next]));
    }
    assert!(completed.next().is_none());
    // with failures among them, none is missing
    let pick = |x: u64| Fault::ExitAtOnce(x as i32).happen();
    let handles = (0..4).map(|x| pool.apply_async(pick, (x,)).unwrap());
    assert_eq!(pool_core::as_completed(handles).filter(|handle| handle.ready()).count(), 4);
}
