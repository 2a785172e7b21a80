//! Workers die at every step and in every way: that costs exactly the task which was running, with its exact cause, and nothing else.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]

use std::time::Duration;

use nix::sys::signal::Signal;
use pool_core::{AsyncResult, ExitCause, Pool, PoolError, TaskError};
use pool_tests::fault::{self, Fault, Mine, What, When};
use pool_tests::{Case, Gate, Ledger, census, eventually, reply_socket, seats};

pool_core::test_support!();

const SOON: Duration = Duration::from_secs(20);

/// What a fault must be told as.
#[derive(Clone, Copy, Debug)]
enum Told {
    /// As a panic; the worker goes on.
    Panicked,
    Exited(i32),
    Signaled(Signal),
}

/// Every way to go wrong from within, with what it must be told as. (SIGSEGV and SIGBUS only as what the kernel sends for a bad address:
/// std's handler for stack overflows swallows the first one that is merely sent.)
const FAULTS: [(Fault, Told); 11] = [
    (Fault::Panic, Told::Panicked),
    (Fault::Abort, Told::Signaled(Signal::SIGABRT)),
    (Fault::Exit(0), Told::Exited(0)),
    (Fault::Exit(3), Told::Exited(3)),
    (Fault::ExitAtOnce(0), Told::Exited(0)),
    (Fault::WildPointer, Told::Signaled(Signal::SIGSEGV)),
    (Fault::StackOverflow, Told::Signaled(Signal::SIGABRT)),
    (Fault::DoublePanic, Told::Signaled(Signal::SIGABRT)),
    (Fault::Raise(Signal::SIGKILL as i32), Told::Signaled(Signal::SIGKILL)),
    (Fault::Raise(Signal::SIGTERM as i32), Told::Signaled(Signal::SIGTERM)),
    (Fault::Raise(Signal::SIGILL as i32), Told::Signaled(Signal::SIGILL)),
];

impl Told {
    #[track_caller]
    fn check<R: std::fmt::Debug>(self, what: &str, outcome: &Result<R, TaskError>, function: &str) {
        let is_right = match (self, outcome) {
            (Told::Panicked, Err(TaskError::Panicked { message, location, backtrace })) => {
                message == "a fault was asked for"
                    && location.contains("fault.rs:")
                    && backtrace.contains("fault")
            }
            (_, Err(TaskError::WorkerLost { cause, task, pid, .. })) => {
                let cause_is_right = match (self, *cause) {
                    (Told::Exited(expected), ExitCause::Exited(code)) => code == expected,
                    (Told::Signaled(expected), ExitCause::Signaled { signal, .. }) => {
                        signal == expected as i32
                    }
                    _ => false,
                };
                cause_is_right && task.name.ends_with(function) && *pid > 1
            }
            _ => false,
        };
        assert!(is_right, "{what}: expected {self:?}, got {outcome:?}");
    }
}

fn double(ledger: String, number: u64) -> u64 {
    Ledger::note(&ledger, number);
    number * 2
}

fn run(ledger: String, number: u64, fault: Fault) {
    Ledger::note(&ledger, number);
    fault.happen();
}

fn take(ledger: String, number: u64, _mine: Mine) {
    Ledger::note(&ledger, number);
}

fn give(ledger: String, number: u64, what: What) -> Mine {
    Ledger::note(&ledger, number);
    Mine { when: When::EncodeInWorker, what }
}

/// Tasks that have nothing to do with the fault: all of them must go well.
struct Neighbours(Vec<(u64, AsyncResult<u64>)>);

impl Neighbours {
    fn submit(pool: &Pool, ledger: &Ledger, numbers: std::ops::Range<u64>) -> Neighbours {
        let submit = |number| (number, pool.apply_async(double, (ledger.path(), number)).unwrap());
        Neighbours(numbers.map(submit).collect())
    }

    #[track_caller]
    fn check(self, what: &str, ledger: &Ledger) {
        for (number, handle) in self.0 {
            let outcome = handle.get();
            let by = ledger.notes().remove(&number).unwrap_or_default();
            assert_eq!(outcome, Ok(number * 2), "{what}: neighbour {number}, run by {by:?}");
            assert_eq!(by.len(), 1, "{what}: neighbour {number}, run by {by:?}");
        }
    }
}

/// One fault among neighbours, for each fault: `submit` gets the fault and the number of its task.
fn each_fault<R: std::fmt::Debug>(
    function: &str,
    executions: usize,
    submit: impl Fn(&Pool, &Ledger, u64, Fault) -> AsyncResult<R>,
) {
    let case = Case::new();
    let pool = case.pool(2);
    for (fault, told) in FAULTS {
        let what = format!("{fault:?}");
        let ledger = Ledger::new();
        let before = seats(&pool, 2);
        let first = Neighbours::submit(&pool, &ledger, 0..20);
        let faulty = submit(&pool, &ledger, 20, fault);
        let then = Neighbours::submit(&pool, &ledger, 21..40);
        told.check(&what, &faulty.get(), function);
        first.check(&what, &ledger);
        then.check(&what, &ledger);
        assert_eq!(ledger.count(20), executions, "{what}");
        ledger.assert_at_most_once();
        let after = seats(&pool, 2);
        let kept = after.iter().filter(|pid| before.contains(pid)).count();
        let expected = if matches!(told, Told::Panicked) { 2 } else { 1 };
        assert_eq!(kept, expected, "{what}: a panic keeps the worker, a death replaces one");
    }
}

#[test]
fn while_running() {
    each_fault("run", 1, |pool, ledger, number, fault| {
        pool.apply_async(run, (ledger.path(), number, fault)).unwrap()
    });
}

#[test]
fn while_decoding_arguments() {
    each_fault("take", 0, |pool, ledger, number, fault| {
        let mine = Mine { when: When::DecodeInWorker, what: What::Fault(fault) };
        pool.apply_async(take, (ledger.path(), number, mine)).unwrap()
    });
}

#[test]
fn while_encoding_the_result() {
    each_fault("give", 1, |pool, ledger, number, fault| {
        pool.apply_async(give, (ledger.path(), number, What::Fault(fault))).unwrap()
    });
}

#[test]
fn error_messages_name_worker_signal_and_task() {
    let case = Case::new();
    let pool = case.pool(1);
    let pid = seats(&pool, 1)[0];
    let error = pool.apply(run, (Ledger::new().path(), 1, Fault::WildPointer)).unwrap_err();
    let text = error.to_string();
    assert_eq!(
        text,
        format!(
            "worker 0 (pid {pid}) was killed by signal 11 (SIGSEGV) while running task 1 (crash_matrix::run)"
        )
    );
    let error = pool.apply(run, (Ledger::new().path(), 1, Fault::Exit(0))).unwrap_err();
    assert!(error.to_string().contains("exited with code 0 while running task 2"), "{error}");
}

#[test]
fn killed_from_outside_while_running() {
    let case = Case::new();
    let pool = case.pool(2);
    for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGABRT, Signal::SIGINT] {
        let (gate, ledger) = (Gate::new(), Ledger::new());
        let waits = |path: String| Gate::wait_at(&path);
        let victim = pool.apply_async(waits, (gate.path(),)).unwrap();
        let pid = gate.await_arrivals(1)[0];
        assert_eq!(victim.pid(), Some(pid));
        let others = Neighbours::submit(&pool, &ledger, 0..20);
        fault::send(pid, signal);
        match victim.get().unwrap_err() {
            TaskError::WorkerLost {
                pid: told,
                cause: ExitCause::Signaled { signal: s, .. },
                ..
            } => {
                assert_eq!((told, s), (pid, signal as i32));
            }
            other => panic!("{other:?}"),
        }
        others.check(signal.as_str(), &ledger);
        assert!(!seats(&pool, 2).contains(&pid));
    }
}

#[test]
fn killed_while_idle_costs_nothing() {
    let case = Case::new();
    let pool = case.pool(3);
    for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGILL, Signal::SIGABRT] {
        let before = seats(&pool, 3);
        let ledger = Ledger::new();
        for pid in &before {
            fault::send(*pid, signal);
        }
        // Workers of a test binary have two threads. A signal that dumps core ends the one that takes it first, and the other may begin a
        // task in that instant, which is then lost rightly. The other signals end all threads at once.
        if matches!(signal, Signal::SIGILL | Signal::SIGABRT) {
            eventually(SOON, "the workers end", || {
                !before.iter().any(|&pid| census::is_alive(pid))
            });
        }
        // some of these are given to workers that are dying just now: none of them may be lost
        let tasks = Neighbours::submit(&pool, &ledger, 0..100);
        tasks.check(signal.as_str(), &ledger);
        let after = seats(&pool, 3);
        assert!(after.iter().all(|pid| !before.contains(pid)), "{before:?} {after:?}");
    }
    assert!(pool.stats().workers_lost >= 12);
}

#[test]
fn killed_again_and_again_while_idle_costs_nothing() {
    let case = Case::new();
    let pool = case.pool(2);
    let ledger = Ledger::new();
    for round in 0..50 {
        for worker in pool.workers() {
            if worker.pid() != 0 {
                fault::try_send(worker.pid(), Signal::SIGKILL);
            }
        }
        // only idle workers were killed: the next task must find one, or wait for one
        assert_eq!(pool.apply(double, (ledger.path(), round)), Ok(round * 2));
    }
    ledger.assert_at_most_once();
}

/// The worker goes wrong in a thread of its own when no task runs.
#[test]
fn dying_of_its_own_thread_while_idle_costs_nothing() {
    let case = Case::new();
    let pool = case.pool(1);
    for (fault, told) in FAULTS {
        // these two end in the unwinding of a thread, or are told by its name: the same as an abort
        if matches!(fault, Fault::StackOverflow | Fault::DoublePanic) {
            continue;
        }
        let (gate, ledger) = (Gate::new(), Ledger::new());
        let arm = |gate: String, fault: Fault| {
            std::thread::spawn(move || {
                Gate::wait_at(&gate);
                fault.happen();
            });
        };
        pool.apply(arm, (gate.path(), fault)).unwrap();
        let pid = gate.await_arrivals(1)[0];
        gate.let_pass(1);
        if !matches!(told, Told::Panicked) {
            eventually(SOON, "the worker ends", || !census::is_alive(pid));
        }
        Neighbours::submit(&pool, &ledger, 0..10).check(&format!("{fault:?}"), &ledger);
        let stays = seats(&pool, 1) == [pid];
        assert_eq!(stays, matches!(told, Told::Panicked), "{fault:?}");
    }
}

#[test]
fn killed_with_tasks_unread_in_its_socket_costs_nothing() {
    let case = Case::new();
    let pool = case.pool(1);
    let pid = seats(&pool, 1)[0];
    fault::send(pid, Signal::SIGSTOP);
    eventually(SOON, "the worker stops", || census::is_stopped(pid));
    let ledger = Ledger::new();
    let tasks = Neighbours::submit(&pool, &ledger, 0..50);
    fault::send(pid, Signal::SIGKILL);
    tasks.check("unread", &ledger);
    ledger.assert_at_most_once();
}

#[test]
fn an_initializer_that_fails_or_panics_is_an_error_with_its_text() {
    let case = Case::new();
    let fails = || -> anyhow::Result<()> {
        Err(anyhow::anyhow!("no such table").context("cannot load the model"))
    };
    let error = case.builder(3).initializer(fails, ()).build().unwrap_err();
    assert_eq!(error, PoolError::InitFailed("cannot load the model: no such table".to_owned()));
    case.assert_nothing_left();
    let panics = |fault: Fault| fault.happen();
    let error = case.builder(3).initializer(panics, (Fault::Panic,)).build().unwrap_err();
    let PoolError::InitFailed(text) = &error else { panic!("{error:?}") };
    assert!(text.contains("a fault was asked for") && text.contains("fault.rs:"), "{text}");
}

#[test]
fn an_initializer_that_always_dies_ends_in_an_error_after_a_few_attempts() {
    let case = Case::new();
    for (fault, told) in FAULTS {
        if matches!(told, Told::Panicked) {
            continue;
        }
        let ledger = Ledger::new();
        let dies = |ledger: String, fault: Fault| {
            Ledger::note(&ledger, 0);
            fault.happen();
        };
        let built = case.builder(2).initializer(dies, (ledger.path(), fault)).build();
        let error = built.unwrap_err();
        let PoolError::StartFailed(text) = &error else { panic!("{fault:?}: {error:?}") };
        let expected = match told {
            Told::Exited(code) => format!("exited with code {code}"),
            Told::Signaled(signal) => signal.as_str().to_owned(),
            Told::Panicked => unreachable!(),
        };
        assert!(text.contains(&expected), "{fault:?}: {text}");
        let attempts = ledger.count(0);
        assert!((2..=20).contains(&attempts), "{fault:?}: {attempts} attempts");
        case.assert_nothing_left();
    }
}

/// Dies in the first `deaths` workers that get here, counted in a file.
fn dies_at_first(ledger: String, deaths: usize, fault: Fault) {
    Ledger::note(&ledger, 0);
    if std::fs::read_to_string(&ledger).unwrap().lines().count() <= deaths {
        fault.happen();
    }
}

#[test]
fn a_death_during_start_costs_nothing() {
    let case = Case::new();
    for fault in [Fault::Raise(9), Fault::Exit(0), Fault::WildPointer, Fault::Abort] {
        let (ledger, starts) = (Ledger::new(), Ledger::new());
        let pool = case.builder(2).initializer(dies_at_first, (starts.path(), 2, fault));
        let pool = pool.build().unwrap();
        Neighbours::submit(&pool, &ledger, 0..20).check(&format!("{fault:?}"), &ledger);
        seats(&pool, 2);
        assert!(starts.count(0) >= 4, "two that died, two that live");
    }
}

#[test]
fn a_replacement_that_dies_during_start_costs_nothing() {
    let case = Case::new();
    let starts = Ledger::new();
    let gate = Gate::new();
    let initializer = |ledger: String, gate: String| {
        Ledger::note(&ledger, 0);
        let count = std::fs::read_to_string(&ledger).unwrap().lines().count();
        if count == 2 {
            Gate::wait_at(&gate);
        }
    };
    let pool = case.builder(1).initializer(initializer, (starts.path(), gate.path()));
    let pool = pool.build().unwrap();
    let first = seats(&pool, 1)[0];
    fault::send(first, Signal::SIGKILL);
    // the replacement is in its initializer now: it is killed there, with a task already waiting
    let waiting = pool.apply_async(u64::pow, (2, 10)).unwrap();
    let second = gate.await_arrivals(1)[0];
    fault::send(second, Signal::SIGKILL);
    assert_eq!(waiting.get(), Ok(1024));
    let third = seats(&pool, 1)[0];
    assert!(third != first && third != second);
    assert_eq!(starts.count(0), 3);
}

#[test]
fn a_replacement_whose_initializer_fails_ends_the_pool_with_the_text() {
    let case = Case::new();
    let starts = Ledger::new();
    let initializer = |ledger: String| -> anyhow::Result<()> {
        Ledger::note(&ledger, 0);
        let count = std::fs::read_to_string(&ledger).unwrap().lines().count();
        anyhow::ensure!(count <= 1, "the licence is used up");
        Ok(())
    };
    let pool = case.builder(1).initializer(initializer, (starts.path(),)).build().unwrap();
    let gate = Gate::new();
    let waits = |path: String| Gate::wait_at(&path);
    let running = pool.apply_async(waits, (gate.path(),)).unwrap();
    let queued: Vec<_> = (0..5).map(|i| pool.apply_async(u64::pow, (i, 2)).unwrap()).collect();
    fault::send(gate.await_arrivals(1)[0], Signal::SIGKILL);
    assert!(matches!(running.get(), Err(TaskError::WorkerLost { .. })));
    for handle in queued {
        assert_eq!(handle.get(), Err(TaskError::InitFailed("the licence is used up".to_owned())));
    }
    assert_eq!(starts.count(0), 2, "it is not tried again");
    let refused = pool.apply_async(u64::pow, (2, 2)).unwrap_err();
    assert!(refused.to_string().contains("the licence is used up"), "{refused}");
    pool.close();
    assert!(matches!(pool.join(), Err(PoolError::Broken(_))));
}

#[test]
fn a_death_while_being_recycled_costs_nothing() {
    let case = Case::new();
    for (fault, told) in FAULTS {
        // a panic must not leave a C function, and atexit can't exit once more
        if matches!(told, Told::Panicked) || matches!(fault, Fault::Exit(_)) {
            continue;
        }
        let one = std::num::NonZero::new(1).unwrap();
        let pool = case.builder(2).max_tasks_per_child(one).build().unwrap();
        let arm = |number: u64, fault: Fault| {
            fault::happen_at_exit(fault);
            number
        };
        let handles: Vec<_> =
            (0..10).map(|number| pool.apply_async(arm, (number, fault)).unwrap()).collect();
        for (number, handle) in handles.into_iter().enumerate() {
            assert_eq!(handle.get(), Ok(number as u64), "{fault:?}");
        }
        pool.close();
        pool.join().unwrap();
    }
}

#[test]
fn killed_from_outside_while_being_recycled_costs_nothing() {
    let case = Case::new();
    let one = std::num::NonZero::new(1).unwrap();
    let pool = case.builder(2).max_tasks_per_child(one).build().unwrap();
    let ledger = Ledger::new();
    let tasks = Neighbours::submit(&pool, &ledger, 0..60);
    // no task kills or is killed: only workers that are leaving are
    let done = |tasks: &Neighbours| tasks.0.iter().filter(|(_, handle)| handle.ready()).count();
    let mut killed = 0;
    eventually(SOON, "all tasks end", || {
        for worker in pool.workers() {
            if worker.state() == pool_core::WorkerState::Stopping && worker.pid() != 0 {
                fault::try_send(worker.pid(), Signal::SIGKILL);
                killed += 1;
            }
        }
        done(&tasks) == 60
    });
    assert!(killed > 0, "no worker was seen while it left");
    tasks.check("recycled", &ledger);
}

#[test]
fn workers_that_kill_each_other_settle_and_the_pool_goes_on() {
    let case = Case::new();
    for workers in [1, 2, 5, 13] {
        let pool = case.pool(workers);
        for _ in 0..3 {
            let pids = seats(&pool, workers);
            let murder = |pid: u32| fault::try_send(pid, Signal::SIGKILL);
            // each kills its successor, the last one the first
            let victims = pids.iter().cycle().skip(1).take(workers);
            let handles: Vec<_> =
                victims.map(|pid| pool.apply_async(murder, (*pid,)).unwrap()).collect();
            for handle in handles {
                match handle.get() {
                    Ok(())
                    | Err(TaskError::WorkerLost {
                        cause: ExitCause::Signaled { signal: 9, .. },
                        ..
                    }) => {}
                    other => panic!("{workers} workers: {other:?}"),
                }
            }
            let ledger = Ledger::new();
            Neighbours::submit(&pool, &ledger, 0..20).check("afterwards", &ledger);
        }
        seats(&pool, workers);
    }
}

#[test]
fn a_hundred_bad_and_a_hundred_good_tasks_all_settle() {
    let case = Case::new();
    let pool = case.pool(2);
    let ledger = Ledger::new();
    let mut bad = Vec::new();
    let mut good = Vec::new();
    for number in 0..100 {
        let fault = [Fault::Exit(1), Fault::Raise(9), Fault::Panic][number as usize % 3];
        bad.push(pool.apply_async(run, (ledger.path(), number, fault)).unwrap());
        good.push(Neighbours::submit(&pool, &ledger, 1000 + number..1001 + number));
    }
    for (number, handle) in bad.into_iter().enumerate() {
        match (number % 3, handle.get()) {
            (0, Err(TaskError::WorkerLost { cause: ExitCause::Exited(1), .. }))
            | (
                1,
                Err(TaskError::WorkerLost { cause: ExitCause::Signaled { signal: 9, .. }, .. }),
            )
            | (2, Err(TaskError::Panicked { .. })) => {}
            other => panic!("{other:?}"),
        }
    }
    good.into_iter().for_each(|good| good.check("among bad ones", &ledger));
    ledger.assert_at_most_once();
}

#[test]
fn killed_while_the_parent_sends_64_mib_costs_nothing() {
    let case = Case::new();
    let pool = case.pool(1);
    for round in 0..3 {
        let pid = seats(&pool, 1)[0];
        fault::send(pid, Signal::SIGSTOP);
        eventually(SOON, "the worker stops", || census::is_stopped(pid));
        let ledger = Ledger::new();
        let big = |ledger: String, bytes: Vec<u64>| {
            Ledger::note(&ledger, 1);
            (bytes.len(), bytes.iter().sum::<u64>())
        };
        let handle = pool.apply_async(big, (ledger.path(), vec![round; 8 << 20])).unwrap();
        // the first pieces lie in front of a stopped worker: this is the middle of the transfer
        fault::send(pid, Signal::SIGKILL);
        assert_eq!(handle.get(), Ok((8 << 20, round * (8 << 20))));
        assert_eq!(ledger.count(1), 1);
    }
}

#[test]
fn killed_while_it_sends_64_mib_back() {
    let case = Case::new();
    let pool = case.builder(1).fast_lane(false).build().unwrap();
    let big = |size: usize| {
        reply_socket::when_sending(|| Fault::Raise(9).happen());
        vec![1u64; size >> 3]
    };
    let (mut lost, mut rounds) = (0, 0);
    // a reply that was received whole before the kill is a success: what never happens is a part of it. On a busy machine many are
    while rounds < 8 || lost == 0 {
        rounds += 1;
        match pool.apply(big, (64 << 20,)) {
            Ok(numbers) => assert!(numbers == vec![1u64; 8 << 20], "partial data"),
            Err(TaskError::WorkerLost { cause: ExitCause::Signaled { signal: 9, .. }, .. }) => {
                lost += 1
            }
            Err(other) => panic!("{other:?}"),
        }
        seats(&pool, 1);
    }
    assert_eq!(pool.apply(u64::pow, (3, 3)), Ok(27));
}

#[test]
fn a_reply_before_death_is_a_success() {
    let case = Case::new();
    let pool = case.pool(1);
    for size in [0, 100, 5_000, 50_000] {
        let (gate, ledger) = (Gate::new(), Ledger::new());
        // answers, then dies in another thread at once
        let answer = |ledger: String, gate: String, size: usize| {
            Ledger::note(&ledger, 1);
            std::thread::spawn(move || {
                Gate::wait_at(&gate);
                Fault::Raise(9).happen();
            });
            vec![7u8; size]
        };
        let handle = pool.apply_async(answer, (ledger.path(), gate.path(), size)).unwrap();
        handle.wait();
        let pid = gate.await_arrivals(1)[0];
        gate.let_pass(1);
        eventually(SOON, "the worker ends", || !census::is_alive(pid));
        assert_eq!(handle.get(), Ok(vec![7; size]));
        assert_eq!(ledger.count(1), 1);
    }
}

#[test]
fn results_that_can_not_be_encoded_fail_alone_and_keep_the_worker() {
    let case = Case::new();
    let pool = case.pool(1);
    let pid = seats(&pool, 1);
    let ledger = Ledger::new();
    for number in 0..20 {
        match pool.apply(give, (ledger.path(), number, What::Refuse)) {
            Err(TaskError::Encode(text)) => {
                assert!(text.contains("this value refuses") && text.contains("Mine"), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(pool.apply(u64::pow, (2, 3)), Ok(8));
    assert_eq!(seats(&pool, 1), pid);
    ledger.assert_at_most_once();
}

#[test]
fn arguments_that_can_not_be_decoded_fail_alone_and_keep_the_worker() {
    let case = Case::new();
    let pool = case.pool(1);
    let pid = seats(&pool, 1);
    let ledger = Ledger::new();
    for number in 0..20 {
        let mine = Mine { when: When::DecodeInWorker, what: What::Refuse };
        match pool.apply(take, (ledger.path(), number, mine)) {
            Err(TaskError::Decode(text)) => {
                assert!(text.contains("this value refuses") && text.contains("take"), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(pool.apply(u64::pow, (2, 3)), Ok(8));
    assert_eq!(seats(&pool, 1), pid);
    assert!(ledger.notes().is_empty(), "none of them may have run");
}

#[test]
fn arguments_that_can_not_be_encoded_fail_alone() {
    let case = Case::new();
    let pool = case.pool(1);
    let ledger = Ledger::new();
    let mine = Mine { when: When::EncodeInParent, what: What::Refuse };
    let handle = pool.apply_async(take, (ledger.path(), 1, mine)).unwrap();
    assert!(handle.ready() && !handle.successful());
    let Err(TaskError::Encode(text)) = handle.get() else { panic!() };
    assert!(text.contains("this value refuses"), "{text}");
    // the same within a map
    let mapped = pool.map(|_: Mine| 1, [Mine::DUD, mine, Mine::DUD]);
    assert!(matches!(mapped, Err(TaskError::Encode(_))), "{mapped:?}");
    assert_eq!(pool.apply(u64::pow, (2, 3)), Ok(8));
    assert!(ledger.notes().is_empty());
}

#[test]
fn results_that_can_not_be_decoded_fail_alone() {
    let case = Case::new();
    let pool = case.pool(1);
    let undecodable = |what: What| Mine { when: When::DecodeInParent, what };
    let good = pool.apply_async(u64::pow, (2, 5)).unwrap();
    let Err(TaskError::Decode(text)) = pool.apply(undecodable, (What::Refuse,)) else { panic!() };
    assert!(text.contains("this value refuses"), "{text}");
    assert_eq!(good.get(), Ok(32));
}

#[test]
fn a_deserialize_that_panics_in_the_parent_meets_only_the_caller() {
    let case = Case::new();
    let pool = case.pool(1);
    let pid = seats(&pool, 1);
    let undecodable = |what: What| Mine { when: When::DecodeInParent, what };
    let handle = pool.apply_async(undecodable, (What::Fault(Fault::Panic),)).unwrap();
    let good = pool.apply_async(u64::pow, (2, 5)).unwrap();
    handle.wait();
    assert!(handle.successful(), "the worker has done its work");
    // a panic of the user's own code may unwind in the thread that decodes, or become an error there
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| handle.get()));
    assert!(matches!(outcome, Err(_) | Ok(Err(TaskError::Decode(_)))), "{outcome:?}");
    assert_eq!(good.get(), Ok(32));
    assert_eq!(pool.apply(u64::pow, (2, 6)), Ok(64));
    assert_eq!(seats(&pool, 1), pid);
    pool.close();
    pool.join().unwrap();
}

#[test]
fn a_map_loses_only_the_chunk_that_kills_its_worker() {
    let case = Case::new();
    let pool = case.pool(2);
    let square = |x: u64| {
        if x == 57 {
            Fault::WildPointer.happen();
        }
        x * x
    };
    let outcomes = pool.task(square).chunk_size(1).map_async(0..100).unwrap().get_each();
    for (x, outcome) in outcomes.into_iter().enumerate() {
        if x == 57 {
            assert!(matches!(outcome, Err(TaskError::WorkerLost { .. })), "{outcome:?}");
        } else {
            assert_eq!(outcome, Ok((x * x) as u64));
        }
    }
    let outcomes = pool.task(square).chunk_size(10).map_async(0..100).unwrap().get_each();
    let lost: Vec<_> = (0..100).filter(|i| outcomes[*i].is_err()).collect();
    assert_eq!(lost, (50..60).collect::<Vec<_>>());
}

#[test]
fn an_imap_goes_on_behind_items_that_kill_their_workers() {
    let case = Case::new();
    let pool = case.pool(2);
    let square = |x: u64| {
        if x % 10 == 3 {
            Fault::Exit(4).happen();
        }
        x * x
    };
    let outcomes: Vec<_> = pool.imap(square, 0..50).collect();
    assert_eq!(outcomes.len(), 50);
    for (x, outcome) in outcomes.into_iter().enumerate() {
        match outcome {
            Ok(result) => assert_eq!(result, (x * x) as u64),
            Err(TaskError::WorkerLost { cause: ExitCause::Exited(4), .. }) => assert_eq!(x % 10, 3),
            Err(other) => panic!("{other:?}"),
        }
    }
    let mut outcomes: Vec<_> = pool.imap_unordered(square, 0..50).collect();
    assert_eq!(outcomes.len(), 50);
    outcomes.retain(Result::is_ok);
    assert_eq!(outcomes.len(), 45);
}

#[test]
fn a_grandchild_that_holds_the_reply_socket_does_not_hide_the_death() {
    let case = Case::new();
    let pool = case.pool(1);
    // a copy of the worker that keeps all its descriptors, outside of its process group
    #[allow(unsafe_code, reason = "fork is the point")]
    let fork = || {
        // SAFETY: the child calls only async-signal-safe functions.
        unsafe {
            if libc::fork() == 0 {
                libc::setsid();
                loop {
                    libc::pause();
                }
            }
            libc::_exit(9);
        }
        #[allow(unreachable_code, reason = "gives the closure its type")]
        ()
    };
    let outcome = pool.apply(fork, ());
    assert!(
        matches!(outcome, Err(TaskError::WorkerLost { cause: ExitCause::Exited(9), .. })),
        "{outcome:?}"
    );
    assert_eq!(pool.apply(u64::pow, (2, 3)), Ok(8));
    // it left the group on purpose: the pool does not promise to find it
    let family = census::with_ancestors(seats(&pool, 1)[0]);
    let is_stray = |process: &census::Process| !family.contains(&process.pid);
    let strays = || case.processes().into_iter().filter(is_stray);
    strays().for_each(|stray| fault::send(stray.pid, Signal::SIGKILL));
    eventually(SOON, "the stray ends", || strays().count() == 0);
}
