//! What a worker should not touch: its reply socket, found among its descriptors.

use std::os::fd::{BorrowedFd, RawFd};

use nix::sys::socket::{MsgFlags, SockType, getsockopt, send, sockopt};

use crate::census;

/// In a worker: the descriptor of the reply socket.
#[must_use]
pub fn find() -> RawFd {
    let is_stream = |fd: &RawFd| {
        getsockopt(&borrow(*fd), sockopt::SockType).is_ok_and(|kind| kind == SockType::Stream)
    };
    let above_2 = census::list("/proc/self/fd").into_iter().filter(|fd| *fd > 2);
    above_2.map(|fd| fd as RawFd).find(is_stream).expect("a worker has a reply socket")
}

#[allow(unsafe_code, reason = "a descriptor that belongs to the library")]
fn borrow(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: the library keeps it open as long as the worker lives.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// In a worker: writes bytes where only the library should write; `false` when the other side is gone.
pub fn write(mut bytes: &[u8]) -> bool {
    let socket = find();
    while !bytes.is_empty() {
        match send(socket, bytes, MsgFlags::MSG_NOSIGNAL) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(_) => return false,
        }
    }
    true
}

/// In a worker: how many bytes of it the parent has not read.
#[must_use]
#[allow(unsafe_code, reason = "nix does not wrap SIOCOUTQ")]
pub fn unread(socket: RawFd) -> i32 {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the request writes one int.
    let result = unsafe { libc::ioctl(socket, libc::TIOCOUTQ, &raw mut bytes) };
    assert_eq!(result, 0);
    bytes
}

/// In a worker: does something, on a thread of its own, as soon as a reply is on its way and not all of it has been read.
pub fn when_sending(act: impl FnOnce() + Send + 'static) {
    let socket = find();
    std::thread::spawn(move || {
        while unread(socket) == 0 {
            std::thread::yield_now();
        }
        act();
    });
}
