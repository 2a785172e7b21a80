//! What the body of a reply says.

use super::from_worker::Kind;
use crate::codec;
use crate::error::TaskError;
use crate::small_bytes::SmallBytes;
use crate::task::entry::Fault;
use crate::task::job::Value;

/// The result, not decoded yet, or the error; `None` if it says nothing.
pub(crate) fn outcome(
    kind: Kind,
    body: SmallBytes,
    max_result: u64,
) -> Option<Result<Value, TaskError>> {
    match kind {
        Kind::Done | Kind::Finalized => Some(Ok(Value::Encoded(body))),
        Kind::Numbers => Some(Ok(Value::Numbers(body.into_vec().into()))),
        _ => Some(Err(codec::decode::<Fault>(&body).ok()?.into_error(max_result))),
    }
}
