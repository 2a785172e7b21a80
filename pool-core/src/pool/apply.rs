//! One call, one task.

use std::borrow::Cow;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::options::{AWAITED, Options, PLAIN};
use super::submit::{Function, MayWait, NoTask};
use super::{Pool, call};
use crate::attach::Attachments;
use crate::dispatch::{Payload, Workers};
use crate::error::{Oversize, SubmitError, TaskError, TrySubmitError};
use crate::handle::{AsyncResult, TaskRef};
use crate::task::callee::Callee;
use crate::task::job::{self, Job};
use crate::task::{Fallible, TaskFn, entry, registry};

impl Pool {
    /// Runs one task and waits for its result. Blocks as long as the task takes, and as long as `max_pending` tasks are before it.
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// let pool = pool_core::Pool::new(1)?;
    /// assert_eq!(pool.apply(|a: u32, b: u32| a + b, (1, 2))?, 3);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The reason why there is no result: see [`TaskError`]. A closed pool gives [`TaskError::Closed`].
    pub fn apply<F, Args, Kind>(&self, function: F, args: Args) -> Result<F::Output, TaskError>
    where
        F: TaskFn<Args, Kind>,
        Args: Serialize + DeserializeOwned + Send + 'static,
        Kind: 'static,
    {
        let _ = function;
        call::submit_one::<F, Args, Kind>(self, args, &AWAITED, None)?.get()
    }

    /// Submits one task. Blocks only while [`max_pending`](crate::PoolBuilder::max_pending) tasks are unfinished.
    ///
    /// Arguments that can't be encoded, or are too large, are the task's own failure, told by the handle.
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// let pool = pool_core::Pool::new(2)?;
    /// let handles: Vec<_> =
    ///     (0..10u64).map(|i| pool.apply_async(u64::pow, (i, 2))).collect::<Result<_, _>>()?;
    /// let squares: Vec<u64> = handles.into_iter().map(|h| h.get()).collect::<Result<_, _>>()?;
    /// assert_eq!(squares[9], 81);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`SubmitError::Closed`] after `close` or `terminate`; [`SubmitError::Broken`] if the pool can't go on.
    pub fn apply_async<F, Args, Kind>(
        &self,
        function: F,
        args: Args,
    ) -> Result<AsyncResult<F::Output>, SubmitError>
    where
        F: TaskFn<Args, Kind>,
        Args: Serialize + DeserializeOwned + Send + 'static,
        Kind: 'static,
    {
        let _ = function;
        call::submit_one::<F, Args, Kind>(self, args, &PLAIN, None)
    }

    /// Submits one task if there is room for it at once. Never blocks.
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// use pool_core::{Pool, TrySubmitError};
    /// let pool = Pool::builder().processes(1).max_pending(1).build()?;
    /// let first = pool.try_apply_async(|| std::thread::park(), ()).unwrap();
    /// match pool.try_apply_async(|x: u8| x, (7,)) {
    ///     Err(TrySubmitError::Full((x,))) => assert_eq!(x, 7),
    ///     other => panic!("{other:?}"),
    /// }
    /// first.cancel();
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Both kinds hand the arguments back: [`TrySubmitError::Full`] while `max_pending` tasks are unfinished,
    /// [`TrySubmitError::Closed`] when the pool takes no more tasks.
    pub fn try_apply_async<F, Args, Kind>(
        &self,
        function: F,
        args: Args,
    ) -> Result<AsyncResult<F::Output>, TrySubmitError<Args>>
    where
        F: TaskFn<Args, Kind>,
        Args: Serialize + DeserializeOwned + Send + 'static,
        Kind: 'static,
    {
        self.task::<F, Kind>(function).try_apply_async(args)
    }

    /// Calls a function of the workers' [executable](crate::PoolBuilder::executable) by its registered name: bytes in, bytes out.
    ///
    /// # Errors
    /// As [`apply_async`](Pool::apply_async). A name that the executable does not know is the task's own failure.
    pub fn apply_named(
        &self,
        name: &str,
        input: &[u8],
    ) -> Result<AsyncResult<Vec<u8>>, SubmitError> {
        let shared = self.shared();
        let bytes = registry::join(name, input);
        let (size, limit) = (bytes.len() as u64, shared.settings.max_task);
        let refusal = match shared.settings.workers {
            Workers::Processes(_) if size <= limit => None,
            Workers::Processes(_) => Some(entry::too_large(Oversize::Arguments, size, limit)),
            Workers::Threads { .. } => {
                Some(TaskError::Failed("worker threads have no functions by name".to_owned()))
            }
        };
        let task = match refusal {
            Some(error) => {
                shared.check_open()?;
                let slot = shared.lone_slot();
                shared.settle(slot.clone(), Err(Box::new(error)), None);
                TaskRef::new(slot)
            }
            None => {
                let function = Function { callee: Callee::BY_NAME, name: "", job: no_job };
                let name = Some(Cow::Owned(name.to_owned()));
                let options = Options { name, ..Options::default() };
                let (payload, none) = (Payload::encoded(bytes.into()), Attachments::NONE);
                let request = self.request(&function, payload, none, 1, &options, None);
                match self.submit_request(request, MayWait::Yes) {
                    Ok(task) => task,
                    Err(NoTask::Refused(error)) => return Err(error),
                    // only a call that may not wait finds the pool full
                    Err(NoTask::Full) => return Err(SubmitError::Closed),
                }
            }
        };
        Ok(AsyncResult::new(task, |value, _| value.open(|bytes| Ok(bytes.to_vec()))))
    }
}

/// Functions by name are those of another executable.
fn no_job((): ()) -> Box<dyn Job> {
    fn none() -> anyhow::Result<()> {
        anyhow::bail!("worker threads have no functions by name")
    }
    fn job<F: TaskFn<(), Fallible>>(_: F) -> Box<dyn Job> {
        job::single::<F, (), Fallible>(())
    }
    job(none)
}
