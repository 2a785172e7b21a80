//! The locks and flags of the code that is model-checked: loom's under `--cfg loom`, std's otherwise.

use std::sync::{Arc, PoisonError};
use std::task::{Wake, Waker};
use std::time::Instant;

#[cfg(loom)]
use loom::sync::Condvar;
#[cfg(loom)]
pub(crate) use loom::sync::atomic::AtomicU8;
#[cfg(loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard};
#[cfg(not(loom))]
use std::sync::Condvar;
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::AtomicU8;
#[cfg(not(loom))]
pub(crate) use std::sync::{Mutex, MutexGuard};

/// Locks; see [`unpoisoned`].
#[cfg(not(loom))]
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    unpoisoned(mutex.lock())
}

/// Locks: in models loom's, and std's in the code around them.
#[cfg(loom)]
pub(crate) fn lock<'a, M: Lockable<'a>>(mutex: &'a M) -> M::Guard {
    mutex.guard()
}

#[cfg(loom)]
pub(crate) trait Lockable<'a> {
    type Guard;
    fn guard(&'a self) -> Self::Guard;
}

#[cfg(loom)]
impl<'a, T: 'a> Lockable<'a> for Mutex<T> {
    type Guard = MutexGuard<'a, T>;
    fn guard(&'a self) -> Self::Guard {
        unpoisoned(self.lock())
    }
}

#[cfg(loom)]
impl<'a, T: 'a> Lockable<'a> for std::sync::Mutex<T> {
    type Guard = std::sync::MutexGuard<'a, T>;
    fn guard(&'a self) -> Self::Guard {
        unpoisoned(self.lock())
    }
}

#[cfg(loom)]
impl<'a, L: Lockable<'a>> Lockable<'a> for std::sync::Arc<L> {
    type Guard = L::Guard;
    fn guard(&'a self) -> Self::Guard {
        (**self).guard()
    }
}

/// What one thread sleeps on until its waker is woken. Not std's parking: a wake-up there may be meant for the user's own code.
pub(crate) struct Parker(Arc<Alarm>);

struct Alarm {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        *lock(&self.rung) = true;
        self.changed.notify_one();
    }
}

impl Parker {
    pub(crate) fn new() -> Parker {
        Parker(Arc::new(Alarm { rung: Mutex::new(false), changed: Condvar::new() }))
    }

    /// That of this thread.
    #[cfg(not(loom))]
    pub(crate) fn of_this_thread() -> Parker {
        thread_local! {
            static PARKER: Parker = Parker::new();
        }
        // a thread that is ending may have none any more
        PARKER.try_with(|parker| Parker(Arc::clone(&parker.0))).unwrap_or_else(|_| Parker::new())
    }

    #[cfg(loom)]
    pub(crate) fn of_this_thread() -> Parker {
        Parker::new()
    }

    pub(crate) fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.0))
    }

    /// Sleeps until the waker is woken, or was since the last time, or until the deadline: then it gives `false`.
    pub(crate) fn park(&self, deadline: Option<Instant>) -> bool {
        let mut rung = lock(&self.0.rung);
        while !*rung {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            rung = match left {
                None => unpoisoned(self.0.changed.wait(rung)),
                Some(left) if left.is_zero() => break,
                Some(left) => unpoisoned(self.0.changed.wait_timeout(rung, left)).0,
            };
        }
        std::mem::take(&mut *rung)
    }
}

/// The guard, also after a thread has panicked with the lock held: the state behind the pool's locks is changed in steps that can't
/// panic half way.
pub(crate) fn unpoisoned<G>(result: Result<G, PoisonError<G>>) -> G {
    result.unwrap_or_else(PoisonError::into_inner)
}

/// Calls the user's code where a panic of it must end nothing else. The panic hook has reported it.
pub(crate) fn unharmed(call: impl FnOnce()) {
    if let Err(payload) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)) {
        // its drop is the user's code too, and may panic
        std::mem::forget(payload);
    }
}
