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
pub fn write(bytes: &[u8]) -> bool {
    write_to(find(), bytes)
}

/// Writes bytes to a socket; `false` when the other side is gone.
pub fn write_to(socket: RawFd, mut bytes: &[u8]) -> bool {
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

/// In a worker: does something, on a thread of its own, as soon as a reply is on its way and not all of it has been read. For workers without the fast lane: big
/// results go by the socket there (for how they go otherwise see the failpoint `worker.piece`).
pub fn when_sending(act: impl FnOnce() + Send + 'static) {
    let socket = find();
    std::thread::spawn(move || {
        while unread(socket) == 0 {
            std::thread::yield_now();
        }
        act();
    });
}

/// The version of the protocol that the library speaks.
#[must_use]
pub fn protocol_version() -> u32 {
    let limits = include_str!("../../pool-core/src/limits.rs");
    let (_, rest) = limits.split_once("PROTOCOL_VERSION: u32 = ").expect("it is a constant");
    rest.split(';').next().and_then(|number| number.parse().ok()).expect("of a number")
}

/// Kinds of frames, see pool-core/src/wire/from_worker.rs.
pub mod kind {
    #![allow(missing_docs, reason = "the names of pool-core")]
    pub const HELLO: u8 = 1;
    pub const READY: u8 = 2;
    pub const DONE: u8 = 3;
    pub const FAULT: u8 = 4;
    pub const INIT_FAILED: u8 = 5;
    pub const PIECE_TAKEN: u8 = 6;
    pub const NOT_INITIALIZED: u8 = 7;
    pub const BELL: u8 = 8;
}

/// A header as it goes over the wire, with a length that need not be true.
#[must_use]
pub fn header(kind: u8, slot: u16, generation: u32, len: u64) -> Vec<u8> {
    let mut bytes = vec![kind, 0];
    bytes.extend_from_slice(&slot.to_le_bytes());
    bytes.extend_from_slice(&generation.to_le_bytes());
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes
}

/// A whole frame.
#[must_use]
pub fn frame(kind: u8, slot: u16, generation: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = header(kind, slot, generation, body.len() as u64);
    bytes.extend_from_slice(body);
    bytes
}
