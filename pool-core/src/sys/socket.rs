//! Socket pairs: the reply stream of a worker, and the one message with descriptors that starts it.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    connect, recvmsg, send, sendmsg, setsockopt, socket, socketpair, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// A connected pair of stream sockets, closed on exec.
pub(crate) fn stream_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?)
}

/// A blocked send on this socket gives up after `limit` with `EAGAIN`.
pub(crate) fn limit_sends(fd: BorrowedFd<'_>, limit: Duration) -> io::Result<()> {
    let limit = TimeVal::microseconds(i64::try_from(limit.as_micros()).unwrap_or(i64::MAX));
    Ok(setsockopt(&fd, sockopt::SendTimeout, &limit)?)
}

/// Connects to a Unix socket of this name in the abstract namespace. Never blocks: if nobody accepts and the queue is full, that is `WouldBlock`. The
/// stream itself is non-blocking still.
pub(crate) fn connect_abstract(name: &str) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let stream = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(stream.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes())?)?;
    Ok(stream)
}

/// Makes the kernel notice within some minutes that the machine at the other end is gone, also if nothing is sent.
pub(crate) fn keep_alive(fd: BorrowedFd<'_>) -> io::Result<()> {
    setsockopt(&fd, sockopt::KeepAlive, &true)?;
    setsockopt(&fd, sockopt::TcpKeepIdle, &30)?;
    Ok(setsockopt(&fd, sockopt::TcpKeepInterval, &10)?)
}

/// Sends one message with descriptors.
pub(crate) fn send_with(fd: BorrowedFd<'_>, bytes: &[u8], fds: &[RawFd]) -> io::Result<usize> {
    let rights = [ControlMessage::ScmRights(fds)];
    Ok(sendmsg::<()>(
        fd.as_raw_fd(),
        &[IoSlice::new(bytes)],
        &rights,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?)
}

/// Receives at most `bytes.len()` bytes and the descriptors that came with them.
pub(crate) fn receive_with(
    fd: BorrowedFd<'_>,
    bytes: &mut [u8],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; 8]);
    let mut parts = [IoSliceMut::new(bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(fd.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            for number in numbers {
                // SAFETY: the kernel has just made this descriptor for us.
                fds.push(unsafe { OwnedFd::from_raw_fd(number) });
            }
        }
    }
    Ok((message.bytes, fds))
}

/// Writes all of `bytes`, blocking. A peer that is gone is an error, never a signal.
pub(crate) fn send_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match send(fd.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Appends at most `limit` bytes to `out` without blocking. `Ok(0)` is the end of the stream. Descriptors that somebody
/// sends along are closed by the kernel, because there is no space for them.
///
/// The caller has reserved the memory: what does not fit into the capacity of `out` is not read.
pub(crate) fn receive_into(
    fd: BorrowedFd<'_>,
    out: &mut Vec<u8>,
    limit: usize,
) -> io::Result<usize> {
    let room = out.spare_capacity_mut();
    let want = room.len().min(limit);
    debug_assert!(want > 0, "a read of nothing looks like the end of the stream");
    loop {
        // SAFETY: the kernel writes at most `want` bytes to the spare capacity, which is at least that large.
        let got = unsafe {
            libc::recv(fd.as_raw_fd(), room.as_mut_ptr().cast(), want, libc::MSG_DONTWAIT)
        };
        if got >= 0 {
            // SAFETY: the kernel has initialised `got` bytes behind the old length, within the capacity.
            unsafe { out.set_len(out.len() + got as usize) };
            return Ok(got as usize);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// A stream socket whose other end is held by a worker.
#[derive(Debug)]
pub(crate) struct Stream(pub(crate) OwnedFd);

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
