//! Job control: workers stop and go on with their program.

use super::Pool;
use crate::sys::signal::GroupSignal;

impl Pool {
    /// Stops all worker processes, and what they have started in their process groups (SIGSTOP), until [`resume`](Pool::resume). For a program that stops itself next, because
    /// the user has pressed Ctrl-Z: workers lead process groups of their own, so the terminal does not stop them. Time limits of tasks go on as long as this program runs; what is
    /// submitted meanwhile waits. Workers that are threads, and processes that are only being started, are not stopped. Never blocks; after [`terminate`](Pool::terminate)
    /// it does nothing.
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// let pool = pool_core::Pool::new(2)?;
    /// let handle = pool.apply_async(u64::pow, (2, 10))?;
    /// pool.suspend();
    /// // here, a program stops itself, and goes on when its user wants it to
    /// pool.resume();
    /// assert_eq!(handle.get()?, 1024);
    /// # Ok(())
    /// # }
    /// ```
    pub fn suspend(&self) {
        self.shared.lock().signal_all(GroupSignal::Stop);
    }

    /// Lets stopped workers go on (SIGCONT): see [`suspend`](Pool::suspend). Does no harm to those that are not stopped. Never blocks.
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// let pool = pool_core::Pool::new(1)?;
    /// pool.suspend();
    /// pool.resume();
    /// assert_eq!(pool.apply(u64::pow, (2, 3))?, 8);
    /// # Ok(())
    /// # }
    /// ```
    pub fn resume(&self) {
        self.shared.lock().signal_all(GroupSignal::Continue);
    }
}
