//! The books: how many tasks ended how, what was wrong, and how long it took from a kill to the outcome.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pool_core::{ExitCause, PoolEvent, TaskError};
use serde_json::{Value, json};

use crate::ledger::Ledger;

/// No handle of the soak takes as long as this, unless it hangs.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Account {
    submitted: AtomicU64,
    outcomes: Mutex<BTreeMap<&'static str, u64>>,
    /// Workers that have ended without having been asked to, by cause.
    deaths: Mutex<BTreeMap<&'static str, u64>>,
    /// Tasks that have answered.
    answered: AtomicU64,
    bytes: AtomicU64,
    /// Of the pools' own counts: workers started, and workers that ended after they had been ready.
    workers: [AtomicU64; 2],
    latencies_ns: Mutex<Vec<u64>>,
    violations: Mutex<Vec<String>>,
}

impl Account {
    pub(crate) fn new() -> Account {
        Account::default()
    }

    pub(crate) fn submitted(&self, count: u64) {
        self.submitted.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn bytes(&self, count: u64) {
        self.bytes.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn workers(&self, started: u64, lost: u64) {
        self.workers[0].fetch_add(started, Ordering::Relaxed);
        self.workers[1].fetch_add(lost, Ordering::Relaxed);
    }

    /// What the pool has told its observer.
    pub(crate) fn event(&self, event: &PoolEvent) {
        let cause = match event {
            PoolEvent::WorkerLost { cause, .. } => *cause,
            PoolEvent::Missed { events } => {
                return self.violation(format!("the observer has missed {events} events"));
            }
            _ => return,
        };
        let cause = match cause {
            ExitCause::Signaled { signal: libc::SIGKILL, .. } => "kill",
            ExitCause::Signaled { signal: libc::SIGSEGV, .. } => "segv",
            ExitCause::Signaled { signal: libc::SIGABRT, .. } => "abrt",
            ExitCause::Signaled { signal: libc::SIGTERM, .. } => "term",
            ExitCause::Signaled { signal: libc::SIGBUS, .. } => "bus",
            ExitCause::Signaled { .. } => "other signal",
            ExitCause::Exited(_) => "exit",
            ExitCause::OutOfMemory => "out of memory",
            ExitCause::Protocol => "protocol",
            _ => "unknown",
        };
        *self.deaths.lock().unwrap().entry(cause).or_default() += 1;
    }

    pub(crate) fn outcome<T>(&self, outcome: &Result<T, TaskError>) {
        let kind = match outcome {
            Ok(_) => "ok",
            Err(TaskError::Failed(_)) => "failed",
            Err(TaskError::Panicked { .. }) => "panicked",
            Err(TaskError::WorkerLost { .. }) => "lost",
            Err(TaskError::TimedOut) => "timed_out",
            Err(TaskError::Cancelled) => "cancelled",
            Err(TaskError::Terminated) => "terminated",
            Err(TaskError::Closed) => "closed",
            Err(TaskError::Encode(_)) => "encode",
            Err(TaskError::Decode(_)) => "decode",
            Err(TaskError::TooLarge { .. }) => "too_large",
            Err(TaskError::PoolBroken(_)) => "broken",
            Err(_) => "other",
        };
        *self.outcomes.lock().unwrap().entry(kind).or_default() += 1;
        if let Err(error @ (TaskError::PoolBroken(_) | TaskError::InitFailed(_))) = outcome {
            self.violation(format!("the pool broke: {error}"));
        }
    }

    pub(crate) fn answered(&self, number: u64, ledger: &Ledger) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        if ledger.starts(number) == 0 {
            self.violation(format!("task {number} has answered and never run"));
        }
    }

    pub(crate) fn latency(&self, ns: u64) {
        self.latencies_ns.lock().unwrap().push(ns);
        if ns > 5_000_000_000 {
            self.violation(format!("{} ms from a kill to its outcome", ns / 1_000_000));
        }
    }

    pub(crate) fn violation(&self, what: String) {
        eprintln!("VIOLATION: {what}");
        self.violations.lock().unwrap().push(what);
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.violations.lock().unwrap().clone()
    }

    /// What must add up at the end.
    pub(crate) fn balance(&self, ledger: &Ledger) {
        let settled: u64 = self.outcomes.lock().unwrap().values().sum();
        let submitted = self.submitted.load(Ordering::Relaxed);
        if settled != submitted {
            self.violation(format!("{submitted} were submitted, {settled} have an outcome"));
        }
        let mut wrong = Vec::new();
        for number in 0..ledger.numbers() {
            let starts = ledger.starts(number);
            if starts > ledger.allowed(number) {
                wrong.push((number, starts));
            }
        }
        if !wrong.is_empty() {
            wrong.truncate(20);
            self.violation(format!("started too often (task, starts): {wrong:?}"));
        }
    }

    pub(crate) fn report(&self) -> Value {
        json!({
            "submitted": self.submitted.load(Ordering::Relaxed),
            "outcomes": *self.outcomes.lock().unwrap(),
            "deaths": self.deaths.lock().unwrap().values().sum::<u64>(),
            "deaths_by_cause": *self.deaths.lock().unwrap(),
            "workers_started": self.workers[0].load(Ordering::Relaxed),
            "workers_lost": self.workers[1].load(Ordering::Relaxed),
            "answers_checked": self.answered.load(Ordering::Relaxed),
            "megabytes_both_ways": self.bytes.load(Ordering::Relaxed) >> 20,
        })
    }

    pub(crate) fn latencies(&self) -> Value {
        percentiles(&mut self.latencies_ns.lock().unwrap().clone())
    }
}

/// In milliseconds.
pub(crate) fn percentiles(times_ns: &mut [u64]) -> Value {
    times_ns.sort_unstable();
    let at = |share: f64| {
        let index = ((times_ns.len() as f64 * share) as usize).min(times_ns.len().max(1) - 1);
        times_ns.get(index).map(|&ns| (ns / 10_000) as f64 / 100.0)
    };
    json!({ "count": times_ns.len(), "p50": at(0.5), "p99": at(0.99), "p999": at(0.999), "max": at(1.0) })
}
