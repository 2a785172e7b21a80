//! Which command was asked for, and the small ones.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, Parser};
use pool_worker::builtin;

use crate::args::{Cli, Command, ProgressArg, ReportArg, RunArgs};
use crate::exit::{Exit, Failure, say};
use crate::job::inputs::{Item, Next};
use crate::job::{self, Plan};
use crate::report::human::{Style, plural};
use crate::run::{self, Audience};

/// Does what the command line says.
pub(crate) fn main() -> Exit {
    // Wrong usage ends in here, with 2.
    let done = match Cli::try_parse().unwrap_or_else(|error| misused(&error)).command {
        Command::Run(args) => run(&args),
        Command::Check(args) => {
            job::load(&args.job, &args.settings()).and_then(|plan| check(&plan))
        }
        Command::Tasks { worker } => tasks(worker.as_deref()),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "pool-cli", &mut script);
            print(&script)
        }
    };
    done.unwrap_or_else(Failure::report)
}

/// Ends with what clap says, and with what was meant if only the verb is missing.
fn misused(error: &clap::Error) -> ! {
    let word = match error.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(word)) => Path::new(word),
        _ => error.exit(),
    };
    if word.extension().is_some_and(|extension| extension == "toml") || word.is_file() {
        let job = word.display();
        say(&format!("error: `{job}` is no command; to run that job: pool-cli run {job}\n"));
        #[expect(clippy::exit, reason = "as clap does it")]
        std::process::exit(error.exit_code());
    }
    error.exit()
}

fn run(args: &RunArgs) -> Result<Exit, Failure> {
    let plan = job::load(&args.job, &args.settings())?;
    if args.dry_run { dry_run(&plan) } else { run::run(&plan, audience(args)) }
}

fn audience(args: &RunArgs) -> Audience {
    let is_terminal = io::stderr().is_terminal();
    match (args.report, args.progress) {
        (ReportArg::Json, _) => Audience::Json,
        (ReportArg::Quiet, _) => Audience::Quiet,
        (ReportArg::Human, ProgressArg::Auto | ProgressArg::Bar) if is_terminal => {
            Audience::Human(Style::Bar)
        }
        (ReportArg::Human, ProgressArg::Bar | ProgressArg::Plain) => Audience::Human(Style::Lines),
        (ReportArg::Human, ProgressArg::Auto | ProgressArg::None) => Audience::Human(Style::None),
    }
}

fn check(plan: &Plan) -> Result<Exit, Failure> {
    let tasks = tasks_in_words(plan)?;
    print(format!("{} is valid\n{plan}tasks   {tasks}\n", plan.name).as_bytes())
}

/// `check` counts no further: it is to be quick.
const MOST_COUNTED: u64 = 1_000_000;

/// How many tasks there would be.
fn tasks_in_words(plan: &Plan) -> Result<String, Failure> {
    if !plan.inputs.source.is_at_rest() {
        return Ok("one for each input, as they come".to_owned());
    }
    let (mut tasks, mut invalid) = (0, 0);
    for (index, next) in (0..).zip(plan.inputs.source.read().map_err(unreadable)?) {
        if index == MOST_COUNTED {
            return Ok(format!("more than {MOST_COUNTED}, one for each input"));
        }
        let is_valid = match next.map_err(unreadable)? {
            Next::Input(input) => plan.request(&Item { index, input }).is_ok(),
            Next::Malformed { .. } => false,
        };
        *(if is_valid { &mut tasks } else { &mut invalid }) += 1;
    }
    Ok(match (tasks, invalid) {
        (0, 0) => "none: there is no input".to_owned(),
        (_, 0) => format!("{tasks}, one for each input"),
        _ => {
            let inputs = plural(invalid, "input is", "inputs are");
            format!(
                "{tasks}, one for each valid input; {inputs} invalid, which `run --dry-run` shows"
            )
        }
    })
}

fn unreadable(error: io::Error) -> Failure {
    Failure::new(Exit::Io, format!("inputs can't be read: {error}"))
}

/// Prints each task as one line, as a shell or a reader would have it.
fn dry_run(plan: &Plan) -> Result<Exit, Failure> {
    let reading = plan.inputs.source.read().map_err(unreadable)?;
    let mut out = BufWriter::new(io::stdout());
    let mut end = Exit::NothingToDo;
    for (index, next) in (0..).zip(reading) {
        let line = match next.map_err(unreadable)? {
            Next::Input(input) => {
                plan.preview(&Item { index, input }).map_err(|error| error.to_string())
            }
            Next::Malformed { error, .. } => Err(error),
        };
        end = if line.is_err() || end == Exit::TasksFailed {
            Exit::TasksFailed
        } else {
            Exit::Success
        };
        let line = line.unwrap_or_else(|error| format!("# input {index} is invalid: {error}"));
        writeln!(out, "{line}").map_err(|error| Failure::output(&error))?;
    }
    out.flush().map_err(|error| Failure::output(&error))?;
    Ok(end)
}

fn tasks(worker: Option<&Path>) -> Result<Exit, Failure> {
    let names = match worker {
        None => builtin::host().names().map(str::to_owned).collect(),
        Some(worker) => {
            // A name without a slash is a file here, not a program on PATH.
            let path = std::path::absolute(worker).unwrap_or_else(|_| PathBuf::from(worker));
            let missing = |_| {
                Failure::new(Exit::MissingFile, format!("there is no file `{}`", path.display()))
            };
            path.metadata().map_err(missing)?;
            let info = job::ask_host(&path).map_err(|error| {
                let message = format!("`{}` is no worker executable: {error}", path.display());
                Failure::new(Exit::PoolBroken, message)
                    .hint("a worker calls pool_worker::Host::run() in its main")
            })?;
            info.tasks
        }
    };
    print(names.iter().flat_map(|name| [name.as_str(), "\n"]).collect::<String>().as_bytes())
}

fn print(bytes: &[u8]) -> Result<Exit, Failure> {
    let mut out = io::stdout();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| Failure::output(&error))?;
    Ok(Exit::Success)
}
