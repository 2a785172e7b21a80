//! The pool's end of its [fork server](crate::worker).

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::link::Started;
use super::spawner::{Ours, Recipe, Theirs, Wires};
use crate::codec;
use crate::error::{ExitCause, PoolError};
use crate::primitives::lock;
use crate::sys::fork::message_pair;
use crate::sys::pidfd::PidFd;
use crate::sys::poll::wait_any_readable;
use crate::sys::process::{self, image_id};
use crate::sys::socket;
use crate::task::callee::Callee;
use crate::wire::fork_server::{
    Answer, END_BYTES, MESSAGE_BYTES, Order, SHORT_MESSAGE_BYTES, decode_end,
};
use crate::wire::from_worker::{HEADER, Header, Kind};

/// How long it may take to fork.
const ANSWER: Duration = Duration::from_secs(5);

/// How long it may take to end what the pool has left behind, and itself.
const LEAVE: Duration = Duration::from_secs(3);

/// How long it may take to tell the end of a worker that is known to have ended: it tells at once, unless it is stopped, or the machine has too much to do.
const PATIENCE_NS: u64 = 1_000_000_000;

/// A fork server that has been started. Dropping it ends it, and all that is left of its workers.
#[derive(Debug)]
pub(crate) struct ForkServer {
    pidfd: PidFd,
    orders: OwnedFd,
    ends: Arc<WorkerEnds>,
}

/// Why there is none.
#[derive(Debug)]
pub(crate) enum NoServer {
    /// It would be no use to try again.
    Refused(PoolError),
    Failed(String),
}

/// A worker that was ordered.
#[derive(Debug)]
pub(crate) struct Ordered {
    seat: u32,
    ours: Ours,
    /// Of the server that is to make it.
    ends: Arc<WorkerEnds>,
}

/// Why there is no worker.
#[derive(Debug)]
pub(crate) enum NotForked {
    /// The next attempt may do better, and the server's other workers are well.
    ThisTime(io::Error),
    /// The server does not answer, or says nonsense: another one is needed.
    Useless(io::Error),
}

impl From<io::Error> for NoServer {
    fn from(error: io::Error) -> NoServer {
        NoServer::Failed(error.to_string())
    }
}

impl ForkServer {
    /// Starts it, and has it call the preload function.
    pub(crate) fn start(
        recipe: &Recipe,
        preload: Option<&(Callee, Vec<u8>)>,
        timeout: Duration,
    ) -> Result<ForkServer, NoServer> {
        let (orders, their_orders) = message_pair()?;
        let (ends, their_ends) = message_pair()?;
        let fds = [their_orders.as_raw_fd(), their_ends.as_raw_fd()];
        let (pidfd, stream) = recipe.start_fork_server(fds)?;
        drop((their_orders, their_ends));
        let ends = Arc::new(WorkerEnds { socket: ends, state: Mutex::default() });
        let server = ForkServer { pidfd, orders, ends };
        server.greet(recipe, &stream, timeout).inspect_err(|_| {
            // it has no workers that it could end: nobody waits until it goes by itself
            let _ = server.pidfd.kill();
        })?;
        if let Some((callee, input)) = preload {
            server.send(&Order::Preload { callee: callee.0, input: input.clone() }, &[])?;
            match server.receive(MESSAGE_BYTES, timeout)?.0 {
                Answer::Preloaded(Ok(())) => {}
                Answer::Preloaded(Err(text)) => {
                    let text = format!("preload: {text}");
                    return Err(NoServer::Refused(PoolError::InitFailed(text)));
                }
                other => return Err(NoServer::Failed(format!("it has answered {other:?}"))),
            }
        }
        Ok(server)
    }

    /// Waits until it is there, and looks whether it is what it should be.
    fn greet(&self, recipe: &Recipe, stream: &OwnedFd, timeout: Duration) -> Result<(), NoServer> {
        let fds = [self.orders.as_fd(), stream.as_fd(), self.pidfd.as_fd()];
        let ready = wait_any_readable(&fds, Some(ns(timeout)))?;
        let answer = ready[0].then(|| self.receive(MESSAGE_BYTES, timeout));
        // that it has closed its ends, by ending, may be seen on any of them first
        let is_over = |e: &io::Error| e.kind() == io::ErrorKind::UnexpectedEof;
        if let Some(answer) = answer.filter(|answer| !answer.as_ref().is_err_and(is_over)) {
            let hello = match answer?.0 {
                Answer::Greeting(hello) => hello,
                // it was asked for a namespace before anything else
                Answer::Refused(why) => {
                    return Err(NoServer::Refused(PoolError::NoPidNamespace(why)));
                }
                _ => return Err(NoServer::Failed("it did not say hello".to_owned())),
            };
            let image = image_id().ok().filter(|_| recipe.executable.is_none());
            return match hello.refuse(recipe.role.depth + 1, image) {
                Some(reason) => Err(NoServer::Refused(PoolError::StartFailed(reason))),
                None => Ok(()),
            };
        }
        let mut bytes = [0; HEADER];
        if ready[1]
            && let Ok((len @ 1.., _)) = socket::receive_with(stream.as_fd(), &mut bytes)
        {
            return Err(match Header::decode(&bytes, 0) {
                Ok(Header { kind: Kind::NotInitialized, .. }) if len == HEADER => {
                    NoServer::Refused(PoolError::InitNotCalled)
                }
                _ => NoServer::Failed("the fork server has said nonsense".to_owned()),
            });
        }
        if ready.contains(&true) {
            // its end of the stream is closed a moment before it has ended
            wait_any_readable(&[self.pidfd.as_fd()], Some(ns(timeout)))?;
        }
        let cause = self.pidfd.try_reap().map_or_else(
            || "was not ready within the start timeout".to_owned(),
            |cause| cause.to_string(),
        );
        Err(NoServer::Failed(format!("the fork server {cause}")))
    }

    /// Where it tells how its workers end.
    pub(crate) fn ends(&self) -> &Arc<WorkerEnds> {
        &self.ends
    }

    pub(crate) fn is_alive(&self) -> bool {
        wait_any_readable(&[self.pidfd.as_fd()], Some(0)).is_ok_and(|ready| !ready[0])
    }

    /// Orders a worker. What was ordered is [answered](Self::started) in that order.
    pub(crate) fn order(
        &self,
        recipe: &Recipe,
        seat: u32,
        wires: Wires,
    ) -> Result<Ordered, NotForked> {
        let (ours, theirs) = recipe.connect(seat, wires, true).map_err(NotForked::ThisTime)?;
        let Theirs { stdin, stdout, stderr } = theirs;
        let order = Order::Fork { has_stdout: stdout.is_some(), has_stderr: stderr.is_some() };
        let mut fds = vec![stdin.as_raw_fd()];
        fds.extend(stdout.as_ref().map(AsRawFd::as_raw_fd));
        fds.extend(stderr.as_ref().map(AsRawFd::as_raw_fd));
        self.send(&order, &fds).map_err(NotForked::Useless)?;
        Ok(Ordered { seat, ours, ends: Arc::clone(&self.ends) })
    }

    /// Waits until a worker that was ordered is made.
    pub(crate) fn started(&self, recipe: &Recipe, ordered: Ordered) -> Result<Started, NotForked> {
        let Ordered { seat, ours, ends } = ordered;
        if !Arc::ptr_eq(&ends, &self.ends) {
            return Err(NotForked::ThisTime(io::Error::other("its fork server is gone")));
        }
        let (answer, fds) =
            self.receive(SHORT_MESSAGE_BYTES, ANSWER).map_err(NotForked::Useless)?;
        let number = match answer {
            Answer::Forked { pid } => pid,
            Answer::Refused(text) => return Err(NotForked::ThisTime(io::Error::other(text))),
            other => {
                let text = format!("the fork server answered {other:?}");
                return Err(NotForked::Useless(io::Error::other(text)));
            }
        };
        match find(number, recipe.seen.is_some(), fds) {
            Ok((pid, pidfd)) => {
                let end = ForkedEnd { ends, number };
                Ok(ours.started(seat, pid, pidfd, Some(end)))
            }
            Err(error) => {
                // it ends when its socket is closed here; nobody asks how
                self.ends.release(number);
                Err(NotForked::ThisTime(error))
            }
        }
    }

    fn send(&self, order: &Order, fds: &[i32]) -> io::Result<()> {
        let mut bytes = Vec::new();
        codec::encode(order, &mut bytes, MESSAGE_BYTES as u64)
            .map_err(|_| io::Error::other("the arguments of the preload function are too large"))?;
        socket::send_with(self.orders.as_fd(), &bytes, fds).map(drop)
    }

    fn receive(&self, limit: usize, timeout: Duration) -> io::Result<(Answer, Vec<OwnedFd>)> {
        let ready =
            wait_any_readable(&[self.orders.as_fd(), self.pidfd.as_fd()], Some(ns(timeout)))?;
        if !ready[0] {
            let what = if ready[1] { "has ended" } else { "does not answer" };
            return Err(io::Error::other(format!("the fork server {what}")));
        }
        let mut bytes = vec![0; limit];
        let (len, fds) = socket::receive_with(self.orders.as_fd(), &mut bytes)?;
        if len == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the fork server has ended"));
        }
        let answer = codec::decode(&bytes[..len]).map_err(|error| {
            io::Error::other(format!("the fork server has said nonsense: {error}"))
        })?;
        Ok((answer, fds))
    }
}

/// The number by which this program knows a worker of which the fork server tells its own. In a namespace these differ, and the worker's pidfd comes with the answer.
fn find(number: u32, is_isolated: bool, fds: Vec<OwnedFd>) -> io::Result<(u32, PidFd)> {
    if !is_isolated {
        // not reaped before this program has taken its status, so the number is its own
        return Ok((number, PidFd::open(number)?));
    }
    let pidfd = PidFd::from(fds.into_iter().next().ok_or(io::ErrorKind::UnexpectedEof)?);
    let pid = pidfd.number().ok_or_else(|| io::Error::other("/proc does not tell its number"))?;
    Ok((pid, pidfd))
}

impl Drop for ForkServer {
    fn drop(&mut self) {
        // it ends by this, and all that is left with it
        let _ = socket::shut_down(self.orders.as_fd());
        let _ = socket::shut_down(self.ends.socket.as_fd());
        lock(&self.ends.state).closed = true;
        if !wait_any_readable(&[self.pidfd.as_fd()], Some(ns(LEAVE))).is_ok_and(|ready| ready[0]) {
            let _ = self.pidfd.kill();
        }
        self.pidfd.reap();
    }
}

fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl AsFd for WorkerEnds {
    /// Readable when the fork server has told something that was not taken in, or is gone.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Where the end of one forked worker is told.
#[derive(Debug)]
pub(crate) struct ForkedEnd {
    ends: Arc<WorkerEnds>,
    /// The fork server's number for it.
    number: u32,
}

impl ForkedEnd {
    /// See [`WorkerEnds::take`].
    pub(super) fn take(&self, pid: u32, now: u64) -> Option<ExitCause> {
        self.ends.take(self.number, pid, now)
    }

    /// See [`WorkerEnds::is_closed`].
    pub(super) fn is_closed(&self) -> bool {
        self.ends.is_closed()
    }
}

/// How the workers of a fork server have ended, as far as it was told. It tells the numbers by which it knows them itself.
#[derive(Debug)]
pub(crate) struct WorkerEnds {
    socket: OwnedFd,
    state: Mutex<Ends>,
}

#[derive(Debug, Default)]
struct Ends {
    told: HashMap<u32, ExitCause>,
    /// Since when ends are asked for that were not told.
    missed: HashMap<u32, u64>,
    unwanted: HashSet<u32>,
    closed: bool,
}

impl WorkerEnds {
    /// How this worker, whose pidfd tells that it has ended, has ended; `None`: ask again when something was [heard](Self::listen), or some time later. What the fork server does not tell in
    /// time is read off the zombie, as far as that shows it. Never waits.
    fn take(&self, number: u32, pid: u32, now: u64) -> Option<ExitCause> {
        let mut state = lock(&self.state);
        self.read(&mut state);
        if let Some(cause) = state.told.remove(&number) {
            state.missed.remove(&number);
            // it need not stay a zombie any more; a fork server that is gone has reaped it
            let _ = socket::send_now(self.socket.as_fd(), &number.to_le_bytes());
            return Some(cause);
        }
        let closed = state.closed;
        let since = *state.missed.entry(number).or_insert(now);
        if closed {
            state.missed.remove(&number);
            return Some(ExitCause::Unknown);
        }
        if now.saturating_sub(since) > PATIENCE_NS {
            state.missed.remove(&number);
            // should it be told after all, nobody waits for that any more, and the zombie may go
            state.unwanted.insert(number);
            return Some(process::zombie_cause(pid).unwrap_or(ExitCause::Unknown));
        }
        None
    }

    /// Takes in what was told. `false`: no more will come.
    pub(crate) fn listen(&self) -> bool {
        !self.is_closed()
    }

    /// Nobody is going to ask for this worker's end: it need not stay a zombie.
    fn release(&self, pid: u32) {
        lock(&self.state).unwanted.insert(pid);
    }

    /// Whether the fork server is gone: its workers' numbers may be others' then.
    pub(crate) fn is_closed(&self) -> bool {
        let mut state = lock(&self.state);
        self.read(&mut state);
        state.closed
    }

    fn read(&self, state: &mut Ends) {
        let mut bytes = Vec::with_capacity(END_BYTES);
        while !state.closed {
            bytes.clear();
            match socket::receive_into(self.socket.as_fd(), &mut bytes, END_BYTES) {
                Ok(0) => state.closed = true,
                Ok(_) => match decode_end(&bytes) {
                    Some((pid, _)) if state.unwanted.remove(&pid) => {
                        let _ = socket::send_now(self.socket.as_fd(), &pid.to_le_bytes());
                    }
                    told => state.told.extend(told),
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => state.closed = true,
            }
        }
    }
}
