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

impl Spec {
    /// Too large for a message of tasks.
    #[inline]
    pub(crate) fn is_big(&self) -> bool {
        self.size > INLINE_BYTES as u64
    }
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

#[derive(Debug)]
pub(super) struct Task {
    pub(super) spec: Spec,
    pub(super) state: TaskState,
    /// How many times it has been started again.
    pub(super) retried: u32,
    /// How many workers have died of it.
    pub(super) crashes: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TaskState {
    Queued,
    Leased(WorkerKey),
    /// Tried again at this time.
    Delayed(u64),
    /// Settled, but its key is still in the queue.
    Dropped,
}

impl Task {
    #[inline]
    pub(super) fn new(spec: Spec) -> Task {
        Task { spec, state: TaskState::Queued, retried: 0, crashes: 0 }
    }

    /// How long to wait before it is tried again.
    pub(super) fn pause_ns(&self) -> u64 {
        let doubled =
            self.spec.backoff_ns.saturating_mul(1 << self.retried.saturating_sub(1).min(40));
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
