//! Waking those who wait for something, without a system call if nobody does.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

use super::futex::{AtomicU32, Futex, fence};
use crate::shm::object::Words;

/// A futex, and whether somebody may be asleep there.
///
/// Who waits: [`listen`](Bell::listen), look, [`sleep`](Bell::sleep). Who changes what is waited for: change, [`ring`](Bell::ring). In the one order of all fences, either the look
/// comes after the change, or the wish for the bell before the ringer's look at it.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Bell {
    futex: Futex,
    wanted: AtomicU32,
}

// SAFETY: atomics only. (A model makes its own, outside shared memory.)
unsafe impl Words for Bell {}

impl Bell {
    /// To be called before the last look at what is waited for.
    pub(crate) fn listen(&self) -> u32 {
        let count = self.futex.load();
        self.wanted.store(1, Relaxed);
        fence(SeqCst);
        count
    }

    /// Sleeps until the bell is rung, or so long, unless it was rung since [`listen`](Bell::listen).
    pub(crate) fn sleep(&self, count: u32, slice: Duration) {
        self.sleep_at_most(count, Some(slice));
    }

    fn sleep_at_most(&self, count: u32, slice: Option<Duration>) {
        self.futex.wait(count, slice);
    }

    /// Wakes all that sleep. To be called after the change.
    #[inline]
    pub(crate) fn ring(&self) {
        fence(SeqCst);
        if self.wanted.load(Relaxed) != 0 {
            // the wish first: one that comes after it is for the next ring
            self.wanted.store(0, Relaxed);
            self.futex.wake(u32::MAX);
        }
    }
}

#[cfg(all(test, loom))]
mod model {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    /// Two sleepers wait for two changes, without time limits: a lost wake-up would be a deadlock, which loom reports. All interleavings with at most three
    /// preemptions.
    #[test]
    fn a_change_is_never_slept_through() {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(|| {
            let bell = Arc::new(Bell { futex: Futex::new(), wanted: AtomicU32::new(0) });
            let items = Arc::new(AtomicU32::new(0));
            let wait = |bell: &Bell, items: &AtomicU32, wanted| {
                while items.load(SeqCst) < wanted {
                    let count = bell.listen();
                    if items.load(SeqCst) < wanted {
                        bell.sleep_at_most(count, None);
                    }
                }
            };
            let sleeper = {
                let (bell, items) = (Arc::clone(&bell), Arc::clone(&items));
                thread::spawn(move || wait(&bell, &items, 2))
            };
            let ringer = {
                let (bell, items) = (Arc::clone(&bell), Arc::clone(&items));
                thread::spawn(move || {
                    for _ in 0..2 {
                        items.fetch_add(1, SeqCst);
                        bell.ring();
                    }
                })
            };
            wait(&bell, &items, 1);
            sleeper.join().unwrap();
            ringer.join().unwrap();
        });
    }
}
