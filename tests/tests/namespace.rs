//! Workers in a PID namespace: nothing that they have started outlives their pool, whoever is killed (level L2 of what is left behind).
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]
#![allow(clippy::print_stdout, reason = "says what was left out")]
#![allow(clippy::exit, reason = "tasks that end their workers")]

use std::collections::BTreeSet;
use std::num::NonZero;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use nix::sys::signal::Signal;
use pool_core::{
    ExitCause, Lock, Output, Pool, PoolBuilder, PoolError, Sandbox, StartMethod, TaskError,
};
use pool_tests::fault::{self, Fault, run_away};
use pool_tests::{Case, ENDINGS, Gate, Program, census, eventually, seats};

pool_core::test_support!();

const SOON: Duration = Duration::from_secs(30);
const PARENT: &str = env!("CARGO_BIN_EXE_parent");

fn isolated(case: &Case, processes: usize) -> PoolBuilder {
    case.builder(processes).start_method(StartMethod::ForkServer).pid_namespace(true)
}

/// `None`, and says so, where there are no namespaces.
fn build(builder: PoolBuilder) -> Option<Pool> {
    match builder.build() {
        Err(PoolError::NoPidNamespace(why)) => {
            println!("SKIPPED: {why}");
            None
        }
        pool => Some(pool.unwrap()),
    }
}

/// The fork server, which is the first process of the namespace, and the process that waits for it.
fn servers(pool: &Pool, workers: usize) -> [u32; 2] {
    let worker = seats(pool, workers)[0];
    let first = census::process(worker).unwrap().parent;
    [first, census::process(first).unwrap().parent]
}

/// Has a task start something that leaves it; its number.
fn runaway(pool: &Pool) -> u32 {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    pool.apply(run_away, (path.clone(),)).unwrap();
    let pid = || std::fs::read_to_string(&path).unwrap().trim().parse::<u32>();
    eventually(SOON, "it runs", || pid().is_ok());
    let pid = pid().unwrap();
    assert!(census::is_alive(pid));
    pid
}

#[test]
fn workers_are_numbered_from_one_inside_and_known_by_their_real_numbers_outside() {
    let case = Case::new();
    let Some(pool) = build(isolated(&case, 3)) else { return };
    let inside = pool.task(|_: u64| std::process::id()).chunk_size(1).map(0..60).unwrap();
    assert!(inside.iter().all(|&pid| pid > 1 && pid < 20), "{inside:?}");
    let [first, waits] = servers(&pool, 3);
    assert_eq!(census::process(waits).unwrap().parent, std::process::id());
    for pid in seats(&pool, 3) {
        let worker = census::process(pid).unwrap();
        assert_eq!(worker.parent, first);
    }
    // the number that is told for a running task is the one by which it can be killed
    let gate = Gate::new();
    let handle = pool.apply_async(|gate: String| Gate::wait_at(&gate), (gate.path(),)).unwrap();
    gate.await_arrivals(1);
    fault::send(handle.pid().unwrap(), Signal::SIGKILL);
    let lost = handle.get();
    let by_kill = ExitCause::Signaled { signal: 9, core_dumped: false };
    assert!(
        matches!(&lost, Err(TaskError::WorkerLost { cause, .. }) if *cause == by_kill),
        "{lost:?}"
    );
    assert_eq!(pool.apply(u64::pow, (2, 5)), Ok(32));
}

#[test]
fn each_end_of_a_worker_in_a_namespace_has_its_cause() {
    let case = Case::new();
    let Some(pool) = build(isolated(&case, 2).stderr(Output::Tagged)) else { return };
    for _ in 0..3 {
        for (fault, expected) in [
            (Fault::Exit(3), ExitCause::Exited(3)),
            (Fault::Raise(9), ExitCause::Signaled { signal: 9, core_dumped: false }),
        ] {
            match pool.apply(Fault::happen, (fault,)) {
                Err(TaskError::WorkerLost { cause, .. }) => assert_eq!(cause, expected),
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(pool.map(|x: u64| x + 1, 0..100).unwrap().len(), 100);
}

#[test]
fn workers_in_a_namespace_come_and_go_and_leave_no_zombies() {
    let case = Case::new();
    let one = NonZero::new(1).unwrap();
    let Some(pool) = build(isolated(&case, 2).max_tasks_per_child(one)) else { return };
    let pids = pool.task(|_: u64| std::process::id()).chunk_size(1).map(0..200).unwrap();
    assert_eq!(pids.iter().collect::<BTreeSet<_>>().len(), 200);
    let [first, _] = servers(&pool, 2);
    let zombies = || census::children(first).iter().filter(|child| child.state == 'Z').count();
    eventually(SOON, "ended workers are collected", || zombies() == 0);
    // what workers leave behind is collected too
    pool.apply(
        || drop(std::process::Command::new("sh").args(["-c", "true & exit 0"]).status()),
        (),
    )
    .unwrap();
    eventually(SOON, "orphans are collected", || zombies() == 0);
}

#[test]
fn row_33_nothing_outlives_a_pool_in_a_namespace() {
    for (how, end) in ENDINGS {
        let case = Case::new();
        let Some(pool) = build(isolated(&case, 2)) else { return };
        let runaway = runaway(&pool);
        let _ended = end(pool);
        assert!(!census::is_alive(runaway), "{how} leaves it behind");
    }
}

#[test]
fn row_38_the_death_of_the_guardian_is_that_of_all_in_its_namespace() {
    let case = Case::new();
    let Some(pool) = build(isolated(&case, 2)) else { return };
    for which in [0, 1, 0, 1] {
        let runaway = runaway(&pool);
        let servers = servers(&pool, 2);
        let gate = Gate::new();
        let handle = pool.apply_async(|gate: String| Gate::wait_at(&gate), (gate.path(),)).unwrap();
        gate.await_arrivals(1);
        fault::send(servers[which], Signal::SIGKILL);
        assert!(matches!(handle.get(), Err(TaskError::WorkerLost { .. })));
        eventually(SOON, "all of it is gone", || {
            !census::is_alive(runaway) && !servers.iter().any(|&pid| census::is_alive(pid))
        });
        assert_eq!(pool.map(|x: u64| x + 1, 0..100).unwrap().len(), 100);
    }
}

/// The guardian is stopped, so it can do nothing: only the kernel can.
#[test]
fn row_36_a_killed_parent_and_a_stopped_guardian_leave_nothing() {
    let case = Case::new();
    let gate = Gate::new();
    let mut parent = Program::new(&case, PARENT, &["isolated-runaway", &gate.path()]).start();
    let said = parent.line();
    if said != "runs" {
        println!("SKIPPED: {said}");
        return;
    }
    let all = census::descendants(parent.pid());
    assert!(all.len() >= 4, "{all:?}");
    let waits = census::children(parent.pid())[0].pid;
    let first = census::children(waits)[0].pid;
    fault::send(first, Signal::SIGSTOP);
    eventually(SOON, "it stops", || census::is_stopped(first));
    parent.kill();
    eventually(SOON, "nothing outlives it", || {
        !all.iter().any(|process| census::is_alive(process.pid)) && case.processes().is_empty()
    });
}

/// Locks know their holders by number, which must be the same on both sides of the namespace.
#[test]
fn shared_objects_work_across_the_namespace() {
    let case = Case::new();
    let Some(pool) = build(isolated(&case, 2)) else { return };
    let lock = Lock::new().unwrap();
    // held here, and waited for there: nobody is taken for dead
    let guard = lock.lock().unwrap();
    let gate = Gate::new();
    let waits = |lock: Lock, gate: String| {
        Gate::announce(&gate);
        let waited = lock.lock_timeout(Duration::from_millis(200)).is_err();
        drop(lock.lock().unwrap());
        waited
    };
    let handle = pool.apply_async(waits, (lock.clone(), gate.path())).unwrap();
    gate.await_arrivals(1);
    eventually(SOON, "it waits for longer than its limit", || {
        !handle.ready()
            && handle.started_at().is_some_and(|at| at.elapsed() > Duration::from_millis(600))
    });
    drop(guard);
    assert_eq!(handle.get(), Ok(true));
    // held there by one who is killed: both sides see that
    let holds = |lock: Lock, gate: String| {
        let _guard = lock.lock().unwrap();
        Gate::wait_at(&gate);
    };
    for by_worker in [false, true] {
        let lock = Lock::new().unwrap();
        let gate = Gate::new();
        let handle = pool.apply_async(holds, (lock.clone(), gate.path())).unwrap();
        gate.await_arrivals(1);
        fault::send(handle.pid().unwrap(), Signal::SIGKILL);
        assert!(handle.get().is_err());
        let poisoned = match by_worker {
            false => lock.lock().is_err(),
            true => pool.apply(|lock: Lock| lock.lock().is_err(), (lock,)).unwrap(),
        };
        assert!(poisoned, "the next holder is told");
    }
}

/// Whoever is not root: files belong to whom they belonged, and a task has no more rights than its program.
#[test]
fn without_privileges_a_namespace_changes_no_owner_and_gives_no_rights() {
    const USER: u32 = 61_234;
    let case = Case::new();
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let mut program =
        Program::new(&case, PARENT, &["isolated-user", directory.path().to_str().unwrap()]);
    let root = nix::unistd::geteuid().is_root();
    if root {
        program = program.user(USER);
    }
    let (status, stdout, stderr) = program.run();
    assert!(status.success(), "{stdout}{stderr}");
    if stdout.starts_with("pid_namespace can't be had") {
        println!("SKIPPED: {stdout}");
        return;
    }
    let user = if root { USER } else { nix::unistd::geteuid().as_raw() };
    assert_eq!(stdout, format!("pid true of 2 uid {user} capable false mounts false\n100\n"));
    assert_eq!(std::fs::metadata(directory.path().join("made")).unwrap().uid(), user);
}

#[test]
fn what_does_not_go_together_is_told() {
    let case = Case::new();
    let refused = |builder: PoolBuilder, word: &str| match builder.build() {
        Err(PoolError::Config(text)) => assert!(text.contains(word), "{text}"),
        other => panic!("{other:?}"),
    };
    let afresh = case.builder(1).start_method(StartMethod::Spawn);
    refused(afresh.pid_namespace(true), "StartMethod::ForkServer");
    refused(isolated(&case, 1).sandbox(Sandbox::confined()), "sandbox");
}
