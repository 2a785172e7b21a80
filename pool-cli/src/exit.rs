//! The exit codes: one table, shown by `--help` and kept in `docs/cli.md`.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use signal_hook::consts::SIGPIPE;

use crate::report::{Ending, Outcome, StopCause, Summary};

/// How the command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All is well.
    Success,
    /// The command is wrong about itself.
    Internal,
    /// There was no input.
    NothingToDo,
    /// The job file is wrong.
    InvalidJob,
    /// A file is missing or can't be read.
    MissingFile,
    /// The pool can't start workers.
    PoolBroken,
    /// The operating system refused something.
    OsRefused,
    /// The output file can't be made.
    CannotCreate,
    /// Reading inputs or writing results failed.
    Io,
    /// Tasks failed.
    TasksFailed,
    /// Tasks were lost with their worker.
    TasksLost,
    /// A signal ended the run; the command ends by the same one.
    Signal(i32),
}

/// Every exit code with its meaning, in order.
pub(crate) const TABLE: [(&str, &str); 15] = [
    ("0", "all tasks succeeded, or the run stopped early as [stop] says"),
    ("1", "an error of pool-cli itself; please report it"),
    ("2", "wrong usage of the command line"),
    ("4", "nothing to do: there was no input"),
    ("65", "the job file is wrong"),
    ("66", "a file is missing or can't be read: job file, inputs, worker, program"),
    ("70", "workers can't be started"),
    ("71", "the operating system refused a resource"),
    ("73", "the output file can't be created"),
    ("74", "inputs could not be read to their end, or results could not be written"),
    ("100", "some tasks failed, timed out, panicked, or had an invalid input"),
    ("101", "some tasks were lost because their worker died (takes precedence over 100)"),
    (
        "129, 130, 143",
        "ended by SIGHUP, SIGINT or SIGTERM, after cleaning up (as a shell shows it)",
    ),
    ("137", "killed by SIGKILL; workers and their commands die too"),
    ("141", "nobody reads the results any more (SIGPIPE)"),
];

impl Exit {
    /// What a run calls for.
    pub(crate) fn of(summary: &Summary) -> Exit {
        let counts = &summary.counts;
        match summary.ending {
            Ending::Interrupted { signal } => Exit::Signal(signal),
            Ending::OutputClosed => Exit::Signal(SIGPIPE),
            Ending::PoolBroken { .. } => Exit::PoolBroken,
            Ending::InputFailed { .. } | Ending::OutputFailed { .. } => Exit::Io,
            // The failures before the first success were what it was there for.
            Ending::Stopped { why: StopCause::FirstSuccess, .. } => Exit::Success,
            Ending::Completed | Ending::Stopped { .. } => {
                if counts.of(Outcome::Lost) > 0 {
                    Exit::TasksLost
                } else if counts.failures() > 0 {
                    Exit::TasksFailed
                } else if counts.done() == 0 {
                    Exit::NothingToDo
                } else {
                    Exit::Success
                }
            }
        }
    }

    /// The number in the table.
    pub(crate) fn code(self) -> u8 {
        match self {
            Exit::Success => 0,
            Exit::Internal => 1,
            Exit::NothingToDo => 4,
            Exit::InvalidJob => 65,
            Exit::MissingFile => 66,
            Exit::PoolBroken => 70,
            Exit::OsRefused => 71,
            Exit::CannotCreate => 73,
            Exit::Io => 74,
            Exit::TasksFailed => 100,
            Exit::TasksLost => 101,
            // Signals have numbers below 65.
            Exit::Signal(signal) => 128 + signal as u8,
        }
    }

    /// Ends the process by the signal that ended the run, so that a shell's loop around it ends too. Otherwise returns the
    /// code for `main` to return.
    pub(crate) fn leave(self) -> ExitCode {
        if let Exit::Signal(signal) = self {
            // It returns only if the signal can't be raised; then the code says the same.
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
        ExitCode::from(self.code())
    }
}

/// Why a command could not do its work: an exit code, and the text for the user.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// The whole text, its last line end included. May be empty if all has been said.
    pub(crate) text: String,
}

impl Failure {
    /// A failure that is told in one line.
    pub(crate) fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Failure { exit, text: format!("error: {message}\n") }
    }

    /// A failure of writing to the standard output; a reader that has left is no error to talk about.
    pub(crate) fn output(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => {
                Failure { exit: Exit::Signal(SIGPIPE), text: String::new() }
            }
            _ => Failure::new(Exit::Io, format!("results can't be written: {error}")),
        }
    }

    /// Adds what to do about it.
    pub(crate) fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.text.push_str(&format!("  = hint: {hint}\n"));
        self
    }

    /// Tells the user and returns how to end.
    pub(crate) fn report(self) -> Exit {
        say(&self.text);
        self.exit
    }
}

/// Writes to the standard error. If that fails, nobody is there to be told.
pub(crate) fn say(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Makes a panic in any thread the end of the command. Otherwise the run could wait for ever for a thread that is gone, and
/// a panic's own exit code is taken.
pub(crate) fn on_panic() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        default(panic);
        say("error: pool-cli itself went wrong; please report the lines above\n");
        #[expect(clippy::exit, reason = "no other thread can be trusted to end the command")]
        std::process::exit(Exit::Internal.code().into());
    }));
}

/// The table as `--help` shows it.
pub(crate) fn help() -> String {
    let rows = TABLE.iter().map(|(code, meaning)| format!("  {code:<14} {meaning}\n"));
    format!("Exit codes:\n{}", rows.collect::<String>())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::report::Counts;

    #[test]
    fn the_exit_code_tells_the_worst() {
        let end = |ending: Ending, outcomes: &[Outcome]| {
            let mut counts = Counts::default();
            outcomes.iter().for_each(|outcome| counts.add(*outcome));
            let (not_run, elapsed, failures) = (None, Duration::ZERO, Vec::new());
            Exit::of(&Summary { counts, not_run, elapsed, procs: 1, ending, failures })
        };
        let stopped = |why| Ending::Stopped { index: 0, why };
        assert_eq!(end(Ending::Completed, &[]), Exit::NothingToDo);
        assert_eq!(end(Ending::Completed, &[Outcome::Ok]), Exit::Success);
        assert_eq!(end(Ending::Completed, &[Outcome::Ok, Outcome::Invalid]), Exit::TasksFailed);
        assert_eq!(end(Ending::Completed, &[Outcome::TimedOut, Outcome::Lost]), Exit::TasksLost);
        assert_eq!(
            end(stopped(StopCause::FirstSuccess), &[Outcome::Lost, Outcome::Ok]),
            Exit::Success
        );
        assert_eq!(
            end(stopped(StopCause::Equals), &[Outcome::Ok, Outcome::Cancelled]),
            Exit::Success
        );
        assert_eq!(end(stopped(StopCause::FirstFailure), &[Outcome::Failed]), Exit::TasksFailed);
        assert_eq!(end(Ending::Interrupted { signal: 15 }, &[Outcome::Lost]), Exit::Signal(15));
    }

    #[test]
    fn every_code_is_in_the_table() {
        let ends = [
            Exit::Success,
            Exit::Internal,
            Exit::NothingToDo,
            Exit::InvalidJob,
            Exit::MissingFile,
            Exit::PoolBroken,
            Exit::OsRefused,
            Exit::CannotCreate,
            Exit::Io,
            Exit::TasksFailed,
            Exit::TasksLost,
            Exit::Signal(signal_hook::consts::SIGHUP),
            Exit::Signal(signal_hook::consts::SIGINT),
            Exit::Signal(signal_hook::consts::SIGTERM),
            Exit::Signal(SIGPIPE),
        ];
        for end in ends {
            let code = end.code().to_string();
            let rows = TABLE.iter().filter(|(codes, _)| codes.split(", ").any(|one| one == code));
            assert_eq!(rows.count(), 1, "{end:?}");
        }
    }

    #[test]
    fn the_manual_has_the_same_table() {
        let manual =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md"))
                .unwrap();
        for (code, meaning) in TABLE {
            let row = format!("| {code} | {meaning} |");
            assert!(manual.contains(&row), "docs/cli.md lacks the row\n{row}");
        }
    }
}
