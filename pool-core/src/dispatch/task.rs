//! A task as the shell has it: its arguments, what it shares with its handle, and what few tasks have.

use std::any::Any;
use std::borrow::Cow;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::functions::Functions;
use super::slots::{Row, SlotRef, TOGETHER};
use super::time_limits::TimeLimits;
use crate::attach::Attachments;
use crate::codec::Lent;
use crate::error::{TaskError, TaskInfo};
use crate::ids::{TaskId, TaskKey};
use crate::limits::{ATTACHMENT_BYTES, INLINE_BYTES};
use crate::output::TaskOutput;
use crate::slot::Slot;
use crate::small_bytes::SmallBytes;
use crate::task::callee::Callee;
use crate::task::job::{JobCell, Outcome};

/// What a task and its handle share.
#[derive(Debug)]
pub(crate) struct TaskSlot(Slot<Outcome, Beside>);

/// What few tasks leave behind beside their outcome.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    /// What the task has printed, if that is captured.
    output: Option<TaskOutput>,
    /// Shared objects of the arguments: the result may name them.
    kept: Attachments,
}

impl TaskSlot {
    #[inline]
    pub(crate) fn new() -> TaskSlot {
        TaskSlot(Slot::new())
    }

    /// What the task has printed, if that is captured.
    pub(crate) fn output(&self) -> Option<TaskOutput> {
        self.0.with_extra(|beside| beside.output.clone()).flatten()
    }

    /// The task is tried again: what the attempt has printed is not what the next one prints.
    pub(super) fn forget_output(&self) {
        if self.output().is_some() {
            self.0.change_extra(|beside| beside.output = None);
        }
    }

    pub(super) fn set_output(&self, output: TaskOutput) {
        self.0.change_extra(|beside| beside.output = Some(output));
    }

    /// Keeps these objects as long as the handle lives, but no ends of pipes: those must be closed when the task has ended.
    pub(super) fn keep(&self, attachments: &Attachments) {
        let memory = attachments.clone().only_memory();
        if !memory.is_empty() {
            self.0.change_extra(|beside| beside.kept = memory);
        }
    }
}

impl Deref for TaskSlot {
    type Target = Slot<Outcome, Beside>;

    fn deref(&self) -> &Slot<Outcome, Beside> {
        &self.0
    }
}

/// What a worker needs to run a task.
#[derive(Clone, Debug)]
pub(crate) enum Payload {
    /// Encoded arguments.
    Inline(SmallBytes),
    /// Encoded arguments that are passed in pieces, for which they are shared with the link.
    Big(Arc<Vec<u8>>),
    /// The numbers of a large vector, passed in the same way.
    Lent(Lent),
    /// For a worker thread, with which it is shared.
    Direct(Arc<JobCell>),
}

impl Payload {
    pub(super) const NONE: Payload = Payload::Inline(SmallBytes::NONE);

    /// Encoded arguments.
    #[inline]
    pub(crate) fn encoded(bytes: SmallBytes) -> Payload {
        if bytes.len() > INLINE_BYTES {
            Payload::Big(Arc::new(bytes.into_vec()))
        } else {
            Payload::Inline(bytes)
        }
    }

    /// Whether it lies in its owner: forgetting it takes no time.
    #[inline]
    pub(super) fn is_small(&self) -> bool {
        matches!(self, Payload::Inline(bytes) if !bytes.is_many())
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        match self {
            Payload::Inline(bytes) => bytes.len(),
            Payload::Big(bytes) => bytes.len(),
            Payload::Lent(numbers) => numbers.bytes().len(),
            Payload::Direct(_) => 0,
        }
    }

    /// Nobody needs it any more. A worker thread may still have it in its mailbox.
    pub(super) fn discard(self) {
        if let Payload::Direct(job) = self {
            job.discard();
        }
    }
}

/// What is done with an outcome on the pool's callback thread, before its handle has it.
pub(crate) type Finish = Box<dyn FnOnce(Outcome) -> Outcome + Send>;

/// A task to be taken in.
pub(crate) struct Request {
    pub(crate) callee: Callee,
    /// The function's name.
    pub(crate) name: &'static str,
    pub(crate) payload: Payload,
    pub(crate) extras: Option<Box<Extras>>,
    pub(crate) items: u32,
    pub(crate) retries: u32,
    pub(crate) priority: i32,
    /// The pause before the first retry.
    pub(crate) backoff_ns: u64,
    /// The caller waits for the result next, and reads the worker's replies itself.
    pub(crate) attended: bool,
}

/// A task that is not settled. As small as can be: there may be a million of them.
pub(crate) struct Body {
    row: Arc<Row>,
    mark: Mark,
    pub(super) payload: Payload,
    extras: Option<Box<Extras>>,
}

/// The place of the slot in its row, whether somebody sleeps until the task is done, and when it was submitted, in nanoseconds: 18 years of them.
#[derive(Clone, Copy)]
struct Mark(u64);

impl Mark {
    const PLACE: u64 = TOGETHER as u64 - 1;
    const AWAITED: u64 = TOGETHER as u64;
    const TIME: u32 = Mark::AWAITED.trailing_zeros() + 1;
}

/// What few tasks have.
#[derive(Default)]
pub(crate) struct Extras {
    /// Instead of the function's.
    pub(crate) name: Option<Cow<'static, str>>,
    /// Kept until the task is settled: it may be sent again.
    pub(crate) attachments: Attachments,
    pub(crate) timeout: Option<Duration>,
    pub(crate) soft_timeout: Option<Duration>,
    pub(crate) finish: Option<Finish>,
}

impl Extras {
    /// `None` if there are none: nearly always.
    #[inline]
    pub(crate) fn unless_empty(self) -> Option<Box<Extras>> {
        let is_empty = self.name.is_none()
            && self.attachments.is_empty()
            && self.timeout.is_none()
            && self.soft_timeout.is_none()
            && self.finish.is_none();
        (!is_empty).then(|| Box::new(self))
    }

    pub(super) fn limits(&self) -> TimeLimits {
        TimeLimits { soft_ns: self.soft_timeout.map(ns), hard_ns: self.timeout.map(ns) }
    }
}

static NO_ATTACHMENTS: Attachments = Attachments::NONE;

impl Body {
    /// `submitted_ns`: 0 if nobody looked.
    #[inline]
    pub(super) fn new(
        (row, place): (Arc<Row>, usize),
        submitted_ns: u64,
        payload: Payload,
        extras: Option<Box<Extras>>,
    ) -> Body {
        let finishes = extras.as_ref().is_some_and(|extras| extras.finish.is_some());
        let mark = Mark(submitted_ns << Mark::TIME | place as u64);
        let mut body = Body { row, mark, payload, extras };
        if finishes {
            body.set_awaited();
        }
        if !body.attachments().is_empty() {
            body.slot().keep(body.attachments());
        }
        body
    }

    #[inline]
    fn place(&self) -> usize {
        (self.mark.0 & Mark::PLACE) as usize
    }

    #[inline]
    pub(super) fn slot(&self) -> &TaskSlot {
        self.row.slot(self.place())
    }

    /// For a handle.
    #[inline]
    pub(super) fn slot_ref(&self, key: TaskKey) -> SlotRef {
        SlotRef::new(Arc::clone(&self.row), self.place(), Some(key))
    }

    #[inline]
    pub(super) fn has(&self, slot: &SlotRef) -> bool {
        slot.is_at(&self.row, self.place())
    }

    #[inline]
    pub(super) fn id(&self) -> TaskId {
        self.row.id(self.place())
    }

    /// Somebody sleeps until it is done.
    #[inline]
    pub(super) fn is_awaited(&self) -> bool {
        self.mark.0 & Mark::AWAITED != 0
    }

    #[inline]
    pub(super) fn set_awaited(&mut self) {
        self.mark.0 |= Mark::AWAITED;
    }

    /// `None`: nobody looked.
    #[inline]
    pub(super) fn submitted_ns(&self) -> Option<u64> {
        Some(self.mark.0 >> Mark::TIME).filter(|&at| at != 0)
    }

    /// `function`: its number.
    pub(super) fn info(&self, function: u32, functions: &Functions) -> TaskInfo {
        let name = self.extras.as_ref().and_then(|extras| extras.name.as_deref());
        let name = name.unwrap_or_else(|| functions.name(function));
        TaskInfo { id: self.id(), name: name.to_owned() }
    }

    #[inline]
    pub(super) fn attachments(&self) -> &Attachments {
        self.extras.as_ref().map_or(&NO_ATTACHMENTS, |extras| &extras.attachments)
    }

    #[inline]
    pub(super) fn limits(&self) -> TimeLimits {
        self.extras.as_ref().map_or_else(TimeLimits::default, |extras| extras.limits())
    }

    /// What counts as its size on its way to a worker.
    #[inline]
    pub(super) fn size(&self) -> u64 {
        let objects = self.attachments().objects().len() as u64;
        self.payload.len() as u64 + objects * ATTACHMENT_BYTES
    }

    #[inline]
    pub(super) fn into_parts(self) -> (SlotRef, Payload, Option<Box<Extras>>) {
        let place = self.place();
        (SlotRef::new(self.row, place, None), self.payload, self.extras)
    }
}

/// A time for the scheduler.
pub(crate) fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Calls the callbacks of a task, then settles it: whatever they do.
pub(super) fn settle_finished(slot: &TaskSlot, outcome: Outcome, finish: Finish) {
    let outcome = catch_unwind(AssertUnwindSafe(|| finish(outcome)));
    let lost = |payload| {
        // its drop may panic
        std::mem::forget::<Box<dyn Any + Send>>(payload);
        Err(Box::new(TaskError::Decode("decoding the result panicked".to_owned())))
    };
    // settled once: the task is forgotten by everybody else
    let _ = slot.settle(outcome.unwrap_or_else(lost));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There may be a million tasks, and this is what each costs.
    #[test]
    fn what_a_task_costs_is_known() {
        assert_eq!(size_of::<Outcome>(), 24);
        assert_eq!(size_of::<TaskSlot>(), 40);
        assert_eq!(size_of::<Option<Body>>(), 48);
    }
}
