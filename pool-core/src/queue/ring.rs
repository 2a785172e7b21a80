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
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::time::Duration;

use super::cursor::{Cursor, Distance, MOST_ITEMS, MOST_UNITS, UNIT, units_of};
use super::errors::{GetError, TooManyDone};
use crate::limits::TRY_LIMIT;
use crate::shm::object::Object;
use crate::shm::post::Label;
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
/// Counts the items that carry descriptors.
const NUMBER: usize = 1088;
const ITEMS: usize = 4096;

/// In the place of a length: the next item lies at the start of the ring.
const AT_START: u64 = u64::MAX;

/// In a length: the item begins with the number of a message in the post, by which its descriptors go.
const CARRIES: u64 = 1 << 62;

/// Bytes of such a number.
pub(super) const NUMBER_BYTES: usize = 8;

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
    Os(String),
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

    /// Puts an item in. If descriptors go with it, its first bytes are overwritten by the number of their message.
    pub(super) fn put(
        &self,
        bytes: &mut [u8],
        carried: &[RawFd],
        wait: Wait,
    ) -> Result<(), Refused> {
        let mut waiting = Waiting::new(wait);
        loop {
            let held =
                Held::take_whole(self.lock(PUT_LOCK), waiting.limit()).ok_or(Refused::Full)?;
            let pushed = self.push(bytes, carried);
            drop(held);
            if pushed? {
                self.bell(ARRIVED).ring();
                return Ok(());
            }
            let is_over = || {
                let fits = || carried.is_empty() || self.object.post().has_room();
                self.is_closed() || self.fits(units_of(bytes.len())) && fits()
            };
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
    fn push(&self, bytes: &mut [u8], carried: &[RawFd]) -> Result<bool, Refused> {
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
        let mut len = bytes.len() as u64;
        if !carried.is_empty() {
            let Some(number) = self.send(tail, carried)? else { return Ok(false) };
            bytes[..NUMBER_BYTES].copy_from_slice(&number.to_le_bytes());
            len |= CARRIES;
        }
        self.word(self.place(item)).store(len, Relaxed);
        let (start, first) = self.split(item.advance(1, 0), bytes.len());
        let (one, other) = bytes.split_at(first);
        self.memory().write(start, one);
        self.memory().write(ITEMS, other);
        self.word(TAIL).store(item.advance(units, 1).0, Release);
        Ok(true)
    }

    /// With the lock for putting held: sends what goes with the item that will lie at the tail. `None`: there is no room just now.
    fn send(&self, tail: Cursor, carried: &[RawFd]) -> Result<Option<u64>, Refused> {
        let number = 1 + self.word(NUMBER).fetch_add(1, Relaxed);
        let label = Label { number, place: tail.0 };
        let post = self.object.post();
        let os = |error: io::Error| Refused::Os(error.to_string());
        if post.send(label, carried).map_err(os)? {
            return Ok(Some(number));
        }
        // of producers that were killed before they had moved the tail, and of consumers that were killed after they had moved the head
        let Some(held) = Held::take_whole(self.lock(GET_LOCK), Some(Duration::ZERO)) else {
            return Ok(None);
        };
        let (head, filled) = (self.cursor(HEAD), self.filled());
        post.clear(|place| head.until(Cursor(place)).units >= filled.units).map_err(os)?;
        drop(held);
        Ok(post.send(label, carried).map_err(os)?.then_some(number))
    }

    /// Takes an item out, into an empty buffer, with its descriptors. `true`: it has some, and its bytes begin with a number.
    pub(super) fn get(
        &self,
        bytes: &mut Vec<u8>,
        carried: &mut Vec<OwnedFd>,
        wait: Wait,
    ) -> Result<bool, GetError> {
        let mut waiting = Waiting::new(wait);
        loop {
            let held =
                Held::take_whole(self.lock(GET_LOCK), waiting.limit()).ok_or(GetError::Empty)?;
            // first this: what was put in before the queue was closed is there when it is seen to be closed
            let is_closed = self.is_closed();
            let popped = self.pop(bytes, carried);
            drop(held);
            if let Some(carries) = popped? {
                self.bell(ROOM).ring();
                return Ok(carries);
            }
            if is_closed {
                return Err(GetError::Closed);
            }
            if !waiting.pause(self.bell(ARRIVED), || self.is_closed() || self.len() > 0) {
                return Err(GetError::Empty);
            }
        }
    }

    /// With the lock for getting held. `None`: there is none.
    fn pop(
        &self,
        bytes: &mut Vec<u8>,
        carried: &mut Vec<OwnedFd>,
    ) -> Result<Option<bool>, GetError> {
        let (head, filled) = (self.cursor(HEAD), self.filled());
        if filled.items == 0 {
            return Ok(None);
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
        let carries = len & CARRIES != 0;
        let len = usize::try_from(len & !CARRIES).ok().filter(|len| *len <= left as usize * UNIT);
        let len = len.filter(|len| units_of(*len) <= left).ok_or(GetError::Damaged)?;
        bytes.reserve(len);
        let (start, first) = self.split(item.advance(1, 0), len);
        self.memory().read_into(start, first, bytes);
        self.memory().read_into(ITEMS, len - first, bytes);
        if carries {
            let number = bytes.first_chunk().ok_or(GetError::Damaged)?;
            let found = self.object.post().look(u64::from_le_bytes(*number));
            *carried = found.map_err(|error| GetError::Os(error.to_string()))?.unwrap_or_default();
        }
        self.word(HEAD).store(item.advance(units_of(len), 1).0, Release);
        if !carried.is_empty() {
            self.object.post().remove();
        }
        Ok(Some(carries))
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
mod tests;

#[cfg(all(test, loom))]
mod model;
