//! Parent → worker, over ipc-channel: the only place that names it.
//!
//! ipc-channel's own way to connect two processes is a socket with a name in the temporary directory, which is left behind when
//! the parent is killed, whose `accept` waits for ever for a worker that died, and whose accepted end leaks into every process
//! that is started later. So both ends are made here from one socket pair, and the worker's end is passed like any other
//! descriptor. For this the number of an end's descriptor must be known. ipc-channel does not tell it, except in its `Debug` output;
//! the exact version is pinned in Cargo.toml, the number is checked, and a test below sends through a channel made this way.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::sync::Once;
use std::time::Duration;

use ipc_channel::IpcError;
use ipc_channel::ipc::{self, IpcBytesReceiver, IpcBytesSender};
use ipc_channel::platform::OsIpcSender;

use crate::sys;

/// The unread messages in front of a worker are counted, so a send finds room at once. If a worker has lied about what it has
/// read, the send gives up after this time, and the worker is killed.
const SEND_LIMIT: Duration = Duration::from_millis(20);

/// The parent's end.
#[derive(Debug)]
pub(crate) struct TaskSender(IpcBytesSender);

/// Why a message was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsent {
    /// The worker is gone: its pidfd will tell the rest.
    Gone,
    /// The worker does not read what it must have read, or the system has no memory for the message. The worker is no use.
    Stuck,
}

/// The parent's end, and the worker's end as a descriptor to be passed.
pub(crate) fn channel() -> io::Result<(TaskSender, OwnedFd)> {
    measure_once()?;
    let (sender, receiver) = ipc::bytes_channel()?;
    let theirs = sys::duplicate_number(number(&receiver)?)?;
    let ours = sys::duplicate_number(number(&sender)?)?;
    sys::socket::limit_sends(ours.as_fd(), SEND_LIMIT)?;
    Ok((TaskSender(sender), theirs))
}

fn is_gone(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
    matches!(kind, BrokenPipe | ConnectionReset | NotConnected)
}

/// ipc-channel asks for the size of a socket buffer once, at the first send, and panics if it gets no descriptor then. It is made to ask here,
/// where there are some.
fn measure_once() -> io::Result<()> {
    static MEASURED: Once = Once::new();
    if !MEASURED.is_completed() {
        drop(ipc::bytes_channel()?);
        MEASURED.call_once(|| {
            OsIpcSender::get_max_fragment_size();
        });
    }
    Ok(())
}

impl TaskSender {
    /// Sends one message. Bounded: see [`SEND_LIMIT`].
    pub(crate) fn send(&self, message: &[u8]) -> Result<(), Unsent> {
        loop {
            match self.0.send(message) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_gone(error.kind()) => return Err(Unsent::Gone),
                Err(_) => return Err(Unsent::Stuck),
            }
        }
    }
}

/// A receiver of nothing, to be made one of a descriptor that is passed. A process that forks others makes it once for all of them.
#[derive(Debug)]
pub(crate) struct SpareReceiver {
    receiver: IpcBytesReceiver,
    number: RawFd,
}

impl SpareReceiver {
    pub(crate) fn new() -> io::Result<SpareReceiver> {
        let (_, receiver) = ipc::bytes_channel()?;
        Ok(SpareReceiver { number: number(&receiver)?, receiver })
    }

    /// One for processes that are forked, with all done that is done once in a process.
    pub(crate) fn measured() -> io::Result<SpareReceiver> {
        measure_once()?;
        // what it takes to receive: with the first one that it frees, malloc learns that such pieces are worth keeping
        drop(std::hint::black_box(Vec::<u8>::with_capacity(OsIpcSender::get_max_fragment_size())));
        SpareReceiver::new()
    }
}

/// The worker's end.
#[derive(Debug)]
pub(crate) struct TaskReceiver(IpcBytesReceiver);

impl TaskReceiver {
    /// Makes a receiver of the descriptor that the parent has passed.
    pub(crate) fn adopt(spare: SpareReceiver, descriptor: &OwnedFd) -> io::Result<TaskReceiver> {
        sys::replace_number(descriptor.as_fd(), spare.number)?;
        Ok(TaskReceiver(spare.receiver))
    }

    /// Waits for the next message; `None` when the parent is gone.
    pub(crate) fn receive(&self) -> Option<Vec<u8>> {
        loop {
            match self.0.recv() {
                Ok(message) => return Some(message),
                // ipc-channel passes EINTR on
                Err(IpcError::Io(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }
}

/// The descriptor behind one end of a channel, which its `Debug` output shows as `fd: SharedFileDescriptor(7)` or
/// `fd: Cell { value: 7 }`.
fn number(end: &impl fmt::Debug) -> io::Result<RawFd> {
    let text = format!("{end:?}");
    let digits = text
        .split_once("fd: ")
        .map(|(_, rest)| rest.trim_start_matches(|c: char| !c.is_ascii_digit()))
        .and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
    digits
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| io::Error::other(format!("ipc-channel changed: no descriptor in {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_pass_through_adopted_ends() {
        let (sender, theirs) = channel().unwrap();
        let receiver = TaskReceiver::adopt(SpareReceiver::new().unwrap(), &theirs).unwrap();
        drop(theirs);
        for message in [&b"one"[..], &[7; 100_000]] {
            sender.send(message).unwrap();
            assert_eq!(receiver.receive().unwrap(), message);
        }
        drop(sender);
        assert_eq!(receiver.receive(), None, "the only sender is gone");
    }

    #[test]
    fn a_worker_that_does_not_read_blocks_nobody() {
        let (sender, _theirs) = channel().unwrap();
        let outcome = (0..1_000).find_map(|_| sender.send(b"unread").err());
        assert_eq!(outcome, Some(Unsent::Stuck));
    }

    #[test]
    fn a_worker_that_is_gone_is_told() {
        let (sender, theirs) = channel().unwrap();
        drop(theirs);
        assert_eq!(sender.send(b"to nobody"), Err(Unsent::Gone));
    }
}
