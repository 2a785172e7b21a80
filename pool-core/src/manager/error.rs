//! What can go wrong with a manager, and how the taker of a lock is told what its last holder left.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::codec::Unencodable;

/// Why an operation on a [`Manager`](crate::Manager) or one of its objects has no result.
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// # pool_core::init();
/// use pool_core::Manager;
/// use pool_core::manager::ManagerError;
/// let manager = Manager::new()?;
/// let list = manager.list([1_u32, 2])?;
/// assert_eq!(list.set(7, &1), Err(ManagerError::OutOfRange { index: 7, len: 2 }));
/// manager.shutdown();
/// assert!(matches!(list.len(), Err(ManagerError::Died { .. })));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ManagerError {
    /// The manager has ended, or the connection to it is broken. Whether the operation was done is not known.
    #[error("the manager at {address} has ended or can't be reached: {reason}")]
    Died {
        /// Its address.
        address: String,
        /// What was noticed.
        reason: String,
    },
    /// The manager is there, but does not answer: it is stopped, or its machine is. When it goes on it may take this process for dead, as the connection was
    /// given up: locks and objects that only this process has may then be gone.
    #[error("the manager at {address} does not answer (waited for {waited:?})")]
    Unresponsive {
        /// Its address.
        address: String,
        /// How long it did not answer.
        waited: Duration,
    },
    /// The two sides have not the same key.
    #[error("the manager at {address} has another key")]
    WrongKey {
        /// Its address.
        address: String,
    },
    /// What answers is no manager, or one of another version; or the two sides do not understand each other.
    #[error("no understanding with the manager at {address}: {reason}")]
    Protocol {
        /// Its address.
        address: String,
        /// What was wrong.
        reason: String,
    },
    /// A setting makes no sense; the text says which and why.
    #[error("{0}")]
    Config(String),
    /// The server could not be started.
    #[error("the manager did not start: {0}")]
    StartFailed(String),
    /// The object was released, or all its proxies were dropped.
    #[error("the manager has no such object (any more)")]
    NoSuchObject,
    /// Nothing was published by this name.
    #[error("nothing is published as {0:?}")]
    NotPublished(String),
    /// The object is of another kind than its proxy.
    #[error("the object is a {found}, not a {expected}")]
    WrongKind {
        /// What the proxy is for.
        expected: String,
        /// What the object is.
        found: String,
    },
    /// There is no such element.
    #[error("the index is {index}, the length {len}")]
    OutOfRange {
        /// What was asked for.
        index: u64,
        /// How many elements there are.
        len: u64,
    },
    /// The manager has no type of this name.
    #[error("the manager has no type {name:?}; it has {known:?}")]
    UnknownType {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The type has no method of this name.
    #[error("the type has no method {name:?}; it has {known:?}")]
    UnknownMethod {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// Functions can be run in the manager only by copies of its executable.
    #[error(
        "the manager runs another executable than this program, so it can't call this function"
    )]
    OtherExecutable,
    /// A function that ran in the manager has returned this error.
    #[error("{0}")]
    Failed(String),
    /// A function that ran in the manager has panicked. The manager goes on.
    #[error("a function panicked in the manager: {message} (at {location})")]
    Panicked {
        /// The message of the panic.
        message: String,
        /// `file:line:column`.
        location: String,
    },
    /// A value could not be encoded.
    #[error("cannot encode: {0}")]
    Encode(String),
    /// A value could not be decoded: it is not what this proxy's type says.
    #[error("cannot decode: {0}")]
    Decode(String),
    /// The value is larger than a frame may be.
    #[error("the value takes {size} bytes or more; a manager takes {limit}")]
    TooLarge {
        /// Its size, as far as it was encoded.
        size: u64,
        /// The largest that goes.
        limit: u64,
    },
    /// The queue had no room within the time.
    #[error("the queue was full for all the time")]
    Full,
    /// The queue had no item within the time.
    #[error("the queue was empty for all the time")]
    Empty,
    /// The queue was closed (and is empty).
    #[error("the queue was closed")]
    Closed,
    /// `task_done` was called more often than there were items.
    #[error("task_done was called more often than there were items")]
    TooManyDone,
    /// More permits were released than were taken from a bounded semaphore.
    #[error("more permits were released than had been taken")]
    OverRelease,
    /// The lock was not free within the time: see [`LockError::WouldBlock`].
    #[error("the lock was not free within the time")]
    WouldBlock,
    /// The last holder of the lock died or panicked while holding it: see [`LockError::Poisoned`].
    #[error("the last holder of the lock died or panicked while holding it")]
    Poisoned,
    /// The lock is not held by this guard any more.
    #[error("the lock is not held by this guard (any more)")]
    NotHeld,
    /// The barrier was broken: a party died, gave up, or called `abort` or `reset`.
    #[error("the barrier is broken")]
    BrokenBarrier,
    /// The operating system refused something.
    #[error("{what}: {error}")]
    Os {
        /// What was asked for.
        what: String,
        /// The system's answer.
        error: String,
    },
}

impl ManagerError {
    pub(super) fn os(what: &str) -> impl Fn(std::io::Error) -> ManagerError {
        move |error| ManagerError::Os { what: what.to_owned(), error: error.to_string() }
    }

    pub(super) fn unencodable(error: Unencodable, limit: u64) -> ManagerError {
        match error {
            Unencodable::TooLarge(size) => ManagerError::TooLarge { size, limit },
            Unencodable::Refused(text) => ManagerError::Encode(text),
        }
    }
}

/// The lock was taken, but its last holder died or panicked while holding it, so what it guards may be half changed. The guard is inside: nobody is
/// kept out.
///
/// Until somebody says [`recover`](Poisoned::recover), every taker is told.
pub struct Poisoned<G>(pub(super) G);

impl<G> Poisoned<G> {
    /// The guard; later takers are still told.
    pub fn into_inner(self) -> G {
        self.0
    }

    /// Looks through the guard.
    pub fn get_ref(&self) -> &G {
        &self.0
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

/// A guard whose lock can be declared repaired.
pub trait Recover {
    /// Later takers of the lock are not told any more.
    #[doc(hidden)]
    fn clear_poison(&mut self);
}

/// Why a lock was not taken, or not taken as it should be.
pub enum LockError<G> {
    /// The lock was taken, and its last holder died or panicked: see [`Poisoned`].
    Poisoned(Poisoned<G>),
    /// The lock was not free within the time.
    WouldBlock,
    /// The manager could not be asked.
    Manager(ManagerError),
}

impl<G> LockError<G> {
    /// The guard of a poisoned lock, which is declared repaired: `lock.lock().or_else(LockError::recover)?`.
    ///
    /// # Errors
    /// The other two.
    pub fn recover(self) -> Result<G, ManagerError>
    where
        G: Recover,
    {
        match self {
            LockError::Poisoned(poisoned) => Ok(poisoned.recover()),
            other => Err(other.into()),
        }
    }

    /// Whether the time was up.
    #[must_use]
    pub fn is_would_block(&self) -> bool {
        matches!(self, LockError::WouldBlock)
    }

    /// Whether the lock was taken after its last holder had died or panicked.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        matches!(self, LockError::Poisoned(_))
    }
}

impl<G> From<ManagerError> for LockError<G> {
    fn from(error: ManagerError) -> Self {
        LockError::Manager(error)
    }
}

/// Without the guard, which is dropped.
impl<G> From<LockError<G>> for ManagerError {
    fn from(error: LockError<G>) -> Self {
        match error {
            LockError::Poisoned(_) => ManagerError::Poisoned,
            LockError::WouldBlock => ManagerError::WouldBlock,
            LockError::Manager(error) => error,
        }
    }
}

impl<G> fmt::Debug for Poisoned<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Poisoned(..)")
    }
}

impl<G> fmt::Display for Poisoned<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the last holder of the lock died or panicked while holding it")
    }
}

impl<G> std::error::Error for Poisoned<G> {}

impl<G> fmt::Debug for LockError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LockError::Poisoned(_) => f.write_str("Poisoned(..)"),
            LockError::WouldBlock => f.write_str("WouldBlock"),
            LockError::Manager(error) => f.debug_tuple("Manager").field(error).finish(),
        }
    }
}

impl<G> fmt::Display for LockError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LockError::Poisoned(poisoned) => poisoned.fmt(f),
            LockError::WouldBlock => f.write_str("the lock was not free within the time"),
            LockError::Manager(error) => error.fmt(f),
        }
    }
}

impl<G> std::error::Error for LockError<G> {}
