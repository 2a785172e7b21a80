//! The options of one call.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use super::Call;
use super::callbacks::{OnError, OnSuccess};
use crate::error::TaskError;

#[derive(Clone, Default)]
pub(super) struct Options {
    pub(super) timeout: Option<Duration>,
    pub(super) soft_timeout: Option<Duration>,
    pub(super) retries: Option<u32>,
    pub(super) backoff: Option<Duration>,
    pub(super) priority: i32,
    pub(super) chunk_size: Option<NonZero<usize>>,
    pub(super) window: Option<NonZero<usize>>,
    pub(super) fail_fast: bool,
    pub(super) name: Option<Cow<'static, str>>,
    pub(super) on_error: Option<OnError>,
    /// The caller waits for the result next.
    pub(super) awaited: bool,
}

/// Those of a call without any.
pub(super) static PLAIN: Options = plain(false);
/// Those of such a call whose caller waits for the result next.
pub(super) static AWAITED: Options = plain(true);

const fn plain(awaited: bool) -> Options {
    Options {
        timeout: None,
        soft_timeout: None,
        retries: None,
        backoff: None,
        priority: 0,
        chunk_size: None,
        window: None,
        fail_fast: false,
        name: None,
        on_error: None,
        awaited,
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("timeout", &self.timeout)
            .field("soft_timeout", &self.soft_timeout)
            .field("retries", &self.retries)
            .field("backoff", &self.backoff)
            .field("priority", &self.priority)
            .field("chunk_size", &self.chunk_size)
            .field("window", &self.window)
            .field("fail_fast", &self.fail_fast)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl<'pool, F, Kind, S> Call<'pool, F, Kind, S> {
    /// How long the task may run, from its start in the worker: instead of the pool's
    /// [`task_timeout`](crate::PoolBuilder::task_timeout). Not for pools of threads: a thread can't be killed.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = Some(timeout);
        self
    }

    /// How long the task may run, from its start, before [`worker::cancelled`](crate::worker::cancelled) tells it to come to an end. What it makes of it is its own
    /// affair: give it a [`timeout`](Self::timeout) too, or it may go on for ever. For a map, the limit is one of its chunk.
    pub fn soft_timeout(mut self, timeout: Duration) -> Self {
        self.options.soft_timeout = Some(timeout);
        self
    }

    /// How many more times the task is started if its worker dies while running it, or if its time is up: instead of the pool's
    /// [`retries`](crate::PoolBuilder::retries). A task that has cost as many workers as the pool's
    /// [`crash_limit`](crate::PoolBuilder::crash_limit) is not tried again in any case.
    pub fn retries(mut self, retries: u32) -> Self {
        self.options.retries = Some(retries);
        self
    }

    /// The pause before the first retry; each further one is twice as long, and none is longer than a minute. Default: none.
    pub fn backoff(mut self, pause: Duration) -> Self {
        self.options.backoff = Some(pause);
        self
    }

    /// Of the tasks that wait, those of a higher priority are run first; of the same, those that came first. Default: 0. What a worker has got
    /// already, which is at most some 2 ms of work ahead, is not overtaken.
    pub fn priority(mut self, priority: i32) -> Self {
        self.options.priority = priority;
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

    /// How many items `imap` and `imap_unordered` read ahead of their consumer. Default: 64 per worker, or as many chunks with a [`chunk_size`](Self::chunk_size). Items that
    /// are large, or have large results, want fewer.
    ///
    /// # Panics
    /// If it is 0.
    pub fn window(mut self, items: usize) -> Self {
        self.options.window = Some(NonZero::new(items).expect("a window has at least 1 item"));
        self
    }

    /// The first item of a map that fails ends the map: what has not finished is cancelled, and its error is the result. That is seen while somebody waits for the
    /// map, awaits it or asks whether it is ready (or at once, if the call has callbacks), and when the whole input has been submitted. Without it all items are run. `imap` goes on in any case: stop asking it.
    pub fn fail_fast(mut self) -> Self {
        self.options.fail_fast = true;
        self
    }

    /// What errors, events and [`workers`](crate::Pool::workers) call the task. Default: the path of the function.
    pub fn name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.options.name = Some(name.into());
        self
    }

    /// A function that is called with the error if there is no result: see [`on_success`](Self::on_success). Not by `imap`, whose items are errors themselves.
    pub fn on_error(mut self, callback: impl Fn(&TaskError) + Send + Sync + 'static) -> Self {
        self.options.on_error = Some(Arc::new(callback));
        self
    }
}

impl<'pool, F, Kind> Call<'pool, F, Kind> {
    /// A function that is called with the result, once per call, on a thread that the pool has for callbacks: one at a time. For a map it is called with the
    /// `Vec` of all results, also of an empty one. The handle becomes ready after the callback has returned.
    ///
    /// It may be slow, which delays the handles of other calls with callbacks and nothing else; it may panic, which is
    /// reported by the panic hook and changes nothing; it may submit tasks and terminate the pool. Only one thing it must not do: wait for a task of this pool that has callbacks itself, which
    /// would wait for its own thread. [`join`](crate::Pool::join) waits for all callbacks.
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// use std::sync::mpsc;
    /// let pool = pool_core::Pool::new(2)?;
    /// let (sender, results) = mpsc::channel();
    /// let errors = sender.clone();
    /// let half = pool
    ///     .task(|x: u32| anyhow::Ok(x.checked_div(2).filter(|_| x % 2 == 0).ok_or(anyhow::anyhow!("odd"))?))
    ///     .on_success(move |half: &u32| sender.send(half.to_string()).unwrap())
    ///     .on_error(move |error| errors.send(error.to_string()).unwrap());
    /// half.apply_async((8,))?.wait();
    /// half.apply_async((7,))?.wait();
    /// assert_eq!(results.try_iter().collect::<Vec<_>>(), ["4", "the task failed: odd"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_success<R: 'static>(
        self,
        callback: impl Fn(&R) + Send + Sync + 'static,
    ) -> Call<'pool, F, Kind, OnSuccess<R>> {
        let Call { pool, function, options, success: (), kind } = self;
        Call { pool, function, options, success: OnSuccess(Arc::new(callback)), kind }
    }
}
