//! Many calls of one function.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use pool_core::{SubmitError, TaskError};
use pool_tests::{Case, Gate, Ledger, eventually};

use crate::{Backend, SOON, await_idle, square, squares, until_cancelled, wait_at};

with_both![
    c1_2_map_equals_a_serial_map_for_every_chunk_size,
    c1_3_starmap_unpacks_tuples,
    c1_4_map_async_equals_a_serial_map,
    c1_7_empty_inputs_are_done_at_once,
    c1_60_a_chunk_of_nothing_is_refused,
    c1_60_inputs_are_zipped,
    c1_23_a_failing_map_runs_all_items_and_tells_the_first_error_in_order,
    c1_23_fail_fast_ends_the_map_with_the_first_failure,
    c1_23_fail_fast_of_an_awaited_map,
    c1_23_fail_fast_however_the_map_is_waited_for,
    c1_23_fail_fast_of_a_map_with_callbacks,
    c1_9_a_panicking_input_iterator_meets_the_caller_and_the_pool_goes_on,
    c1_62_two_maps_at_once_are_both_right,
    c2_71_a_map_handle_waits_and_tells,
    c1_49_a_time_limit_on_waiting_for_a_map_leaves_it_alone,
    c1_49_a_map_that_is_asked_again_and_again_is_not_harmed,
];

fn c1_4_map_async_equals_a_serial_map(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 2);
    assert_eq!(pool.map_async(square, 0..1_000).unwrap().get().unwrap(), squares(0..1_000));
    let each = pool.task(square).chunk_size(7).map_async(0..100).unwrap().get_each();
    assert!(each.into_iter().map(Result::unwrap).eq(squares(0..100)));
}

fn c1_60_inputs_are_zipped(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 2);
    let pairs = (0..100u64).zip((0..50u64).rev());
    let sums = pool.starmap(|a: u64, b: u64| a + b, pairs).unwrap();
    assert_eq!(sums, vec![49; 50], "as long as the shorter one");
}

/// Item 1 fails; all others go on until they are cancelled.
fn one_fails((gate, x): (String, u64)) -> anyhow::Result<String> {
    anyhow::ensure!(x != 1, "item {x} is bad");
    Ok(until_cancelled(gate))
}

fn c1_23_fail_fast_ends_the_map_with_the_first_failure(backend: Backend) {
    let case = Case::new();
    let gate = Gate::new();
    let pool = backend.pool(&case, 2);
    for _ in 0..3 {
        // item 1 must not wait behind those that go on
        await_idle(&pool, 2);
        let items = (0..100).map(|x| (gate.path(), x));
        let outcome = pool.task(one_fails).chunk_size(1).fail_fast().map(items);
        assert_eq!(outcome, Err(TaskError::Failed("item 1 is bad".to_owned())));
    }
    assert_eq!(pool.map(square, 0..100).unwrap(), squares(0..100), "the pool goes on");
    // without a failure it is a map like any other
    let mapped = pool.task(square).fail_fast().map(0..100);
    assert_eq!(mapped.unwrap(), squares(0..100));
    assert_eq!(pool.task(square).fail_fast().map(0..0), Ok(vec![]));
}

fn c1_23_fail_fast_of_a_map_with_callbacks(backend: Backend) {
    let case = Case::new();
    let gate = Gate::new();
    let pool = backend.pool(&case, 2);
    await_idle(&pool, 2);
    let (sender, errors) = std::sync::mpsc::channel();
    let call = pool.task(one_fails).chunk_size(1).fail_fast();
    let call = call.on_error(move |error| sender.send(error.to_string()).unwrap());
    let outcome = call.map((0..100).map(|x| (gate.path(), x)));
    assert_eq!(outcome, Err(TaskError::Failed("item 1 is bad".to_owned())));
    assert_eq!(errors.try_iter().collect::<Vec<_>>(), ["the task failed: item 1 is bad"]);
}

fn c1_23_fail_fast_of_an_awaited_map(backend: Backend) {
    let case = Case::new();
    let gate = Gate::new();
    let pool = backend.pool(&case, 2);
    let items = (0..100).map(|x| (gate.path(), x));
    let mapped = pool.task(one_fails).chunk_size(1).fail_fast().map_async(items).unwrap();
    let outcome = futures::executor::block_on(mapped);
    assert_eq!(outcome, Err(TaskError::Failed("item 1 is bad".to_owned())));
    // and with a limit on waiting
    await_idle(&pool, 2);
    let items = (0..100).map(|x| (gate.path(), x));
    let mut mapped = pool.task(one_fails).chunk_size(1).fail_fast().map_async(items).unwrap();
    assert_eq!(mapped.get_timeout(SOON), Err(TaskError::Failed("item 1 is bad".to_owned())));
    assert_eq!(mapped.get_timeout(SOON), Err(TaskError::AlreadyTaken));
}

/// The first failure ends the map, whichever way somebody looks at it: else these would wait for ever.
fn c1_23_fail_fast_however_the_map_is_waited_for(backend: Backend) {
    let case = Case::new();
    let gate = Gate::new();
    let pool = backend.pool(&case, 2);
    let map = || {
        await_idle(&pool, 2);
        let items = (0..100).map(|x| (gate.path(), x));
        pool.task(one_fails).chunk_size(1).fail_fast().map_async(items).unwrap()
    };
    let bad = || TaskError::Failed("item 1 is bad".to_owned());
    let each = map().get_each();
    assert_eq!(each.len(), 100);
    assert_eq!(each[1], Err(bad()));
    // a worker thread that is asked to end has a result; a process is killed
    let rest = each.iter().skip(2).filter(|outcome| **outcome == Err(TaskError::Cancelled));
    assert!(rest.count() >= 90, "{each:?}");

    let mapped = map();
    mapped.wait();
    assert!(mapped.ready() && !mapped.successful());
    assert_eq!(mapped.get(), Err(bad()));

    let mapped = map();
    assert!(mapped.wait_timeout(SOON));
    assert_eq!(mapped.get_each()[1], Err(bad()));

    let mapped = map();
    eventually(SOON, "it is ready", || mapped.ready());
    assert_eq!(mapped.get(), Err(bad()));

    let mapped = map();
    eventually(SOON, "it has ended", || pool_core::wait(&[&mapped], Some(SOON)) == [0]);
    assert_eq!(mapped.get(), Err(bad()));
    assert_eq!(pool.map(square, 0..100).unwrap(), squares(0..100), "the pool goes on");
}

fn c1_49_a_time_limit_on_waiting_for_a_map_leaves_it_alone(backend: Backend) {
    let case = Case::new();
    let gate = Gate::new();
    let pool = backend.pool(&case, 2);
    let mut mapped =
        pool.task(wait_at).chunk_size(1).map_async((0..4).map(|_| gate.path())).unwrap();
    let short = Duration::from_millis(5);
    for limit in [Duration::ZERO, short] {
        assert_eq!(mapped.get_timeout(limit), Err(TaskError::NotReady(limit)));
    }
    gate.let_pass(4);
    assert_eq!(mapped.get_timeout(SOON).unwrap().len(), 4);
    assert_eq!(mapped.get(), Err(TaskError::AlreadyTaken));
}

fn c1_2_map_equals_a_serial_map_for_every_chunk_size(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 2);
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

fn c1_3_starmap_unpacks_tuples(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 2);
    let pairs: Vec<(u64, u32)> = (0..100).map(|x| (x, 3)).collect();
    let cubes: Vec<u64> = (0..100).map(|x: u64| x.pow(3)).collect();
    assert_eq!(pool.starmap(u64::pow, pairs.clone()).unwrap(), cubes);
    assert_eq!(pool.starmap_async(u64::pow, pairs).unwrap().get().unwrap(), cubes);
}

fn c1_7_empty_inputs_are_done_at_once(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 2);
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
    assert_eq!(pool.map(square, none()), Err(TaskError::Closed), "closed, even for nothing");
    assert!(matches!(pool.map_async(square, none()), Err(SubmitError::Closed)));
}

fn c1_60_a_chunk_of_nothing_is_refused(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 1);
    let refused = catch_unwind(AssertUnwindSafe(|| pool.task(square).chunk_size(0).map(0..3)));
    let message = *refused.unwrap_err().downcast::<String>().unwrap();
    assert_eq!(message, "a chunk has at least 1 item");
    assert_eq!(pool.apply(square, (3,)), Ok(9));
}

fn c1_23_a_failing_map_runs_all_items_and_tells_the_first_error_in_order(backend: Backend) {
    let case = Case::new();
    let ledger = Ledger::new();
    let pool = backend.pool(&case, 2);
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

fn c1_9_a_panicking_input_iterator_meets_the_caller_and_the_pool_goes_on(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 2);
    let bad = || (0..100u64).inspect(|x| assert!(*x != 30, "the input breaks off"));
    let caught = |call: &dyn Fn()| {
        let outcome = catch_unwind(AssertUnwindSafe(call));
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

fn c1_62_two_maps_at_once_are_both_right(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 2);
    let one = pool.map_async(square, 0..5_000).unwrap();
    let other = pool.map_async(|x: u64| x + 1, 0..5_000).unwrap();
    let mixed: Vec<_> = pool.imap(square, 0..10).zip(pool.imap(|x: u64| x, 0..10)).collect();
    assert!(mixed.into_iter().all(|(a, b)| a.unwrap() == square(b.unwrap())));
    assert_eq!(other.get().unwrap(), (1..5_001).collect::<Vec<_>>());
    assert_eq!(one.get().unwrap(), squares(0..5_000));
}

fn odd_ones(x: u64) -> anyhow::Result<u64> {
    anyhow::ensure!(x % 2 == 1, "{x} is even");
    Ok(x)
}

/// What was there at the first call was taken, and looked at by the second one as if it had failed.
fn c1_49_a_map_that_is_asked_again_and_again_is_not_harmed(backend: Backend) {
    let case = Case::new();
    let gate = Gate::new();
    let pool = backend.pool(&case, 2);
    let may_wait = |gate: Option<String>| gate.map(wait_at).is_some();
    for fail_fast in [true, false] {
        let finished = pool.stats().finished;
        let inputs = [None, None, Some(gate.path())];
        let call = pool.task(may_wait).chunk_size(1);
        let call = if fail_fast { call.fail_fast() } else { call };
        let mut mapped = call.map_async(inputs).unwrap();
        eventually(SOON, "the first two are done", || pool.stats().finished == finished + 2);
        for _ in 0..3 {
            let asked = mapped.get_timeout(Duration::ZERO);
            assert_eq!(asked, Err(TaskError::NotReady(Duration::ZERO)));
            assert!(!mapped.successful());
        }
        gate.let_pass(1);
        mapped.wait();
        assert!(mapped.successful());
        assert_eq!(mapped.get_timeout(SOON), Ok(vec![false, false, true]));
        assert!(!mapped.successful(), "what was taken is not there any more");
        assert_eq!(mapped.get_each(), vec![Err(TaskError::AlreadyTaken); 3]);
    }
}

fn c2_71_a_map_handle_waits_and_tells(backend: Backend) {
    let case = Case::new();
    let gate = Gate::new();
    let pool = backend.pool(&case, 2);
    let inputs = (0..4).map(|_| gate.path());
    let mapped = pool.task(wait_at).chunk_size(1).map_async(inputs).unwrap();
    gate.await_arrivals(2);
    assert!(
        !mapped.successful() && !mapped.ready() && !mapped.wait_timeout(Duration::from_millis(5))
    );
    gate.let_pass(4);
    mapped.wait();
    assert!(mapped.ready() && mapped.wait_timeout(Duration::ZERO));
    assert!(mapped.successful());
    assert_eq!(mapped.get().unwrap().len(), 4);
    let failing = pool.task(odd_ones).chunk_size(3).map_async(0..9u64).unwrap();
    failing.wait();
    assert!(failing.ready() && !failing.successful());
    assert_eq!(failing.get_each().into_iter().filter(Result::is_ok).count(), 4, "nothing is lost");
}
