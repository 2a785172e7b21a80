//! Checking a job file and turning it into a [`Plan`]. All problems are collected; none stops the search for others.

mod inputs;
mod task;

use std::collections::BTreeSet;
use std::io;
use std::num::NonZero;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use toml::Spanned;

use super::file::{OutputSection, StopOn, StopSection};
use super::parse::Parsed;
use super::placeholders::{Shape, Template};
use super::plan::{Limits, OutputPlan, Plan, PoolPlan, StopRule, TaskPlan, Wanted};
use super::source::{Problem, Source, suggest};
use crate::report::FIELDS;

/// After SIGTERM running tasks get this long, so that all is over before a container's manager loses its patience (10 s).
const DEFAULT_TERM_GRACE: Duration = Duration::from_secs(8);

/// Where a job file is, and where the user is.
#[derive(Debug)]
pub(crate) struct Folders {
    pub(crate) job: PathBuf,
    pub(crate) user: PathBuf,
}

/// Turns a job file into a plan, if there is no problem.
pub(crate) fn plan(
    parsed: Parsed,
    source: &Source,
    folders: Folders,
) -> Result<Plan, Vec<Problem>> {
    let Parsed { file, problems, incomplete } = parsed;
    let mut planner =
        Planner { source, folder: folders.job, cwd: folders.user, problems, incomplete };
    let inputs = planner.inputs(file.inputs);
    let shape = inputs.as_ref().map_or(Shape::Unknown, |(_, shape)| shape.clone());
    let task = planner.task(file.task, &shape, &file.limits);
    let is_command = matches!(task, Some(TaskPlan::Command(_)));
    let limits = Limits {
        timeout: file.limits.timeout.map(|time| time.0),
        retries: file.limits.retries.unwrap_or(0),
        memory_bytes: file.limits.memory.map(|size| size.0),
    };
    let stop = planner.stop(file.stop, is_command);
    let output = planner.output(file.output);
    let pool = PoolPlan {
        procs: file.pool.procs.map_or_else(available_processors, NonZero::get),
        grace: file.pool.grace.map(|time| time.0),
        term_grace: file.pool.term_grace.map_or(DEFAULT_TERM_GRACE, |time| time.0),
        start_timeout: file.pool.start_timeout.map(|time| time.0),
    };
    match (inputs, task) {
        (Some((inputs, _)), Some(task)) if planner.problems.is_empty() => {
            let name = source.file_name().to_owned();
            Ok(Plan { name, folder: planner.folder, pool, task, inputs, limits, stop, output })
        }
        _ => Err(planner.problems),
    }
}

fn available_processors() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// What the sections are checked against, and what is wrong so far.
struct Planner<'a> {
    source: &'a Source,
    folder: PathBuf,
    cwd: PathBuf,
    problems: Vec<Problem>,
    incomplete: BTreeSet<String>,
}

impl Planner<'_> {
    fn problem(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// Something is missing in a section (`""`: in the file). It may be there and be wrong; then that has been told.
    fn missing(&mut self, section: &str, problem: Problem) {
        if !self.incomplete.contains(section) {
            self.problems.push(problem);
        }
    }

    /// Paths in the file are relative to it, paths on the command line to where the user is.
    fn base(&self, span: &Range<usize>) -> &Path {
        if self.source.is_from_command_line(span) { &self.cwd } else { &self.folder }
    }

    fn template(&mut self, text: &Spanned<String>, shape: &Shape) -> Option<Template> {
        match Template::parse(text.get_ref(), shape) {
            Ok(template) => Some(template),
            Err(error) => {
                self.problem(Problem::at(text.span(), error.message).maybe_hint(error.hint));
                None
            }
        }
    }

    /// A text of a named task that can't differ between inputs, because it is set once for each worker process.
    fn constant(&mut self, key: &str, text: &Spanned<String>) -> Option<String> {
        let template = self.template(text, &Shape::Unknown)?;
        if let Some(text) = template.constant() {
            return Some(text.to_owned());
        }
        let message = format!("`{key}` of a named task can't have placeholders");
        let hint = "it is set once for each worker process; pass what differs in `args`";
        self.problem(Problem::at(text.span(), message).hint(hint));
        None
    }

    fn json(&mut self, value: &toml::Value, span: Range<usize>) -> Option<Value> {
        let json = to_json(value);
        if json.is_none() {
            self.problem(
                Problem::at(span, "there is no infinity and no nan in JSON").hint("use a text"),
            );
        }
        json
    }

    fn stop(&mut self, section: Option<Spanned<StopSection>>, is_command: bool) -> StopRule {
        let Some(section) = section else { return StopRule::default() };
        let at = section.span();
        let StopSection { equals, field, on } = section.into_inner();
        if let Some(field) = &field {
            if equals.is_none() {
                let hint = "add `equals`: the value to wait for";
                self.missing(
                    "stop",
                    Problem::at(field.span(), "`field` needs `equals`").hint(hint),
                );
            }
            if is_command {
                let message = "`field` does not go with a `command`";
                let hint =
                    "what a command prints is compared as a whole, without the space around it";
                self.problem(Problem::at(field.span(), message).hint(hint));
            }
        }
        if equals.is_none() && field.is_none() && on.is_none() {
            let hint = "give it `equals = ..` or `on = \"first-success\"`, or leave [stop] out";
            self.missing("stop", Problem::at(at, "[stop] says nothing").hint(hint));
        }
        let equals = equals.and_then(|equals| {
            let value = self.json(equals.get_ref(), equals.span())?;
            Some(Wanted { field: field.map(Spanned::into_inner), value })
        });
        StopRule {
            equals,
            first_success: on == Some(StopOn::FirstSuccess),
            first_failure: on == Some(StopOn::FirstFailure),
        }
    }

    fn output(&mut self, section: OutputSection) -> OutputPlan {
        let file = section.file.filter(|file| file.get_ref() != "-");
        let file = file.map(|file| {
            let full = self.base(&file.span()).join(file.get_ref());
            if full.is_dir() {
                let message = format!("`{}` is a folder", full.display());
                let hint = "name a file in it";
                self.problem(Problem::at(file.span(), message).hint(hint).uncreatable());
            } else if !full.parent().is_some_and(Path::is_dir) {
                let message = format!("there is no folder to write `{}` into", full.display());
                self.problem(Problem::at(file.span(), message).hint("make it first").uncreatable());
            }
            full
        });
        for field in section.fields.iter().flat_map(Spanned::get_ref) {
            if !FIELDS.contains(&field.get_ref().as_str()) {
                let message = format!("a result has no `{}`", field.get_ref());
                let hint = suggest(field.get_ref(), FIELDS);
                self.problem(Problem::at(field.span(), message).maybe_hint(hint));
            }
        }
        let fields = section.fields.map(Spanned::into_inner);
        OutputPlan {
            file,
            keep_order: section.keep_order.unwrap_or(false),
            fields: fields.map(|list| list.into_iter().map(Spanned::into_inner).collect()),
        }
    }
}

fn unreadable(span: Range<usize>, path: &Path, error: &io::Error) -> Problem {
    match error.kind() {
        io::ErrorKind::NotFound => {
            Problem::at(span, format!("there is no file `{}`", path.display())).missing()
        }
        _ => Problem::at(span, format!("`{}` can't be read: {error}", path.display())).missing(),
    }
}

/// TOML as JSON; a date is its text. `None` for numbers that JSON does not have.
fn to_json(value: &toml::Value) -> Option<Value> {
    Some(match value {
        toml::Value::String(text) => Value::from(text.as_str()),
        toml::Value::Integer(number) => Value::from(*number),
        toml::Value::Float(number) => Value::Number(serde_json::Number::from_f64(*number)?),
        toml::Value::Boolean(truth) => Value::from(*truth),
        toml::Value::Datetime(date) => Value::from(date.to_string()),
        toml::Value::Array(list) => Value::Array(list.iter().map(to_json).collect::<Option<_>>()?),
        toml::Value::Table(table) => {
            let entries = table.iter().map(|(key, value)| Some((key.clone(), to_json(value)?)));
            Value::Object(entries.collect::<Option<_>>()?)
        }
    })
}
