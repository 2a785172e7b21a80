//! The command line as it is typed, and what of it goes over the job file.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;

use crate::exit;
use crate::job::file::StopOn;
use crate::job::parse::{Setting, Settings};
use crate::job::units::Time;

/// Run a batch of tasks in isolated worker processes, from a job file
#[derive(Debug, Parser)]
#[command(version, after_help = exit::help(), propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a job; results go to the standard output as JSON lines
    #[command(after_help = exit::help())]
    Run(RunArgs),
    /// Check a job file, and say what it would do
    #[command(after_help = exit::help())]
    Check(CheckArgs),
    /// Print the tasks of a worker executable, or the built-in ones
    Tasks {
        /// A worker executable
        #[arg(value_name = "WORKER", value_hint = ValueHint::ExecutablePath)]
        worker: Option<PathBuf>,
    },
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
}

/// What goes over the job file.
#[derive(Debug, Args)]
pub(crate) struct OverArgs {
    /// Use the files that match instead of the job's inputs; may be given several times
    #[arg(long, value_name = "GLOB")]
    pub(crate) input: Vec<String>,
    /// Set a key of the job file, for example task.cwd=/tmp; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = |text: &str| Setting::parse(text))]
    pub(crate) set: Vec<Setting>,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The job file
    #[arg(value_name = "JOB.TOML", value_hint = ValueHint::FilePath)]
    pub(crate) job: PathBuf,
    #[command(flatten)]
    pub(crate) over: OverArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The job file
    #[arg(value_name = "JOB.TOML", value_hint = ValueHint::FilePath)]
    pub(crate) job: PathBuf,
    /// Run at most so many tasks at once
    #[arg(short = 'j', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) procs: Option<u32>,
    /// Kill a task that runs longer, for example "30s" or "1m 30s"
    #[arg(long, value_name = "TIME", value_parser = |text: &str| text.parse::<Time>())]
    pub(crate) timeout: Option<Time>,
    /// Try a task that went wrong again, up to so many times
    #[arg(long, value_name = "N")]
    pub(crate) retries: Option<u32>,
    /// Write results to a file ("-" for the standard output)
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<String>,
    /// Write results in the order of the inputs
    #[arg(short, long)]
    pub(crate) keep_order: bool,
    /// Go on after failures, whatever the job file says
    #[arg(long, conflicts_with = "fail_fast")]
    pub(crate) keep_going: bool,
    /// Stop everything at the first failure
    #[arg(long)]
    pub(crate) fail_fast: bool,
    /// How to show progress on the standard error
    #[arg(long, value_enum, default_value_t = ProgressArg::Auto)]
    pub(crate) progress: ProgressArg,
    /// Who reads the standard error
    #[arg(long, value_enum, default_value_t = ReportArg::Human)]
    pub(crate) report: ReportArg,
    /// Print what would be run, and run nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) over: OverArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressArg {
    /// A bar on a terminal, else nothing
    Auto,
    /// A bar on a terminal, else lines
    Bar,
    /// A line every few seconds
    Plain,
    /// Nothing
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportArg {
    /// People: progress, and a summary as text
    Human,
    /// Programs: a summary as one line of JSON
    Json,
    /// Nobody: errors only
    Quiet,
}

impl OverArgs {
    fn settings(&self) -> Settings {
        Settings { list: self.set.clone(), input: self.input.clone() }
    }
}

impl CheckArgs {
    /// What the command line sets over the file.
    pub(crate) fn settings(&self) -> Settings {
        self.over.settings()
    }
}

impl RunArgs {
    /// What the command line sets over the file. An option of its own goes over `--set`.
    pub(crate) fn settings(&self) -> Settings {
        let mut settings = self.over.settings();
        let mut set = |option, key, value: Option<toml::Value>| {
            settings.list.extend(value.map(|value| Setting::new(option, key, value)));
        };
        let time = |time: Time| humantime::format_duration(time.0).to_string().into();
        set("--procs", "pool.procs", self.procs.map(|count| i64::from(count).into()));
        set("--timeout", "limits.timeout", self.timeout.map(time));
        set("--retries", "limits.retries", self.retries.map(|count| i64::from(count).into()));
        set("--output", "output.file", self.output.clone().map(Into::into));
        set("--keep-order", "output.keep_order", self.keep_order.then(|| true.into()));
        set("--keep-going", "stop.on", self.keep_going.then(|| StopOn::Never.name().into()));
        set("--fail-fast", "stop.on", self.fail_fast.then(|| StopOn::FirstFailure.name().into()));
        settings
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_become_settings_and_go_over_set() {
        let typed =
            "pool-cli run -j 3 --timeout 90s --fail-fast -ko out --set pool.procs=9 job.toml";
        let cli = Cli::try_parse_from(typed.split(' ')).unwrap();
        let Command::Run(args) = cli.command else { panic!("not a run") };
        let expected = [
            Setting::parse("pool.procs=9").unwrap(),
            Setting::new("--procs", "pool.procs", 3),
            Setting::new("--timeout", "limits.timeout", "1m 30s"),
            Setting::new("--output", "output.file", "out"),
            Setting::new("--keep-order", "output.keep_order", true),
            Setting::new("--fail-fast", "stop.on", "first-failure"),
        ];
        assert_eq!(args.settings().list, expected);
    }

    #[test]
    fn wrong_values_are_refused_at_once() {
        for typed in
            ["--procs 0", "--timeout 30", "--retries x", "--set x", "--keep-going --fail-fast"]
        {
            let typed = format!("pool-cli run {typed} job.toml");
            assert!(Cli::try_parse_from(typed.split(' ')).is_err(), "{typed}");
        }
    }
}
