//! A job file as it is typed: the shape of the TOML, nothing decided yet.
//!
//! Every struct refuses unknown keys, and every value that can be wrong knows its place. [`plan`](super::plan) turns this into
//! what will be done. `docs/job-file.md` describes each key for users.

use std::collections::BTreeMap;
use std::num::NonZero;

use serde::Deserialize;
use toml::{Spanned, Value};

use super::units::{ByteSize, OneOrMany, Time};

/// The keys of [`JobFile`]: each is a table.
pub(crate) const SECTIONS: [&str; 6] = ["pool", "task", "inputs", "limits", "stop", "output"];

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct JobFile {
    pub(crate) pool: PoolSection,
    pub(crate) task: Option<Spanned<TaskSection>>,
    pub(crate) inputs: Option<Spanned<InputsSection>>,
    pub(crate) limits: LimitsSection,
    pub(crate) stop: Option<Spanned<StopSection>>,
    pub(crate) output: OutputSection,
}

/// `[pool]`: the workers.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PoolSection {
    pub(crate) procs: Option<NonZero<usize>>,
    pub(crate) grace: Option<Time>,
    pub(crate) term_grace: Option<Time>,
    pub(crate) start_timeout: Option<Time>,
}

/// `[task]`: what is done with each input.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TaskSection {
    pub(crate) command: Option<Spanned<Vec<Spanned<String>>>>,
    pub(crate) worker: Option<Spanned<String>>,
    pub(crate) task: Option<Spanned<String>>,
    pub(crate) args: Option<Spanned<Value>>,
    pub(crate) cwd: Option<Spanned<String>>,
    pub(crate) env: BTreeMap<String, Spanned<String>>,
    pub(crate) stdin: Option<Spanned<String>>,
    pub(crate) stderr: Option<Spanned<WorkerStderr>>,
}

/// Where the standard error of the worker processes of named tasks goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum WorkerStderr {
    /// To the standard error of the command.
    #[default]
    Inherit,
    /// Nowhere.
    Discard,
}

/// `[inputs]`: exactly one source.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct InputsSection {
    pub(crate) values: Option<Spanned<Vec<Spanned<Value>>>>,
    pub(crate) range: Option<Spanned<RangeTable>>,
    pub(crate) lines: Option<Spanned<String>>,
    pub(crate) glob: Option<Spanned<OneOrMany>>,
    pub(crate) exclude: Option<Spanned<OneOrMany>>,
    pub(crate) jsonl: Option<Spanned<String>>,
    pub(crate) csv: Option<Spanned<String>>,
}

/// `range = { start = 0, end = 500, step = 1 }`
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RangeTable {
    #[serde(default)]
    pub(crate) start: i64,
    pub(crate) end: i64,
    #[serde(default = "one")]
    pub(crate) step: i64,
}

fn one() -> i64 {
    1
}

/// `[limits]`: what one task may use.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LimitsSection {
    pub(crate) timeout: Option<Time>,
    pub(crate) retries: Option<u32>,
    pub(crate) memory: Option<ByteSize>,
    pub(crate) output_cap: Option<Spanned<ByteSize>>,
}

/// `[stop]`: when the rest is not needed any more.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StopSection {
    pub(crate) equals: Option<Spanned<Value>>,
    pub(crate) field: Option<Spanned<String>>,
    pub(crate) on: Option<StopOn>,
}

/// The kinds of result that stop a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StopOn {
    /// The first task that succeeds.
    FirstSuccess,
    /// The first task that does not succeed.
    FirstFailure,
    /// None.
    Never,
}

impl StopOn {
    /// How it is written in a job file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            StopOn::FirstSuccess => "first-success",
            StopOn::FirstFailure => "first-failure",
            StopOn::Never => "never",
        }
    }
}

/// `[output]`: where results go.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct OutputSection {
    pub(crate) file: Option<Spanned<String>>,
    pub(crate) keep_order: Option<bool>,
    pub(crate) fields: Option<Spanned<Vec<Spanned<String>>>>,
}
