//! The thread that writes what workers print to this program's own standard streams, line by line, with the worker's name before it. It
//! may block there as long as it likes: then its workers do when their pipes are full, and nobody else.

use std::collections::HashMap;
use std::io::{PipeReader, Read, Write};
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use crate::backend::process::spawner::Printed;
use crate::error::PoolError;
use crate::primitives::{lock, unpoisoned};
use crate::sys::capture;
use crate::sys::poll::{Doorbell, Watch};

/// A line without an end is written in parts of this size.
const LONGEST_LINE: usize = 64 << 10;

/// How often a pipe is read after the last worker is gone: as much as it can hold.
const LAST_READS: usize = 128;

/// The pool's end of the thread. The thread ends when this is dropped, or told to, and nothing is left in the pipes.
#[derive(Debug)]
pub(crate) struct Tagger {
    /// Taken when it is dropped.
    pipes: Option<Sender<(String, Printed)>>,
    bell: Arc<Doorbell>,
    ended: Arc<(Mutex<bool>, Condvar)>,
}

impl Tagger {
    pub(crate) fn start(pool: &str) -> Result<Tagger, PoolError> {
        let os = PoolError::os;
        let bell = Arc::new(Doorbell::new().map_err(os("cannot create an eventfd"))?);
        let watch = Watch::new().map_err(os("cannot create an epoll instance"))?;
        watch.add(bell.as_fd(), BELL).map_err(os("cannot watch an eventfd"))?;
        let (pipes, new) = channel();
        let ended = Arc::new((Mutex::new(false), Condvar::new()));
        let (at_end, rung) = (Arc::clone(&ended), Arc::clone(&bell));
        let run = move || {
            let tagging = Tagging { watch, bell: rung, new, sources: HashMap::new(), next: 0 };
            tagging.run();
            *lock(&at_end.0) = true;
            at_end.1.notify_all();
        };
        let thread = std::thread::Builder::new().name(format!("{pool}-output"));
        thread.spawn(run).map_err(os("cannot start a thread"))?;
        Ok(Tagger { pipes: Some(pipes), bell, ended })
    }

    /// What comes out of these pipes was printed by that worker.
    pub(crate) fn add(&self, worker: String, printed: Printed) {
        // a thread that has ended has told of its panic
        if let Some(pipes) = &self.pipes {
            let _ = pipes.send((worker, printed));
        }
        self.bell.ring();
    }

    /// Lets the thread write what is left, and end.
    pub(crate) fn finish(self) -> Finishing {
        Finishing(Arc::clone(&self.ended))
    }
}

impl Drop for Tagger {
    fn drop(&mut self) {
        drop(self.pipes.take());
        self.bell.ring();
    }
}

/// A thread that is ending.
#[derive(Debug)]
pub(crate) struct Finishing(Arc<(Mutex<bool>, Condvar)>);

impl Finishing {
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> bool {
        let (ended, changed) = &*self.0;
        let mut ended = lock(ended);
        while !*ended {
            ended = match deadline {
                None => unpoisoned(changed.wait(ended)),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return false;
                    }
                    unpoisoned(changed.wait_timeout(ended, left)).0
                }
            };
        }
        true
    }
}

const BELL: u64 = u64::MAX;

struct Tagging {
    watch: Watch,
    bell: Arc<Doorbell>,
    new: Receiver<(String, Printed)>,
    sources: HashMap<u64, Source>,
    next: u64,
}

/// One stream of one worker.
struct Source {
    pipe: PipeReader,
    tag: Arc<str>,
    is_stderr: bool,
    /// The beginning of a line.
    partial: Vec<u8>,
}

impl Tagging {
    fn run(mut self) {
        let mut tokens = Vec::new();
        loop {
            self.bell.arm();
            let open = self.take_new();
            if !open {
                // nobody prints any more who is waited for
                let mut sources = std::mem::take(&mut self.sources);
                sources.values_mut().for_each(|source| {
                    // what a pipe can hold; a runaway that goes on printing is not waited for
                    for _ in 0..LAST_READS {
                        if source.copy() != Copied::Some {
                            break;
                        }
                    }
                    source.end();
                });
                return;
            }
            tokens.clear();
            if self.watch.wait(None, &mut tokens).is_err() {
                return;
            }
            self.bell.disarm(tokens.contains(&BELL));
            for token in tokens.iter().filter(|&&token| token != BELL) {
                let Some(source) = self.sources.get_mut(token) else { continue };
                if source.copy() == Copied::End {
                    source.end();
                    // failing to unwatch what is about to be closed changes nothing
                    let _ = self.watch.remove(source.pipe.as_fd());
                    self.sources.remove(token);
                }
            }
        }
    }

    /// `false`: no more will come.
    fn take_new(&mut self) -> bool {
        loop {
            match self.new.try_recv() {
                Ok((worker, Printed { stdout, stderr })) => {
                    let tag: Arc<str> = format!("[{worker}] ").into();
                    for (pipe, is_stderr) in [(stdout, false), (stderr, true)] {
                        let Some(pipe) = pipe else { continue };
                        self.next += 1;
                        let watched = self.watch.add(pipe.as_fd(), self.next);
                        if capture::set_nonblocking(&pipe).and(watched).is_ok() {
                            let tag = Arc::clone(&tag);
                            let source = Source { pipe, tag, is_stderr, partial: Vec::new() };
                            self.sources.insert(self.next, source);
                        }
                    }
                }
                Err(std::sync::mpsc::TryRecvError::Empty) => return true,
                Err(std::sync::mpsc::TryRecvError::Disconnected) => return false,
            }
        }
    }
}

#[derive(PartialEq, Eq)]
enum Copied {
    Some,
    Nothing,
    End,
}

impl Source {
    /// Writes the whole lines of what is there.
    fn copy(&mut self) -> Copied {
        let mut buffer = [0; 8 << 10];
        let read = match self.pipe.read(&mut buffer) {
            Ok(0) => return Copied::End,
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return Copied::Some,
            Err(_) => return Copied::Nothing,
        };
        self.partial.extend_from_slice(&buffer[..read]);
        let whole = self.partial.iter().rposition(|&byte| byte == b'\n').map(|at| at + 1);
        let whole = whole.or((self.partial.len() >= LONGEST_LINE).then_some(self.partial.len()));
        if let Some(whole) = whole {
            let rest = self.partial.split_off(whole);
            let lines = std::mem::replace(&mut self.partial, rest);
            self.write(&lines);
        }
        Copied::Some
    }

    /// Writes the rest.
    fn end(&mut self) {
        let rest = std::mem::take(&mut self.partial);
        if !rest.is_empty() {
            self.write(&rest);
        }
    }

    fn write(&self, lines: &[u8]) {
        let mut text = Vec::with_capacity(lines.len() + self.tag.len());
        for line in lines.split_inclusive(|&byte| byte == b'\n') {
            text.extend_from_slice(self.tag.as_bytes());
            text.extend_from_slice(line);
            if !line.ends_with(b"\n") {
                text.push(b'\n');
            }
        }
        // a closed standard output is the program's own affair
        let _ = if self.is_stderr {
            std::io::stderr().lock().write_all(&text)
        } else {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(&text).and_then(|()| stdout.flush())
        };
    }
}
