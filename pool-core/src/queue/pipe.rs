//! Two ends, each of which sends what the other one receives.
//!
//! Underneath is a pair of sockets that keep the boundaries of messages: a message is there as a whole or not at all, whoever is killed meanwhile, and nobody
//! has to take turns. A large one goes as an anonymous file whose descriptor is sent. It is read by `read`, never mapped, so its sender can't do worse than
//! send wrong bytes. Descriptors are taken here, also from a worker: who receives from a pipe has invited them. Those of a message that are
//! not for a shared object in it are closed.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::errors::{RecvError, SendError};
use super::scratch;
use crate::attach::{self, Attachments};
use crate::codec::{self, Unencodable};
use crate::handle::deadline;
use crate::limits::PACKET_BYTES;
use crate::shm::object::{Object, What, travels};
use crate::sys::poll::{Ready, wait_for};
use crate::sys::{memory, socket};

/// One end of a pipe: it sends `A` and receives `B`. The other end is a `Pipe<B, A>`.
///
/// Messages arrive whole and in order; there is no limit to their size. Sending waits while some 200 KiB are on their way. An end can be passed to a task,
/// or through another pipe. It is closed when the last handle of it in any process is dropped, or the last such process ends: drop your own handle of what you have
/// passed on, or you will never see its end. Messages may hold shared objects, at most 250.
///
/// Several threads and processes may use the same end; each message is received by one of them.
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// # pool_core::init();
/// use pool_core::{Pipe, RecvError};
/// let pool = pool_core::Pool::new(1)?;
/// let (ours, theirs) = Pipe::<u64, String>::pair()?;
/// let serve = |pipe: Pipe<String, u64>| -> anyhow::Result<()> {
///     while let Ok(x) = pipe.recv() {
///         pipe.send(format!("{x} squared is {}", x * x))?;
///     }
///     Ok(())
/// };
/// let server = pool.apply_async(serve, (theirs,))?;
/// ours.send(12)?;
/// assert_eq!(ours.recv()?, "12 squared is 144");
/// drop(ours); // the end for the server
/// server.get()?;
/// # Ok(())
/// # }
/// ```
pub struct Pipe<A, B> {
    object: Arc<Object>,
    _messages: PhantomData<fn(A) -> B>,
}

/// First byte of a message: its bytes follow, or lie in the file that is the last descriptor.
const HERE: u8 = 0;
const IN_FILE: u8 = 1;

/// Shared objects in one message: the kernel passes 253 descriptors.
const MOST_OBJECTS: usize = 250;

impl<A, B> Pipe<A, B> {
    /// A pipe: both its ends.
    ///
    /// # Errors
    /// No descriptor is free.
    pub fn pair() -> io::Result<(Pipe<A, B>, Pipe<B, A>)> {
        let (one, other) = socket::packet_pair()?;
        Ok((Pipe::of(one), Pipe::of(other)))
    }

    fn of(fd: OwnedFd) -> Pipe<A, B> {
        let object = Object::of_descriptor(What::PipeEnd.alone(), fd);
        Pipe { object, _messages: PhantomData }
    }

    /// Whether there is a message to be received, or the end, at once or within this time.
    ///
    /// # Errors
    /// The operating system refused.
    pub fn poll(&self, limit: Duration) -> io::Result<bool> {
        let until = deadline(limit);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if wait_for(self.object.as_fd(), Ready::ToRead, left)? {
                return Ok(true);
            }
            if left.is_zero() {
                return Ok(false);
            }
        }
    }
}

impl<A: Serialize + 'static, B> Pipe<A, B> {
    /// Sends a message; waits while too much is on its way.
    ///
    /// # Errors
    /// [`SendError::Closed`] if the other end is gone, [`SendError::Encode`], [`SendError::Os`]; each has the message.
    pub fn send(&self, message: A) -> Result<(), SendError<A>> {
        self.send_until(message, None)
    }

    /// Like [`send`](Pipe::send); waits for so long at most.
    ///
    /// # Errors
    /// [`SendError::Full`] when the time is up; else as [`send`](Pipe::send).
    pub fn send_timeout(&self, message: A, limit: Duration) -> Result<(), SendError<A>> {
        self.send_until(message, Some(deadline(limit)))
    }

    fn send_until(&self, message: A, until: Option<Instant>) -> Result<(), SendError<A>> {
        let sent = scratch::with(|bytes| {
            bytes.push(HERE);
            let (encoded, attachments) =
                attach::collect(|| codec::encode(&message, bytes, u64::MAX));
            match encoded {
                Ok(()) if attachments.objects().len() <= MOST_OBJECTS => {}
                Ok(()) => {
                    return Err(Unsent::Refused(format!(
                        "it holds more than {MOST_OBJECTS} shared objects"
                    )));
                }
                Err(Unencodable::Refused(text)) => return Err(Unsent::Refused(text)),
                Err(Unencodable::TooLarge(_)) => {
                    return Err(Unsent::Refused("it is too large".to_owned()));
                }
            }
            self.send_bytes(bytes, &attachments, until)
        });
        sent.map_err(|unsent| match unsent {
            Unsent::Full => SendError::Full(message),
            Unsent::Closed => SendError::Closed(message),
            Unsent::Refused(reason) => SendError::Encode { message, reason },
            Unsent::Os(error) => SendError::Os { message, error: error.to_string() },
        })
    }

    fn send_bytes(
        &self,
        bytes: &mut Vec<u8>,
        attachments: &Attachments,
        until: Option<Instant>,
    ) -> Result<(), Unsent> {
        let mut numbers: Vec<_> = attachments.numbers().collect();
        let mut _file = None;
        if bytes.len() > PACKET_BYTES {
            let mut file = File::from(memory::anonymous_file()?);
            file.write_all(&bytes[1..])?;
            numbers.push(file.as_raw_fd());
            bytes.truncate(1);
            bytes[0] = IN_FILE;
            _file = Some(file);
        }
        let fd = self.object.as_fd();
        loop {
            match socket::send_part(fd, bytes, &numbers) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait(fd, Ready::ToWrite, until)?.ok_or(Unsent::Full)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl<A, B: DeserializeOwned + 'static> Pipe<A, B> {
    /// Receives a message; waits until there is one.
    ///
    /// # Errors
    /// [`RecvError::Closed`] if the other end is gone and nothing is left; [`RecvError::Decode`] if the message, which is gone then, can't be decoded;
    /// [`RecvError::Os`].
    pub fn recv(&self) -> Result<B, RecvError> {
        self.recv_until(None)
    }

    /// Like [`recv`](Pipe::recv); waits for so long at most.
    ///
    /// # Errors
    /// [`RecvError::Empty`] when the time is up; else as [`recv`](Pipe::recv).
    pub fn recv_timeout(&self, limit: Duration) -> Result<B, RecvError> {
        self.recv_until(Some(deadline(limit)))
    }

    /// Like [`recv`](Pipe::recv), without waiting.
    ///
    /// # Errors
    /// [`RecvError::Empty`] if there is none; else as [`recv`](Pipe::recv).
    pub fn try_recv(&self) -> Result<B, RecvError> {
        self.recv_until(Some(Instant::now()))
    }

    fn recv_until(&self, until: Option<Instant>) -> Result<B, RecvError> {
        let os = |error: io::Error| RecvError::Os(error.to_string());
        let fd = self.object.as_fd();
        scratch::with(|bytes| {
            bytes.resize(PACKET_BYTES + 1, 0);
            let (len, mut fds) = loop {
                match socket::receive_packet(fd, bytes) {
                    Ok((0, _)) => return Err(RecvError::Closed),
                    Ok(received) => break received,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        wait(fd, Ready::ToRead, until).map_err(os)?.ok_or(RecvError::Empty)?;
                    }
                    // the other end was closed with messages unread there; what it sent before can still be read
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
                    Err(error) => return Err(os(error)),
                }
            };
            let in_file = bytes[0] == IN_FILE;
            let large = if in_file { Some(read(fds.pop()).map_err(os)?) } else { None };
            let encoded = large.as_deref().unwrap_or(&bytes[1..len]);
            let fds = fds.into_iter().map(Some).collect();
            attach::take(fds, || codec::decode(encoded)).map_err(RecvError::Decode)
        })
    }
}

/// Why a message was not sent.
enum Unsent {
    Full,
    Closed,
    Refused(String),
    Os(io::Error),
}

impl From<io::Error> for Unsent {
    fn from(error: io::Error) -> Unsent {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
        match error.kind() {
            BrokenPipe | ConnectionReset | NotConnected => Unsent::Closed,
            _ => Unsent::Os(error),
        }
    }
}

/// Waits for the descriptor; `None` when the time is up.
fn wait(
    fd: std::os::fd::BorrowedFd<'_>,
    ready: Ready,
    until: Option<Instant>,
) -> io::Result<Option<()>> {
    let left = until.map(|until| until.saturating_duration_since(Instant::now()));
    if left == Some(Duration::ZERO) {
        return Ok(None);
    }
    // for ever: a minute at a time
    wait_for(fd, ready, left.unwrap_or(Duration::MAX))?;
    Ok(Some(()))
}

/// The content of a file that came with a message, from its start.
fn read(file: Option<OwnedFd>) -> io::Result<Vec<u8>> {
    let file = file.ok_or_else(|| io::Error::other("a file did not arrive: are too many open?"))?;
    let file = File::from(file);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("what came is no file"));
    }
    let mut bytes = Vec::new();
    At { file, position: 0 }.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads a file whose position others may move.
struct At {
    file: File,
    position: u64,
}

impl Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

impl<A, B> Clone for Pipe<A, B> {
    fn clone(&self) -> Self {
        Pipe { object: Arc::clone(&self.object), _messages: PhantomData }
    }
}

impl<A, B> fmt::Debug for Pipe<A, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipe").finish_non_exhaustive()
    }
}

travels!([A, B] Pipe<A, B>, [What::PipeEnd.alone()], |object| {
    Ok(Pipe { object, _messages: PhantomData })
});
