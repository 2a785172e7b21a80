//! A task as the scheduler sees it: no arguments, no result.

use crate::ids::WorkerKey;
use crate::limits::{INLINE_BYTES, RETRY_PAUSE_MAX_NS, UNKNOWN_NS};

/// What the scheduler has to know of a new task.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec {
    /// Which function, as counted by the shell.
    pub(crate) function: u32,
    /// Size of the encoded arguments.
    pub(crate) size: u64,
    /// Items of a chunk: recycling counts these.
    pub(crate) items: u32,
    /// How many more times it may be started if its worker dies or its time is up.
    pub(crate) retries: u32,
    /// Those of a higher one are run first.
    pub(crate) priority: i32,
    /// The pause before the first retry; each further one is twice as long.
    pub(crate) backoff_ns: u64,
}

/// How a task ended, if not by a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its worker died while running it.
    Lost(WorkerKey),
    /// It has cost so many workers that it is not tried again.
    Quarantined(u32),
    TimedOut,
    Cancelled,
    Terminated,
    /// The pool can't go on.
    Broken,
}

/// As small as can be: there may be a million of them.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) function: u32,
    /// 4 GiB and more are the same.
    size: u32,
    pub(super) items: u32,
    /// How many more times it may be started.
    pub(super) retries: u32,
    pub(super) state: TaskState,
    rare: Option<Box<Rare>>,
}

/// What few tasks have.
#[derive(Debug, Default)]
pub(super) struct Rare {
    priority: i32,
    backoff_ns: u64,
    /// How many times it has been started again.
    pub(super) retried: u32,
    /// How many workers have died of it.
    pub(super) crashes: u32,
    /// When it is tried again, of one that is [`TaskState::Delayed`].
    pub(super) due: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TaskState {
    Queued,
    Leased(WorkerKey),
    /// Tried again later.
    Delayed,
    /// Settled, but its key is still in the queue.
    Dropped,
}

impl Task {
    #[inline]
    pub(super) fn new(spec: Spec) -> Task {
        let Spec { function, size, items, retries, priority, backoff_ns } = spec;
        let rare = || Box::new(Rare { priority, backoff_ns, ..Rare::default() });
        Task {
            function,
            size: u32::try_from(size).unwrap_or(u32::MAX),
            items,
            retries,
            state: TaskState::Queued,
            rare: (priority != 0 || backoff_ns != 0).then(rare),
        }
    }

    /// Too large for a message of tasks.
    #[inline]
    pub(super) fn is_big(&self) -> bool {
        self.size as usize > INLINE_BYTES
    }

    #[inline]
    pub(super) fn size(&self) -> u64 {
        self.size.into()
    }

    pub(super) fn priority(&self) -> i32 {
        self.rare.as_ref().map_or(0, |rare| rare.priority)
    }

    pub(super) fn due(&self) -> u64 {
        self.rare.as_ref().map_or(0, |rare| rare.due)
    }

    pub(super) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }
}

impl Rare {
    /// How long to wait before it is tried again.
    pub(super) fn pause_ns(&self) -> u64 {
        let doubled = self.backoff_ns.saturating_mul(1 << self.retried.saturating_sub(1).min(40));
        doubled.min(RETRY_PAUSE_MAX_NS)
    }
}

/// What was observed of one function.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FunctionStats {
    /// Moving average of its duration.
    average_ns: Option<u64>,
}

impl FunctionStats {
    #[inline]
    pub(super) fn expected_ns(self) -> u64 {
        self.average_ns.unwrap_or(UNKNOWN_NS)
    }

    #[inline]
    pub(super) fn observe(&mut self, elapsed_ns: u64) {
        // an hour is as good as for ever here, and keeps the sums small
        let elapsed = elapsed_ns.clamp(1, 3_600_000_000_000);
        self.average_ns = Some(match self.average_ns {
            None => elapsed,
            Some(average) => (average * 7 + elapsed) / 8,
        });
    }
}
