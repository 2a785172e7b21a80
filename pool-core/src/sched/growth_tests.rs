//! Priorities, pauses, limits of crashes, and how the number of workers changes.

use super::sim::{Sim, State, config, ready};
use super::*;

const SPEC: Spec = Spec { function: 0, size: 10, items: 1, retries: 0, priority: 0, backoff_ns: 0 };

/// Runs what the workers have until nothing is left for them.
fn run_all(sim: &mut Sim) {
    while sim.processes.values().any(|process| !process.tasks.is_empty()) {
        let keys: Vec<_> = sim.processes.keys().copied().collect();
        keys.into_iter().for_each(|key| sim.step(key, 50_000_000));
    }
}

/// The task that runs on the only worker.
fn running(sim: &mut Sim) -> WorkerKey {
    let key = sim.pick(0).expect("a worker");
    if sim.processes[&key].tasks[0].2 == State::Queued {
        sim.step(key, 0);
    }
    key
}

#[test]
fn a_higher_priority_overtakes() {
    let mut sim = Sim::new(1, None);
    ready(&mut sim);
    for priority in [0, 0, -1, 3] {
        sim.submit(Spec { priority, ..SPEC });
    }
    let worker = running(&mut sim);
    let mut order = Vec::new();
    while sim.sched.unfinished() > 0 {
        let unsettled = |sim: &Sim| -> Vec<usize> {
            (0..4).filter(|&task| sim.tasks[task].end.is_none()).collect()
        };
        let before = unsettled(&sim);
        sim.step(worker, 50_000_000);
        let after = unsettled(&sim);
        order.extend(before.into_iter().filter(|task| !after.contains(task)));
    }
    assert_eq!(order, [0, 3, 1, 2], "the first was running before the others came");
}

#[test]
fn a_retry_waits_and_waits_twice_as_long_the_next_time() {
    let mut sim = Sim::new(1, None);
    ready(&mut sim);
    sim.submit(Spec { retries: 2, backoff_ns: 50_000_000, ..SPEC });
    let mut pauses = Vec::new();
    for _ in 0..2 {
        let worker = running(&mut sim);
        sim.die(worker);
        let died = sim.now;
        ready(&mut sim);
        assert!(sim.processes.values().all(|process| process.tasks.is_empty()));
        while sim.processes.values().all(|process| process.tasks.is_empty()) {
            let due = sim.sched.next_tick().expect("the retry is due some time");
            sim.pass(due.saturating_sub(sim.now));
            ready(&mut sim);
        }
        pauses.push(sim.now - died);
    }
    assert!((50_000_000..60_000_000).contains(&pauses[0]), "{pauses:?}");
    assert!((100_000_000..110_000_000).contains(&pauses[1]), "{pauses:?}");
    sim.finish();
    assert_eq!(sim.tasks[0].end, Some(Ok(())));
}

#[test]
fn a_task_that_costs_too_many_workers_is_quarantined() {
    let mut sim = Sim::with(Config { crash_limit: 3, ..config(1) });
    ready(&mut sim);
    sim.submit(Spec { retries: 100, ..SPEC });
    sim.submit(SPEC);
    for _ in 0..3 {
        let worker = running(&mut sim);
        sim.die(worker);
        ready(&mut sim);
    }
    assert_eq!(sim.tasks[0].end, Some(Err(Verdict::Quarantined(3))));
    assert_eq!(sim.tasks[0].starts, 3);
    sim.finish();
    assert_eq!(sim.tasks[1].end, Some(Ok(())));
}

#[test]
fn workers_that_end_too_often_break_the_pool() {
    let mut sim = Sim::with(Config { max_restarts: Some((2, 1_000_000_000)), ..config(1) });
    ready(&mut sim);
    for round in 0..3 {
        assert!(sim.sched.broken().is_none(), "round {round}");
        sim.submit(SPEC);
        let worker = running(&mut sim);
        sim.die(worker);
        sim.pass(10_000_000);
        ready(&mut sim);
    }
    assert!(
        matches!(sim.sched.broken(), Some(PoolError::Broken(text)) if text.contains("max_restarts"))
    );
}

#[test]
fn a_pool_grows_and_shrinks_and_loses_nothing() {
    let mut sim = Sim::new(2, None);
    ready(&mut sim);
    (0..40).for_each(|_| sim.submit(SPEC));
    sim.event(Event::Resize { workers: 5 });
    ready(&mut sim);
    assert_eq!(sim.processes.len(), 5);
    sim.event(Event::Resize { workers: 1 });
    let keys: Vec<_> = sim.processes.keys().copied().collect();
    for _ in 0..10 {
        for &key in keys.iter().filter(|key| sim.processes.contains_key(key)).collect::<Vec<_>>() {
            sim.step(key, 50_000_000);
        }
    }
    assert_eq!(sim.processes.len(), 1, "those of closed seats have left");
    run_all(&mut sim);
    assert!(sim.tasks.iter().all(|task| task.end == Some(Ok(()))));
    assert!(sim.tasks.iter().all(|task| task.starts == 1));
    sim.finish();
}

#[test]
fn an_elastic_pool_has_as_many_workers_as_there_is_work() {
    let elastic = Config { min_workers: Some(1), idle_timeout_ns: Some(1_000_000), ..config(3) };
    let mut sim = Sim::with(elastic);
    assert_eq!(sim.processes.len(), 1);
    ready(&mut sim);
    assert!(sim.sched.all_seated());
    (0..2).for_each(|_| sim.submit(SPEC));
    assert_eq!(sim.processes.len(), 2, "the second task needs another one");
    ready(&mut sim);
    (0..9).for_each(|_| sim.submit(SPEC));
    assert_eq!(sim.processes.len(), 3, "never more than the most");
    ready(&mut sim);
    run_all(&mut sim);
    while let Some(due) = sim.sched.next_tick() {
        sim.pass(due.saturating_sub(sim.now));
        ready(&mut sim);
    }
    assert_eq!(sim.processes.len(), 1, "the least stays");
    sim.finish();
    assert_eq!(sim.sched.counts().workers_lost, 0, "leaving is no loss");
}

#[test]
fn an_old_worker_is_replaced_between_two_tasks() {
    let mut sim = Sim::with(Config { max_age_ns: Some(1_000_000), ..config(1) });
    ready(&mut sim);
    sim.submit(SPEC);
    run_all(&mut sim);
    sim.submit(SPEC);
    let old = running(&mut sim);
    sim.pass(2_000_000);
    sim.submit(SPEC);
    sim.step(old, 50_000_000);
    assert_eq!(sim.tasks[1].end, Some(Ok(())), "what it had begun it finishes");
    assert_eq!(sim.tasks[2].end, None);
    sim.finish();
    assert_eq!(sim.tasks[2].end, Some(Ok(())));
    assert_eq!(sim.sched.counts().workers_started, 2);
}
