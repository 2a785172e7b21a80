//! Options of one call, and how calls become tasks.

use std::any::type_name;
use std::borrow::Cow;
use std::marker::PhantomData;
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Imap, ImapUnordered, Pool};
use crate::attach::{self, Attachments};
use crate::codec::{self, Unencodable};
use crate::dispatch::{Payload, Request, Shared, TaskSlot};
use crate::error::{Oversize, SubmitError, TaskError, TrySubmitError};
use crate::handle::{AsyncResult, MapResult, TaskRef};
use crate::slot::Slot;
use crate::task::TaskFn;
use crate::task::callee::Callee;
use crate::task::entry;

/// Options for the next call of one function: see [`Pool::task`].
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// # pool_core::init();
/// use std::time::Duration;
/// let pool = pool_core::Pool::new(2)?;
/// let parse = pool.task(|text: String| text.len()).timeout(Duration::from_secs(2)).retries(1);
/// assert_eq!(parse.apply(("abc".to_owned(),))?, 3);
/// # Ok(())
/// # }
/// ```
#[must_use = "options do nothing until one of the verbs is called"]
pub struct Call<'pool, F, Kind> {
    pool: &'pool Pool,
    function: F,
    options: Options,
    kind: PhantomData<fn() -> Kind>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Options {
    pub(super) timeout: Option<Duration>,
    pub(super) retries: Option<u32>,
    pub(super) chunk_size: Option<NonZero<usize>>,
    pub(super) window: Option<NonZero<usize>>,
    /// The caller waits for the result next.
    awaited: bool,
}

impl Pool {
    /// Options for one call: `pool.task(f).timeout(d).apply_async(args)`.
    pub fn task<F, Kind>(&self, function: F) -> Call<'_, F, Kind> {
        Call { pool: self, function, options: Options::default(), kind: PhantomData }
    }
}

impl<F, Kind> Call<'_, F, Kind> {
    /// How long the task may run, from its start in the worker: instead of the pool's
    /// [`task_timeout`](crate::PoolBuilder::task_timeout).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = Some(timeout);
        self
    }

    /// How many more times the task is started if its worker dies while running it, or if its time is up: instead of the pool's
    /// [`retries`](crate::PoolBuilder::retries).
    pub fn retries(mut self, retries: u32) -> Self {
        self.options.retries = Some(retries);
        self
    }

    /// Items per task of a map. Default: chosen by the length of the input; 1 for `imap`.
    ///
    /// # Panics
    /// If it is 0.
    pub fn chunk_size(mut self, items: usize) -> Self {
        self.options.chunk_size = Some(NonZero::new(items).expect("a chunk has at least 1 item"));
        self
    }

    /// How many items `imap` and `imap_unordered` read ahead of their consumer. Default: 64 per worker.
    ///
    /// # Panics
    /// If it is 0.
    pub fn window(mut self, items: usize) -> Self {
        self.options.window = Some(NonZero::new(items).expect("a window has at least 1 item"));
        self
    }
}

impl<'pool, F, Kind> Call<'pool, F, Kind> {
    /// [`Pool::apply`] with these options.
    ///
    /// # Errors
    /// As there.
    pub fn apply<Args>(&self, args: Args) -> Result<F::Output, TaskError>
    where
        F: TaskFn<Args, Kind>,
        Args: Serialize + DeserializeOwned + Send + 'static,
    {
        let options = Options { awaited: true, ..self.options };
        (Call { options, ..*self }).apply_async(args)?.get()
    }

    /// [`Pool::apply_async`] with these options.
    ///
    /// # Errors
    /// As there.
    pub fn apply_async<Args>(&self, args: Args) -> Result<AsyncResult<F::Output>, SubmitError>
    where
        F: TaskFn<Args, Kind>,
        Args: Serialize + DeserializeOwned + Send + 'static,
    {
        let _ = self.function;
        let function = Function::of::<F>(Callee::of(entry::single::<F, Args, Kind>));
        let task = self.pool.submit(&function, &args, 1, &self.options)?;
        Ok(AsyncResult::new(task, decode_one::<F::Output>))
    }

    /// [`Pool::try_apply_async`] with these options.
    ///
    /// # Errors
    /// As there.
    pub fn try_apply_async<Args>(
        &self,
        args: Args,
    ) -> Result<AsyncResult<F::Output>, TrySubmitError<Args>>
    where
        F: TaskFn<Args, Kind>,
        Args: Serialize + DeserializeOwned + Send + 'static,
    {
        let function = Function::of::<F>(Callee::of(entry::single::<F, Args, Kind>));
        match self.pool.try_submit(&function, &args, 1, &self.options, MayWait::No) {
            Ok(Some(task)) => Ok(AsyncResult::new(task, decode_one::<F::Output>)),
            Ok(None) => Err(TrySubmitError::Full(args)),
            Err(_) => Err(TrySubmitError::Closed(args)),
        }
    }

    /// [`Pool::map`] with these options.
    ///
    /// # Errors
    /// As there.
    pub fn map<A, I>(&self, items: I) -> Result<Vec<F::Output>, TaskError>
    where
        F: TaskFn<(A,), Kind>,
        A: Serialize + DeserializeOwned + Send + 'static,
        I: IntoIterator<Item = A>,
    {
        self.starmap(items.into_iter().map(|item| (item,)))
    }

    /// [`Pool::map_async`] with these options.
    ///
    /// # Errors
    /// As there.
    pub fn map_async<A, I>(&self, items: I) -> Result<MapResult<F::Output>, SubmitError>
    where
        F: TaskFn<(A,), Kind>,
        A: Serialize + DeserializeOwned + Send + 'static,
        I: IntoIterator<Item = A>,
    {
        self.starmap_async(items.into_iter().map(|item| (item,)))
    }

    /// [`Pool::starmap`] with these options.
    ///
    /// # Errors
    /// As there.
    pub fn starmap<Args, I>(&self, items: I) -> Result<Vec<F::Output>, TaskError>
    where
        F: TaskFn<Args, Kind>,
        Args: Serialize + DeserializeOwned + Send + 'static,
        I: IntoIterator<Item = Args>,
    {
        self.starmap_async(items)?.get()
    }

    /// [`Pool::starmap_async`] with these options.
    ///
    /// # Errors
    /// As there.
    pub fn starmap_async<Args, I>(&self, items: I) -> Result<MapResult<F::Output>, SubmitError>
    where
        F: TaskFn<Args, Kind>,
        Args: Serialize + DeserializeOwned + Send + 'static,
        I: IntoIterator<Item = Args>,
    {
        self.pool.submit_chunks::<F, Args, Kind>(items.into_iter(), &self.options)
    }

    /// [`Pool::imap`] with these options.
    pub fn imap<A, I>(&self, items: I) -> Imap<'pool, F::Output, I::IntoIter>
    where
        F: TaskFn<(A,), Kind>,
        A: Serialize + DeserializeOwned + Send + 'static,
        I: IntoIterator<Item = A>,
    {
        Imap::new::<F, A, Kind>(self.pool, items.into_iter(), self.options)
    }

    /// [`Pool::imap_unordered`] with these options.
    pub fn imap_unordered<A, I>(&self, items: I) -> ImapUnordered<'pool, F::Output, I::IntoIter>
    where
        F: TaskFn<(A,), Kind>,
        A: Serialize + DeserializeOwned + Send + 'static,
        I: IntoIterator<Item = A>,
    {
        ImapUnordered::new::<F, A, Kind>(self.pool, items.into_iter(), self.options)
    }
}

impl<F, Kind> std::fmt::Debug for Call<'_, F, Kind> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call")
            .field("function", &type_name::<F>())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Whether a submission may wait for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MayWait {
    Yes,
    No,
}

/// A function, as the pool names it.
#[derive(Clone, Debug)]
pub(super) struct Function {
    pub(super) callee: Callee,
    pub(super) name: Cow<'static, str>,
}

impl Function {
    pub(super) fn of<F>(callee: Callee) -> Function {
        Function { callee, name: Cow::Borrowed(type_name::<F>()) }
    }
}

impl Pool {
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Encodes the arguments and submits a task; waits while the pool is full. Arguments that can't be encoded are that task's own failure.
    pub(super) fn submit<T: Serialize + 'static>(
        &self,
        function: &Function,
        args: &T,
        items: usize,
        options: &Options,
    ) -> Result<TaskRef, SubmitError> {
        let task = self.try_submit(function, args, items, options, MayWait::Yes)?;
        // only a call that may not wait finds the pool full
        task.ok_or(SubmitError::Closed)
    }

    /// Like `submit`; `None` if the pool is full and the call may not wait.
    fn try_submit<T: Serialize + 'static>(
        &self,
        function: &Function,
        args: &T,
        items: usize,
        options: &Options,
        may_wait: MayWait,
    ) -> Result<Option<TaskRef>, SubmitError> {
        let mut bytes = Vec::new();
        let limit = self.shared.settings.max_task;
        let (encoded, attachments) =
            attach::collect(|| codec::encode_value(args, &mut bytes, limit));
        match encoded {
            Ok(()) => self.submit_bytes(function, bytes, attachments, items, options, may_wait),
            Err(error) => {
                self.shared.check_open()?;
                let slot = Arc::new(Slot::of(Err(self.unencodable::<T>(error))));
                Ok(Some(TaskRef::new(Arc::clone(&self.shared), slot, None)))
            }
        }
    }

    pub(super) fn submit_bytes(
        &self,
        function: &Function,
        bytes: Vec<u8>,
        attachments: Attachments,
        items: usize,
        options: &Options,
        may_wait: MayWait,
    ) -> Result<Option<TaskRef>, SubmitError> {
        let slot: Arc<TaskSlot> = Arc::new(Slot::new());
        let request = Request {
            callee: function.callee,
            name: function.name.clone(),
            payload: Payload::new(bytes),
            attachments: attachments.clone(),
            items: u32::try_from(items).unwrap_or(u32::MAX),
            retries: options.retries.unwrap_or(self.shared.settings.retries),
            timeout: options.timeout.or(self.shared.settings.task_timeout),
            awaited: options.awaited,
            slot: Arc::clone(&slot),
        };
        let key = self.shared.submit(request, may_wait == MayWait::Yes)?;
        Ok(key.map(|key| {
            TaskRef::new(Arc::clone(&self.shared), slot, Some(key)).keeping(attachments)
        }))
    }

    fn unencodable<T>(&self, error: Unencodable) -> TaskError {
        let limit = self.shared.settings.max_task;
        match error {
            Unencodable::TooLarge(size) => entry::too_large(Oversize::Arguments, size, limit),
            Unencodable::Refused(text) => TaskError::Encode(format!(
                "cannot encode the arguments of type {}: {text}",
                type_name::<T>()
            )),
        }
    }
}

fn decode_one<R: DeserializeOwned + 'static>(bytes: &[u8], _limit: u64) -> Result<R, TaskError> {
    attach::returned(|| codec::decode_value(bytes))
        .map_err(|error| entry::decode_error::<R>(&error))
}
