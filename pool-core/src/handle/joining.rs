//! The future behind `(&process).await` and `(&thread).await`.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::error::TaskError;

/// What has a result when it has ended.
pub(crate) trait Joinable<R> {
    /// The result, or why there is none; `None`, and the waker is kept, as long as it has not ended.
    fn poll_join(&self, waker: &Waker) -> Option<Result<R, TaskError>>;

    /// Does not wake this waker any more.
    fn forget(&self, waker: &Waker);
}

/// Waits for the end of a [`Process`](crate::Process) or a [`Thread`](crate::Thread). Dropping it leaves that alone.
#[must_use = "futures do nothing unless they are awaited"]
pub struct Joining<'a, R> {
    of: &'a (dyn Joinable<R> + Send + Sync + 'a),
    waker: Option<Waker>,
}

impl<'a, R> Joining<'a, R> {
    pub(crate) fn new(of: &'a (dyn Joinable<R> + Send + Sync + 'a)) -> Joining<'a, R> {
        Joining { of, waker: None }
    }

    fn forget(&mut self) {
        if let Some(waker) = self.waker.take() {
            self.of.forget(&waker);
        }
    }
}

impl<R> Future for Joining<'_, R> {
    type Output = Result<R, TaskError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let waker = context.waker();
        if self.waker.as_ref().is_some_and(|known| !known.will_wake(waker)) {
            self.forget();
        }
        match self.of.poll_join(waker) {
            Some(result) => Poll::Ready(result),
            None => {
                self.waker.get_or_insert_with(|| waker.clone());
                Poll::Pending
            }
        }
    }
}

impl<R> Drop for Joining<'_, R> {
    fn drop(&mut self) {
        self.forget();
    }
}

impl<R> fmt::Debug for Joining<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Joining").finish_non_exhaustive()
    }
}
