//! Waiting, with a lock let go meanwhile, until somebody says that something has changed.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed};
use std::time::Duration;

use super::lock::LockGuard;
use super::poison::{LockResult, Poisoned, TryLockError};
use super::{Futex, Slices};
use crate::shm::object::{Object, What, Words, travels};
use crate::sys::identity::{TOKEN_BITS, is_gone, me};

/// A condition variable across processes: [`wait`](Condition::wait) lets a lock go and waits to be notified.
///
/// The guard may be that of a [`Lock`](crate::Lock), a [`Value`](crate::Value) or an [`Array`](crate::Array). A wait may end without a notification, so it belongs into a loop, which
/// [`wait_while`](Condition::wait_while) is. If a process is killed after it was notified and before it has gone on, the notification is passed
/// on to another that waits. At most 250 threads wait in order; more are woken too often, and none too seldom.
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// # pool_core::init();
/// use pool_core::{Condition, Poisoned, Value};
/// let pool = pool_core::Pool::new(1)?;
/// let (changed, level) = (Condition::new()?, Value::new(0_u32)?);
/// let wait = |changed: Condition, level: Value<u32>| {
///     let level = level.lock().unwrap_or_else(Poisoned::into_inner);
///     *changed.wait_while(level, |level| **level < 3).unwrap_or_else(Poisoned::into_inner)
/// };
/// let waiting = pool.apply_async(wait, (changed.clone(), level.clone()))?;
/// for _ in 0..3 {
///     level.update(|level| *level += 1);
///     changed.notify_one();
/// }
/// assert_eq!(waiting.get()?, 3);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Condition {
    object: Arc<Object>,
}

/// A guard whose lock can be let go and taken again: that of a [`Lock`](crate::Lock), a [`Value`](crate::Value) or an [`Array`](crate::Array).
pub trait Relock: sealed::Held {}

pub(crate) mod sealed {
    /// The lock that a guard holds.
    pub trait Held {
        /// Lets the lock go, calls `work`, takes the lock again; whether the lock was poisoned meanwhile.
        fn unlocked(&mut self, work: &mut dyn FnMut()) -> bool;
    }
}

impl Relock for LockGuard<'_> {}

impl sealed::Held for LockGuard<'_> {
    fn unlocked(&mut self, work: &mut dyn FnMut()) -> bool {
        self.0.unlocked(work)
    }
}

const PLACES: usize = 250;

const WAITS: u64 = 0;
const NOTIFIED: u64 = 1 << TOKEN_BITS;
const STATE: u64 = NOTIFIED;

#[repr(C)]
struct State {
    places: [Place; PLACES],
    /// For those without a place.
    crowd: Futex,
}

/// Each change is one compare-and-swap of `who`.
#[repr(C)]
struct Place {
    /// 0: free. Else the process that waits here, and whether it has been notified.
    who: AtomicU64,
    notified: Futex,
    _gap: Futex,
}

// SAFETY: atomics only.
unsafe impl Words for State {}

const BYTES: usize = size_of::<State>();

impl Place {
    fn swap(&self, from: u64, to: u64) -> bool {
        self.who.compare_exchange(from, to, AcqRel, Acquire).is_ok()
    }

    /// Notifies who waits here, if somebody does.
    fn notify(&self) -> bool {
        let who = self.who.load(Acquire);
        if who == 0 || who & STATE != WAITS || !self.swap(who, who | NOTIFIED) {
            return false;
        }
        self.notified.wake(u32::MAX);
        true
    }
}

impl Condition {
    /// A condition for which nobody waits.
    ///
    /// # Errors
    /// There is no memory, or no descriptor is free.
    pub fn new() -> io::Result<Condition> {
        Ok(Condition { object: Object::create(What::Condition.alone(), BYTES)? })
    }

    fn state(&self) -> &State {
        self.object.words(0)
    }

    /// Lets the lock go, waits until it is notified, and takes the lock again.
    ///
    /// # Errors
    /// [`Poisoned`], with the guard: a holder of the lock died or panicked meanwhile.
    pub fn wait<G: Relock>(&self, guard: G) -> LockResult<G> {
        self.wait_in(guard, &mut Slices::new(None)).1
    }

    /// Like [`wait`](Condition::wait), for so long at most, and as long as it takes to get the lock again. Gives the guard, and whether it was
    /// notified.
    ///
    /// # Errors
    /// [`Poisoned`], with the guard: a holder of the lock died or panicked meanwhile.
    pub fn wait_timeout<G: Relock>(&self, guard: G, limit: Duration) -> LockResult<(G, bool)> {
        let (notified, guard) = self.wait_in(guard, &mut Slices::new(Some(limit)));
        match guard {
            Ok(guard) => Ok((guard, notified)),
            Err(Poisoned(guard)) => Err(Poisoned((guard, notified))),
        }
    }

    /// Waits as long as `condition` holds; it is looked at with the lock held, first at once.
    ///
    /// # Errors
    /// [`Poisoned`], with the guard: a holder of the lock died or panicked meanwhile.
    pub fn wait_while<G: Relock>(
        &self,
        mut guard: G,
        mut condition: impl FnMut(&mut G) -> bool,
    ) -> LockResult<G> {
        while condition(&mut guard) {
            guard = self.wait(guard)?;
        }
        Ok(guard)
    }

    /// Like [`wait_while`](Condition::wait_while), for so long at most. Gives the guard, and whether the condition has ceased to hold.
    ///
    /// # Errors
    /// [`TryLockError::Poisoned`], with the guard: a holder of the lock died or panicked meanwhile.
    pub fn wait_while_timeout<G: Relock>(
        &self,
        mut guard: G,
        limit: Duration,
        mut condition: impl FnMut(&mut G) -> bool,
    ) -> Result<(G, bool), TryLockError<G>> {
        let mut slices = Slices::new(Some(limit));
        while condition(&mut guard) {
            let (notified, result) = self.wait_in(guard, &mut slices);
            guard = result?;
            if !notified && slices.is_over() {
                let over = !condition(&mut guard);
                return Ok((guard, over));
            }
        }
        Ok((guard, true))
    }

    fn wait_in<G: Relock>(&self, mut guard: G, slices: &mut Slices) -> (bool, LockResult<G>) {
        // with the lock still held: whoever takes it next finds this one waiting
        let place = self.state().places.iter().find(|place| place.swap(0, me() | WAITS));
        let crowd = self.state().crowd.load();
        let mut notified = false;
        let poisoned = guard.unlocked(&mut || {
            notified = match place {
                Some(place) => self.sleep(place, slices),
                None => {
                    let slice = slices.next();
                    slice.is_some_and(|slice| {
                        self.state().crowd.wait(crowd, Some(slice));
                        true
                    })
                }
            };
        });
        (notified, if poisoned { Err(Poisoned(guard)) } else { Ok(guard) })
    }

    /// Whether it was notified before the time was up.
    fn sleep(&self, place: &Place, slices: &mut Slices) -> bool {
        loop {
            let count = place.notified.load();
            if place.swap(me() | NOTIFIED, 0) {
                return true;
            }
            match slices.next() {
                Some(slice) => {
                    place.notified.wait(count, Some(slice));
                }
                // who notifies at the same time has notified
                None => return !place.swap(me() | WAITS, 0) && place.swap(me() | NOTIFIED, 0),
            }
            self.pass_on();
        }
    }

    /// What the dead were notified of, others are.
    fn pass_on(&self) {
        for place in &self.state().places {
            let who = place.who.load(Acquire);
            if who & STATE == NOTIFIED && is_gone(who & !STATE) && place.swap(who, 0) {
                self.notify_one();
            }
        }
    }

    /// Wakes one that waits, if there is one.
    pub fn notify_one(&self) {
        self.notify(1);
    }

    /// Wakes as many, if so many wait.
    pub fn notify(&self, count: usize) {
        let state = self.state();
        let woken = state.places.iter().filter(|place| place.notify()).take(count).count();
        if woken < count && state.places.iter().all(|place| place.who.load(Relaxed) != 0) {
            state.crowd.wake(u32::MAX);
        }
    }

    /// Wakes all that wait.
    pub fn notify_all(&self) {
        let state = self.state();
        for place in &state.places {
            place.notify();
        }
        state.crowd.wake(u32::MAX);
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Condition").finish_non_exhaustive()
    }
}

travels!([] Condition, [What::Condition.alone()], |object| {
    Ok(Condition { object: object.at_least(BYTES)? })
});
