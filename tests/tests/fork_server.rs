//! Workers that are forked: quick, sharing what was preloaded, and with a guardian that leaves nothing behind. The crash matrix and the tests of
//! lifetimes run over forked workers too: `POOL_TESTS_START=fork-server`.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]
#![allow(clippy::exit, reason = "tasks that end their workers")]

use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use pool_core::{ExitCause, Pool, PoolBuilder, PoolError, StartMethod, TaskError};
use pool_tests::{Case, ENDINGS, Gate, Program, census, eventually, fault};

pool_core::test_support!();

const SOON: Duration = Duration::from_secs(30);
const PARENT: &str = env!("CARGO_BIN_EXE_parent");

fn forked(case: &Case, processes: usize) -> PoolBuilder {
    case.builder(processes).start_method(StartMethod::ForkServer)
}

static LOADED_BY: OnceLock<u32> = OnceLock::new();

fn load() {
    LOADED_BY.set(std::process::id()).unwrap();
}

fn loaded_by() -> (Option<u32>, u32) {
    (LOADED_BY.get().copied(), std::process::id())
}

/// The fork server of the only pool of this test.
fn server_of(pool: &Pool) -> u32 {
    let mut server = None;
    eventually(SOON, "a worker lives", || {
        let mut workers = pool.workers().into_iter().map(|worker| worker.pid());
        server = workers.find_map(|pid| census::process(pid).filter(|found| found.state != 'Z'));
        server.is_some()
    });
    server.unwrap().parent
}

#[test]
fn what_was_preloaded_is_in_every_worker_and_was_done_once() {
    let case = Case::new();
    let pool = forked(&case, 3).preload(load, ()).build().unwrap();
    let parents =
        pool.workers().into_iter().map(|worker| census::process(worker.pid()).unwrap().parent);
    let mut pids: Vec<u32> = parents.collect();
    pids.dedup();
    assert_eq!(pids.len(), 1, "workers are children of the fork server");
    assert_ne!(pids[0], std::process::id());
    for _ in 0..20 {
        let (by, pid) = pool.apply(loaded_by, ()).unwrap();
        assert_eq!(by, Some(pids[0]));
        assert_ne!(Some(pid), by);
    }
}

#[test]
fn a_preload_function_that_fails_is_told_by_build() {
    let case = Case::new();
    let fails = || -> anyhow::Result<()> { anyhow::bail!("no such model") };
    let error = forked(&case, 2).preload(fails, ()).build().unwrap_err();
    assert_eq!(error, PoolError::InitFailed("preload: no such model".to_owned()));
    let panics = || -> () { panic!("boom") };
    let error = forked(&case, 2).preload(panics, ()).build().unwrap_err();
    assert!(matches!(&error, PoolError::InitFailed(text) if text.contains("boom")), "{error}");
    let afresh = case.builder(2).start_method(StartMethod::Spawn);
    let error = afresh.preload(load, ()).build().unwrap_err();
    assert!(matches!(error, PoolError::Config(_)), "without a fork server there is none");
    case.assert_nothing_left();
}

#[test]
fn a_preload_function_that_leaves_threads_is_refused() {
    let case = Case::new();
    let starts_one = || drop(std::thread::spawn(std::thread::park));
    let error = forked(&case, 1).preload(starts_one, ()).build().unwrap_err();
    assert!(matches!(&error, PoolError::InitFailed(text) if text.contains("1 threads")), "{error}");
    case.assert_nothing_left();
}

#[test]
fn each_end_of_a_forked_worker_has_its_cause() {
    let case = Case::new();
    let pool = forked(&case, 2).build().unwrap();
    let lost = |outcome: Result<u8, TaskError>| match outcome {
        Err(TaskError::WorkerLost { cause, .. }) => cause,
        other => panic!("{other:?}"),
    };
    for _ in 0..3 {
        let exits = pool.apply(|| -> u8 { std::process::exit(3) }, ());
        assert_eq!(lost(exits), ExitCause::Exited(3));
        let aborts = pool.apply(|| -> u8 { std::process::abort() }, ());
        assert!(matches!(lost(aborts), ExitCause::Signaled { signal: 6, .. }));
        let killed = pool.apply(
            || -> u8 {
                fault::send(std::process::id(), Signal::SIGKILL);
                0
            },
            (),
        );
        assert!(matches!(lost(killed), ExitCause::Signaled { signal: 9, .. }));
    }
    assert_eq!(pool.apply(u64::pow, (2, 5)).unwrap(), 32);
}

#[test]
fn row_38_the_death_of_the_fork_server_is_survived() {
    let case = Case::new();
    let pool = forked(&case, 2).build().unwrap();
    for _ in 0..3 {
        let gate = Gate::new();
        let server = server_of(&pool);
        let handle = pool.apply_async(|gate: String| Gate::wait_at(&gate), (gate.path(),)).unwrap();
        gate.await_arrivals(1);
        fault::send(server, Signal::SIGKILL);
        // its workers end with it, and one was running
        assert!(matches!(handle.get(), Err(TaskError::WorkerLost { .. })));
        assert_eq!(pool.map(|x: u64| x + 1, 0..100).unwrap().len(), 100);
        eventually(SOON, "the server is gone", || !census::is_alive(server));
        assert_ne!(server_of(&pool), server);
    }
}

#[test]
fn a_stopped_fork_server_does_not_hang_the_pool() {
    let case = Case::new();
    let pool = forked(&case, 1).build().unwrap();
    let server = server_of(&pool);
    fault::send(server, Signal::SIGSTOP);
    eventually(SOON, "it stops", || census::is_stopped(server));
    let outcome = pool.apply(|| -> () { std::process::exit(3) }, ());
    // it can't tell how the worker has ended, but the zombie shows it; the next worker comes from another server
    assert!(
        matches!(outcome, Err(TaskError::WorkerLost { cause: ExitCause::Exited(3), .. })),
        "{outcome:?}"
    );
    assert_eq!(pool.apply(u64::pow, (2, 5)).unwrap(), 32);
}

/// A worker's child that is out of its process group, and deaf.
fn start_runaway(gate: String) {
    let child = std::process::Command::new("setsid")
        .args([
            "sh",
            "-c",
            "trap '' TERM HUP INT; echo $$ >>\"$0\"; while :; do sleep 1000; done",
            &gate,
        ])
        .spawn()
        .unwrap();
    std::mem::forget(child);
}

#[test]
fn row_33_what_has_left_its_group_ends_with_the_pool() {
    for (how, end) in ENDINGS {
        let case = Case::new();
        let pids = tempfile::NamedTempFile::new().unwrap();
        let path = pids.path().to_str().unwrap().to_owned();
        let pool = forked(&case, 2).build().unwrap();
        pool.apply(start_runaway, (path.clone(),)).unwrap();
        let runaway = || std::fs::read_to_string(&path).unwrap().trim().parse::<u32>();
        eventually(SOON, "it runs", || runaway().is_ok());
        let runaway = runaway().unwrap();
        assert!(census::is_alive(runaway));
        let _ended = end(pool);
        assert!(!census::is_alive(runaway), "{how} leaves it behind");
    }
}

#[test]
fn row_36_a_killed_parent_leaves_nothing_not_even_what_has_left_its_group() {
    let case = Case::new();
    let gate = Gate::new();
    let mut parent = Program::new(&case, PARENT, &["runaways", &gate.path()]).start();
    let pids: Vec<u32> = parent.line().split(' ').map(|pid| pid.parse().unwrap()).collect();
    assert!(pids.len() >= 4 && pids.iter().all(|&pid| census::is_alive(pid)));
    parent.kill();
    eventually(Duration::from_secs(1), "nothing outlives the parent by a second", || {
        pids.iter().all(|&pid| !census::is_alive(pid)) && case.processes().is_empty()
    });
}

#[test]
fn forked_workers_come_and_go_and_leave_nothing() {
    let case = Case::new();
    let pool =
        forked(&case, 2).max_tasks_per_child(std::num::NonZero::new(1).unwrap()).build().unwrap();
    let pids = pool.task(|_: u64| std::process::id()).chunk_size(1).map(0..300).unwrap();
    let distinct: std::collections::BTreeSet<_> = pids.iter().collect();
    assert_eq!(distinct.len(), 300, "each task has a worker of its own");
    let server = server_of(&pool);
    let zombies = || census::children(server).iter().filter(|child| child.state == 'Z').count();
    eventually(SOON, "ended workers are collected", || zombies() == 0);
}

/// The pool's lock was held while the fork server did not tell how a worker had ended, so everybody waited.
#[test]
fn a_stopped_fork_server_keeps_nobody_from_the_pool() {
    let case = Case::new();
    let pool = forked(&case, 2).build().unwrap();
    let server = server_of(&pool);
    fault::send(server, Signal::SIGSTOP);
    eventually(SOON, "it stops", || census::is_stopped(server));
    let lost = pool.apply_async(|| -> () { std::process::exit(3) }, ()).unwrap();
    let mut done = 0;
    while !lost.ready() {
        assert_eq!(pool.apply(u64::pow, (2, 3)), Ok(8));
        done += 1;
    }
    // with the lock held for 10 ms at a time, 50 at most
    assert!(done > 300, "{done} tasks were done while the end of a worker was not told");
    fault::send(server, Signal::SIGCONT);
}

/// A worker that could not be made for lack of descriptors took the fork server along, and with it all other workers.
#[test]
fn a_fork_that_fails_for_once_costs_no_other_worker() {
    let case = Case::new();
    let pool = forked(&case, 2).build().unwrap();
    let server = server_of(&pool);
    let pids = || pool.workers().iter().map(pool_core::WorkerInfo::pid).collect::<Vec<_>>();
    let [first, second] = pids()[..] else { panic!("two workers") };
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let open = census::list("/proc/self/fd").len() as u64;
    setrlimit(Resource::RLIMIT_NOFILE, open.min(soft), hard).unwrap();
    fault::send(first, Signal::SIGKILL);
    // what connects a worker takes more than the dead one leaves free
    for round in 0..500 {
        assert_eq!(pool.apply(u64::pow, (round, 1)), Ok(round));
    }
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    eventually(SOON, "another one comes", || {
        let now = pids();
        now.len() == 2 && !now.contains(&first) && pool.apply(u64::pow, (2, 3)) == Ok(8)
    });
    pool_tests::seats(&pool, 2);
    assert!(pids().contains(&second), "the other one was lost");
    assert_eq!(server_of(&pool), server);
}

/// Until it has forked a worker, the fork server has nothing to outlive its parent for; one that hung in its preload function stayed for ever.
#[test]
fn a_fork_server_ends_with_its_parent_also_while_it_preloads() {
    let case = Case::new();
    let gate = Gate::new();
    let pool = case.pool(1);
    let parent = |gate: String| {
        let hang = |gate: String| Gate::wait_at(&gate);
        let builder = pool_tests::plain_builder(1).start_method(StartMethod::ForkServer);
        drop(builder.preload(hang, (gate,)).build());
    };
    let handle = pool.apply_async(parent, (gate.path(),)).unwrap();
    let server = gate.await_arrivals(1)[0];
    fault::send(handle.pid().unwrap(), Signal::SIGKILL);
    assert!(matches!(handle.get(), Err(TaskError::WorkerLost { .. })));
    eventually(SOON, "it ends", || !census::is_alive(server));
}

/// What lay unwritten in the buffers was copied into each worker, and printed by each.
#[test]
fn what_a_preload_function_has_printed_is_printed_once() {
    let case = Case::new();
    let program = Program::new(&case, env!("CARGO_BIN_EXE_printing"), &["preload"]);
    let (status, stdout, _) = program.run();
    assert!(status.success());
    for text in ["loaded;", "loaded in C;"] {
        assert_eq!(stdout.matches(text).count(), 1, "{stdout}");
    }
}

#[test]
fn the_parent_of_a_forked_worker_is_the_program_and_lives() {
    let case = Case::new();
    let pool = forked(&case, 1).build().unwrap();
    let sees = || {
        let parent = pool_core::parent_process().unwrap();
        (parent.pid(), parent.is_alive(), parent.sentinel().is_ok())
    };
    assert_eq!(pool.apply(sees, ()), Ok((std::process::id(), true, true)));
}
