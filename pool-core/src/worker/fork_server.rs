//! The fork server: a copy of the program that has one thread, calls the preload function once, and forks workers, which takes a fraction of a start
//! from nothing and shares with all of them the memory that the preload function has filled.
//!
//! It is also the guardian of the pool. What workers leave behind becomes its children, sessions of their own included; and when its pool is gone, however that
//! has ended, it kills all of them before it ends.

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::boot::{self, Role};
use crate::codec;
use crate::error::TaskError;
use crate::sys::fork::{self, ChildSignals, Side};
use crate::sys::pidfd::PidFd;
use crate::sys::poll::{wait_any_readable, wait_end_or_any_readable};
use crate::sys::signal::{GroupSignal, send_to_child};
use crate::sys::{capture, failpoint, memory, namespace, process, socket};
use crate::task::callee::Callee;
use crate::task::entry::Output;
use crate::task::job::caught;
use crate::task::panics;
use crate::transport::tasks::SpareReceiver;
use crate::wire::fork_server::{Answer, MESSAGE_BYTES, Order, SHORT_MESSAGE_BYTES, encode_end};
use crate::wire::hello::{ForkServerBoot, Hello};

/// How long it goes on killing what its pool has left behind.
const LAST_SECONDS: Duration = Duration::from_secs(2);

/// When it is looked for what is no reason to wake: what the pool has taken note of, what workers have left behind, and an end that could not be told.
const LATER_NS: u64 = 10_000_000;

/// So many children may have ended before it is looked in any case whether some of them were adopted.
const UNLOOKED: u32 = 32;

/// A process that it has forked, which is to be a worker.
pub(super) struct Forked {
    pub(super) stream: OwnedFd,
    /// Its parent: the fork server.
    pub(super) parent: u32,
    /// What the fork server has made for all that it forks.
    pub(super) spare: SpareReceiver,
    /// See [`process::image_id`].
    pub(super) image: [u64; 4],
}

struct ForkServer {
    orders: OwnedFd,
    ends: OwnedFd,
    signals: ChildSignals,
    workers: HashMap<u32, Worker>,
    /// The first order has come.
    has_begun: bool,
    /// A worker was to be made.
    has_forked: bool,
    /// There may be children that it has not forked.
    has_adopted: bool,
    /// How often a child has ended since it was last seen that none of these was adopted.
    unlooked: u32,
    /// Each worker gets it as it is.
    spare: SpareReceiver,
    /// Threads that this process had before any code of the user's was called.
    threads: usize,
    /// It is the first process of a PID namespace: its end is that of all in it.
    is_isolated: bool,
}

/// Goes on as the first process of a PID namespace; says why, and ends, if there is none to be had.
fn isolate(seen: u32, orders: OwnedFd, ends: OwnedFd) -> (OwnedFd, OwnedFd) {
    let (why, (orders, _)) = match namespace::enter(seen, (orders, ends)) {
        Ok(sockets) => return sockets,
        Err(refused) => refused,
    };
    let mut bytes = Vec::new();
    // without an answer, that it has ended is told
    if codec::encode(&Answer::Refused(why), &mut bytes, MESSAGE_BYTES as u64).is_ok() {
        let _ = socket::send_all(orders.as_fd(), &bytes);
    }
    super::leave(0)
}

struct Worker {
    pidfd: PidFd,
    /// Its end was seen.
    ended: bool,
    /// Its end was told.
    told: bool,
}

/// What a turn has led to.
enum Turn {
    Next,
    /// This is a new process.
    Forked {
        stream: OwnedFd,
        parent: u32,
    },
    /// The pool is gone.
    End,
}

/// Serves the pool. Returns in each process that was forked, and in the fork server itself never.
pub(super) fn serve(
    boot: &ForkServerBoot,
    fds: Vec<OwnedFd>,
    entry: boot::Entry,
) -> io::Result<Forked> {
    let mut fds = fds.into_iter();
    let (Some(orders), Some(ends)) = (fds.next(), fds.next()) else {
        return Err(super::sys_error("descriptors are missing"));
    };
    process::set_name(&boot.name);
    // until the first worker is there, nothing is left behind that it would have to outlive its parent for
    process::arm_parent_death()?;
    if process::parent() != boot.parent && process::parent() != 0 {
        super::leave(0);
    }
    let (orders, ends) = match boot.seen {
        None => (orders, ends),
        Some(seen) => isolate(seen, orders, ends),
    };
    boot::set(Role { depth: boot.depth, entry });
    panics::keep();
    fork::become_subreaper()?;
    let signals = ChildSignals::block()?;
    let threads = fork::threads().unwrap_or(1);
    super::context::prepare();
    let image = process::image_id()?;
    let mut server = ForkServer {
        orders,
        ends,
        signals,
        workers: HashMap::new(),
        has_begun: false,
        has_forked: false,
        has_adopted: false,
        unlooked: 0,
        spare: SpareReceiver::measured()?,
        threads,
        is_isolated: boot.seen.is_some(),
    };
    let hello = Hello { version: boot.version, depth: boot.depth, image };
    server.answer(&Answer::Greeting(hello))?;
    loop {
        match server.turn() {
            Ok(Turn::Next) => {}
            Ok(Turn::Forked { stream, parent }) => {
                server.signals.unblock();
                return Ok(Forked { stream, parent, spare: server.spare, image });
            }
            Ok(Turn::End) | Err(_) => {
                server.end_descendants();
                super::leave(0);
            }
        }
    }
}

impl ForkServer {
    fn turn(&mut self) -> io::Result<Turn> {
        // ends that could not be told, because nobody reads them now, are told later
        let behind = self.tell_ends()?;
        if self.threads > 1 && self.has_adopted {
            // a test binary: other threads take the signal, so it has to be looked
            self.reap_adopted();
        }
        let looks = self.threads > 1 && self.has_adopted || self.unlooked > 0;
        // That a zombie may go is no reason to wake: nearly always the next order follows, or the next end.
        let has_zombies = self.workers.values().any(|worker| worker.told);
        let timeout = (behind || looks || has_zombies).then_some(LATER_NS);
        let mut fds = vec![self.ends.as_fd(), self.orders.as_fd(), self.signals.as_fd()];
        let alive = || self.workers.iter().filter(|(_, worker)| !worker.ended);
        fds.extend(alive().map(|(_, worker)| worker.pidfd.as_fd()));
        let ready = if has_zombies {
            wait_end_or_any_readable(&fds, timeout)?
        } else {
            wait_any_readable(&fds, timeout)?
        };
        let ended = alive().zip(&ready[3..]).filter(|(_, is_ready)| **is_ready);
        let ended: Vec<u32> = ended.map(|((pid, _), _)| *pid).collect();
        for pid in ended {
            self.workers.entry(pid).and_modify(|worker| worker.ended = true);
        }
        if ready[2] {
            self.signals.drain();
            self.unlooked += 1;
        }
        let released = if ready[0] || has_zombies { self.release()? } else { Some(0) };
        let Some(released) = released else { return Ok(Turn::End) };
        if self.unlooked > 0 {
            self.look_for_adopted(released == 0 && !ready.contains(&true));
        }
        if ready[1] { self.take_order() } else { Ok(Turn::Next) }
    }

    /// Collects those of which the pool has taken note. Tells how many these are, or `None` if the pool is gone.
    fn release(&mut self) -> io::Result<Option<u32>> {
        let (mut bytes, mut count) = ([0; 4], 0);
        loop {
            match socket::receive_now(self.ends.as_fd(), &mut bytes) {
                Ok(0) => return Ok(None),
                Ok(_) => {
                    let pid = u32::from_le_bytes(bytes);
                    if self.workers.remove(&pid).is_some() {
                        fork::reap(pid);
                        count += 1;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Some(count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Tells which workers have ended; `true` if that could not be told of all.
    fn tell_ends(&mut self) -> io::Result<bool> {
        for (&pid, worker) in self.workers.iter_mut().filter(|(_, w)| w.ended && !w.told) {
            if let Some(cause) = fork::ended(pid) {
                failpoint::at("forks.ended");
                match socket::send_now(self.ends.as_fd(), &encode_end(pid, cause)) {
                    Ok(()) => (worker.told, self.has_adopted) = (true, true),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(false)
    }

    /// Collects what workers have left behind and has ended, without a look into /proc if that can be. Workers that have ended stand before it until they are released, which happens
    /// within moments; so it is waited for, but not for `long`, and not for ever if there are always some.
    fn look_for_adopted(&mut self, long: bool) {
        while let Some(pid) = fork::any_ended() {
            if !self.workers.contains_key(&pid) {
                fork::reap(pid);
            } else if long || self.unlooked >= UNLOOKED {
                self.reap_adopted();
                break;
            } else {
                return;
            }
        }
        self.unlooked = 0;
    }

    /// Collects what workers have left behind, as far as it has ended.
    fn reap_adopted(&mut self) {
        let adopted = |pid: &u32| !self.workers.contains_key(pid);
        let adopted: Vec<u32> = fork::children().into_iter().filter(adopted).collect();
        self.has_adopted = !adopted.is_empty();
        adopted.into_iter().for_each(fork::reap);
    }

    fn take_order(&mut self) -> io::Result<Turn> {
        // only the first order can be a long one; whatever is written here is copied for each worker
        let mut short = [0; SHORT_MESSAGE_BYTES];
        let mut long = Vec::new();
        let bytes = if self.has_begun {
            &mut short[..]
        } else {
            long.resize(MESSAGE_BYTES, 0);
            &mut long[..]
        };
        self.has_begun = true;
        let (len, fds) = socket::receive_with(self.orders.as_fd(), bytes)?;
        if len == 0 {
            return Ok(Turn::End);
        }
        let order = codec::decode(&bytes[..len]).map_err(io::Error::other)?;
        drop(long);
        match order {
            Order::Preload { callee, input } => {
                let outcome = self.preload(Callee(callee), &input);
                self.answer(&Answer::Preloaded(outcome))?;
                Ok(Turn::Next)
            }
            Order::Fork { has_stdout, has_stderr } => self.fork(fds, has_stdout, has_stderr),
        }
    }

    /// Calls the preload function. Only threads can't be copied, so it must have left none.
    fn preload(&self, callee: Callee, input: &[u8]) -> Result<(), String> {
        let mut bytes = Vec::new();
        let mut output = Output::new(&mut bytes, u64::MAX);
        let called = caught(|| callee.entry()(input, &mut output));
        // what it has printed is printed once, not by each worker
        let _ = io::stdout().flush();
        capture::flush_c_streams();
        called.map_err(|fault| match fault.into_error(0) {
            TaskError::Failed(text) => text,
            other => other.to_string(),
        })?;
        match fork::threads() {
            Some(threads) if threads > self.threads => Err(format!(
                "the preload function has left {} threads running, which would be missing in the workers",
                threads - self.threads
            )),
            _ => Ok(()),
        }
    }

    fn fork(&mut self, fds: Vec<OwnedFd>, has_stdout: bool, has_stderr: bool) -> io::Result<Turn> {
        let mut fds = fds.into_iter();
        let Some(stream) = fds.next() else {
            return Err(super::sys_error("a worker's socket is missing"));
        };
        let server = std::process::id();
        failpoint::at("forks.fork");
        if !std::mem::replace(&mut self.has_forked, true) {
            memory::trim();
            if !self.is_isolated {
                // what it leaves behind when it ends would stay; in a namespace nothing does
                process::disarm_parent_death()?;
            }
        }
        match fork::fork() {
            Ok(Side::Parent(pid)) => {
                // both sides do it, so that it is done whoever comes first
                fork::lead_group(pid);
                failpoint::at("forks.forked");
                let answer = match PidFd::open(pid) {
                    Ok(pidfd) => {
                        let told = self.is_isolated.then(|| self.tell_isolated(pid, &pidfd));
                        self.workers.insert(pid, Worker { pidfd, ended: false, told: false });
                        if let Some(told) = told {
                            return told.map(|()| Turn::Next);
                        }
                        Answer::Forked { pid }
                    }
                    Err(error) => {
                        // its end could not be seen: it is ended here
                        let _ = send_to_child(pid, GroupSignal::Kill);
                        fork::await_end(pid);
                        Answer::Refused(error.to_string())
                    }
                };
                self.answer(&answer)?;
                Ok(Turn::Next)
            }
            Ok(Side::Child) => {
                failpoint::at("forks.child");
                fork::lead_group(0);
                for (number, has) in [(1, has_stdout), (2, has_stderr)] {
                    match has.then(|| fds.next()).flatten() {
                        Some(fd) => process::put(&fd, number)?,
                        None => process::put_nothing(number)?,
                    }
                }
                Ok(Turn::Forked { stream, parent: server })
            }
            Err(error) => {
                self.answer(&Answer::Refused(error.to_string()))?;
                Ok(Turn::Next)
            }
        }
    }

    /// In a namespace, the pool knows it by another number, which a descriptor tells.
    fn tell_isolated(&self, pid: u32, pidfd: &PidFd) -> io::Result<()> {
        let mut bytes = Vec::new();
        codec::encode(&Answer::Forked { pid }, &mut bytes, SHORT_MESSAGE_BYTES as u64)
            .map_err(|_| super::sys_error("an answer"))?;
        socket::send_with(self.orders.as_fd(), &bytes, &[pidfd.as_fd().as_raw_fd()]).map(drop)
    }

    fn answer(&self, answer: &Answer) -> io::Result<()> {
        let mut bytes = Vec::new();
        if codec::encode(answer, &mut bytes, MESSAGE_BYTES as u64).is_err() {
            // only the text of an error can be too long
            let text = Answer::Preloaded(Err("its error is too long to be told".to_owned()));
            let _ = codec::encode(&text, &mut bytes, MESSAGE_BYTES as u64);
        }
        socket::send_all(self.orders.as_fd(), &bytes)
    }

    /// Kills all that is left of the pool. What a killed process leaves behind becomes a child of this one, and is killed in the next round.
    fn end_descendants(&mut self) {
        let until = Instant::now() + LAST_SECONDS;
        loop {
            let children = fork::children();
            if children.is_empty() || Instant::now() > until {
                return;
            }
            for pid in children {
                // a child that was not reaped, so its number is its own
                let _ = send_to_child(pid, GroupSignal::Kill);
                fork::reap(pid);
            }
            self.signals.drain();
            let _ = wait_any_readable(&[self.signals.as_fd()], Some(5_000_000));
        }
    }
}
