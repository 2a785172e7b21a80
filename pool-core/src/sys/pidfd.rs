//! A child by descriptor: its end can be polled for, and its number can't be confused with a stranger's.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use super::namespace;
use crate::error::ExitCause;

/// A child process that this process has started and not yet reaped.
#[derive(Debug)]
pub(crate) struct PidFd(OwnedFd);

impl PidFd {
    /// Opens a child of this process. Free of races as long as nobody else reaps it.
    pub(crate) fn open(pid: u32) -> io::Result<PidFd> {
        // SAFETY: pidfd_open takes two integers and returns a new descriptor (close-on-exec by definition).
        unsafe {
            let fd = libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(PidFd(OwnedFd::from_raw_fd(fd as libc::c_int)))
        }
    }

    /// The number by which this program can name the process, also if that is in a PID namespace of its own; `None` if it is gone, or /proc is not that of this program's namespace.
    pub(crate) fn number(&self) -> Option<u32> {
        namespace::from_proc(namespace::number_in_proc(self.0.as_fd())).pop()
    }

    /// One of no process: what is asked of it is answered as if nobody knew.
    #[cfg(test)]
    pub(crate) fn of_nobody() -> PidFd {
        PidFd(std::fs::File::open("/dev/null").expect("a descriptor").into())
    }

    /// Sends SIGKILL to this one process.
    pub(crate) fn kill(&self) -> io::Result<()> {
        // SAFETY: integers and a null pointer, which means "no siginfo".
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                libc::SIGKILL,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Waits for the end of a process that was killed, and forgets it.
    pub(crate) fn reap(&self) {
        while waitid(Id::PIDFd(self.0.as_fd()), WaitPidFlag::WEXITED) == Err(nix::Error::EINTR) {}
    }

    /// Collects the exit status if the process has ended; `None` if it runs. Never blocks.
    pub(crate) fn try_reap(&self) -> Option<ExitCause> {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        match waitid(Id::PIDFd(self.0.as_fd()), flags) {
            Ok(WaitStatus::StillAlive) | Err(nix::Error::EINTR) => None,
            Ok(WaitStatus::Exited(_, code)) => Some(ExitCause::Exited(code)),
            Ok(WaitStatus::Signaled(_, signal, core_dumped)) => {
                Some(ExitCause::Signaled { signal: signal as i32, core_dumped })
            }
            // ECHILD: SIGCHLD is ignored in this program, or somebody waits for any child
            Ok(_) | Err(_) => Some(ExitCause::Unknown),
        }
    }
}

/// Whether a child that was not reaped yet has ended. Its status is left where it is.
pub(crate) fn has_ended(child: u32) -> bool {
    let Ok(number) = i32::try_from(child) else { return true };
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    // an error means that there is no such child: the kernel has reaped it
    !matches!(
        waitid(Id::Pid(Pid::from_raw(number)), flags),
        Ok(WaitStatus::StillAlive) | Err(nix::Error::EINTR)
    )
}

impl From<OwnedFd> for PidFd {
    fn from(fd: OwnedFd) -> PidFd {
        PidFd(fd)
    }
}

impl From<PidFd> for OwnedFd {
    fn from(pidfd: PidFd) -> OwnedFd {
        pidfd.0
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
