//! How pools and their programs end: within the promised times, with nothing left.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]

use std::sync::Barrier;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pool_core::{AsyncResult, Pool, PoolError, SubmitError, TaskError};
use pool_tests::{Case, Gate, Ledger, Program, census, eventually, fault, seats, within};

pool_core::test_support!();

const PARENT: &str = env!("CARGO_BIN_EXE_parent");
const FORGOT_INIT: &str = env!("CARGO_BIN_EXE_forgot_init");
const SOON: Duration = Duration::from_secs(20);
const GRACE: Duration = Duration::from_millis(400);
/// What `terminate` promises.
const BOUND: Duration = Duration::from_millis(1_400);

fn wait_at(gate: String) {
    Gate::wait_at(&gate);
}

#[track_caller]
fn assert_terminated<R: std::fmt::Debug>(handles: Vec<AsyncResult<R>>) {
    for handle in handles {
        assert!(handle.ready(), "terminate returns when every handle is settled");
        assert!(matches!(handle.get(), Err(TaskError::Terminated)));
    }
}

/// Terminates workers that do something; each must be gone, and every handle settled, when it returns.
fn terminate_while(prepare: impl Fn(&Pool, &Gate) -> Vec<AsyncResult<()>>) {
    terminate_and(Case::assert_nothing_left, prepare);
}

fn terminate_and(check: fn(&Case), prepare: impl Fn(&Pool, &Gate) -> Vec<AsyncResult<()>>) {
    let case = Case::new();
    let gate = Gate::new();
    let pool = case.builder(3).grace(GRACE).build().unwrap();
    let mut handles = prepare(&pool, &gate);
    handles.extend((0..100).map(|_| pool.apply_async(wait_at, (gate.path(),)).unwrap()));
    within(BOUND, "terminate", || pool.terminate());
    check(&case);
    assert_terminated(handles);
    pool.join().unwrap();
    assert!(matches!(pool.apply_async(wait_at, (gate.path(),)), Err(SubmitError::Closed)));
    assert!(pool.workers().is_empty());
}

#[test]
fn terminate_with_idle_workers() {
    terminate_while(|pool, _| {
        seats(pool, 3);
        Vec::new()
    });
}

#[test]
fn terminate_with_sleeping_workers() {
    terminate_while(|pool, gate| {
        let handles = (0..3).map(|_| pool.apply_async(wait_at, (gate.path(),)).unwrap()).collect();
        gate.await_arrivals(3);
        handles
    });
}

#[test]
fn terminate_with_spinning_workers() {
    terminate_while(|pool, gate| {
        let spin = |gate: String| {
            Gate::announce(&gate);
            while std::hint::black_box(true) {
                std::hint::spin_loop();
            }
        };
        let handles = (0..3).map(|_| pool.apply_async(spin, (gate.path(),)).unwrap()).collect();
        gate.await_arrivals(3);
        handles
    });
}

#[test]
fn terminate_with_stopped_workers() {
    terminate_while(|pool, _| {
        for pid in seats(pool, 3) {
            fault::send(pid, Signal::SIGSTOP);
            eventually(SOON, "the worker stops", || census::is_stopped(pid));
        }
        Vec::new()
    });
}

#[test]
fn terminate_with_workers_deaf_to_signals() {
    terminate_while(|pool, gate| {
        let deaf = |gate: String| {
            fault::become_deaf();
            Gate::wait_at(&gate);
        };
        let handles = (0..3).map(|_| pool.apply_async(deaf, (gate.path(),)).unwrap()).collect();
        gate.await_arrivals(3);
        handles
    });
}

#[test]
fn terminate_with_workers_deaf_and_stopped() {
    terminate_while(|pool, gate| {
        let deaf = |gate: String| {
            fault::become_deaf();
            Gate::wait_at(&gate);
        };
        let handles = (0..3).map(|_| pool.apply_async(deaf, (gate.path(),)).unwrap()).collect();
        for pid in gate.await_arrivals(3) {
            fault::send(pid, Signal::SIGSTOP);
            eventually(SOON, "the worker stops", || census::is_stopped(pid));
        }
        handles
    });
}

/// SIGCONT comes with SIGTERM: whoever does not ignore it ends at once, and the grace period is not used up.
#[test]
fn terminate_does_not_wait_for_the_grace_of_willing_workers() {
    let case = Case::new();
    let gate = Gate::new();
    let grace = Duration::from_secs(20);
    let pool = case.builder(4).grace(grace).build().unwrap();
    let handles: Vec<_> =
        (0..2).map(|_| pool.apply_async(wait_at, (gate.path(),)).unwrap()).collect();
    gate.await_arrivals(2);
    for pid in seats(&pool, 4).into_iter().step_by(2) {
        fault::send(pid, Signal::SIGSTOP);
        eventually(SOON, "the worker stops", || census::is_stopped(pid));
    }
    within(grace / 2, "terminate", || pool.terminate());
    case.assert_nothing_left();
    assert_terminated(handles);
}

/// Starts a shell that ignores SIGTERM and a grandchild, all in the worker's process group, and waits at the gate when they run.
#[allow(clippy::zombie_processes, reason = "the pool has to end them")]
fn start_family(gate: String) {
    let script = "trap '' TERM HUP; sleep 1000 & echo started; wait; sleep 1000";
    let mut shell = std::process::Command::new("sh")
        .args(["-c", script])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(shell.stdout.take().unwrap()),
        &mut line,
    )
    .unwrap();
    assert_eq!(line, "started\n");
    Gate::wait_at(&gate);
}

#[test]
fn terminate_with_grandchildren_that_ignore_sigterm() {
    // the workers are gone; what they have started has got its SIGKILL, and is nobody's child that could be waited for: it ends when the kernel next lets it run
    let check = |case: &Case| {
        let is_family = |process: &census::Process| ["sh", "sleep"].contains(&&*process.name);
        let left = case.processes();
        assert!(left.iter().all(is_family), "workers are left: {left:#?}");
        eventually(SOON, "their families end", || case.processes().is_empty());
    };
    terminate_and(check, |pool, gate| {
        let handles =
            (0..3).map(|_| pool.apply_async(start_family, (gate.path(),)).unwrap()).collect();
        gate.await_arrivals(3);
        handles
    });
}

#[test]
fn grandchildren_end_with_a_worker_that_dies() {
    let case = Case::new();
    let gate = Gate::new();
    let pool = case.pool(1);
    let handle = pool.apply_async(start_family, (gate.path(),)).unwrap();
    let pid = gate.await_arrivals(1)[0];
    assert!(case.processes().len() >= 3, "{:?}", case.processes());
    fault::send(pid, Signal::SIGKILL);
    assert!(matches!(handle.get(), Err(TaskError::WorkerLost { .. })));
    let replacement = seats(&pool, 1)[0];
    // a fork server, if there is one, is its parent
    let family = census::with_ancestors(replacement);
    eventually(SOON, "only the replacement is left", || {
        case.processes().iter().all(|process| family.contains(&process.pid))
    });
}

#[test]
fn terminate_while_workers_start() {
    let case = Case::new();
    let gate = Gate::new();
    let starts = Ledger::new();
    // the first worker of each seat comes up, replacements wait in their initializer
    let initializer = |ledger: String, gate: String| {
        Ledger::note(&ledger, 0);
        if std::fs::read_to_string(&ledger).unwrap().lines().count() > 2 {
            Gate::wait_at(&gate);
        }
    };
    let builder = case.builder(2).grace(GRACE);
    let pool = builder.initializer(initializer, (starts.path(), gate.path())).build().unwrap();
    for pid in seats(&pool, 2) {
        fault::send(pid, Signal::SIGKILL);
    }
    let handles: Vec<_> =
        (0..5).map(|_| pool.apply_async(wait_at, (gate.path(),)).unwrap()).collect();
    gate.await_arrivals(2);
    within(BOUND, "terminate", || pool.terminate());
    case.assert_nothing_left();
    assert_terminated(handles);
}

#[test]
fn terminate_twice_and_after_close_and_join() {
    let case = Case::new();
    let pool = case.pool(2);
    pool.terminate();
    pool.terminate();
    pool.close();
    pool.join().unwrap();
    pool.join().unwrap();
    pool.terminate();

    let pool = case.pool(2);
    pool.close();
    pool.close();
    pool.join().unwrap();
    within(BOUND, "terminate of nothing", || pool.terminate());
    pool.join().unwrap();
}

#[test]
fn terminate_submit_close_cancel_and_drop_of_handles_at_once() {
    let case = Case::new();
    for round in 0..10 {
        let gate = Gate::new();
        let pool = case.builder(2).grace(GRACE).build().unwrap();
        let start = Barrier::new(8);
        std::thread::scope(|scope| {
            let (pool, gate, start) = (&pool, &gate, &start);
            for thread in 0..4 {
                scope.spawn(move || {
                    start.wait();
                    let mut handles = Vec::new();
                    for number in 0..50u64 {
                        let task = |gate: String, number: u64| {
                            if number % 7 == 6 {
                                Gate::wait_at(&gate);
                            }
                            number
                        };
                        match pool.apply_async(task, (gate.path(), number)) {
                            Ok(handle) if number % 5 == thread => drop(handle),
                            Ok(handle) => handles.push((number, handle)),
                            Err(SubmitError::Closed) => break,
                            Err(other) => panic!("{other:?}"),
                        }
                    }
                    for (number, handle) in handles {
                        if number % 3 == 0 {
                            handle.cancel();
                        }
                        match handle.get() {
                            Ok(result) => assert_eq!(result, number),
                            Err(TaskError::Terminated | TaskError::Cancelled) => {}
                            Err(other) => panic!("{other:?}"),
                        }
                    }
                });
            }
            for _ in 0..3 {
                scope.spawn(move || {
                    start.wait();
                    // in some rounds tasks run first
                    if round % 2 == 0 {
                        gate.await_arrivals(1);
                    }
                    pool.terminate();
                });
            }
            scope.spawn(move || {
                start.wait();
                if round % 3 == 0 {
                    pool.close();
                    // closed before anything could arrive: let whoever waits for an arrival go on
                    Gate::announce(&gate.path());
                }
            });
        });
        pool.join().unwrap();
        drop(pool);
        case.assert_nothing_left();
    }
}

#[test]
fn terminate_from_a_waker_does_not_deadlock() {
    struct Terminates(std::sync::Arc<Pool>, std::sync::mpsc::Sender<()>);
    impl std::task::Wake for Terminates {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.terminate();
            self.1.send(()).unwrap();
        }
    }
    let case = Case::new();
    let gate = Gate::new();
    let pool = std::sync::Arc::new(case.builder(2).grace(GRACE).build().unwrap());
    let mut handle = pool.apply_async(wait_at, (gate.path(),)).unwrap();
    let other = pool.apply_async(std::thread::park, ()).unwrap();
    let (sender, woken) = std::sync::mpsc::channel();
    let waker = std::sync::Arc::new(Terminates(std::sync::Arc::clone(&pool), sender)).into();
    let polled = std::future::Future::poll(
        std::pin::Pin::new(&mut handle),
        &mut std::task::Context::from_waker(&waker),
    );
    assert!(polled.is_pending());
    gate.await_arrivals(1);
    gate.let_pass(1);
    woken.recv_timeout(SOON).expect("the waker returns");
    assert_eq!(other.get(), Err(TaskError::Terminated));
    pool.join_timeout(SOON).unwrap();
    drop(waker);
}

#[test]
fn join_of_an_open_pool_is_an_error_and_join_timeout_can_be_repeated() {
    let case = Case::new();
    let gate = Gate::new();
    let pool = case.pool(1);
    assert_eq!(pool.join(), Err(PoolError::StillOpen));
    assert_eq!(pool.join_timeout(Duration::ZERO), Err(PoolError::StillOpen));
    let handle = pool.apply_async(wait_at, (gate.path(),)).unwrap();
    gate.await_arrivals(1);
    pool.close();
    let short = Duration::from_millis(5);
    assert_eq!(pool.join_timeout(Duration::ZERO), Err(PoolError::TimedOut(Duration::ZERO)));
    assert_eq!(pool.join_timeout(short), Err(PoolError::TimedOut(short)));
    gate.let_pass(1);
    pool.join_timeout(SOON).unwrap();
    handle.get().unwrap();
}

#[test]
fn close_lets_queued_tasks_finish_and_refuses_new_ones() {
    let case = Case::new();
    let gate = Gate::new();
    let pool = case.pool(2);
    let first = pool.apply_async(wait_at, (gate.path(),)).unwrap();
    let queued: Vec<_> = (0..500u64).map(|i| pool.apply_async(u64::pow, (i, 2)).unwrap()).collect();
    pool.close();
    assert!(matches!(pool.apply_async(u64::pow, (2, 2)), Err(SubmitError::Closed)));
    gate.let_pass(1);
    pool.join().unwrap();
    case.assert_nothing_left();
    first.get().unwrap();
    for (i, handle) in queued.into_iter().enumerate() {
        assert!(handle.ready(), "join returns when all is done");
        assert_eq!(handle.get(), Ok((i * i) as u64));
    }
}

#[test]
fn a_worker_that_dies_after_close_is_replaced_for_what_is_left() {
    let case = Case::new();
    let gate = Gate::new();
    let pool = case.pool(1);
    let first = pool.apply_async(wait_at, (gate.path(),)).unwrap();
    let queued: Vec<_> = (0..20u64).map(|i| pool.apply_async(u64::pow, (i, 2)).unwrap()).collect();
    let pid = gate.await_arrivals(1)[0];
    pool.close();
    fault::send(pid, Signal::SIGKILL);
    pool.join().unwrap();
    assert!(matches!(first.get(), Err(TaskError::WorkerLost { .. })));
    for (i, handle) in queued.into_iter().enumerate() {
        assert_eq!(handle.get(), Ok((i * i) as u64));
    }
}

#[test]
fn drop_is_bounded_and_settles_handles() {
    let case = Case::new();
    let gate = Gate::new();
    // drop does not wait for a long grace
    let pool = case.builder(2).grace(Duration::from_secs(60)).build().unwrap();
    let deaf = |gate: String| {
        fault::become_deaf();
        Gate::wait_at(&gate);
    };
    let handles: Vec<_> =
        (0..1_000).map(|_| pool.apply_async(deaf, (gate.path(),)).unwrap()).collect();
    gate.await_arrivals(2);
    let start = Instant::now();
    within(Duration::from_millis(1_200), "drop", || drop(pool));
    assert!(start.elapsed() > Duration::from_millis(100), "the workers were deaf");
    case.assert_nothing_left();
    assert_terminated(handles);
}

#[test]
fn a_pool_dropped_in_a_panic_leaves_nothing() {
    let case = Case::new();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let pool = case.pool(2);
        let _handle = pool.apply_async(std::thread::park, ()).unwrap();
        panic!("the user's code goes wrong");
    }));
    assert!(outcome.is_err());
    case.assert_nothing_left();
}

#[test]
fn a_pool_made_by_a_thread_that_ends_keeps_its_workers() {
    let case = Case::new();
    let pool = std::thread::scope(|scope| scope.spawn(|| case.pool(3)).join().unwrap());
    let pids = seats(&pool, 3);
    assert_eq!(
        pool.map(|x: u64| x * x, 0..30).unwrap(),
        (0..30).map(|x| x * x).collect::<Vec<_>>()
    );
    assert_eq!(seats(&pool, 3), pids);
    // and so does a replacement that was asked for by a thread that ends
    let dead = std::thread::scope(|scope| {
        let dies = || fault::Fault::ExitAtOnce(1).happen();
        let pool = &pool;
        scope.spawn(move || pool.apply(dies, ())).join().unwrap()
    });
    assert!(dead.is_err());
    let pids = seats(&pool, 3);
    assert_eq!(pool.apply(u64::pow, (2, 2)), Ok(4));
    assert_eq!(seats(&pool, 3), pids);
}

/// Kills a parent program whose workers do something; none of them may be there a second later.
fn parent_killed_while_workers_are(doing: &str, arrivals: usize) {
    let case = Case::new();
    let gate = Gate::new();
    let mut parent = Program::new(&case, PARENT, &["workers", doing, &gate.path()]).start();
    let workers: Vec<u32> = parent.line().split(' ').map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(workers.len(), 3);
    gate.await_arrivals(arrivals);
    assert!(workers.iter().all(|&pid| census::is_alive(pid)));
    parent.kill();
    eventually(Duration::from_secs(1), "no worker outlives its parent by a second", || {
        workers.iter().all(|&pid| !census::is_alive(pid)) && case.processes().is_empty()
    });
}

#[test]
fn parent_killed_while_workers_are_idle() {
    parent_killed_while_workers_are("idle", 0);
}

#[test]
fn parent_killed_while_workers_are_asleep() {
    parent_killed_while_workers_are("asleep", 3);
}

#[test]
fn parent_killed_while_workers_are_spinning() {
    parent_killed_while_workers_are("spinning", 3);
}

#[test]
fn parent_killed_while_workers_are_stopped() {
    parent_killed_while_workers_are("stopped", 0);
}

#[test]
fn parent_killed_while_workers_are_deaf_to_signals() {
    parent_killed_while_workers_are("deaf", 3);
}

#[test]
fn parent_killed_while_workers_start() {
    let case = Case::new();
    // at any moment: the first processes are there, wherever they have got to
    for _ in 0..10 {
        let mut parent = Program::new(&case, PARENT, &["cycles", "100000"]).start();
        eventually(SOON, "workers start", || census::children(parent.pid()).len() >= 2);
        parent.kill();
        eventually(Duration::from_secs(1), "no worker outlives its parent by a second", || {
            case.processes().is_empty()
        });
    }
}

#[test]
fn a_program_may_end_with_an_unclosed_pool() {
    for (how, code) in [
        ("dropped", Some(0)),
        ("forgotten", Some(0)),
        ("leaked-to-a-thread", Some(0)),
        ("exit", Some(0)),
        ("panic", Some(101)),
        ("abort", None),
    ] {
        let case = Case::new();
        let gate = Gate::new();
        let (status, _, stderr) =
            Program::new(&case, PARENT, &["unclosed", how, &gate.path()]).run();
        assert_eq!(status.code(), code, "{how}: {stderr}");
        eventually(Duration::from_secs(1), "no worker outlives its parent by a second", || {
            case.processes().is_empty()
        });
    }
}

#[test]
fn a_forked_copy_that_drops_the_pool_touches_nothing() {
    let case = Case::new();
    let gate = Gate::new();
    let mut parent = Program::new(&case, PARENT, &["forked-copy", &gate.path()]).start();
    gate.await_arrivals(1);
    assert!(parent.line().ends_with(", 0)"), "the copy drops its pool and exits");
    let before = parent.line();
    gate.let_pass(1);
    parent.say("go on");
    assert_eq!(parent.line(), "Ok(true)", "the task has run in one of {before}");
    assert_eq!(parent.line(), "Some(0)");
    assert!(parent.wait().success());
}

#[test]
fn a_program_that_forgets_init_gets_an_error_and_does_not_explode() {
    let case = Case::new();
    let directory = tempfile::tempdir().unwrap();
    let mains = directory.path().join("mains");
    let start = Instant::now();
    let program = Program::new(&case, FORGOT_INIT, &[]);
    let (status, stdout, stderr) = program.env("POOL_TESTS_MAINS", mains.to_str().unwrap()).run();
    assert!(status.success(), "{stderr}");
    assert_eq!(stdout.trim(), "InitNotCalled", "{stderr}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let processes = std::fs::read_to_string(mains).unwrap().lines().count();
    assert!((2..=30).contains(&processes), "{processes} processes ran main");
}

fn repetitions(default: usize) -> usize {
    std::env::var("POOL_TESTS_CYCLES").map_or(default, |text| text.parse().unwrap())
}

/// 200 times; POOL_TESTS_CYCLES=10000 for the long run.
#[test]
fn pools_that_come_and_go_leave_nothing() {
    let case = Case::with_limit(Duration::from_secs(3_600));
    let count = repetitions(200);
    Program::new(&case, PARENT, &["cycles", &count.to_string()]).assert_stays_flat(2_048);
}

#[test]
fn workers_that_die_and_are_replaced_leave_nothing() {
    let case = Case::with_limit(Duration::from_secs(3_600));
    let count = repetitions(200);
    Program::new(&case, PARENT, &["respawns", &count.to_string()]).assert_stays_flat(2_048);
}

#[test]
fn pools_that_can_not_be_built_leave_nothing() {
    let case = Case::new();
    Program::new(&case, PARENT, &["failed-builds", "20"]).assert_stays_flat(2_048);
}
