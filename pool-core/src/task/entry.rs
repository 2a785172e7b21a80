//! What is run in a worker: decode, call, encode. For a chunk of a map see [`chunk`](super::chunk).

use std::any::type_name;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::callee::instance;
use super::job::Value;
use super::{TaskFn, panics};
use crate::attach;
use crate::codec::{self, Lent, Unencodable};
use crate::error::{Oversize, TaskError};

/// The usual reason.
const HINT: &str = " (types with serde's skip_serializing_if, untagged, tag or flatten can't be passed: see TaskFn)";

/// The monomorphised entry point of a function.
pub(crate) type Entry = fn(&[u8], &mut Output<'_>) -> Result<(), Fault>;

/// Where a result goes.
pub(crate) struct Output<'a> {
    pub(crate) bytes: &'a mut Vec<u8>,
    /// The length that `bytes` may reach.
    pub(crate) limit: u64,
    /// The arguments, if they are nothing but a large vector of numbers, which is handed over: its bytes. The input is empty then.
    pub(crate) numbers: Option<Vec<u8>>,
    /// Results that are nothing but a vector of numbers with more bytes than this are put into `lent` as they are.
    pub(crate) lend_above: usize,
    pub(crate) lent: Option<Lent>,
}

impl<'a> Output<'a> {
    pub(crate) fn new(bytes: &'a mut Vec<u8>, limit: u64) -> Output<'a> {
        Output { bytes, limit, numbers: None, lend_above: usize::MAX, lent: None }
    }
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
    /// With texts that are not longer than the parent takes them.
    pub(crate) fn cut(self) -> Fault {
        match self {
            Fault::Failed(text) => Fault::Failed(panics::cut(text)),
            Fault::Encode(text) => Fault::Encode(panics::cut(text)),
            Fault::Decode(text) => Fault::Decode(panics::cut(text)),
            Fault::Panicked(report) => Fault::Panicked(report.cut()),
            Fault::TooLarge(size) => Fault::TooLarge(size),
        }
    }

    pub(crate) fn into_error(self, limit: u64) -> TaskError {
        match self {
            Fault::Failed(text) => TaskError::Failed(text),
            Fault::Panicked(report) => report.into(),
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
    let handed_over = out.numbers.take().and_then(codec::decode_numbers::<Args>);
    let args = handed_over.map_or_else(|| decode_args::<F, Args>(input), Ok)?;
    let mut result = (instance::<F>().call(args).map_err(failed)?,);
    if let Some(lent) = Lent::take(&mut result, out.lend_above) {
        let size = (out.bytes.len() + lent.encoded_len()) as u64;
        out.lent = Some(lent);
        return if size > out.limit { Err(Fault::TooLarge(size)) } else { Ok(()) };
    }
    let encode = || codec::encode_value(&result.0, out.bytes, out.limit);
    attach::returning(encode).map_err(unencodable::<F::Output>)
}

/// The other side of [`single`].
pub(crate) fn decode<R: DeserializeOwned + 'static>(value: Value) -> Result<R, TaskError> {
    value.open(|bytes| {
        let decoded = attach::returned(|| codec::decode_value(bytes));
        decoded.map_err(|error| decode_error::<R>(&error))
    })
}

pub(crate) fn decode_error<R>(error: &str) -> TaskError {
    TaskError::Decode(format!(
        "cannot decode the result of type {}: {error}{HINT}",
        type_name::<R>()
    ))
}

pub(super) fn decode_args<F, Args: DeserializeOwned + 'static>(
    input: &[u8],
) -> Result<Args, Fault> {
    attach::arguments(|| codec::decode_value(input)).map_err(|error| {
        Fault::Decode(format!(
            "cannot decode the arguments of type {} for {}: {error}{HINT}",
            type_name::<Args>(),
            type_name::<F>()
        ))
    })
}

#[expect(clippy::needless_pass_by_value, reason = "used as a function for map_err")]
pub(super) fn failed(error: anyhow::Error) -> Fault {
    Fault::Failed(with_causes(&error))
}

/// An error's text with all its causes. That a task has failed is said by who tells it: a task that fails because one of its own tasks has, and so on, does not say it for each.
pub(crate) fn with_causes(error: &anyhow::Error) -> String {
    let text = |cause: &(dyn std::error::Error + 'static)| match cause.downcast_ref() {
        Some(TaskError::Failed(text)) => text.clone(),
        _ => cause.to_string(),
    };
    error.chain().map(text).collect::<Vec<_>>().join(": ")
}

pub(super) fn unencodable<R>(error: Unencodable) -> Fault {
    match error {
        Unencodable::TooLarge(size) => Fault::TooLarge(size),
        Unencodable::Refused(text) => {
            Fault::Encode(format!("cannot encode the result of type {}: {text}", type_name::<R>()))
        }
    }
}
