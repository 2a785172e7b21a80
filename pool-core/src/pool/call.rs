//! One call of a function with options: every verb comes here.

use std::any::type_name;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::callbacks::{self, Callback};
use super::options::Options;
use super::submit::{Function, MayWait, Unsubmitted};
use super::{Imap, ImapUnordered, Pool};
use crate::dispatch::Finish;
use crate::error::{SubmitError, TaskError, TrySubmitError};
use crate::handle::{AsyncResult, MapResult};
use crate::task::callee::Callee;
use crate::task::job;
use crate::task::{TaskFn, entry};

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
pub struct Call<'pool, F, Kind, S = ()> {
    pub(super) pool: &'pool Pool,
    pub(super) function: F,
    pub(super) options: Options,
    pub(super) success: S,
    pub(super) kind: PhantomData<fn() -> Kind>,
}

impl Pool {
    /// Options for one call: `pool.task(f).timeout(d).apply_async(args)`.
    pub fn task<F, Kind>(&self, function: F) -> Call<'_, F, Kind> {
        let options = Options::default();
        Call { pool: self, function, options, success: (), kind: PhantomData }
    }
}

impl<F, Kind: 'static, S> Call<'_, F, Kind, S> {
    /// [`Pool::apply`] with these options.
    ///
    /// # Errors
    /// As there.
    pub fn apply<Args>(&self, args: Args) -> Result<F::Output, TaskError>
    where
        F: TaskFn<Args, Kind>,
        S: Callback<F::Output>,
        Args: Serialize + DeserializeOwned + Send + 'static,
    {
        if self.success.is_some() || self.options.on_error.is_some() {
            return self.apply_async(args)?.get();
        }
        let options = Options { awaited: true, ..self.options.clone() };
        submit_one::<F, Args, Kind>(self.pool, args, &options, None)?.get()
    }

    /// [`Pool::apply_async`] with these options.
    ///
    /// # Errors
    /// As there, and [`SubmitError::Unsupported`] for options that this pool can't keep.
    pub fn apply_async<Args>(&self, args: Args) -> Result<AsyncResult<F::Output>, SubmitError>
    where
        F: TaskFn<Args, Kind>,
        S: Callback<F::Output>,
        Args: Serialize + DeserializeOwned + Send + 'static,
    {
        let finish = self.finish::<F::Output>();
        submit_one::<F, Args, Kind>(self.pool, args, &self.options, finish)
    }

    /// [`Pool::try_apply_async`] with these options.
    ///
    /// # Errors
    /// As there, and [`TrySubmitError::Unsupported`] for options that this pool can't keep.
    pub fn try_apply_async<Args>(
        &self,
        args: Args,
    ) -> Result<AsyncResult<F::Output>, TrySubmitError<Args>>
    where
        F: TaskFn<Args, Kind>,
        S: Callback<F::Output>,
        Args: Serialize + DeserializeOwned + Send + 'static,
    {
        let (function, finish) = (one::<F, Args, Kind>(), self.finish::<F::Output>());
        match self.pool.try_submit(&function, args, 1, &self.options, finish, MayWait::No) {
            Ok(task) => Ok(AsyncResult::new(task, |value, _| entry::decode(value))),
            Err(Unsubmitted::Full(args)) => Err(TrySubmitError::Full(args)),
            Err(Unsubmitted::Refused(SubmitError::Unsupported(what), args)) => {
                Err(TrySubmitError::Unsupported(what, args))
            }
            Err(Unsubmitted::Refused(SubmitError::Broken(why), args)) => {
                Err(TrySubmitError::Broken(why, args))
            }
            Err(Unsubmitted::Refused(SubmitError::Closed, args)) => {
                Err(TrySubmitError::Closed(args))
            }
        }
    }

    /// [`Pool::map`] with these options.
    ///
    /// # Errors
    /// As there.
    pub fn map<A, I>(&self, items: I) -> Result<Vec<F::Output>, TaskError>
    where
        F: TaskFn<(A,), Kind>,
        S: Callback<Vec<F::Output>>,
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
        S: Callback<Vec<F::Output>>,
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
        S: Callback<Vec<F::Output>>,
        Args: Serialize + DeserializeOwned + Send + 'static,
        I: IntoIterator<Item = Args>,
    {
        // nobody else has the handle, so what comes while the rest is submitted can be added up at once
        self.submit_map(items.into_iter(), MapResult::add_ready)?.get()
    }

    /// [`Pool::starmap_async`] with these options.
    ///
    /// # Errors
    /// As there.
    pub fn starmap_async<Args, I>(&self, items: I) -> Result<MapResult<F::Output>, SubmitError>
    where
        F: TaskFn<Args, Kind>,
        S: Callback<Vec<F::Output>>,
        Args: Serialize + DeserializeOwned + Send + 'static,
        I: IntoIterator<Item = Args>,
    {
        self.submit_map(items.into_iter(), |_| ())
    }

    /// What is done with the result of a single task before its handle has it.
    fn finish<R>(&self) -> Option<Finish>
    where
        R: DeserializeOwned + Send + 'static,
        S: Callback<R>,
    {
        if !self.success.is_some() && self.options.on_error.is_none() {
            return None;
        }
        let (success, error) = (self.success.clone(), self.options.on_error.clone());
        Some(Box::new(move |outcome| {
            let result = job::opened(outcome, entry::decode::<R>);
            callbacks::call(result, &success, error.as_ref())
        }))
    }
}

impl<'pool, F, Kind: 'static> Call<'pool, F, Kind> {
    /// [`Pool::imap`] with these options.
    pub fn imap<A, I>(&self, items: I) -> Imap<'pool, F::Output, I::IntoIter>
    where
        F: TaskFn<(A,), Kind>,
        A: Serialize + DeserializeOwned + Send + 'static,
        I: IntoIterator<Item = A>,
    {
        Imap::new::<F, A, Kind>(self.pool, items.into_iter(), self.options.clone())
    }

    /// [`Pool::imap_unordered`] with these options.
    pub fn imap_unordered<A, I>(&self, items: I) -> ImapUnordered<'pool, F::Output, I::IntoIter>
    where
        F: TaskFn<(A,), Kind>,
        A: Serialize + DeserializeOwned + Send + 'static,
        I: IntoIterator<Item = A>,
    {
        ImapUnordered::new::<F, A, Kind>(self.pool, items.into_iter(), self.options.clone())
    }
}

impl<F, Kind, S> std::fmt::Debug for Call<'_, F, Kind, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call")
            .field("function", &type_name::<F>())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

fn one<F, Args, Kind>() -> Function<Args>
where
    F: TaskFn<Args, Kind>,
    Args: Serialize + DeserializeOwned + Send + 'static,
    Kind: 'static,
{
    let callee = Callee::of(entry::single::<F, Args, Kind>);
    Function::new::<F>(callee, job::single::<F, Args, Kind>)
}

/// Submits one call as one task.
pub(super) fn submit_one<F, Args, Kind>(
    pool: &Pool,
    args: Args,
    options: &Options,
    finish: Option<Finish>,
) -> Result<AsyncResult<F::Output>, SubmitError>
where
    F: TaskFn<Args, Kind>,
    Args: Serialize + DeserializeOwned + Send + 'static,
    Kind: 'static,
{
    let task = pool.submit(&one::<F, Args, Kind>(), args, 1, options, finish)?;
    Ok(AsyncResult::new(task, |value, _| entry::decode(value)))
}
