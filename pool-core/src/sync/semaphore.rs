//! Permits: how many processes hold one is written down by process, so that those of the dead are had back.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::lock::Held;
use super::word::LockWord;
use super::{Futex, Slices};
use crate::limits::TRY_LIMIT;
use crate::shm::object::{Kind, Object, What, Words, travels};
use crate::sys::identity::{Token, is_gone, me};

/// A counter of permits that processes and threads share. The permits of a process that ends, however it ends, are had back within some
/// milliseconds of somebody wanting one.
///
/// At most 500 processes may hold permits at a time; a further one waits as if there were none.
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// # pool_core::init();
/// use pool_core::Semaphore;
/// let pool = pool_core::Pool::new(4)?;
/// let two_at_a_time = Semaphore::new(2)?;
/// let task = |permits: Semaphore, x: u64| {
///     let _permit = permits.acquire();
///     x * x
/// };
/// assert_eq!(pool.starmap(task, [1, 2, 3].map(|x| (two_at_a_time.clone(), x)))?, [1, 4, 9]);
/// assert_eq!(two_at_a_time.available(), 2);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Semaphore {
    object: Arc<Object>,
}

/// A [`Semaphore`] that never has more permits than it had at first: [`release`](BoundedSemaphore::release) beyond that is an error.
#[derive(Clone)]
pub struct BoundedSemaphore {
    inner: Semaphore,
}

/// One permit of a semaphore; dropping it gives it back.
#[must_use = "the permit is given back at once if it is dropped"]
pub struct Permit<'a> {
    semaphore: &'a Semaphore,
}

/// More permits were released than had been taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the semaphore has all its permits already")]
pub struct OverRelease;

/// Processes that may hold permits at a time.
const HOLDERS: usize = 500;

/// All changes but `total` are made with the lock held. What is available is `total` less what is held, so each change is one store.
#[repr(C)]
struct State {
    lock: LockWord,
    released: Futex,
    _gap: Futex,
    /// Permits, held or not.
    total: AtomicU64,
    /// What it was at first.
    first: AtomicU64,
    /// Places that have ever been used: only these are looked at.
    used: AtomicU64,
    /// Set by who finds nothing available, taken away by who releases.
    wanted: AtomicU64,
    holders: [Holder; HOLDERS],
}

#[repr(C)]
struct Holder {
    /// 0: nobody.
    process: AtomicU64,
    permits: AtomicU64,
}

impl Holder {
    fn held(&self) -> u64 {
        if self.process.load(Relaxed) == 0 { 0 } else { self.permits.load(Relaxed) }
    }
}

// SAFETY: atomics only.
unsafe impl Words for State {}

const BYTES: usize = size_of::<State>();
const PLAIN: Kind = What::Semaphore.alone();
const BOUNDED: Kind = What::BoundedSemaphore.alone();

impl State {
    /// The places that have ever been used.
    fn places(&self) -> &[Holder] {
        &self.holders[..(self.used.load(Relaxed) as usize).min(HOLDERS)]
    }

    fn available(&self) -> u64 {
        let held = self.places().iter().map(Holder::held).fold(0, u64::wrapping_add);
        self.total.load(Relaxed).saturating_sub(held)
    }

    /// With the lock held: one more permit for this process, if there is one and a place to write it down.
    fn try_take(&self) -> bool {
        if self.available() == 0 {
            return false;
        }
        if let Some(ours) = self.place_of(me()) {
            ours.permits.fetch_add(1, Relaxed);
            return true;
        }
        let place = match self.place_of(0) {
            Some(place) => place,
            None => {
                let used = self.places().len();
                let Some(place) = self.holders.get(used) else { return false };
                self.used.store(used as u64 + 1, Relaxed);
                place
            }
        };
        // it counts from the second store on
        place.permits.store(1, Relaxed);
        place.process.store(me(), Relaxed);
        true
    }

    fn place_of(&self, process: Token) -> Option<&Holder> {
        self.places().iter().find(|holder| holder.process.load(Relaxed) == process)
    }

    /// With the lock held: one permit less for this process. Nothing happens if it has none, which only damage can cause.
    fn give_back(&self) {
        let Some(ours) = self.place_of(me()) else { return };
        if ours.permits.load(Relaxed) > 1 {
            ours.permits.fetch_sub(1, Relaxed);
        } else {
            ours.process.store(0, Relaxed);
        }
    }

    /// With the lock held: the permits of processes that have ended are nobody's any more. Whether there were any.
    fn forget_the_dead(&self) -> bool {
        let mut found = false;
        for holder in self.places() {
            let process = holder.process.load(Relaxed);
            if process != 0 && is_gone(process) {
                holder.process.store(0, Relaxed);
                found = true;
            }
        }
        found
    }

    /// With the lock held: whether somebody waits. To be followed by a wake-up.
    fn take_wish(&self) -> bool {
        self.wanted.swap(0, Relaxed) != 0
    }
}

impl Semaphore {
    /// A semaphore with so many permits.
    ///
    /// # Errors
    /// There is no memory, or no descriptor is free.
    pub fn new(permits: u32) -> io::Result<Semaphore> {
        Semaphore::create(PLAIN, permits)
    }

    fn create(kind: Kind, permits: u32) -> io::Result<Semaphore> {
        let semaphore = Semaphore { object: Object::create(kind, BYTES)? };
        semaphore.state().total.store(permits.into(), Relaxed);
        semaphore.state().first.store(permits.into(), Relaxed);
        Ok(semaphore)
    }

    fn state(&self) -> &State {
        self.object.words(0)
    }

    /// Takes a permit; waits until there is one.
    pub fn acquire(&self) -> Permit<'_> {
        match self.take(None) {
            Some(permit) => permit,
            None => unreachable!("there was no limit"),
        }
    }

    /// Takes a permit; waits until there is one, at most so long.
    pub fn acquire_timeout(&self, limit: Duration) -> Option<Permit<'_>> {
        self.take(Some(limit))
    }

    /// Takes a permit if there is one. Waits for nobody but a process that is just taking or releasing one, which takes less than a microsecond; if that is stopped in the midst of it (by a
    /// signal, or a debugger), for 100 ms: then it gives `None` too.
    pub fn try_acquire(&self) -> Option<Permit<'_>> {
        let state = self.state();
        let _held = Held::take_whole(&state.lock, Some(TRY_LIMIT))?;
        let taken = state.try_take() || state.forget_the_dead() && state.try_take();
        taken.then(|| Permit { semaphore: self })
    }

    fn take(&self, limit: Option<Duration>) -> Option<Permit<'_>> {
        let state = self.state();
        let mut slices = Slices::new(limit);
        let mut slept = false;
        loop {
            let count = state.released.load();
            let held = Held::take_whole(&state.lock, limit)?;
            if state.try_take() || slept && state.forget_the_dead() && state.try_take() {
                return Some(Permit { semaphore: self });
            }
            state.wanted.store(1, Relaxed);
            drop(held);
            state.released.wait(count, Some(slices.next()?));
            slept = true;
        }
    }

    /// One permit more, also if none was taken before: for permits that one process takes (see [`Permit::forget`]) and another one gives back.
    pub fn release(&self) {
        let _ = self.add(u64::MAX);
    }

    fn add(&self, most: u64) -> Result<(), OverRelease> {
        let state = self.state();
        let held = Held::take_whole(&state.lock, None);
        if state.total.load(Relaxed) >= most {
            return Err(OverRelease);
        }
        state.total.fetch_add(1, Relaxed);
        let wanted = state.take_wish();
        drop(held);
        if wanted {
            state.released.wake(u32::MAX);
        }
        Ok(())
    }

    /// How many permits are free just now.
    #[must_use]
    pub fn available(&self) -> u64 {
        let _held = Held::take_whole(&self.state().lock, None);
        self.state().available()
    }
}

impl BoundedSemaphore {
    /// A semaphore with so many permits, and never more.
    ///
    /// # Errors
    /// There is no memory, or no descriptor is free.
    pub fn new(permits: u32) -> io::Result<BoundedSemaphore> {
        Semaphore::create(BOUNDED, permits).map(|inner| BoundedSemaphore { inner })
    }

    /// See [`Semaphore::acquire`].
    pub fn acquire(&self) -> Permit<'_> {
        self.inner.acquire()
    }

    /// See [`Semaphore::acquire_timeout`].
    pub fn acquire_timeout(&self, limit: Duration) -> Option<Permit<'_>> {
        self.inner.acquire_timeout(limit)
    }

    /// See [`Semaphore::try_acquire`].
    pub fn try_acquire(&self) -> Option<Permit<'_>> {
        self.inner.try_acquire()
    }

    /// Gives a permit back that was taken and [forgotten](Permit::forget), here or elsewhere.
    ///
    /// # Errors
    /// [`OverRelease`] if all permits are free, or held by somebody who will give them back.
    pub fn release(&self) -> Result<(), OverRelease> {
        self.inner.add(self.inner.state().first.load(Relaxed))
    }

    /// See [`Semaphore::available`].
    #[must_use]
    pub fn available(&self) -> u64 {
        self.inner.available()
    }
}

impl Permit<'_> {
    /// Keeps the permit taken, beyond the life of this process: it is given back by [`release`](Semaphore::release), by whom it may be.
    pub fn forget(self) {
        let state = self.semaphore.state();
        let _held = Held::take_whole(&state.lock, None);
        // in this order: between the two, there is one permit too few, held by a process whose death sets it right
        state.total.fetch_sub(1, Relaxed);
        state.give_back();
        std::mem::forget(self);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let state = self.semaphore.state();
        let held = Held::take_whole(&state.lock, None);
        state.give_back();
        let wanted = state.take_wish();
        drop(held);
        if wanted {
            state.released.wake(u32::MAX);
        }
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore").finish_non_exhaustive()
    }
}

impl fmt::Debug for BoundedSemaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundedSemaphore").finish_non_exhaustive()
    }
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").finish_non_exhaustive()
    }
}

travels!([] Semaphore, [PLAIN], |object| Ok(Semaphore { object: object.at_least(BYTES)? }));

impl Serialize for BoundedSemaphore {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.inner.object.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for BoundedSemaphore {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Object::deserialize(&[BOUNDED], deserializer)?;
        let object = object.at_least(BYTES).map_err(serde::de::Error::custom)?;
        Ok(BoundedSemaphore { inner: Semaphore { object } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trying_does_not_wait_for_a_holder_that_is_stopped() {
        let permits = Semaphore::new(1).unwrap();
        let stopped = Held::take_whole(&permits.state().lock, None);
        assert!(permits.try_acquire().is_none());
        drop(stopped);
        assert!(permits.try_acquire().is_some());
    }
}
