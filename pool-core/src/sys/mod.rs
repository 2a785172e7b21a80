//! The only place for libc and nix: processes, signals, sockets, shared memory, polling, the clock.
//!
//! `unsafe` is allowed here and nowhere near the logic; each block argues for itself.
#![expect(unsafe_code, reason = "system calls and mappings; see the SAFETY lines")]

pub(crate) mod cache;
pub(crate) mod capture;
pub(crate) mod cgroup;
pub(crate) mod clock;
#[cfg(not(feature = "failpoints"))]
pub(crate) mod failpoint;
#[cfg(feature = "failpoints")]
pub mod failpoint;
pub(crate) mod fork;
pub(crate) mod futex;
pub(crate) mod identity;
pub(crate) mod launch;
pub(crate) mod memory;
pub(crate) mod namespace;
pub(crate) mod pidfd;
pub(crate) mod poll;
pub(crate) mod process;
pub(crate) mod sandbox;
pub(crate) mod signal;
pub(crate) mod socket;
mod syscalls;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A second, close-on-exec descriptor of the same open file as `fd`, which is only a number here.
///
/// Fails with `EBADF` if the number is not an open descriptor.
pub(crate) fn duplicate_number(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC does not touch memory; the kernel checks the number, and the result is a new descriptor
    // that nobody else owns.
    unsafe {
        let new = check(libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3))?;
        Ok(std::os::fd::FromRawFd::from_raw_fd(new))
    }
}

/// Makes descriptor `number`, which must be open and owned by somebody, refer to the open file of `source`, closed on exec.
pub(crate) fn replace_number(source: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    // SAFETY: dup3 does not touch memory. Ownership of `number` does not change: its owner goes on to own the descriptor of
    // that number, which now refers to another open file.
    unsafe { check(libc::dup3(source.as_raw_fd(), number, libc::O_CLOEXEC)) }.map(drop)
}

/// The inode of an open file: the same for all descriptors of one socket.
pub(crate) fn inode(fd: BorrowedFd<'_>) -> io::Result<u64> {
    nix::sys::stat::fstat(fd).map(|stat| stat.st_ino).map_err(io::Error::from)
}
