//! A worker as the scheduler sees it: what it holds, and how far its messages have been read.

use std::collections::VecDeque;

use crate::ids::{Lease, TaskKey, WorkerKey};
use crate::limits::{
    BACKOFF_FIRST_NS, BACKOFF_MAX_NS, FRAME_BYTES, SLOTS, STALL_NS, UNREAD_FRAMES,
};

/// Where a worker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum WorkerPhase {
    /// The process is being started, or has not said that it is ready.
    Starting,
    Ready,
    /// It was asked to leave.
    Retiring,
    /// It was killed.
    Condemned,
}

/// A place for a worker.
#[derive(Debug, Default)]
pub(super) struct Seat {
    /// Who sits there; not one that is leaving.
    pub(super) worker: Option<WorkerKey>,
    /// Failures to start in a row.
    pub(super) failures: u32,
    pub(super) not_before: u64,
    pub(super) was_ready: bool,
}

impl Seat {
    /// The worker of this seat did not come up: the next one is started after a pause that grows.
    pub(super) fn back_off(&mut self, now: u64) {
        let pause = BACKOFF_FIRST_NS.saturating_mul(1 << self.failures.min(20));
        self.failures += 1;
        self.not_before = now + pause.min(BACKOFF_MAX_NS);
    }
}

/// A task that a worker has.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) task: TaskKey,
    pub(super) lease: Lease,
    /// The number of the message that it went with.
    pub(super) frame: u32,
    pub(super) expected_ns: u64,
    pub(super) big: bool,
    /// Its handle has been told already.
    pub(super) settled: bool,
    /// Its time is up, and its worker is being killed for that.
    pub(super) expired: bool,
}

/// One worker process.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) seat: u32,
    pub(crate) phase: WorkerPhase,
    pub(crate) tasks_done: u64,
    /// In the order in which they are run.
    pub(super) leases: VecDeque<Held>,
    /// Items given to it since it was started.
    pub(super) items: u64,
    pub(super) load_ns: u64,
    sent_frames: u32,
    /// The size of each message that is not known to have been read, as no task of it was answered: these are the last ones.
    unread: VecDeque<u64>,
    unread_bytes: u64,
    pub(super) last_progress: u64,
    pub(super) ready_at: u64,
    pub(super) idle_since: u64,
    /// It gets no further tasks, and leaves when it has done those that it has begun.
    pub(super) worn: bool,
    /// It was killed while it was starting, because it is not needed any more.
    pub(crate) dismissed: bool,
    /// When it gets SIGKILL.
    pub(super) deadline: Option<u64>,
    /// It has been ready: whatever ends it now is no failure to start.
    pub(super) was_ready: bool,
    /// It got SIGKILL because it was not ready in time.
    pub(super) late: bool,
    free: Vec<u16>,
    generations: Vec<u32>,
}

impl Worker {
    pub(super) fn new(seat: u32) -> Worker {
        Worker {
            seat,
            phase: WorkerPhase::Starting,
            tasks_done: 0,
            leases: VecDeque::new(),
            items: 0,
            load_ns: 0,
            sent_frames: 0,
            unread: VecDeque::new(),
            unread_bytes: 0,
            last_progress: 0,
            ready_at: 0,
            idle_since: 0,
            worn: false,
            dismissed: false,
            deadline: None,
            was_ready: false,
            late: false,
            free: Vec::new(),
            generations: Vec::new(),
        }
    }

    /// The leases, in the order in which they are run, without those that were settled.
    pub(crate) fn running_order(&self) -> impl Iterator<Item = (TaskKey, Lease)> {
        self.leases.iter().filter(|held| !held.settled).map(|held| (held.task, held.lease))
    }

    /// All of its leases.
    pub(crate) fn leases(&self) -> impl Iterator<Item = Lease> {
        self.leases.iter().map(|held| held.lease)
    }

    pub(crate) fn is_busy(&self) -> bool {
        !self.leases.is_empty()
    }

    /// Whether there is room for another message in front of it.
    #[inline]
    pub(super) fn may_send(&self) -> bool {
        let has_room = self.unread.len() < UNREAD_FRAMES && self.unread_bytes <= FRAME_BYTES as u64;
        has_room || self.leases.is_empty()
    }

    /// A message of so many bytes is on its way, with the tasks that it was given last.
    pub(super) fn has_sent(&mut self, bytes: u64) {
        self.sent_frames = self.sent_frames.wrapping_add(1);
        self.unread.push_back(bytes);
        self.unread_bytes += bytes;
    }

    /// What must hold between two events.
    #[cfg(test)]
    pub(super) fn check(&self) {
        assert!(self.unread.len() <= UNREAD_FRAMES);
        assert_eq!(self.unread_bytes, self.unread.iter().sum::<u64>());
        assert!(self.unread_bytes <= 2 * FRAME_BYTES as u64, "more than a socket takes");
        assert!(!self.leases.is_empty() || self.unread.is_empty());
    }

    /// It has read this message, and those before it.
    #[inline]
    fn has_read(&mut self, frame: u32) {
        while self.sent_frames.wrapping_sub(frame) < self.unread.len() as u32 {
            self.unread_bytes -= self.unread.pop_front().unwrap_or(0);
        }
    }

    /// Whether it may become too old: it has to have done something first, or no task would ever be done with a short limit.
    pub(super) fn ages(&self) -> bool {
        self.phase == WorkerPhase::Ready && !self.worn && self.tasks_done > 0
    }

    /// How long it has been ready or busy.
    pub(super) fn time(&self, now: u64) -> u64 {
        if self.ready_at == 0 { 0 } else { now.saturating_sub(self.ready_at) }
    }

    fn has_spare_work(&self) -> bool {
        self.phase == WorkerPhase::Ready && self.leases.len() > 1
    }

    #[inline]
    pub(super) fn hold(&mut self, task: TaskKey, expected_ns: u64, big: bool, items: u32) -> Lease {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.generations.push(0);
            (self.generations.len() - 1) as u16
        });
        debug_assert!(usize::from(slot) < SLOTS, "the caller counts");
        let generation = &mut self.generations[usize::from(slot)];
        *generation = generation.wrapping_add(1);
        let lease = Lease { slot, generation: *generation };
        let frame = self.sent_frames.wrapping_add(1);
        self.leases.push_back(Held {
            task,
            lease,
            frame,
            expected_ns,
            big,
            settled: false,
            expired: false,
        });
        self.load_ns += expected_ns;
        self.items += u64::from(items);
        lease
    }

    /// Ends a lease. Tasks are answered in order, so it is nearly always the first.
    #[inline]
    pub(super) fn take_held(&mut self, lease: Lease) -> Option<Held> {
        // what is not the first is nearly always taken back, the last ones first
        let index = match self.leases.front() {
            Some(first) if first.lease == lease => 0,
            _ => self.leases.iter().rposition(|held| held.lease == lease)?,
        };
        let held = self.leases.remove(index)?;
        self.load_ns -= held.expected_ns;
        self.free.push(lease.slot);
        if self.leases.is_empty() {
            // whatever has become of the messages: there is nothing left in them
            self.has_read(self.sent_frames);
        }
        Some(held)
    }

    /// Ends a lease by its reply.
    #[inline]
    pub(super) fn answered(&mut self, lease: Lease) -> Option<Held> {
        let held = self.take_held(lease)?;
        self.has_read(held.frame);
        self.tasks_done += 1;
        Some(held)
    }

    /// The task's handle is told now, whatever becomes of the worker.
    pub(super) fn settle_held(&mut self, task: TaskKey) {
        for held in self.leases.iter_mut().filter(|held| held.task == task) {
            held.settled = true;
        }
    }

    pub(super) fn is_stalled(&self, now: u64) -> bool {
        self.has_spare_work() && self.last_progress + STALL_NS <= now
    }

    pub(super) fn next_tick(&self) -> Option<u64> {
        let stall = self.has_spare_work().then_some(self.last_progress + STALL_NS);
        [stall, self.deadline].into_iter().flatten().min()
    }
}
