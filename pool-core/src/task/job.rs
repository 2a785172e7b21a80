//! Outcomes, and calls that stay in this process: what a worker thread runs. Nothing is encoded.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::callee::instance;
use super::chunk::{self, Chunk};
use super::entry::{Fault, failed};
use super::{TaskFn, panics};
use crate::codec;
use crate::error::TaskError;
use crate::primitives::{Mutex, lock, unharmed};
use crate::small_bytes::SmallBytes;

/// A result on its way to its handle.
pub(crate) enum Value {
    /// The bytes of an encoded value.
    Encoded(SmallBytes),
    /// The bytes of the items of a vector of numbers.
    Numbers(Box<[u8]>),
    /// The value itself: of the type that the handle knows.
    Direct(Box<dyn Any + Send>),
}

/// A result, or why there is none: seldom, so that its size does not count.
pub(crate) type Outcome = Result<Value, Box<TaskError>>;

/// The decoded value of an outcome, or its error.
pub(crate) fn opened<R>(
    outcome: Outcome,
    decode: impl FnOnce(Value) -> Result<R, TaskError>,
) -> Result<R, TaskError> {
    outcome.map_err(|error| *error).and_then(decode)
}

impl Value {
    /// The value of a handle: decoded, or as it is.
    pub(crate) fn open<R: 'static>(
        self,
        decode: impl FnOnce(&[u8]) -> Result<R, TaskError>,
    ) -> Result<R, TaskError> {
        match self {
            Value::Encoded(bytes) => decode(&bytes),
            Value::Numbers(bytes) => {
                let numbers = codec::decode_numbers::<(R,)>(bytes.into_vec());
                numbers.map(|(value,)| value).ok_or_else(another_type)
            }
            Value::Direct(value) => match value.downcast::<R>() {
                Ok(value) => Ok(*value),
                Err(_) => Err(another_type()),
            },
        }
    }
}

fn another_type() -> TaskError {
    TaskError::Decode("the result is of another type".to_owned())
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Value::Encoded(_) => "Encoded(..)",
            Value::Numbers(_) => "Numbers(..)",
            Value::Direct(_) => "Direct(..)",
        })
    }
}

/// A function with its arguments, to be called once.
pub(crate) trait Job: Send {
    /// Calls the function. A panic is an outcome.
    fn run(self: Box<Self>) -> Outcome;

    /// The arguments, of a job that will not be run.
    fn into_args(self: Box<Self>) -> Box<dyn Any>;
}

/// A job that a worker thread may run while the pool takes it back: one of them gets it.
pub(crate) struct JobCell(Mutex<Option<Box<dyn Job>>>);

impl JobCell {
    pub(crate) fn new(job: Box<dyn Job>) -> JobCell {
        JobCell(Mutex::new(Some(job)))
    }

    pub(crate) fn take(&self) -> Option<Box<dyn Job>> {
        lock(&self.0).take()
    }

    /// It will not be run. The drop of its arguments is user code, which may panic.
    pub(crate) fn discard(&self) {
        let job = self.take();
        unharmed(|| drop(job));
    }
}

impl Drop for JobCell {
    fn drop(&mut self) {
        self.discard();
    }
}

impl fmt::Debug for JobCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JobCell(..)")
    }
}

/// One call as a job.
pub(crate) fn single<F, Args, Kind>(args: Args) -> Box<dyn Job>
where
    F: TaskFn<Args, Kind>,
    Args: Send + 'static,
    Kind: 'static,
{
    Box::new(Call {
        args,
        call: move |args| {
            let value = instance::<F>().call(args).map_err(failed)?;
            Ok(Value::Direct(Box::new(value)))
        },
    })
}

/// A chunk of a map as a job.
pub(crate) fn chunk<F, Args, Kind>(items: Vec<Args>) -> Box<dyn Job>
where
    F: TaskFn<Args, Kind>,
    Args: Send + 'static,
    Kind: 'static,
{
    Box::new(Call {
        args: items,
        call: move |items| {
            let (values, faults) = chunk::call_each(instance::<F>(), items);
            let chunk: Chunk<F::Output> = Chunk::new(values, faults, u64::MAX);
            Ok(Value::Direct(Box::new(chunk)))
        },
    })
}

struct Call<Args, C> {
    args: Args,
    call: C,
}

impl<Args, C> Job for Call<Args, C>
where
    Args: Send + 'static,
    C: FnOnce(Args) -> Result<Value, Fault> + Send,
{
    fn run(self: Box<Self>) -> Outcome {
        let Call { args, call } = *self;
        caught(|| call(args)).map_err(|fault| Box::new(fault.into_error(u64::MAX)))
    }

    fn into_args(self: Box<Self>) -> Box<dyn Any> {
        Box::new(self.args)
    }
}

/// What the function gives, with a panic as a fault.
pub(crate) fn caught<T>(function: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    match catch_unwind(AssertUnwindSafe(function)) {
        Ok(result) => result,
        Err(payload) => {
            let report = panics::take(payload.as_ref());
            // a payload whose drop panics must not end the worker
            std::mem::forget(payload);
            Err(Fault::Panicked(report))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Plain;

    fn job<F: TaskFn<(u32,), Plain>>(_: F, x: u32) -> Box<dyn Job> {
        single::<F, (u32,), Plain>((x,))
    }

    fn run(job: Box<dyn Job>) -> Result<u32, TaskError> {
        opened(job.run(), |value| value.open(|_| unreachable!("nothing is encoded")))
    }

    #[test]
    fn a_job_gives_its_value_or_its_panic() {
        let half = |x: u32| if x.is_multiple_of(2) { x / 2 } else { panic!("odd") };
        assert_eq!(run(job(half, 8)), Ok(4));
        let error = run(job(half, 7)).unwrap_err();
        assert!(matches!(error, TaskError::Panicked { message, .. } if message == "odd"));
    }

    #[test]
    fn a_job_is_taken_once_and_gives_its_arguments_back() {
        let cell = JobCell::new(job(|x: u32| x, 8));
        let args = cell.take().unwrap().into_args();
        assert_eq!(args.downcast_ref::<(u32,)>(), Some(&(8,)));
        assert!(cell.take().is_none());
    }
}
