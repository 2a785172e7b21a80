//! A ring of small messages in shared memory, with one writer and one reader. Two lie in each worker's block: tasks go by one, replies come by
//! the other. What was written survives its writer, so a worker's death can't take replies along; and while both sides are awake, nobody needs a
//! system call. A reader that sleeps *listens*: then the writer rings a bell, which is a message on another way (the channel of tasks, the socket of
//! replies): at once if somebody waits, else when it has nothing better to do.
//!
//! The writer writes a message, then moves `written`, then looks whether the reader listens. The reader says that it listens, then
//! looks at `written` once more. In the total order of these four steps, either the reader sees the message or the writer sees
//! that the bell is wanted.
//!
//! The parent believes nothing that lies here: of the replies it has its own record of how far it has read, checks the distance, and copies the bytes out
//! before it looks at them; of the tasks it never reads anything, and a worker that lies about how far it has read harms its own tasks only.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
#[cfg(test)]
use std::sync::atomic::Ordering::SeqCst;

use super::agreement::{Need, Word, ask, is_asked};
use crate::limits::FRAME_BYTES;
use crate::sys::memory::SharedBlock;
use crate::wire::from_worker::Malformed;

/// Bytes of the ring. A power of two.
const RING: u64 = 256 << 10;

/// Each of the three words has a cache line (and its neighbour) of its own.
const WRITTEN: usize = 0;
const READ: usize = 128;
const LISTENS: usize = 256;
const BYTES: usize = 4096;

/// Length of the lane in its block.
pub(crate) const LEN: usize = BYTES + RING as usize;

/// Messages larger than this go another way.
pub(crate) const LARGEST: usize = FRAME_BYTES + 4096;

/// A ring in its block.
#[derive(Debug)]
pub(crate) struct Lane {
    block: Arc<SharedBlock>,
    start: usize,
}

impl Lane {
    pub(super) fn new(block: Arc<SharedBlock>, start: usize) -> Lane {
        Lane { block, start }
    }

    #[inline]
    fn word(&self, offset: usize) -> &AtomicU64 {
        self.block.word(self.start + offset)
    }

    /// Whether something was written beyond this position.
    #[inline]
    fn has_beyond(&self, read: u64) -> bool {
        self.word(WRITTEN).get() != read
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

/// The reader's side.
#[derive(Debug)]
pub(crate) struct LaneReader {
    lane: Lane,
    /// How far it has read: its own record.
    read: u64,
}

impl LaneReader {
    pub(crate) fn new(lane: Lane) -> LaneReader {
        LaneReader { lane, read: 0 }
    }

    #[cfg(test)]
    pub(super) fn at(lane: Lane, read: u64) -> LaneReader {
        LaneReader { lane, read }
    }

    /// Whether something lies there that was not read.
    #[inline]
    pub(crate) fn has_news(&self) -> bool {
        self.lane.has_beyond(self.read)
    }

    /// For one who looks whether something has come since now, and does not read.
    pub(crate) fn probe(&self) -> LaneProbe {
        let lane = Lane::new(Arc::clone(&self.lane.block), self.lane.start);
        LaneProbe { lane, read: self.read }
    }

    /// Replaces the content of `buffer` by what was written since the last time. `false`: there was nothing.
    pub(crate) fn copy_out(&mut self, buffer: &mut Vec<u8>) -> Result<bool, Malformed> {
        let len = self.available()?;
        if len == 0 {
            return Ok(false);
        }
        buffer.clear();
        buffer.reserve(len as usize);
        self.take_onto(len as usize, buffer);
        self.release();
        Ok(true)
    }

    /// How many bytes lie there that were not read.
    #[inline]
    pub(super) fn available(&self) -> Result<u64, Malformed> {
        let len = self.lane.word(WRITTEN).get().wrapping_sub(self.read);
        if len > RING { Err(Malformed) } else { Ok(len) }
    }

    /// Copies the next bytes out, of those that are [available](Self::available).
    #[inline]
    pub(super) fn take(&mut self, out: &mut [u8]) {
        let (offset, first) = Lane::split(self.read, out.len() as u64);
        let (one, other) = out.split_at_mut(first);
        let bytes = self.lane.start + BYTES;
        self.lane.block.read(bytes + offset, one);
        self.lane.block.read(bytes, other);
        self.read = self.read.wrapping_add(out.len() as u64);
    }

    /// Like [`take`](Self::take), into memory of its own.
    pub(super) fn take_vec(&mut self, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len);
        self.take_onto(len, &mut out);
        out
    }

    #[inline]
    fn take_onto(&mut self, len: usize, out: &mut Vec<u8>) {
        let (offset, first) = Lane::split(self.read, len as u64);
        let bytes = self.lane.start + BYTES;
        self.lane.block.read_into(bytes + offset, first, out);
        self.lane.block.read_into(bytes, len - first, out);
        self.read = self.read.wrapping_add(len as u64);
    }

    /// The writer may write where was read.
    pub(super) fn release(&self) {
        self.lane.word(READ).put(self.read);
    }

    /// From now on the bell is to be rung. `false`: something was written before the writer could know.
    pub(crate) fn listen(&self, need: Need) -> bool {
        ask(self.lane.word(LISTENS), self.lane.word(WRITTEN), self.read, need)
    }

    /// The reader looks by itself until it listens again. Returns whether the bell may have been rung.
    pub(crate) fn stop_listening(&self) -> bool {
        self.lane.word(LISTENS).take_in_order() == 0
    }
}

/// Tells whether something was written, of a lane that somebody else reads.
#[derive(Debug)]
pub(crate) struct LaneProbe {
    lane: Lane,
    read: u64,
}

impl LaneProbe {
    #[inline]
    pub(crate) fn has_news(&self) -> bool {
        self.lane.has_beyond(self.read)
    }
}

/// The writer's side.
#[derive(Debug)]
pub(crate) struct LaneWriter {
    lane: Lane,
    written: u64,
}

impl LaneWriter {
    pub(crate) fn new(lane: Lane) -> LaneWriter {
        LaneWriter { lane, written: 0 }
    }

    /// Puts a message into the ring; `false` if there is no room for it and `spare` bytes more.
    #[inline]
    pub(crate) fn publish(&mut self, message: &[u8], spare: u64) -> bool {
        let len = message.len() as u64;
        // a reader that says it has read what was not written yet has lost its mind, and the difference is huge
        let unread = self.unread();
        if message.len() > LARGEST || unread.saturating_add(len + spare) > RING {
            return false;
        }
        let (offset, first) = Lane::split(self.written, len);
        let (one, other) = message.split_at(first);
        let bytes = self.lane.start + BYTES;
        self.lane.block.write(bytes + offset, one);
        self.lane.block.write(bytes, other);
        self.written = self.written.wrapping_add(len);
        self.lane.word(WRITTEN).put_in_order(self.written);
        true
    }

    /// Up to where it has written.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// How much of it the reader has not read.
    #[inline]
    pub(crate) fn unread(&self) -> u64 {
        self.written.wrapping_sub(self.lane.word(READ).get())
    }

    /// Whether the reader sleeps.
    #[cfg(test)]
    pub(super) fn is_listened_to(&self) -> bool {
        self.lane.word(LISTENS).load(SeqCst) != 0
    }

    /// Whether the reader needs to be told so soon. The wish stays.
    pub(crate) fn is_needed(&self, need: Need) -> bool {
        self.lane.word(LISTENS).get() >= need as u64
    }

    /// Whether the reader must be told of what was published, if it needs it so soon. Asking takes the wish away.
    #[inline]
    pub(crate) fn is_bell_wanted(&self, need: Need) -> bool {
        is_asked(self.lane.word(LISTENS), need)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::block::WorkerBlock;

    fn pair() -> (LaneReader, LaneWriter) {
        let (block, _fd) = WorkerBlock::create().unwrap();
        (LaneReader::new(block.replies()), LaneWriter::new(block.replies()))
    }

    #[test]
    fn the_bell_is_rung_once_for_many() {
        let (mut reader, mut writer) = pair();
        let mut buffer = Vec::new();
        assert_eq!(reader.copy_out(&mut buffer), Ok(false));
        assert!(reader.listen(Need::Now));
        assert!(writer.publish(b"one", 0) && writer.is_bell_wanted(Need::Later));
        assert!(writer.publish(b"two", 0) && !writer.is_bell_wanted(Need::Later));
        assert_eq!(reader.copy_out(&mut buffer), Ok(true));
        assert_eq!(buffer, b"onetwo");
        assert!(
            writer.publish(b"three", 0) && !writer.is_bell_wanted(Need::Later),
            "the reader is awake"
        );
        assert!(!reader.listen(Need::Now), "there is something, so nobody may sleep");
        assert!(!reader.stop_listening(), "nobody has rung");
        assert_eq!(reader.copy_out(&mut buffer), Ok(true));
        assert!(reader.listen(Need::Now));
        assert!(writer.publish(b"four", 0) && writer.is_bell_wanted(Need::Later));
        assert!(reader.stop_listening(), "the bell was rung");
    }

    #[test]
    fn a_reader_without_need_is_told_when_there_is_time() {
        let (reader, mut writer) = pair();
        assert!(reader.listen(Need::Later));
        assert!(writer.publish(b"one", 0) && !writer.is_bell_wanted(Need::Now));
        assert!(writer.is_needed(Need::Later) && !writer.is_needed(Need::Now));
        assert!(writer.is_bell_wanted(Need::Later), "the wish is still there");
        assert!(!writer.is_bell_wanted(Need::Later));
    }

    #[test]
    fn a_full_ring_takes_nothing_and_loses_nothing() {
        let (mut reader, mut writer) = pair();
        let message = vec![7; 1000];
        let mut count = 0;
        while writer.publish(&message, 600) {
            count += 1;
        }
        assert_eq!(count, RING as usize / 1000 - 1, "some is kept in reserve");
        assert!(writer.publish(&message, 0) && !writer.publish(&message, 0));
        let mut buffer = Vec::new();
        assert_eq!(reader.copy_out(&mut buffer), Ok(true));
        assert_eq!(buffer.len(), (count + 1) * 1000);
        assert!(writer.publish(&message, 0));
    }

    #[test]
    fn bytes_survive_the_end_of_the_ring() {
        let (mut reader, mut writer) = pair();
        let mut buffer = Vec::new();
        // Miri is slow; this is enough to get around the ring
        for round in 0..if cfg!(miri) { 100 } else { 1000u32 } {
            let message: Vec<u8> = (0..797).map(|i| (i + round) as u8).collect();
            let before = writer.written();
            assert!(writer.publish(&message, 0) && writer.unread() == writer.written() - before);
            assert_eq!(reader.copy_out(&mut buffer), Ok(true));
            assert!(buffer == message && writer.unread() == 0);
        }
    }

    #[test]
    fn an_impossible_position_is_refused() {
        let (mut reader, mut writer) = pair();
        for written in [RING + 1, u64::MAX] {
            writer.lane.word(WRITTEN).store(written, SeqCst);
            assert_eq!(reader.copy_out(&mut Vec::new()), Err(Malformed));
        }
        for read in [1, 1 << 63] {
            writer.lane.word(READ).store(read, SeqCst);
            assert!(!writer.publish(b"to somebody out of his mind", 0));
        }
    }
}

#[cfg(all(test, loom))]
mod model {
    use super::*;
    use crate::primitives::{lock, unpoisoned};
    use loom::sync::atomic::{AtomicU64, Ordering};
    use loom::sync::{Arc, Condvar, Mutex};
    use loom::thread;

    /// loom takes loads and stores in one order for weaker ones. Swaps and additions see the last value, whatever their ordering: such steps are in one order.
    impl Word for AtomicU64 {
        fn get(&self) -> u64 {
            self.load(Ordering::Acquire)
        }

        fn put(&self, value: u64) {
            self.store(value, Ordering::Release);
        }

        fn put_in_order(&self, value: u64) {
            self.swap(value, Ordering::AcqRel);
        }

        fn get_in_order(&self) -> u64 {
            self.fetch_add(0, Ordering::AcqRel)
        }

        fn take_in_order(&self) -> u64 {
            self.swap(0, Ordering::AcqRel)
        }
    }

    /// A ring of one place, its words, and the way on which the bell rings.
    struct Both {
        written: AtomicU64,
        read: AtomicU64,
        listens: AtomicU64,
        place: AtomicU64,
        bells: (Mutex<u32>, Condvar),
    }

    impl Both {
        fn new() -> Both {
            let [written, read, listens, place] = [0; 4].map(AtomicU64::new);
            Both { written, read, listens, place, bells: (Mutex::new(0), Condvar::new()) }
        }

        /// As [`LaneWriter::publish`] and what follows it.
        fn write(&self, position: u64, message: u64, need: Need) {
            while self.read.get() != position {
                thread::yield_now();
            }
            self.place.store(message, Ordering::Relaxed);
            self.written.put_in_order(position + 1);
            if is_asked(&self.listens, need) {
                *lock(&self.bells.0) += 1;
                self.bells.1.notify_one();
            }
        }

        /// As a worker's look, and its sleep without one: a bell that was rung is always taken.
        fn read(&self, position: u64, need: Need) -> u64 {
            loop {
                if self.written.get() != position {
                    let message = self.place.load(Ordering::Relaxed);
                    self.read.put(position + 1);
                    return message;
                }
                let may_sleep = ask(&self.listens, &self.written, position, need);
                if may_sleep || self.listens.take_in_order() == 0 {
                    let mut bells = lock(&self.bells.0);
                    while *bells == 0 {
                        bells = unpoisoned(self.bells.1.wait(bells));
                    }
                    *bells -= 1;
                }
            }
        }
    }

    fn model(run: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(run);
    }

    #[test]
    fn a_reader_that_sleeps_is_always_told() {
        for need in [Need::Later, Need::Soon, Need::Now] {
            model(move || {
                let lane = Arc::new(Both::new());
                let writer = Arc::clone(&lane);
                let writer = thread::spawn(move || {
                    writer.write(0, 7, need);
                    writer.write(1, 8, need);
                });
                assert_eq!((lane.read(0, need), lane.read(1, need)), (7, 8));
                writer.join().unwrap();
                assert_eq!(*lock(&lane.bells.0), 0, "no bell is left that nobody takes");
            });
        }
    }

    #[test]
    fn who_is_in_no_hurry_is_told_before_the_writer_sleeps() {
        model(|| {
            let lane = Arc::new(Both::new());
            let writer = Arc::clone(&lane);
            let writer = thread::spawn(move || {
                writer.write(0, 7, Need::Now);
                // nothing else to do
                if is_asked(&writer.listens, Need::Later) {
                    *lock(&writer.bells.0) += 1;
                    writer.bells.1.notify_one();
                }
            });
            assert_eq!(lane.read(0, Need::Later), 7);
            writer.join().unwrap();
        });
    }
}
