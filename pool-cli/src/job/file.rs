//! A job file as it is typed: the shape of the TOML, nothing decided yet.
//!
//! Every struct refuses unknown keys, and every value that can be wrong knows its place. [`plan`](super::plan) turns this into
//! what will be done. `docs/job-file.md` describes each key for users.

use std::collections::BTreeMap;
use std::num::NonZero;

use serde::Deserialize;
use toml::{Spanned, Value};

use super::units::{ByteSize, OneOrMany, Time};

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JobFile {
    pub pool: PoolSection,
    pub task: Option<Spanned<TaskSection>>,
    pub inputs: Option<Spanned<InputsSection>>,
    pub limits: LimitsSection,
    pub stop: Option<Spanned<StopSection>>,
    pub output: OutputSection,
}

/// `[pool]`: the workers.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PoolSection {
    pub procs: Option<NonZero<usize>>,
    pub grace: Option<Time>,
    pub term_grace: Option<Time>,
    pub start_timeout: Option<Time>,
}

/// `[task]`: what is done with each input.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TaskSection {
    pub command: Option<Spanned<Vec<Spanned<String>>>>,
    pub worker: Option<Spanned<String>>,
    pub task: Option<Spanned<String>>,
    pub args: Option<Spanned<Value>>,
    pub cwd: Option<Spanned<String>>,
    pub env: BTreeMap<String, Spanned<String>>,
    pub stdin: Option<Spanned<String>>,
    pub stderr: Option<Spanned<WorkerStderr>>,
}

/// Where the standard error of the worker processes of named tasks goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkerStderr {
    /// To the standard error of the command.
    #[default]
    Inherit,
    /// Nowhere.
    Discard,
}

/// `[inputs]`: exactly one source.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InputsSection {
    pub values: Option<Spanned<Vec<Spanned<Value>>>>,
    pub range: Option<Spanned<RangeTable>>,
    pub lines: Option<Spanned<String>>,
    pub glob: Option<Spanned<OneOrMany>>,
    pub exclude: Option<Spanned<OneOrMany>>,
    pub jsonl: Option<Spanned<String>>,
    pub csv: Option<Spanned<String>>,
}

/// `range = { start = 0, end = 500, step = 1 }`
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RangeTable {
    #[serde(default)]
    pub start: i64,
    pub end: i64,
    #[serde(default = "one")]
    pub step: i64,
}

fn one() -> i64 {
    1
}

/// `[limits]`: what one task may use.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSection {
    pub timeout: Option<Time>,
    pub retries: Option<u32>,
    pub memory: Option<Spanned<ByteSize>>,
    pub output_cap: Option<Spanned<ByteSize>>,
}

/// `[stop]`: when the rest is not needed any more.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StopSection {
    pub equals: Option<Spanned<Value>>,
    pub field: Option<Spanned<String>>,
    pub on: Option<StopOn>,
}

/// The kinds of result that stop a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopOn {
    /// The first task that succeeds.
    FirstSuccess,
    /// The first task that does not.
    FirstFailure,
}

/// `[output]`: where results go.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutputSection {
    pub file: Option<Spanned<String>>,
    pub keep_order: Option<bool>,
    pub fields: Option<Spanned<Vec<Spanned<String>>>>,
}
