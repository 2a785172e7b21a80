//! `Semaphore`, `BoundedSemaphore`, `Event` and `Barrier`.

use std::fmt;
use std::time::Duration;

use super::ManagerError;
use super::frame::{self, Body, Op};
use super::locks::{FOREVER, nanoseconds};
use super::proxy::{Proxy, proxy};

proxy! {
    /// A counter of permits in a manager. The permits of a client that dies are had back.
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// let manager = pool_core::Manager::new()?;
    /// let two_at_a_time = manager.semaphore(2)?;
    /// let (one, two) = (two_at_a_time.acquire()?, two_at_a_time.acquire()?);
    /// assert!(two_at_a_time.try_acquire()?.is_none());
    /// drop((one, two));
    /// assert_eq!(two_at_a_time.available()?, 2);
    /// # Ok(())
    /// # }
    /// ```
    Semaphore of Semaphore
}

proxy! {
    /// A [`Semaphore`] that never has more permits than it had at first: [`release`](BoundedSemaphore::release) beyond that is an error.
    BoundedSemaphore of BoundedSemaphore
}

/// One permit of a semaphore; dropping it gives it back.
#[must_use = "the permit is given back at once if it is dropped"]
pub struct Permit<'a>(&'a Proxy);

impl Permit<'_> {
    /// Keeps it taken: somebody, here or elsewhere, calls `release` for it. From now on it does not come back when this client dies.
    pub fn forget(self) {
        // if the manager can't be told, there is nothing to be forgotten
        let _ = self.0.ask(Op::SemRelease, &[1], |_| Ok(()));
        std::mem::forget(self);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        // as above
        let _ = self.0.ask(Op::SemRelease, &[0], |_| Ok(()));
    }
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Permit(..)")
    }
}

fn acquire(proxy: &Proxy, limit: u64) -> Result<Option<Permit<'_>>, ManagerError> {
    let taken = proxy.ask(Op::SemAcquire, &[limit], frame::u8)?;
    Ok((taken != 0).then(|| Permit(proxy)))
}

macro_rules! semaphore {
    ($name:ident) => {
        impl $name {
            /// Takes a permit; waits until there is one.
            ///
            /// # Errors
            /// The manager can't be asked.
            pub fn acquire(&self) -> Result<Permit<'_>, ManagerError> {
                loop {
                    if let Some(permit) = acquire(&self.proxy, FOREVER)? {
                        return Ok(permit);
                    }
                }
            }

            /// The same, waiting at most so long; `None` when the time is up.
            ///
            /// # Errors
            /// The manager can't be asked.
            pub fn acquire_timeout(
                &self,
                limit: Duration,
            ) -> Result<Option<Permit<'_>>, ManagerError> {
                acquire(&self.proxy, nanoseconds(limit))
            }

            /// The same, without waiting.
            ///
            /// # Errors
            /// The manager can't be asked.
            pub fn try_acquire(&self) -> Result<Option<Permit<'_>>, ManagerError> {
                acquire(&self.proxy, 0)
            }

            /// One permit more: one that was [forgotten](Permit::forget), here or elsewhere.
            ///
            /// # Errors
            /// [`OverRelease`](ManagerError::OverRelease), if it is bounded and has all its permits (those that clients hold are counted, too); the manager can't be asked.
            pub fn release(&self) -> Result<(), ManagerError> {
                self.proxy.ask(Op::SemRelease, &[2], |_| Ok(()))
            }

            /// How many permits there are now.
            ///
            /// # Errors
            /// The manager can't be asked.
            pub fn available(&self) -> Result<u64, ManagerError> {
                self.proxy.ask(Op::SemAvailable, &[], frame::u64)
            }
        }
    };
}

semaphore!(Semaphore);
semaphore!(BoundedSemaphore);

proxy! {
    /// A flag in a manager that clients wait for.
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// use pool_core::{Manager, Process, manager::Event};
    /// let manager = Manager::new()?;
    /// let go = manager.event()?;
    /// let process = Process::spawn(|go: Event| -> anyhow::Result<()> { Ok(go.wait()?) }, (go.clone(),))?;
    /// go.set()?;
    /// process.join()?;
    /// # Ok(())
    /// # }
    /// ```
    Event of Event
}

impl Event {
    /// Sets it: all that wait go on.
    ///
    /// # Errors
    /// The manager can't be asked.
    pub fn set(&self) -> Result<(), ManagerError> {
        self.proxy.ask(Op::EventSet, &[], |_| Ok(()))
    }

    /// Clears it.
    ///
    /// # Errors
    /// The manager can't be asked.
    pub fn clear(&self) -> Result<(), ManagerError> {
        self.proxy.ask(Op::EventClear, &[], |_| Ok(()))
    }

    /// Whether it is set.
    ///
    /// # Errors
    /// The manager can't be asked.
    pub fn is_set(&self) -> Result<bool, ManagerError> {
        self.proxy.ask(Op::EventIsSet, &[], frame::u8).map(|set| set != 0)
    }

    /// Waits until it is set, also if it is cleared again right away.
    ///
    /// # Errors
    /// The manager can't be asked.
    pub fn wait(&self) -> Result<(), ManagerError> {
        self.proxy.ask(Op::EventWait, &[FOREVER], |_| Ok(()))
    }

    /// The same, waiting at most so long; whether it was set.
    ///
    /// # Errors
    /// The manager can't be asked.
    pub fn wait_timeout(&self, limit: Duration) -> Result<bool, ManagerError> {
        self.proxy.ask(Op::EventWait, &[nanoseconds(limit)], frame::u8).map(|set| set != 0)
    }
}

proxy! {
    /// A place in a manager where a fixed number of clients wait until all are there. It can be used again at once.
    ///
    /// A client that dies while it waits breaks the barrier, as one does whose time is up: the others get [`BrokenBarrier`](ManagerError::BrokenBarrier), and so
    /// does everybody until [`reset`](Barrier::reset). One that dies before it arrives is not known; use [`wait_timeout`](Barrier::wait_timeout) where that may happen.
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// use pool_core::{Manager, Process, manager::Barrier};
    /// let manager = Manager::new()?;
    /// let both = manager.barrier(2)?;
    /// let meet = |both: Barrier| -> anyhow::Result<usize> { Ok(both.wait()?) };
    /// let process = Process::spawn(meet, (both.clone(),))?;
    /// let mut places = [both.wait()?, process.join()?];
    /// places.sort();
    /// assert_eq!(places, [0, 1]);
    /// # Ok(())
    /// # }
    /// ```
    Barrier of Barrier
}

impl Barrier {
    fn wait_within(&self, limit: u64) -> Result<usize, ManagerError> {
        let place = self.proxy.ask(Op::BarrierWait, &[limit], frame::u64)?;
        Ok(usize::try_from(place).unwrap_or(usize::MAX))
    }

    fn state(&self) -> Result<(u64, u64, bool), ManagerError> {
        let read = |body: &mut Body<'_>| Ok((body.u64()?, body.u64()?, body.u8()? != 0));
        self.proxy.ask(Op::BarrierState, &[], read)
    }

    /// Waits until all parties are there; gives this one's place in the order of arrival, from 0.
    ///
    /// # Errors
    /// [`BrokenBarrier`](ManagerError::BrokenBarrier); the manager can't be asked.
    pub fn wait(&self) -> Result<usize, ManagerError> {
        self.wait_within(FOREVER)
    }

    /// The same, waiting at most so long. When the time is up, the barrier is broken for all.
    ///
    /// # Errors
    /// As [`wait`](Barrier::wait).
    pub fn wait_timeout(&self, limit: Duration) -> Result<usize, ManagerError> {
        self.wait_within(nanoseconds(limit))
    }

    /// Breaks it, until it is reset.
    ///
    /// # Errors
    /// The manager can't be asked.
    pub fn abort(&self) -> Result<(), ManagerError> {
        self.proxy.ask(Op::BarrierAbort, &[], |_| Ok(()))
    }

    /// Makes it whole again; those that wait now get [`BrokenBarrier`](ManagerError::BrokenBarrier).
    ///
    /// # Errors
    /// The manager can't be asked.
    pub fn reset(&self) -> Result<(), ManagerError> {
        self.proxy.ask(Op::BarrierReset, &[], |_| Ok(()))
    }

    /// How many parties it takes.
    ///
    /// # Errors
    /// The manager can't be asked.
    pub fn parties(&self) -> Result<usize, ManagerError> {
        Ok(usize::try_from(self.state()?.0).unwrap_or(usize::MAX))
    }

    /// How many wait now.
    ///
    /// # Errors
    /// The manager can't be asked.
    pub fn waiting(&self) -> Result<usize, ManagerError> {
        Ok(usize::try_from(self.state()?.1).unwrap_or(usize::MAX))
    }

    /// Whether it is broken.
    ///
    /// # Errors
    /// The manager can't be asked.
    pub fn is_broken(&self) -> Result<bool, ManagerError> {
        Ok(self.state()?.2)
    }
}
