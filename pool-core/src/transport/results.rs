//! The area through which big results pass, piece by piece: the worker puts pieces into its places, one after the other, and says so in the lane of replies;
//! the parent takes them out in the same order, and counts them. A worker that finds no free place sleeps until one is taken, and says so: by the same steps
//! as the reader of a [lane](super::lane), with the count in the role of what is written.
//!
//! The parent has its own record of what it has taken, and is told lengths that it checks: nothing that lies here can mislead it.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::agreement::{Need, Word, ask, is_asked};
use crate::limits::{PIECE_BYTES, PIECES};
use crate::sys::futex;
use crate::sys::memory::SharedBlock;

/// How many pieces the parent has taken, and whether the worker sleeps until it takes one: each with a cache line of its own.
const TAKEN: usize = 0;
const SLEEPS: usize = 128;
const PLACES: usize = 4096;

/// Length of the area in its block.
pub(super) const LEN: usize = PLACES + PIECES as usize * PIECE_BYTES;

/// The area in its block.
#[derive(Debug)]
pub(crate) struct Results {
    block: Arc<SharedBlock>,
    start: usize,
}

impl Results {
    pub(super) fn new(block: Arc<SharedBlock>, start: usize) -> Results {
        Results { block, start }
    }

    /// Where the piece of this number lies.
    fn place(&self, number: u64) -> usize {
        self.start + PLACES + (number % u64::from(PIECES)) as usize * PIECE_BYTES
    }
}

/// The worker's side.
#[derive(Debug)]
pub(crate) struct ResultsWriter {
    area: Results,
    put: u64,
}

impl ResultsWriter {
    pub(crate) fn new(area: Results) -> ResultsWriter {
        ResultsWriter { area, put: 0 }
    }

    fn taken(&self) -> u64 {
        self.area.block.word(self.area.start + TAKEN).get()
    }

    /// Whether a place is free.
    pub(crate) fn has_room(&self) -> bool {
        self.put.wrapping_sub(self.taken()) < u64::from(PIECES)
    }

    /// Puts a piece into the place that is free. It is there for the parent when it is told of it.
    pub(crate) fn put(&mut self, piece: &[u8]) {
        assert!(piece.len() <= PIECE_BYTES, "a piece fits into its place");
        self.area.block.write(self.area.place(self.put), piece);
        self.put = self.put.wrapping_add(1);
    }

    /// Sleeps until a piece is taken, at most for so long.
    pub(crate) fn sleep(&self, limit: Duration) {
        let sleeps = self.area.block.half_word(self.area.start + SLEEPS);
        let full = self.put.wrapping_sub(u64::from(PIECES));
        if ask(sleeps, self.area.block.word(self.area.start + TAKEN), full, Need::Now) {
            futex::wait(sleeps, Need::Now as u32, Some(limit));
        }
        sleeps.store(0, SeqCst);
    }
}

/// The parent's side.
#[derive(Debug)]
pub(super) struct ResultsReader {
    area: Results,
    /// Its own record.
    taken: u64,
}

impl ResultsReader {
    pub(super) fn new(area: Results) -> ResultsReader {
        ResultsReader { area, taken: 0 }
    }

    /// Takes the next piece out, of which this many bytes matter: at most as many as a piece has. `out` has the capacity for them.
    pub(super) fn take(&mut self, len: usize, out: &mut Vec<u8>) {
        let Results { block, start } = &self.area;
        block.read_into(self.area.place(self.taken), len, out);
        self.taken = self.taken.wrapping_add(1);
        block.word(start + TAKEN).put_in_order(self.taken);
        let sleeps = block.half_word(start + SLEEPS);
        if is_asked(sleeps, Need::Now) {
            futex::wake(sleeps, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::block::WorkerBlock;

    #[test]
    fn pieces_go_around_and_wait_for_a_place() {
        let (block, _fd) = WorkerBlock::create().unwrap();
        let mut writer = ResultsWriter::new(block.results());
        let mut reader = ResultsReader::new(block.results());
        let (pieces, len) = if cfg!(miri) { (20, 10) } else { (2000u64, PIECE_BYTES) };
        let worker = std::thread::spawn(move || {
            for number in 0..pieces {
                while !writer.has_room() {
                    writer.sleep(Duration::from_secs(3600));
                }
                writer.put(&vec![number as u8; len]);
                // in the order of the numbers: the reader of this test looks there
                writer.area.block.word(writer.area.start + 256).store(number + 1, SeqCst);
            }
        });
        let published = Arc::clone(&reader.area.block);
        for number in 0..pieces {
            while published.word(reader.area.start + 256).load(SeqCst) <= number {
                std::thread::yield_now();
            }
            let mut out = Vec::with_capacity(len);
            reader.take(len, &mut out);
            assert!(out.len() == len && out.iter().all(|&byte| byte == number as u8));
        }
        worker.join().unwrap();
    }
}
