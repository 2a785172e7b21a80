//! The thread that writes what workers print to this program's own standard streams, line by line, with the worker's name before it. It
//! may block there as long as it likes: then its workers do when their pipes are full, and nobody else.

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SendError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use super::last_lines::{LAST_READS, Pipe};
use crate::backend::process::spawner::Printed;
use crate::error::PoolError;
use crate::primitives::{lock, unpoisoned};
use crate::sys::poll::{Doorbell, Watch};

/// A line without an end is written in parts of this size.
const LONGEST_LINE: usize = 64 << 10;

/// The pool's end of the thread. The thread ends when this is dropped, or told to, and nothing is left in the pipes.
#[derive(Debug)]
pub(crate) struct Tagger {
    /// Taken when it is dropped.
    orders: Option<Sender<Order>>,
    last: AtomicU64,
    bell: Arc<Doorbell>,
    ended: Arc<(Mutex<bool>, Condvar)>,
}

/// One process whose output is written. Not its seat: in that its successor may sit while what it has printed is still to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag(u64);

/// What the thread is told.
enum Order {
    /// What comes out of these pipes was printed by the worker of this name.
    Add(Tag, String, Printed),
    /// That worker has ended: what is in its pipes now is to be written, and then this be told.
    Finish(Tag, Arc<(Mutex<bool>, Condvar)>),
}

impl Tagger {
    pub(crate) fn start(pool: &str) -> Result<Tagger, PoolError> {
        let os = PoolError::os;
        let bell = Arc::new(Doorbell::new().map_err(os("cannot create an eventfd"))?);
        let watch = Watch::new().map_err(os("cannot create an epoll instance"))?;
        watch.add(bell.as_fd(), BELL).map_err(os("cannot watch an eventfd"))?;
        let (orders, new) = channel();
        let ended = Arc::new((Mutex::new(false), Condvar::new()));
        let (at_end, rung) = (Arc::clone(&ended), Arc::clone(&bell));
        let run = move || {
            let tagging = Tagging { watch, bell: rung, new, sources: HashMap::new(), next: 0 };
            tagging.run();
            tell(&at_end);
        };
        let thread = std::thread::Builder::new().name(format!("{pool}-output"));
        thread.spawn(run).map_err(os("cannot start a thread"))?;
        Ok(Tagger { orders: Some(orders), last: AtomicU64::new(0), bell, ended })
    }

    /// What comes out of these pipes was printed by that worker. What is given is for [`finish_one`](Self::finish_one).
    pub(crate) fn add(&self, worker: String, printed: Printed) -> Tag {
        let tag = Tag(self.last.fetch_add(1, Ordering::Relaxed));
        self.send(Order::Add(tag, worker, printed));
        tag
    }

    /// Has written what this worker, which has ended, has printed.
    pub(crate) fn finish_one(&self, tag: Tag) -> Finishing {
        let written = Arc::new((Mutex::new(false), Condvar::new()));
        self.send(Order::Finish(tag, Arc::clone(&written)));
        Finishing(written)
    }

    fn send(&self, order: Order) {
        let sent = self.orders.as_ref().map(|orders| orders.send(order));
        if let Some(Err(SendError(Order::Finish(_, written)))) = sent {
            // a thread that has ended has told of its panic: nobody waits for it
            tell(&written);
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
        drop(self.orders.take());
        self.bell.ring();
    }
}

fn tell(written: &(Mutex<bool>, Condvar)) {
    *lock(&written.0) = true;
    written.1.notify_all();
}

/// Output that is still to be written.
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
    new: Receiver<Order>,
    sources: HashMap<u64, Source>,
    next: u64,
}

/// One stream of one worker.
struct Source {
    pipe: Pipe,
    tag: Tag,
    worker: Arc<str>,
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
                sources.values_mut().for_each(Source::copy_rest);
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
                Ok(Order::Finish(tag, written)) => {
                    let sources = self.sources.values_mut();
                    sources.filter(|source| source.tag == tag).for_each(Source::copy_rest);
                    tell(&written);
                }
                Ok(Order::Add(tag, worker, Printed { stdout, stderr })) => {
                    let worker: Arc<str> = worker.into();
                    for (pipe, is_stderr) in [(stdout, false), (stderr, true)] {
                        let Some(pipe) = pipe else { continue };
                        self.next += 1;
                        if self.watch.add(pipe.as_fd(), self.next).is_ok() {
                            let worker = Arc::clone(&worker);
                            let source =
                                Source { pipe, tag, worker, is_stderr, partial: Vec::new() };
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
        match self.pipe.read(&mut self.partial) {
            Ok(0) => return Copied::End,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return Copied::Some,
            Err(_) => return Copied::Nothing,
        }
        let whole = self.partial.iter().rposition(|&byte| byte == b'\n').map(|at| at + 1);
        let whole = whole.or((self.partial.len() >= LONGEST_LINE).then_some(self.partial.len()));
        if let Some(whole) = whole {
            let rest = self.partial.split_off(whole);
            let lines = std::mem::replace(&mut self.partial, rest);
            self.write(&lines);
        }
        Copied::Some
    }

    /// Writes what is in the pipe now: what it can hold; a runaway that goes on printing is not waited for.
    fn copy_rest(&mut self) {
        for _ in 0..LAST_READS {
            if self.copy() != Copied::Some {
                break;
            }
        }
        self.end();
    }

    /// Writes the rest.
    fn end(&mut self) {
        let rest = std::mem::take(&mut self.partial);
        if !rest.is_empty() {
            self.write(&rest);
        }
    }

    fn write(&self, lines: &[u8]) {
        let mut text = Vec::with_capacity(lines.len() + self.worker.len() + 4);
        for line in lines.split_inclusive(|&byte| byte == b'\n') {
            text.extend([b"[", self.worker.as_bytes(), b"] "].concat());
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]
mod tests {
    use std::io::pipe;

    use super::*;

    /// The end of the one that had the seat before ended a line of its successor in the middle.
    #[test]
    fn the_end_of_one_leaves_the_half_line_of_another_of_the_same_name() {
        let (orders, new) = channel();
        let bell = Arc::new(Doorbell::new().unwrap());
        let watch = Watch::new().unwrap();
        let mut tagging =
            Tagging { watch, bell: Arc::clone(&bell), new, sources: HashMap::new(), next: 0 };
        let tagger =
            Tagger { orders: Some(orders), last: AtomicU64::new(0), bell, ended: Arc::default() };
        let [(first, _its), (second, _successors)] = [(); 2].map(|()| {
            let (reader, mut writer) = pipe().unwrap();
            writer.write_all(b"half").unwrap();
            let printed = Printed { stdout: Some(Pipe::new(reader).unwrap()), stderr: None };
            (tagger.add("pool-0".to_owned(), printed), writer)
        });
        assert!(tagging.take_new());
        tagging.sources.values_mut().for_each(|source| assert!(source.copy() == Copied::Some));
        let written = tagger.finish_one(first);
        assert!(tagging.take_new());
        assert!(written.wait(None));
        let partial = |tag| {
            let mut sources = tagging.sources.values();
            sources.find(|source| source.tag == tag).unwrap().partial.clone()
        };
        assert_eq!((partial(first), partial(second)), (b"".to_vec(), b"half".to_vec()));
    }
}
