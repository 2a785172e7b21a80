//! The shared memory of the pool and one worker process: the [status page](super::status), two [lanes](super::lane) for small tasks and small replies,
//! and two areas through which big arguments and big results pass in pieces.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::lane::{self, Lane};
use super::results::{self, Results};
use super::status::{self, StatusPage};
use crate::limits::{PIECE_BYTES, PIECES};
use crate::sys::memory::SharedBlock;

const REPLIES: usize = status::LEN.next_multiple_of(4096);
const TASKS: usize = REPLIES + lane::LEN;
const RESULTS: usize = TASKS + lane::LEN;
const ARGUMENTS: usize = RESULTS + results::LEN;
const LEN: usize = ARGUMENTS + PIECES as usize * PIECE_BYTES;

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

    /// The way of big results.
    pub(crate) fn results(&self) -> Results {
        Results::new(Arc::clone(&self.0), RESULTS)
    }

    /// Parent: puts a piece of a big argument into the area.
    pub(crate) fn put_piece(&self, place: u8, bytes: &[u8]) {
        assert!(bytes.len() <= PIECE_BYTES, "a piece fits into its place");
        self.0.write(WorkerBlock::argument(place), bytes);
    }

    /// Writes what only a worker that has lost its mind would, anywhere in front of the arguments.
    #[cfg(test)]
    pub(crate) fn scribble(&self, at: usize, bytes: &[u8]) {
        let at = at % ARGUMENTS;
        self.0.write(at, &bytes[..bytes.len().min(ARGUMENTS - at)]);
    }

    /// Worker: takes a piece out. `out` has the capacity for it.
    pub(crate) fn take_piece(&self, place: u8, len: u32, out: &mut Vec<u8>) {
        let len = (len as usize).min(PIECE_BYTES);
        self.0.read_into(WorkerBlock::argument(place), len, out);
    }

    fn argument(place: u8) -> usize {
        ARGUMENTS + usize::from(place % PIECES) * PIECE_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn its_parts_lie_here() {
        assert_eq!(
            [REPLIES, TASKS, RESULTS, ARGUMENTS, LEN],
            [32_768, 299_008, 565_248, 1_617_920, 2_666_496],
            "raise PROTOCOL_VERSION with any change of the places"
        );
    }

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
