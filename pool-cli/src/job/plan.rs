//! What will be done: a job file after it has been checked, with every default filled in.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pool_worker::Data;
use pool_worker::builtin::{self, CommandSpec};
use serde_json::Value;

use super::file::WorkerStderr;
use super::inputs::{Item, Source};
use super::placeholders::{JsonTemplate, Template, Unfilled};
use super::units::ByteSize;
use crate::report::human::plural;

/// A whole job.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The job file's name, for messages.
    pub(crate) name: String,
    /// The job file's folder: where tasks run, and what paths in the file are relative to.
    pub(crate) folder: PathBuf,
    pub(crate) pool: PoolPlan,
    pub(crate) task: TaskPlan,
    pub(crate) inputs: InputsPlan,
    pub(crate) limits: Limits,
    pub(crate) stop: StopRule,
    pub(crate) output: OutputPlan,
}

/// The workers. `None` leaves the choice to the pool.
#[derive(Debug)]
pub(crate) struct PoolPlan {
    pub(crate) procs: usize,
    pub(crate) grace: Option<Duration>,
    pub(crate) term_grace: Duration,
    pub(crate) start_timeout: Option<Duration>,
}

/// What is done with each input.
#[derive(Debug)]
pub(crate) enum TaskPlan {
    Command(CommandPlan),
    Named(NamedPlan),
}

/// A program to run.
#[derive(Debug)]
pub(crate) struct CommandPlan {
    pub(crate) argv: Vec<Template>,
    pub(crate) cwd: Option<Template>,
    pub(crate) env: Vec<(String, Template)>,
    pub(crate) stdin: Option<Template>,
    pub(crate) output_cap_bytes: u64,
}

/// A function to call by name.
#[derive(Debug)]
pub(crate) struct NamedPlan {
    /// The executable that has it; `None` for the built-in ones.
    pub(crate) worker: Option<PathBuf>,
    pub(crate) task: String,
    /// What it is given; the input itself if absent.
    pub(crate) args: Option<JsonTemplate>,
    pub(crate) cwd: Option<PathBuf>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) stderr: WorkerStderr,
}

/// Where inputs come from.
#[derive(Debug)]
pub(crate) struct InputsPlan {
    pub(crate) source: Source,
    /// What a relative path among the inputs is relative to.
    pub(crate) base: PathBuf,
}

/// What one task may use.
#[derive(Debug)]
pub(crate) struct Limits {
    pub(crate) timeout: Option<Duration>,
    pub(crate) retries: u32,
    /// Address space of a worker, and of each process that it starts.
    pub(crate) memory_bytes: Option<u64>,
}

/// When the rest is not needed any more. Whatever comes first counts.
#[derive(Debug, Default)]
pub(crate) struct StopRule {
    pub(crate) equals: Option<Wanted>,
    pub(crate) first_success: bool,
    pub(crate) first_failure: bool,
}

impl StopRule {
    /// Whether any result can make the rest unnecessary.
    pub(crate) fn is_any(&self) -> bool {
        self.equals.is_some() || self.first_success || self.first_failure
    }
}

/// A result that is waited for.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// The field of the result that is compared; the whole result if absent.
    pub(crate) field: Option<String>,
    pub(crate) value: Value,
}

/// Where results go.
#[derive(Debug)]
pub(crate) struct OutputPlan {
    /// The standard output if absent.
    pub(crate) file: Option<PathBuf>,
    pub(crate) keep_order: bool,
    /// Which keys of a result are written; all if absent.
    pub(crate) fields: Option<Vec<String>>,
}

/// A task for one input, as a worker takes it: a name and JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) task: String,
    pub(crate) input: Vec<u8>,
}

impl Plan {
    /// The task for one input. It is an error of the input if its placeholders can't be filled.
    pub(crate) fn request(&self, item: &Item) -> Result<Request, Unfilled> {
        let base = &self.inputs.base;
        match &self.task {
            TaskPlan::Command(command) => {
                let spec = command.spec(item, base, &self.folder)?;
                Ok(Request { task: builtin::COMMAND.into(), input: json(&spec) })
            }
            TaskPlan::Named(named) => {
                Ok(Request { task: named.task.clone(), input: json(&named.input(item, base)?) })
            }
        }
    }

    /// The task for one input as a person would type it.
    pub(crate) fn preview(&self, item: &Item) -> Result<String, Unfilled> {
        let base = &self.inputs.base;
        match &self.task {
            TaskPlan::Command(command) => {
                let argv = command.fill_argv(item, base)?;
                Ok(argv.iter().map(quote).collect::<Vec<_>>().join(" "))
            }
            TaskPlan::Named(named) => Ok(format!("{} {}", named.task, named.input(item, base)?)),
        }
    }
}

impl CommandPlan {
    fn spec(&self, item: &Item, base: &Path, folder: &Path) -> Result<CommandSpec, Unfilled> {
        let fill = |template: &Template| template.fill(item, base);
        let env =
            self.env.iter().map(|(name, value)| Ok((Data::from(name.as_str()), fill(value)?)));
        let cwd = self.cwd.as_ref().map(fill).transpose()?;
        Ok(CommandSpec {
            argv: self.fill_argv(item, base)?,
            cwd: cwd.map(|cwd| Data::from(folder.join(cwd.as_path()))),
            env: env.collect::<Result<_, _>>()?,
            stdin: self.stdin.as_ref().map(fill).transpose()?,
            output_cap_bytes: self.output_cap_bytes,
        })
    }

    fn fill_argv(&self, item: &Item, base: &Path) -> Result<Vec<Data>, Unfilled> {
        self.argv.iter().map(|arg| arg.fill(item, base)).collect()
    }
}

impl NamedPlan {
    fn input(&self, item: &Item, base: &Path) -> Result<Value, Unfilled> {
        match &self.args {
            Some(args) => args.fill(item, base),
            None => Ok(item.input.clone().into_json()),
        }
    }
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value)
        .expect("texts, numbers and tables with text keys can be written as JSON")
}

/// A word that a shell would read as it is meant.
fn quote(word: &Data) -> String {
    let text = word.to_text();
    let plain = |c: char| c.is_alphanumeric() || "_-./:=@%+,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "task    {}", self.task)?;
        writeln!(f, "inputs  {}", self.inputs.source)?;
        let procs = plural(self.pool.procs as u64, "process", "processes");
        writeln!(f, "pool    {procs} in {}", self.folder.display())?;
        writeln!(f, "limits  {}", self.limits)?;
        writeln!(f, "stop    {}", self.stop)?;
        let order =
            if self.output.keep_order { "in the order of the inputs" } else { "as they finish" };
        match &self.output.file {
            Some(file) => writeln!(f, "output  {}, {order}", file.display()),
            None => writeln!(f, "output  standard output, {order}"),
        }
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.timeout {
            Some(time) => write!(f, "timeout {}", humantime::format_duration(time))?,
            None => f.write_str("no timeout")?,
        }
        if let Some(bytes) = self.memory_bytes {
            write!(f, ", memory {}", ByteSize(bytes))?;
        }
        write!(f, ", {}", plural(self.retries.into(), "retry", "retries"))
    }
}

impl fmt::Display for TaskPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TaskPlan::Command(command) => {
                let argv: Vec<String> =
                    command.argv.iter().map(|arg| quote(&Data::from(arg.to_string()))).collect();
                write!(
                    f,
                    "command {}, output cap {}",
                    argv.join(" "),
                    ByteSize(command.output_cap_bytes)
                )
            }
            TaskPlan::Named(NamedPlan { task, worker: Some(worker), .. }) => {
                write!(f, "{task} of {}", worker.display())
            }
            TaskPlan::Named(named) => write!(f, "{}, built in", named.task),
        }
    }
}

impl fmt::Display for StopRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let equals = self.equals.as_ref().map(|wanted| match &wanted.field {
            Some(field) => format!("when `{field}` of a result is {}", wanted.value),
            None => format!("when a result is {}", wanted.value),
        });
        let success = self.first_success.then(|| "on the first success".to_owned());
        let failure = self.first_failure.then(|| "on the first failure".to_owned());
        let rules: Vec<String> = [equals, success, failure].into_iter().flatten().collect();
        f.write_str(if rules.is_empty() { "never early" } else { "" })?;
        f.write_str(&rules.join(", or "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        let quoted = |text: &str| quote(&Data::from(text));
        assert_eq!(quoted("a/b.c"), "a/b.c");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("it's $x"), r"'it'\''s $x'");
    }

    #[test]
    fn a_stop_rule_reads_as_a_sentence() {
        let wanted = Wanted { field: Some("a".into()), value: Value::from(3) };
        let rule = StopRule { equals: Some(wanted), first_failure: true, ..StopRule::default() };
        assert_eq!(rule.to_string(), "when `a` of a result is 3, or on the first failure");
        assert_eq!(StopRule::default().to_string(), "never early");
    }
}
