//! Which of many tasks are ready.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Wake, Waker};
use std::time::Instant;

use super::TaskRef;
use crate::primitives::unpoisoned;

/// Tells which tasks are ready, in the order in which they became so.
#[derive(Clone, Debug, Default)]
pub(crate) struct CompletionQueue(Arc<Completions>);

#[derive(Debug, Default)]
struct Completions {
    ready: Mutex<Ready>,
    any: Condvar,
}

#[derive(Debug, Default)]
struct Ready {
    tokens: VecDeque<u64>,
    /// Of the stream that waits.
    waker: Option<Waker>,
}

/// Wakes a queue with the token of one task.
struct Token {
    queue: Arc<Completions>,
    token: u64,
}

impl Wake for Token {
    fn wake(self: Arc<Self>) {
        self.queue.push(self.token);
    }
}

impl Completions {
    fn push(&self, token: u64) {
        let mut ready = unpoisoned(self.ready.lock());
        ready.tokens.push_back(token);
        let waker = ready.waker.take();
        drop(ready);
        self.any.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl CompletionQueue {
    pub(crate) fn new() -> CompletionQueue {
        CompletionQueue::default()
    }

    /// The token will come out of the queue, once.
    pub(crate) fn watch(&self, token: u64, task: &TaskRef) -> Waker {
        let queue = Arc::clone(&self.0);
        let waker = Waker::from(Arc::new(Token { queue, token }));
        if !task.register(&waker) {
            self.0.push(token);
        }
        waker
    }

    /// The next token; without one, the waker is woken when there is one.
    pub(super) fn poll(&self, waker: &Waker) -> Option<u64> {
        let mut ready = unpoisoned(self.0.ready.lock());
        let token = ready.tokens.pop_front();
        if token.is_none() {
            ready.waker = Some(waker.clone());
        }
        token
    }

    /// The next token, if there is one.
    pub(crate) fn try_pop(&self) -> Option<u64> {
        unpoisoned(self.0.ready.lock()).tokens.pop_front()
    }

    /// Waits for the next token; `None` at the deadline.
    pub(crate) fn pop(&self, deadline: Option<Instant>) -> Option<u64> {
        let mut ready = unpoisoned(self.0.ready.lock());
        loop {
            if let Some(token) = ready.tokens.pop_front() {
                return Some(token);
            }
            ready = match deadline {
                None => unpoisoned(self.0.any.wait(ready)),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    let waited = self.0.any.wait_timeout(ready, left);
                    unpoisoned(waited).0
                }
            };
        }
    }
}
