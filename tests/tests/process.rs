//! `Process`: the rows of C5 of the conformance list, and what goes wrong around processes.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]

use std::future::IntoFuture;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use pool_core::{
    ExitCause, Process, ProcessError, TaskError, Thread, Waitable, WorkerIndex, active_children,
    current_process, parent_process, wait,
};
use pool_tests::fault::Fault;
use pool_tests::{Case, Gate, Ledger, Program, census, eventually, fault};

pool_core::test_support!();

const FAMILY: &str = env!("CARGO_BIN_EXE_family");
const FORGOT_INIT: &str = env!("CARGO_BIN_EXE_forgot_init");
const SOON: Duration = Duration::from_secs(20);
const NO_TIME: Duration = Duration::ZERO;

fn wait_at(gate: String) {
    Gate::wait_at(&gate);
}

/// A process that runs, and waits at the gate.
fn waiting(case: &Case, gate: &Gate) -> Process<()> {
    let before = gate.arrived().len();
    let process = case.process().spawn(wait_at, (gate.path(),)).unwrap();
    gate.await_arrivals(before + 1);
    process
}

fn not_started<R>() -> Result<R, TaskError> {
    Err(ProcessError::NotStarted.into())
}

fn is_readable(fd: &OwnedFd, timeout: PollTimeout) -> bool {
    poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout).unwrap() == 1
}

#[track_caller]
fn assert_signalled<R: std::fmt::Debug>(outcome: Result<R, TaskError>, number: i32) {
    match outcome {
        Err(TaskError::WorkerLost { cause: ExitCause::Signaled { signal, .. }, .. }) => {
            assert_eq!(signal, number);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn c5_165_arguments_name_pid_and_life() {
    let case = Case::new();
    let gate = Gate::new();
    let work = |gate: String, a: u32, b: Option<String>| {
        Gate::wait_at(&gate);
        let me = current_process();
        let shown = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
        assert_eq!(shown.trim_end(), "worker bee");
        (a, b, me.name().to_owned(), me.pid(), me.daemon(), me.depth())
    };
    let args = (gate.path(), 7, Some("x".to_owned()));
    let process = case.process().name("worker bee").build(work, args);
    assert_eq!((process.pid(), process.exit_code(), process.is_alive()), (None, None, false));
    assert_eq!(process.join(), not_started());
    assert_eq!(process.join_timeout(NO_TIME), not_started());
    assert!(!process.wait() && !process.wait_timeout(SOON));
    assert_eq!(process.terminate(), Err(ProcessError::NotStarted));
    assert!(active_children().is_empty());

    process.start().unwrap();
    let pid = process.pid().unwrap();
    assert_eq!(process.start(), Err(ProcessError::AlreadyStarted));
    assert_eq!(process.set_name("x"), Err(ProcessError::AlreadyStarted));
    assert_eq!(gate.await_arrivals(1), [pid]);
    assert!(process.is_alive() && process.exit_code().is_none());
    assert_eq!(process.join_timeout(NO_TIME), Err(TaskError::NotReady(NO_TIME)));

    gate.let_pass(1);
    let expected = (7, Some("x".to_owned()), "worker bee".to_owned(), pid, true, 1);
    assert_eq!(process.join(), Ok(expected));
    assert_eq!((process.pid(), process.exit_code()), (Some(pid), Some(0)));
    assert!(!process.is_alive() && census::process(pid).is_none(), "it was collected");
    assert_eq!(process.join(), Err(TaskError::AlreadyTaken));
    assert_eq!(process.join_timeout(SOON), Err(TaskError::AlreadyTaken));
    assert_eq!(process.start(), Err(ProcessError::AlreadyStarted));
    assert_eq!(process.kill(), Ok(()), "there is nothing to be done");
}

#[test]
fn c5_165_default_names_are_counted_and_nested() {
    let case = Case::new();
    let name = || current_process().name().to_owned();
    let process = case.process().build(name, ());
    assert!(process.name().starts_with("Process-"), "{}", process.name());
    process.set_name("another").unwrap();
    process.start().unwrap();
    assert_eq!(process.join().as_deref(), Ok("another"));
    let nested = || {
        let inner = Process::spawn(|| current_process().name().to_owned(), ()).unwrap();
        (current_process().name().to_owned(), inner.name(), inner.join().unwrap())
    };
    let (outer, one, other) = case.process().spawn(nested, ()).unwrap().join().unwrap();
    assert_eq!((&one, &other), (&format!("{outer}:1"), &one));
    assert_eq!((current_process().name(), current_process().depth()), ("MainProcess", 0));
    assert_eq!((current_process().pid(), current_process().daemon()), (std::process::id(), false));
}

#[test]
fn c5_165_failures_are_results() {
    let case = Case::new();
    let fails = || -> anyhow::Result<u8> { Err(anyhow::anyhow!("inner").context("outer")) };
    let process = case.process().spawn(fails, ()).unwrap();
    assert_eq!(process.join(), Err(TaskError::Failed("outer: inner".to_owned())));
    assert_eq!(process.exit_code(), Some(1));
    let process = case.process().spawn(|x: u32| assert_eq!(x, 4, "not four"), (5,)).unwrap();
    match process.join() {
        Err(TaskError::Panicked { message, location, .. }) => {
            assert!(message.contains("not four") && location.contains("process.rs"), "{location}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(process.exit_code(), Some(1));
    let process = case.process().spawn(|| -> anyhow::Result<u8> { Ok(3) }, ()).unwrap();
    assert_eq!((process.join(), process.exit_code()), (Ok(3), Some(0)));
    let data = || -> Result<u8, String> { Err("data".to_owned()) };
    let process = case.process().spawn(data, ()).unwrap();
    assert_eq!((process.join(), process.exit_code()), (Ok(Err("data".to_owned())), Some(0)));
}

#[test]
fn c5_166_terminate_and_kill() {
    let case = Case::new();
    let gate = Gate::new();
    for (signal, kill) in [(15, false), (9, true)] {
        for stopped in [false, true] {
            let process = waiting(&case, &gate);
            let pid = process.pid().unwrap();
            if stopped {
                fault::send(pid, Signal::SIGSTOP);
                eventually(SOON, "it stops", || census::is_stopped(pid));
            }
            assert_eq!(process.join_timeout(NO_TIME), Err(TaskError::NotReady(NO_TIME)));
            if kill {
                process.kill().unwrap()
            } else {
                process.terminate().unwrap()
            }
            let error = process.join().unwrap_err();
            let text = error.to_string();
            assert!(
                text.starts_with("process ") && text.contains(" while running process::wait_at"),
                "{text}"
            );
            assert!(matches!(error, TaskError::WorkerLost { worker: WorkerIndex::PROCESS, .. }));
            assert_signalled::<()>(Err(error), signal);
            assert_eq!(process.exit_code(), Some(-signal));
            assert!(!process.is_alive() && process.wait());
            assert_eq!(process.terminate(), Ok(()));
        }
    }
}

#[test]
fn c5_166_a_process_that_ignores_sigterm_is_killed() {
    let case = Case::new();
    let gate = Gate::new();
    let deaf = |gate: String| {
        fault::become_deaf();
        Gate::wait_at(&gate);
        Gate::wait_at(&gate);
    };
    let process = case.process().spawn(deaf, (gate.path(),)).unwrap();
    gate.await_arrivals(1);
    process.terminate().unwrap();
    gate.let_pass(1);
    gate.await_arrivals(2);
    assert!(process.is_alive());
    process.kill().unwrap();
    assert_signalled(process.join(), 9);
}

#[test]
fn c5_167_a_hundred_processes() {
    let case = Case::new();
    let gate = Gate::new();
    let work = |gate: String, x: u64| {
        Gate::wait_at(&gate);
        x * x
    };
    let processes: Vec<_> =
        (0..100).map(|x| case.process().spawn(work, (gate.path(), x)).unwrap()).collect();
    let mut pids: Vec<_> = processes.iter().map(|process| process.pid().unwrap()).collect();
    let active: Vec<_> = active_children().iter().map(|child| child.pid().unwrap()).collect();
    assert_eq!(active, pids, "the oldest first");
    let mut arrived = gate.await_arrivals(100);
    arrived.sort_unstable();
    pids.sort_unstable();
    assert_eq!(arrived, pids);
    gate.let_pass(100);
    for (x, process) in (0..).zip(&processes) {
        assert_eq!((process.join(), process.exit_code()), (Ok(x * x), Some(0)));
    }
    assert!(active_children().is_empty());
    assert_eq!(census::children(std::process::id()), []);
}

#[test]
fn c5_167_active_children_are_those_that_live() {
    let case = Case::new();
    let gate = Gate::new();
    let pool = case.pool(1);
    let one = waiting(&case, &gate);
    let pids = || active_children().iter().map(|child| child.pid()).collect::<Vec<_>>();
    assert_eq!(pids(), [one.pid()], "workers of pools are not among them");
    let child = active_children().remove(0);
    assert_eq!((child.pid(), child.name(), child.daemon()), (one.pid(), one.name(), true));
    assert!(child.is_alive() && child.exit_code().is_none() && !child.wait_timeout(NO_TIME));
    let two = waiting(&case, &gate);
    drop(two);
    assert_eq!(pids().len(), 2, "a detached process goes on");
    for child in active_children() {
        child.clone().terminate().unwrap();
        assert!(child.wait());
        assert_eq!(child.exit_code(), Some(-15));
    }
    assert!(!child.is_alive() && pids().is_empty());
    assert_signalled(one.join(), 15);
    drop(pool);
}

#[test]
fn c5_168_a_grandchild_sees_its_parent_die() {
    let case = Case::new();
    let gate = Gate::new();
    let ledger = Ledger::new();
    let grandchild = |gate: String, ledger: String| {
        let parent = parent_process().unwrap();
        let sentinel = parent.sentinel().unwrap();
        let alive = parent.is_alive() && !is_readable(&sentinel, PollTimeout::ZERO);
        assert!(alive && !parent.wait_timeout(NO_TIME) && parent.name() == "the middle");
        Gate::announce(&gate);
        parent.wait();
        assert!(!parent.is_alive() && parent.wait_timeout(SOON) && parent.sentinel().is_err());
        assert!(is_readable(&sentinel, PollTimeout::NONE));
        Ledger::note(&ledger, u64::from(parent.pid()));
    };
    let child = move |gate: String, ledger: String| {
        let builder = Process::builder().daemon(false);
        drop(builder.spawn(grandchild, (gate.clone(), ledger)).unwrap());
        Gate::wait_at(&gate);
    };
    let process = case.process().name("the middle").spawn(child, (gate.path(), ledger.path()));
    let process = process.unwrap();
    gate.await_arrivals(2);
    process.kill().unwrap();
    assert_signalled(process.join(), 9);
    let pid = u64::from(process.pid().unwrap());
    eventually(SOON, "the grandchild has seen it", || ledger.count(pid) == 1);
    eventually(SOON, "the grandchild ends", || case.processes().is_empty());
    assert!(parent_process().is_none());
}

/// Each starts two more, as long as there are levels left; gives the numbers of the tree in order.
fn tree(levels: u32, number: u32) -> Vec<u32> {
    let mut numbers = vec![number];
    if levels > 0 {
        let children: Vec<_> = (1..3)
            .map(|child| Process::spawn(tree, (levels - 1, number * 10 + child)).unwrap())
            .collect();
        numbers.extend(children.iter().flat_map(|child| child.join().unwrap()));
    }
    numbers
}

#[test]
fn c5_169_processes_that_start_processes() {
    let case = Case::new();
    let process = case.process().spawn(tree, (2, 1)).unwrap();
    assert_eq!(process.join().unwrap(), [1, 11, 111, 112, 12, 121, 122]);
}

/// How deep it gets until it is refused.
fn dive(depth: u32) -> Result<u32, String> {
    assert_eq!(current_process().depth(), depth);
    match Process::spawn(dive, (depth + 1,)) {
        Ok(process) => process.join().unwrap(),
        Err(ProcessError::NestedTooDeep { depth: refused, limit }) => {
            assert_eq!((refused, limit), (depth + 1, depth));
            Ok(depth)
        }
        Err(other) => Err(other.to_string()),
    }
}

#[test]
fn c5_169_nesting_is_limited() {
    let case = Case::new();
    assert_eq!(case.process().spawn(dive, (1,)).unwrap().join(), Ok(Ok(8)));
}

#[test]
fn c5_169_pools_and_processes_inside_each_other() {
    let case = Case::new();
    let pool_inside = || {
        let pool = pool_tests::plain_builder(2).name("inner").build().unwrap();
        let sum = pool.map(|x: u64| x * x, 0..100).unwrap().iter().sum::<u64>();
        (sum, pool.apply(|| current_process().depth(), ()).unwrap())
    };
    assert_eq!(case.process().spawn(pool_inside, ()).unwrap().join(), Ok((328_350, 2)));
    let process_inside = || {
        let names = || (current_process().name().to_owned(), parent_process().map(|p| p.name()));
        let names = move || {
            let (name, parent) = names();
            (name, parent.map(str::to_owned))
        };
        Process::spawn(names, ()).unwrap().join().unwrap()
    };
    let pool = case.builder(1).name("outer").build().unwrap();
    let (name, parent) = pool.apply(process_inside, ()).unwrap();
    assert_eq!((&*name, parent.as_deref()), ("Process-outer-0:1", Some("outer-0")));
}

#[test]
fn c5_170_a_sentinel_tells_the_end() {
    let case = Case::new();
    let gate = Gate::new();
    let process = case.process().build(wait_at, (gate.path(),));
    let early = process.sentinel().unwrap();
    process.start().unwrap();
    gate.await_arrivals(1);
    let sentinel = process.sentinel().unwrap();
    assert!(!is_readable(&sentinel, PollTimeout::ZERO) && !is_readable(&early, PollTimeout::ZERO));
    gate.let_pass(1);
    assert!(is_readable(&sentinel, PollTimeout::NONE));
    assert_eq!(process.exit_code(), Some(0), "what the sentinel tells is so");
    assert!(is_readable(&early, PollTimeout::ZERO));
    assert!(is_readable(&process.sentinel().unwrap(), PollTimeout::ZERO));
    drop(process);
    assert!(is_readable(&sentinel, PollTimeout::ZERO), "it is the caller's own");
}

#[test]
fn c5_170_wait_for_a_mixed_set() {
    let case = Case::new();
    let [first, second, third, fourth] = [(); 4].map(|()| Gate::new());
    let pool = case.pool(3);
    let process = waiting(&case, &first);
    let gate = second.path();
    let thread = Thread::spawn(move || Gate::wait_at(&gate), ()).unwrap();
    let task = pool.apply_async(wait_at, (third.path(),)).unwrap();
    let path = fourth.path();
    let map = pool.map_async(wait_at, vec![path.clone(), path]).unwrap();
    let unstarted = Process::new(|| (), ());
    let items: [&dyn Waitable; 5] = [&process, &thread, &task, &map, &unstarted];
    assert!(wait(&[], None).is_empty());
    assert!(wait(&items, Some(NO_TIME)).is_empty());
    assert!(wait(&items, Some(Duration::from_millis(20))).is_empty());
    third.let_pass(1);
    assert_eq!(wait(&items, None), [2]);
    first.let_pass(1);
    assert_eq!(wait(&[&process, &thread, &map], None), [0]);
    assert_eq!(wait(&items, Some(NO_TIME)), [0, 2]);
    fourth.let_pass(1);
    fourth.await_arrivals(2);
    assert!(wait(&[&map, &thread], Some(NO_TIME)).is_empty(), "half of the map is not enough");
    fourth.let_pass(1);
    assert_eq!(wait(&[&thread, &map], Some(SOON)), [1]);
    second.let_pass(1);
    assert_eq!(wait(&[&thread], None), [0]);
    assert_eq!(wait(&items, None), [0, 1, 2, 3]);
    assert_eq!((process.join(), thread.join(), task.get()), (Ok(()), Ok(()), Ok(())));
    assert_eq!(map.get(), Ok(vec![(), ()]));
    assert_eq!(wait(&[&process, &thread], None), [0, 1], "also after the results were taken");
}

#[test]
fn c5_170_wait_wakes_for_each_of_many() {
    let case = Case::new();
    let gate = Gate::new();
    let processes: Vec<_> = (0..10).map(|_| waiting(&case, &gate)).collect();
    let mut left: Vec<&dyn Waitable> = processes.iter().map(|p| p as &dyn Waitable).collect();
    while !left.is_empty() {
        gate.let_pass(1);
        let ready = wait(&left, None);
        assert!(!ready.is_empty());
        for index in ready.into_iter().rev() {
            left.remove(index);
        }
    }
    assert!(processes.iter().all(|process| process.exit_code() == Some(0)));
}

#[test]
fn c5_170_processes_can_be_awaited() {
    let case = Case::new();
    let gate = Gate::new();
    let process = case.process().build(wait_at, (gate.path(),));
    assert_eq!(futures::executor::block_on((&process).into_future()), not_started());
    process.start().unwrap();
    gate.let_pass(1);
    assert_eq!(futures::executor::block_on((&process).into_future()), Ok(()));
    assert_eq!(process.join(), Err(TaskError::AlreadyTaken));
}

#[test]
fn c5_171_close() {
    let case = Case::new();
    let gate = Gate::new();
    let process = waiting(&case, &gate);
    assert_eq!(process.close(), Err(ProcessError::StillAlive));
    gate.let_pass(1);
    assert!(process.wait());
    process.close().unwrap();
    let closed = Err(ProcessError::Closed);
    assert_eq!(process.join(), Err(ProcessError::Closed.into()));
    assert_eq!(process.join_timeout(NO_TIME), Err(ProcessError::Closed.into()));
    assert_eq!((process.start(), process.terminate()), (closed.clone(), closed.clone()));
    assert_eq!((process.kill(), process.set_name("x")), (closed.clone(), closed.clone()));
    assert_eq!(process.sentinel().map(drop), closed);
    assert_eq!(process.close(), Ok(()), "again");
    assert_eq!((process.exit_code(), process.is_alive()), (Some(0), false));
    let unstarted = Process::new(|| 1, ());
    unstarted.close().unwrap();
    assert_eq!(unstarted.start(), closed);
}

#[test]
fn c5_172_the_daemon_flag_is_inherited() {
    let case = Case::new();
    let flags = || {
        let inner = || current_process().daemon();
        let default = Process::spawn(inner, ()).unwrap();
        let other =
            Process::builder().daemon(!current_process().daemon()).spawn(inner, ()).unwrap();
        let flags = (default.daemon(), other.daemon());
        (current_process().daemon(), flags, default.join().unwrap(), other.join().unwrap())
    };
    for daemon in [true, false] {
        let process = case.process().daemon(daemon).spawn(flags, ()).unwrap();
        assert_eq!(process.daemon(), daemon);
        assert_eq!(process.join(), Ok((daemon, (daemon, !daemon), daemon, !daemon)));
    }
    assert!(Process::new(|| (), ()).daemon(), "the default");
}

fn family(case: &Case, daemon: bool, how: &str) -> (Gate, Ledger, pool_tests::Running) {
    let (gate, ledger) = (Gate::new(), Ledger::new());
    let (gate_path, ledger_path) = (gate.path(), ledger.path());
    let args = ["children", &daemon.to_string(), how, &gate_path, &ledger_path];
    let mut program = Program::new(case, FAMILY, &args).start();
    let told: Vec<u32> = program.line().split(' ').map(|pid| pid.parse().unwrap()).collect();
    let mut arrived = gate.await_arrivals(2);
    arrived.sort_unstable();
    assert!(told.iter().all(|pid| arrived.contains(pid)), "{told:?} {arrived:?}");
    (gate, ledger, program)
}

#[test]
fn c5_172_daemons_end_with_their_parent() {
    for how in ["return", "exit", "panic", "abort", "kill"] {
        let case = Case::new();
        let (_gate, ledger, mut program) = family(&case, true, how);
        if how == "kill" {
            program.kill();
        } else {
            program.say("go on");
            program.wait();
        }
        eventually(SOON, "the daemons end", || case.processes().is_empty());
        assert_eq!(ledger.count(1), 0);
    }
}

#[test]
fn c5_172_others_go_on_until_their_function_returns() {
    for how in ["return", "exit", "kill"] {
        let case = Case::new();
        let (gate, ledger, mut program) = family(&case, false, how);
        if how == "kill" {
            program.kill();
        } else {
            program.say("go on");
            program.wait();
        }
        assert_eq!(case.processes().len(), 2, "{how}");
        gate.let_pass(2);
        eventually(SOON, "they end", || case.processes().is_empty());
        assert_eq!(ledger.count(1), 2, "{how}");
    }
}

/// Also if the parent dies before they have said hello.
#[test]
fn c5_172_others_go_on_though_they_have_hardly_begun() {
    let case = Case::new();
    for _ in 0..20 {
        let ledger = Ledger::new();
        let (status, _, _) = Program::new(&case, FAMILY, &["abandon", &ledger.path()]).run();
        assert!(!status.success());
        eventually(SOON, "the process ends", || case.processes().is_empty());
        assert_eq!(ledger.count(1), 1, "its function was called");
    }
}

#[test]
fn c5_173_streams_are_flushed_and_exit_codes_mapped() {
    let case = Case::new();
    let (status, stdout, stderr) = Program::new(&case, FAMILY, &["prints"]).run();
    assert!(status.success(), "{stderr}");
    assert_eq!(stdout, "[returned][exited]Some(7)");
    let codes = [
        (Fault::Exit(0), 0),
        (Fault::Exit(3), 3),
        (Fault::ExitAtOnce(200), 200),
        (Fault::Panic, 1),
        (Fault::Abort, -6),
        (Fault::DoublePanic, -6),
        (Fault::WildPointer, -11),
        (Fault::StackOverflow, -6),
        (Fault::Raise(10), -10),
        (Fault::Raise(9), -9),
    ];
    for (fault, code) in codes {
        let process = case.process().spawn(Fault::happen, (fault,)).unwrap();
        let joined = process.join();
        assert_eq!(process.exit_code(), Some(code), "{fault:?}");
        match joined {
            Err(TaskError::Panicked { .. }) => assert_eq!(code, 1),
            Err(TaskError::WorkerLost { cause: ExitCause::Exited(n), .. }) => assert_eq!(n, code),
            other => assert_signalled(other, -code),
        }
    }
}

#[test]
fn c5_174_arguments_are_released_and_big_ones_arrive() {
    let case = Case::new();
    let size = 40 << 20;
    let reverse = |mut data: Vec<u8>| {
        data.reverse();
        data
    };
    let mut data = vec![0u8; size];
    data[0] = 1;
    let process = case.process().spawn(reverse, (data,)).unwrap();
    let data = process.join().unwrap();
    assert!(data.len() == size && data[size - 1] == 1 && data[..size - 1].iter().all(|&b| b == 0));
}

/// The classic deadlock of pipes: a process that can't write its result because nobody reads.
#[test]
fn c5_174_a_result_that_nobody_joins_blocks_nobody() {
    let case = Case::new();
    let process = case.process().spawn(|| vec![1u8; 20 << 20], ()).unwrap();
    let pid = process.pid().unwrap();
    eventually(SOON, "it ends and is collected", || census::process(pid).is_none());
    assert_eq!(process.exit_code(), Some(0));
    assert_eq!(process.join().unwrap().len(), 20 << 20);
}

#[test]
fn c5_176_the_whole_group_is_killed() {
    let case = Case::new();
    let gate = Gate::new();
    let start = |gate: String| {
        let mut shell = std::process::Command::new("sh");
        let mut shell =
            shell.args(["-c", "trap '' TERM; sleep 1000 & wait; sleep 1000"]).spawn().unwrap();
        Gate::wait_at(&gate);
        shell.wait().unwrap();
    };
    for how in ["kill", "end"] {
        let process = case.process().spawn(start, (gate.path(),)).unwrap();
        let pid = process.pid().unwrap();
        eventually(SOON, "its family is there", || census::descendants(pid).len() >= 2);
        if how == "kill" {
            process.kill().unwrap();
        } else {
            fault::send(pid, Signal::SIGKILL);
        }
        assert_signalled(process.join(), 9);
        eventually(SOON, "nobody is left", || case.processes().is_empty());
    }
}

#[test]
fn dropping_detaches() {
    let case = Case::new();
    let gate = Gate::new();
    let ledger = Ledger::new();
    let work = |gate: String, ledger: String| {
        Gate::wait_at(&gate);
        Ledger::note(&ledger, 1);
        vec![0u8; 5 << 20]
    };
    drop(case.process().spawn(work, (gate.path(), ledger.path())).unwrap());
    let pid = gate.await_arrivals(1)[0];
    gate.let_pass(1);
    eventually(SOON, "it ends and is collected", || census::process(pid).is_none());
    assert_eq!(ledger.count(1), 1);
}

#[test]
fn bad_settings_and_arguments_are_told_by_start() {
    let case = Case::new();
    let name = case.process().name("x".repeat(201)).spawn(|| (), ());
    assert!(matches!(name, Err(ProcessError::Config(text)) if text.contains("200 bytes")));
    let variable = case.process().env("A=B", "c").spawn(|| (), ());
    assert!(matches!(variable, Err(ProcessError::Config(text)) if text.contains("A=B")));
    let mine = fault::Mine { when: fault::When::EncodeInParent, what: fault::What::Refuse };
    let refused = case.process().build(|_: fault::Mine| (), (mine,));
    let error = refused.start().unwrap_err();
    assert!(matches!(&error, ProcessError::Encode(text) if text.contains("refuses")), "{error}");
    assert_eq!(refused.join(), not_started());
    let nowhere = case.process().current_dir("/no/such/directory").build(|| (), ());
    assert!(matches!(nowhere.start(), Err(ProcessError::Os { .. })));
    assert!(matches!(nowhere.start(), Err(ProcessError::Os { .. })), "it can be tried again");
    assert!(active_children().is_empty());
}

#[test]
fn settings_reach_the_process() {
    let case = Case::new();
    let directory = tempfile::tempdir().unwrap();
    let look = || {
        let variables = ["POOL_A", "HOME", "PATH"].map(|name| std::env::var(name).ok());
        (variables, std::env::current_dir().unwrap().to_str().unwrap().to_owned())
    };
    let builder = pool_core::Process::builder().env_clear().env("POOL_A", "a").env("PATH", "p");
    let builder = builder.env_remove("PATH").current_dir(directory.path());
    let path = directory.path().canonicalize().unwrap().to_str().unwrap().to_owned();
    let expected = ([Some("a".to_owned()), None, None], path);
    assert_eq!(builder.spawn(look, ()).unwrap().join(), Ok(expected));
    let hungry = || std::hint::black_box(vec![1u8; 1 << 30]).len();
    let process = case.process().memory_limit(512 << 20).spawn(hungry, ()).unwrap();
    assert_signalled(process.join(), 6);
}

#[test]
fn a_process_that_sends_garbage_costs_only_itself() {
    let case = Case::new();
    let gate = Gate::new();
    let other = waiting(&case, &gate);
    let garbage = || {
        let socket = pool_tests::reply_socket::find();
        nix::sys::socket::send(socket, &[0xff; 100], nix::sys::socket::MsgFlags::empty()).unwrap();
        fault::hang();
    };
    let process = case.process().spawn(garbage, ()).unwrap();
    let error = process.join().unwrap_err();
    assert!(matches!(error, TaskError::WorkerLost { cause: ExitCause::Protocol, .. }), "{error}");
    assert_eq!(process.exit_code(), Some(-9));
    gate.let_pass(1);
    assert_eq!(other.join(), Ok(()));
}

#[test]
fn a_process_that_loses_its_socket_goes_on() {
    let case = Case::new();
    let gate = Gate::new();
    let shut = |gate: String| {
        let socket = pool_tests::reply_socket::find();
        nix::sys::socket::shutdown(socket, nix::sys::socket::Shutdown::Both).unwrap();
        Gate::wait_at(&gate);
        5
    };
    let process = case.process().spawn(shut, (gate.path(),)).unwrap();
    gate.await_arrivals(1);
    assert!(!process.wait_timeout(Duration::from_millis(100)), "a worker of a pool is killed");
    gate.let_pass(1);
    assert_eq!(process.join(), Ok(5), "small results come by shared memory");
}

/// Wakers run on the thread that looks after processes: nothing there may wait for it.
#[test]
fn a_waker_can_not_wait_for_its_own_thread() {
    struct Waker(mpsc::Sender<bool>, Process<()>);
    impl std::task::Wake for Waker {
        fn wake(self: std::sync::Arc<Self>) {
            let deadlock = ProcessError::WouldDeadlock;
            let refused = Process::spawn(|| 1, ()).map(drop) == Err(deadlock.clone())
                && self.1.join() == Err(deadlock.into())
                && !self.1.wait();
            self.0.send(refused).unwrap();
        }
    }
    let case = Case::new();
    let [one, two] = [(); 2].map(|()| Gate::new());
    let (process, other) = (waiting(&case, &one), waiting(&case, &two));
    let (sender, receiver) = mpsc::channel();
    let waker = std::task::Waker::from(std::sync::Arc::new(Waker(sender, other)));
    let mut future = (&process).into_future();
    let mut context = std::task::Context::from_waker(&waker);
    assert!(std::future::Future::poll(std::pin::Pin::new(&mut future), &mut context).is_pending());
    drop(waker);
    one.let_pass(1);
    assert!(receiver.recv().unwrap());
    drop(future);
    assert_eq!(process.join(), Ok(()));
    two.let_pass(1);
    active_children().iter().for_each(|child| assert!(child.wait()));
}

#[test]
fn a_program_that_forgets_init_is_told() {
    let case = Case::new();
    let mains = tempfile::NamedTempFile::new().unwrap();
    let program = Program::new(&case, FORGOT_INIT, &["process"]);
    let (status, stdout, _) = program.env("POOL_TESTS_MAINS", mains.path().to_str().unwrap()).run();
    assert!(status.success());
    assert_eq!(stdout, "Ok(Err(Process(InitNotCalled)))\n");
    let count = std::fs::read_to_string(mains.path()).unwrap().lines().count();
    assert_eq!(count, 2, "the program and one copy of it");
}

#[test]
fn a_program_that_never_gets_to_init_is_told() {
    let case = Case::new();
    let run = |how: &str| Program::new(&case, FORGOT_INIT, &[how]).run();
    let (status, stdout, stderr) = run("process-exits");
    assert!(status.success(), "{stderr}");
    assert!(stdout.contains("exited with code 5 before it reached pool_core::init()"), "{stdout}");
    assert!(stdout.ends_with(" Some(5)\n"), "{stdout}");
    let (status, stdout, stderr) = run("process-hangs");
    assert!(status.success(), "{stderr}");
    assert!(stdout.contains("did not reach pool_core::init() within 300ms"), "{stdout}");
    assert!(stdout.ends_with(" Some(-9)\n"), "{stdout}");
}

#[test]
fn row_62_a_program_that_ignores_sigchld() {
    let case = Case::new();
    let (status, stdout, stderr) = Program::new(&case, FAMILY, &["ignores-sigchld"]).run();
    assert!(status.success(), "{stderr}");
    let lines: Vec<_> = stdout.lines().collect();
    assert_eq!(lines[..3], ["Ok(1) Some(0)", "true Some(1)", "true Some(255)"]);
    assert_eq!(lines[3].split(' ').nth(3), Some("0"), "no child is left");
}

#[test]
fn row_46_descriptors_run_out() {
    let case = Case::new();
    Program::new(&case, FAMILY, &["few-descriptors"]).assert_stays_flat(4_096);
}

#[test]
fn a_forked_copy_leaves_the_processes_alone() {
    let case = Case::new();
    let gate = Gate::new();
    let path = gate.path();
    let mut program = Program::new(&case, FAMILY, &["forked-copy", &path]).start();
    assert_eq!(program.line(), "true");
    gate.let_pass(1);
    program.say("go on");
    assert_eq!(program.line(), "true");
    assert!(program.wait().success());
}

fn cycles() -> String {
    std::env::var("POOL_TESTS_CYCLES").unwrap_or_else(|_| "1000".to_owned())
}

#[test]
fn c4_157_processes_come_and_go_without_a_trace() {
    let case = Case::with_limit(Duration::from_secs(3_000));
    Program::new(&case, FAMILY, &["cycles", &cycles()]).assert_stays_flat(4_096);
}

#[test]
fn c4_157_threads_come_and_go_without_a_trace() {
    let case = Case::with_limit(Duration::from_secs(3_000));
    Program::new(&case, FAMILY, &["thread-cycles", &cycles()]).assert_stays_flat(4_096);
}

/// Everything at once, by many threads, on the same processes: each ends with one outcome, and the threads agree about it.
#[test]
fn all_methods_at_once() {
    let case = Case::new();
    let gate = Gate::new();
    for round in 0..12 {
        let processes: Vec<_> = (0..4)
            .map(|_| case.process().build(|gate: String| Gate::wait_at(&gate), (gate.path(),)))
            .collect();
        let act = |thread: usize| {
            let (mut started, mut results) = (0, Vec::new());
            for process in processes.iter().cycle().skip(thread).take(4) {
                started += usize::from(process.start().is_ok());
                // another thread may be about to have started it
                eventually(SOON, "it is started", || process.pid().is_some());
                match (thread + round) % 6 {
                    0 => process.kill().unwrap(),
                    1 => process.terminate().unwrap(),
                    2 => active_children().iter().for_each(|child| drop(child.terminate())),
                    3 => drop(process.sentinel().unwrap()),
                    4 => assert!(wait(&[process], Some(NO_TIME)).len() <= 1),
                    _ => drop(process.is_alive()),
                }
                gate.let_pass(1);
                assert!(process.wait());
                results.push(process.join());
                assert!(process.exit_code().is_some() && !process.is_alive());
            }
            (started, results)
        };
        let act = &act;
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..6).map(|thread| scope.spawn(move || act(thread))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(outcomes.iter().map(|(started, _)| started).sum::<usize>(), 4);
        let results = outcomes.iter().flat_map(|(_, results)| results);
        let first = results.filter(|result| **result != Err(TaskError::AlreadyTaken)).count();
        assert_eq!(first, 4, "each result is given once");
        assert!(processes.iter().all(|process| process.close().is_ok()));
    }
    assert!(active_children().is_empty());
}

#[test]
fn a_process_is_no_worker_of_a_pool() {
    let case = Case::new();
    let about = || {
        use pool_core::worker::{cancelled, index, task_id};
        (index().map(WorkerIndex::get), task_id().map(|id| id.get()), cancelled())
    };
    assert_eq!(case.process().spawn(about, ()).unwrap().join(), Ok((None, None, false)));
    let pool = case.builder(1).name("").build().unwrap();
    assert_eq!(pool.apply(about, ()), Ok((Some(0), Some(1), false)));
}
