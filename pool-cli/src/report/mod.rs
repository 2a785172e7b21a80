//! What is told about a run: results as JSON lines, progress and a summary for people or programs.
//!
//! | file | what it tells |
//! |---|---|
//! | [`json`] | each result as a line of JSON; a summary as JSON |
//! | [`human`] | progress as a bar or as lines, a summary as text |
//! | [`quiet`] | nothing |

pub(crate) mod human;
pub(crate) mod json;
pub(crate) mod quiet;

use std::time::{Duration, SystemTime};

use pool_worker::builtin::CommandOutput;
use serde::Serialize;
use serde_json::Value;

use crate::job::inputs::Item;

/// The keys that a result can have, in their order.
pub(crate) const FIELDS: [&str; 16] = [
    "index",
    "input",
    "outcome",
    "value",
    "exit_code",
    "signal",
    "stdout",
    "stdout_bytes",
    "stderr",
    "stderr_bytes",
    "leaked",
    "error",
    "start",
    "duration_s",
    "worker_pid",
    "attempts",
];

/// What became of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// The task succeeded.
    Ok,
    /// It returned an error, or the command did not exit with 0.
    Failed,
    /// It panicked.
    Panicked,
    /// Its worker died.
    Lost,
    /// It ran longer than the time limit.
    TimedOut,
    /// It was running when the run was stopped, or the pool broke.
    Cancelled,
    /// The input could not be read, or lacks what the task needs; nothing was started.
    Invalid,
}

impl Outcome {
    /// All of them, in the order of a summary.
    pub(crate) const ALL: [Outcome; 7] = [
        Outcome::Ok,
        Outcome::Failed,
        Outcome::Panicked,
        Outcome::Lost,
        Outcome::TimedOut,
        Outcome::Cancelled,
        Outcome::Invalid,
    ];

    /// The word for people.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Failed => "failed",
            Outcome::Panicked => "panicked",
            Outcome::Lost => "lost",
            Outcome::TimedOut => "timed out",
            Outcome::Cancelled => "cancelled",
            Outcome::Invalid => "invalid",
        }
    }

    /// Whether the task went wrong, as opposed to well or not at all.
    pub(crate) fn is_failure(self) -> bool {
        !matches!(self, Outcome::Ok | Outcome::Cancelled)
    }
}

/// What a task produced.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Product {
    /// Nothing, because it did not get that far.
    Nothing,
    /// The value of a named task.
    Value(Value),
    /// What a command did.
    Command(Box<CommandOutput>),
}

/// The end of one attempt at an input.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ended {
    pub(crate) outcome: Outcome,
    pub(crate) product: Product,
    /// Why it is not ok.
    pub(crate) error: Option<String>,
    /// Whether another attempt could end differently.
    pub(crate) can_retry: bool,
    pub(crate) timing: Option<Timing>,
}

/// When, how long and where an attempt ran.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Timing {
    pub(crate) start: SystemTime,
    pub(crate) duration: Duration,
    pub(crate) worker_pid: Option<u32>,
}

/// The result for one input: its last attempt.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    pub(crate) item: Item,
    pub(crate) ended: Ended,
    /// How often it was started.
    pub(crate) attempts: u32,
}

/// How many results of each kind there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    by_outcome: [u64; Outcome::ALL.len()],
    /// Attempts beyond the first.
    pub(crate) retries: u64,
}

impl Counts {
    /// Counts one result.
    pub(crate) fn add(&mut self, outcome: Outcome) {
        self.by_outcome[outcome as usize] += 1;
    }

    /// How many results are of this kind.
    pub(crate) fn of(&self, outcome: Outcome) -> u64 {
        self.by_outcome[outcome as usize]
    }

    /// How many results there are.
    pub(crate) fn done(&self) -> u64 {
        self.by_outcome.iter().sum()
    }

    /// How many of them went wrong.
    pub(crate) fn failures(&self) -> u64 {
        Outcome::ALL
            .iter()
            .filter(|outcome| outcome.is_failure())
            .map(|outcome| self.of(*outcome))
            .sum()
    }
}

/// Why a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// All inputs are done.
    Completed,
    /// The result of this input is what `[stop]` waits for.
    Stopped { index: u64, why: StopCause },
    /// A signal.
    Interrupted { signal: i32 },
    /// The pool can't go on.
    PoolBroken { error: String },
    /// The inputs could not be read to their end.
    InputFailed { error: String },
    /// Results could not be written.
    OutputFailed { error: String },
    /// Nobody reads the results any more.
    OutputClosed,
}

/// Which rule stopped a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopCause {
    /// A result equals the value that is waited for.
    Equals,
    /// A task succeeded.
    FirstSuccess,
    /// A task failed.
    FirstFailure,
}

/// A whole run in numbers.
#[derive(Debug)]
pub(crate) struct Summary {
    pub(crate) counts: Counts,
    /// Inputs that were never started, if it is known how many there are.
    pub(crate) not_run: Option<u64>,
    pub(crate) elapsed: Duration,
    pub(crate) procs: usize,
    pub(crate) ending: Ending,
    /// The first few results that went wrong.
    pub(crate) failures: Vec<Record>,
}

/// How many failures a summary shows one by one.
pub(crate) const SHOWN_FAILURES: usize = 10;

/// Tells somebody about a run. Results themselves go another way.
pub(crate) trait Report {
    /// The number of inputs became known.
    fn total(&mut self, total: u64);
    /// A result arrived.
    fn settled(&mut self, counts: &Counts);
    /// How often `tick` wants to be called.
    fn interval(&self) -> Option<Duration>;
    /// Some time has passed.
    fn tick(&mut self, counts: &Counts);
    /// The user asked how far it is.
    fn asked(&mut self, counts: &Counts);
    /// Something the user should know at once.
    fn notice(&mut self, text: &str);
    /// The run is over.
    fn finished(&mut self, summary: &Summary);
}
