//! One conformance list for both kinds of workers: each test is a function of a [`Backend`], and is run with processes and with threads. The rows are those
//! that docs/conformance.md lists.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]

/// Two tests, `with_processes` and `with_threads`, for each of these functions of a [`Backend`]. A function that is not listed is not used, which is an error.
macro_rules! with_both {
    ($($name:ident,)+) => { $(
        mod $name {
            #[test]
            fn with_processes() {
                super::$name(crate::Backend::Processes);
            }

            #[test]
            fn with_threads() {
                super::$name(crate::Backend::Threads);
            }
        }
    )+ };
}

mod apply;
mod callbacks;
mod events;
mod handles;
mod imap;
mod lifecycle;
mod map;
mod options;
mod ownership;
mod settings;
mod together;
mod workers;

use std::time::Duration;

use pool_core::{Pool, PoolBuilder, WorkerState};
use pool_tests::fault::Fault;
use pool_tests::{Case, Gate, eventually};

pool_core::test_support!();

/// What kind of workers the pools of a test have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backend {
    Processes,
    Threads,
}

impl Backend {
    /// A builder whose workers belong to this test.
    fn builder(self, case: &Case, workers: usize) -> PoolBuilder {
        match self {
            Backend::Processes => case.builder(workers),
            Backend::Threads => Pool::builder().threads(workers),
        }
    }

    fn pool(self, case: &Case, workers: usize) -> Pool {
        self.builder(case, workers).build().unwrap()
    }

    fn is_threads(self) -> bool {
        self == Backend::Threads
    }
}

/// Longer than anything here takes, unless it hangs.
const SOON: Duration = Duration::from_secs(30);

/// Waits until so many workers are there and have nothing to do.
#[track_caller]
fn await_idle(pool: &Pool, workers: usize) {
    eventually(SOON, "all workers are idle", || {
        let state = pool.workers();
        state.len() == workers && state.iter().all(|worker| worker.state() == WorkerState::Idle)
    });
}

fn square(x: u64) -> u64 {
    x * x
}

fn squares(range: std::ops::Range<u64>) -> Vec<u64> {
    range.map(square).collect()
}

fn wait_at(gate: String) -> u32 {
    Gate::wait_at(&gate);
    std::process::id()
}

/// Runs until it is asked to come to an end.
fn until_cancelled(gate: String) -> String {
    Gate::announce(&gate);
    while !pool_core::worker::cancelled() {
        std::thread::yield_now();
    }
    "tidied up".to_owned()
}

impl Backend {
    /// What a task with [`fault`] does wrong: a worker process ends by it, a thread can't.
    fn bad(self) -> Fault {
        match self {
            Backend::Processes => Fault::ExitAtOnce(1),
            Backend::Threads => Fault::Panic,
        }
    }
}

fn fault(fault: Fault) {
    fault.happen();
}
