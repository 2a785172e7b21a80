//! Where a manager is, and streams to it: Unix sockets in the abstract namespace, which leave nothing in the file system, and TCP.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::{Duration, Instant};

use crate::sys::socket;

/// The address of a manager.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Address {
    /// The name of a Unix socket; written with an `@`.
    Local(String),
    /// `host:port`.
    Tcp(String),
}

impl Address {
    pub(super) fn parse(text: &str) -> Address {
        match text.strip_prefix('@') {
            Some(name) => Address::Local(name.to_owned()),
            None => Address::Tcp(text.to_owned()),
        }
    }

    /// A stream to it, which blocks, and whose reads and writes give up after `limit`.
    pub(super) fn connect(&self, limit: Duration) -> io::Result<Stream> {
        let stream = match self {
            Address::Local(name) => {
                let stream = UnixStream::from(socket::connect_abstract(name)?);
                stream.set_nonblocking(false)?;
                Stream::Unix(stream)
            }
            Address::Tcp(address) => connect_tcp(address, limit)?,
        };
        stream.set_timeouts(Some(limit))?;
        Ok(stream)
    }

    pub(super) fn listen(&self) -> io::Result<Listener> {
        Ok(match self {
            Address::Local(name) => {
                Listener::Unix(UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?)
            }
            Address::Tcp(address) => Listener::Tcp(TcpListener::bind(address)?),
        })
    }
}

fn connect_tcp(address: &str, limit: Duration) -> io::Result<Stream> {
    let deadline = Instant::now() + limit;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for candidate in address.to_socket_addrs()? {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match TcpStream::connect_timeout(&candidate, left) {
            Ok(stream) => {
                // a port of this machine that nobody listens at may be chosen as our own, and then be connected to itself
                if stream.peer_addr()? == stream.local_addr()? {
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                return Stream::tcp(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Local(name) => write!(f, "@{name}"),
            Address::Tcp(address) => f.write_str(address),
        }
    }
}

/// Where clients arrive.
#[derive(Debug)]
pub(super) enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    /// Does not block: there may be nobody.
    pub(super) fn accept(&self) -> io::Result<Stream> {
        match self {
            Listener::Unix(listener) => Ok(Stream::Unix(listener.accept()?.0)),
            Listener::Tcp(listener) => Stream::tcp(listener.accept()?.0),
        }
    }

    pub(super) fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Listener::Unix(listener) => listener.set_nonblocking(true),
            Listener::Tcp(listener) => listener.set_nonblocking(true),
        }
    }

    /// With the port that the system has chosen.
    pub(super) fn address(&self, asked: &Address) -> io::Result<Address> {
        Ok(match self {
            Listener::Unix(_) => asked.clone(),
            Listener::Tcp(listener) => Address::Tcp(listener.local_addr()?.to_string()),
        })
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Unix(listener) => listener.as_fd(),
            Listener::Tcp(listener) => listener.as_fd(),
        }
    }
}

/// A connection.
#[derive(Debug)]
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    fn tcp(stream: TcpStream) -> io::Result<Stream> {
        stream.set_nodelay(true)?;
        socket::keep_alive(stream.as_fd())?;
        Ok(Stream::Tcp(stream))
    }

    /// Whether the other side is on this machine and can be sent descriptors.
    pub(super) fn is_local(&self) -> bool {
        matches!(self, Stream::Unix(_))
    }

    pub(super) fn try_clone(&self) -> io::Result<Stream> {
        Ok(match self {
            Stream::Unix(stream) => Stream::Unix(stream.try_clone()?),
            Stream::Tcp(stream) => Stream::Tcp(stream.try_clone()?),
        })
    }

    pub(super) fn set_timeouts(&self, limit: Option<Duration>) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => {
                stream.set_read_timeout(limit)?;
                stream.set_write_timeout(limit)
            }
            Stream::Tcp(stream) => {
                stream.set_read_timeout(limit)?;
                stream.set_write_timeout(limit)
            }
        }
    }

    pub(super) fn set_blocking(&self) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => stream.set_nonblocking(false),
            Stream::Tcp(stream) => stream.set_nonblocking(false),
        }
    }

    pub(super) fn shut_down(&self) {
        // gone already, perhaps
        let _ = match self {
            Stream::Unix(stream) => stream.shutdown(Shutdown::Both),
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Both),
        };
    }

    pub(super) fn read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => (&mut &*stream).read(bytes),
            Stream::Tcp(stream) => (&mut &*stream).read(bytes),
        }
    }

    /// What is there already; `None`: nothing.
    pub(super) fn read_now(&self, bytes: &mut [u8]) -> io::Result<Option<usize>> {
        match socket::receive_now(self.as_fd(), bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            received => received.map(Some),
        }
    }

    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => (&mut &*stream).write(bytes),
            Stream::Tcp(stream) => (&mut &*stream).write(bytes),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Unix(stream) => stream.as_fd(),
            Stream::Tcp(stream) => stream.as_fd(),
        }
    }
}
