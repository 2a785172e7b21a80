//! The status page: per leased task one atomic state and the start time, shared by the parent and one worker. Behind it, in the same
//! block, lie the [lane](super::lane) for small replies and the area through which big arguments pass.
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

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::lane::{self, Lane};
use crate::ids::Lease;
use crate::limits::{PIECE_BYTES, SLOTS};
use crate::sys::memory::SharedBlock;

const QUEUED: u64 = 1;
const STARTED: u64 = 2;
const REVOKED: u64 = 3;
const FINISHED: u64 = 4;
const CONDEMNED: u64 = 5;

const SLOT_BYTES: usize = 16;
const LANE: usize = (SLOTS * SLOT_BYTES).next_multiple_of(4096);
const AREA: usize = LANE + lane::LEN;
const LEN: usize = AREA + 2 * PIECE_BYTES;

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
#[derive(Debug)]
pub(crate) struct StatusPage(Arc<SharedBlock>);

impl StatusPage {
    /// The parent's view, and the descriptor for the worker.
    pub(crate) fn create() -> io::Result<(StatusPage, OwnedFd)> {
        let (block, fd) = SharedBlock::create(LEN)?;
        Ok((StatusPage(Arc::new(block)), fd))
    }

    /// The worker's view.
    pub(crate) fn map(fd: BorrowedFd<'_>) -> io::Result<StatusPage> {
        SharedBlock::map(fd, LEN).map(|block| StatusPage(Arc::new(block)))
    }

    /// The way of small replies, which lies in the same block.
    pub(crate) fn lane(&self) -> Lane {
        Lane::new(Arc::clone(&self.0), LANE)
    }

    /// Parent: announces a task, before it is sent.
    pub(crate) fn announce(&self, lease: Lease) {
        self.state(lease).store(word(lease, QUEUED), Ordering::Release);
    }

    /// Worker: starts a task, unless it has been taken back.
    pub(crate) fn start(&self, lease: Lease, now_ns: u64) -> bool {
        self.started_at(lease).store(now_ns, Ordering::Relaxed);
        self.swap(lease, QUEUED, STARTED)
    }

    /// Worker: the task has run. `false`: the parent kills this process for it, so nothing else may be begun.
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
            Progress::Started { at_ns: self.started_at(lease).load(Ordering::Relaxed) }
        } else if [REVOKED, FINISHED, CONDEMNED].iter().any(|&over| state == word(lease, over)) {
            Progress::Over
        } else {
            Progress::Scribbled
        }
    }

    /// Parent: puts a piece of a big argument into a half of the area.
    pub(crate) fn put_piece(&self, half: u8, bytes: &[u8]) {
        assert!(bytes.len() <= PIECE_BYTES, "a piece fits into its half");
        self.0.write(AREA + usize::from(half & 1) * PIECE_BYTES, bytes);
    }

    /// Worker: takes a piece out. `out` has the capacity for it.
    pub(crate) fn take_piece(&self, half: u8, len: u32, out: &mut Vec<u8>) {
        let len = (len as usize).min(PIECE_BYTES);
        self.0.read_into(AREA + usize::from(half & 1) * PIECE_BYTES, len, out);
    }

    fn swap(&self, lease: Lease, from: u64, to: u64) -> bool {
        let (from, to) = (word(lease, from), word(lease, to));
        self.state(lease).compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn state(&self, lease: Lease) -> &std::sync::atomic::AtomicU64 {
        self.0.word(usize::from(lease.slot) % SLOTS * SLOT_BYTES)
    }

    fn started_at(&self, lease: Lease) -> &std::sync::atomic::AtomicU64 {
        self.0.word(usize::from(lease.slot) % SLOTS * SLOT_BYTES + 8)
    }
}

fn word(lease: Lease, state: u64) -> u64 {
    u64::from(lease.generation) << 8 | state
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    const LEASE: Lease = Lease { slot: 255, generation: 9 };

    #[test]
    fn a_task_is_started_or_revoked_never_both() {
        let (parent, fd) = StatusPage::create().unwrap();
        let worker = StatusPage::map(fd.as_fd()).unwrap();
        for first_is_worker in [true, false] {
            parent.announce(LEASE);
            assert_eq!(worker.progress(LEASE), Progress::Queued);
            if first_is_worker {
                assert!(worker.start(LEASE, 5));
                assert!(!parent.revoke(LEASE));
                assert_eq!(parent.progress(LEASE), Progress::Started { at_ns: 5 });
                assert!(worker.finish(LEASE));
                assert!(!parent.condemn(LEASE), "too late to kill the worker for it");
                parent.announce(LEASE);
                assert!(worker.start(LEASE, 5) && parent.condemn(LEASE) && !worker.finish(LEASE));
                parent.announce(LEASE);
                assert!(worker.start(LEASE, 5));
                assert_eq!(parent.progress(LEASE), Progress::Started { at_ns: 5 });
            } else {
                assert!(parent.revoke(LEASE));
                assert!(!worker.start(LEASE, 5));
                assert_eq!(parent.progress(LEASE), Progress::Over);
            }
        }
    }

    #[test]
    fn a_stale_record_can_not_start_the_next_task_of_its_slot() {
        let (page, _fd) = StatusPage::create().unwrap();
        page.announce(Lease { generation: 10, ..LEASE });
        assert_eq!(page.progress(LEASE), Progress::Scribbled);
        assert!(!page.start(LEASE, 1));
        assert!(!page.revoke(LEASE));
    }

    #[test]
    fn pieces_pass() {
        let (parent, fd) = StatusPage::create().unwrap();
        let worker = StatusPage::map(fd.as_fd()).unwrap();
        parent.put_piece(1, b"abc");
        let mut out = Vec::with_capacity(3);
        worker.take_piece(1, 3, &mut out);
        assert_eq!(out, b"abc");
    }
}
