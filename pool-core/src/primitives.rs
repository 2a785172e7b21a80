//! The locks and flags of the code that is model-checked: loom's under `--cfg loom`, std's otherwise.

use std::sync::{Arc, PoisonError};
use std::task::{Wake, Waker};
use std::time::Instant;

#[cfg(loom)]
pub(crate) use loom::sync::atomic::AtomicBool;
#[cfg(loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard};
#[cfg(loom)]
use loom::thread;
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::AtomicBool;
#[cfg(not(loom))]
pub(crate) use std::sync::{Mutex, MutexGuard};
#[cfg(not(loom))]
use std::thread;

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

/// Lets a parked thread go on.
struct Unparker(thread::Thread);

impl Wake for Unparker {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// A waker that ends this thread's [`park`].
#[cfg(not(loom))]
pub(crate) fn waker_of_this_thread() -> Waker {
    let new = || Waker::from(Arc::new(Unparker(thread::current())));
    thread_local! {
        static WAKER: std::cell::OnceCell<Waker> = const { std::cell::OnceCell::new() };
    }
    // a thread that is ending may have none any more
    WAKER.try_with(|waker| waker.get_or_init(new).clone()).unwrap_or_else(|_| new())
}

/// Sleeps until this thread's waker is woken, or until the deadline, or for no reason.
#[cfg(not(loom))]
pub(crate) fn park(deadline: Option<Instant>) {
    match deadline {
        None => thread::park(),
        Some(deadline) => {
            thread::park_timeout(deadline.saturating_duration_since(Instant::now()));
        }
    }
}

#[cfg(loom)]
pub(crate) fn waker_of_this_thread() -> Waker {
    Waker::from(Arc::new(Unparker(thread::current())))
}

/// A model has no time.
#[cfg(loom)]
pub(crate) fn park(_deadline: Option<Instant>) {
    thread::park();
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
