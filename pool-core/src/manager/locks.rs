//! `Lock`, `RLock` and `Condition`.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::error::{LockError, ManagerError, Poisoned, Recover};
use super::frame::{self, Op};
use super::proxy::{Proxy, proxy};

/// No time limit.
pub(super) const FOREVER: u64 = u64::MAX;

pub(super) fn nanoseconds(limit: Duration) -> u64 {
    u64::try_from(limit.as_nanos()).unwrap_or(FOREVER)
}

/// What taking a lock gives: the guard, which may be inside of [`LockError::Poisoned`].
pub type LockResult<G> = Result<G, LockError<G>>;

proxy! {
    /// A lock in a manager, for clients on any machine. (For processes of one machine, [`pool_core`](crate) has faster ones.)
    ///
    /// When the client that holds it dies, however it dies, the next taker gets the lock and is told by [`LockError::Poisoned`], with the guard inside; so is it
    /// when a guard is dropped by a panic. It is not reentrant: a thread that takes it twice waits for itself, see [`RLock`].
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// use pool_core::manager::LockError;
    /// let manager = pool_core::Manager::new()?;
    /// let lock = manager.lock()?;
    /// let guard = lock.lock().or_else(LockError::recover)?;
    /// assert!(lock.try_lock().is_err_and(|error| error.is_would_block()));
    /// drop(guard);
    /// assert!(lock.try_lock().is_ok());
    /// # Ok(())
    /// # }
    /// ```
    Lock of Lock
}

proxy! {
    /// A [`Lock`] that the thread which holds it may take again; it is free when each of the thread's guards was dropped.
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// use pool_core::manager::LockError;
    /// let manager = pool_core::Manager::new()?;
    /// let lock = manager.rlock()?;
    /// let outer = lock.lock().or_else(LockError::recover)?;
    /// let inner = lock.try_lock().or_else(LockError::recover)?;
    /// drop((outer, inner));
    /// # Ok(())
    /// # }
    /// ```
    RLock of RLock
}

/// Holds a [`Lock`]; dropping it lets the lock go.
#[must_use = "the lock is let go at once if the guard is dropped"]
pub struct LockGuard<'a>(Held<'a>);

/// Holds an [`RLock`]; dropping the last one of the thread lets the lock go.
#[must_use = "the lock is let go at once if the guard is dropped"]
pub struct RLockGuard<'a>(Held<'a>);

struct Held<'a> {
    lock: &'a Proxy,
    who: u64,
    recovered: Cell<bool>,
    was_panicking: bool,
    /// A guard belongs to a thread, as std's do.
    not_send: PhantomData<*const ()>,
}

/// The number of a guard; all differ.
fn fresh() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The number of this thread; it differs from those of guards, which does not matter.
fn this_thread() -> u64 {
    thread_local! {
        static ME: u64 = fresh();
    }
    ME.with(|me| *me)
}

impl<'a> Held<'a> {
    fn take(lock: &'a Proxy, who: u64, limit: u64) -> LockResult<Held<'a>> {
        let taken = lock.ask(Op::Lock, &[who, limit], frame::u8)?;
        let held = || Held {
            lock,
            who,
            recovered: Cell::new(false),
            was_panicking: std::thread::panicking(),
            not_send: PhantomData,
        };
        match taken {
            0 => Err(LockError::WouldBlock),
            1 => Ok(held()),
            _ => Err(LockError::Poisoned(Poisoned(held()))),
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let panicked = !self.was_panicking && std::thread::panicking();
        let says = if panicked { 1 } else { 2 * u64::from(self.recovered.get()) };
        // if the manager can't be told it has ended, or takes this client for dead
        let _ = self.lock.ask(Op::Unlock, &[self.who, says], |_| Ok(()));
    }
}

fn wrap<'a, G>(taken: LockResult<Held<'a>>, guard: impl FnOnce(Held<'a>) -> G) -> LockResult<G> {
    match taken {
        Ok(held) => Ok(guard(held)),
        Err(LockError::Poisoned(Poisoned(held))) => Err(LockError::Poisoned(Poisoned(guard(held)))),
        Err(LockError::WouldBlock) => Err(LockError::WouldBlock),
        Err(LockError::Manager(error)) => Err(LockError::Manager(error)),
    }
}

macro_rules! lock {
    ($name:ident, $guard:ident, $who:expr) => {
        impl $name {
            /// Takes the lock; waits until it is free.
            ///
            /// # Errors
            /// [`LockError::Poisoned`], with the guard: the last holder died or panicked. [`LockError::Manager`]: the manager can't be asked.
            pub fn lock(&self) -> LockResult<$guard<'_>> {
                wrap(Held::take(&self.proxy, $who, FOREVER), $guard)
            }

            /// The same, waiting at most so long.
            ///
            /// # Errors
            /// [`LockError::WouldBlock`] when the time is up, and as [`lock`](Self::lock).
            pub fn lock_timeout(&self, limit: Duration) -> LockResult<$guard<'_>> {
                wrap(Held::take(&self.proxy, $who, nanoseconds(limit)), $guard)
            }

            /// The same, without waiting.
            ///
            /// # Errors
            /// [`LockError::WouldBlock`] if somebody holds it, and as [`lock`](Self::lock).
            pub fn try_lock(&self) -> LockResult<$guard<'_>> {
                wrap(Held::take(&self.proxy, $who, 0), $guard)
            }
        }

        impl Recover for $guard<'_> {
            fn clear_poison(&mut self) {
                self.0.recovered.set(true);
            }
        }

        impl<'a> private::Inside<'a> for $guard<'a> {
            fn held(&self) -> (&'a Proxy, u64) {
                (self.0.lock, self.0.who)
            }
        }

        impl<'a> Relock<'a> for $guard<'a> {}

        impl fmt::Debug for $guard<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($guard), "(..)"))
            }
        }
    };
}

lock!(Lock, LockGuard, fresh());
lock!(RLock, RLockGuard, this_thread());

mod private {
    /// What a [`Condition`](super::Condition) needs of a guard.
    pub trait Inside<'a> {
        #[doc(hidden)]
        fn held(&self) -> (&'a super::Proxy, u64);
    }
}

/// A guard whose lock can be let go and taken again: that of a [`Lock`] or an [`RLock`].
pub trait Relock<'a>: private::Inside<'a> {}

proxy! {
    /// A condition variable in a manager: lets a lock of the same manager go, waits to be notified, and takes the lock again.
    ///
    /// If a client dies after it was notified and before it has gone on, the notification is passed on to another that waits.
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// use pool_core::{Manager, Process};
    /// use pool_core::manager::{Condition, Lock, LockError, Value};
    /// let manager = Manager::new()?;
    /// let (lock, changed, level) = (manager.lock()?, manager.condition()?, manager.value(0_u32)?);
    /// let wait = |lock: Lock, changed: Condition, level: Value<u32>| -> anyhow::Result<u32> {
    ///     let mut guard = lock.lock().or_else(LockError::recover)?;
    ///     while level.get()? < 3 {
    ///         guard = changed.wait(guard).or_else(LockError::recover)?;
    ///     }
    ///     drop(guard);
    ///     Ok(level.get()?)
    /// };
    /// let waiting = Process::spawn(wait, (lock.clone(), changed.clone(), level.clone()))?;
    /// {
    ///     let _guard = lock.lock().or_else(LockError::recover)?;
    ///     level.set(&3)?;
    ///     changed.notify_all()?;
    /// }
    /// assert_eq!(waiting.join()?, 3);
    /// # Ok(())
    /// # }
    /// ```
    Condition of Condition
}

impl Condition {
    fn wait_within<'a, G: Relock<'a>>(
        &self,
        guard: &G,
        limit: u64,
    ) -> Result<(bool, bool), ManagerError> {
        let (lock, who) = guard.held();
        if lock.link().instance != self.proxy.link().instance {
            let text = "a condition can only let go a lock of its own manager";
            return Err(ManagerError::Config(text.to_owned()));
        }
        let numbers = [lock.id(), who, limit];
        self.proxy.ask(Op::CondWait, &numbers, |body| Ok((body.u8()? != 0, body.u8()? != 0)))
    }

    /// Lets the lock go, waits until it is notified, and takes the lock again. It may be notified for no reason, so this belongs into a loop.
    ///
    /// # Errors
    /// [`LockError::Poisoned`], with the guard: somebody died or panicked with the lock meanwhile. [`LockError::Manager`]: the manager can't be asked.
    pub fn wait<'a, G: Relock<'a>>(&self, guard: G) -> LockResult<G> {
        match self.wait_within(&guard, FOREVER)? {
            (_, false) => Ok(guard),
            (_, true) => Err(LockError::Poisoned(Poisoned(guard))),
        }
    }

    /// The same, waiting at most so long for the notification; whether there was one. For the lock it waits without limit.
    ///
    /// # Errors
    /// As [`wait`](Condition::wait).
    pub fn wait_timeout<'a, G: Relock<'a>>(
        &self,
        guard: G,
        limit: Duration,
    ) -> LockResult<(G, bool)> {
        match self.wait_within(&guard, nanoseconds(limit))? {
            (notified, false) => Ok((guard, notified)),
            (notified, true) => Err(LockError::Poisoned(Poisoned((guard, notified)))),
        }
    }

    /// Waits as long as `condition` holds, which is asked with the lock held.
    ///
    /// # Errors
    /// As [`wait`](Condition::wait).
    pub fn wait_while<'a, G: Relock<'a>>(
        &self,
        mut guard: G,
        mut condition: impl FnMut() -> bool,
    ) -> LockResult<G> {
        while condition() {
            guard = self.wait(guard)?;
        }
        Ok(guard)
    }

    /// The same, waiting at most so long; whether `condition` does not hold any more.
    ///
    /// # Errors
    /// As [`wait`](Condition::wait).
    pub fn wait_while_timeout<'a, G: Relock<'a>>(
        &self,
        mut guard: G,
        limit: Duration,
        mut condition: impl FnMut() -> bool,
    ) -> LockResult<(G, bool)> {
        let start = Instant::now();
        while condition() {
            let left = limit.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Ok((guard, false));
            }
            guard = self.wait_timeout(guard, left)?.0;
        }
        Ok((guard, true))
    }

    /// Wakes one that waits, if there is one.
    ///
    /// # Errors
    /// The manager can't be asked.
    pub fn notify_one(&self) -> Result<(), ManagerError> {
        self.notify(1)
    }

    /// Wakes at most so many, those first that wait longest.
    ///
    /// # Errors
    /// The manager can't be asked.
    pub fn notify(&self, count: usize) -> Result<(), ManagerError> {
        self.proxy.ask(Op::CondNotify, &[count as u64], |_| Ok(()))
    }

    /// Wakes all that wait.
    ///
    /// # Errors
    /// The manager can't be asked.
    pub fn notify_all(&self) -> Result<(), ManagerError> {
        self.notify(usize::MAX)
    }
}
