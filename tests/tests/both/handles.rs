//! What handles tell, and how they are waited for.

use std::time::{Duration, Instant};

use futures::StreamExt;
use pool_core::{TaskError, Unfinished};
use pool_tests::{Case, Gate, Ledger, eventually};

use crate::{Backend, SOON, fault, square, squares, until_cancelled, wait_at};

with_both![
    c2_81_the_states_of_a_handle,
    c2_81_a_waiting_task_that_is_cancelled_never_runs,
    c2_81_a_running_task_that_is_cancelled,
    c2_96_a_task_that_is_asked_to_end_may_tidy_up,
    c2_96_a_task_that_is_asked_to_end_while_it_begins,
    c2_82_get_timeout_polls_and_the_handle_stays_good,
    c2_84_debug_shows_the_state,
    c2_85_wait_any_gives_the_first,
    c2_86_first_error_gives_the_first_failure_or_waits_for_all,
    c2_87_wait_all_waits_for_every_handle,
    c2_88_as_completed_gives_each_handle_once_in_the_order_of_completion,
    c2_88_as_completed_with_a_time_limit_tells_how_many_are_unfinished,
    c2_88_as_completed_as_a_stream_on_two_executors,
    c2_92_submit_cancel_and_close_do_not_hang,
    c2_99_a_running_task_tells_its_process_and_its_start,
    c2_100_handles_are_futures_on_any_executor,
    c2_100_dropped_handles_detach_their_tasks,
    c2_100_handles_outlive_their_pool,
];

fn c2_81_a_waiting_task_that_is_cancelled_never_runs(backend: Backend) {
    let case = Case::new();
    let (gate, ledger) = (Gate::new(), Ledger::new());
    let pool = backend.pool(&case, 1);
    let first = pool.apply_async(wait_at, (gate.path(),)).unwrap();
    gate.await_arrivals(1);
    let note = |ledger: String, number: u64| Ledger::note(&ledger, number);
    let handles: Vec<_> =
        (0..20).map(|n| pool.apply_async(note, (ledger.path(), n)).unwrap()).collect();
    for (n, handle) in handles.iter().enumerate().filter(|(n, _)| n % 2 == 0) {
        let cancel = if n % 4 == 0 { handle.cancel() } else { handle.request_cancel() };
        assert!(cancel && handle.ready() && !handle.successful());
        assert!(!handle.cancel() && !handle.request_cancel(), "only once");
    }
    gate.let_pass(1);
    for (n, handle) in handles.into_iter().enumerate() {
        let expected = if n % 2 == 0 { Err(TaskError::Cancelled) } else { Ok(()) };
        assert_eq!(handle.get(), expected);
    }
    assert!(first.get().is_ok());
    assert!(ledger.notes().keys().all(|n| n % 2 == 1), "{:?}", ledger.notes());
    assert_eq!(ledger.notes().len(), 10);
}

fn c2_81_a_running_task_that_is_cancelled(backend: Backend) {
    let case = Case::new();
    let gate = Gate::new();
    let pool = backend.pool(&case, 1);
    let running = pool.apply_async(until_cancelled, (gate.path(),)).unwrap();
    gate.await_arrivals(1);
    if backend.is_threads() {
        assert!(!running.cancel(), "a thread can only be asked");
        assert_eq!(running.get(), Ok("tidied up".to_owned()));
        assert_eq!(pool.stats().workers_started, 1);
    } else {
        assert!(running.cancel());
        assert!(running.ready() && !running.cancel());
        assert_eq!(running.get(), Err(TaskError::Cancelled));
    }
    assert_eq!(pool.apply(square, (3,)), Ok(9), "the wish does not reach the next task");
    let next = pool.apply_async(pool_core::worker::cancelled, ()).unwrap();
    assert_eq!(next.get(), Ok(false));
}

fn c2_96_a_task_that_is_asked_to_end_may_tidy_up(backend: Backend) {
    let case = Case::new();
    let gate = Gate::new();
    let pool = backend.pool(&case, 2);
    let asked = pool.apply_async(until_cancelled, (gate.path(),)).unwrap();
    gate.await_arrivals(1);
    let other = pool.apply_async(wait_at, (gate.path(),)).unwrap();
    gate.await_arrivals(2);
    assert!(asked.request_cancel());
    let outcome = asked.get();
    assert_eq!(outcome, Ok("tidied up".to_owned()));
    gate.let_pass(1);
    assert!(other.get().is_ok());
    // for the threads of a task, too
    let in_a_thread = |gate: String| {
        let token = pool_core::worker::cancel_token().unwrap();
        let watch = std::thread::spawn(move || {
            assert!(!pool_core::worker::cancelled(), "this is no task");
            Gate::announce(&gate);
            while !token.is_cancelled() {
                std::thread::yield_now();
            }
        });
        watch.join().is_ok()
    };
    let task = pool.apply_async(in_a_thread, (gate.path(),)).unwrap();
    gate.await_arrivals(3);
    assert!(task.request_cancel());
    assert_eq!(task.get(), Ok(true));
    assert_eq!(pool.stats().workers_started, 2, "nobody was killed");
    assert!(!pool_core::worker::cancelled() && pool_core::worker::cancel_token().is_none());
}

fn c2_96_a_task_that_is_asked_to_end_while_it_begins(backend: Backend) {
    let case = Case::new();
    let gate = Gate::new();
    let pool = backend.pool(&case, 1);
    for _ in 0..300 {
        let handle = pool.apply_async(until_cancelled, (gate.path(),)).unwrap();
        assert!(handle.request_cancel(), "it has not ended: nobody else has asked it to");
        match handle.get() {
            Ok(text) => assert_eq!(text, "tidied up"),
            Err(error) => assert_eq!(error, TaskError::Cancelled),
        }
    }
    assert_eq!(pool.stats().workers_started, 1, "one that has begun is never killed");
}

fn c2_84_debug_shows_the_state(backend: Backend) {
    let case = Case::new();
    let gate = Gate::new();
    let pool = backend.pool(&case, 1);
    let mut running = pool.apply_async(wait_at, (gate.path(),)).unwrap();
    let waiting = pool.apply_async(square, (2,)).unwrap();
    gate.await_arrivals(1);
    assert!(format!("{running:?}").contains("running"), "{running:?}");
    assert!(format!("{waiting:?}").contains("waiting"), "{waiting:?}");
    gate.let_pass(1);
    running.wait();
    assert!(format!("{running:?}").contains("successful"), "{running:?}");
    running.get_timeout(SOON).unwrap();
    assert!(format!("{running:?}").contains("taken"), "{running:?}");
    let failed = pool.apply_async(|| -> anyhow::Result<()> { anyhow::bail!("no") }, ()).unwrap();
    failed.wait();
    assert!(format!("{failed:?}").contains("failed"), "{failed:?}");
    assert!(format!("{pool:?}").contains("workers: 1"), "{pool:?}");
}

fn c2_86_first_error_gives_the_first_failure_or_waits_for_all(backend: Backend) {
    let case = Case::new();
    let gates = [Gate::new(), Gate::new(), Gate::new()];
    let pool = backend.pool(&case, 3);
    let then_fail = |gate: String, fail: bool| -> anyhow::Result<()> {
        Gate::wait_at(&gate);
        anyhow::ensure!(!fail, "as it was told");
        Ok(())
    };
    let handles: Vec<_> = [(0, false), (1, true), (2, true)]
        .map(|(i, fail): (usize, bool)| {
            pool.apply_async(then_fail, (gates[i].path(), fail)).unwrap()
        })
        .into();
    gates[0].let_pass(1);
    handles[0].wait();
    gates[2].let_pass(1);
    assert_eq!(pool_core::first_error(&handles), Some(2), "a success is passed over");
    assert_eq!(pool_core::first_error(&handles), Some(2), "one that has failed already");
    gates[1].let_pass(1);
    handles[1].wait();
    assert_eq!(pool_core::first_error(&handles), Some(1), "the first in the slice");
    let good: Vec<_> = (0..20).map(|x| pool.apply_async(square, (x,)).unwrap()).collect();
    assert_eq!(pool_core::first_error(&good), None);
    assert!(good.iter().all(pool_core::AsyncResult::ready), "all were waited for");
    assert_eq!(pool_core::first_error::<u8>(&[]), None);
}

fn c2_88_as_completed_with_a_time_limit_tells_how_many_are_unfinished(backend: Backend) {
    let case = Case::new();
    let gate = Gate::new();
    let pool = backend.pool(&case, 2);
    let quick = pool.apply_async(|| 7, ()).unwrap();
    quick.wait();
    let slow = pool.apply_async(wait_at, (gate.path(),)).unwrap();
    let slow_too = pool.apply_async(wait_at, (gate.path(),)).unwrap();
    let mut completed = pool_core::as_completed([slow, quick, slow_too]);
    let first = completed.next_timeout(Duration::ZERO).unwrap().unwrap();
    assert_eq!(first.get(), Ok(7), "what is ready already comes first");
    for limit in [Duration::ZERO, Duration::from_millis(5)] {
        let late = completed.next_timeout(limit).unwrap_err();
        assert_eq!(late, Unfinished { unfinished: 2, of: 3 });
        assert_eq!(late.to_string(), "2 of 3 tasks are unfinished");
    }
    gate.let_pass(2);
    assert!(completed.next_timeout(SOON).unwrap().unwrap().get().is_ok(), "it stays good");
    assert!(completed.next().unwrap().get().is_ok());
    assert!(completed.next_timeout(Duration::ZERO).unwrap().is_none());
}

fn c2_88_as_completed_as_a_stream_on_two_executors(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 2);
    let stream = |count: u64| {
        let handles: Vec<_> = (0..count).map(|x| pool.apply_async(square, (x,)).unwrap()).collect();
        pool_core::as_completed(handles).into_stream()
    };
    let collect = |mut stream: pool_core::CompletedStream<u64>| async move {
        let mut squares = Vec::new();
        while let Some(handle) = stream.next().await {
            assert!(handle.ready());
            squares.push(handle.await.unwrap());
        }
        assert!(stream.next().await.is_none());
        squares.sort_unstable();
        squares
    };
    assert_eq!(futures::executor::block_on(collect(stream(200))), squares(0..200));
    assert_eq!(futures::executor::block_on(collect(stream(0))), []);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let task = runtime.spawn(collect(stream(200)));
    assert_eq!(runtime.block_on(task).unwrap(), squares(0..200));
    // one that waits is woken
    let gate = Gate::new();
    let mut waiting =
        pool_core::as_completed([pool.apply_async(wait_at, (gate.path(),)).unwrap()]).into_stream();
    let mapped = pool.task(wait_at).chunk_size(1).map_async([gate.path()]).unwrap();
    let task = runtime.spawn(async move { (waiting.next().await.unwrap().await, mapped.await) });
    gate.await_arrivals(2);
    gate.let_pass(2);
    let (one, many) = runtime.block_on(task).unwrap();
    assert!(one.is_ok() && many.unwrap().len() == 1);
}

fn c2_92_submit_cancel_and_close_do_not_hang(backend: Backend) {
    let case = Case::new();
    for round in 0..20 {
        let pool = backend.pool(&case, 1);
        let handle = pool.apply_async(square, (round,)).unwrap();
        let cancelled = handle.cancel();
        pool.close();
        pool.join_timeout(SOON).unwrap();
        match handle.get() {
            Ok(result) => assert!(!cancelled && result == square(round)),
            Err(error) => assert!(cancelled && error == TaskError::Cancelled, "{error}"),
        }
    }
}

fn c2_99_a_running_task_tells_its_process_and_its_start(backend: Backend) {
    let case = Case::new();
    let gate = Gate::new();
    let pool = backend.pool(&case, 1);
    let before = Instant::now();
    let running = pool.apply_async(wait_at, (gate.path(),)).unwrap();
    let waiting = pool.apply_async(wait_at, (gate.path(),)).unwrap();
    let pid = gate.await_arrivals(1)[0];
    assert_eq!(pid == std::process::id(), backend.is_threads());
    let started = running.started_at().unwrap();
    assert!(before <= started && started <= Instant::now());
    assert_eq!((running.pid(), waiting.pid(), waiting.started_at()), (Some(pid), None, None));
    gate.let_pass(1);
    running.wait();
    gate.await_arrivals(2);
    eventually(SOON, "the second one runs", || waiting.started_at().is_some());
    assert!(waiting.started_at().unwrap() > started);
    gate.let_pass(1);
    waiting.wait();
    assert_eq!((running.pid(), running.started_at()), (None, None), "it has ended");
}

fn c2_82_get_timeout_polls_and_the_handle_stays_good(backend: Backend) {
    let case = Case::new();
    let gate = Gate::new();
    let pool = backend.pool(&case, 1);
    let mut handle = pool.apply_async(wait_at, (gate.path(),)).unwrap();
    let short = Duration::from_millis(10);
    assert_eq!(handle.get_timeout(Duration::ZERO), Err(TaskError::NotReady(Duration::ZERO)));
    assert_eq!(handle.get_timeout(short), Err(TaskError::NotReady(short)));
    assert!(!handle.wait_timeout(short) && !handle.ready() && !handle.successful());
    let pid = gate.await_arrivals(1)[0];
    gate.let_pass(1);
    assert_eq!(handle.get_timeout(SOON), Ok(pid));
    // row 89: the value can be taken once
    assert!(handle.ready());
    assert_eq!(handle.get_timeout(SOON), Err(TaskError::AlreadyTaken));
    assert_eq!(handle.get(), Err(TaskError::AlreadyTaken));
}

fn c2_81_the_states_of_a_handle(backend: Backend) {
    let case = Case::new();
    let gate = Gate::new();
    let pool = backend.pool(&case, 1);
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

fn c2_100_handles_are_futures_on_any_executor(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 2);
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
        let lost = pool.apply_async(fault, (backend.bad(),)).unwrap().await;
        assert_eq!(matches!(lost, Err(TaskError::Panicked { .. })), backend.is_threads());
        assert_eq!(matches!(lost, Err(TaskError::WorkerLost { .. })), !backend.is_threads());
    });
}

fn c2_85_wait_any_gives_the_first(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 2);
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
    let lost = [pool.apply_async(fault, (backend.bad(),)).unwrap()];
    assert_eq!(pool_core::wait_any(&lost), Some(0));
}

fn c2_100_dropped_handles_detach_their_tasks(backend: Backend) {
    let case = Case::new();
    let ledger = Ledger::new();
    let pool = backend.pool(&case, 2);
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

fn c2_100_handles_outlive_their_pool(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 1);
    let done = pool.apply_async(square, (9,)).unwrap();
    done.wait();
    let mapped = pool.map_async(square, 0..10).unwrap();
    mapped.wait();
    let gate = Gate::new();
    let mut late: Vec<_> =
        (0..4).map(|_| pool.apply_async(until_cancelled, (gate.path(),)).unwrap()).collect();
    gate.await_arrivals(1);
    drop(pool);
    assert_eq!(done.get(), Ok(81));
    assert_eq!(mapped.get().unwrap(), squares(0..10));
    // nothing that is asked of them waits for a pool that is gone
    pool_core::wait_all(&late);
    let (sender, called) = std::sync::mpsc::channel();
    late[0].on_done(move || sender.send(()).unwrap());
    assert_eq!(called.recv_timeout(SOON), Ok(()));
    assert!(late.iter().all(|handle| !handle.cancel() && !handle.request_cancel()));
    assert!(late.iter().all(|handle| handle.pid().is_none() && handle.started_at().is_none()));
    assert_eq!(pool_core::wait_any(&late), Some(0));
    let last = futures::executor::block_on(late.pop().unwrap());
    assert_eq!(last, Err(TaskError::Terminated));
    assert_eq!(late[0].get_timeout(SOON), Err(TaskError::Terminated));
    assert_eq!(late[0].get_timeout(SOON), Err(TaskError::AlreadyTaken));
    drop(late);
}

fn c2_87_wait_all_waits_for_every_handle(backend: Backend) {
    let case = Case::new();
    let gate = Gate::new();
    let pool = backend.pool(&case, 2);
    let handles: Vec<_> =
        (0..4).map(|_| pool.apply_async(wait_at, (gate.path(),)).unwrap()).collect();
    gate.let_pass(4);
    pool_core::wait_all(&handles);
    assert!(handles.iter().all(pool_core::AsyncResult::ready));
    pool_core::wait_all(&handles);
    pool_core::wait_all::<u32>(&[]);
}

fn c2_88_as_completed_gives_each_handle_once_in_the_order_of_completion(backend: Backend) {
    let case = Case::new();
    let gates = [Gate::new(), Gate::new(), Gate::new()];
    let pool = backend.pool(&case, 3);
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
    let handles = (0..4).map(|_| pool.apply_async(fault, (backend.bad(),)).unwrap());
    assert_eq!(pool_core::as_completed(handles).filter(|handle| handle.ready()).count(), 4);
}
