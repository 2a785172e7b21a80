//! One call, one task.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Pool;
use super::call::{Function, MayWait, Options};
use crate::attach::Attachments;
use crate::error::{Oversize, SubmitError, TaskError, TrySubmitError};
use crate::handle::AsyncResult;
use crate::task::TaskFn;
use crate::task::callee::Callee;
use crate::task::entry;
use crate::task::registry;

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
    /// The reason why there is no result: see [`TaskError`]. A closed pool gives [`TaskError::Terminated`].
    pub fn apply<F, Args, Kind>(&self, function: F, args: Args) -> Result<F::Output, TaskError>
    where
        F: TaskFn<Args, Kind>,
        Args: Serialize + DeserializeOwned + Send + 'static,
    {
        self.task::<F, Kind>(function).apply(args)
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
    {
        self.task::<F, Kind>(function).apply_async(args)
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
        let function = Function { callee: Callee::BY_NAME, name: name.to_owned().into() };
        let bytes = registry::join(name, input);
        let (size, limit) = (bytes.len() as u64, self.shared().settings.max_task);
        if size > limit {
            self.shared().check_open()?;
            let error = entry::too_large(Oversize::Arguments, size, limit);
            return Ok(AsyncResult::settled(self.shared(), Err(error), |bytes, _| {
                Ok(bytes.to_vec())
            }));
        }
        let options = Options::default();
        let task =
            self.submit_bytes(&function, bytes, Attachments::default(), 1, &options, MayWait::Yes)?;
        // only a call that may not wait finds the pool full
        let task = task.ok_or(SubmitError::Closed)?;
        Ok(AsyncResult::new(task, |bytes, _| Ok(bytes.to_vec())))
    }
}
