//! The whole of the parent's side (readers, judgement, scheduler) among workers that are bytes: an input is a program of what workers say, write into shared
//! memory and die of, and of what the user does meanwhile. `scripts/fuzz` takes its time; the tests replay the corpus.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak, mpsc};
use std::time::Duration;

use super::core::{Core, Effects, SpawnRequest, put};
use super::slots::{PoolRef, SlotRef};
use super::task::{Extras, Payload, Request};
use super::{Courier, Settings};
use crate::backend::Link;
use crate::backend::process::link::{ProcessLink, Started};
use crate::backend::process::spawner::Sink;
use crate::codec;
use crate::error::TaskError;
use crate::ids::{Lease, TaskId, TaskKey, WorkerKey};
use crate::limits::PROTOCOL_VERSION;
use crate::mutate;
use crate::pool::{Pool, PoolBuilder};
use crate::sched::{Event, Phase};
use crate::sys::pidfd::PidFd;
use crate::sys::poll::Watch;
use crate::sys::{clock, socket};
use crate::task::callee::Callee;
use crate::task::entry::Fault;
use crate::task::job::Value;
use crate::transport::block::WorkerBlock;
use crate::transport::status::Progress;
use crate::transport::task_queue::TaskQueueWriter;
use crate::transport::tasks;
use crate::wire::from_worker::{Header, Kind};
use crate::wire::hello::Hello;

type Outcome = Result<Value, TaskError>;

/// No process has such a number, and no group.
const NOBODY: u32 = 1 << 30;

const MS: u64 = 1_000_000;

/// The worker's side of a link.
struct Peer {
    worker: WorkerKey,
    stream: OwnedFd,
    tasks: OwnedFd,
    block: WorkerBlock,
}

struct Submitted {
    key: TaskKey,
    slot: SlotRef,
    retries: u32,
}

struct World<'a> {
    input: &'a [u8],
    core: Core,
    requests: mpsc::Receiver<SpawnRequest>,
    /// How much later it is than the clock says.
    later: u64,
    peers: Vec<Peer>,
    tasks: Vec<Submitted>,
    starts: HashMap<TaskId, u32>,
    /// A worker has written where it should not have: what is known of its tasks is what it says.
    scribbled: bool,
}

impl<'a> World<'a> {
    fn new(input: &'a [u8]) -> World<'a> {
        // the workers of these settings are never started by them
        let builder: PoolBuilder<Pool> = Pool::builder().threads(3);
        let settings = builder.max_result_bytes(1 << 20).into_settings().unwrap();
        let settings: Arc<Settings> = Arc::new(settings);
        let (spawner, requests) = mpsc::channel();
        let watch = Arc::new(Watch::new().unwrap());
        let courier = Arc::new(Courier::new("fuzz".to_owned()));
        let pool_ref = Arc::new(PoolRef::new(Weak::new(), courier, settings.max_result));
        let core = Core::new(settings, watch, pool_ref, spawner);
        let (peers, tasks, starts) = (Vec::new(), Vec::new(), HashMap::new());
        let mut world =
            World { input, core, requests, later: 0, peers, tasks, starts, scribbled: false };
        world.event(Event::Tick);
        world
    }

    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.input.split_first() else { return 0 };
        self.input = rest;
        *first
    }

    fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (first, rest) = self.input.split_at(len.min(self.input.len()));
        self.input = rest;
        first
    }

    fn number(&mut self) -> u64 {
        let mut bytes = [0; 8];
        let input = self.bytes(8);
        bytes[..input.len()].copy_from_slice(input);
        u64::from_le_bytes(bytes)
    }

    fn now(&self) -> u64 {
        clock::now_ns() + self.later
    }

    fn event(&mut self, event: Event<'_>) {
        let (now, mut effects) = (self.now(), Effects::default());
        self.core.event(event, now, &mut effects);
    }

    fn with_core(&mut self, act: impl FnOnce(&mut Core, u64, &mut Effects)) {
        let (now, mut effects) = (self.now(), Effects::default());
        act(&mut self.core, now, &mut effects);
    }

    /// A peer of the input's choice.
    fn peer(&mut self) -> Option<usize> {
        let byte = usize::from(self.byte());
        (!self.peers.is_empty()).then(|| byte % self.peers.len())
    }

    /// A worker of the pool appears, as a process that was started would.
    fn serve_request(&mut self, fails: bool) {
        let Ok(SpawnRequest { worker, seat }) = self.requests.try_recv() else { return };
        if fails {
            return self.event(Event::SpawnFailed { worker, error: "as was asked for" });
        }
        let (ours, theirs) = socket::stream_pair().unwrap();
        let (sender, tasks) = tasks::channel().unwrap();
        let (block, file) = WorkerBlock::create().unwrap();
        let their_block = WorkerBlock::map(file.as_fd()).unwrap();
        let sinks = [Sink::Elsewhere, Sink::Elsewhere];
        let pidfd = PidFd::of_nobody();
        let stream = ours;
        let sender = TaskQueueWriter::new(sender, Some(block.tasks()));
        let (ends, group, home) = (None, None, None);
        let started =
            Started { seat, pid: NOBODY, pidfd, ends, stream, sender, block, group, home, sinks };
        let (link, _) = ProcessLink::new(started, self.core.settings.max_result);
        put(&mut self.core.links, worker.index(), Link::Process(Box::new(link)));
        self.peers.push(Peer { worker, stream: theirs, tasks, block: their_block });
        self.event(Event::Spawned { worker });
    }

    fn submit(&mut self, options: u8) {
        if self.core.sched.phase() != Phase::Running || self.tasks.len() > 200 {
            return;
        }
        let retries = u32::from(options & 3);
        let len = if options & 64 > 0 { 200_000 } else { usize::from(options) };
        let extras = Extras {
            timeout: (options & 16 > 0).then_some(Duration::from_millis(50)),
            soft_timeout: (options & 32 > 0).then_some(Duration::from_millis(20)),
            ..Extras::default()
        };
        let request = Request {
            callee: Callee(i64::from(options & 12)),
            name: "fuzz",
            payload: Payload::encoded(vec![options; len].into()),
            extras: extras.unless_empty(),
            items: 1,
            retries,
            priority: i32::from(options >> 6),
            backoff_ns: 0,
            attended: options & 128 > 0,
        };
        let mut effects = Effects::default();
        let slot = self.core.submit(request, &mut effects);
        drop(effects);
        let key = slot.key().unwrap();
        self.tasks.push(Submitted { key, slot, retries });
    }

    /// The leases that a worker holds, as its messages would tell it.
    fn leases(&self, peer: usize) -> Vec<Lease> {
        let worker = self.core.sched.worker(self.peers[peer].worker);
        worker.map_or_else(Vec::new, |worker| worker.running_order().map(|(_, l)| l).collect())
    }

    fn say(&mut self, peer: usize, header: Header, body: &[u8]) {
        let mut frame = Header { len: body.len() as u64, ..header }.encode().to_vec();
        frame.extend_from_slice(body);
        self.send(peer, &frame);
    }

    fn send(&mut self, peer: usize, bytes: &[u8]) {
        // a full socket, or one that was closed, takes nothing
        let _ = socket::send_now(self.peers[peer].stream.as_fd(), bytes);
        // messages of tasks are taken, so that there is room for more
        let (tasks, mut taken) = (self.peers[peer].tasks.as_fd(), Vec::with_capacity(64 << 10));
        while socket::receive_into(tasks, &mut taken, 64 << 10).is_ok_and(|len| len > 0) {
            taken.clear();
        }
    }

    fn read(&mut self, peer: usize) {
        let worker = self.peers[peer].worker;
        self.with_core(|core, now, effects| {
            core.read_link(worker, now, effects);
        });
    }

    /// The peers, this one first.
    fn from(&self, peer: usize) -> impl Iterator<Item = usize> + use<'a> {
        let count = self.peers.len();
        (0..count).map(move |next| (peer + next) % count)
    }

    /// The first worker that has a task which it has not started, starts it.
    fn start(&mut self, peer: usize) {
        for peer in self.from(peer) {
            for lease in self.leases(peer) {
                let page = self.peers[peer].block.status();
                if page.start(lease, self.now()) {
                    *self.starts.entry(page.task(lease)).or_default() += 1;
                    return;
                }
            }
        }
    }

    /// The first worker that has started a task answers it, and is read.
    fn answer(&mut self, peer: usize, well: bool, then_read: bool) {
        let finish = |peer: usize| {
            let page = self.peers[peer].block.status();
            let lease = self.leases(peer).into_iter().find(|lease| page.finish(*lease))?;
            Some((peer, lease))
        };
        let Some((peer, lease)) = self.from(peer).find_map(finish) else { return };
        let len = usize::from(self.byte());
        let elapsed_ns = u64::from(self.byte()) << 16;
        if well {
            let body = self.bytes(len).to_vec();
            self.say(peer, Header { lease, elapsed_ns, ..Header::new(Kind::Done) }, &body);
        } else {
            let mut body = Vec::new();
            codec::encode(&Fault::Failed("as was asked for".to_owned()), &mut body, 1000).unwrap();
            self.say(peer, Header { lease, elapsed_ns, ..Header::new(Kind::Fault) }, &body);
        }
        if then_read {
            self.read(peer);
        }
    }

    /// The first worker that has begun something dies.
    fn die_busy(&mut self, peer: usize) {
        let is_busy = |peer: &usize| {
            let page = self.peers[*peer].block.status();
            self.leases(*peer).iter().any(|lease| page.progress(*lease) != Progress::Queued)
        };
        if let Some(peer) = self.from(peer).find(is_busy) {
            self.die(peer);
        }
    }

    /// A frame that looks like one, with a lease of its own or another's.
    fn almost_a_frame(&mut self, peer: usize) {
        let mut header = Header::new(Kind::Done).encode();
        header[0] = self.byte() % 14;
        let choice = self.byte();
        let leases = self.leases(usize::from(choice) % self.peers.len());
        let lease = leases.get(usize::from(choice >> 4)).copied();
        let lease = lease.unwrap_or(Lease { slot: choice.into(), generation: 1 });
        header[2..4].copy_from_slice(&lease.slot.to_le_bytes());
        header[4..8].copy_from_slice(&lease.generation.to_le_bytes());
        let len = u64::from(self.byte());
        let claimed = if choice & 8 > 0 { self.number() } else { len };
        header[8..16].copy_from_slice(&claimed.to_le_bytes());
        let body = self.bytes(len as usize);
        self.send(peer, &[&header[..], body].concat());
    }

    fn die(&mut self, peer: usize) {
        let Peer { worker, stream, .. } = self.peers.remove(peer);
        drop(stream);
        // whatever has not been read is read now; after four rounds it is judged
        self.with_core(|core, now, effects| core.on_exit(worker, now, effects));
    }

    fn step(&mut self) {
        let operation = self.byte();
        let then_read = operation & 128 == 0;
        match operation & 31 {
            0..3 => {
                let options = self.byte();
                self.submit(options);
            }
            3 => self.serve_request(false),
            4 => self.serve_request(operation & 32 > 0),
            24 => {
                let millis = u64::from(self.byte());
                self.later += millis * MS;
                self.with_core(|core, now, effects| core.on_time(now, effects));
            }
            25 => {
                self.later += 5_000 * MS;
                self.with_core(|core, now, effects| core.on_time(now, effects));
            }
            26 | 27 => {
                let byte = usize::from(self.byte());
                let keys: Vec<TaskKey> = self
                    .tasks
                    .iter()
                    .filter(|task| self.core.is_task(task.key, &task.slot))
                    .map(|task| task.key)
                    .collect();
                if let Some(&task) = keys.get(byte % keys.len().max(1)) {
                    let cancel = operation & 31 == 26;
                    self.event(if cancel { Event::Cancel { task } } else { Event::Ask { task } });
                }
            }
            28 => {
                let workers = 1 + u32::from(self.byte() % 5);
                self.event(Event::Resize { workers });
            }
            29 if operation & 96 == 96 => self.event(Event::Close),
            30 if operation & 96 == 96 => {
                let grace_ns = u64::from(self.byte()) * MS;
                self.event(Event::Terminate { grace_ns });
            }
            operation => {
                let Some(peer) = self.peer() else { return };
                self.act(operation, peer, then_read);
                if then_read && peer < self.peers.len() {
                    self.read(peer);
                }
            }
        }
    }

    /// What a worker does.
    fn act(&mut self, operation: u8, peer: usize, then_read: bool) {
        match operation {
            5 | 6 => {
                let version = if self.byte() == 255 { 1 } else { PROTOCOL_VERSION };
                let hello = Hello { version, depth: 0, image: [0; 4] };
                let mut body = Vec::new();
                codec::encode(&hello, &mut body, 1000).unwrap();
                self.say(peer, Header::new(Kind::Hello), &body);
                if operation == 6 {
                    self.say(peer, Header::new(Kind::Ready), &[]);
                }
            }
            7 => self.say(peer, Header::new(Kind::Ready), &[]),
            8..11 => self.start(peer),
            11..14 => self.answer(peer, true, then_read),
            14 => self.answer(peer, false, then_read),
            15 => {
                self.start(peer);
                self.answer(peer, true, then_read);
            }
            16 => {
                let len = usize::from(self.byte());
                let bytes = self.bytes(len);
                self.send(peer, bytes);
            }
            17 | 18 => self.almost_a_frame(peer),
            19 => {
                self.scribbled = true;
                let (at, len) = (self.number() as usize, usize::from(self.byte()));
                let bytes = self.bytes(len);
                self.peers[peer].block.scribble(at, bytes);
            }
            20 => {
                let kinds = [Kind::PieceTaken, Kind::Bell, Kind::NotInitialized, Kind::Unconfined];
                let kind = kinds[usize::from(self.byte()) % 4];
                self.say(peer, Header::new(kind), &[]);
            }
            21 => self.die(peer),
            22 | 23 => self.die_busy(peer),
            _ => {}
        }
    }

    /// Ends everything, and looks whether all that was promised was kept. Gives how the tasks have ended.
    fn end(mut self) -> Vec<Outcome> {
        for task in &self.tasks {
            let is_known = self.core.is_task(task.key, &task.slot);
            assert_ne!(is_known, task.slot.is_settled(), "known until it is settled, not longer");
        }
        self.event(Event::Terminate { grace_ns: 0 });
        while self.core.sched.phase() < Phase::Stopped {
            self.serve_request(true);
            match self.peers.len() {
                0 => {}
                peers => self.die(peers - 1),
            }
            self.later += 100 * MS;
            self.with_core(|core, now, effects| core.on_time(now, effects));
        }
        let mut outcomes = Vec::new();
        for (number, task) in self.tasks.iter().enumerate() {
            assert!(task.slot.is_settled(), "task {number} has no outcome");
            let starts = self.starts.get(&TaskId(number as u64 + 1)).copied().unwrap_or(0);
            assert!(self.scribbled || starts <= 1 + task.retries, "task {number}: {starts} starts");
            let outcome = task.slot.take().flatten().expect("nobody else has taken it");
            let outcome = outcome.map_err(|error| *error);
            if starts == 0 && !self.scribbled {
                let has_run =
                    matches!(outcome, Err(TaskError::TimedOut | TaskError::WorkerLost { .. }));
                assert!(!has_run, "task {number} never ran: {outcome:?}");
            }
            outcomes.push(outcome);
        }
        assert!(self.core.links.iter().all(Option::is_none), "links are left");
        assert!(self.core.bodies.iter().all(Option::is_none), "arguments are left");
        outcomes
    }
}

fn run(input: &[u8]) -> Vec<Outcome> {
    let mut world = World::new(&input[..input.len().min(4_000)]);
    while !world.input.is_empty() {
        world.step();
    }
    world.end()
}

#[test]
fn whatever_workers_say_every_task_has_one_outcome() {
    let corpus = mutate::corpus(&["fuzz/supervisor"]);
    mutate::fuzz("supervisor", &corpus, &[], |input| drop(run(input)));
}

/// That nothing fails says something only if the inputs come as far as they should.
#[test]
fn the_corpus_of_the_supervisor_reaches_what_it_is_about() {
    let count = |file: &str, is: fn(&Outcome) -> bool| {
        let path = format!("{}/fuzz/supervisor/{file}", env!("CARGO_MANIFEST_DIR"));
        run(&std::fs::read(path).unwrap()).iter().filter(|outcome| is(outcome)).count()
    };
    assert_eq!(count("all-is-well", |outcome| outcome.is_ok()), 3);
    let is_lost = |outcome: &Outcome| matches!(outcome, Err(TaskError::WorkerLost { .. }));
    assert_eq!(count("dies-while-running", is_lost), 1);
    assert_eq!(count("dies-while-running", |outcome| outcome.is_ok()), 1);
    assert_eq!(count("retries", |outcome| outcome.is_ok()), 1);
    assert_eq!(count("time-limits", |outcome| matches!(outcome, Err(TaskError::TimedOut))), 2);
    assert_eq!(count("cancel", |outcome| matches!(outcome, Err(TaskError::Cancelled))), 2);
    assert_eq!(count("big-arguments", |outcome| outcome.is_ok()), 1);
    assert_eq!(count("deaths-with-replies-unread", |outcome| outcome.is_ok()), 1);
    assert_eq!(count("close", |outcome| outcome.is_ok()), 2);
}
