//! A word on which processes sleep. In models it is a lock and a condition variable, which do the same and which loom knows.

use std::time::Duration;

#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, fence};

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, fence};

use std::sync::atomic::Ordering::{Acquire, Release};

use crate::shm::object::Words;
use crate::sys::futex::Woken;

/// Counts the occasions on which somebody was woken. Waiting for the next: [`load`](Futex::load), look at what is waited for, [`wait`](Futex::wait). Whoever
/// changes that calls [`wake`](Futex::wake) afterwards, so a change after the look is a wait that ends at once.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Futex {
    count: AtomicU32,
    #[cfg(loom)]
    bed: (loom::sync::Mutex<()>, loom::sync::Condvar),
}

// SAFETY: one atomic. (A model makes its own, outside shared memory.)
unsafe impl Words for Futex {}

impl Futex {
    pub(crate) fn load(&self) -> u32 {
        self.count.load(Acquire)
    }
}

#[cfg(not(loom))]
impl Futex {
    /// Sleeps until it is woken, or the limit.
    pub(crate) fn wait(&self, count: u32, limit: Option<Duration>) -> Woken {
        crate::sys::futex::wait(&self.count, count, limit)
    }

    /// Wakes at most so many.
    pub(crate) fn wake(&self, sleepers: u32) {
        self.count.fetch_add(1, Release);
        crate::sys::futex::wake(&self.count, sleepers);
    }
}

#[cfg(loom)]
impl Futex {
    pub(crate) fn new() -> Futex {
        let bed = (loom::sync::Mutex::new(()), loom::sync::Condvar::new());
        Futex { count: AtomicU32::new(0), bed }
    }

    /// With a limit: time passes at once, which also stands for a wake-up that never comes.
    pub(crate) fn wait(&self, count: u32, limit: Option<Duration>) -> Woken {
        if limit.is_some() {
            loom::thread::yield_now();
            return Woken::TimedOut;
        }
        let guard = crate::primitives::lock(&self.bed.0);
        if self.load() == count {
            drop(crate::primitives::unpoisoned(self.bed.1.wait(guard)));
        }
        Woken::Maybe
    }

    pub(crate) fn wake(&self, sleepers: u32) {
        self.count.fetch_add(1, Release);
        let _guard = crate::primitives::lock(&self.bed.0);
        if sleepers == 1 { self.bed.1.notify_one() } else { self.bed.1.notify_all() }
    }
}
