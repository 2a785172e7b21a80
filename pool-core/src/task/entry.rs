//! What is run in a worker: decode, call, encode, for one call and for a chunk of a map.

use std::any::type_name;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::callee::instance;
use super::{TaskFn, panics};
use crate::codec::{self, Unencodable};
use crate::error::{Oversize, TaskError};

/// The monomorphised entry point of a function.
pub(crate) type Entry = fn(&[u8], &mut Output<'_>) -> Result<(), Fault>;

/// Where a result goes.
pub(crate) struct Output<'a> {
    pub(crate) bytes: &'a mut Vec<u8>,
    /// The length that `bytes` may reach.
    pub(crate) limit: u64,
}

/// Why there is no result, as far as the worker can tell. A panic is one more, told by unwinding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Fault {
    Failed(String),
    Panicked(panics::Report),
    Encode(String),
    Decode(String),
    TooLarge(u64),
}

impl Fault {
    pub(crate) fn into_error(self, limit: u64) -> TaskError {
        match self {
            Fault::Failed(text) => TaskError::Failed(text),
            Fault::Panicked(panics::Report { message, location, backtrace }) => {
                TaskError::Panicked { message, location, backtrace }
            }
            Fault::Encode(text) => TaskError::Encode(text),
            Fault::Decode(text) => TaskError::Decode(text),
            Fault::TooLarge(size) => too_large(Oversize::Result, size, limit),
        }
    }
}

pub(crate) fn too_large(what: Oversize, size: u64, limit: u64) -> TaskError {
    let setting = match what {
        Oversize::Arguments => "max_task_bytes",
        Oversize::Result => "max_result_bytes",
    };
    TaskError::TooLarge { what, size, limit, setting }
}

/// One call.
pub(crate) fn single<F, Args, Kind>(input: &[u8], out: &mut Output<'_>) -> Result<(), Fault>
where
    F: TaskFn<Args, Kind>,
    Args: DeserializeOwned + 'static,
{
    let args = decode_args::<F, Args>(input)?;
    let result = instance::<F>().call(args).map_err(failed)?;
    codec::encode_value(&result, out.bytes, out.limit).map_err(unencodable::<F::Output>)
}

/// A chunk of a map: the function is called for each item, and each item has an outcome of its own.
pub(crate) fn chunk<F, Args, Kind>(input: &[u8], out: &mut Output<'_>) -> Result<(), Fault>
where
    F: TaskFn<Args, Kind>,
    Args: DeserializeOwned + 'static,
{
    let items = decode_args::<F, Vec<Args>>(input)?;
    let mut results = Vec::with_capacity(items.len());
    let mut items = items.into_iter();
    // one unwinding boundary around many calls: a panic costs its item, and the loop goes on behind it
    while items.len() > 0 {
        let run = || results.extend(items.by_ref().map(|args| instance::<F>().call(args)));
        if let Err(payload) = catch_unwind(AssertUnwindSafe(run)) {
            results.push(Err(PanickedItem(panics::take(payload.as_ref())).into()));
        }
    }
    let results = results.into_iter().map(|result| result.map_err(item_fault)).collect();
    encode_items::<F::Output>(results, out)
}

/// Carries a panic through `anyhow` to the place where outcomes are told apart.
#[derive(Debug)]
struct PanickedItem(panics::Report);

impl std::fmt::Display for PanickedItem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("panicked")
    }
}

impl std::error::Error for PanickedItem {}

fn item_fault(error: anyhow::Error) -> Fault {
    match error.downcast::<PanickedItem>() {
        Ok(panicked) => Fault::Panicked(panicked.0),
        Err(error) => failed(error),
    }
}

/// The results of a chunk as they travel: `false` and the bare values if all is well, else `true` and one outcome each.
fn encode_items<R: Serialize>(
    mut results: Vec<Result<R, Fault>>,
    out: &mut Output<'_>,
) -> Result<(), Fault> {
    if results.iter().all(Result::is_ok) {
        let values: Vec<R> = results.into_iter().flatten().collect();
        match codec::encode(&(false, &values), out.bytes, out.limit) {
            Ok(()) => return Ok(()),
            Err(Unencodable::TooLarge(size)) => return Err(Fault::TooLarge(size)),
            Err(Unencodable::Refused(_)) => results = values.into_iter().map(Ok).collect(),
        }
    }
    for outcome in &mut results {
        replace_unencodable(outcome, out.limit);
    }
    codec::encode(&(true, &results), out.bytes, out.limit).map_err(unencodable::<R>)
}

fn replace_unencodable<R: Serialize>(outcome: &mut Result<R, Fault>, limit: u64) {
    if let Ok(value) = outcome
        && let Err(error) = codec::encode(value, &mut Vec::new(), limit)
    {
        *outcome = Err(unencodable::<R>(error));
    }
}

/// The other side of [`chunk`].
pub(crate) fn decode_items<R: DeserializeOwned>(
    bytes: &[u8],
    limit: u64,
) -> Result<Vec<Result<R, TaskError>>, TaskError> {
    let undecodable = |error: String| decode_error::<R>(&error);
    match bytes.split_first() {
        Some((0, values)) => {
            let values = codec::decode::<Vec<R>>(values).map_err(undecodable)?;
            Ok(values.into_iter().map(Ok).collect())
        }
        Some((1, outcomes)) => {
            let outcomes = codec::decode::<Vec<Result<R, Fault>>>(outcomes).map_err(undecodable)?;
            Ok(outcomes.into_iter().map(|o| o.map_err(|fault| fault.into_error(limit))).collect())
        }
        _ => Err(undecodable("it is empty".to_owned())),
    }
}

pub(crate) fn decode_error<R>(error: &str) -> TaskError {
    TaskError::Decode(format!("cannot decode the result of type {}: {error}", type_name::<R>()))
}

fn decode_args<F, Args: DeserializeOwned + 'static>(input: &[u8]) -> Result<Args, Fault> {
    codec::decode_value(input).map_err(|error| {
        Fault::Decode(format!(
            "cannot decode the arguments of type {} for {}: {error}",
            type_name::<Args>(),
            type_name::<F>()
        ))
    })
}

#[expect(clippy::needless_pass_by_value, reason = "used as a function for map_err")]
fn failed(error: anyhow::Error) -> Fault {
    Fault::Failed(panics::cut(format!("{error:#}")))
}

fn unencodable<R>(error: Unencodable) -> Fault {
    match error {
        Unencodable::TooLarge(size) => Fault::TooLarge(size),
        Unencodable::Refused(text) => {
            let text = format!("cannot encode the result of type {}: {text}", type_name::<R>());
            Fault::Encode(panics::cut(text))
        }
    }
}
