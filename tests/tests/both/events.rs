//! What a pool tells about what happens in it.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use pool_core::{PoolError, PoolEvent, TaskError};
use pool_tests::{Case, Gate};

use crate::{Backend, SOON, fault, square, squares, wait_at};

with_both![
    events_each_task_is_told_in_order_and_once,
    events_of_workers_that_come_and_go,
    events_an_observer_may_be_slow_panic_and_use_the_pool,
    c1_69_progress_can_be_followed,
    stats_tell_times_and_utilisation,
];

type Log = Arc<Mutex<Vec<PoolEvent>>>;

fn keep(log: &Log) -> impl Fn(&PoolEvent) + Send + Sync + 'static {
    let log = Arc::clone(log);
    move |event| log.lock().unwrap().push(event.clone())
}

/// The kinds of events of each task, in their order.
fn by_task(log: &Log) -> BTreeMap<u64, Vec<&'static str>> {
    let mut tasks: BTreeMap<u64, Vec<&'static str>> = BTreeMap::new();
    for event in log.lock().unwrap().iter() {
        let (task, kind) = match event {
            PoolEvent::TaskSubmitted { task } => (task, "submitted"),
            PoolEvent::TaskStarted { task, .. } => (task, "started"),
            PoolEvent::TaskRetried { task } => (task, "retried"),
            PoolEvent::TaskFinished { task, error: None, elapsed: Some(_) } => (task, "succeeded"),
            PoolEvent::TaskFinished { task, .. } => (task, "failed"),
            _ => continue,
        };
        tasks.entry(task.id.get()).or_default().push(kind);
    }
    tasks
}

fn events_each_task_is_told_in_order_and_once(backend: Backend) {
    let case = Case::new();
    let (log, gate) = (Log::default(), Gate::new());
    let pool = backend.builder(&case, 2).on_event(keep(&log)).build().unwrap();
    for x in 0..50 {
        assert_eq!(pool.apply(square, (x,)), Ok(x * x));
    }
    assert!(pool.apply(fault, (backend.bad(),)).is_err());
    assert!(pool.apply(|| -> anyhow::Result<()> { anyhow::bail!("no") }, ()).is_err());
    assert_eq!(pool.task(square).chunk_size(10).map(0..100).unwrap(), squares(0..100));
    let blockers: Vec<_> =
        (0..2).map(|_| pool.apply_async(wait_at, (gate.path(),)).unwrap()).collect();
    gate.await_arrivals(2);
    let queued = pool.apply_async(square, (1,)).unwrap();
    assert!(queued.cancel());
    gate.let_pass(2);
    assert!(blockers.into_iter().all(|handle| handle.get().is_ok()));
    pool.close();
    pool.join().unwrap();
    let stats = pool.stats();
    let tasks = by_task(&log);
    assert_eq!((tasks.len() as u64, stats.finished), (stats.submitted, stats.submitted));
    for (id, events) in &tasks {
        let expected: &[&str] = match id {
            51 | 52 => &["submitted", "started", "failed"],
            65 => &["submitted", "failed"],
            _ => &["submitted", "started", "succeeded"],
        };
        // one that was taken back from a worker in time is started again
        let mut events = events.clone();
        events.dedup_by(|a, b| a == b && *a == "started");
        assert_eq!(events, expected, "task {id}");
    }
    let log = log.lock().unwrap();
    let of_cancelled = log.iter().find_map(|event| match event {
        PoolEvent::TaskFinished { task, error, .. } if task.id.get() == 65 => error.clone(),
        _ => None,
    });
    assert_eq!(of_cancelled, Some(TaskError::Cancelled));
    assert!(!log.iter().any(|event| matches!(event, PoolEvent::Missed { .. })));
}

fn events_of_workers_that_come_and_go(backend: Backend) {
    let case = Case::new();
    let log = Log::default();
    let five = NonZero::new(5).unwrap();
    let builder = backend.builder(&case, 2).max_tasks_per_child(five).on_event(keep(&log));
    let pool = builder.build().unwrap();
    assert_eq!(pool.task(square).chunk_size(1).map(0..50).unwrap(), squares(0..50));
    pool.resize(1).unwrap();
    pool.close();
    pool.join().unwrap();
    let log = log.lock().unwrap();
    let mut lives: HashMap<(u32, u32), [i32; 3]> = HashMap::new();
    for event in log.iter() {
        let (worker, pid, step) = match event {
            PoolEvent::WorkerStarted { worker, pid } => (worker, pid, 0),
            PoolEvent::WorkerReady { worker, pid } => (worker, pid, 1),
            PoolEvent::WorkerLeft { worker, pid } => (worker, pid, 2),
            PoolEvent::WorkerLost { .. } => panic!("{event:?}"),
            _ => continue,
        };
        assert_eq!(*pid == std::process::id(), backend.is_threads());
        let life = lives.entry((worker.get(), *pid)).or_default();
        life[step] += 1;
        assert!(life[0] >= life[1] && life[0] >= life[2], "started, ready, left: {life:?}");
    }
    // one that was still starting when the pool shrank or closed may never have been ready
    let sums = lives.values().fold([0; 3], |sum, life| [0, 1, 2].map(|i| sum[i] + life[i]));
    assert!(sums[1] >= 10 && sums[2] >= 10, "{sums:?}");
    assert!(sums[0] as u64 <= pool.stats().workers_started, "{sums:?}");
}

fn events_an_observer_may_be_slow_panic_and_use_the_pool(backend: Backend) {
    let case = Case::new();
    let (open, opened) = mpsc::channel::<()>();
    let opened = Mutex::new(opened);
    let count = Arc::new(AtomicU64::new(0));
    let counts = Arc::clone(&count);
    let observer = move |event: &PoolEvent| {
        if matches!(event, PoolEvent::TaskFinished { .. }) {
            if counts.fetch_add(1, Ordering::SeqCst) == 0 {
                let _ = opened.lock().unwrap().recv();
            }
            panic!("in the observer");
        }
    };
    let pool = backend.builder(&case, 1).on_event(observer).build().unwrap();
    for x in 0..50 {
        assert_eq!(pool.apply(square, (x,)), Ok(x * x), "nobody waits for the observer");
    }
    pool.close();
    let short = Duration::from_millis(5);
    assert_eq!(pool.join_timeout(short), Err(PoolError::TimedOut(short)), "join does");
    drop(open);
    pool.join_timeout(SOON).unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 50);
}

fn c1_69_progress_can_be_followed(backend: Backend) {
    let case = Case::new();
    let log = Log::default();
    let pool = backend.builder(&case, 2).on_event(keep(&log)).build().unwrap();
    let mut before = 0;
    for (consumed, result) in pool.imap(square, 0..200).enumerate() {
        assert!(result.is_ok());
        let finished = pool.stats().finished;
        assert!(finished >= before && finished > consumed as u64, "{before} {finished} {consumed}");
        before = finished;
    }
    let handles: Vec<_> = (0..20).map(|x| pool.apply_async(square, (x,)).unwrap()).collect();
    let mut completed = pool_core::as_completed(handles);
    for left in (0..20).rev() {
        assert!(completed.next().is_some());
        assert_eq!(completed.len(), left, "the total is known");
    }
    assert_eq!(pool_core::as_completed(Vec::<pool_core::AsyncResult<u8>>::new()).len(), 0);
}

fn stats_tell_times_and_utilisation(backend: Backend) {
    let case = Case::new();
    let gate = Gate::new();
    let pool = backend.pool(&case, 2);
    assert_eq!((pool.stats().submitted, pool.stats().run_time.count), (0, 0));
    let handles: Vec<_> =
        (0..3).map(|_| pool.apply_async(wait_at, (gate.path(),)).unwrap()).collect();
    gate.await_arrivals(2);
    let stats = pool.stats();
    assert_eq!((stats.submitted, stats.finished, stats.queued + stats.leased), (3, 0, 3));
    gate.let_pass(3);
    assert!(handles.into_iter().all(|handle| handle.get().is_ok()));
    assert_eq!(pool.map(square, 0..8).unwrap(), squares(0..8));
    let stats = pool.stats();
    assert_eq!((stats.queued, stats.leased, stats.finished), (0, 0, stats.submitted));
    assert_eq!((stats.run_time.count, stats.wait_time.count), (stats.submitted, stats.submitted));
    assert!(stats.run_time.max >= stats.run_time.p50, "{stats:?}");
    assert!(stats.utilisation > 0.0 && stats.utilisation <= 1.0, "{stats:?}");
    pool.close();
    pool.join().unwrap();
    let after = pool.stats();
    assert_eq!((after.submitted, after.finished), (stats.submitted, stats.finished));
    assert!(after.utilisation > 0.0 && after.utilisation <= 1.0, "{after:?}");
}
