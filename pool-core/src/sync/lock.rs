//! A lock, and the guard that all others are made of.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::Slices;
use super::poison::{LockResult, Poisoned, Recover, TryLockError, TryLockResult, never_timed_out};
use super::word::LockWord;
use crate::shm::object::{Object, What, travels};
use crate::sys::identity::{is_gone, me};

/// A lock word that this thread holds.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    word: &'a LockWord,
    poisoned: bool,
    /// The thread was unwinding already when it took the lock.
    unwinding: bool,
    /// Let go by the thread that took it.
    _not_send: PhantomData<*mut ()>,
}

impl<'a> Held<'a> {
    fn of(word: &'a LockWord, poisoned: bool) -> TryLockResult<Held<'a>> {
        let unwinding = std::thread::panicking();
        let held = Held { word, poisoned, unwinding, _not_send: PhantomData };
        if poisoned { Err(TryLockError::Poisoned(Poisoned(held))) } else { Ok(held) }
    }

    /// Waits for the lock; `None`: for ever.
    #[inline]
    pub(crate) fn take(word: &'a LockWord, limit: Option<Duration>) -> TryLockResult<Held<'a>> {
        if word.try_free(me()) {
            return Held::of(word, false);
        }
        Held::take_slowly(word, limit)
    }

    #[cold]
    fn take_slowly(word: &'a LockWord, limit: Option<Duration>) -> TryLockResult<Held<'a>> {
        let mut slices = Slices::new(limit);
        match word.take(me(), is_gone, || slices.next().map(Some)) {
            Some(taken) => Held::of(word, taken.poisoned),
            None => Held::try_take(word),
        }
    }

    /// Takes the lock if nobody alive holds it.
    pub(crate) fn try_take(word: &'a LockWord) -> TryLockResult<Held<'a>> {
        match word.try_take(me(), is_gone) {
            Some(taken) => Held::of(word, taken.poisoned),
            None => Err(TryLockError::WouldBlock),
        }
    }

    /// For state that is whole at every instruction: a death is nothing to be told of.
    pub(crate) fn take_whole(word: &'a LockWord, limit: Option<Duration>) -> Option<Held<'a>> {
        match Held::take(word, limit) {
            Ok(held) => Some(held),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.recover()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// For [`Condition`](super::Condition): lets the lock go, does something, and takes it again; whether it is poisoned then.
    pub(crate) fn unlocked(&mut self, work: &mut dyn FnMut()) -> bool {
        self.word.release(me(), self.poisoned);
        work();
        // the guard must hold the lock again, so there is no limit
        self.poisoned = match Held::take(self.word, None) {
            Ok(held) => {
                std::mem::forget(held);
                false
            }
            Err(error) => {
                std::mem::forget(error);
                true
            }
        };
        self.poisoned
    }

    /// A panic from now on leaves nothing half changed.
    pub(crate) fn trust(&mut self) {
        self.unwinding = true;
    }
}

impl Recover for Held<'_> {
    fn clear_poison(&mut self) {
        self.poisoned = false;
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.word.release(me(), self.poisoned || !self.unwinding && std::thread::panicking());
    }
}

/// The same answer, with another guard inside.
pub(crate) fn wrap<G, H>(result: TryLockResult<G>, guard: impl FnOnce(G) -> H) -> TryLockResult<H> {
    match result {
        Ok(held) => Ok(guard(held)),
        Err(TryLockError::Poisoned(Poisoned(held))) => {
            Err(TryLockError::Poisoned(Poisoned(guard(held))))
        }
        Err(TryLockError::WouldBlock) => Err(TryLockError::WouldBlock),
    }
}

/// A lock that processes and threads share. A holder that is killed never blocks the others.
///
/// When the holder's process has ended, however it ended, the next one that wants the lock gets it within some milliseconds, and is told:
/// [`lock`](Lock::lock) then gives the guard inside of [`Poisoned`]. A panic while the lock is held is told in the same way.
///
/// Cloning is cheap and gives another handle of the same lock; so does passing it to a task. It is not reentrant: a thread that takes it twice waits for itself
/// (see [`RLock`](crate::RLock)). To guard data of your own in shared memory, see [`Value`](crate::Value) and [`Array`](crate::Array), which have a lock in
/// them.
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// # pool_core::init();
/// use pool_core::Lock;
/// let pool = pool_core::Pool::new(2)?;
/// let lock = Lock::new()?;
/// let one_at_a_time = |lock: Lock, line: String| {
///     let _guard = lock.lock().unwrap_or_else(|poisoned| poisoned.recover());
///     line.len() // e.g. written to a file that all share
/// };
/// let lines = ["a", "bc"].map(|line| (lock.clone(), line.to_owned()));
/// assert_eq!(pool.starmap(one_at_a_time, lines)?, [1, 2]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Lock {
    object: Arc<Object>,
}

/// Holds a [`Lock`]; dropping it lets the lock go.
#[derive(Debug)]
#[must_use = "the lock is let go at once if the guard is dropped"]
pub struct LockGuard<'a>(pub(super) Held<'a>);

const BYTES: usize = size_of::<LockWord>();

impl Lock {
    /// A free lock.
    ///
    /// # Errors
    /// There is no memory, or no descriptor is free.
    pub fn new() -> io::Result<Lock> {
        Ok(Lock { object: Object::create(What::Lock.alone(), BYTES)? })
    }

    fn word(&self) -> &LockWord {
        self.object.words(0)
    }

    /// Takes the lock; waits until it is free.
    ///
    /// # Errors
    /// [`Poisoned`], with the guard: the last holder died or panicked.
    pub fn lock(&self) -> LockResult<LockGuard<'_>> {
        never_timed_out(wrap(Held::take(self.word(), None), LockGuard))
    }

    /// Takes the lock; waits until it is free, at most so long.
    ///
    /// # Errors
    /// [`TryLockError::WouldBlock`] when the time is up; [`TryLockError::Poisoned`], with the guard: the last holder died or panicked.
    pub fn lock_timeout(&self, limit: Duration) -> TryLockResult<LockGuard<'_>> {
        wrap(Held::take(self.word(), Some(limit)), LockGuard)
    }

    /// Takes the lock if nobody alive holds it. Never blocks.
    ///
    /// # Errors
    /// [`TryLockError::WouldBlock`] if somebody holds it; [`TryLockError::Poisoned`], with the guard: the last holder died or panicked.
    pub fn try_lock(&self) -> TryLockResult<LockGuard<'_>> {
        wrap(Held::try_take(self.word()), LockGuard)
    }
}

impl Recover for LockGuard<'_> {
    fn clear_poison(&mut self) {
        self.0.clear_poison();
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock").finish_non_exhaustive()
    }
}

travels!([] Lock, [What::Lock.alone()], |object| Ok(Lock { object: object.at_least(BYTES)? }));
