//! Random schedules against simulated workers: whatever happens, in whatever order, each task is settled exactly once, is
//! started at most once more than its retries, and the pool ends.

use proptest::prelude::*;

use super::sim::{Op, Sim, State, config, op, ready};
use super::*;
use crate::limits::STALL_NS;

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn every_schedule_ends_well(
        workers in 1u32..5,
        max_tasks_per_child in proptest::option::of(1u64..4),
        elastic in any::<bool>(),
        ops in proptest::collection::vec(op(), 0..300),
    ) {
        let mut config = Config { max_tasks_per_child, ..config(workers) };
        if elastic {
            (config.min_workers, config.idle_timeout_ns) = (Some(1), Some(3_000_000));
            (config.max_age_ns, config.crash_limit) = (Some(50_000_000), 1);
        }
        let mut sim = Sim::with(config);
        for op in &ops {
            sim.run(op);
        }
        sim.finish();
    }
}

/// `POOL_CORE_SCHEDULES=1000000 cargo test -p pool-core --release sched` looks longer.
fn cases() -> u32 {
    let wanted = std::env::var("POOL_CORE_SCHEDULES").ok();
    wanted.and_then(|text| text.parse().ok()).unwrap_or(2_000)
}

fn submit(sim: &mut Sim, count: usize) {
    for _ in 0..count {
        sim.run(&Op::Submit { retries: 0, size: 10, function: 0 });
    }
}

#[test]
fn an_idle_worker_gets_its_task_at_once() {
    let mut sim = Sim::new(2, None);
    ready(&mut sim);
    submit(&mut sim, 2);
    assert!(sim.processes.values().all(|process| process.tasks.len() == 1));
}

#[test]
fn tasks_that_never_started_are_free_of_charge() {
    let mut sim = Sim::new(1, None);
    ready(&mut sim);
    submit(&mut sim, 3);
    let key = sim.pick(0).unwrap();
    // known to be short after the first reply, so that several are leased at a time
    sim.step(key, 0);
    sim.step(key, 500);
    sim.step(key, 0);
    assert_eq!(sim.processes[&key].tasks.len(), 2);
    sim.die(key);
    let ends: Vec<_> = sim.tasks.iter().map(|task| task.end).collect();
    assert_eq!(ends, [Some(Ok(())), Some(Err(Verdict::Lost(key))), None]);
    sim.finish();
    assert_eq!(sim.tasks[2].end, Some(Ok(())));
}

#[test]
fn a_long_task_does_not_hold_short_ones_hostage() {
    let mut sim = Sim::new(2, None);
    ready(&mut sim);
    submit(&mut sim, 2);
    for key in [sim.pick(0).unwrap(), sim.pick(1).unwrap()] {
        sim.step(key, 0);
        sim.step(key, 500);
    }
    submit(&mut sim, 40);
    let (slow, quick) = (sim.pick(0).unwrap(), sim.pick(1).unwrap());
    for key in [slow, quick] {
        sim.step(key, 0);
        sim.step(key, 500);
    }
    assert!(sim.processes[&slow].tasks.len() > 1, "short tasks are sent ahead");
    sim.step(slow, 0);
    while sim.processes[&quick].tasks.iter().any(|task| task.2 != State::Revoked) {
        sim.step(quick, 500);
    }
    sim.run(&Op::Pass { ns: STALL_NS });
    while sim.processes[&quick].tasks.iter().any(|task| task.2 != State::Revoked) {
        sim.step(quick, 500);
    }
    assert_eq!(sim.sched.unfinished(), 1, "only the long one is left");
}

#[test]
fn a_program_whose_workers_never_start_is_told() {
    let mut sim = Sim::new(2, None);
    for _ in 0..100 {
        let keys: Vec<_> = sim.processes.keys().copied().collect();
        keys.into_iter().for_each(|key| sim.die(key));
        sim.run(&Op::Pass { ns: 10_000_000_000 });
    }
    assert_eq!(sim.sched.phase(), Phase::Stopped);
    assert!(
        matches!(sim.sched.broken(), Some(PoolError::StartFailed(text)) if text.contains("code 3"))
    );
    assert!(sim.spawned < 10, "{} processes were started", sim.spawned);
}

/// Such starts were once counted as failures, and a pool whose size went up and down before its first worker was ready broke by that.
#[test]
fn a_start_that_is_not_wanted_any_more_is_no_failure() {
    let mut sim = Sim::new(1, None);
    for _ in 0..100 {
        sim.event(Event::Resize { workers: 3 });
        sim.event(Event::Resize { workers: 1 });
        let is_dismissed = |key: &WorkerKey| sim.sched.worker(*key).is_some_and(|w| w.dismissed);
        let dismissed: Vec<_> = sim.processes.keys().copied().filter(is_dismissed).collect();
        assert_eq!(dismissed.len(), 2);
        for key in dismissed {
            sim.processes.remove(&key);
            sim.event(Event::SpawnFailed { worker: key, error: "was not needed any more" });
        }
        assert_eq!(sim.sched.broken(), None);
    }
    submit(&mut sim, 1);
    sim.finish();
    assert_eq!(sim.tasks[0].end, Some(Ok(())));
}

#[test]
fn killing_workers_that_are_starting_costs_nothing() {
    let mut sim = Sim::new(1, None);
    ready(&mut sim);
    submit(&mut sim, 1);
    for _ in 0..8 {
        sim.die(sim.pick(0).expect("another one is started"));
        let due = sim.sched.next_tick().expect("the next start is due some time");
        sim.run(&Op::Pass { ns: due - sim.now });
    }
    assert_eq!(sim.tasks[0].end, None, "it was not started, so it waits");
    sim.finish();
    assert_eq!(sim.tasks[0].end, Some(Ok(())));
}

#[test]
fn recycling_loses_nothing() {
    let mut sim = Sim::new(2, Some(3));
    ready(&mut sim);
    submit(&mut sim, 100);
    sim.finish();
    assert!(sim.tasks.iter().all(|task| task.end == Some(Ok(()))));
    assert!(sim.spawned >= 100 / 3);
}

#[test]
fn terminate_reaches_the_phase_stopped_also_for_stubborn_children() {
    let mut sim = Sim::new(2, None);
    ready(&mut sim);
    submit(&mut sim, 10);
    sim.run(&Op::Terminate);
    assert!(sim.tasks.iter().all(|task| task.end == Some(Err(Verdict::Terminated))));
    let deadline = sim.sched.next_tick().expect("SIGKILL is due");
    sim.processes.values_mut().for_each(|process| process.killed = false);
    sim.run(&Op::Pass { ns: deadline });
    assert!(sim.processes.values().all(|process| process.killed));
    sim.finish();
}
