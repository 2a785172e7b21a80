//! The shared memory of the pool and one worker process: the [status page](super::status), two [lanes](super::lane) for small tasks and small replies,
//! and the area through which big arguments pass.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::lane::{self, Lane};
use super::status::{self, StatusPage};
use crate::limits::PIECE_BYTES;
use crate::sys::memory::SharedBlock;

const REPLIES: usize = status::LEN.next_multiple_of(4096);
const TASKS: usize = REPLIES + lane::LEN;
const AREA: usize = TASKS + lane::LEN;
const LEN: usize = AREA + 2 * PIECE_BYTES;

/// One side's view of the block.
#[derive(Debug)]
pub(crate) struct WorkerBlock(Arc<SharedBlock>);

impl WorkerBlock {
    /// The parent's view, and the descriptor for the worker.
    pub(crate) fn create() -> io::Result<(WorkerBlock, OwnedFd)> {
        let (block, fd) = SharedBlock::create(LEN)?;
        Ok((WorkerBlock(Arc::new(block)), fd))
    }

    /// The worker's view.
    pub(crate) fn map(fd: BorrowedFd<'_>) -> io::Result<WorkerBlock> {
        SharedBlock::map(fd, LEN).map(|block| WorkerBlock(Arc::new(block)))
    }

    /// The states of tasks.
    pub(crate) fn status(&self) -> StatusPage {
        StatusPage::at_start_of(Arc::clone(&self.0))
    }

    /// The way of small replies.
    pub(crate) fn replies(&self) -> Lane {
        Lane::new(Arc::clone(&self.0), REPLIES)
    }

    /// The way of small tasks.
    pub(crate) fn tasks(&self) -> Lane {
        Lane::new(Arc::clone(&self.0), TASKS)
    }

    /// Parent: puts a piece of a big argument into a half of the area.
    pub(crate) fn put_piece(&self, half: u8, bytes: &[u8]) {
        assert!(bytes.len() <= PIECE_BYTES, "a piece fits into its half");
        self.0.write(AREA + usize::from(half & 1) * PIECE_BYTES, bytes);
    }

    /// Writes what only a worker that has lost its mind would, anywhere in front of the area.
    #[cfg(test)]
    pub(crate) fn scribble(&self, at: usize, bytes: &[u8]) {
        let at = at % AREA;
        self.0.write(at, &bytes[..bytes.len().min(AREA - at)]);
    }

    /// Worker: takes a piece out. `out` has the capacity for it.
    pub(crate) fn take_piece(&self, half: u8, len: u32, out: &mut Vec<u8>) {
        let len = (len as usize).min(PIECE_BYTES);
        self.0.read_into(AREA + usize::from(half & 1) * PIECE_BYTES, len, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn pieces_pass() {
        let (parent, fd) = WorkerBlock::create().unwrap();
        let worker = WorkerBlock::map(fd.as_fd()).unwrap();
        parent.put_piece(1, b"abc");
        let mut out = Vec::with_capacity(3);
        worker.take_piece(1, 3, &mut out);
        assert_eq!(out, b"abc");
    }
}
