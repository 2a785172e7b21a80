//! Running a program to its end and reading what it writes, on the calling thread alone. For `pool-worker`; not part of the interface.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::ExitStatus;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use crate::sys::launch::{Launched, Program};
use crate::sys::poll::wait_any_readable;

/// Read at a time; as much as a pipe holds.
const CHUNK_BYTES: usize = 64 << 10;

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
/// # Errors
/// [`Problem`]; the program does not run then.
pub fn run(
    command: Command<'_>,
    input: Option<Vec<u8>>,
    patience: Duration,
    mut on_output: impl FnMut(Stream, &[u8]),
) -> Result<Ended, Problem> {
    let started = start(command, input).map_err(Problem::Start)?;
    let Started { launched, mut pipes } = started;
    match attend(&launched, &mut pipes, patience, &mut on_output) {
        Ok(ended) => {
            pipes.into_iter().for_each(|(_, pipe)| drain(pipe));
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

struct Started {
    launched: Launched,
    pipes: Vec<(Stream, PipeReader)>,
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
            let launched = program.start(streams(its_input.as_fd()))?;
            // a program that does not read all of it is no error: its end breaks the pipe, and ends the thread
            let feed = move || drop(pipe.write_all(&input));
            copier("feed").spawn(feed)?;
            launched
        }
    };
    Ok(Started { launched, pipes: vec![(Stream::Out, out), (Stream::Err, err)] })
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
    pipes: &mut Vec<(Stream, PipeReader)>,
    patience: Duration,
    on_output: &mut impl FnMut(Stream, &[u8]),
) -> io::Result<Ended> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut ended: Option<(ExitStatus, Instant)> = None;
    loop {
        let (status, at) = match ended {
            Some(ended) if pipes.is_empty() => ended,
            // nothing but its end is left to wait for
            None if pipes.is_empty() => (launched.wait()?, Instant::now()),
            _ => {
                let limit =
                    ended.map(|(_, at)| (at + patience).saturating_duration_since(Instant::now()));
                let mut watched: Vec<_> = pipes.iter().map(|(_, pipe)| pipe.as_fd()).collect();
                if ended.is_none() {
                    watched.push(launched.as_fd());
                }
                let ready =
                    wait_any_readable(&watched, limit.map(|limit| limit.as_nanos() as u64))?;
                let is_late = limit.is_some_and(|limit| limit.is_zero());
                if let Some((status, at)) = ended.filter(|_| is_late && !ready.contains(&true)) {
                    return Ok(Ended { status, at, is_held_open: true });
                }
                let mut is_ready = ready.iter();
                let mut problem = None;
                pipes.retain_mut(|(stream, pipe)| {
                    is_ready.next() != Some(&true)
                        || read(pipe, &mut chunk, |bytes| on_output(*stream, bytes)).unwrap_or_else(
                            |error| {
                                problem = Some(error);
                                false
                            },
                        )
                });
                if let Some(error) = problem {
                    return Err(error);
                }
                if is_ready.next() == Some(&true) {
                    ended = Some((launched.wait()?, Instant::now()));
                }
                continue;
            }
        };
        return Ok(Ended { status, at, is_held_open: false });
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
