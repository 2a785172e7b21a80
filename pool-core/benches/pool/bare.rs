//! The same without a pool: what the machine allows.

use std::hint::black_box;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::{self, Figures, LONG, SHORT, WORKERS, work};

/// Bytes of a ping and of a pong, about what a small task and its reply take.
const PING_BYTES: usize = 64;

/// What two plain threads reach that have shared the work out beforehand: what the machine allows.
pub(crate) fn efficiency() -> anyhow::Result<Figures> {
    common::efficiency(400_000, |tasks, rounds| {
        std::thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| {
                    for _ in 0..tasks / WORKERS as u64 {
                        black_box(work(rounds));
                    }
                });
            }
        });
        Ok(())
    })
}

/// What an ideal pool would reach with the same tasks: each goes to the worker that is free first, and nothing costs time.
pub(crate) fn mixed(tasks: usize, workers: usize) -> Figures {
    let mut free_at = vec![Duration::ZERO; workers];
    let mut delays = Vec::with_capacity(tasks);
    for arrival in common::arrivals(tasks, workers) {
        let first = free_at.iter_mut().min().expect("there is a worker");
        let length = if arrival.is_long { LONG } else { SHORT };
        *first = (*first).max(arrival.at) + length;
        if !arrival.is_long {
            delays.push(*first - arrival.at);
        }
    }
    let mut figures = Figures::default();
    figures.add_percentiles("", &mut delays);
    figures.add_quantiles(&mut delays);
    figures
}

/// Another process that sends back what comes, over a socket and over a pair of pipes: the least that a round trip can cost.
pub(crate) struct Bare {
    child: Child,
    socket: UnixStream,
    pipe: (PipeWriter, PipeReader),
}

impl Bare {
    /// The program is started again with the name of the wire, and calls [`pong`].
    pub(crate) fn start() -> anyhow::Result<Bare> {
        let (ours, theirs) = UnixStream::pair()?;
        let (their_input, our_output) = std::io::pipe()?;
        let (our_input, their_output) = std::io::pipe()?;
        // the streams that every process has carry both; the child's errors would be lost, and its end is seen
        let child = Command::new(std::env::current_exe()?)
            .arg("pong")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(OwnedFd::from(their_output)))
            .stderr(Stdio::from(OwnedFd::from(their_input)))
            .spawn()?;
        Ok(Bare { child, socket: ours, pipe: (our_output, our_input) })
    }

    /// The threads that answer.
    pub(crate) fn threads(&self) -> Vec<u32> {
        common::threads_of(self.child.id())
    }

    pub(crate) fn over_socket(&mut self) -> anyhow::Result<()> {
        let mut bytes = [7; PING_BYTES];
        self.socket.write_all(&bytes)?;
        Ok(self.socket.read_exact(&mut bytes)?)
    }

    pub(crate) fn over_pipe(&mut self) -> anyhow::Result<()> {
        let mut bytes = [7; PING_BYTES];
        self.pipe.0.write_all(&bytes)?;
        Ok(self.pipe.1.read_exact(&mut bytes)?)
    }

    pub(crate) fn end(mut self) -> anyhow::Result<()> {
        drop((self.socket, self.pipe));
        self.child.wait()?;
        Ok(())
    }
}

/// The other process of [`Bare`].
pub(crate) fn pong() -> anyhow::Result<()> {
    let mut socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let mut output = PipeWriter::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    let mut input = PipeReader::from(std::io::stderr().as_fd().try_clone_to_owned()?);
    let over_pipe = std::thread::spawn(move || {
        let mut bytes = [0; PING_BYTES];
        while input.read_exact(&mut bytes).is_ok() && output.write_all(&bytes).is_ok() {}
    });
    let mut bytes = [0; PING_BYTES];
    while socket.read_exact(&mut bytes).is_ok() {
        socket.write_all(&bytes)?;
    }
    drop(over_pipe.join());
    Ok(())
}
