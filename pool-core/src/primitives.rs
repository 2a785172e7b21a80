//! The locks and flags of the code that is model-checked: loom's under `--cfg loom`, std's otherwise.

use std::sync::PoisonError;

#[cfg(loom)]
pub(crate) use loom::sync::atomic::AtomicBool;
#[cfg(loom)]
pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::AtomicBool;
#[cfg(not(loom))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};

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
