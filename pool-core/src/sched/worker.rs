//! A worker as the scheduler sees it: what it holds, and how far its messages have been read.

use std::collections::VecDeque;

use crate::ids::{Lease, TaskKey, WorkerKey};
use crate::limits::{BACKOFF_FIRST_NS, BACKOFF_MAX_NS, SLOTS, STALL_NS, UNREAD_FRAMES};

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
    pub(super) sent_frames: u32,
    /// Messages known to have been read, because a task of them was answered.
    pub(super) acked_frames: u32,
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
            acked_frames: 0,
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
        self.leases.is_empty() || self.sent_frames - self.acked_frames < UNREAD_FRAMES
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
        let frame = self.sent_frames + 1;
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
        let index = self.leases.iter().position(|held| held.lease == lease)?;
        let held = self.leases.remove(index)?;
        self.load_ns -= held.expected_ns;
        self.free.push(lease.slot);
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
