//! Programs in unusual surroundings: the pool works, or says why not, and leaves nothing.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]

use std::time::Duration;

use nix::sys::signal::Signal;
use pool_tests::{Case, Gate, Program, census, eventually, fault, seats};

pool_core::test_support!();

const PARENT: &str = env!("CARGO_BIN_EXE_parent");
const SOON: Duration = Duration::from_secs(20);

#[test]
fn row_62_a_program_that_ignores_sigchld() {
    let case = Case::new();
    let (status, stdout, stderr) = Program::new(&case, PARENT, &["ignores-sigchld"]).run();
    assert!(status.success(), "{stderr}");
    let lines: Vec<_> = stdout.lines().collect();
    assert!(lines[0].contains("WorkerLost") && lines[0].contains("cause: Unknown"), "{stdout}");
    assert_eq!(lines[1], "Ok(Ok(Some(1)))", "the worker has not inherited it");
    assert!(lines[2].starts_with("after") && lines[2].split(' ').nth(3) == Some("0"), "{stdout}");
}

#[test]
fn row_46_descriptors_run_out_while_a_pool_is_built() {
    let case = Case::new();
    Program::new(&case, PARENT, &["few-descriptors"]).assert_stays_flat(4_096);
}

#[test]
fn c1_40_a_program_without_standard_streams() {
    let case = Case::new();
    let directory = tempfile::tempdir().unwrap();
    let report = directory.path().join("report");
    let report = report.to_str().unwrap();
    let script = "exec \"$0\" closed-streams \"$1\" <&- >&- 2>&-";
    let (status, _, _) = Program::new(&case, "sh", &["-c", script, PARENT, report]).run();
    assert!(status.success(), "{status:?}");
    assert_eq!(std::fs::read_to_string(report).unwrap(), "9900");
}

#[test]
fn row_68_the_executable_is_deleted_or_replaced_while_it_runs() {
    let case = Case::new();
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("program");
    for replace in [false, true] {
        std::fs::copy(PARENT, &program).unwrap();
        let path = program.to_str().unwrap();
        let mut running = Program::new(&case, path, &["replaces-workers"]).start();
        assert_eq!(running.line(), "ready");
        std::fs::remove_file(&program).unwrap();
        if replace {
            std::fs::copy("/bin/false", &program).unwrap();
        }
        running.say("go on");
        assert_eq!(running.line(), "Ok(1024)", "new workers are copies of what runs");
        assert!(running.wait().success());
    }
}

#[test]
fn row_25_workers_that_are_stopped_and_continued_lose_nothing() {
    let case = Case::new();
    let pool = case.pool(2);
    let pids = seats(&pool, 2);
    let handles: Vec<_> =
        (0..3_000u64).map(|x| pool.apply_async(u64::wrapping_mul, (x, 3)).unwrap()).collect();
    let mut signals = 0;
    // also while they wait for work: interrupted calls are nobody's end
    eventually(SOON, "all tasks end", || {
        for &pid in &pids {
            for signal in [Signal::SIGSTOP, Signal::SIGCONT, Signal::SIGWINCH, Signal::SIGCHLD] {
                fault::send(pid, signal);
                signals += 1;
            }
        }
        signals > 400 && handles.iter().all(pool_core::AsyncResult::ready)
    });
    for (x, handle) in handles.into_iter().enumerate() {
        assert_eq!(handle.get(), Ok(x as u64 * 3));
    }
    assert_eq!(seats(&pool, 2), pids);
    assert_eq!(pool.stats().workers_lost, 0);
}

#[test]
fn commands_that_die_with_their_worker() {
    let case = Case::new();
    let sleeps = |case: &Case| case.processes().iter().filter(|p| p.name == "sleep").count();
    let is_worker_killed_first = [true, false];
    for worker_first in is_worker_killed_first {
        let gate = Gate::new();
        let mut parent = Program::new(&case, PARENT, &["command", &gate.path()]).start();
        assert_eq!(parent.line(), "ready");
        gate.await_arrivals(1);
        eventually(SOON, "the command runs", || sleeps(&case) == 1);
        if worker_first {
            parent.say("kill the worker");
            assert_eq!(parent.line(), "true");
            eventually(Duration::from_secs(1), "the command ends with it", || sleeps(&case) == 0);
        }
        parent.kill();
        eventually(Duration::from_secs(1), "nothing outlives the parent", || {
            case.processes().is_empty()
        });
    }
}

#[test]
fn row_41_a_stopped_parent_takes_no_time_from_its_tasks() {
    let case = Case::new();
    let gate = Gate::new();
    let mut parent = Program::new(&case, PARENT, &["workers", "asleep", &gate.path()]).start();
    let workers: Vec<u32> = parent.line().split(' ').map(|pid| pid.parse().unwrap()).collect();
    gate.await_arrivals(3);
    fault::send(parent.pid(), Signal::SIGSTOP);
    eventually(SOON, "the parent stops", || census::is_stopped(parent.pid()));
    assert!(workers.iter().all(|&pid| census::is_alive(pid)));
    fault::send(parent.pid(), Signal::SIGCONT);
    gate.let_pass(3);
    parent.say("end");
    assert!(parent.wait().success());
    eventually(Duration::from_secs(1), "nothing is left", || case.processes().is_empty());
}

#[test]
fn row_60_suspended_workers_are_stopped_and_go_on() {
    let case = Case::new();
    let gate = Gate::new();
    let pool = case.pool(2);
    let wait = |gate: String| Gate::wait_at(&gate);
    let handles: Vec<_> = (0..2).map(|_| pool.apply_async(wait, (gate.path(),)).unwrap()).collect();
    let pids = gate.await_arrivals(2);
    pool.suspend();
    eventually(Duration::from_secs(20), "they stop", || {
        pids.iter().all(|&pid| census::is_stopped(pid))
    });
    gate.let_pass(2);
    assert!(handles.iter().all(|handle| !handle.ready()));
    pool.resume();
    for handle in handles {
        assert_eq!(handle.get(), Ok(()));
    }
    // and twice, and when they are gone
    pool.resume();
    pool.suspend();
    pool.terminate();
    pool.suspend();
    pool.resume();
}
