//! What is to be done with a result when it is there, on the pool's callback thread.

use std::fmt;
use std::sync::Arc;

use crate::error::TaskError;
use crate::primitives::unharmed;
use crate::task::job::{Outcome, Value};

/// Callbacks that fit a call whose result is `R`. [`Call`](crate::Call) has `()`, which does nothing, or [`OnSuccess`]; there is no need to implement it.
pub trait Callback<R>: Clone + Send + Sync + 'static {
    /// Whether there is anything to call.
    #[doc(hidden)]
    fn is_some(&self) -> bool;

    /// Calls it.
    #[doc(hidden)]
    fn call(&self, value: &R);
}

impl<R> Callback<R> for () {
    fn is_some(&self) -> bool {
        false
    }

    fn call(&self, _: &R) {}
}

/// A callback for results, made by [`Call::on_success`](crate::Call::on_success).
pub struct OnSuccess<R>(pub(super) Arc<dyn Fn(&R) + Send + Sync>);

impl<R> Clone for OnSuccess<R> {
    fn clone(&self) -> Self {
        OnSuccess(Arc::clone(&self.0))
    }
}

impl<R: 'static> Callback<R> for OnSuccess<R> {
    fn is_some(&self) -> bool {
        true
    }

    fn call(&self, value: &R) {
        (self.0)(value);
    }
}

impl<R> fmt::Debug for OnSuccess<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnSuccess(..)")
    }
}

pub(super) type OnError = Arc<dyn Fn(&TaskError) + Send + Sync>;

/// Calls one of both, and gives the outcome back. A panic of theirs has been reported by the panic hook, and changes nothing.
pub(super) fn call<R, S>(
    result: Result<R, TaskError>,
    success: &S,
    error: Option<&OnError>,
) -> Outcome
where
    R: Send + 'static,
    S: Callback<R>,
{
    match result {
        Ok(value) => {
            unharmed(|| success.call(&value));
            Ok(Value::Direct(Box::new(value)))
        }
        Err(reason) => {
            if let Some(error) = error {
                unharmed(|| error(&reason));
            }
            Err(Box::new(reason))
        }
    }
}
