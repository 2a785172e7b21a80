//! How calls become tasks: encoded for worker processes, as they are for worker threads.

use std::any::type_name;
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::Pool;
use super::options::Options;
use crate::attach::{self, Attachments};
use crate::codec::{self, Lent, Unencodable};
use crate::dispatch::{Extras, Finish, Payload, Request, Shared, Workers, ns};
use crate::error::{Oversize, SubmitError, TaskError};
use crate::handle::TaskRef;
use crate::limits::INLINE_BYTES;
use crate::small_bytes::SmallBytes;
use crate::task::callee::Callee;
use crate::task::entry;
use crate::task::job::{Job, JobCell, Outcome};

/// Whether a submission may wait for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MayWait {
    Yes,
    No,
}

/// A function with arguments of type `T`, as the pool calls it.
#[derive(Debug)]
pub(super) struct Function<T> {
    pub(super) callee: Callee,
    pub(super) name: &'static str,
    /// For worker threads.
    pub(super) job: fn(T) -> Box<dyn Job>,
}

impl<T> Copy for Function<T> {}

impl<T> Clone for Function<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Function<T> {
    pub(super) fn new<F>(callee: Callee, job: fn(T) -> Box<dyn Job>) -> Function<T> {
        Function { callee, name: type_name::<F>(), job }
    }
}

thread_local! {
    /// Where arguments are encoded: those that are few leave it for the next ones.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The encoded arguments.
fn encode<T: Serialize + 'static>(args: &T, limit: u64) -> Result<SmallBytes, Unencodable> {
    // taken out meanwhile: their `Serialize` is user code, and may come here again
    let mut buffer = SCRATCH.take();
    buffer.clear();
    let encoded = codec::encode_value(args, &mut buffer, limit);
    let encoded = encoded.map(|()| SmallBytes::take(&mut buffer));
    if buffer.capacity() <= INLINE_BYTES {
        // not by `set`, which is a call
        SCRATCH.with(|scratch| drop(scratch.replace(buffer)));
    }
    encoded
}

/// Why there is no task, with its arguments.
#[derive(Debug)]
pub(super) enum Unsubmitted<T> {
    Full(T),
    Refused(SubmitError, T),
}

impl Pool {
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Submits a task; waits while the pool is full. Arguments that can't be encoded are that task's own failure.
    pub(super) fn submit<T: Serialize + Send + 'static>(
        &self,
        function: &Function<T>,
        args: T,
        items: usize,
        options: &Options,
        finish: Option<Finish>,
    ) -> Result<TaskRef, SubmitError> {
        let task = self.try_submit(function, args, items, options, finish, MayWait::Yes);
        task.map_err(|why| match why {
            Unsubmitted::Refused(error, _) => error,
            // only a call that may not wait finds the pool full
            Unsubmitted::Full(_) => SubmitError::Closed,
        })
    }

    pub(super) fn try_submit<T: Serialize + Send + 'static>(
        &self,
        function: &Function<T>,
        mut args: T,
        items: usize,
        options: &Options,
        finish: Option<Finish>,
        may_wait: MayWait,
    ) -> Result<TaskRef, Unsubmitted<T>> {
        if let Err(error) = self.check_options(options) {
            return Err(Unsubmitted::Refused(error, args));
        }
        match self.shared.settings.workers {
            Workers::Processes(_) => {
                let limit = self.shared.settings.max_task;
                if let Some(numbers) = Lent::take(&mut args, INLINE_BYTES) {
                    return self
                        .submit_numbers(function, args, numbers, items, options, finish, may_wait);
                }
                let (encoded, attachments) = attach::collect(|| encode(&args, limit));
                match encoded {
                    Ok(bytes) => {
                        let payload = Payload::encoded(bytes);
                        let request =
                            self.request(function, payload, attachments, items, options, finish);
                        self.submit_request(request, may_wait).or_else(|no| no.with(args))
                    }
                    Err(error) => {
                        let error = Box::new(self.unencodable::<T>(error));
                        self.settled(Err(error), finish, args)
                    }
                }
            }
            Workers::Threads { .. } => {
                let job = Arc::new(JobCell::new((function.job)(args)));
                let payload = Payload::Direct(Arc::clone(&job));
                let none = Attachments::NONE;
                let request = self.request(function, payload, none, items, options, finish);
                self.submit_request(request, may_wait).or_else(|no| {
                    let args = job.take().and_then(|job| job.into_args().downcast::<T>().ok());
                    no.with(*args.expect("a job that was not submitted has its arguments"))
                })
            }
        }
    }

    /// Submits a task whose arguments are a large vector of numbers, which was taken out of them.
    #[expect(clippy::too_many_arguments, reason = "those of `try_submit`, and what was taken")]
    fn submit_numbers<T: Send + 'static>(
        &self,
        function: &Function<T>,
        mut args: T,
        numbers: Lent,
        items: usize,
        options: &Options,
        finish: Option<Finish>,
        may_wait: MayWait,
    ) -> Result<TaskRef, Unsubmitted<T>> {
        let (size, limit) = (numbers.bytes().len() as u64 + 8, self.shared.settings.max_task);
        if size > limit {
            let error = Box::new(self.unencodable::<T>(Unencodable::TooLarge(size)));
            numbers.give_back(&mut args);
            return self.settled(Err(error), finish, args);
        }
        let payload = Payload::Lent(numbers.clone());
        let none = Attachments::NONE;
        let request = self.request(function, payload, none, items, options, finish);
        self.submit_request(request, may_wait).or_else(|no| {
            numbers.give_back(&mut args);
            no.with(args)
        })
    }

    pub(super) fn request<T>(
        &self,
        function: &Function<T>,
        payload: Payload,
        attachments: Attachments,
        items: usize,
        options: &Options,
        finish: Option<Finish>,
    ) -> Request {
        let settings = &self.shared.settings;
        let extras = Extras {
            name: options.name.clone(),
            attachments,
            timeout: options.timeout.or(settings.task_timeout),
            soft_timeout: options.soft_timeout,
            finish,
        };
        Request {
            callee: function.callee,
            name: function.name,
            payload,
            extras: extras.unless_empty(),
            items: u32::try_from(items).unwrap_or(u32::MAX),
            priority: options.priority,
            retries: options.retries.unwrap_or(settings.retries),
            backoff_ns: options.backoff.map_or(0, ns),
            attended: options.awaited,
        }
    }

    #[inline]
    pub(super) fn submit_request(
        &self,
        request: Request,
        may_wait: MayWait,
    ) -> Result<TaskRef, NoTask> {
        match self.shared.submit(request, may_wait == MayWait::Yes) {
            Ok(Some(slot)) => Ok(TaskRef::new(slot)),
            Ok(None) => Err(NoTask::Full),
            Err(error) => Err(NoTask::Refused(error)),
        }
    }

    /// The handle of a task that has an outcome before it was one.
    pub(super) fn settled<T>(
        &self,
        outcome: Outcome,
        finish: Option<Finish>,
        args: T,
    ) -> Result<TaskRef, Unsubmitted<T>> {
        if let Err(error) = self.shared.check_open() {
            return Err(Unsubmitted::Refused(error, args));
        }
        let slot = self.shared.lone_slot();
        self.shared.settle(slot.clone(), outcome, finish);
        Ok(TaskRef::new(slot))
    }

    fn check_options(&self, options: &Options) -> Result<(), SubmitError> {
        let threads = matches!(self.shared.settings.workers, Workers::Threads { .. });
        if threads && options.timeout.is_some() {
            return Err(SubmitError::Unsupported(
                "a thread can't be killed when its time is up: use soft_timeout, or a pool of processes",
            ));
        }
        if [options.timeout, options.soft_timeout].contains(&Some(Duration::ZERO)) {
            return Err(SubmitError::Unsupported(
                "a time limit of zero leaves no time: leave it out for none",
            ));
        }
        Ok(())
    }

    pub(super) fn unencodable<T>(&self, error: Unencodable) -> TaskError {
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

/// Why there is no task.
#[derive(Debug)]
pub(super) enum NoTask {
    Full,
    Refused(SubmitError),
}

impl NoTask {
    fn with<T, R>(self, args: T) -> Result<R, Unsubmitted<T>> {
        Err(match self {
            NoTask::Full => Unsubmitted::Full(args),
            NoTask::Refused(error) => Unsubmitted::Refused(error, args),
        })
    }
}
