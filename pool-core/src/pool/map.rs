//! Many calls of one function, in chunks.

use std::num::NonZero;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::callbacks::{self, Callback};
use super::gather::Gathering;
use super::submit::Function;
use super::{Call, Pool};
use crate::error::{SubmitError, TaskError};
use crate::handle::{AsyncResult, MapResult};
use crate::limits::{CHUNK_BYTES, CHUNKS_PER_WORKER, MAX_CHUNK};
use crate::task::callee::Callee;
use crate::task::{TaskFn, chunk, job};

impl Pool {
    /// Calls the function for each item and gives the results in the order of the input. Blocks until all are there.
    ///
    /// The input is cut into chunks, which are tasks of their own: several for each worker, so that the load is even. Set their size with
    /// `pool.task(f).chunk_size(n).map(..)`: with 1, an item that kills its worker costs only itself.
    ///
    /// # Errors
    /// The error of the first item, in the order of the input, that has no result; all items are run all the same.
    pub fn map<F, A, Kind, I>(&self, function: F, items: I) -> Result<Vec<F::Output>, TaskError>
    where
        F: TaskFn<(A,), Kind>,
        A: Serialize + DeserializeOwned + Send + 'static,
        I: IntoIterator<Item = A>,
        Kind: 'static,
    {
        self.task::<F, Kind>(function).map(items)
    }

    /// Like [`map`](Pool::map), without waiting for the results. The whole input is read and submitted before it returns, which blocks while
    /// `max_pending` tasks are unfinished.
    ///
    /// # Errors
    /// [`SubmitError`] if the pool takes no more tasks; what was submitted until then goes on.
    pub fn map_async<F, A, Kind, I>(
        &self,
        function: F,
        items: I,
    ) -> Result<MapResult<F::Output>, SubmitError>
    where
        F: TaskFn<(A,), Kind>,
        A: Serialize + DeserializeOwned + Send + 'static,
        I: IntoIterator<Item = A>,
        Kind: 'static,
    {
        self.task::<F, Kind>(function).map_async(items)
    }

    /// Like [`map`](Pool::map), for a function of several arguments: each item is a tuple of them.
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// let pool = pool_core::Pool::new(2)?;
    /// assert_eq!(pool.starmap(u64::pow, [(2, 3), (3, 2)])?, [8, 9]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`map`](Pool::map).
    pub fn starmap<F, Args, Kind, I>(
        &self,
        function: F,
        items: I,
    ) -> Result<Vec<F::Output>, TaskError>
    where
        F: TaskFn<Args, Kind>,
        Args: Serialize + DeserializeOwned + Send + 'static,
        I: IntoIterator<Item = Args>,
        Kind: 'static,
    {
        self.task::<F, Kind>(function).starmap(items)
    }

    /// Like [`map_async`](Pool::map_async), for a function of several arguments: each item is a tuple of them.
    ///
    /// # Errors
    /// As [`map_async`](Pool::map_async).
    pub fn starmap_async<F, Args, Kind, I>(
        &self,
        function: F,
        items: I,
    ) -> Result<MapResult<F::Output>, SubmitError>
    where
        F: TaskFn<Args, Kind>,
        Args: Serialize + DeserializeOwned + Send + 'static,
        I: IntoIterator<Item = Args>,
        Kind: 'static,
    {
        self.task::<F, Kind>(function).starmap_async(items)
    }

    /// Several chunks per worker, none too large.
    fn chunk_size<Args>(&self, items: usize) -> NonZero<usize> {
        let chunks = self.shared().lock().sched.size() as usize * CHUNKS_PER_WORKER;
        let most = CHUNK_BYTES / size_of::<Args>().max(CHUNK_BYTES / MAX_CHUNK);
        let size = items.div_ceil(chunks).clamp(1, most.max(1));
        NonZero::new(size).unwrap_or(NonZero::<usize>::MIN)
    }
}

impl<F, Kind: 'static, S> Call<'_, F, Kind, S> {
    /// `between` is called behind each chunk.
    pub(super) fn submit_map<Args>(
        &self,
        items: impl Iterator<Item = Args>,
        between: fn(&mut MapResult<F::Output>),
    ) -> Result<MapResult<F::Output>, SubmitError>
    where
        F: TaskFn<Args, Kind>,
        S: Callback<Vec<F::Output>>,
        Args: Serialize + DeserializeOwned + Send + 'static,
    {
        // asked first, so that a closed pool is told also for an empty input
        self.pool.shared().check_open()?;
        let size = match (self.options.chunk_size, items.size_hint()) {
            (Some(size), _) => size,
            (None, (least, Some(most))) if least == most => self.pool.chunk_size::<Args>(most),
            (None, _) => {
                let items: Vec<Args> = items.collect();
                let size = self.pool.chunk_size::<Args>(items.len());
                return self.submit_chunks(items.into_iter(), size, between);
            }
        };
        self.submit_chunks(items, size, between)
    }

    fn submit_chunks<Args>(
        &self,
        mut items: impl Iterator<Item = Args>,
        size: NonZero<usize>,
        between: fn(&mut MapResult<F::Output>),
    ) -> Result<MapResult<F::Output>, SubmitError>
    where
        F: TaskFn<Args, Kind>,
        S: Callback<Vec<F::Output>>,
        Args: Serialize + DeserializeOwned + Send + 'static,
    {
        let callee = Callee::of(chunk::run::<F, Args, Kind>);
        let function = Function::new::<F>(callee, job::chunk::<F, Args, Kind>);
        let gathering = self.gathering::<F::Output>();
        let mut map = MapResult::new(items.size_hint().0, chunk::decode_onto::<F::Output>);
        let mut handles = Vec::new();
        loop {
            let input: Vec<Args> = items.by_ref().take(size.get()).collect();
            if input.is_empty() {
                break;
            }
            let count = input.len();
            let finish = gathering.as_ref().map(|gathering| gathering.expect(count));
            let task = self.pool.submit(&function, input, count, &self.options, finish)?;
            let handle = AsyncResult::new(task, chunk::decode::<F::Output>);
            match &gathering {
                None => {
                    map.push(handle, count);
                    between(&mut map);
                }
                Some(_) => handles.push(handle),
            }
        }
        if let Some(gathering) = gathering {
            map = gathering.into_map(handles);
        }
        Ok(if self.options.fail_fast { map.failing_fast() } else { map })
    }

    /// Brings the results of all chunks together for the callbacks, if there are any.
    fn gathering<R>(&self) -> Option<Gathering<R>>
    where
        R: DeserializeOwned + Send + 'static,
        S: Callback<Vec<R>>,
    {
        if !self.success.is_some() && self.options.on_error.is_none() {
            return None;
        }
        let (success, error) = (self.success.clone(), self.options.on_error.clone());
        let fail_fast = self.options.fail_fast;
        let call = move |result| callbacks::call(result, &success, error.as_ref());
        Some(Gathering::new(Arc::clone(self.pool.shared()), fail_fast, call))
    }
}
