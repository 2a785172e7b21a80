//! A flag that processes wait for.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire};
use std::time::Duration;

use super::Slices;
use super::futex::AtomicU32;
use crate::shm::object::{Object, What, Words, travels};
#[cfg(not(loom))]
use crate::sys::futex;

/// A flag that processes and threads wait for: set or not.
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// # pool_core::init();
/// use pool_core::Event;
/// let pool = pool_core::Pool::new(1)?;
/// let go = Event::new()?;
/// let waiting = pool.apply_async(|go: Event| go.wait(), (go.clone(),))?;
/// go.set();
/// waiting.get()?;
/// assert!(go.is_set());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Event {
    object: Arc<Object>,
}

/// How often the event was set, times two, plus one while it is set. So whoever waits sees that it was set also if it has been cleared since.
#[repr(C)]
struct Flag(AtomicU32);

// SAFETY: an atomic.
unsafe impl Words for Flag {}

const BYTES: usize = size_of::<Flag>();

impl Event {
    /// An event that is not set.
    ///
    /// # Errors
    /// There is no memory, or no descriptor is free.
    pub fn new() -> io::Result<Event> {
        Ok(Event { object: Object::create(What::Event.alone(), BYTES)? })
    }

    fn flag(&self) -> &AtomicU32 {
        &self.object.words::<Flag>(0).0
    }

    /// Sets it; all that wait go on.
    pub fn set(&self) {
        let set = |flag: u32| (flag & 1 == 0).then(|| flag.wrapping_add(1));
        if self.flag().fetch_update(AcqRel, Acquire, set).is_ok() {
            wake_all(self.flag());
        }
    }

    /// Clears it; who waits from now on, waits for the next time.
    pub fn clear(&self) {
        let clear = |flag: u32| (flag & 1 == 1).then(|| flag.wrapping_add(1));
        // not set: nothing to be done
        let _ = self.flag().fetch_update(AcqRel, Acquire, clear);
    }

    /// Whether it is set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.flag().load(Acquire) & 1 == 1
    }

    /// Waits until it is set.
    pub fn wait(&self) {
        self.wait_for(None);
    }

    /// Waits until it is set, at most so long; returns whether it was set.
    pub fn wait_timeout(&self, limit: Duration) -> bool {
        self.wait_for(Some(limit))
    }

    /// A setter that is killed before it wakes anybody is why this looks again after each slice.
    fn wait_for(&self, limit: Option<Duration>) -> bool {
        let before = self.flag().load(Acquire);
        let mut slices = Slices::new(limit);
        while before & 1 == 0 && self.flag().load(Acquire) == before {
            let Some(slice) = slices.next() else { return false };
            sleep(self.flag(), before, slice);
        }
        true
    }
}

#[cfg(not(loom))]
fn wake_all(word: &AtomicU32) {
    futex::wake(word, u32::MAX);
}

#[cfg(not(loom))]
fn sleep(word: &AtomicU32, value: u32, slice: Duration) {
    futex::wait(word, value, Some(slice));
}

#[cfg(loom)]
use {model::sleep, model::wake_all};

/// Models make no events; this only has to compile.
#[cfg(loom)]
mod model {
    pub(super) fn wake_all(_: &super::AtomicU32) {}
    pub(super) fn sleep(_: &super::AtomicU32, _: u32, _: super::Duration) {}
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event").field("set", &self.is_set()).finish()
    }
}

travels!([] Event, [What::Event.alone()], |object| Ok(Event { object: object.at_least(BYTES)? }));
