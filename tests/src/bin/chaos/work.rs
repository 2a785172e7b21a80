//! What the submitters do, and what the tasks do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use pool_core::{AsyncResult, ExitCause, Pool, SubmitError, TaskError};
use pool_tests::fault::{self, Fault};
use serde::{Deserialize, Serialize};

use crate::account::{Account, BOUND};
use crate::ledger::{self, Ledger};
use crate::nemesis::Nemesis;
use crate::random::Random;

/// How a task is meant to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Fate {
    Fine,
    Fail,
    Panic,
    Crash,
    /// Only with a time limit.
    Hang,
}

/// What a task does.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Task {
    number: u64,
    fate: Fate,
    busy_us: u64,
    idle_us: u64,
    reply: usize,
    data: Vec<u8>,
}

type Answer = (u64, u64, Vec<u8>);

fn sum(number: u64, data: &[u8]) -> u64 {
    data.iter().fold(number, |sum, &byte| sum.rotate_left(5) ^ u64::from(byte))
}

fn execute(task: Task) -> anyhow::Result<Answer> {
    ledger::note(task.number);
    let start = Instant::now();
    while start.elapsed() < Duration::from_micros(task.busy_us) {
        std::hint::spin_loop();
    }
    if task.idle_us > 0 {
        std::thread::park_timeout(Duration::from_micros(task.idle_us));
    }
    match task.fate {
        Fate::Fine => {}
        Fate::Fail => anyhow::bail!("as was asked for"),
        Fate::Panic => Fault::Panic.happen(),
        Fate::Crash => Fault::Raise(libc::SIGKILL).happen(),
        Fate::Hang => fault::hang(),
    }
    let reply = vec![task.number as u8; task.reply];
    Ok((task.number, sum(task.number, &task.data), reply))
}

/// What is known of a task in the parent.
struct Expected {
    number: u64,
    fate: Fate,
    sum: u64,
    reply: usize,
}

/// Records when it is woken.
struct Stamp(std::sync::OnceLock<Instant>);

impl Wake for Stamp {
    fn wake(self: Arc<Self>) {
        let _ = self.0.set(Instant::now());
    }
}

struct Submitter<'a> {
    pool: &'a Pool,
    ledger: &'a Ledger,
    account: &'a Account,
    nemesis: &'a Nemesis,
    random: Random,
}

/// The pool takes no more.
struct Closed;

pub(crate) fn submit(
    pool: &Pool,
    ledger: &Ledger,
    account: &Account,
    nemesis: &Nemesis,
    seed: u64,
    is_over: &AtomicBool,
) {
    let random = Random::new(seed);
    let mut submitter = Submitter { pool, ledger, account, nemesis, random };
    while !is_over.load(Ordering::SeqCst) {
        let ended = match submitter.random.below(10) {
            0..3 => submitter.apply(),
            3..8 => submitter.apply_async(),
            8 => submitter.map(),
            _ => submitter.imap(),
        };
        if ended.is_err() {
            return;
        }
    }
}

impl Submitter<'_> {
    fn size(&mut self) -> usize {
        match self.random.below(1000) {
            0..600 => self.random.below(64) as usize,
            600..900 => self.random.below(8 << 10) as usize,
            900..980 => self.random.below(100 << 10) as usize,
            980..995 => self.random.below(600 << 10) as usize,
            _ => self.random.below(3 << 20) as usize,
        }
    }

    fn task(&mut self) -> (Task, Expected) {
        let number = self.ledger.number();
        let fate = match self.random.below(1000) {
            0..10 => Fate::Fail,
            10..20 => Fate::Panic,
            20..24 => Fate::Crash,
            24..30 => Fate::Hang,
            _ => Fate::Fine,
        };
        let busy_us = if self.random.one_of_1000(300) { self.random.below(2_000) } else { 0 };
        let idle_us = if self.random.one_of_1000(30) { self.random.below(30_000) } else { 0 };
        let (size, reply) = (self.size(), self.size());
        let data = vec![self.random.next() as u8; size];
        self.account.bytes((size + reply) as u64);
        let expected = Expected { number, fate, sum: sum(number, &data), reply };
        (Task { number, fate, busy_us, idle_us, reply, data }, expected)
    }

    /// One that ends by itself.
    fn finite_task(&mut self) -> (Task, Expected) {
        loop {
            let (task, expected) = self.task();
            if task.fate != Fate::Hang {
                return (task, expected);
            }
        }
    }

    fn check(&self, expected: &Expected, outcome: &Result<Answer, TaskError>, settled: Instant) {
        self.account.outcome(outcome);
        let is_right = match (expected.fate, outcome) {
            (Fate::Fine, Ok((number, sum, reply))) => {
                self.account.answered(expected.number, self.ledger);
                (*number, *sum, reply.len()) == (expected.number, expected.sum, expected.reply)
                    && reply.iter().all(|&byte| byte == expected.number as u8)
            }
            (_, Ok(_)) => false,
            (fate, Err(TaskError::Failed(_))) => fate == Fate::Fail,
            (fate, Err(TaskError::Panicked { .. })) => fate == Fate::Panic,
            (_, Err(TaskError::NotReady(_) | TaskError::AlreadyTaken)) => false,
            // without memory neither arguments nor results can be made
            (_, Err(_)) => true,
        };
        if !is_right {
            let fate = expected.fate;
            let outcome = outcome.as_ref().map(|(number, sum, reply)| (number, sum, reply.len()));
            self.account.violation(format!("task {} ({fate:?}): {outcome:?}", expected.number));
        }
        if let Err(TaskError::WorkerLost { pid, cause: ExitCause::Signaled { signal, .. }, .. }) =
            outcome
            && expected.fate != Fate::Crash
            && let Some(killed) = self.nemesis.killed_at(*pid, *signal)
        {
            let ns = settled.saturating_duration_since(killed).as_nanos();
            self.account.latency(ns as u64);
        }
    }

    fn refused(&self, error: &SubmitError) -> Closed {
        if *error != SubmitError::Closed {
            self.account.violation(format!("a task was refused: {error}"));
        }
        Closed
    }

    /// Waits for one at a time.
    fn apply(&mut self) -> Result<(), Closed> {
        for _ in 0..20 {
            let (task, expected) = self.finite_task();
            let handle = self.pool.apply_async(execute, (task,));
            let mut handle = handle.map_err(|error| self.refused(&error))?;
            self.account.submitted(1);
            let outcome = handle.get_timeout(BOUND);
            self.check(&expected, &outcome, Instant::now());
        }
        Ok(())
    }

    /// Some at a time, some of them with limits, retries, or cancelled.
    fn apply_async(&mut self) -> Result<(), Closed> {
        let mut running = Vec::new();
        let mut closed = Ok(());
        for _ in 0..1 + self.random.below(64) {
            let (task, expected) = self.task();
            let mut call = self.pool.task(execute);
            if expected.fate == Fate::Hang || self.random.one_of_1000(200) {
                call = call.timeout(Duration::from_millis(100 + self.random.below(900)));
            }
            if self.random.one_of_1000(100) {
                let retries = 1 + self.random.below(2) as u32;
                self.ledger.may_start(expected.number, 1 + retries);
                call = call.retries(retries);
            }
            match call.apply_async((task,)) {
                Ok(mut handle) => {
                    self.account.submitted(1);
                    let stamp = Arc::new(Stamp(std::sync::OnceLock::new()));
                    let settled = self.watch(&mut handle, &stamp);
                    running.push((expected, handle, stamp, settled));
                }
                Err(error) => {
                    closed = Err(self.refused(&error));
                    break;
                }
            }
        }
        let mut cancelled = std::collections::HashSet::new();
        for (expected, handle, ..) in &running {
            if self.random.one_of_1000(30) && handle.cancel() {
                cancelled.insert(expected.number);
            }
        }
        for (expected, mut handle, stamp, settled) in running {
            let outcome = match settled {
                Some(outcome) => outcome,
                None => handle.get_timeout(BOUND),
            };
            if cancelled.contains(&expected.number) && outcome != Err(TaskError::Cancelled) {
                self.account.violation(format!("cancelled, but {:?}", outcome.map(|a| a.0)));
                continue;
            }
            self.check(&expected, &outcome, stamp.0.get().copied().unwrap_or_else(Instant::now));
        }
        closed
    }

    /// Has the time recorded at which it is settled; its outcome, if it is already.
    fn watch(
        &self,
        handle: &mut AsyncResult<Answer>,
        stamp: &Arc<Stamp>,
    ) -> Option<Result<Answer, TaskError>> {
        let waker = Waker::from(Arc::clone(stamp));
        match Future::poll(std::pin::Pin::new(handle), &mut Context::from_waker(&waker)) {
            Poll::Ready(outcome) => Some(outcome),
            Poll::Pending => None,
        }
    }

    fn map(&mut self) -> Result<(), Closed> {
        let count = self.random.below(200);
        let (tasks, expected): (Vec<_>, Vec<_>) = (0..count).map(|_| self.finite_task()).unzip();
        let chunk = 1 + self.random.below(20) as usize;
        let mapped = self.pool.task(execute).chunk_size(chunk).map_async(tasks);
        let mapped = mapped.map_err(|error| self.refused(&error))?;
        self.account.submitted(count);
        if self.random.one_of_1000(50) {
            mapped.cancel();
        }
        if !mapped.wait_timeout(BOUND) {
            self.account.violation("a map hangs".to_owned());
        }
        let outcomes = mapped.get_each();
        if outcomes.len() != expected.len() {
            self.account.violation(format!("{} of {} items", outcomes.len(), expected.len()));
        }
        // when each was settled is not known
        let long_ago = Instant::now() - Duration::from_secs(3_600);
        for (expected, outcome) in expected.iter().zip(&outcomes) {
            self.check_quietly(expected, outcome, long_ago);
        }
        Ok(())
    }

    fn imap(&mut self) -> Result<(), Closed> {
        let count = self.random.below(300);
        let (tasks, expected): (Vec<_>, Vec<_>) = (0..count).map(|_| self.finite_task()).unzip();
        let taken = if self.random.one_of_1000(200) { count / 2 } else { count } as usize;
        let long_ago = Instant::now() - Duration::from_secs(3_600);
        let results = self.pool.task(execute).window(16).imap(tasks);
        let mut seen = 0;
        for (expected, outcome) in expected.iter().zip(results).take(taken) {
            self.account.submitted(1);
            self.check_quietly(expected, &outcome, long_ago);
            seen += 1;
            // of the items on their way, or of one that came too late
            if matches!(outcome, Err(TaskError::Terminated | TaskError::Closed)) {
                return Err(Closed);
            }
        }
        if seen < taken {
            self.account.violation(format!("an imap ended after {seen} of {taken} items"));
        }
        Ok(())
    }

    /// Without the time from kill to outcome, because nobody saw when that was.
    fn check_quietly(
        &self,
        expected: &Expected,
        outcome: &Result<Answer, TaskError>,
        long_ago: Instant,
    ) {
        match outcome {
            Err(TaskError::WorkerLost { .. }) => self.account.outcome(outcome),
            _ => self.check(expected, outcome, long_ago),
        }
    }
}
