//! What workers may do and take: sandbox and limits.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::{Pool, PoolBuilder};
use crate::codec;
use crate::error::PoolError;
use crate::sandbox::{Limit, Sandbox};
use crate::sys::memory;

/// Fewer descriptors than a worker needs for itself.
const LEAST_FILES: u64 = 16;

/// Less stack than the worker's own code takes before it calls a task.
const LEAST_STACK: u64 = 128 << 10;

impl<P> PoolBuilder<P> {
    /// Confines the workers, for code that is not trusted: see [`Sandbox`]. Their environment is empty then, but for what [`env`](Self::env) sets. Each worker confines
    /// itself before its initializer and its first task; one that can't keeps [`build`](Self::build) from succeeding ([`PoolError::StartFailed`], which says what could not be kept),
    /// unless the sandbox is [`best_effort`](Sandbox::best_effort). Default: none.
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// use pool_core::{Pool, Sandbox};
    /// let sandbox = Sandbox::confined().read("/usr").best_effort();
    /// let pool = Pool::builder().processes(2).sandbox(sandbox).build()?;
    /// let can_connect = || std::net::TcpStream::connect("127.0.0.1:80").is_ok();
    /// assert!(!pool.apply(can_connect, ())?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn sandbox(mut self, sandbox: Sandbox) -> Self {
        self.sandbox = Some(sandbox);
        self
    }

    /// Limits what each worker may take: see [`Limit`]. A limit that the worker has inherited and that is lower stays. For memory there is [`memory_limit`](Self::memory_limit).
    /// Default: what the parent has.
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// use pool_core::{Limit, Pool};
    /// let pool = Pool::builder()
    ///     .processes(2)
    ///     .limit(Limit::OpenFiles(64))
    ///     .limit(Limit::CoreSize(0))
    ///     .build()?;
    /// let open = || (0..100).map(|_| std::fs::File::open("/dev/null")).filter(Result::is_ok).count();
    /// let kept = || (0..100).map_while(|_| std::fs::File::open("/dev/null").ok()).collect::<Vec<_>>().len();
    /// assert_eq!(pool.apply(open, ())?, 100); // one after the other
    /// assert!(pool.apply(kept, ())? < 64); // at the same time
    /// # Ok(())
    /// # }
    /// ```
    pub fn limit(mut self, limit: Limit) -> Self {
        self.limits.push(limit);
        self
    }

    pub(super) fn check_limits(&self) -> Result<(), PoolError> {
        let wrong = self.limits.iter().find_map(|limit| match limit {
            Limit::CpuTime(Duration::ZERO) => {
                Some("Limit::CpuTime of zero leaves no time".to_owned())
            }
            Limit::OpenFiles(number) if *number < LEAST_FILES => Some(format!(
                "Limit::OpenFiles({number}) is too few: a worker needs {LEAST_FILES} to start"
            )),
            Limit::Stack(bytes) if *bytes < LEAST_STACK => Some(format!(
                "Limit::Stack is in bytes, and no worker can start with less than {LEAST_STACK}"
            )),
            _ => None,
        });
        let paths = self
            .sandbox
            .iter()
            .flat_map(|sandbox| sandbox.plan.readable.iter().chain(&sandbox.plan.writable));
        let relative = paths.into_iter().find(|path| !std::path::Path::new(path).is_absolute());
        let relative =
            relative.map(|path| format!("the sandbox's path {} must be absolute", path.display()));
        match wrong.or(relative) {
            Some(text) => Err(PoolError::Config(text)),
            None => Ok(()),
        }
    }
}

impl Pool {
    /// What of the [`Sandbox`] workers could not apply, and why: empty if they have applied all of it, which is always so without
    /// [`best_effort`](Sandbox::best_effort), and if there is none. Never blocks.
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// use pool_core::{Pool, Sandbox};
    /// let pool = Pool::builder().processes(1).sandbox(Sandbox::strict().best_effort()).build()?;
    /// for gap in pool.sandbox_gaps() {
    ///     eprintln!("not confined: {gap}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn sandbox_gaps(&self) -> Vec<String> {
        self.shared.lock().sandbox_gaps.clone()
    }
}

/// A file without a name that says what workers may do, and its length: paths can be too long for their first message.
pub(super) fn sealed(sandbox: Sandbox) -> Result<(Arc<OwnedFd>, u64), PoolError> {
    let mut bytes = Vec::new();
    codec::encode(&sandbox.plan, &mut bytes, u64::MAX)
        .map_err(|_| PoolError::Config("the sandbox can't be encoded".to_owned()))?;
    let file = memory::sealed_file(&bytes)
        .map_err(PoolError::os("cannot create shared memory for the sandbox"))?;
    Ok((Arc::new(file), bytes.len() as u64))
}
