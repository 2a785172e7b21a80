//! What a pool of processes does about workers that end: retries with pauses, quarantine, restart budgets, limits on memory, sizes that change meanwhile.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]

use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pool_core::{ExitCause, PoolError, PoolEvent, SubmitError, TaskError, WorkerState};
use pool_tests::fault::{self, Fault};
use pool_tests::{Case, Gate, Ledger, Program, eventually, seats};

pool_core::test_support!();

const SOON: Duration = Duration::from_secs(30);

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

/// Always ends its worker.
fn poison(ledger: String, number: u64) {
    Ledger::note(&ledger, number);
    Fault::ExitAtOnce(3).happen();
}

/// As the finalizer's documentation says: one result for each worker that left in good order.
#[test]
fn c1_67_workers_that_end_otherwise_have_no_finalizer() {
    let case = Case::new();
    let pool = case.builder(2).finalizer(std::process::id, ()).build().unwrap();
    let gate = Gate::new();
    let hangs = pool.apply_async(wait_at, (gate.path(),)).unwrap();
    gate.await_arrivals(1);
    assert!(hangs.cancel());
    let crashed = pool.apply(|| Fault::ExitAtOnce(3).happen(), ());
    assert!(matches!(crashed, Err(TaskError::WorkerLost { .. })));
    // the replacements are there: one that is still starting when the pool is closed would have nothing to tell
    eventually(SOON, "all workers are idle", || {
        let workers = pool.workers();
        workers.len() == 2 && workers.iter().all(|worker| worker.state() == WorkerState::Idle)
    });
    pool.close();
    pool.join().unwrap();
    let stats = pool.stats();
    assert_eq!((stats.workers_started, stats.workers_lost), (4, 2));
    assert_eq!(pool.finalized::<u32>().into_iter().filter(Result::is_ok).count(), 2);
}

#[test]
fn c3_135_a_task_that_costs_too_many_workers_is_quarantined() {
    let case = Case::new();
    let ledger = Ledger::new();
    let log: Arc<Mutex<Vec<PoolEvent>>> = Arc::default();
    let keep = Arc::clone(&log);
    let observer = move |event: &PoolEvent| keep.lock().unwrap().push(event.clone());
    let builder = case.builder(2).crash_limit(3).retries(100).on_event(observer);
    let pool = builder.build().unwrap();
    let poisoned = pool.apply_async(poison, (ledger.path(), 0)).unwrap();
    let good: Vec<_> = (0..50).map(|x| pool.apply_async(square, (x,)).unwrap()).collect();
    let error = poisoned.get().unwrap_err();
    let text = error.to_string();
    let TaskError::Quarantined { task, workers } = error else { panic!("{error:?}") };
    assert_eq!((task.id.get(), workers), (1, 3));
    assert!(text.contains("3 workers") && text.contains("poison"), "{text}");
    assert_eq!(ledger.count(0), 3);
    assert!(good.into_iter().map(|handle| handle.get().unwrap()).eq(squares(0..50)));
    assert_eq!(pool.stats().retried, 2);
    // without retries there is nothing to be quarantined from
    let lost = pool.task(poison).retries(0).apply((ledger.path(), 1));
    assert!(matches!(lost, Err(TaskError::WorkerLost { .. })), "{lost:?}");
    // and fewer retries than the limit end as they always do
    let lost = pool.task(poison).retries(1).apply((ledger.path(), 2));
    assert!(matches!(lost, Err(TaskError::WorkerLost { .. })), "{lost:?}");
    assert_eq!((ledger.count(1), ledger.count(2)), (1, 2));
    pool.close();
    pool.join().unwrap();
    let log = log.lock().unwrap();
    let count = |wanted: fn(&PoolEvent) -> bool| log.iter().filter(|event| wanted(event)).count();
    assert_eq!(count(|event| matches!(event, PoolEvent::TaskRetried { .. })), 3);
    assert_eq!(count(|event| matches!(event, PoolEvent::TaskFinished { .. })), 53);
    let exited = |event: &PoolEvent| {
        matches!(event, PoolEvent::WorkerLost { cause: ExitCause::Exited(3), .. })
    };
    assert_eq!(count(exited), 6);
}

#[test]
fn c3_135_retries_pause_longer_each_time() {
    let case = Case::new();
    let ledger = Ledger::new();
    let pool = case.pool(1);
    let begun = Instant::now();
    let pause = Duration::from_millis(40);
    let lost = pool.task(poison).retries(2).backoff(pause).apply((ledger.path(), 0));
    assert!(matches!(lost, Err(TaskError::WorkerLost { .. })), "{lost:?}");
    assert!(begun.elapsed() >= pause * 3, "{:?}", begun.elapsed());
    assert_eq!(ledger.count(0), 3);
    // meanwhile others run, and it can be cancelled
    let hour = Duration::from_secs(3600);
    let pausing =
        pool.task(poison).retries(9).backoff(hour).apply_async((ledger.path(), 1)).unwrap();
    eventually(SOON, "it was started and lost its worker", || pool.stats().retried == 3);
    assert_eq!(pool.map(square, 0..50).unwrap(), squares(0..50));
    assert!(!pausing.ready() && pool.stats().queued == 1);
    assert!(pausing.cancel());
    assert_eq!(pausing.get(), Err(TaskError::Cancelled));
    // one that pauses is waited for by close and ended by terminate
    let pausing =
        pool.task(poison).retries(9).backoff(hour).apply_async((ledger.path(), 2)).unwrap();
    eventually(SOON, "it was started and lost its worker", || pool.stats().retried == 4);
    pool.close();
    let short = Duration::from_millis(5);
    assert_eq!(pool.join_timeout(short), Err(PoolError::TimedOut(short)));
    pool.terminate();
    assert_eq!(pausing.get(), Err(TaskError::Terminated));
    pool.join().unwrap();
}

#[test]
fn c1_38_too_many_restarts_break_the_pool_with_a_reason() {
    let case = Case::new();
    let (ledger, gate) = (Ledger::new(), Gate::new());
    let pool = case.builder(2).max_restarts(2, Duration::from_secs(3600)).build().unwrap();
    let waits = pool.apply_async(wait_at, (gate.path(),)).unwrap();
    gate.await_arrivals(1);
    for _ in 0..3 {
        let lost = pool.apply(poison, (ledger.path(), 0));
        assert!(matches!(lost, Err(TaskError::WorkerLost { .. })), "{lost:?}");
    }
    let reason = "3 workers ended by themselves within 3600s, max_restarts allows 2";
    assert_eq!(waits.get(), Err(TaskError::PoolBroken(reason.to_owned())));
    let refused = pool.apply_async(square, (1,)).unwrap_err();
    assert_eq!(refused, SubmitError::Broken(reason.to_owned()));
    assert_eq!(refused.to_string(), format!("the pool is broken: {reason}"));
    assert_eq!(pool.apply(square, (1,)), Err(TaskError::PoolBroken(reason.to_owned())));
    assert_eq!(pool.join(), Err(PoolError::Broken(reason.to_owned())));
    // what the pool itself has ended does not count
    let pool = case.builder(1).max_restarts(0, Duration::from_secs(3600)).build().unwrap();
    for _ in 0..3 {
        let gate = Gate::new();
        let handle = pool.apply_async(wait_at, (gate.path(),)).unwrap();
        gate.await_arrivals(1);
        assert!(handle.cancel());
    }
    let limit = Duration::from_millis(20);
    let late = pool.task(wait_at).timeout(limit).apply((gate.path(),));
    assert_eq!(late, Err(TaskError::TimedOut));
    assert_eq!(pool.apply(square, (3,)), Ok(9));
}

#[test]
fn c3_126_lazy_maps_end_when_the_pool_breaks() {
    let case = Case::new();
    let pool = case.builder(2).max_restarts(1, Duration::from_secs(3600)).build().unwrap();
    let bad = |x: u64| {
        if x == 20 || x == 30 {
            Fault::ExitAtOnce(1).happen();
        }
        x
    };
    let outcomes: Vec<_> = pool.task(bad).window(10).imap(0u64..).take(100_000).collect();
    let ends = outcomes.len();
    assert!(ends < 1_000, "{ends}");
    assert!(outcomes[..20].iter().all(Result::is_ok));
    assert!(matches!(outcomes[20], Err(TaskError::WorkerLost { .. })));
    assert!(
        matches!(outcomes[ends - 1], Err(TaskError::PoolBroken(_))),
        "{:?}",
        outcomes[ends - 1]
    );
    let outcomes: Vec<_> = pool.imap_unordered(bad, 0..10).collect();
    assert!(matches!(outcomes[..], [Err(TaskError::PoolBroken(_))]), "{outcomes:?}");
}

#[test]
fn c3_119_callbacks_submit_while_workers_die() {
    let case = Case::new();
    let ledger = Ledger::new();
    let pool = Arc::new(case.pool(2));
    let (sender, told) = mpsc::channel();
    for number in 0..30 {
        let (inner, sender) = (Arc::clone(&pool), sender.clone());
        let call = pool.task(poison).on_error(move |error| {
            assert!(matches!(error, TaskError::WorkerLost { .. }), "{error:?}");
            let again = inner.apply_async(square, (number,)).unwrap();
            sender.send((number, again)).unwrap();
        });
        drop(call.apply_async((ledger.path(), number)).unwrap());
    }
    for _ in 0..30 {
        let (number, again) = told.recv_timeout(SOON).unwrap();
        assert_eq!(again.get(), Ok(square(number)));
    }
    ledger.assert_at_most_once();
    assert_eq!(pool.stats().workers_lost, 30);
}

/// Makes its worker larger for good.
fn leak(bytes: usize) -> u32 {
    let block = vec![1u8; bytes];
    std::hint::black_box(&block);
    std::mem::forget(block);
    std::process::id()
}

#[test]
fn c4_160_a_worker_that_grows_is_replaced_between_tasks() {
    let case = Case::new();
    let pool = case.builder(1).max_memory_per_child(200 << 20).build().unwrap();
    let first = pool.apply(std::process::id, ()).unwrap();
    for _ in 0..200 {
        assert_eq!(pool.apply(leak, (1_000,)), Ok(first), "one that does not grow stays");
    }
    let mut tasks = 201;
    eventually(SOON, "three workers have grown too large", || {
        pool.apply(leak, (16 << 20,)).unwrap();
        tasks += 1;
        pool.stats().workers_started > 3
    });
    let stats = pool.stats();
    assert_eq!((stats.submitted, stats.finished, stats.workers_lost), (tasks, tasks, 0));
    assert_eq!(pool.map(square, 0..50).unwrap(), squares(0..50));
}

#[test]
fn c4_159_resize_while_workers_are_killed() {
    let case = Case::new();
    let pool = case.pool(2);
    let mut expected_lost = 0;
    for size in [4, 1, 5, 2, 3] {
        let victims = seats(&pool, pool.workers().len());
        fault::send(victims[0], Signal::SIGKILL);
        pool.resize(size).unwrap();
        expected_lost += 1;
        let handles: Vec<_> = (0..20).map(|x| pool.apply_async(square, (x,)).unwrap()).collect();
        // at most the task that the victim was running
        let lost = handles.into_iter().filter_map(|handle| handle.get().err()).count();
        assert!(lost <= 1, "{lost}");
        assert_eq!(seats(&pool, size).len(), size);
    }
    assert!(pool.stats().workers_lost <= expected_lost, "{:?}", pool.stats());
}

#[test]
fn c4_158_an_elastic_pool_replaces_what_is_killed_only_as_needed() {
    let case = Case::new();
    let builder = case.builder(3).min_size(1).idle_timeout(Duration::from_millis(20));
    let pool = builder.build().unwrap();
    for _ in 0..5 {
        let pid = seats(&pool, 1)[0];
        fault::send(pid, Signal::SIGKILL);
        eventually(SOON, "it is replaced", || {
            pool.workers().iter().any(|worker| worker.pid() != pid && worker.pid() != 0)
        });
        assert_eq!(pool.map(square, 0..50).unwrap(), squares(0..50));
        eventually(SOON, "the others have left", || pool.workers().len() == 1);
    }
    assert_eq!(pool.stats().workers_lost, 5);
}

// ---- the number of CPUs ----

/// What a program says that is started on so many of this thread's CPUs: how many it has, and how many workers its pools.
fn sizes_on(case: &Case, cpus: usize) -> String {
    use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
    use nix::unistd::Pid;
    let own = Pid::from_raw(0);
    let run = || {
        let all = sched_getaffinity(own).unwrap();
        let mut some = CpuSet::new();
        let usable = (0..CpuSet::count()).filter(|&cpu| all.is_set(cpu).unwrap());
        usable.take(cpus).for_each(|cpu| some.set(cpu).unwrap());
        sched_setaffinity(own, &some).unwrap();
        let (status, stdout, stderr) =
            Program::new(case, env!("CARGO_BIN_EXE_defaults"), &["sizes"]).run();
        assert!(status.success(), "{stderr}");
        stdout.trim().to_owned()
    };
    // a program has the CPUs of the thread that starts it, and that thread ends here
    std::thread::scope(|scope| scope.spawn(run).join().unwrap())
}

#[test]
fn c4_161_the_default_size_honours_affinity() {
    let case = Case::new();
    let cpus = std::thread::available_parallelism().unwrap().get();
    assert_eq!(sizes_on(&case, 1), "1 processes 1 threads 1");
    assert_eq!(sizes_on(&case, 100_000), format!("{cpus} processes {cpus} threads {cpus}"));
    if cpus > 1 {
        assert_eq!(sizes_on(&case, 2), "2 processes 2 threads 2");
    }
}

/// In a group that may use one CPU's time, though it may run on all.
#[test]
fn c4_161_the_default_size_honours_a_cgroup_quota() {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = |name: &str| groups.lines().find_map(|line| line.split_once(name)).map(|it| it.1);
    let (root, file) = match own(":cpu:").or_else(|| own(":cpu,cpuacct:")) {
        Some(path) => (format!("/sys/fs/cgroup/cpu{path}"), "cpu.cfs_quota_us"),
        None => (format!("/sys/fs/cgroup{}", own("0::").unwrap()), "cpu.max"),
    };
    let group = std::path::Path::new(&root).join(format!("pool-tests-{}", std::process::id()));
    let made = std::fs::create_dir(&group);
    if let Err(error) = made.and_then(|()| std::fs::write(group.join(file), "100000")) {
        let _ = std::fs::remove_dir(&group);
        println!("SKIPPED: this user can't make a cgroup with a quota here: {error}");
        return;
    }
    let case = Case::new();
    let enter = "echo $$ >\"$1/cgroup.procs\" && exec \"$0\" sizes";
    let args = ["-c", enter, env!("CARGO_BIN_EXE_defaults"), group.to_str().unwrap()];
    let (status, stdout, stderr) = Program::new(&case, "sh", &args).run();
    eventually(SOON, "the group is empty", || std::fs::remove_dir(&group).is_ok());
    assert!(status.success(), "{stderr}");
    assert_eq!(stdout, "1 processes 1 threads 1\n");
}

#[test]
fn c1_32_a_program_may_end_with_unclosed_pools_of_threads() {
    let case = Case::new();
    for how in ["static", "leaked", "busy"] {
        let (status, stdout, stderr) =
            Program::new(&case, env!("CARGO_BIN_EXE_defaults"), &[how]).run();
        assert!(status.success(), "{how}: {status:?} {stderr}");
        assert_eq!(stdout, "49\n", "{how}");
        assert_eq!(stderr, "", "{how}");
    }
}
