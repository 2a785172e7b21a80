//! A ring of items in shared memory. Producers have a lock of their own, and consumers another one.
//!
//! Putting is: write the item behind the tail, then move the tail, one store. Getting is: copy the item at the head, then move the head, one store. A process that
//! is killed before its store has done nothing; one that is killed after it has done all. The lock is then taken from it (see
//! [`word`](crate::sync::word)), and there is nothing to be repaired. Wake-ups that it did not send are found at the end of a sleeper's slice.
//!
//! An item is its length in one unit and its bytes, which may go around the end of the ring. If the ring is empty and its tail far from the start, the
//! next item goes to the start, behind a unit that says so: a queue that is emptied now and then uses the same few pages.
//!
//! What lies in shared memory is checked before it is believed: a process may have overwritten it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::time::Duration;

use super::cursor::{Cursor, Distance, MOST_ITEMS, MOST_UNITS, UNIT, units_of};
use super::errors::{GetError, TooManyDone};
use crate::limits::TRY_LIMIT;
use crate::shm::object::Object;
use crate::sync::lock::Held;
use crate::sync::word::LockWord;
use crate::sync::{Bell, Slices};
use crate::sys::memory::SharedBlock;

// one cache line (and its neighbour) each
const PUT_LOCK: usize = 0;
const GET_LOCK: usize = 128;
const TAIL: usize = 256;
const HEAD: usize = 384;
const ARRIVED: usize = 512;
const ROOM: usize = 640;
const FINISHED: usize = 768;
const BOUND: usize = 896;
const CLOSED: usize = 960;
const DONE: usize = 1024;
const ITEMS: usize = 4096;

/// In the place of a length: the next item lies at the start of the ring.
const AT_START: u64 = u64::MAX;

/// From here on, in units, an empty ring begins anew.
const FAR: u64 = (64 << 10) / UNIT as u64;

/// Looks at an empty or full ring before sleeping.
const SPINS: u32 = 40;

/// How long closing waits for producers.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// How long a call may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    Not,
    For(Option<Duration>),
}

/// Why an item was not put in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Full,
    Closed,
    Damaged,
    TooLarge(u64),
    Encode(String),
}

/// One side's view.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ring<'a> {
    object: &'a Object,
    /// A power of two.
    units: u64,
}

/// Length of the object for a ring of at least so many bytes.
pub(super) fn object_bytes(ring: usize) -> io::Result<usize> {
    let bytes = ring.max(4096).checked_next_power_of_two();
    bytes
        .filter(|bytes| (bytes / UNIT) as u64 <= MOST_UNITS)
        .and_then(|bytes| bytes.checked_add(ITEMS))
        .ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

/// Fails if this can't be a ring.
pub(super) fn check(object: Arc<Object>) -> Result<Arc<Object>, String> {
    let object = object.at_least(ITEMS + 4096)?;
    if (object.memory().len() - ITEMS).is_power_of_two() {
        Ok(object)
    } else {
        Err("a queue of an impossible size".to_owned())
    }
}

impl<'a> Ring<'a> {
    pub(super) fn of(object: &'a Object) -> Ring<'a> {
        Ring { object, units: ((object.memory().len() - ITEMS) / UNIT) as u64 }
    }

    fn memory(&self) -> &'a SharedBlock {
        self.object.memory()
    }

    fn word(&self, offset: usize) -> &'a AtomicU64 {
        self.memory().word(offset)
    }

    fn bell(&self, offset: usize) -> &'a Bell {
        self.object.words(offset)
    }

    fn lock(&self, offset: usize) -> &'a LockWord {
        self.object.words(offset)
    }

    fn cursor(&self, offset: usize) -> Cursor {
        Cursor(self.word(offset).load(Acquire))
    }

    pub(super) fn set_bound(&self, items: Option<usize>) -> io::Result<()> {
        if items == Some(0) {
            let error = "a queue for no items";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
        }
        let bound = items.map_or(MOST_ITEMS, |items| (items as u64).min(MOST_ITEMS));
        self.word(BOUND).store(bound, Relaxed);
        Ok(())
    }

    /// Bytes that an item may have.
    pub(super) fn longest(&self) -> u64 {
        (self.units - 1) * UNIT as u64
    }

    fn filled(&self) -> Distance {
        // the head first: it never passes the tail
        let head = self.cursor(HEAD);
        head.until(self.cursor(TAIL))
    }

    pub(super) fn len(&self) -> usize {
        self.filled().items as usize
    }

    pub(super) fn is_full(&self) -> bool {
        self.filled().items >= self.word(BOUND).load(Relaxed)
    }

    /// With the lock for putting held: whoever sees the queue closed and empty then knows that no item is on its way. A producer that is stopped with the lock
    /// held (by a signal) is not waited for beyond a second.
    pub(super) fn close(&self) {
        let held = Held::take_whole(self.lock(PUT_LOCK), Some(CLOSE_LIMIT));
        self.word(CLOSED).store(1, Release);
        drop(held);
        [ARRIVED, ROOM].into_iter().for_each(|bell| self.bell(bell).ring());
    }

    pub(super) fn is_closed(&self) -> bool {
        self.word(CLOSED).load(Acquire) != 0
    }

    /// Puts an item in.
    pub(super) fn put(&self, bytes: &[u8], wait: Wait) -> Result<(), Refused> {
        let mut waiting = Waiting::new(wait);
        loop {
            let held =
                Held::take_whole(self.lock(PUT_LOCK), waiting.limit()).ok_or(Refused::Full)?;
            let pushed = self.push(bytes);
            drop(held);
            if pushed? {
                self.bell(ARRIVED).ring();
                return Ok(());
            }
            let is_over = || self.is_closed() || self.fits(units_of(bytes.len()));
            if !waiting.pause(self.bell(ROOM), is_over) {
                return Err(Refused::Full);
            }
        }
    }

    fn fits(&self, units: u64) -> bool {
        let Distance { items, units: used } = self.filled();
        items < self.word(BOUND).load(Relaxed) && used + units <= self.units
    }

    /// With the lock for putting held. `false`: there is no room.
    fn push(&self, bytes: &[u8]) -> Result<bool, Refused> {
        if self.is_closed() {
            return Err(Refused::Closed);
        }
        let units = units_of(bytes.len());
        if units > self.units {
            return Err(Refused::TooLarge(bytes.len() as u64));
        }
        let (tail, filled) = (self.cursor(TAIL), self.filled());
        if filled.units > self.units || filled.items > filled.units {
            return Err(Refused::Damaged);
        }
        if !self.fits(units) {
            return Ok(false);
        }
        let offset = tail.offset(self.units);
        let is_empty = filled == Distance { items: 0, units: 0 };
        let skipped = if is_empty && offset >= FAR && units <= offset {
            self.word(self.place(tail)).store(AT_START, Relaxed);
            self.units - offset
        } else {
            0
        };
        let item = tail.advance(skipped, 0);
        self.word(self.place(item)).store(bytes.len() as u64, Relaxed);
        let (start, first) = self.split(item.advance(1, 0), bytes.len());
        let (one, other) = bytes.split_at(first);
        self.memory().write(start, one);
        self.memory().write(ITEMS, other);
        self.word(TAIL).store(item.advance(units, 1).0, Release);
        Ok(true)
    }

    /// Takes an item out, into an empty buffer.
    pub(super) fn get(&self, bytes: &mut Vec<u8>, wait: Wait) -> Result<(), GetError> {
        let mut waiting = Waiting::new(wait);
        loop {
            let held =
                Held::take_whole(self.lock(GET_LOCK), waiting.limit()).ok_or(GetError::Empty)?;
            // first this: what was put in before the queue was closed is there when it is seen to be closed
            let is_closed = self.is_closed();
            let popped = self.pop(bytes);
            drop(held);
            if popped? {
                self.bell(ROOM).ring();
                return Ok(());
            }
            if is_closed {
                return Err(GetError::Closed);
            }
            if !waiting.pause(self.bell(ARRIVED), || self.is_closed() || self.len() > 0) {
                return Err(GetError::Empty);
            }
        }
    }

    /// With the lock for getting held. `false`: there is none.
    fn pop(&self, bytes: &mut Vec<u8>) -> Result<bool, GetError> {
        let (head, filled) = (self.cursor(HEAD), self.filled());
        if filled.items == 0 {
            return Ok(false);
        }
        if filled.units > self.units {
            return Err(GetError::Damaged);
        }
        let (mut item, mut left) = (head, filled.units);
        let mut len = self.word(self.place(item)).load(Relaxed);
        if len == AT_START {
            let skipped = self.units - head.offset(self.units);
            item = head.advance(skipped, 0);
            left = left.checked_sub(skipped).ok_or(GetError::Damaged)?;
            len = self.word(self.place(item)).load(Relaxed);
        }
        let len = usize::try_from(len).ok().filter(|len| *len <= left as usize * UNIT);
        let len = len.filter(|len| units_of(*len) <= left).ok_or(GetError::Damaged)?;
        bytes.reserve(len);
        let (start, first) = self.split(item.advance(1, 0), len);
        self.memory().read_into(start, first, bytes);
        self.memory().read_into(ITEMS, len - first, bytes);
        self.word(HEAD).store(item.advance(units_of(len), 1).0, Release);
        Ok(true)
    }

    /// Where a cursor's unit lies in the object.
    fn place(&self, cursor: Cursor) -> usize {
        ITEMS + cursor.offset(self.units) as usize * UNIT
    }

    /// Where so many bytes begin, and how many of them lie before the end of the ring.
    fn split(&self, at: Cursor, len: usize) -> (usize, usize) {
        let before_end = (self.units - at.offset(self.units)) as usize * UNIT;
        (self.place(at), len.min(before_end))
    }

    pub(super) fn unfinished(&self) -> usize {
        let done = Cursor(self.word(DONE).load(Acquire));
        done.until(self.cursor(TAIL)).items as usize
    }

    pub(super) fn task_done(&self) -> Result<(), TooManyDone> {
        let one_more = |done: u64| {
            let done = Cursor(done);
            (done.until(self.cursor(TAIL)).items > 0).then(|| done.advance(0, 1).0)
        };
        match self.word(DONE).fetch_update(Release, Relaxed, one_more) {
            Ok(_) => {
                self.bell(FINISHED).ring();
                Ok(())
            }
            Err(_) => Err(TooManyDone),
        }
    }

    pub(super) fn join(&self, limit: Option<Duration>) -> bool {
        let mut waiting = Waiting::new(Wait::For(limit));
        let is_done = || self.unfinished() == 0;
        while !is_done() {
            if !waiting.pause(self.bell(FINISHED), is_done) {
                return false;
            }
        }
        true
    }
}

/// How a call goes on waiting.
struct Waiting {
    wait: Wait,
    spins: u32,
    slices: Option<Slices>,
}

impl Waiting {
    fn new(wait: Wait) -> Waiting {
        Waiting { wait, spins: 0, slices: None }
    }

    /// How long to wait for a lock, which others hold for a moment only, unless they are stopped just then.
    fn limit(&self) -> Option<Duration> {
        match self.wait {
            Wait::Not => Some(TRY_LIMIT),
            Wait::For(limit) => limit,
        }
    }

    /// Waits some time, less if the bell is rung; `false` when the time is up.
    fn pause(&mut self, bell: &Bell, is_over: impl Fn() -> bool) -> bool {
        let Wait::For(limit) = self.wait else { return false };
        let slices = self.slices.get_or_insert_with(|| Slices::new(limit));
        while self.spins < SPINS {
            self.spins += 1;
            std::hint::spin_loop();
            if is_over() {
                return true;
            }
        }
        self.spins = 0;
        let count = bell.listen();
        if is_over() {
            return true;
        }
        let Some(slice) = slices.next() else { return false };
        bell.sleep(count, slice);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::object::What;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn object(bytes: usize) -> Arc<Object> {
        Object::create(What::Queue.alone(), object_bytes(bytes).unwrap()).unwrap()
    }

    fn get(ring: Ring<'_>) -> Result<Vec<u8>, GetError> {
        let mut bytes = Vec::new();
        ring.get(&mut bytes, Wait::Not).map(|()| bytes)
    }

    proptest! {
        /// Against a plain queue, with items of all sizes, from a position near the end of all positions.
        #[test]
        fn it_is_a_queue(
            steps in prop::collection::vec(prop_oneof![(0..5000_usize).prop_map(Some), (0..40_usize).prop_map(Some), Just(None)], 0..400),
            start in prop_oneof![Just(0), Just(u64::MAX - 3000), Just((1 << 36) - 100)],
            bound in prop_oneof![Just(None), Just(Some(3_usize))],
        ) {
            let object = object(8192);
            let ring = Ring::of(&object);
            ring.set_bound(bound).unwrap();
            [TAIL, HEAD, DONE].into_iter().for_each(|word| ring.word(word).store(start, Relaxed));
            let mut model: VecDeque<Vec<u8>> = VecDeque::new();
            for (i, step) in steps.into_iter().enumerate() {
                if let Some(len) = step {
                    let item: Vec<u8> = (0..len).map(|at| (at + i) as u8).collect();
                    match ring.put(&item, Wait::Not) {
                        Ok(()) => model.push_back(item),
                        Err(error) => {
                            prop_assert_eq!(error, Refused::Full);
                            let used: u64 = model.iter().map(|item| units_of(item.len())).sum();
                            let is_full = bound.is_some_and(|bound| model.len() == bound);
                            prop_assert!(is_full || used + units_of(len) > ring.units / 2);
                        }
                    }
                } else {
                    prop_assert_eq!(get(ring), model.pop_front().ok_or(GetError::Empty));
                }
                prop_assert_eq!(ring.len(), model.len());
            }
            while let Some(item) = model.pop_front() {
                prop_assert_eq!(get(ring), Ok(item));
            }
        }

        /// Whatever a process has written over it, there is an answer.
        #[test]
        fn damage_is_survived(tail: u64, head: u64, lengths: [u64; 8]) {
            let object = object(4096);
            let ring = Ring::of(&object);
            ring.set_bound(None).unwrap();
            ring.word(TAIL).store(tail, Relaxed);
            ring.word(HEAD).store(head, Relaxed);
            for (i, len) in lengths.into_iter().enumerate() {
                ring.word(ITEMS + i * 512).store(len, Relaxed);
            }
            for _ in 0..4 {
                let _ = get(ring);
                let _ = ring.put(&[1; 100], Wait::Not);
            }
            ring.task_done().ok();
        }
    }

    #[test]
    fn who_is_killed_before_the_last_store_has_done_nothing() {
        let object = object(4096);
        let ring = Ring::of(&object);
        ring.set_bound(None).unwrap();
        ring.put(b"one", Wait::Not).unwrap();
        // a producer has written an item and dies before it has moved the tail
        let tail = ring.cursor(TAIL);
        ring.word(ring.place(tail)).store(99, Relaxed);
        ring.put(b"two", Wait::Not).unwrap();
        // a consumer has copied an item out and dies before it has moved the head
        let head = ring.cursor(HEAD);
        assert_eq!(get(ring).unwrap(), b"one");
        ring.word(HEAD).store(head.0, Relaxed);
        assert_eq!(get(ring).unwrap(), b"one");
        assert_eq!(get(ring).unwrap(), b"two");
        assert_eq!(get(ring), Err(GetError::Empty));
    }

    #[test]
    fn trying_does_not_wait_for_a_holder_that_is_stopped() {
        let object = object(4096);
        let ring = Ring::of(&object);
        ring.set_bound(None).unwrap();
        ring.put(b"one", Wait::Not).unwrap();
        let stopped = Held::take_whole(ring.lock(PUT_LOCK), None);
        assert_eq!(ring.put(b"two", Wait::Not), Err(Refused::Full));
        assert_eq!(get(ring).unwrap(), b"one", "consumers have a lock of their own");
        drop(stopped);
        ring.put(b"two", Wait::Not).unwrap();
        let stopped = Held::take_whole(ring.lock(GET_LOCK), None);
        assert_eq!(get(ring), Err(GetError::Empty));
        drop(stopped);
        assert_eq!(get(ring).unwrap(), b"two");
    }

    #[test]
    fn a_queue_that_is_emptied_stays_in_its_first_pages() {
        let object = object(1 << 20);
        let ring = Ring::of(&object);
        ring.set_bound(None).unwrap();
        for _ in 0..10_000 {
            ring.put(&[7; 1000], Wait::Not).unwrap();
            assert!(ring.cursor(TAIL).offset(ring.units) <= FAR + 2 * units_of(1000));
            assert_eq!(get(ring).unwrap(), [7; 1000]);
        }
    }
}
