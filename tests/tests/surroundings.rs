//! Rows about what surrounds a pool: pauses, namespaces, limits, signals. The programs are in src/bin/surroundings.rs.
#![allow(clippy::print_stdout, reason = "says what it can not test here")]
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]

use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pool_core::TaskError;
use pool_tests::{Case, Freezer, Gate, Ledger, Program, census, eventually, fault, seats, within};

pool_core::test_support!();

const PARENT: &str = env!("CARGO_BIN_EXE_surroundings");
const SOON: Duration = Duration::from_secs(40);

/// Lets time pass which a process is not to have: the passing itself is what is tested.
fn let_pass(time: Duration) {
    let start = Instant::now();
    eventually(SOON, "time passes", || start.elapsed() > time);
}

fn stop(pid: u32) {
    fault::send(pid, Signal::SIGSTOP);
    eventually(SOON, "it stops", || census::is_stopped(pid));
}

#[test]
fn row_41_time_in_which_the_parent_was_stopped_is_not_charged_to_a_task() {
    let (case, gate) = (Case::new(), Gate::new());
    let limit = Duration::from_secs(2);
    let args = ["paused-task", &gate.path(), &limit.as_millis().to_string()];
    let mut parent = Program::new(&case, PARENT, &args).start();
    gate.await_arrivals(1);
    stop(parent.pid());
    let_pass(limit * 3 / 2);
    fault::send(parent.pid(), Signal::SIGCONT);
    eventually(SOON, "the parent goes on", || !census::is_stopped(parent.pid()));
    gate.let_pass(1);
    assert_eq!(parent.line(), "Ok(())");
    assert!(parent.wait().success());
}

#[test]
fn row_41_a_task_beyond_its_limit_is_ended_after_the_pause() {
    let (case, gate) = (Case::new(), Gate::new());
    let mut parent = Program::new(&case, PARENT, &["paused-task", &gate.path(), "600"]).start();
    gate.await_arrivals(1);
    stop(parent.pid());
    let_pass(Duration::from_millis(1_500));
    fault::send(parent.pid(), Signal::SIGCONT);
    assert_eq!(parent.line(), "Err(TimedOut)");
    assert!(parent.wait().success());
}

#[test]
fn row_41_a_worker_that_comes_up_during_the_pause_is_not_late() {
    let (case, gate, starts) = (Case::new(), Gate::new(), Ledger::new());
    let args = ["paused-start", &gate.path(), &starts.path()];
    let mut parent = Program::new(&case, PARENT, &args).start();
    gate.await_arrivals(1);
    stop(parent.pid());
    let_pass(Duration::from_millis(1_500));
    gate.let_pass(1);
    fault::send(parent.pid(), Signal::SIGCONT);
    assert_eq!(parent.line(), "Ok(1024)");
    assert!(parent.wait().success());
    assert_eq!(starts.count(0), 2, "it was not killed for being late");
}

#[test]
fn row_21_a_stopped_worker_is_no_place_for_a_task_with_a_time_limit() {
    let case = Case::new();
    // one seat: nobody else could take the task
    let pool = case.pool(1);
    let pid = seats(&pool, 1)[0];
    stop(pid);
    let limit = Duration::from_millis(100);
    let handle = pool.task(u64::pow).timeout(limit).apply_async((2, 10)).unwrap();
    // it was not started, so it is nobody's fault
    assert_eq!(handle.get(), Ok(1024));
    assert_ne!(seats(&pool, 1)[0], pid);
}

#[test]
fn row_23_a_worker_stopped_in_mid_argument_does_not_keep_a_task_with_a_time_limit() {
    let case = Case::new();
    let pool = case.pool(1);
    stop(seats(&pool, 1)[0]);
    let limit = Duration::from_secs(3);
    let sum = |bytes: Vec<u8>| bytes.len();
    let handle = pool.task(sum).timeout(limit).apply_async((vec![1u8; 24 << 20],)).unwrap();
    assert_eq!(handle.get(), Ok(24 << 20));
}

#[test]
fn row_24_a_worker_stopped_in_mid_reply_does_not_keep_a_task_with_a_time_limit() {
    let case = Case::new();
    let pool = case.builder(1).fast_lane(false).build().unwrap();
    let stops = |size: usize| {
        let stop = || fault::Fault::Raise(Signal::SIGSTOP as i32).happen();
        pool_tests::reply_socket::when_sending(stop);
        vec![1u8; size]
    };
    let limit = Duration::from_secs(3);
    let mut ended = 0;
    // some answer before they stop: then it is the next task that is not started
    for _ in 0..3 {
        match pool.task(stops).timeout(limit).apply((64 << 20,)) {
            Ok(bytes) => assert_eq!(bytes.len(), 64 << 20),
            Err(TaskError::TimedOut) => ended += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(ended > 0, "no worker stopped in mid-reply");
    assert_eq!(pool.task(u64::pow).timeout(limit).apply((2, 10)), Ok(1024));
}

#[test]
fn row_25_a_pause_within_the_limit_costs_nothing() {
    let (case, gate) = (Case::new(), Gate::new());
    let pool = case.pool(1);
    let wait = |gate: String| Gate::wait_at(&gate);
    let limited = pool.task(wait).timeout(Duration::from_secs(60));
    let handle = limited.apply_async((gate.path(),)).unwrap();
    let pid = gate.await_arrivals(1)[0];
    stop(pid);
    fault::send(pid, Signal::SIGCONT);
    gate.let_pass(1);
    assert_eq!(handle.get(), Ok(()));
    assert_eq!(pool.stats().workers_lost, 0);
}

#[test]
fn row_30_a_task_that_does_not_listen_to_its_soft_limit_meets_the_hard_one() {
    let (case, gate) = (Case::new(), Gate::new());
    let pool = case.pool(2);
    let ignores = |gate: String| {
        eventually(SOON, "it is asked to end", pool_core::worker::cancelled);
        Gate::wait_at(&gate);
    };
    let (soft, hard) = (Duration::from_millis(50), Duration::from_millis(600));
    let call = pool.task(ignores).soft_timeout(soft).timeout(hard);
    let handle = call.apply_async((gate.path(),)).unwrap();
    assert_eq!(handle.get(), Err(TaskError::TimedOut));
    assert_eq!(gate.arrived().len(), 1, "it was asked before");
    assert_eq!(pool.apply(u64::pow, (2, 10)), Ok(1024));
}

#[test]
fn p16_a_task_that_kills_every_worker_is_given_up_and_its_neighbours_are_not() {
    let (case, ledger) = (Case::new(), Ledger::new());
    let pool = case.builder(2).retries(100).crash_limit(3).build().unwrap();
    let poison = |ledger: String| {
        Ledger::note(&ledger, 0);
        fault::Fault::WildPointer.happen();
    };
    let poisoned = pool.apply_async(poison, (ledger.path(),)).unwrap();
    let good: Vec<_> = (0..1_000).map(|x| pool.apply_async(u64::pow, (x, 2)).unwrap()).collect();
    let outcome = poisoned.get();
    assert!(matches!(outcome, Err(TaskError::Quarantined { workers: 3, .. })), "{outcome:?}");
    assert_eq!(ledger.count(0), 3);
    for (x, handle) in good.into_iter().enumerate() {
        assert_eq!(handle.get(), Ok((x * x) as u64));
    }
}

#[test]
fn row_28_a_worker_that_can_not_be_killed_does_not_hold_up_terminate() {
    let Some(freezer) = Freezer::create() else {
        println!("SKIPPED: no freezer cgroup of version 1 for this user");
        return;
    };
    let (case, gate) = (Case::new(), Gate::new());
    let grace = Duration::from_millis(300);
    let pool = case.builder(2).grace(grace).build().unwrap();
    let wait = |gate: String| Gate::wait_at(&gate);
    let handle = pool.apply_async(wait, (gate.path(),)).unwrap();
    let pid = gate.await_arrivals(1)[0];
    freezer.take(pid);
    freezer.freeze();
    within(grace + Duration::from_secs(1), "terminate", || pool.terminate());
    assert_eq!(handle.get(), Err(TaskError::Terminated));
    assert!(census::is_alive(pid), "it is killed, but frozen");
    assert_eq!(pool.workers().len(), 1, "what could not be ended is told");
    within(Duration::from_millis(1_300), "drop", || drop(pool));
    freezer.thaw();
    // the pool's thread has waited for it
    eventually(SOON, "it is collected", || census::process(pid).is_none());
}

#[test]
fn row_28_a_frozen_worker_costs_its_task_only() {
    let Some(freezer) = Freezer::create() else {
        println!("SKIPPED: no freezer cgroup of version 1 for this user");
        return;
    };
    let (case, gate) = (Case::new(), Gate::new());
    let pool = case.pool(2);
    let wait = |gate: String| Gate::wait_at(&gate);
    let limited = pool.task(wait).timeout(Duration::from_millis(200));
    let handle = limited.apply_async((gate.path(),)).unwrap();
    let pid = gate.await_arrivals(1)[0];
    freezer.take(pid);
    freezer.freeze();
    assert_eq!(handle.get(), Err(TaskError::TimedOut), "settled although nothing could be killed");
    let squares = pool.map(|x: u64| x * x, 0..100).unwrap();
    assert_eq!(squares.len(), 100);
    freezer.thaw();
    eventually(SOON, "it is collected", || census::process(pid).is_none());
    seats(&pool, 2);
}

#[test]
fn row_29_a_worker_killed_while_it_is_terminated_is_one_outcome() {
    let case = Case::new();
    for _ in 0..20 {
        let gate = Gate::new();
        let pool = case.builder(3).grace(Duration::from_millis(400)).build().unwrap();
        let deaf = |gate: String| {
            fault::become_deaf();
            Gate::wait_at(&gate);
        };
        let handles: Vec<_> =
            (0..3).map(|_| pool.apply_async(deaf, (gate.path(),)).unwrap()).collect();
        let pids = gate.await_arrivals(3);
        std::thread::scope(|scope| {
            scope.spawn(|| pool.terminate());
            for pid in pids {
                // before, while and after the pool does the same
                scope.spawn(move || (0..3).for_each(|_| fault::try_send(pid, Signal::SIGKILL)));
            }
        });
        for handle in handles {
            let outcome = handle.get();
            assert!(
                matches!(outcome, Err(TaskError::Terminated | TaskError::WorkerLost { .. })),
                "{outcome:?}"
            );
        }
        case.assert_nothing_left();
    }
}

#[test]
fn row_45_the_kernel_would_rather_kill_a_worker_than_the_parent() {
    let case = Case::new();
    let score = || -> i32 {
        std::fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim().parse().unwrap()
    };
    let pool = case.pool(1);
    let ours = score();
    assert_eq!(pool.apply(score, ()).unwrap(), (ours + 300).min(1000));
}

#[test]
fn row_33_a_grandchild_in_a_session_of_its_own_is_found_only_by_the_kernel() {
    let (case, gate) = (Case::new(), Gate::new());
    let pool = case.pool(1);
    let leaves = |gate: String| {
        let mut sleep = Command::new("setsid");
        let child = pool_core::die_with_parent(sleep.args(["sleep", "1000"])).spawn().unwrap();
        Gate::wait_at(&gate);
        drop(child);
    };
    let handle = pool.apply_async(leaves, (gate.path(),)).unwrap();
    let pid = gate.await_arrivals(1)[0];
    eventually(SOON, "it is there", || census::descendants(pid).len() == 1);
    fault::send(pid, Signal::SIGKILL);
    assert!(handle.get().is_err());
    // die_with_parent is the promise; without it, one that leaves the group stays (docs/guarantees.md)
    let replacement = seats(&pool, 1)[0];
    // a fork server, if there is one, is its parent
    let family = census::with_ancestors(replacement);
    eventually(SOON, "it ends with its parent", || {
        case.processes().iter().all(|process| family.contains(&process.pid))
    });
}

#[test]
fn row_43_a_parent_that_executes_another_program_leaves_no_workers() {
    let (case, gate) = (Case::new(), Gate::new());
    let mut parent = Program::new(&case, PARENT, &["executes-another", &gate.path()]).start();
    let workers = gate.await_arrivals(2);
    parent.say("go on");
    eventually(SOON, "it is another program", || {
        census::process(parent.pid()).is_some_and(|process| process.name == "sleep")
    });
    eventually(Duration::from_secs(1), "its workers are gone", || {
        workers.iter().all(|&pid| !census::is_alive(pid))
    });
    parent.kill();
}

#[test]
fn row_47_replies_arrive_without_a_descriptor_to_spare() {
    let case = Case::new();
    let (status, stdout, stderr) = Program::new(&case, PARENT, &["no-descriptors-left"]).run();
    assert!(status.success(), "{stderr}");
    assert_eq!(stdout, "false\nOk(1024)\n", "{stderr}");
}

#[test]
fn row_49_a_result_without_memory_for_it_fails_alone() {
    let case = Case::new();
    let (status, stdout, stderr) = Program::new(&case, PARENT, &["no-memory-for-a-result"]).run();
    assert!(status.success(), "{stderr}");
    let lines: Vec<_> = stdout.lines().collect();
    assert_eq!(lines[0], "false", "{stdout}");
    assert!(lines[1].starts_with("Err("), "{stdout}");
    assert_eq!(lines[2], "Ok(1024)");
}

#[test]
fn row_61_blocked_and_ignored_signals_are_not_inherited() {
    let (case, gate) = (Case::new(), Gate::new());
    let script = "trap '' INT TERM QUIT HUP; exec \"$0\" blocked-signals \"$1\"";
    let args = ["-c", script, PARENT, &gate.path()];
    let mut parent = Program::new(&case, "sh", &args).start();
    gate.await_arrivals(2);
    parent.say("terminate");
    assert_eq!(parent.line(), "ok", "the grace period of a minute is not used up");
    assert!(parent.wait().success());
}

#[test]
fn row_62_a_program_that_collects_all_children() {
    let case = Case::new();
    let (status, stdout, stderr) = Program::new(&case, PARENT, &["reaps-strangers"]).run();
    assert!(status.success() && stdout == "ok\n", "{stdout} {stderr}");
}

#[test]
fn row_63_a_timer_that_interrupts_everything() {
    let case = Case::new();
    let (status, stdout, stderr) = Program::new(&case, PARENT, &["timer-storm"]).run();
    assert!(status.success() && stdout == "ok\n", "{stdout} {stderr}");
}

/// Runs the program in namespaces of its own, after a preparation by the shell. `None` where that is not permitted.
fn in_namespaces(
    case: &Case,
    unshare: &[&str],
    prepare: &str,
    args: &[&str],
) -> Option<(bool, String, String)> {
    let script = format!("{prepare} true");
    let probe = [unshare, &["sh", "-c", &script]].concat();
    let allowed = Command::new("unshare").args(probe).output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: not permitted here: unshare {unshare:?}, {prepare}");
        return None;
    }
    let script = format!("{prepare} exec \"$0\" \"$@\"");
    let args = [unshare, &["sh", "-c", &script, PARENT], args].concat();
    let (status, stdout, stderr) = Program::new(case, "unshare", &args).run();
    Some((status.success(), stdout, stderr))
}

const PID_NAMESPACE: [&str; 4] = ["--pid", "--fork", "--mount-proc", "--kill-child"];

#[test]
fn row_65_a_parent_that_is_process_1() {
    let case = Case::new();
    let Some((success, stdout, stderr)) = in_namespaces(&case, &PID_NAMESPACE, "", &["as-init"])
    else {
        return;
    };
    assert!(success, "{stdout} {stderr}");
    assert_eq!(stdout, "1\ntrue\nOk([0, 1, 4, 9])\ntrue\n");
}

#[test]
fn row_64_process_numbers_that_are_used_again() {
    let case = Case::new();
    let prepare = "echo 330 > /proc/sys/kernel/pid_max &&";
    let ran = in_namespaces(&case, &PID_NAMESPACE, prepare, &["reuses-numbers", "400"]);
    let Some((success, stdout, stderr)) = ran else { return };
    assert!(success, "{stdout} {stderr}");
    assert_eq!(stdout, "true\n", "numbers were used again");
}

#[test]
fn row_56_no_place_to_write() {
    let case = Case::new();
    let prepare = "mount -t tmpfs -o ro none /dev/shm && mount --bind /tmp /tmp && mount -o remount,bind,ro /tmp &&";
    let ran = in_namespaces(&case, &["--mount"], prepare, &["two-squares"]);
    let Some((success, stdout, stderr)) = ran else { return };
    assert!(success, "{stdout} {stderr}");
    assert_eq!(stdout, "Ok([0, 1, 4, 9])\n");
}

#[test]
fn row_70_without_proc_there_is_an_error() {
    let case = Case::new();
    // the program is found by its path, its copies by /proc/self/exe
    let ran = in_namespaces(&case, &["--mount"], "umount -l /proc &&", &["two-squares"]);
    let Some((_, stdout, stderr)) = ran else { return };
    assert!(stdout.starts_with("build: "), "{stdout} {stderr}");
    case.assert_nothing_left();
}

/// The realtime clock can't be set in a namespace, so nobody asks for it: the sources say so.
#[test]
fn row_67_only_the_monotonic_clock_decides() {
    let sources = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../pool-core/src");
    let words = ["SystemTime", "CLOCK_REALTIME", "UNIX_EPOCH", "CLOCK_BOOTTIME"];
    let mut command = Command::new("grep");
    command.arg("-rn").args(words.iter().flat_map(|word| ["-e", word])).arg(&sources);
    let output = command.output().unwrap();
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    let uses = Command::new("grep").args(["-rn", "CLOCK_MONOTONIC"]).arg(&sources).output();
    assert!(!uses.unwrap().stdout.is_empty(), "this test looks at nothing");
}

#[test]
fn row_42_the_copy_of_a_parent_may_do_anything_with_its_copy_of_the_pool() {
    let case = Case::new();
    let pool = case.pool(2);
    let pids = seats(&pool, 2);
    #[allow(unsafe_code, reason = "fork is the point")]
    // SAFETY: the child terminates its copy of the pool, which is what is tested, and leaves by _exit.
    let child = unsafe { libc::fork() };
    if child == 0 {
        pool.terminate();
        fault::Fault::ExitAtOnce(0).happen();
    }
    let status = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(child), None).unwrap();
    assert!(matches!(status, nix::sys::wait::WaitStatus::Exited(_, 0)), "{status:?}");
    assert_eq!(pool.map(|x: u64| x * x, 0..4).unwrap(), [0, 1, 4, 9]);
    assert_eq!(seats(&pool, 2), pids);
}
