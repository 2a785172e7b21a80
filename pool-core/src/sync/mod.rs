//! Locks and what is built on them, across processes, so that a process that is killed at any instruction blocks nobody for ever.
//!
//! Two ideas carry this. Each change of shared state is one store or one compare-and-swap, so there is no half-changed state that only the dead
//! could finish. And whoever holds something is named in shared memory by a [token](crate::sys::identity), so that those who wait can ask the kernel whether it is still
//! there. Whoever waits does so in slices, the first of a millisecond, the longest of [`LONGEST_SLICE`](crate::limits::LONGEST_SLICE): after
//! each it looks for the dead, and for a wake-up that somebody was killed before sending.
#![expect(unsafe_code, reason = "which types may lie in shared memory; see the SAFETY lines")]

mod barrier;
mod bell;
pub(crate) mod condition;
mod event;
mod futex;
pub(crate) mod lock;
pub(crate) mod poison;
mod rlock;
mod semaphore;
mod slices;
pub(crate) mod word;

pub use barrier::{Barrier, BrokenBarrier};
pub use condition::{Condition, Relock};
pub use event::Event;
pub use lock::{Lock, LockGuard};
pub use poison::{LockResult, Poisoned, Recover, TryLockError, TryLockResult};
pub use rlock::{RLock, RLockGuard};

pub use semaphore::{BoundedSemaphore, OverRelease, Permit, Semaphore};

pub(crate) use bell::Bell;
pub(crate) use futex::Futex;
pub(crate) use slices::Slices;
