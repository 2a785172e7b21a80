//! Runs callbacks, one after the other, on a thread of their own: they are user code, which may be slow, panic, submit tasks or terminate the pool.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use crate::primitives::{lock, unharmed, unpoisoned};

type Errand = Box<dyn FnOnce() + Send>;

/// How long the thread waits for another errand before it ends.
const LINGER: Duration = Duration::from_secs(1);

/// The queue and its thread, which is started when it is needed. Dropping it lets the thread finish what is queued.
pub(crate) struct Courier {
    name: String,
    queue: Arc<Queue>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    /// There is an errand, or there will be none any more.
    filled: Condvar,
    /// An errand has been run.
    run: Condvar,
}

#[derive(Default)]
struct State {
    errands: VecDeque<Errand>,
    thread: Option<ThreadId>,
    is_running_one: bool,
    /// The thread sleeps, and so many others wait: each call of a condition variable is one of the system, also if nobody is there.
    is_asleep: bool,
    waiters: usize,
    /// How many are on their way here.
    expected: usize,
    closed: bool,
}

impl Courier {
    pub(super) fn new(name: String) -> Courier {
        Courier { name, queue: Arc::default() }
    }

    /// An errand is on its way: [`wait`](Self::wait) waits for it too.
    pub(super) fn expect(&self) {
        lock(&self.queue.state).expected += 1;
    }

    /// Has an errand that was expected run soon.
    pub(super) fn send_expected(&self, errand: impl FnOnce() + Send + 'static) {
        let mut state = lock(&self.queue.state);
        state.expected -= 1;
        self.put(&mut state, Box::new(errand));
    }

    /// Has `errand` run soon. Never blocks.
    pub(crate) fn send(&self, errand: impl FnOnce() + Send + 'static) {
        self.put(&mut lock(&self.queue.state), Box::new(errand));
    }

    fn put(&self, state: &mut State, errand: Errand) {
        state.errands.push_back(errand);
        self.start_thread(state);
        if state.is_asleep {
            self.queue.filled.notify_one();
        } else if state.thread.is_none() && state.waiters > 0 {
            // there is no thread to be had: who waits does it
            self.queue.run.notify_all();
        }
    }

    /// If there is no thread to be had, errands wait until the next one comes, or somebody waits for them; they keep this courier as long.
    fn start_thread(&self, state: &mut State) {
        if state.thread.is_none() && !state.errands.is_empty() {
            let queue = Arc::clone(&self.queue);
            let thread = std::thread::Builder::new().name(self.name.clone());
            let started = thread.spawn(move || queue.serve());
            state.thread = started.ok().map(|thread| thread.thread().id());
        }
    }

    /// Whether this is the thread that runs the errands.
    pub(super) fn is_this_thread(&self) -> bool {
        lock(&self.queue.state).thread == Some(std::thread::current().id())
    }

    /// Waits until all errands have been run.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> bool {
        let mut state = lock(&self.queue.state);
        while state.expected > 0 || state.is_running_one || !state.errands.is_empty() {
            self.start_thread(&mut state);
            if state.thread.is_none()
                && let Some(errand) = state.errands.pop_front()
            {
                // still no thread: then it is done by the one who waits
                drop(state);
                run(errand);
                state = lock(&self.queue.state);
                continue;
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return false;
            }
            state.waiters += 1;
            state = match left {
                None => unpoisoned(self.queue.run.wait(state)),
                Some(left) => unpoisoned(self.queue.run.wait_timeout(state, left)).0,
            };
            state.waiters -= 1;
        }
        true
    }
}

impl Drop for Courier {
    fn drop(&mut self) {
        lock(&self.queue.state).closed = true;
        self.queue.filled.notify_one();
    }
}

impl Queue {
    fn serve(&self) {
        let mut state = lock(&self.state);
        loop {
            if let Some(errand) = state.errands.pop_front() {
                state.is_running_one = true;
                drop(state);
                run(errand);
                state = lock(&self.state);
                state.is_running_one = false;
                if state.waiters > 0 {
                    self.run.notify_all();
                }
            } else if state.closed {
                break;
            } else {
                state.is_asleep = true;
                let waited = unpoisoned(self.filled.wait_timeout(state, LINGER));
                state = waited.0;
                state.is_asleep = false;
                if waited.1.timed_out() && state.errands.is_empty() {
                    break;
                }
            }
        }
        state.thread = None;
    }
}

/// A panic has been reported by the panic hook, and concerns nobody else.
fn run(errand: Errand) {
    unharmed(errand);
}

impl fmt::Debug for Courier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Courier").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    #[test]
    fn an_errand_that_is_on_its_way_is_waited_for() {
        let courier = Courier::new("courier".to_owned());
        let soon = || Some(Instant::now() + Duration::from_millis(20));
        assert!(courier.wait(soon()));
        courier.expect();
        assert!(!courier.wait(soon()), "it has not come");
        let done = Arc::new(AtomicBool::new(false));
        let doing = Arc::clone(&done);
        courier.send_expected(move || doing.store(true, Ordering::SeqCst));
        assert!(courier.wait(None) && done.load(Ordering::SeqCst));
    }
}
