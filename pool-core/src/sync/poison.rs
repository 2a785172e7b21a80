//! How the taker of a lock is told that its last holder died, or panicked, while holding it.

use std::fmt;

/// The lock was taken, but its last holder died or panicked while holding it, so what it guards may be half changed. The guard is inside: nobody is kept out.
///
/// Look at what the lock guards, repair it, and say so with [`recover`](Poisoned::recover); until somebody does, every taker is told.
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// use pool_core::Value;
/// let total = Value::new(7_u64)?;
/// let mut guard = total.lock().unwrap_or_else(|poisoned| {
///     let mut guard = poisoned.recover();
///     *guard = 0; // begins anew
///     guard
/// });
/// *guard += 1;
/// assert_eq!(*guard, 8);
/// # Ok(())
/// # }
/// ```
pub struct Poisoned<G>(pub(crate) G);

/// What [`lock`](crate::Lock::lock) gives: the guard in either case.
pub type LockResult<G> = Result<G, Poisoned<G>>;

/// What [`try_lock`](crate::Lock::try_lock) and [`lock_timeout`](crate::Lock::lock_timeout) give.
pub type TryLockResult<G> = Result<G, TryLockError<G>>;

/// Why a lock was not taken within the time, or not taken as it should be.
pub enum TryLockError<G> {
    /// The lock was taken, and its last holder died or panicked: see [`Poisoned`].
    Poisoned(Poisoned<G>),
    /// The lock was not free within the time.
    WouldBlock,
}

/// A guard whose lock can be declared repaired.
pub trait Recover {
    /// Later takers of the lock are not told any more.
    #[doc(hidden)]
    fn clear_poison(&mut self);
}

impl<G> Poisoned<G> {
    /// The guard; later takers are still told.
    pub fn into_inner(self) -> G {
        self.0
    }

    /// Looks through the guard.
    pub fn get_ref(&self) -> &G {
        &self.0
    }

    /// Changes something through the guard.
    pub fn get_mut(&mut self) -> &mut G {
        &mut self.0
    }

    /// The guard; what the lock guards is, or is going to be, whole again, and later takers are not told.
    pub fn recover(mut self) -> G
    where
        G: Recover,
    {
        self.0.clear_poison();
        self.0
    }
}

impl<G> TryLockError<G> {
    /// Whether the time was up.
    pub fn is_would_block(&self) -> bool {
        matches!(self, TryLockError::WouldBlock)
    }
}

impl<G> From<Poisoned<G>> for TryLockError<G> {
    fn from(poisoned: Poisoned<G>) -> Self {
        TryLockError::Poisoned(poisoned)
    }
}

impl<G> fmt::Debug for Poisoned<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Poisoned(..)")
    }
}

impl<G> fmt::Display for Poisoned<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the last holder of the lock died or panicked while holding it: take it with recover(), which clears this, or as it is with into_inner()")
    }
}

impl<G> std::error::Error for Poisoned<G> {}

impl<G> fmt::Debug for TryLockError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TryLockError::Poisoned(_) => "Poisoned(..)",
            TryLockError::WouldBlock => "WouldBlock",
        })
    }
}

impl<G> fmt::Display for TryLockError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TryLockError::Poisoned(poisoned) => poisoned.fmt(f),
            TryLockError::WouldBlock => f.write_str("the lock was not free within the time"),
        }
    }
}

impl<G> std::error::Error for TryLockError<G> {}

/// For waits without a limit, which end only with the lock taken.
pub(crate) fn never_timed_out<G>(result: TryLockResult<G>) -> LockResult<G> {
    match result {
        Ok(guard) => Ok(guard),
        Err(TryLockError::Poisoned(poisoned)) => Err(poisoned),
        Err(TryLockError::WouldBlock) => unreachable!("there was no limit"),
    }
}
