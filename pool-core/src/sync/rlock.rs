//! A lock that its holder may take again.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::lock::Held;
use super::poison::{LockResult, Poisoned, Recover, TryLockError, TryLockResult, never_timed_out};
use super::word::LockWord;
use crate::shm::object::{Object, What, travels};
use crate::sys::identity::me;

/// A [`Lock`](crate::Lock) that the thread which holds it may take again; it is free when each of its guards has been dropped.
///
/// ```
/// let lock = pool_core::RLock::new()?;
/// let outer = lock.lock().unwrap_or_else(|poisoned| poisoned.recover());
/// let inner = lock.try_lock(); // the same thread
/// assert!(inner.is_ok());
/// drop((outer, inner));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct RLock {
    object: Arc<Object>,
}

/// Holds an [`RLock`]; dropping the last one of the thread lets the lock go.
#[must_use = "the lock is let go at once if the guard is dropped"]
pub struct RLockGuard<'a> {
    object: &'a Object,
    /// Only in the first one of the thread. It lives as long as any: see `drop`.
    poisoned: bool,
    unwinding: bool,
    _not_send: PhantomData<*mut ()>,
}

const BYTES: usize = size_of::<LockWord>();

/// This thread among those of its process; never 0.
fn this_thread() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    thread_local! {
        static NUMBER: Cell<u64> = const { Cell::new(0) };
    }
    NUMBER.with(|number| {
        if number.get() == 0 {
            number.set(NEXT.fetch_add(1, Relaxed));
        }
        number.get()
    })
}

impl RLock {
    /// A free lock.
    ///
    /// # Errors
    /// There is no memory, or no descriptor is free.
    pub fn new() -> io::Result<RLock> {
        Ok(RLock { object: Object::create(What::RLock.alone(), BYTES)? })
    }

    /// Takes the lock; waits until no other thread holds it.
    ///
    /// # Errors
    /// [`Poisoned`], with the guard: the last holder died or panicked.
    pub fn lock(&self) -> LockResult<RLockGuard<'_>> {
        never_timed_out(self.take(|word| Held::take(word, None)))
    }

    /// Takes the lock; waits until no other thread holds it, at most so long.
    ///
    /// # Errors
    /// [`TryLockError::WouldBlock`] when the time is up; [`TryLockError::Poisoned`], with the guard: the last holder died or panicked.
    pub fn lock_timeout(&self, limit: Duration) -> TryLockResult<RLockGuard<'_>> {
        self.take(|word| Held::take(word, Some(limit)))
    }

    /// Takes the lock if no other thread holds it. Never blocks.
    ///
    /// # Errors
    /// [`TryLockError::WouldBlock`] if another thread holds it; [`TryLockError::Poisoned`], with the guard: the last holder died or panicked.
    pub fn try_lock(&self) -> TryLockResult<RLockGuard<'_>> {
        self.take(Held::try_take)
    }

    /// The thread that holds the lock is known only within its process: no other one has to know it, and it is forgotten when the process dies.
    fn take<'a>(
        &'a self,
        first: impl FnOnce(&'a LockWord) -> TryLockResult<Held<'a>>,
    ) -> TryLockResult<RLockGuard<'a>> {
        let object = &*self.object;
        let guard = |poisoned| RLockGuard {
            object,
            poisoned,
            unwinding: std::thread::panicking(),
            _not_send: PhantomData,
        };
        // only this thread writes its own number there
        if object.thread.load(Relaxed) == this_thread() {
            object.depth.fetch_add(1, Relaxed);
            return Ok(guard(false));
        }
        let poisoned = match first(object.words(0)) {
            Ok(held) => {
                std::mem::forget(held);
                false
            }
            Err(TryLockError::Poisoned(Poisoned(held))) => {
                std::mem::forget(held);
                true
            }
            Err(TryLockError::WouldBlock) => return Err(TryLockError::WouldBlock),
        };
        object.thread.store(this_thread(), Relaxed);
        object.depth.store(1, Relaxed);
        object.tainted.store(poisoned, Relaxed);
        let guard = guard(poisoned);
        if poisoned { Err(TryLockError::Poisoned(Poisoned(guard))) } else { Ok(guard) }
    }
}

impl Recover for RLockGuard<'_> {
    fn clear_poison(&mut self) {
        self.object.tainted.store(false, Relaxed);
        self.poisoned = false;
    }
}

impl Drop for RLockGuard<'_> {
    fn drop(&mut self) {
        if !self.unwinding && std::thread::panicking() {
            self.object.tainted.store(true, Relaxed);
        }
        if self.object.depth.fetch_sub(1, Relaxed) == 1 {
            self.object.thread.store(0, Relaxed);
            let word: &LockWord = self.object.words(0);
            word.release(me(), self.object.tainted.load(Relaxed));
        }
    }
}

impl fmt::Debug for RLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RLock").finish_non_exhaustive()
    }
}

impl fmt::Debug for RLockGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RLockGuard").field("poisoned", &self.poisoned).finish_non_exhaustive()
    }
}

travels!([] RLock, [What::RLock.alone()], |object| Ok(RLock { object: object.at_least(BYTES)? }));
