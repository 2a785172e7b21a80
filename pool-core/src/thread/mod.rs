//! One function in a thread of its own, with the surface of a `Process`.

mod builder;
mod function;

use std::any::Any;
use std::fmt;
use std::future::IntoFuture;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::task::Waker;
use std::thread::{JoinHandle, ThreadId};
use std::time::{Duration, Instant};

pub use builder::ThreadBuilder;
pub use function::ThreadFn;

use crate::error::TaskError;
use crate::handle::{Joinable, Joining, Pending, deadline, sentinel};
use crate::primitives::unpoisoned;
use crate::process::ProcessError;
use crate::slot::Slot;
use crate::sys::poll::Sentinel;
use crate::sys::process::thread_id;
use crate::task::entry::with_causes;
use crate::task::panics;

/// One function call in a thread of its own: what Python's `threading.Thread` is, with a result.
///
/// The function may be any that a thread can run, with captures or without; nothing has to be encoded. Its methods are those of [`ThreadHandle`]. A panic is a
/// result: [`join`](ThreadHandle::join) gives [`TaskError::Panicked`], and nothing is printed (by a panic hook that leaves other threads
/// to the hook that it has found). A thread can't be killed, and ends at the latest with its process. Dropping a `Thread` detaches it.
///
/// If the function returns `anyhow::Result<T>`, [`join`](Thread::join) gives `T` and makes of an `Err` a [`TaskError::Failed`], as a
/// [`Process`](crate::Process) does; that is a `Thread<anyhow::Result<T>>`.
///
/// ```
/// use pool_core::{TaskError, Thread};
///
/// let text = String::from("captured");
/// let thread = Thread::spawn(move |n: usize| text.repeat(n), (2,))?;
/// assert_eq!(thread.join()?, "capturedcaptured");
///
/// let thread = Thread::spawn(|| -> anyhow::Result<u32> { Ok("x".parse()?) }, ())?;
/// let failed = TaskError::Failed("invalid digit found in string".to_owned());
/// assert_eq!(thread.join(), Err(failed));
/// # anyhow::Ok(())
/// ```
pub struct Thread<R>(ThreadHandle<R>);

/// What can be done with every [`Thread`], whatever its function returns.
///
/// ```
/// let thread = pool_core::Thread::new(|| 1, ());
/// assert!(!thread.is_alive());
/// thread.start()?;
/// assert!(thread.wait());
/// assert_eq!((thread.exit_code(), thread.join()?), (Some(0), 1));
/// # anyhow::Ok(())
/// ```
pub struct ThreadHandle<R>(Arc<Inner<R>>);

type Job<R> = Box<dyn FnOnce() -> R + Send>;

struct Inner<R> {
    daemon: bool,
    stack_size: Option<usize>,
    state: Mutex<State>,
    /// Until it is started.
    job: Mutex<Option<Job<R>>>,
    slot: Slot<Result<R, TaskError>>,
    /// Set when the result is taken.
    code: Mutex<Option<i32>>,
    sentinel: Mutex<Option<Arc<Sentinel>>>,
}

struct State {
    name: String,
    phase: Phase,
    handle: Option<JoinHandle<()>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Fresh,
    Starting,
    Started { id: ThreadId, native_id: u32 },
}

impl Thread<()> {
    /// A thread with other settings.
    pub fn builder() -> ThreadBuilder {
        ThreadBuilder::default()
    }
}

impl<R: Send + 'static> Thread<R> {
    /// A thread that calls `function` with `args`, created and started.
    ///
    /// # Errors
    /// As [`start`](ThreadHandle::start).
    pub fn spawn<F, Args>(function: F, args: Args) -> Result<Thread<R>, ProcessError>
    where
        F: ThreadFn<Args, Output = R>,
        Args: Send + 'static,
    {
        ThreadBuilder::default().spawn(function, args)
    }

    /// The same, not started yet: call [`start`](ThreadHandle::start).
    pub fn new<F, Args>(function: F, args: Args) -> Thread<R>
    where
        F: ThreadFn<Args, Output = R>,
        Args: Send + 'static,
    {
        ThreadBuilder::default().build(function, args)
    }

    fn of(builder: ThreadBuilder, function: &str, job: Job<R>) -> Thread<R> {
        static THREADS: AtomicU32 = AtomicU32::new(1);
        let number = THREADS.fetch_add(1, Ordering::Relaxed);
        let name = builder.name.unwrap_or_else(|| format!("Thread-{number} ({function})"));
        Thread(ThreadHandle(Arc::new(Inner {
            daemon: builder.daemon.unwrap_or(true),
            stack_size: builder.stack_size,
            state: Mutex::new(State { name, phase: Phase::Fresh, handle: None }),
            job: Mutex::new(Some(job)),
            slot: Slot::new(),
            code: Mutex::new(None),
            sentinel: Mutex::new(None),
        })))
    }
}

impl<T: Send + 'static> Thread<anyhow::Result<T>> {
    /// Waits until the thread has ended and gives its function's result.
    ///
    /// # Errors
    /// [`TaskError::Failed`] if the function has returned `Err`, else as [`ThreadHandle::join`].
    pub fn join(&self) -> Result<T, TaskError> {
        self.0.join_as(None, Result::is_ok).and_then(flatten)
    }

    /// Like [`join`](Thread::join), for at most `timeout`; zero does not wait at all. May be called again.
    ///
    /// # Errors
    /// As [`join`](Thread::join), and [`TaskError::NotReady`] when the time is up.
    pub fn join_timeout(&self, timeout: Duration) -> Result<T, TaskError> {
        self.0.join_as(Some(timeout), Result::is_ok).and_then(flatten)
    }

    /// How it ended; `None` while it has not. 0: its function has returned `Ok`; 1: it has returned `Err` or panicked.
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        self.0.exit_code_as(Result::is_ok)
    }
}

fn flatten<T>(result: anyhow::Result<T>) -> Result<T, TaskError> {
    result.map_err(|error| TaskError::Failed(with_causes(&error)))
}

impl<R> Deref for Thread<R> {
    type Target = ThreadHandle<R>;

    fn deref(&self) -> &ThreadHandle<R> {
        &self.0
    }
}

impl<R: Send + 'static> ThreadHandle<R> {
    /// Starts it. Returns when the thread runs.
    ///
    /// # Errors
    /// [`ProcessError::AlreadyStarted`] the second time; [`ProcessError::Config`] for a name with a zero byte; [`ProcessError::Os`] if the system refuses
    /// a thread, after which it can be tried again.
    pub fn start(&self) -> Result<(), ProcessError> {
        let name = {
            let mut state = self.0.state();
            if state.phase != Phase::Fresh {
                return Err(ProcessError::AlreadyStarted);
            }
            if state.name.contains('\0') {
                let text = "the thread's name must not contain a zero byte";
                return Err(ProcessError::Config(text.to_owned()));
            }
            state.phase = Phase::Starting;
            state.name.clone()
        };
        let builder = std::thread::Builder::new().name(name);
        let builder = match self.0.stack_size {
            Some(bytes) => builder.stack_size(bytes),
            None => builder,
        };
        let inner = Arc::clone(&self.0);
        let (tell, told) = mpsc::sync_channel(1);
        let (go, may_go) = mpsc::sync_channel::<()>(1);
        let body = move || {
            // the starter waits for it
            let _ = tell.send(thread_id());
            // its handle is in its place before the function can look for it
            let _ = may_go.recv();
            inner.run();
        };
        match builder.spawn(body) {
            Ok(handle) => {
                let native_id = told.recv().unwrap_or(0);
                let mut state = self.0.state();
                state.phase = Phase::Started { id: handle.thread().id(), native_id };
                state.handle = Some(handle);
                drop(state);
                // it waits for this
                let _ = go.send(());
                Ok(())
            }
            Err(error) => {
                self.0.state().phase = Phase::Fresh;
                Err(ProcessError::os("cannot start a thread")(error))
            }
        }
    }

    /// Waits until the thread has ended and gives what its function has returned. A result can be taken once.
    ///
    /// # Errors
    /// [`TaskError::Panicked`]; [`TaskError::AlreadyTaken`] the second time; [`TaskError::Process`] with [`ProcessError::NotStarted`], or with
    /// [`ProcessError::WouldDeadlock`] if the thread would wait for itself.
    pub fn join(&self) -> Result<R, TaskError> {
        self.join_as(None, |_| true)
    }

    /// Like [`join`](ThreadHandle::join), for at most `timeout`; zero does not wait at all. May be called again.
    ///
    /// # Errors
    /// As [`join`](ThreadHandle::join), and [`TaskError::NotReady`] when the time is up.
    pub fn join_timeout(&self, timeout: Duration) -> Result<R, TaskError> {
        self.join_as(Some(timeout), |_| true)
    }

    fn join_as(&self, timeout: Option<Duration>, is_ok: fn(&R) -> bool) -> Result<R, TaskError> {
        self.0.check_waitable()?;
        if !self.0.slot.wait(timeout.map(deadline)) {
            return Err(TaskError::NotReady(timeout.unwrap_or_default()));
        }
        self.0.collect();
        self.0.take(is_ok).unwrap_or(Err(TaskError::AlreadyTaken))
    }
}

impl<R> ThreadHandle<R> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> String {
        self.0.state().name.clone()
    }

    /// Gives it another name. What the system shows does not change after the start.
    pub fn set_name(&self, name: impl Into<String>) {
        self.0.state().name = name.into();
    }

    /// Its id, also after its end; `None` before it is started.
    #[must_use]
    pub fn id(&self) -> Option<ThreadId> {
        match self.0.state().phase {
            Phase::Started { id, .. } => Some(id),
            Phase::Fresh | Phase::Starting => None,
        }
    }

    /// The number by which the system knows it (of `top -H`, /proc/PID/task), also after its end; `None` before it is started.
    #[must_use]
    pub fn native_id(&self) -> Option<u32> {
        match self.0.state().phase {
            Phase::Started { native_id, .. } => Some(native_id),
            Phase::Fresh | Phase::Starting => None,
        }
    }

    /// What was set with [`ThreadBuilder::daemon`].
    #[must_use]
    pub fn daemon(&self) -> bool {
        self.0.daemon
    }

    /// Whether it was started and its function has not returned.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        matches!(self.0.state().phase, Phase::Started { .. }) && !self.0.slot.is_settled()
    }

    /// How it ended; `None` while it has not. 0: its function has returned; 1: it has panicked.
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        self.exit_code_as(|_| true)
    }

    fn exit_code_as(&self, is_ok: fn(&R) -> bool) -> Option<i32> {
        let taken = unpoisoned(self.0.code.lock());
        taken.or_else(|| self.0.slot.with(|result| code(result, is_ok)))
    }

    /// Waits until the thread has ended, and leaves its result where it is. Returns whether it has ended: `false`, at once, if it was not started or would wait for
    /// itself.
    pub fn wait(&self) -> bool {
        self.0.wait(None)
    }

    /// Like [`wait`](ThreadHandle::wait), for at most `timeout`.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.0.wait(Some(deadline(timeout)))
    }

    /// A descriptor that is readable when the thread has ended, to be polled with others. It belongs to the caller and must not be read from.
    ///
    /// # Errors
    /// [`ProcessError::Os`] if the system refuses a descriptor.
    pub fn sentinel(&self) -> Result<OwnedFd, ProcessError> {
        sentinel(&self.0.sentinel, &self.0.slot)
            .map_err(ProcessError::os("cannot create an eventfd"))
    }
}

impl<R> Inner<R> {
    fn state(&self) -> MutexGuard<'_, State> {
        unpoisoned(self.state.lock())
    }

    /// The thread itself.
    fn run(&self) {
        panics::keep();
        let job = unpoisoned(self.job.lock()).take();
        let Some(job) = job else { return };
        let result = catch_unwind(AssertUnwindSafe(job)).map_err(panicked);
        // there is no other value
        let _ = self.slot.settle(result);
    }

    fn check_waitable(&self) -> Result<(), ProcessError> {
        match self.state().phase {
            Phase::Fresh | Phase::Starting => Err(ProcessError::NotStarted),
            Phase::Started { id, .. } if id == std::thread::current().id() => {
                Err(ProcessError::WouldDeadlock)
            }
            Phase::Started { .. } => Ok(()),
        }
    }

    fn wait(&self, deadline: Option<Instant>) -> bool {
        self.check_waitable().is_ok() && self.slot.wait(deadline)
    }

    /// After the end of its function: waits until its thread-locals are gone and its stack is free.
    fn collect(&self) {
        let handle = self.state().handle.take();
        if let Some(handle) = handle {
            // it has caught its panics
            let _ = handle.join();
        }
    }

    /// `None` as long as there is none.
    fn take(&self, is_ok: fn(&R) -> bool) -> Option<Result<R, TaskError>> {
        // the exit code is known all the time
        let mut kept = unpoisoned(self.code.lock());
        let Some(result) = self.slot.take()? else { return Some(Err(TaskError::AlreadyTaken)) };
        *kept = Some(code(&result, is_ok));
        Some(result)
    }
}

fn code<R>(result: &Result<R, TaskError>, is_ok: fn(&R) -> bool) -> i32 {
    i32::from(!result.as_ref().is_ok_and(is_ok))
}

fn panicked(payload: Box<dyn Any + Send>) -> TaskError {
    let error = panics::take(payload.as_ref()).into();
    // a payload whose drop panics must not end the thread
    std::mem::forget(payload);
    error
}

impl<R> Joinable<R> for Thread<R> {
    fn poll_join(&self, waker: &Waker) -> Option<Result<R, TaskError>> {
        if self.0.0.state().phase == Phase::Fresh {
            return Some(Err(ProcessError::NotStarted.into()));
        }
        if self.0.0.slot.register(waker) { None } else { self.0.0.take(|_| true) }
    }

    fn forget(&self, waker: &Waker) {
        self.0.0.slot.forget(waker);
    }
}

/// Awaits the thread's end: `(&thread).await` gives what its function has returned, an `anyhow::Result` included.
impl<'a, R: Send + 'static> IntoFuture for &'a Thread<R> {
    type Output = Result<R, TaskError>;
    type IntoFuture = Joining<'a, R>;

    fn into_future(self) -> Joining<'a, R> {
        Joining::new(self)
    }
}

impl<R> Pending for Thread<R> {
    fn register(&self, waker: &Waker) -> bool {
        self.0.0.slot.register(waker)
    }

    fn forget(&self, waker: &Waker) {
        self.0.0.slot.forget(waker);
    }
}

impl<R> fmt::Debug for Thread<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<R> fmt::Debug for ThreadHandle<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Thread")
            .field("name", &self.name())
            .field("id", &self.id())
            .field("is_alive", &self.is_alive())
            .finish_non_exhaustive()
    }
}
