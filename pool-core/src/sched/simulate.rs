//! A seeded simulator: the scheduler among workers whose messages take their time, under a virtual clock, with a fault at every step. Unlike the schedules in
//! `tests.rs`, nothing here is atomic: a worker may start what the parent is about to take back, die with replies unread, be stopped in between.
//!
//! A schedule is a number. One that fails is printed, and `POOL_CORE_SEED=number` plays it again. `scripts/simulate` runs as many as wanted.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use super::sim::End;
use super::*;

const MS: u64 = 1_000_000;

/// splitmix64
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// A word of the status page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Queued,
    Started,
    Revoked,
    Finished,
    Condemned,
}

/// What the parent has not read yet.
#[derive(Debug)]
enum Said {
    Ready,
    Reply(Lease, u64),
}

/// A worker process, or the wish for one.
#[derive(Debug, Default)]
struct Process {
    /// It was made: before, it is only a request to the spawner.
    is_there: bool,
    is_ready: bool,
    is_dead: bool,
    is_stopped: bool,
    /// Its messages: tasks, and the word to leave.
    unsent: Vec<(usize, Lease)>,
    inbox: VecDeque<Option<(usize, Lease)>>,
    running: Option<(Lease, u64)>,
    page: HashMap<u16, (u32, Word)>,
    said: VecDeque<Said>,
}

impl Process {
    fn swap(&mut self, lease: Lease, from: Word, to: Word) -> bool {
        let word = self.page.get_mut(&lease.slot).expect("announced");
        let is_so = *word == (lease.generation, from);
        if is_so {
            word.1 = to;
        }
        is_so
    }
}

#[derive(Debug)]
struct Record {
    starts: u32,
    retries: u32,
    end: Option<End>,
}

struct World {
    random: Random,
    sched: Scheduler,
    now: u64,
    processes: HashMap<WorkerKey, Process>,
    tasks: Vec<Record>,
    by_key: HashMap<TaskKey, usize>,
    /// Processes that may still be made to fail while they start.
    start_faults: u64,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Random(seed);
        let workers = 1 + random.below(5) as u32;
        let mut some = |share, limit| (random.below(share) == 0).then(|| 1 + random.below(limit));
        let config = Config {
            workers,
            min_workers: some(2, workers.into()).map(|min| min as u32),
            idle_timeout_ns: some(2, 50 * MS),
            max_tasks_per_child: some(3, 6),
            max_age_ns: some(4, 200 * MS),
            start_timeout_ns: 1_000 * MS,
            crash_limit: some(2, 3).map_or(u32::MAX, |limit| limit as u32),
            max_restarts: some(8, 5).map(|count| (count as u32, 1_000 * MS)),
        };
        let start_faults = if random.below(4) == 0 { 40 } else { 3 };
        let mut world = World {
            random,
            sched: Scheduler::new(config),
            now: 1,
            processes: HashMap::new(),
            tasks: Vec::new(),
            by_key: HashMap::new(),
            start_faults,
        };
        world.event(Event::Tick);
        world
    }

    fn event(&mut self, event: Event<'_>) {
        let mut actions = Vec::new();
        self.sched.handle(event, self.now, &mut actions);
        self.perform(actions);
    }

    fn perform(&mut self, mut actions: Vec<Action>) {
        let mut next = 0;
        while let Some(&action) = actions.get(next) {
            next += 1;
            match action {
                Action::Spawn { worker, .. } => {
                    let known = self.processes.insert(worker, Process::default());
                    assert!(known.is_none(), "a key in use was given to another worker");
                }
                Action::Lease { worker, task, lease } => {
                    let process = self.processes.get_mut(&worker).expect("leased to a process");
                    assert!(process.is_ready || process.is_dead, "only ready workers get tasks");
                    let before = process.page.insert(lease.slot, (lease.generation, Word::Queued));
                    let is_free = before.is_none_or(|(_, word)| word != Word::Started);
                    assert!(is_free, "the slot of a running task was given away");
                    process.unsent.push((self.by_key[&task], lease));
                }
                Action::Flush { worker } => {
                    let process = self.processes.get_mut(&worker).expect("flushed to a process");
                    assert!(!process.unsent.is_empty(), "a message of nothing");
                    process.inbox.extend(process.unsent.drain(..).map(Some));
                }
                Action::TakeBack { worker, lease, why } => {
                    let process = self.processes.get_mut(&worker).expect("taken from a process");
                    let taken = if process.swap(lease, Word::Queued, Word::Revoked) {
                        Taken::Revoked
                    } else if why == Why::Cancelled
                        && process.swap(lease, Word::Started, Word::Condemned)
                    {
                        Taken::Condemned
                    } else {
                        Taken::No
                    };
                    let event = Event::TakenBack { worker, lease, taken, why };
                    self.sched.handle(event, self.now, &mut actions);
                }
                Action::Retire { worker } => {
                    if let Some(process) = self.processes.get_mut(&worker) {
                        process.inbox.push_back(None);
                    }
                }
                Action::Terminate { worker } => {
                    // some ignore it, and a stopped one is continued by what comes with it
                    let listens = self.random.below(4) > 0;
                    let process = self.processes.get_mut(&worker).expect("a process");
                    process.is_stopped = false;
                    process.is_dead |= process.is_there && listens;
                }
                Action::Kill { worker } => {
                    let process = self.processes.get_mut(&worker).expect("a process");
                    process.is_dead |= process.is_there;
                }
                Action::Retried { task } => assert!(self.by_key.contains_key(&task)),
                Action::Settle { task, verdict, .. } => self.settle(task, Err(verdict)),
            }
        }
    }

    fn settle(&mut self, task: TaskKey, end: End) {
        let number = self.by_key.remove(&task).expect("settled twice, or never submitted");
        let record = &mut self.tasks[number];
        assert_eq!(record.end.replace(end), None, "settled twice");
        let begun = matches!(
            end,
            Ok(()) | Err(Verdict::Lost(_) | Verdict::TimedOut | Verdict::Quarantined(_))
        );
        assert!(!begun || record.starts > 0, "{end:?} of a task that never was started");
        assert!(record.starts <= 1 + record.retries, "started too often: {record:?}");
        let stops = matches!(end, Err(Verdict::Terminated | Verdict::Broken));
        assert!(!stops || self.sched.phase() >= Phase::Stopping, "{end:?} of a running pool");
    }

    fn pick(&mut self) -> Option<WorkerKey> {
        let mut keys: Vec<_> = self.processes.keys().copied().collect();
        keys.sort();
        let count = keys.len() as u64;
        (count > 0).then(|| keys[self.random.below(count) as usize])
    }

    /// Something happens, or goes wrong.
    fn step(&mut self) {
        self.now += match self.random.below(20) {
            0 => self.random.below(20 * MS),
            _ => self.random.below(100_000),
        };
        let what = self.random.below(1000);
        if what < 200 {
            return self.submit();
        }
        let Some(key) = self.pick() else { return self.event(Event::Tick) };
        match what {
            200..550 => self.work(key),
            550..850 => self.read(key),
            850..900 => self.event(Event::Tick),
            900..925 => self.cancel(),
            925..940 => self.expire(key),
            940..965 => self.kill(key),
            965..975 => self.toggle(key),
            975..980 => self.spawn_fails(key),
            980..983 => self.event(Event::Violated { worker: key }),
            983..985 => self.event(Event::Outgrown { worker: key }),
            985..988 => self.pause(),
            988..990 => {
                let workers = 1 + self.random.below(6) as u32;
                self.event(Event::Resize { workers });
            }
            990..995 => {
                self.now += self.random.below(3_000 * MS);
                self.event(Event::Tick);
            }
            995 if self.random.below(4) == 0 => self.event(Event::Close),
            996 if self.random.below(4) == 0 => {
                let grace_ns = self.random.below(1_000 * MS);
                self.event(Event::Terminate { grace_ns });
            }
            _ => {}
        }
    }

    fn submit(&mut self) {
        if self.sched.phase() != Phase::Running {
            return;
        }
        let size = [10, 10, 10, 40_000, 1 << 20][self.random.below(5) as usize];
        let retries = if self.random.below(5) == 0 { 1 + self.random.below(2) as u32 } else { 0 };
        let function = self.random.below(3) as u32;
        let priority = if self.random.below(4) == 0 { self.random.below(5) as i32 - 2 } else { 0 };
        let backoff_ns = if self.random.below(2) == 0 { self.random.below(20 * MS) } else { 0 };
        let spec = Spec { function, size, items: 1, retries, priority, backoff_ns };
        let mut actions = Vec::new();
        let key = self.sched.submit(spec, self.now, &mut actions);
        self.by_key.insert(key, self.tasks.len());
        self.tasks.push(Record { starts: 0, retries, end: None });
        self.perform(actions);
    }

    /// The next thing that a worker does.
    fn work(&mut self, key: WorkerKey) {
        let elapsed = [500, 500, 30_000, MS, 80 * MS][self.random.below(5) as usize];
        let process = self.processes.get_mut(&key).expect("picked");
        if !process.is_there {
            return self.spawned(key);
        }
        if process.is_dead || process.is_stopped {
            return;
        }
        if !process.is_ready {
            process.is_ready = true;
            process.said.push_back(Said::Ready);
            return;
        }
        if let Some((lease, elapsed)) = process.running.take() {
            if process.swap(lease, Word::Started, Word::Finished) {
                process.said.push_back(Said::Reply(lease, elapsed));
            } else {
                // the parent has condemned it, and it begins nothing else
                process.is_dead = true;
            }
            return;
        }
        match process.inbox.pop_front() {
            None => {}
            Some(None) => process.is_dead = true,
            Some(Some((number, lease))) if process.swap(lease, Word::Queued, Word::Started) => {
                process.running = Some((lease, elapsed));
                let record = &mut self.tasks[number];
                record.starts += 1;
                // what was terminated may still begin in the grace period, and nothing else may
                let is_over = |end| !matches!(end, Err(Verdict::Terminated | Verdict::Broken));
                assert!(!record.end.is_some_and(is_over), "started after its end");
            }
            Some(Some(_)) => {} // taken back
        }
    }

    fn spawned(&mut self, key: WorkerKey) {
        let unwanted = self.sched.worker(key).is_none_or(|w| w.phase == WorkerPhase::Condemned);
        let process = self.processes.get_mut(&key).expect("picked");
        process.is_there = true;
        process.is_dead = unwanted;
        self.event(Event::Spawned { worker: key });
    }

    /// The parent reads some of what a worker has said; when it is dead, all of it, and then judges.
    fn read(&mut self, key: WorkerKey) {
        let is_dead = self.processes[&key].is_dead;
        let mut some = if is_dead { u64::MAX } else { 1 + self.random.below(4) };
        while some > 0
            && let Some(said) = self.processes.get_mut(&key).expect("picked").said.pop_front()
        {
            some -= 1;
            match said {
                Said::Ready => self.event(Event::Ready { worker: key }),
                Said::Reply(lease, elapsed_ns) => {
                    assert!(self.sched.holds(key, lease), "an honest reply is refused");
                    if let Reply::Settles { task, .. } =
                        self.sched.reply(key, lease, elapsed_ns, self.now)
                    {
                        self.settle(task, Ok(()));
                    }
                }
            }
        }
        self.event(Event::RepliesRead { worker: key });
        // what was just read may have ended it: then it is judged the next time
        if is_dead {
            self.bury(key);
        }
    }

    fn bury(&mut self, key: WorkerKey) {
        let process = self.processes.get(&key).expect("picked");
        let held = self.sched.worker(key).into_iter().flat_map(Worker::running_order);
        let begun = |lease: &Lease| process.page[&lease.slot] != (lease.generation, Word::Queued);
        let started: Vec<Lease> = held.map(|(_, lease)| lease).filter(begun).collect();
        // its key may be given away by the event
        self.processes.remove(&key);
        let cause = ExitCause::Signaled { signal: 9, core_dumped: false };
        self.event(Event::Gone { worker: key, started: &started, cause });
    }

    fn cancel(&mut self) {
        let mut keys: Vec<_> = self.by_key.keys().copied().collect();
        keys.sort();
        if !keys.is_empty() {
            let task = keys[self.random.below(keys.len() as u64) as usize];
            self.event(Event::Cancel { task });
        }
    }

    fn expire(&mut self, key: WorkerKey) {
        let process = self.processes.get_mut(&key).expect("picked");
        if let Some((lease, _)) = process.running
            && process.swap(lease, Word::Started, Word::Condemned)
        {
            self.event(Event::Expired { worker: key, lease });
        }
    }

    fn kill(&mut self, key: WorkerKey) {
        let process = self.processes.get_mut(&key).expect("picked");
        if process.is_ready || self.start_faults > 0 {
            self.start_faults -= u64::from(!process.is_ready);
            process.is_dead |= process.is_there;
        }
    }

    fn toggle(&mut self, key: WorkerKey) {
        let process = self.processes.get_mut(&key).expect("picked");
        process.is_stopped = !process.is_stopped;
    }

    fn spawn_fails(&mut self, key: WorkerKey) {
        if !self.processes[&key].is_there && self.start_faults > 0 {
            self.start_faults -= 1;
            self.processes.remove(&key);
            self.event(Event::SpawnFailed { worker: key, error: "no" });
        }
    }

    /// The parent is stopped for a while.
    fn pause(&mut self) {
        let time = self.random.below(5_000 * MS);
        self.now += time;
        self.sched.excuse(time);
    }

    /// No more faults: everything comes to its end.
    fn finish(&mut self) {
        if self.sched.phase() == Phase::Running {
            let terminate = self.random.below(2) == 0;
            let grace_ns = self.random.below(100 * MS);
            self.event(if terminate { Event::Terminate { grace_ns } } else { Event::Close });
        }
        for _ in 0..100_000 {
            if self.sched.phase() == Phase::Stopped {
                break;
            }
            let mut keys: Vec<_> = self.processes.keys().copied().collect();
            keys.sort();
            let mut is_quiet = true;
            for key in keys {
                if let Some(process) = self.processes.get_mut(&key) {
                    process.is_stopped = false;
                    is_quiet &= process.inbox.is_empty() && process.is_there && process.is_ready;
                    is_quiet &= process.running.is_none() && process.said.is_empty();
                    self.work(key);
                }
                if self.processes.contains_key(&key) {
                    self.read(key);
                }
            }
            if is_quiet {
                self.now = self.sched.next_tick().unwrap_or(self.now).max(self.now);
            }
            self.event(Event::Tick);
        }
        assert_eq!(self.sched.phase(), Phase::Stopped, "the pool ends: {:?}", self.sched);
        assert!(self.processes.is_empty(), "no process is left: {:?}", self.processes);
        assert!(self.by_key.is_empty(), "every task is settled");
        assert_eq!(self.sched.unfinished(), 0);
        let counts = self.sched.counts();
        assert_eq!((counts.submitted, counts.settled), (self.tasks.len() as u64, counts.submitted));
    }
}

fn play(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..world.random.below(400) {
        world.step();
    }
    world.finish();
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// `POOL_CORE_SEED` plays one schedule, `POOL_CORE_SCHEDULES` so many, `POOL_CORE_SECONDS` for so long.
#[test]
fn every_seed_ends_well() {
    let seed = number("POOL_CORE_SEED");
    let first = seed.or(number("POOL_CORE_FIRST_SEED")).unwrap_or(0);
    let budget = number("POOL_CORE_SECONDS").map(Duration::from_secs);
    let count = match (seed, budget) {
        (Some(_), _) => 1,
        (None, Some(_)) => u64::MAX,
        (None, None) => number("POOL_CORE_SCHEDULES").unwrap_or(2_000),
    };
    let start = Instant::now();
    let mut played = 0;
    for seed in (first..).take(usize::try_from(count).unwrap_or(usize::MAX)) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| play(seed))) {
            println!(
                "schedule {seed} failed; play it again: POOL_CORE_SEED={seed} scripts/simulate"
            );
            resume_unwind(panic);
        }
        played += 1;
        if budget.is_some_and(|budget| start.elapsed() >= budget) {
            break;
        }
    }
    println!("{played} schedules from {first} on, in {:?}", start.elapsed());
}
