//! Waiting for a mixed set of processes, threads and tasks.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::Duration;

use super::{AsyncResult, MapResult, deadline};
use crate::primitives::{Parker, unpoisoned};
use crate::slot::Slot;
use crate::sys::poll::Sentinel;

/// What [`wait()`] can wait for: [`Process`](crate::Process), [`Thread`](crate::Thread), [`AsyncResult`](crate::AsyncResult),
/// [`MapResult`](crate::MapResult). Nothing else can implement it.
pub trait Waitable: Pending {}

impl<T: Pending + ?Sized> Waitable for T {}

/// Something that ends once. It seals [`Waitable`].
pub trait Pending {
    /// Has the waker woken at the end, or before; `false`: it has ended.
    fn register(&self, waker: &Waker) -> bool;

    /// Does not wake this waker any more.
    fn forget(&self, waker: &Waker);
}

/// Waits until at least one of `items` has ended or has its result, and gives the indices of all that have, in order. With a timeout it may come back with
/// none; a timeout of zero only looks. Without items it returns at once. No result is taken.
///
/// A process or thread that was not started has not ended: if there are only such, and no timeout, it waits until another thread starts one and that has ended.
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// # pool_core::init();
/// use pool_core::{Pool, Process, Thread, wait};
/// let pool = Pool::new(1)?;
/// let process = Process::spawn(|| 1, ())?;
/// let thread = Thread::spawn(|| 2, ())?;
/// let task = pool.apply_async(|| 3, ())?;
/// let mut left: Vec<&dyn pool_core::Waitable> = vec![&process, &thread, &task];
/// while !left.is_empty() {
///     for index in wait(&left, None).into_iter().rev() {
///         left.remove(index);
///     }
/// }
/// assert_eq!(process.join()? + thread.join()? + task.get()?, 6);
/// # Ok(())
/// # }
/// ```
#[must_use]
pub fn wait(items: &[&dyn Waitable], timeout: Option<Duration>) -> Vec<usize> {
    let deadline = timeout.map(deadline);
    let parker = Parker::new();
    let waker = parker.waker();
    let ready = loop {
        let ready: Vec<usize> = (0..items.len()).filter(|&i| !items[i].register(&waker)).collect();
        if !ready.is_empty() || items.is_empty() || !parker.park(deadline) {
            break ready;
        }
    };
    // called in a loop, this must leave nothing behind in what has not ended
    items.iter().for_each(|item| item.forget(&waker));
    ready
}

/// A descriptor that is readable when the slot is settled. One is `kept` for all that ask.
pub(crate) fn sentinel<T>(
    kept: &Mutex<Option<Arc<Sentinel>>>,
    slot: &Slot<T>,
) -> io::Result<OwnedFd> {
    let mut kept = unpoisoned(kept.lock());
    if let Some(sentinel) = &*kept {
        return sentinel.duplicate();
    }
    let sentinel = Arc::new(Sentinel::new()?);
    let waker = Waker::from(Arc::clone(&sentinel));
    if !slot.register(&waker) {
        waker.wake();
    }
    kept.insert(sentinel).duplicate()
}

impl<R> Pending for AsyncResult<R> {
    fn register(&self, waker: &Waker) -> bool {
        self.task().register(waker)
    }

    fn forget(&self, waker: &Waker) {
        self.task().slot().forget(waker);
    }
}

impl<R> Pending for MapResult<R> {
    fn register(&self, waker: &Waker) -> bool {
        MapResult::register(self, waker)
    }

    fn forget(&self, waker: &Waker) {
        self.forget_all(waker);
    }
}
