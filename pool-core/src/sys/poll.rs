//! Waiting for descriptors: an epoll set for the pool's own thread, a plain poll for a caller, and doorbells.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;
use std::time::Duration;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// The set of descriptors that the pool's thread watches, each with a token.
#[derive(Debug)]
pub(crate) struct Watch(Epoll);

impl Watch {
    pub(crate) fn new() -> io::Result<Watch> {
        Ok(Watch(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?))
    }

    /// Reports `token` as long as `fd` is readable, at its end, or a process that has ended.
    pub(crate) fn add(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        Ok(self.0.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token))?)
    }

    pub(crate) fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(self.0.delete(fd)?)
    }

    /// Waits until something is reported or `timeout_ns` has passed (`None`: for ever), and appends the tokens to `tokens`.
    pub(crate) fn wait(&self, timeout_ns: Option<u64>, tokens: &mut Vec<u64>) -> io::Result<()> {
        let timeout = match timeout_ns {
            None => EpollTimeout::NONE,
            // rounded up: waking early would only mean to wait again
            Some(ns) => EpollTimeout::try_from(ns.div_ceil(1_000_000).min(60_000) as u32)
                .unwrap_or(EpollTimeout::ZERO),
        };
        let mut events = [EpollEvent::empty(); 64];
        match self.0.wait(&mut events, timeout) {
            Ok(count) => tokens.extend(events[..count].iter().map(EpollEvent::data)),
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// Wakes a thread that sleeps on a descriptor. Rings coalesce; ringing never blocks.
#[derive(Debug)]
pub(crate) struct Doorbell {
    event: EventFd,
    /// Set while somebody sleeps, so that ringing costs a system call only then.
    armed: AtomicBool,
}

impl Doorbell {
    pub(crate) fn new() -> io::Result<Doorbell> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Doorbell { event, armed: AtomicBool::new(false) })
    }

    /// To be called before the last look at what is waited for.
    pub(crate) fn arm(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }

    /// To be called after waking up; `rung` if the bell was reported. A ring that is under way now is reported by the next sleep.
    pub(crate) fn disarm(&self, rung: bool) {
        self.armed.store(false, Ordering::SeqCst);
        if rung {
            // empty or interrupted: either way nothing is left to be read
            let _ = self.event.read();
        }
    }

    /// Wakes the sleeper, if there is one.
    pub(crate) fn ring(&self) {
        if self.armed.swap(false, Ordering::SeqCst) {
            // a full counter means that the bell is ringing already
            let _ = self.event.write(1);
        }
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

impl Wake for Doorbell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}

/// Waits until one of these is readable, at its end, or a process that has ended, at most `timeout_ns` (`None`: for ever), or a signal came. Tells which
/// are.
pub(crate) fn wait_any_readable(
    fds: &[BorrowedFd<'_>],
    timeout_ns: Option<u64>,
) -> io::Result<Vec<bool>> {
    let fds = fds.iter().map(|&fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    wait_any(fds, timeout_ns)
}

/// The same, but of the first one only its end is waited for.
pub(crate) fn wait_end_or_any_readable(
    fds: &[BorrowedFd<'_>],
    timeout_ns: Option<u64>,
) -> io::Result<Vec<bool>> {
    // the end of the stream is told in any case
    let flags = [PollFlags::empty()].into_iter().chain(std::iter::repeat(PollFlags::POLLIN));
    wait_any(fds.iter().zip(flags).map(|(&fd, flags)| PollFd::new(fd, flags)).collect(), timeout_ns)
}

fn wait_any(mut fds: Vec<PollFd<'_>>, timeout_ns: Option<u64>) -> io::Result<Vec<bool>> {
    let timeout = match timeout_ns {
        None => PollTimeout::NONE,
        Some(ns) => {
            PollTimeout::try_from(ns.div_ceil(1_000_000).min(u64::from(i32::MAX as u32)) as u32)
                .unwrap_or(PollTimeout::ZERO)
        }
    };
    match nix::poll::poll(&mut fds, timeout) {
        Ok(_) => {}
        Err(nix::Error::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(fds.iter().map(|fd| fd.any() == Some(true)).collect())
}

/// What a descriptor is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    ToRead,
    ToWrite,
}

/// Waits until the descriptor can be read or written, or its other end is gone, at most so long (a minute). Returns whether it can; a signal may end the wait
/// early.
pub(crate) fn wait_for(fd: BorrowedFd<'_>, ready: Ready, limit: Duration) -> io::Result<bool> {
    let flags = match ready {
        Ready::ToRead => PollFlags::POLLIN,
        Ready::ToWrite => PollFlags::POLLOUT,
    };
    let ms = limit.as_nanos().div_ceil(1_000_000).min(60_000) as u32;
    let timeout = PollTimeout::try_from(ms).unwrap_or(PollTimeout::ZERO);
    match nix::poll::poll(&mut [PollFd::new(fd, flags)], timeout) {
        Ok(count) => Ok(count > 0),
        Err(nix::Error::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether the other end of a stream is gone.
pub(crate) fn has_hung_up(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::empty())];
    nix::poll::poll(&mut fds, PollTimeout::ZERO).is_ok_and(|count| count > 0)
}

/// Waits until the stream is readable or at its end or the bell rings, at most `timeout_ns` (`None`: for ever), or a signal came. Returns whether
/// the bell was rung.
pub(crate) fn wait_either(
    stream: BorrowedFd<'_>,
    bell: &Doorbell,
    timeout_ns: Option<u64>,
) -> io::Result<bool> {
    let timeout = match timeout_ns {
        None => PollTimeout::NONE,
        Some(ns) => PollTimeout::try_from(ns.div_ceil(1_000_000).min(60_000) as u32)
            .unwrap_or(PollTimeout::ZERO),
    };
    let mut fds =
        [PollFd::new(stream, PollFlags::POLLIN), PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
    match nix::poll::poll(&mut fds, timeout) {
        Ok(_) => Ok(fds[1].any() == Some(true)),
        Err(nix::Error::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Waits until the descriptor is readable, or until the deadline; returns whether it is.
pub(crate) fn wait_readable(fd: BorrowedFd<'_>, deadline: Option<Instant>) -> io::Result<bool> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = match left {
            None => PollTimeout::NONE,
            Some(left) => {
                let ms = left.as_micros().div_ceil(1000).min(60_000) as u32;
                PollTimeout::try_from(ms).unwrap_or(PollTimeout::ZERO)
            }
        };
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        match nix::poll::poll(&mut fds, timeout) {
            Ok(0) if left.is_some_and(|left| left.is_zero()) => return Ok(false),
            Ok(0) | Err(nix::Error::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}

/// A descriptor that becomes readable when its waker is woken, and stays so.
#[derive(Debug)]
pub(crate) struct Sentinel(EventFd);

impl Sentinel {
    pub(crate) fn new() -> io::Result<Sentinel> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Sentinel(event))
    }

    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.0.as_fd().try_clone_to_owned()
    }
}

impl Wake for Sentinel {
    fn wake(self: Arc<Self>) {
        // a full counter is readable already
        let _ = self.0.write(1);
    }
}
