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
    pub(super) items: u32,
    /// Who has it, if it is leased.
    worker: WorkerKey,
    /// In units, rounded up; what has more than so many is big.
    size: u16,
    /// Further ones are rare.
    retries: u8,
    place: Place,
    rare: Option<Box<Rare>>,
}

/// Bytes in which sizes are counted.
const UNIT: u64 = 4;

// what is large is told from what is not
const _: () = assert!((INLINE_BYTES as u64) < u16::MAX as u64 * UNIT);

/// [`TaskState`] without the worker.
#[derive(Clone, Copy, Debug)]
enum Place {
    Queued,
    Leased,
    Delayed,
    Dropped,
}

/// What few tasks have.
#[derive(Debug, Default)]
pub(super) struct Rare {
    priority: i32,
    backoff_ns: u64,
    /// Beyond those that the task itself counts.
    retries: u32,
    /// How many times it has been started again.
    retried: u32,
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
        let few = u8::try_from(retries).unwrap_or(u8::MAX);
        let more = retries - u32::from(few);
        let rare = || Box::new(Rare { priority, backoff_ns, retries: more, ..Rare::default() });
        Task {
            function,
            items,
            worker: WorkerKey(0),
            size: u16::try_from(size.div_ceil(UNIT)).unwrap_or(u16::MAX),
            retries: few,
            place: Place::Queued,
            rare: (priority != 0 || backoff_ns != 0 || more != 0).then(rare),
        }
    }

    #[inline]
    pub(super) fn state(&self) -> TaskState {
        match self.place {
            Place::Queued => TaskState::Queued,
            Place::Leased => TaskState::Leased(self.worker),
            Place::Delayed => TaskState::Delayed,
            Place::Dropped => TaskState::Dropped,
        }
    }

    #[inline]
    pub(super) fn set_state(&mut self, state: TaskState) {
        self.place = match state {
            TaskState::Queued => Place::Queued,
            TaskState::Leased(worker) => {
                self.worker = worker;
                Place::Leased
            }
            TaskState::Delayed => Place::Delayed,
            TaskState::Dropped => Place::Dropped,
        };
    }

    /// Too large for a message of tasks.
    #[inline]
    pub(super) fn is_big(&self) -> bool {
        self.size() > INLINE_BYTES as u64
    }

    /// About so many bytes; of one that is big, any number that is.
    #[inline]
    pub(super) fn size(&self) -> u64 {
        u64::from(self.size) * UNIT
    }

    /// How many more times it may be started.
    pub(super) fn retries(&self) -> u32 {
        u32::from(self.retries) + self.rare.as_ref().map_or(0, |rare| rare.retries)
    }

    /// It is started again, as it may be.
    pub(super) fn retry(&mut self) {
        if self.retries > 0 {
            self.retries -= 1;
        } else {
            self.rare().retries -= 1;
        }
        self.rare().retried += 1;
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

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: Spec =
        Spec { function: 0, size: 0, items: 1, retries: 0, priority: 0, backoff_ns: 0 };

    #[test]
    fn what_a_task_costs_is_known() {
        assert_eq!(size_of::<Option<Task>>(), 24, "as a slab has it");
    }

    #[test]
    fn sizes_are_large_or_not() {
        let task = |size| Task::new(Spec { size, ..SPEC });
        for (size, big) in [(0, false), (INLINE_BYTES, false), (INLINE_BYTES + 1, true)] {
            assert_eq!(task(size as u64).is_big(), big);
        }
        assert!(task(u64::MAX).is_big());
        assert_eq!(task(9).size(), 12);
    }

    #[test]
    fn retries_are_counted_however_many() {
        for retries in [0, 1, 255, 256, 1000] {
            let mut task = Task::new(Spec { retries, ..SPEC });
            (0..retries).for_each(|_| task.retry());
            assert_eq!(
                (task.retries(), Task::new(Spec { retries, ..SPEC }).retries()),
                (0, retries)
            );
        }
    }
}
