//! Running a program to its end and reading what it writes, on the calling thread alone. For `pool-worker`; not part of the interface.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::ExitStatus;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use crate::sys::launch::{Launched, Program};
use crate::sys::poll::wait_any_readable;
use crate::sys::signal::TermHeldBack;

/// Read at a time; as much as a pipe holds.
const CHUNK_BYTES: usize = 64 << 10;

/// So often a pipe is read when its time is up: as much as one can hold (1 MiB), in case that the program has written so much and this thread has not come to read it.
/// Somebody else who writes without a pause is not listened to for longer.
const LATE_ROUNDS: usize = (1 << 20) / CHUNK_BYTES + 1;

/// A thread that only copies needs little.
const COPIER_STACK_BYTES: usize = 128 << 10;

/// A program to run.
#[derive(Clone, Copy, Debug)]
pub struct Command<'a> {
    /// Its name, looked up on `PATH` if it has no slash, and its arguments.
    pub argv: &'a [&'a OsStr],
    /// Added to the environment of this process.
    pub environment: &'a [(&'a OsStr, &'a OsStr)],
    /// Where it runs, if not where this process does.
    pub directory: Option<&'a Path>,
}

/// One of the streams that a program writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// The standard output.
    Out,
    /// The standard error.
    Err,
}

/// How a program ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// Its exit code or signal.
    pub status: ExitStatus,
    /// When its end was seen.
    pub at: Instant,
    /// Whether some other process held its output open for longer than was waited. What that one writes is read and dropped.
    pub is_held_open: bool,
}

/// Why a program has no end to tell of.
#[derive(Debug)]
pub enum Problem {
    /// It could not be started.
    Start(io::Error),
    /// Its output could not be read. It was killed.
    Attend(io::Error),
}

/// Runs the program, which ends with the calling thread at the latest, and passes on what it writes. It reads `input`, or nothing. After its end its output may stay open for
/// `patience`.
///
/// A SIGTERM that the calling thread gets meanwhile arrives at the end of the program: whoever stops a worker sends it to the program as well, which is to have the grace period for
/// its tidying up, and is killed as soon as its worker is gone.
///
/// # Errors
/// [`Problem`]; the program does not run then.
pub fn run(
    command: Command<'_>,
    input: Option<Vec<u8>>,
    patience: Duration,
    on_output: impl FnMut(Stream, &[u8]),
) -> Result<Ended, Problem> {
    let _held_back = TermHeldBack::new();
    let Started { launched, pipes, held } = start(command, input).map_err(Problem::Start)?;
    let mut reading = Reading { pipes, chunk: CHUNK.take(), on_output };
    reading.chunk.resize(CHUNK_BYTES, 0);
    let ended = attend(&launched, &mut reading, held, patience);
    CHUNK.set(reading.chunk);
    match ended {
        Ok(ended) => {
            reading.pipes.into_iter().for_each(|(_, pipe)| drain(pipe));
            Ok(ended)
        }
        Err(error) => {
            launched.kill();
            // what can't be attended is the reason to report
            let _ = launched.wait();
            Err(Problem::Attend(error))
        }
    }
}

thread_local! {
    /// What [`run`] reads into, kept for the next program.
    static CHUNK: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

struct Started {
    launched: Launched,
    pipes: Vec<(Stream, PipeReader)>,
    /// Our copies of the ends that the program writes to. As long as they are open the program's end is no event at the pipes, which would wake this thread once for each of
    /// them while the program is still ending.
    held: [PipeWriter; 2],
}

fn start(command: Command<'_>, input: Option<Vec<u8>>) -> io::Result<Started> {
    let program = Program::new(command.argv, command.environment, command.directory)?;
    let (out, its_out) = io::pipe()?;
    let (err, its_err) = io::pipe()?;
    let streams = |input| [input, its_out.as_fd(), its_err.as_fd()];
    let launched = match input {
        None => program.start(streams(nothing()?))?,
        Some(input) => {
            let (its_input, mut pipe) = io::pipe()?;
            // a program that does not read all of it is no error: its end breaks the pipe, and ends the thread; so does a program that can't be started
            let feed = move || drop(pipe.write_all(&input));
            // before the program is: if there is no thread to be had, it does not run
            copier("feed").spawn(feed)?;
            program.start(streams(its_input.as_fd()))?
        }
    };
    let pipes = vec![(Stream::Out, out), (Stream::Err, err)];
    Ok(Started { launched, pipes, held: [its_out, its_err] })
}

fn copier(name: &str) -> thread::Builder {
    thread::Builder::new().name(name.into()).stack_size(COPIER_STACK_BYTES)
}

/// An empty input, opened once.
fn nothing() -> io::Result<BorrowedFd<'static>> {
    static NOTHING: OnceLock<File> = OnceLock::new();
    if let Some(file) = NOTHING.get() {
        return Ok(file.as_fd());
    }
    let file = File::open("/dev/null")?;
    Ok(NOTHING.get_or_init(|| file).as_fd())
}

/// Reads until the program has ended and its pipes have, or longer by `patience`; pipes that are still open then stay in the list.
fn attend(
    launched: &Launched,
    reading: &mut Reading<impl FnMut(Stream, &[u8])>,
    held: [PipeWriter; 2],
    patience: Duration,
) -> io::Result<Ended> {
    let status = reading.until_end(launched)?;
    let at = Instant::now();
    drop(held);
    let is_held_open = !reading.rest(at + patience)?;
    Ok(Ended { status, at, is_held_open })
}

/// What is read of a program, and who gets it.
struct Reading<F> {
    pipes: Vec<(Stream, PipeReader)>,
    chunk: Vec<u8>,
    on_output: F,
}

impl<F: FnMut(Stream, &[u8])> Reading<F> {
    /// Reads until the program has ended.
    fn until_end(&mut self, launched: &Launched) -> io::Result<ExitStatus> {
        loop {
            let ready = self.wait(Some(launched), None)?;
            self.read(&ready)?;
            if ready.last() == Some(&true) {
                return launched.wait();
            }
        }
    }

    /// Reads until the pipes have ended, or until then. Returns whether they have: those that have not stay in the list. What the program itself has written is read in any case.
    fn rest(&mut self, until: Instant) -> io::Result<bool> {
        let mut rounds = LATE_ROUNDS;
        while !self.pipes.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            let ready = self.wait(None, Some(left.as_nanos() as u64))?;
            if left.is_zero() {
                rounds -= 1;
                if rounds == 0 || !ready.contains(&true) {
                    return Ok(false);
                }
            }
            self.read(&ready)?;
        }
        Ok(true)
    }

    /// Waits for the pipes and, behind them, for the end of the program.
    fn wait(&self, launched: Option<&Launched>, limit_ns: Option<u64>) -> io::Result<Vec<bool>> {
        let pipes = self.pipes.iter().map(|(_, pipe)| pipe.as_fd());
        let watched: Vec<_> = pipes.chain(launched.map(AsFd::as_fd)).collect();
        wait_any_readable(&watched, limit_ns)
    }

    /// Reads what is in those that are ready, and forgets those that are at their end.
    fn read(&mut self, ready: &[bool]) -> io::Result<()> {
        let Reading { pipes, chunk, on_output } = self;
        let (mut is_ready, mut problem) = (ready.iter(), None);
        pipes.retain_mut(|(stream, pipe)| {
            is_ready.next() != Some(&true)
                || read(pipe, chunk, |bytes| on_output(*stream, bytes)).unwrap_or_else(|error| {
                    problem = Some(error);
                    false
                })
        });
        problem.map_or(Ok(()), Err)
    }
}

/// Reads what is there; `false` at the end.
fn read(
    pipe: &mut PipeReader,
    chunk: &mut [u8],
    mut on_output: impl FnMut(&[u8]),
) -> io::Result<bool> {
    match pipe.read(chunk) {
        Ok(0) => Ok(false),
        Ok(count) => {
            on_output(&chunk[..count]);
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
        Err(error) => Err(error),
    }
}

/// Somebody else holds a pipe open: what comes is dropped, so that nobody waits for a reader.
fn drain(mut pipe: PipeReader) {
    // without a thread the pipe is closed, and who writes to it is told so
    let _ = copier("capture").spawn(move || io::copy(&mut pipe, &mut io::sink()));
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::ExitStatusExt;
    use std::path::PathBuf;

    use super::*;

    fn runs(argv: &[&str], environment: &[(&str, &str)]) -> Result<(Ended, String), Problem> {
        runs_for(argv, environment, Duration::from_secs(10))
    }

    fn runs_for(
        argv: &[&str],
        environment: &[(&str, &str)],
        patience: Duration,
    ) -> Result<(Ended, String), Problem> {
        let argv: Vec<&OsStr> = argv.iter().map(OsStr::new).collect();
        let environment: Vec<_> = environment
            .iter()
            .map(|(name, value)| (OsStr::new(*name), OsStr::new(*value)))
            .collect();
        let command = Command { argv: &argv, environment: &environment, directory: None };
        let mut out = Vec::new();
        let ended = run(command, None, patience, |stream, bytes| {
            if stream == Stream::Out {
                out.extend_from_slice(bytes);
            }
        })?;
        Ok((ended, String::from_utf8(out).unwrap()))
    }

    fn error(argv: &[&str], environment: &[(&str, &str)]) -> io::ErrorKind {
        match runs(argv, environment) {
            Err(Problem::Start(error)) => error.kind(),
            other => panic!("{other:?}"),
        }
    }

    /// A directory that goes when the test does.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path =
                std::env::temp_dir().join(format!("pool-core-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        fn script(&self, name: &str, text: &str, mode: u32) -> String {
            let path = self.0.join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path.to_str().unwrap().to_owned()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn signals_have_their_usual_meaning_in_it_whatever_they_mean_here() {
        // Rust programs ignore SIGPIPE
        let (ended, _) = runs(&["sh", "-c", "kill -PIPE $$"], &[]).unwrap();
        assert_eq!(ended.status.signal(), Some(13));
        let (_, status) = runs(&["cat", "/proc/self/status"], &[]).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            u64::from_str_radix(line.trim(), 16).unwrap()
        };
        assert_eq!((field("SigBlk:"), field("SigIgn:") & (1 << 12), field("SigCgt:")), (0, 0, 0));
    }

    #[test]
    fn what_is_open_in_it_is_what_std_would_leave_open() {
        let (_, list) = runs(&["ls", "/proc/self/fd"], &[]).unwrap();
        let stds = std::process::Command::new("ls").arg("/proc/self/fd").output().unwrap();
        assert_eq!(list, String::from_utf8(stds.stdout).unwrap());
    }

    #[test]
    fn the_environment_is_this_one_and_what_is_added() {
        let (_, text) = runs(&["sh", "-c", "echo $A-$PATH"], &[("A", "1"), ("A", "2")]).unwrap();
        assert_eq!(text, format!("2-{}\n", std::env::var("PATH").unwrap()));
    }

    #[test]
    fn a_name_is_looked_up_on_the_path_that_it_will_have() {
        let folder = Folder::new("path");
        folder.script("here", "#!/bin/sh\necho found\n", 0o755);
        let path = folder.0.to_str().unwrap();
        let (_, text) = runs(&["here"], &[("PATH", &format!("/nowhere:{path}"))]).unwrap();
        assert_eq!(text, "found\n");
        assert_eq!(error(&["here"], &[]), io::ErrorKind::NotFound);
        assert_eq!(error(&[""], &[]), io::ErrorKind::NotFound);
        // what can't be executed is passed over, and is the reason if there is nothing else
        folder.script("locked", "", 0o644);
        assert_eq!(error(&["locked"], &[("PATH", path)]), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn a_script_without_an_interpreter_is_the_shells() {
        let folder = Folder::new("script");
        let script = folder.script("plain", "echo \"$1 and $2\"\n", 0o755);
        assert_eq!(runs(&[&script, "a", "b c"], &[]).unwrap().1, "a and b c\n");
    }

    #[test]
    fn who_is_left_behind_and_writes_without_a_pause_is_not_waited_for() {
        let folder = Folder::new("chatter");
        let pid = folder.0.join("pid");
        let script = "yes & echo $! > \"$PID\"";
        let (ended, out) =
            runs_for(&["sh", "-c", script], &[("PID", pid.to_str().unwrap())], Duration::ZERO)
                .unwrap();
        assert!(ended.is_held_open);
        assert!(out.is_empty() || out.starts_with("y\n"));
        let pid = fs::read_to_string(pid).unwrap();
        assert!(std::process::Command::new("kill").arg(pid.trim()).status().unwrap().success());
    }

    #[test]
    fn a_text_with_a_zero_byte_is_refused() {
        assert_eq!(error(&["true", "a\0b"], &[]), io::ErrorKind::InvalidInput);
        assert_eq!(error(&["true"], &[("A", "a\0b")]), io::ErrorKind::InvalidInput);
        assert_eq!(error(&[], &[]), io::ErrorKind::InvalidInput);
    }
}
