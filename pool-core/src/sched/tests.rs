//! Random schedules against simulated workers: whatever happens, in whatever order, each task is settled exactly once, is
//! started at most once more than its retries, and the pool ends.

use std::collections::{HashMap, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::limits::STALL_NS;

/// What a simulated worker process does with its tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Queued,
    Started,
    Finished,
    Revoked,
}

#[derive(Debug, Default)]
struct Process {
    ready: bool,
    killed: bool,
    retiring: bool,
    /// In the order of execution.
    tasks: VecDeque<(TaskKey, Lease, State)>,
    unsent: VecDeque<(TaskKey, Lease, State)>,
}

#[derive(Debug)]
struct Sim {
    sched: Scheduler,
    now: u64,
    processes: HashMap<WorkerKey, Process>,
    /// Per task by its number: its key while it is unfinished, starts, retries, verdicts.
    tasks: Vec<Record>,
    by_key: HashMap<TaskKey, usize>,
    spawned: usize,
}

#[derive(Debug, Default)]
struct Record {
    starts: u32,
    retries: u32,
    verdict: Option<Verdict>,
}

#[derive(Clone, Debug)]
enum Op {
    Submit {
        retries: u32,
        size: u64,
        function: u32,
    },
    /// A worker says that it is ready, or its next thing happens.
    Step {
        worker: usize,
        elapsed: u64,
    },
    Die {
        worker: usize,
    },
    SpawnFails {
        worker: usize,
    },
    Cancel {
        task: usize,
    },
    Expire {
        worker: usize,
    },
    Violate {
        worker: usize,
    },
    Pass {
        ns: u64,
    },
    Close,
    Terminate,
}

fn op() -> impl Strategy<Value = Op> {
    let worker = 0usize..8;
    let size = prop_oneof![Just(10u64), Just(40_000), Just(1 << 20)];
    prop_oneof![
        30 => (0u32..2, size, 0u32..3).prop_map(|(retries, size, function)| Op::Submit { retries, size, function }),
        40 => (worker.clone(), prop_oneof![Just(500u64), Just(1_000_000), Just(80_000_000)])
            .prop_map(|(worker, elapsed)| Op::Step { worker, elapsed }),
        4 => worker.clone().prop_map(|worker| Op::Die { worker }),
        1 => worker.clone().prop_map(|worker| Op::SpawnFails { worker }),
        6 => (0usize..100).prop_map(|task| Op::Cancel { task }),
        3 => worker.clone().prop_map(|worker| Op::Expire { worker }),
        1 => worker.prop_map(|worker| Op::Violate { worker }),
        6 => prop_oneof![Just(1_000u64), Just(6_000_000), Just(2_000_000_000)].prop_map(|ns| Op::Pass { ns }),
        1 => Just(Op::Close),
        1 => Just(Op::Terminate),
    ]
}

impl Sim {
    fn new(workers: u32, max_tasks_per_child: Option<u64>) -> Sim {
        let config = Config { workers, max_tasks_per_child, start_timeout_ns: 1_000_000_000 };
        let mut sim = Sim {
            sched: Scheduler::new(config),
            now: 1,
            processes: HashMap::new(),
            tasks: Vec::new(),
            by_key: HashMap::new(),
            spawned: 0,
        };
        sim.event(Event::Tick);
        sim
    }

    fn event(&mut self, event: Event<'_>) {
        let mut actions = Vec::new();
        self.sched.handle(event, self.now, &mut actions);
        self.perform(actions);
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Spawn { worker, .. } => {
                    self.spawned += 1;
                    let known = self.processes.insert(worker, Process::default());
                    assert!(known.is_none(), "a key in use was given to another worker");
                    self.event(Event::Spawned { worker });
                }
                Action::Lease { worker, task, lease } => {
                    let process = self.processes.get_mut(&worker).expect("leased to a process");
                    assert!(process.ready && !process.retiring, "only ready workers get tasks");
                    process.unsent.push_back((task, lease, State::Queued));
                }
                Action::Flush { worker } => {
                    let process = self.processes.get_mut(&worker).expect("flushed to a process");
                    let unsent = std::mem::take(&mut process.unsent);
                    assert!(!unsent.is_empty());
                    process.tasks.extend(unsent);
                }
                Action::TakeBack { worker, lease, why } => self.take_back(worker, lease, why),
                Action::Retire { worker } => {
                    self.processes.get_mut(&worker).expect("a process").retiring = true;
                }
                Action::Terminate { worker } | Action::Kill { worker } => {
                    self.processes.get_mut(&worker).expect("a process").killed = true;
                }
                Action::Settle { task, verdict } => {
                    let number = self.by_key.remove(&task).expect("a task that is not settled");
                    let known = self.tasks[number].verdict.replace(verdict);
                    assert_eq!(known, None, "settled twice");
                }
            }
        }
        self.check();
    }

    fn take_back(&mut self, worker: WorkerKey, lease: Lease, why: Why) {
        let mut taken = Taken::No;
        if let Some(process) = self.processes.get_mut(&worker) {
            let entry = process.tasks.iter_mut().chain(&mut process.unsent).find(|t| t.1 == lease);
            match entry.map(|entry| &mut entry.2) {
                Some(state @ State::Queued) => (*state, taken) = (State::Revoked, Taken::Revoked),
                Some(State::Started) if why == Why::Cancelled => taken = Taken::Condemned,
                _ => {}
            }
        }
        self.event(Event::TakenBack { worker, lease, taken, why });
    }

    fn pick(&self, index: usize) -> Option<WorkerKey> {
        let mut keys: Vec<_> = self.processes.keys().copied().collect();
        keys.sort();
        (!keys.is_empty()).then(|| keys[index % keys.len()])
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Submit { retries, size, function } => {
                if self.sched.phase() == Phase::Running {
                    let spec = Spec { function, size, items: 1, retries };
                    let mut actions = Vec::new();
                    let key = self.sched.submit(spec, self.now, &mut actions);
                    self.by_key.insert(key, self.tasks.len());
                    self.tasks.push(Record { retries, ..Record::default() });
                    self.perform(actions);
                }
            }
            Op::Step { worker, elapsed } => {
                if let Some(key) = self.pick(worker) {
                    self.step(key, elapsed);
                }
            }
            Op::Die { worker } => {
                if let Some(key) = self.pick(worker) {
                    self.die(key);
                }
            }
            Op::SpawnFails { worker } => {
                if let Some(key) = self.pick(worker)
                    && !self.processes[&key].ready
                {
                    self.processes.remove(&key);
                    self.event(Event::SpawnFailed { worker: key, error: "no" });
                }
            }
            Op::Cancel { task } => {
                if let Some((&task, _)) = self.by_key.iter().find(|(_, number)| **number == task) {
                    self.event(Event::Cancel { task });
                }
            }
            Op::Expire { worker } => self.expire(worker),
            Op::Violate { worker } => {
                if let Some(worker) = self.pick(worker) {
                    self.event(Event::Violated { worker });
                }
            }
            Op::Pass { ns } => {
                self.now += ns;
                self.event(Event::Tick);
            }
            Op::Close => self.event(Event::Close),
            Op::Terminate => self.event(Event::Terminate { grace_ns: 1_000_000_000 }),
        }
    }

    fn expire(&mut self, worker: usize) {
        let Some(worker) = self.pick(worker) else { return };
        let started = self.processes[&worker].tasks.iter().find(|task| task.2 == State::Started);
        if let Some(&(_, lease, _)) = started {
            self.event(Event::Expired { worker, lease });
        }
    }

    fn step(&mut self, key: WorkerKey, elapsed_ns: u64) {
        self.now += 10;
        let process = self.processes.get_mut(&key).expect("picked");
        if process.killed {
            return self.die(key);
        }
        if !process.ready {
            process.ready = true;
            return self.event(Event::Ready { worker: key });
        }
        while process.tasks.front().is_some_and(|task| task.2 == State::Revoked) {
            process.tasks.pop_front();
        }
        let Some((task, lease, state)) = process.tasks.front_mut() else {
            if process.retiring {
                self.die(key);
            }
            return;
        };
        if *state == State::Queued {
            *state = State::Started;
            let number = self.by_key.get(task).expect("a task that runs is not settled yet");
            self.tasks[*number].starts += 1;
        } else {
            let lease = *lease;
            process.tasks.pop_front();
            self.event(Event::Replied { worker: key, lease, elapsed_ns });
            self.event(Event::RepliesRead { worker: key });
        }
    }

    fn die(&mut self, key: WorkerKey) {
        let process = self.processes.remove(&key).expect("picked");
        let begun = |state| state == State::Started || state == State::Finished;
        let started: Vec<_> = process.tasks.iter().filter(|t| begun(t.2)).map(|t| t.1).collect();
        self.event(Event::Gone { worker: key, started: &started, cause: ExitCause::Exited(3) });
    }

    /// Everything that must hold between two events.
    fn check(&self) {
        let sched = &self.sched;
        let mut live = 0;
        let mut leased = HashMap::new();
        for (key, worker) in &sched.workers {
            let key = WorkerKey(key as u32);
            assert_eq!(
                worker.load_ns,
                worker.leases.iter().map(|held| held.expected_ns).sum::<u64>()
            );
            assert!(worker.leases.len() <= crate::limits::SLOTS);
            assert!(worker.sent_frames >= worker.acked_frames);
            let mut slots: Vec<_> = worker.leases.iter().map(|held| held.lease.slot).collect();
            slots.sort_unstable();
            slots.dedup();
            assert_eq!(slots.len(), worker.leases.len(), "a slot in use was given away");
            let idle = worker.phase == WorkerPhase::Ready && worker.leases.is_empty();
            assert!(!sched.idle.contains(&key) || idle, "idle workers are ready and hold nothing");
            for held in worker.leases.iter().filter(|held| !held.settled) {
                assert_eq!(leased.insert(held.task, key), None, "leased twice");
            }
        }
        for (key, task) in &sched.tasks {
            let key = TaskKey(key as u32);
            let queued = sched.queue.iter().filter(|&&queued| queued == key).count();
            match task.state {
                TaskState::Queued | TaskState::Dropped => assert_eq!(queued, 1),
                TaskState::Leased(worker) => {
                    assert_eq!((queued, leased.get(&key)), (0, Some(&worker)));
                }
            }
            live += usize::from(task.state != TaskState::Dropped);
        }
        assert_eq!(live, sched.unfinished);
        assert!(leased.keys().all(|key| sched.tasks.contains(key.index())), "leases have tasks");
    }

    /// Lets everything that is there come to its end.
    fn finish(&mut self) {
        if self.sched.phase() == Phase::Running {
            self.event(Event::Close);
        }
        for _ in 0..100_000 {
            if self.sched.phase() == Phase::Stopped {
                break;
            }
            let mut keys: Vec<_> = self.processes.keys().copied().collect();
            keys.sort();
            for key in keys {
                if self.processes.contains_key(&key) {
                    self.step(key, 1_000);
                }
            }
            if self.processes.is_empty() {
                self.now = self.sched.next_tick().unwrap_or(self.now).max(self.now);
            }
            self.event(Event::Tick);
        }
        assert_eq!(self.sched.phase(), Phase::Stopped, "the pool ends: {:?}", self.sched);
        assert!(self.processes.is_empty(), "no process is left");
        assert!(self.by_key.is_empty(), "every task is settled");
        for record in &self.tasks {
            assert!(record.verdict.is_some());
            assert!(record.starts <= 1 + record.retries, "started too often: {record:?}");
            if record.verdict == Some(Verdict::Replied) {
                assert!(record.starts >= 1);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn every_schedule_ends_well(
        workers in 1u32..5,
        max_tasks in proptest::option::of(1u64..4),
        ops in proptest::collection::vec(op(), 0..300),
    ) {
        let mut sim = Sim::new(workers, max_tasks);
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

fn ready(sim: &mut Sim) {
    let keys: Vec<_> = sim.processes.keys().copied().collect();
    for key in keys {
        sim.step(key, 0);
    }
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
    let verdicts: Vec<_> = sim.tasks.iter().map(|task| task.verdict).collect();
    assert_eq!(verdicts, [Some(Verdict::Replied), Some(Verdict::Lost(key)), None]);
    sim.finish();
    assert_eq!(sim.tasks[2].verdict, Some(Verdict::Replied));
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
    assert_eq!(sim.tasks[0].verdict, None, "it was not started, so it waits");
    sim.finish();
    assert_eq!(sim.tasks[0].verdict, Some(Verdict::Replied));
}

#[test]
fn recycling_loses_nothing() {
    let mut sim = Sim::new(2, Some(3));
    ready(&mut sim);
    submit(&mut sim, 100);
    sim.finish();
    assert!(sim.tasks.iter().all(|task| task.verdict == Some(Verdict::Replied)));
    assert!(sim.spawned >= 100 / 3);
}

#[test]
fn terminate_reaches_the_phase_stopped_also_for_stubborn_children() {
    let mut sim = Sim::new(2, None);
    ready(&mut sim);
    submit(&mut sim, 10);
    sim.run(&Op::Terminate);
    assert!(sim.tasks.iter().all(|task| task.verdict == Some(Verdict::Terminated)));
    let deadline = sim.sched.next_tick().expect("SIGKILL is due");
    sim.processes.values_mut().for_each(|process| process.killed = false);
    sim.run(&Op::Pass { ns: deadline });
    assert!(sim.processes.values().all(|process| process.killed));
    sim.finish();
}
