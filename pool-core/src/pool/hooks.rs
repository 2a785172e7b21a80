//! Settings that are functions: what is called when workers start and leave, and when something happens; and what all workers can read.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::PoolBuilder;
use super::shareable::Shareable;
use crate::attach;
use crate::backend::process::spawner::StartMethod;
use crate::codec;
use crate::dispatch::{EventHook, Hook};
use crate::events::PoolEvent;
use crate::limits::INLINE_BYTES;
use crate::task::callee::Callee;
use crate::task::{TaskFn, entry};

/// A function of the workers' with its encoded arguments.
fn hook<F, Args, Kind>(what: &str, args: &Args) -> Result<Hook, String>
where
    F: TaskFn<Args, Kind>,
    Args: Serialize + DeserializeOwned + Send + 'static,
{
    let mut bytes = Vec::new();
    let (encoded, attachments) =
        attach::collect(|| codec::encode(args, &mut bytes, INLINE_BYTES as u64));
    match encoded {
        Ok(()) => Ok((Callee::of(entry::single::<F, Args, Kind>), bytes, attachments)),
        Err(codec::Unencodable::Refused(text)) => {
            Err(format!("the {what}'s arguments can't be encoded: {text}"))
        }
        Err(codec::Unencodable::TooLarge(size)) => Err(format!(
            "the {what}'s arguments have {size} bytes or more, the limit is {INLINE_BYTES}: pass what is large with shared()"
        )),
    }
}

impl<P> PoolBuilder<P> {
    /// A function that each worker runs once, before its first task. If it fails or panics, the pool is broken: `build` gives
    /// [`PoolError::InitFailed`](crate::PoolError::InitFailed), and if that happens to a replacement, tasks end with
    /// [`TaskError::InitFailed`](crate::TaskError::InitFailed).
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// use std::sync::OnceLock;
    /// static TABLE: OnceLock<Vec<u64>> = OnceLock::new();
    ///
    /// let pool = pool_core::Pool::builder()
    ///     .processes(2)
    ///     .initializer(|n: u64| TABLE.set((0..n).map(|x| x * x).collect()).is_ok(), (100,))
    ///     .build()?;
    /// assert_eq!(pool.apply(|i: usize| TABLE.get().map(|table| table[i]), (9,))?, Some(81));
    /// # Ok(())
    /// # }
    /// ```
    pub fn initializer<F, Args, Kind>(mut self, _function: F, args: Args) -> Self
    where
        F: TaskFn<Args, Kind>,
        Args: Serialize + DeserializeOwned + Send + 'static,
    {
        self.initializer = Some(hook::<F, Args, Kind>("initializer", &args));
        self
    }

    /// A function that each worker runs once, before it leaves in good order: after `close`, when it is recycled, and when the pool shrinks; not when it is killed or crashes, so there is no result of a worker that [`terminate`](crate::Pool::terminate), a time limit, a cancelled task or a fault has ended. It has 5
    /// seconds. Its results can be [collected](crate::Pool::finalized) after [`join`](crate::Pool::join).
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// use pool_core::worker;
    /// fn count(_: u32) { *worker::state::<u64>() += 1; }
    ///
    /// let pool = pool_core::Pool::builder()
    ///     .processes(2)
    ///     .initializer(|| worker::set_state(0u64), ())
    ///     .finalizer(|| *worker::state::<u64>(), ())
    ///     .build()?;
    /// pool.map(count, 0..100)?;
    /// pool.close();
    /// pool.join()?;
    /// let counts: Vec<u64> = pool.finalized().into_iter().collect::<Result<_, _>>()?;
    /// assert_eq!(counts.iter().sum::<u64>(), 100);
    /// # Ok(())
    /// # }
    /// ```
    pub fn finalizer<F, Args, Kind>(mut self, _function: F, args: Args) -> Self
    where
        F: TaskFn<Args, Kind>,
        Args: Serialize + DeserializeOwned + Send + 'static,
    {
        self.finalizer = Some(hook::<F, Args, Kind>("finalizer", &args));
        self
    }

    /// How worker processes come to be. Default: each is started afresh.
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// use pool_core::StartMethod;
    /// let pool = pool_core::Pool::builder()
    ///     .processes(4)
    ///     .start_method(StartMethod::ForkServer)
    ///     .build()?;
    /// assert_eq!(pool.map(|x: u64| x * x, 0..4)?, [0, 1, 4, 9]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn start_method(mut self, method: StartMethod) -> Self {
        self.start_method = method;
        self
    }

    /// Whether the workers live in a PID namespace of their own, whose first process is the fork server: when that ends, however it ends, the kernel kills all that is in it, sessions
    /// of their own included. So nothing that a task has started outlives the pool, even if this program and the fork server are killed at the same time. Only with
    /// [`StartMethod::ForkServer`], and not with a [`sandbox`](Self::sandbox). Default: no.
    ///
    /// In the namespace processes have other numbers than outside: what [`std::process::id`] gives in a task is not what [`WorkerInfo::pid`](crate::WorkerInfo::pid) and
    /// [`AsyncResult::pid`](crate::AsyncResult::pid) tell, and /proc, which stays that of this program, knows them by the latter (`/proc/self` is right in any case). Tasks neither see nor
    /// signal processes outside. Shared objects work as always.
    ///
    /// Root gets such a namespace. Others get it together with a user namespace, where the kernel allows that: files and processes belong to the same user as before, but the files of all
    /// others seem to belong to `nobody`, programs with a setuid bit (`sudo`) don't become another user, and no task has any capability. [`build`](Self::build) fails with
    /// [`PoolError::NoPidNamespace`](crate::PoolError::NoPidNamespace) if this can't be had.
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// use pool_core::{Pool, PoolError, StartMethod};
    /// let builder = Pool::builder().processes(2).start_method(StartMethod::ForkServer).pid_namespace(true);
    /// match builder.build() {
    ///     Err(PoolError::NoPidNamespace(why)) => println!("not here: {why}"),
    ///     pool => {
    ///         let pid = pool?.apply(std::process::id, ())?;
    ///         assert!(pid < 10, "its number in a namespace that is new");
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn pid_namespace(mut self, on: bool) -> Self {
        self.pid_namespace = on;
        self
    }

    /// A function that the fork server calls once, before it forks the first worker: what it puts into static variables is in all workers, whose memory is shared until it is
    /// written to. It must leave no threads running. If it fails, `build` gives [`PoolError::InitFailed`](crate::PoolError::InitFailed). Only with
    /// [`StartMethod::ForkServer`].
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// use pool_core::StartMethod;
    /// use std::sync::OnceLock;
    /// static MODEL: OnceLock<Vec<u64>> = OnceLock::new();
    ///
    /// let pool = pool_core::Pool::builder()
    ///     .processes(4)
    ///     .start_method(StartMethod::ForkServer)
    ///     .preload(|n: u64| MODEL.set((0..n).collect()).is_ok(), (1_000_000,))
    ///     .build()?;
    /// assert_eq!(pool.apply(|i: usize| MODEL.get().map(|model| model[i]), (7,))?, Some(7));
    /// # Ok(())
    /// # }
    /// ```
    pub fn preload<F, Args, Kind>(mut self, _function: F, args: Args) -> Self
    where
        F: TaskFn<Args, Kind>,
        Args: Serialize + DeserializeOwned + Send + 'static,
    {
        let hook = hook::<F, Args, Kind>("preload function", &args);
        self.preload = Some(hook.and_then(|(callee, bytes, attachments)| {
            if attachments.is_empty() {
                Ok((callee, bytes))
            } else {
                Err("shared objects can't be passed to the preload function: pass them to the initializer".to_owned())
            }
        }));
        self
    }

    /// An object that all workers can read: [`worker::shared`](crate::worker::shared). It is encoded and passed once, whatever the number of workers
    /// and tasks, and each worker process decodes it when one of its tasks first asks for it. Threads have the object itself.
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// use pool_core::worker;
    /// let table: Vec<u64> = (0..1000).map(|x| x * x).collect();
    /// let pool = pool_core::Pool::builder().processes(2).shared(table).build()?;
    /// let look_up = |i: usize| worker::shared::<Vec<u64>>()[i];
    /// assert_eq!(pool.map(look_up, [3, 30])?, [9, 900]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn shared<T>(mut self, object: T) -> Self
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        self.shared = Some(Shareable::new(object));
        self
    }

    /// A function that is told what happens in the pool, in order, on a thread of its own. One that is slow misses events, when 65,536 wait for it, and is
    /// told how many; it never slows the pool. [`join`](crate::Pool::join) waits until all have been told.
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// use std::sync::mpsc;
    /// use pool_core::PoolEvent;
    /// let (sender, events) = mpsc::channel();
    /// let pool = pool_core::Pool::builder()
    ///     .processes(1)
    ///     .on_event(move |event| sender.send(event.clone()).unwrap())
    ///     .build()?;
    /// pool.apply(|| -> () { std::process::exit(3) }, ()).unwrap_err();
    /// pool.close();
    /// pool.join()?;
    /// assert!(events.try_iter().any(|event| matches!(event, PoolEvent::WorkerLost { .. })));
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_event(mut self, observer: impl Fn(&PoolEvent) + Send + Sync + 'static) -> Self {
        self.on_event = EventHook(Some(Arc::new(observer)));
        self
    }
}
