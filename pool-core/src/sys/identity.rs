//! Who holds something in shared memory, and whether that process is still there.
//!
//! A [`Token`] names one process for ever: its number, and the time at which it was started, because numbers are used again. It fits
//! into 62 bits, so a lock word can hold it together with two flags, and to take a lock is one compare-and-swap.
//!
//! The number is that of /proc, which is the same for all, also for processes in a PID namespace of their own (see [`namespace`]).

use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::sync::Once;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::namespace;

/// Process numbers on Linux are below 2^22.
const PID_BITS: u32 = 22;
/// Start times are ticks since the machine was started, 100 per second: 2^40 of them are 350 years.
const START_BITS: u32 = 40;

/// How many bits of a [`Token`] are used.
pub(crate) const TOKEN_BITS: u32 = PID_BITS + START_BITS;

/// A process; never 0.
pub(crate) type Token = u64;

/// This process, as soon as somebody has asked; 0 before, and in a copy that was made by `fork`.
static ME: AtomicU64 = AtomicU64::new(0);

/// Whether this process is known to others by another number than to itself. Known when [`ME`] is.
static FOREIGN: AtomicBool = AtomicBool::new(false);

/// This process.
#[inline]
pub(crate) fn me() -> Token {
    // with what was found out before it was stored
    match ME.load(Acquire) {
        0 => find_out(),
        me => me,
    }
}

#[cold]
fn find_out() -> Token {
    extern "C" fn forget() {
        ME.store(0, Relaxed);
    }
    static FORGET: Once = Once::new();
    // SAFETY: the handler only stores to an atomic, which is fine in a child of a process with threads. Failing, for lack of memory, leaves a copy that takes
    // itself for its parent.
    FORGET.call_once(|| unsafe {
        libc::pthread_atfork(None, None, Some(forget));
    });
    // known to those outside too, if this process is in a PID namespace below that of /proc
    let pid = namespace::me_in_proc().unwrap_or_else(std::process::id);
    FOREIGN.store(pid != std::process::id(), Relaxed);
    let me = token(pid, started(pid).unwrap_or(0));
    ME.store(me, Release);
    me
}

fn token(pid: u32, start: u64) -> Token {
    (start & ((1 << START_BITS) - 1)) << PID_BITS | u64::from(pid) & ((1 << PID_BITS) - 1)
}

/// A process that this one has started and not collected.
#[cfg(test)]
pub(crate) fn token_of(child: u32) -> Token {
    token(child, started(child).unwrap_or(0))
}

/// Whether all threads of the process have ended: it will never write to shared memory again. A few system calls.
///
/// A zombie has ended, whoever may reap it and when. Without /proc, a stranger with the number of the dead is taken for the dead one.
pub(crate) fn is_gone(token: Token) -> bool {
    if token == me() {
        return false;
    }
    let pid = (token & ((1 << PID_BITS) - 1)) as u32;
    let start = token >> PID_BITS;
    if pid == 0 {
        // no token: something has been overwritten
        return true;
    }
    if FOREIGN.load(Relaxed) {
        return is_gone_from_proc(pid, start);
    }
    let process = match open(pid) {
        Ok(process) => process,
        // no such process, or the number is that of a thread now. Any other error tells nothing; without a free descriptor, a zombie is not known.
        Err(error) => {
            let code = error.raw_os_error();
            let dead = [libc::ESRCH, libc::EINVAL, libc::ENOENT].map(Some).contains(&code);
            let number = nix::unistd::Pid::from_raw(pid as libc::pid_t);
            return dead || nix::sys::signal::kill(number, None) == Err(nix::Error::ESRCH);
        }
    };
    let mut ended = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    if poll(&mut ended, PollTimeout::ZERO).is_ok_and(|count| count > 0) {
        return true;
    }
    // its number may belong to another one by now
    start != 0 && started(pid).is_some_and(|now| now & ((1 << START_BITS) - 1) != start)
}

/// The same by /proc alone, for processes that may be in other namespaces, whose numbers are known there only.
fn is_gone_from_proc(number: u32, start: u64) -> bool {
    let stat = match std::fs::read_to_string(format!("/proc/{number}/stat")) {
        Ok(stat) => stat,
        // any other error tells nothing; ESRCH: it has ended while it was read
        Err(error) => {
            return error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(libc::ESRCH);
        }
    };
    let Some((_, rest)) = stat.rsplit_once(')') else { return false };
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
    // the first thread of a process is a zombie already while others still run
    let is_zombie = matches!(fields.first(), Some(&("Z" | "X"))) && number(17) <= Some(1);
    is_zombie || start != 0 && number(19).is_some_and(|now| now & ((1 << START_BITS) - 1) != start)
}

fn open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: two integers in, a new descriptor out, which is nobody else's.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd as libc::c_int))
    }
}

/// When the process was started, in ticks.
fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // the name may hold spaces and brackets; the 22nd field is the 20th after it
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_zombie_is_gone_and_a_live_process_is_not() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let name = token(child.id(), started(child.id()).unwrap());
        assert!(!is_gone(name));
        let other = token(child.id(), started(child.id()).unwrap() + 1);
        assert!(is_gone(other), "the number belongs to another process now");
        child.kill().unwrap();
        let zombie = || started(child.id()).is_some() && is_gone(name);
        while !zombie() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(is_gone(name));
        assert!(!is_gone(me()));
    }

    #[test]
    fn proc_alone_tells_the_same() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let start = started(child.id()).unwrap();
        assert!(!is_gone_from_proc(child.id(), start));
        assert!(!is_gone_from_proc(child.id(), 0));
        assert!(is_gone_from_proc(child.id(), start + 1));
        child.kill().unwrap();
        while !is_gone_from_proc(child.id(), start) {
            std::thread::yield_now();
        }
        assert!(started(child.id()).is_some(), "a zombie is gone");
        child.wait().unwrap();
        assert!(is_gone_from_proc(child.id(), start));
    }

    #[test]
    fn tokens_leave_room_for_two_flags() {
        assert!(me() >> TOKEN_BITS == 0 && me() != 0);
        assert!(token(u32::MAX, u64::MAX) >> TOKEN_BITS == 0);
    }
}
