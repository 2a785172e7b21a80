//! A ring of small replies in shared memory, with one writer and one reader. A frame lies there before the worker begins its next
//! task, so its death can't take it along; and a worker that answers quickly needs no system call for each reply: the bell, a frame on the
//! socket, is rung for several at a time, and only if the parent has read everything that was there before.
//!
//! The worker writes a frame, then moves `written`, then looks whether the parent listens for the bell. The parent says that it listens, then
//! looks at `written` once more. In the total order of these four steps, either the parent sees the frame or the worker sees
//! that the bell is wanted.
//!
//! The parent believes nothing that lies here: it has its own record of how far it has read, checks the distance, and copies the bytes out
//! before it looks at them.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

use crate::sys::memory::SharedBlock;
use crate::wire::from_worker::Malformed;

/// Bytes of the ring. A power of two.
const RING: u64 = 64 << 10;

/// Each of the three words has a cache line (and its neighbour) of its own.
const WRITTEN: usize = 0;
const READ: usize = 128;
const LISTENS: usize = 256;
const BYTES: usize = 4096;

/// Length of the lane in its block.
pub(crate) const LEN: usize = BYTES + RING as usize;

/// Frames larger than this go by the socket.
const LARGEST: usize = RING as usize / 8;

/// One side's view.
#[derive(Debug)]
pub(crate) struct Lane {
    block: Arc<SharedBlock>,
    start: usize,
}

impl Lane {
    pub(super) fn new(block: Arc<SharedBlock>, start: usize) -> Lane {
        Lane { block, start }
    }

    fn word(&self, offset: usize) -> &std::sync::atomic::AtomicU64 {
        self.block.word(self.start + offset)
    }

    /// Parent: replaces the content of `buffer` by what was written since `read`. `false`: there was nothing, and the next reply will ring
    /// the bell.
    pub(super) fn copy_out(&self, read: &mut u64, buffer: &mut Vec<u8>) -> Result<bool, Malformed> {
        let mut written = self.word(WRITTEN).load(Acquire);
        if written == *read {
            self.word(LISTENS).store(1, SeqCst);
            written = self.word(WRITTEN).load(SeqCst);
            if written == *read {
                return Ok(false);
            }
        }
        let len = written.wrapping_sub(*read);
        if len > RING {
            return Err(Malformed);
        }
        buffer.clear();
        buffer.reserve(len as usize);
        let (offset, first) = Lane::split(*read, len);
        self.block.read_into(self.start + BYTES + offset, first, buffer);
        self.block.read_into(self.start + BYTES, len as usize - first, buffer);
        *read = written;
        self.word(READ).store(written, Release);
        Ok(true)
    }

    /// Writes what only a worker that has lost its mind would: any position, and bytes anywhere in the ring.
    #[cfg(test)]
    pub(super) fn scribble(&self, written: u64, at: u64, bytes: &[u8]) {
        self.word(WRITTEN).store(written, SeqCst);
        let bytes = &bytes[..bytes.len().min(RING as usize)];
        let (offset, first) = Lane::split(at, bytes.len() as u64);
        self.block.write(self.start + BYTES + offset, &bytes[..first]);
        self.block.write(self.start + BYTES, &bytes[first..]);
    }

    /// Where a stretch begins in the ring, and how much of it lies before the end.
    fn split(position: u64, len: u64) -> (usize, usize) {
        let offset = position & (RING - 1);
        (offset as usize, len.min(RING - offset) as usize)
    }
}

/// The worker's side.
#[derive(Debug)]
pub(crate) struct LaneWriter {
    lane: Lane,
    written: u64,
}

impl LaneWriter {
    pub(crate) fn new(lane: Lane) -> LaneWriter {
        LaneWriter { lane, written: 0 }
    }

    /// Puts a frame into the ring; `false` if there is no room for it.
    pub(crate) fn publish(&mut self, frame: &[u8]) -> bool {
        let len = frame.len() as u64;
        let read = self.lane.word(READ).load(Acquire);
        if frame.len() > LARGEST || self.written.wrapping_sub(read) + len > RING {
            return false;
        }
        let (offset, first) = Lane::split(self.written, len);
        let (one, other) = frame.split_at(first);
        let bytes = self.lane.start + BYTES;
        self.lane.block.write(bytes + offset, one);
        self.lane.block.write(bytes, other);
        self.written = self.written.wrapping_add(len);
        self.lane.word(WRITTEN).store(self.written, SeqCst);
        true
    }

    /// Whether the parent sleeps and must be told of what was published. Asking takes the wish away.
    pub(crate) fn is_bell_wanted(&self) -> bool {
        let listens = self.lane.word(LISTENS);
        let wanted = listens.load(SeqCst) != 0;
        if wanted {
            listens.store(0, Relaxed);
        }
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::block::WorkerBlock;

    fn pair() -> (Lane, LaneWriter) {
        let (block, _fd) = WorkerBlock::create().unwrap();
        (block.lane(), LaneWriter::new(block.lane()))
    }

    #[test]
    fn the_bell_is_rung_once_for_many() {
        let (parent, mut worker) = pair();
        let (mut read, mut buffer) = (0, Vec::new());
        assert_eq!(parent.copy_out(&mut read, &mut buffer), Ok(false));
        assert!(worker.publish(b"one") && worker.is_bell_wanted());
        assert!(worker.publish(b"two") && !worker.is_bell_wanted());
        assert_eq!(parent.copy_out(&mut read, &mut buffer), Ok(true));
        assert_eq!(buffer, b"onetwo");
        assert!(worker.publish(b"three") && !worker.is_bell_wanted(), "the parent is awake");
        assert_eq!(parent.copy_out(&mut read, &mut buffer), Ok(true));
        assert_eq!(parent.copy_out(&mut read, &mut buffer), Ok(false));
        assert!(worker.publish(b"four") && worker.is_bell_wanted());
    }

    #[test]
    fn a_full_ring_takes_nothing_and_loses_nothing() {
        let (parent, mut worker) = pair();
        let frame = vec![7; 1000];
        let mut count = 0;
        while worker.publish(&frame) {
            count += 1;
        }
        assert_eq!(count, RING as usize / 1000);
        let (mut read, mut buffer) = (0, Vec::new());
        assert_eq!(parent.copy_out(&mut read, &mut buffer), Ok(true));
        assert_eq!(buffer.len(), count * 1000);
        assert!(worker.publish(&frame));
    }

    #[test]
    fn bytes_survive_the_end_of_the_ring() {
        let (parent, mut worker) = pair();
        let (mut read, mut buffer) = (0, Vec::new());
        // Miri is slow; this is enough to get around the ring
        for round in 0..if cfg!(miri) { 100 } else { 1000u32 } {
            let frame: Vec<u8> = (0..797).map(|i| (i + round) as u8).collect();
            assert!(worker.publish(&frame));
            assert_eq!(parent.copy_out(&mut read, &mut buffer), Ok(true));
            assert_eq!(buffer, frame);
        }
    }

    #[test]
    fn an_impossible_position_is_refused() {
        let (parent, worker) = pair();
        worker.lane.word(WRITTEN).store(RING + 1, SeqCst);
        assert_eq!(parent.copy_out(&mut 0, &mut Vec::new()), Err(Malformed));
        worker.lane.word(WRITTEN).store(u64::MAX, SeqCst);
        assert_eq!(parent.copy_out(&mut 0, &mut Vec::new()), Err(Malformed));
    }
}
