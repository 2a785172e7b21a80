//! The status page: per leased task one atomic state, the start time, the task's number and whether the parent wishes it to end. The pool and one
//! worker share it: a process by [shared memory](super::block), a thread in ordinary memory.
//!
//! A state word is `generation << 8 | state`. Each step is one compare-and-swap, so of two that exclude each other exactly one
//! happens, and the parent knows, also after the worker's death, how far a task has come:
//!
//! ```text
//! queued ──worker──▶ started ──worker──▶ finished (the reply follows)
//!    └──parent──▶ revoked └──parent──▶ condemned (the worker is killed for this task, and has not begun another)
//! ```
//!
//! What the page says is used only for the tasks of its worker; the parent keeps its own record of everything else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::ids::{Lease, TaskId};
use crate::limits::SLOTS;
use crate::sys::memory::SharedBlock;

const QUEUED: u64 = 1;
const STARTED: u64 = 2;
const REVOKED: u64 = 3;
const FINISHED: u64 = 4;
const CONDEMNED: u64 = 5;

/// Words of one slot: the state, when it was started, the wish that it should end, the task's number.
const SLOT_WORDS: usize = 4;
const STARTED_AT: usize = 1;
const WISH: usize = 2;
const TASK: usize = 3;

/// Bytes that the page takes in a block.
pub(super) const LEN: usize = SLOTS * SLOT_WORDS * 8;

/// What the page says about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It has not been started.
    Queued,
    /// It was started at this time of the monotonic clock, by the worker's account.
    Started { at_ns: u64 },
    /// It has been finished or taken back.
    Over,
    /// Nothing that either side writes: the worker has lost control of its memory.
    Scribbled,
}

/// One side's view of the page.
#[derive(Clone, Debug)]
pub(crate) struct StatusPage(Memory);

#[derive(Clone, Debug)]
enum Memory {
    /// At the beginning of a block that two processes share.
    Shared(Arc<SharedBlock>),
    /// Both sides are threads of this process.
    Local(Arc<[AtomicU64]>),
}

impl StatusPage {
    /// The page at the beginning of a block, which has room for it.
    pub(super) fn at_start_of(block: Arc<SharedBlock>) -> StatusPage {
        StatusPage(Memory::Shared(block))
    }

    /// A page for a worker that is a thread of this process.
    pub(crate) fn local() -> StatusPage {
        let words = (0..SLOTS * SLOT_WORDS).map(|_| AtomicU64::new(0)).collect();
        StatusPage(Memory::Local(words))
    }

    /// Parent: announces a task, before it is sent.
    #[inline]
    pub(crate) fn announce(&self, lease: Lease, task: TaskId) {
        self.word(lease, TASK).store(task.0, Ordering::Relaxed);
        self.state(lease).store(word(lease, QUEUED), Ordering::Release);
    }

    /// Worker: the number of a task that it has got.
    pub(crate) fn task(&self, lease: Lease) -> TaskId {
        TaskId(self.word(lease, TASK).load(Ordering::Relaxed))
    }

    /// Parent: wishes that the task ends soon.
    pub(crate) fn wish_end(&self, lease: Lease) {
        self.word(lease, WISH).store(word(lease, 1), Ordering::Release);
    }

    /// Worker: whether the parent wishes that the task ends soon.
    pub(crate) fn is_end_wished(&self, lease: Lease) -> bool {
        self.word(lease, WISH).load(Ordering::Acquire) == word(lease, 1)
    }

    /// Worker: starts a task, unless it has been taken back.
    #[inline]
    pub(crate) fn start(&self, lease: Lease, now_ns: u64) -> bool {
        self.word(lease, STARTED_AT).store(now_ns, Ordering::Relaxed);
        self.swap(lease, QUEUED, STARTED)
    }

    /// Worker: the task has run. `false`: the parent kills this process for it, so nothing else may be begun.
    #[inline]
    pub(crate) fn finish(&self, lease: Lease) -> bool {
        self.swap(lease, STARTED, FINISHED)
    }

    /// Parent: takes a task back, unless it has been started.
    pub(crate) fn revoke(&self, lease: Lease) -> bool {
        self.swap(lease, QUEUED, REVOKED)
    }

    /// Parent: before it kills the worker because of this task. `false`: the task does not run.
    pub(crate) fn condemn(&self, lease: Lease) -> bool {
        self.swap(lease, STARTED, CONDEMNED)
    }

    pub(crate) fn progress(&self, lease: Lease) -> Progress {
        let state = self.state(lease).load(Ordering::Acquire);
        if state == word(lease, QUEUED) {
            Progress::Queued
        } else if state == word(lease, STARTED) {
            Progress::Started { at_ns: self.word(lease, STARTED_AT).load(Ordering::Relaxed) }
        } else if [REVOKED, FINISHED, CONDEMNED].iter().any(|&over| state == word(lease, over)) {
            Progress::Over
        } else {
            Progress::Scribbled
        }
    }

    #[inline]
    fn swap(&self, lease: Lease, from: u64, to: u64) -> bool {
        let (from, to) = (word(lease, from), word(lease, to));
        self.state(lease).compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    #[inline]
    fn state(&self, lease: Lease) -> &AtomicU64 {
        self.word(lease, 0)
    }

    #[inline]
    fn word(&self, lease: Lease, which: usize) -> &AtomicU64 {
        let index = usize::from(lease.slot) % SLOTS * SLOT_WORDS + which;
        match &self.0 {
            Memory::Shared(block) => block.word(index * 8),
            Memory::Local(words) => &words[index],
        }
    }
}

#[inline]
fn word(lease: Lease, state: u64) -> u64 {
    u64::from(lease.generation) << 8 | state
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Lease = Lease { slot: 255, generation: 9 };

    /// Both sides' views, in shared and in ordinary memory.
    fn pages() -> [(StatusPage, StatusPage); 2] {
        let block = Arc::new(SharedBlock::create(LEN).unwrap().0);
        let (shared, local) = (StatusPage::at_start_of(block), StatusPage::local());
        [(shared.clone(), shared), (local.clone(), local)]
    }

    #[test]
    fn a_task_is_started_or_revoked_never_both() {
        for (parent, worker) in pages() {
            parent.announce(LEASE, TaskId(7));
            assert_eq!(worker.task(LEASE), TaskId(7));
            assert_eq!(worker.progress(LEASE), Progress::Queued);
            assert!(worker.start(LEASE, 5));
            assert!(!parent.revoke(LEASE));
            assert_eq!(parent.progress(LEASE), Progress::Started { at_ns: 5 });
            assert!(worker.finish(LEASE));
            assert!(!parent.condemn(LEASE), "too late to kill the worker for it");
            parent.announce(LEASE, TaskId(8));
            assert!(worker.start(LEASE, 5) && parent.condemn(LEASE) && !worker.finish(LEASE));
            parent.announce(LEASE, TaskId(9));
            assert!(parent.revoke(LEASE));
            assert!(!worker.start(LEASE, 5));
            assert_eq!(parent.progress(LEASE), Progress::Over);
        }
    }

    #[test]
    fn a_wish_concerns_one_task_only() {
        for (parent, worker) in pages() {
            assert!(!worker.is_end_wished(LEASE));
            parent.wish_end(LEASE);
            assert!(worker.is_end_wished(LEASE));
            assert!(!worker.is_end_wished(Lease { generation: 10, ..LEASE }));
        }
    }

    #[test]
    fn a_stale_record_can_not_start_the_next_task_of_its_slot() {
        for (page, _) in pages() {
            page.announce(Lease { generation: 10, ..LEASE }, TaskId(1));
            assert_eq!(page.progress(LEASE), Progress::Scribbled);
            assert!(!page.start(LEASE, 1));
            assert!(!page.revoke(LEASE));
        }
    }
}
