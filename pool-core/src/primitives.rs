//! The locks of the code that is model-checked: loom's under `--cfg loom`, std's otherwise.

use std::sync::PoisonError;

#[cfg(loom)]
pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(loom))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};

/// Locks; see [`unpoisoned`].
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    unpoisoned(mutex.lock())
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
