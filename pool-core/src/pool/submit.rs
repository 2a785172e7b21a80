//! How calls become tasks: encoded for worker processes, as they are for worker threads.

use std::any::type_name;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::Pool;
use super::options::Options;
use crate::codec::{self, Unencodable};
use crate::dispatch::{Finish, Payload, Request, Shared, TaskSlot, Workers};
use crate::error::{Oversize, SubmitError, TaskError};
use crate::handle::TaskRef;
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
    pub(super) name: Cow<'static, str>,
    /// For worker threads.
    pub(super) job: fn(T) -> Box<dyn Job>,
}

impl<T> Clone for Function<T> {
    fn clone(&self) -> Self {
        Function { callee: self.callee, name: self.name.clone(), job: self.job }
    }
}

impl<T> Function<T> {
    pub(super) fn new<F>(callee: Callee, job: fn(T) -> Box<dyn Job>) -> Function<T> {
        Function { callee, name: Cow::Borrowed(type_name::<F>()), job }
    }
}

/// Why there is no task, with its arguments.
#[derive(Debug)]
pub(super) enum Unsubmitted<T> {
    Full(T),
    Refused(SubmitError, T),
}

impl Pool {
    pub(super) fn shared(&self) -> &Arc<Shared> {
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
        args: T,
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
                let mut bytes = Vec::new();
                match codec::encode_value(&args, &mut bytes, self.shared.settings.max_task) {
                    Ok(()) => {
                        let payload = Payload::encoded(bytes);
                        let request = self.request(function, payload, items, options);
                        self.submit_request(request, finish, may_wait).or_else(|no| no.with(args))
                    }
                    Err(error) => self.settled(Err(self.unencodable::<T>(error)), finish, args),
                }
            }
            Workers::Threads { .. } => {
                let job = Arc::new(JobCell::new((function.job)(args)));
                let payload = Payload::Direct(Arc::clone(&job));
                let request = self.request(function, payload, items, options);
                self.submit_request(request, finish, may_wait).or_else(|no| {
                    let args = job.take().and_then(|job| job.into_args().downcast::<T>().ok());
                    no.with(*args.expect("a job that was not submitted has its arguments"))
                })
            }
        }
    }

    pub(super) fn request<T>(
        &self,
        function: &Function<T>,
        payload: Payload,
        items: usize,
        options: &Options,
    ) -> Request {
        let settings = &self.shared.settings;
        Request {
            callee: function.callee,
            name: options.name.clone().unwrap_or_else(|| function.name.clone()),
            payload,
            items: u32::try_from(items).unwrap_or(u32::MAX),
            priority: options.priority,
            retries: options.retries.unwrap_or(settings.retries),
            backoff: options.backoff,
            timeout: options.timeout.or(settings.task_timeout),
            soft_timeout: options.soft_timeout,
            awaited: options.awaited,
            finish: None,
            slot: Arc::new(TaskSlot::new()),
        }
    }

    pub(super) fn submit_request(
        &self,
        mut request: Request,
        finish: Option<Finish>,
        may_wait: MayWait,
    ) -> Result<TaskRef, NoTask> {
        let slot: Arc<TaskSlot> = Arc::clone(&request.slot);
        request.finish = finish;
        match self.shared.submit(request, may_wait == MayWait::Yes) {
            Ok(Some(key)) => Ok(TaskRef::new(Arc::clone(&self.shared), slot, Some(key))),
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
        let slot: Arc<TaskSlot> = Arc::new(TaskSlot::new());
        self.shared.settle(Arc::clone(&slot), outcome, finish);
        Ok(TaskRef::new(Arc::clone(&self.shared), slot, None))
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
