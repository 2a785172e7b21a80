//! Files without a name that take what a process prints, and pipes for the same purpose.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// A file for a standard stream. Everybody appends, so that it can be emptied between two tasks.
pub(crate) fn capture_file() -> io::Result<OwnedFd> {
    let file = memfd_create(c"pool-core output", MFdFlags::MFD_CLOEXEC)?;
    fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
    Ok(file)
}

/// The beginning of what was printed, at most `limit` bytes.
pub(crate) fn read_captured(file: BorrowedFd<'_>, limit: usize) -> io::Result<Vec<u8>> {
    let file = File::from(file.try_clone_to_owned()?);
    let len = file.metadata()?.len().min(limit as u64);
    let mut content = vec![0; len as usize];
    let mut read = 0;
    while read < content.len() {
        match file.read_at(&mut content[read..], read as u64)? {
            0 => break,
            more => read += more,
        }
    }
    content.truncate(read);
    Ok(content)
}

/// The end of what was printed, at most `limit` bytes.
pub(crate) fn read_captured_end(file: BorrowedFd<'_>, limit: usize) -> io::Result<Vec<u8>> {
    let file = File::from(file.try_clone_to_owned()?);
    let len = file.metadata()?.len();
    let mut content = vec![0; len.min(limit as u64) as usize];
    // it may be shrinking: a descendant of a dead worker has it too
    let start = len - content.len() as u64;
    let read = file.read_at(&mut content, start)?;
    content.truncate(read);
    Ok(content)
}

/// Takes out what this process has printed on a standard stream that is such a file.
pub(crate) fn take_captured(file: BorrowedFd<'_>, limit: usize) -> io::Result<Vec<u8>> {
    if nix::sys::stat::fstat(file)?.st_size == 0 {
        return Ok(Vec::new());
    }
    let content = read_captured(file, limit)?;
    nix::unistd::ftruncate(file, 0)?;
    Ok(content)
}

/// Makes what the C library has buffered for its standard output go out.
pub(crate) fn flush_c_streams() {
    // SAFETY: a null pointer means all streams.
    unsafe { libc::fflush(std::ptr::null_mut()) };
}

/// Reads of this end give an error instead of waiting.
pub(crate) fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
    fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
