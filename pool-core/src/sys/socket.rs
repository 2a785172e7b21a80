//! Socket pairs: the reply stream of a worker, and the one message with descriptors that starts it.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send,
    sendmsg, setsockopt, socket, socketpair, sockopt,
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

/// Sends all of `bytes`, which must be few, with descriptors, or nothing. Never blocks.
pub(crate) fn send_part(fd: BorrowedFd<'_>, bytes: &[u8], fds: &[RawFd]) -> io::Result<()> {
    let rights = [ControlMessage::ScmRights(fds)];
    let rights = if fds.is_empty() { &[][..] } else { &rights };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg::<()>(fd.as_raw_fd(), &[IoSlice::new(bytes)], rights, flags, None)?;
    Ok(())
}

/// Receives at most `bytes.len()` bytes and the descriptors that came with them.
pub(crate) fn receive_with(
    fd: BorrowedFd<'_>,
    bytes: &mut [u8],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    receive_flags(fd, bytes, MsgFlags::MSG_CMSG_CLOEXEC)
}

/// Without nix, which hides the descriptors that did arrive when others did not fit into the table of this process.
fn receive_flags(
    fd: BorrowedFd<'_>,
    bytes: &mut [u8],
    flags: MsgFlags,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    /// Space for as many descriptors as the kernel passes, aligned for the header before them.
    #[repr(C, align(8))]
    struct Space([u8; 1024 + 64]);

    let mut space = Space([0; 1024 + 64]);
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: a message without name, parts or space.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = space.0.as_mut_ptr().cast();
    message.msg_controllen = size_of::<Space>();
    let len = loop {
        // SAFETY: the part and the space are as long as the message says, and live as long as the call.
        let len = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, flags.bits()) };
        if len >= 0 {
            break len as usize;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    };
    let mut fds = Vec::new();
    // SAFETY: the kernel has filled the space with whole headers, as far as the message says now; the macros walk them, and a header of this kind is followed
    // by descriptors, which are new and nobody else's.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while let Some(control) = header.as_ref() {
            if (control.cmsg_level, control.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                let numbers = libc::CMSG_DATA(header).cast::<RawFd>();
                let length = control.cmsg_len - libc::CMSG_LEN(0) as usize;
                for i in 0..length / size_of::<RawFd>() {
                    fds.push(OwnedFd::from_raw_fd(numbers.add(i).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok((len, fds))
}

/// A connected pair of sockets that keep the boundaries of messages, closed on exec.
pub(crate) fn packet_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Receives one message without blocking: its length, and the descriptors that came with it. A length of 0 is the end.
pub(crate) fn receive_packet(
    fd: BorrowedFd<'_>,
    bytes: &mut [u8],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    receive_flags(fd, bytes, MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT)
}

/// What the kernel answers if too many descriptors of this user are on their way.
pub(crate) const TOO_MANY_UNDER_WAY: i32 = libc::ETOOMANYREFS;

/// Looks at the first message without blocking, and leaves it: its length as far as it fits, and descriptors like those that it has.
pub(crate) fn peek_packet(
    fd: BorrowedFd<'_>,
    bytes: &mut [u8],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK;
    receive_flags(fd, bytes, flags)
}

/// The same without the descriptors.
pub(crate) fn peek_bytes(fd: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<usize> {
    Ok(recv(fd.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK)?)
}

/// Removes the first message without blocking; its descriptors are closed by the kernel.
pub(crate) fn drop_packet(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(recv(fd.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT).map(drop)?)
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

/// Sends one message if that is possible at once.
pub(crate) fn send_now(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    Ok(send(fd.as_raw_fd(), bytes, flags).map(drop)?)
}

/// Receives what is there, without blocking.
pub(crate) fn receive_now(fd: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<usize> {
    Ok(recv(fd.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT)?)
}

/// The other side reads the end of the stream from now on, also if other copies of this descriptor are open.
pub(crate) fn shut_down(fd: BorrowedFd<'_>) -> io::Result<()> {
    use nix::sys::socket::{Shutdown, shutdown};
    Ok(shutdown(fd.as_raw_fd(), Shutdown::Both)?)
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
