//! Parts of the library as `benches/parts.rs` measures them: each operation here is one that a task needs on its way. With the feature `parts` only, which is for that bench and
//! nothing else: this is no public interface, and changes with what it wraps.

use std::collections::VecDeque;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec;
use crate::ids::{Lease, TaskId, WorkerKey};
use crate::limits::SLOTS;
use crate::sched::{Action, Config, Event, Reply, Scheduler, Spec};
use crate::slot::Slot;
use crate::transport::agreement::Need;
use crate::transport::block::WorkerBlock;
use crate::transport::lane::{LaneReader, LaneWriter};
use crate::transport::status::StatusPage;

/// What the parent does with arguments, and a worker with a result.
///
/// # Panics
///
/// If the value can't be encoded.
pub fn encode<T: Serialize + 'static>(value: &T, out: &mut Vec<u8>) {
    codec::encode_value(value, out, u64::MAX).expect("a value that can be encoded");
}

/// What a worker does with arguments, and the parent with a result.
///
/// # Panics
///
/// If these bytes are no such value.
pub fn decode<T: DeserializeOwned + 'static>(bytes: &[u8]) -> T {
    codec::decode_value(bytes).expect("bytes of such a value")
}

/// A ring of messages in shared memory, with both ends in one hand.
#[derive(Debug)]
pub struct Lane {
    writer: LaneWriter,
    reader: LaneReader,
    read: Vec<u8>,
}

impl Lane {
    /// An empty one.
    ///
    /// # Panics
    ///
    /// If there is no memory for it.
    pub fn new() -> Lane {
        let (block, _fd) = WorkerBlock::create().expect("memory for a worker's block");
        let (writer, reader) = (LaneWriter::new(block.tasks()), LaneReader::new(block.tasks()));
        Lane { writer, reader, read: Vec::new() }
    }

    /// Writes a message, and looks whether the reader has to be woken. `false`: it is full.
    pub fn push(&mut self, message: &[u8]) -> bool {
        self.writer.publish(message, 0) && !self.writer.is_bell_wanted(Need::Now)
    }

    /// Copies out all that is there; gives its length.
    ///
    /// # Panics
    ///
    /// If the ring is damaged.
    pub fn pop(&mut self) -> usize {
        let some = self.reader.copy_out(&mut self.read).expect("a ring that nobody has damaged");
        if some { self.read.len() } else { 0 }
    }
}

impl Default for Lane {
    fn default() -> Lane {
        Lane::new()
    }
}

/// Makes the cell for an outcome, settles it as the pool does for a handle that nobody waits for, takes the value out, and drops the handle.
pub fn settle_and_get(value: u64) -> Option<u64> {
    let slot: Slot<u64> = Slot::new();
    slot.settle_unwaited(value).ok()?;
    let value = slot.take().flatten();
    slot.abandon();
    value
}

/// The same with others that may wait, and a value that may be looked for again.
pub fn settle_and_take(value: u64) -> Option<u64> {
    let slot: Slot<u64> = Slot::new();
    slot.settle(value).ok()?;
    if slot.wait(None) { slot.take().flatten() } else { None }
}

/// The states of the tasks that a worker has, in memory that it shares with the pool.
#[derive(Debug)]
pub struct TaskTable {
    page: StatusPage,
    next: u64,
}

impl TaskTable {
    /// One without tasks.
    ///
    /// # Panics
    ///
    /// If there is no memory for it.
    pub fn new() -> TaskTable {
        let (block, _fd) = WorkerBlock::create().expect("memory for a worker's block");
        TaskTable { page: block.status(), next: 0 }
    }

    /// A task is announced by the pool, started and finished by the worker. `false`: somebody else has had a hand in it.
    pub fn pass(&mut self) -> bool {
        let lease = self.announce();
        self.page.start(lease, self.next) && self.page.finish(lease)
    }

    /// A task is announced and taken back before it was started.
    pub fn take_back(&mut self) -> bool {
        let lease = self.announce();
        self.page.revoke(lease)
    }

    fn announce(&mut self) -> Lease {
        self.next += 1;
        let slot = (self.next % SLOTS as u64) as u16;
        let lease = Lease { slot, generation: self.next as u32 };
        self.page.announce(lease, TaskId(self.next));
        lease
    }
}

impl Default for TaskTable {
    fn default() -> TaskTable {
        TaskTable::new()
    }
}

/// The scheduler among workers that answer in order, and each task after a microsecond.
#[derive(Debug)]
pub struct Schedule {
    scheduler: Scheduler,
    now: u64,
    actions: Vec<Action>,
    leased: VecDeque<(WorkerKey, Lease)>,
}

const TASK_NS: u64 = 1_000;

impl Schedule {
    /// So many workers, all of them ready.
    pub fn new(workers: u32) -> Schedule {
        let config = Config {
            workers,
            min_workers: None,
            idle_timeout_ns: None,
            max_tasks_per_child: None,
            max_age_ns: None,
            start_timeout_ns: u64::MAX,
            crash_limit: 5,
            max_restarts: None,
        };
        let (scheduler, leased) = (Scheduler::new(config), VecDeque::new());
        let mut schedule = Schedule { scheduler, now: 1, actions: Vec::new(), leased };
        schedule.tell(Event::Tick);
        schedule
    }

    /// One more task.
    pub fn submit(&mut self) {
        let (priority, backoff_ns) = (0, 0);
        let spec = Spec { function: 0, size: 16, items: 1, retries: 0, priority, backoff_ns };
        self.scheduler.submit(spec, self.now, &mut self.actions);
        self.act();
    }

    /// The task that was given to a worker first is answered. `false`: no worker has one.
    pub fn answer(&mut self) -> bool {
        let Some((worker, lease)) = self.leased.pop_front() else { return false };
        self.now += TASK_NS;
        let reply = self.scheduler.reply(worker, lease, TASK_NS, self.now);
        self.tell(Event::RepliesRead { worker });
        matches!(reply, Reply::Settles { .. })
    }

    fn tell(&mut self, event: Event<'_>) {
        self.scheduler.handle(event, self.now, &mut self.actions);
        self.act();
    }

    fn act(&mut self) {
        let mut spawned = Vec::new();
        for action in self.actions.drain(..) {
            match action {
                Action::Spawn { worker, .. } => spawned.push(worker),
                Action::Lease { worker, lease, .. } => self.leased.push_back((worker, lease)),
                _ => {}
            }
        }
        for worker in spawned {
            self.tell(Event::Spawned { worker });
            self.tell(Event::Ready { worker });
        }
    }
}
