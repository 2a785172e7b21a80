//! Simulated workers for tests of the scheduler, and everything that must hold between two events.

use std::collections::{HashMap, VecDeque};

use proptest::prelude::*;

use super::*;

/// What a simulated worker process does with its tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Queued,
    Started,
    Finished,
    Revoked,
}

#[derive(Debug, Default)]
pub(super) struct Process {
    ready: bool,
    pub(super) killed: bool,
    retiring: bool,
    /// In the order of execution.
    pub(super) tasks: VecDeque<(TaskKey, Lease, State)>,
    unsent: VecDeque<(TaskKey, Lease, State)>,
}

#[derive(Debug)]
pub(super) struct Sim {
    pub(super) sched: Scheduler,
    pub(super) now: u64,
    pub(super) processes: HashMap<WorkerKey, Process>,
    /// Per task by its number: its key while it is unfinished, starts, retries, ends.
    pub(super) tasks: Vec<Record>,
    pub(super) by_key: HashMap<TaskKey, usize>,
    pub(super) spawned: usize,
}

#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) starts: u32,
    retries: u32,
    pub(super) end: Option<End>,
}

#[derive(Clone, Debug)]
pub(super) enum Op {
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
    Outgrow {
        worker: usize,
    },
    Resize {
        workers: u32,
    },
    Pass {
        ns: u64,
    },
    Close,
    Terminate,
}

pub(super) fn op() -> impl Strategy<Value = Op> {
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
        1 => worker.clone().prop_map(|worker| Op::Violate { worker }),
        2 => worker.prop_map(|worker| Op::Outgrow { worker }),
        2 => (1u32..6).prop_map(|workers| Op::Resize { workers }),
        6 => prop_oneof![Just(1_000u64), Just(6_000_000), Just(2_000_000_000)].prop_map(|ns| Op::Pass { ns }),
        1 => Just(Op::Close),
        1 => Just(Op::Terminate),
    ]
}

/// Settings that change nothing.
pub(super) fn config(workers: u32) -> Config {
    Config {
        workers,
        min_workers: None,
        idle_timeout_ns: None,
        max_tasks_per_child: None,
        max_age_ns: None,
        start_timeout_ns: 1_000_000_000,
        crash_limit: u32::MAX,
        max_restarts: None,
    }
}

/// How a task has ended: by a reply, or otherwise.
pub(super) type End = Result<(), Verdict>;

impl Sim {
    pub(super) fn new(workers: u32, max_tasks_per_child: Option<u64>) -> Sim {
        Sim::with(Config { max_tasks_per_child, ..config(workers) })
    }

    pub(super) fn with(config: Config) -> Sim {
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

    pub(super) fn event(&mut self, event: Event<'_>) {
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
                Action::Retried { task } => assert!(self.by_key.contains_key(&task)),
                Action::Settle { task, verdict, .. } => self.settle(task, Err(verdict)),
            }
        }
        self.check();
    }

    fn settle(&mut self, task: TaskKey, end: End) {
        let number = self.by_key.remove(&task).expect("a task that is not settled");
        assert_eq!(self.tasks[number].end.replace(end), None, "settled twice");
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

    pub(super) fn pick(&self, index: usize) -> Option<WorkerKey> {
        let mut keys: Vec<_> = self.processes.keys().copied().collect();
        keys.sort();
        (!keys.is_empty()).then(|| keys[index % keys.len()])
    }

    pub(super) fn submit(&mut self, spec: Spec) {
        if self.sched.phase() == Phase::Running {
            let mut actions = Vec::new();
            let key = self.sched.submit(spec, self.now, &mut actions);
            self.by_key.insert(key, self.tasks.len());
            self.tasks.push(Record { retries: spec.retries, ..Record::default() });
            self.perform(actions);
        }
    }

    pub(super) fn run(&mut self, op: &Op) {
        match *op {
            Op::Submit { retries, size, function } => {
                let priority = function as i32 - 1;
                let backoff_ns = if size == 10 { 0 } else { 5_000_000 };
                self.submit(Spec { function, size, items: 1, retries, priority, backoff_ns });
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
            Op::Outgrow { worker } => {
                if let Some(worker) = self.pick(worker) {
                    self.event(Event::Outgrown { worker });
                }
            }
            Op::Resize { workers } => self.event(Event::Resize { workers }),
            Op::Pass { ns } => self.pass(ns),
            Op::Close => self.event(Event::Close),
            Op::Terminate => self.event(Event::Terminate { grace_ns: 1_000_000_000 }),
        }
    }

    pub(super) fn pass(&mut self, ns: u64) {
        self.now += ns;
        self.event(Event::Tick);
    }

    fn expire(&mut self, worker: usize) {
        let Some(worker) = self.pick(worker) else { return };
        let started = self.processes[&worker].tasks.iter().find(|task| task.2 == State::Started);
        if let Some(&(_, lease, _)) = started {
            self.event(Event::Expired { worker, lease });
        }
    }

    pub(super) fn step(&mut self, key: WorkerKey, elapsed_ns: u64) {
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
            if let Reply::Settles { task, .. } = self.sched.reply(key, lease, elapsed_ns, self.now)
            {
                self.settle(task, Ok(()));
            }
            self.event(Event::RepliesRead { worker: key });
        }
    }

    pub(super) fn die(&mut self, key: WorkerKey) {
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
            worker.check();
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
            let queued = sched.queue.iter().filter(|&queued| queued == key).count();
            match task.state() {
                TaskState::Queued | TaskState::Dropped => assert_eq!(queued, 1),
                TaskState::Delayed => {
                    assert!(queued == 0 && sched.delayed.contains(&(task.due(), key)));
                }
                TaskState::Leased(worker) => {
                    assert_eq!((queued, leased.get(&key)), (0, Some(&worker)));
                }
            }
            live += usize::from(task.state() != TaskState::Dropped);
        }
        assert_eq!(live, sched.unfinished);
        let occupied = sched.seats.iter().filter(|seat| seat.worker.is_some()).count();
        assert_eq!(occupied, sched.occupied);
        assert!(leased.keys().all(|key| sched.tasks.contains(key.index())), "leases have tasks");
    }

    /// Lets everything that is there come to its end.
    pub(super) fn finish(&mut self) {
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
            self.pass(1_000_000);
        }
        assert_eq!(self.sched.phase(), Phase::Stopped, "the pool ends: {:?}", self.sched);
        assert!(self.processes.is_empty(), "no process is left");
        assert!(self.by_key.is_empty(), "every task is settled");
        for record in &self.tasks {
            assert!(record.end.is_some());
            assert!(record.starts <= 1 + record.retries, "started too often: {record:?}");
            if record.end == Some(Ok(())) {
                assert!(record.starts >= 1);
            }
        }
    }
}

pub(super) fn ready(sim: &mut Sim) {
    let keys: Vec<_> = sim.processes.keys().copied().collect();
    for key in keys {
        sim.step(key, 0);
    }
}
