//! A PID namespace whose first process is the fork server: when that ends, however it ends, the kernel kills all that is in it.
//!
//! A process in such a namespace has two numbers. By one it is known inside, and `getpid` tells it. By the other it is known to those outside, and in /proc, which
//! stays what it was: it belongs to the namespace in which it was mounted.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};

use super::fork::{self, Side};
use super::poll::{Ready, wait_for};
use super::{failpoint, process};
use crate::error::ExitCause;

/// The number by which /proc knows this process; `None` without /proc.
pub(crate) fn me_in_proc() -> Option<u32> {
    fs::read_link("/proc/self").ok()?.to_str()?.parse().ok()
}

/// Whether /proc knows the processes of this namespace by other numbers.
pub(crate) fn is_foreign() -> bool {
    me_in_proc().is_some_and(|number| number != std::process::id())
}

/// The number of a process of this namespace in /proc.
pub(crate) fn to_proc(pid: u32) -> Option<u32> {
    if !is_foreign() {
        return Some(pid);
    }
    number_in_proc(super::pidfd::PidFd::open(pid).ok()?.as_fd())
}

/// The number in /proc of the process behind a pidfd, whatever namespace it is in.
pub(crate) fn number_in_proc(pidfd: BorrowedFd<'_>) -> Option<u32> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    // 0 and -1: it is in no namespace of ours, or gone
    field(&info, "Pid:")?.parse().ok().filter(|&pid| pid > 0)
}

/// The numbers in this namespace of those of these processes that are in it, which /proc knows by others.
pub(crate) fn from_proc(found: impl IntoIterator<Item = u32>) -> Vec<u32> {
    let found = found.into_iter();
    if !is_foreign() {
        return found.collect();
    }
    let Some(depth) = numbers("self").map(|numbers| numbers.len()) else { return Vec::new() };
    found.filter_map(|number| numbers(&number.to_string())?.get(depth - 1).copied()).collect()
}

/// The numbers of a process, from the namespace of /proc to its own.
fn numbers(process: &str) -> Option<Vec<u32>> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let numbers = field(&status, "NSpid:")?.split_ascii_whitespace();
    let numbers: Vec<u32> = numbers.map_while(|number| number.parse().ok()).collect();
    (!numbers.is_empty()).then_some(numbers)
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

const WHAT_TO_DO: &str = "the program has no CAP_SYS_ADMIN, and the kernel gives no user namespace either: run it as root, or allow user namespaces \
                          (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns; in a container, another seccomp profile)";

/// Goes on in a new process, the first one of a namespace of its own; this one waits for its end, and ends in the same way without returning. Each of them takes the other one along.
///
/// `parent` is the number in /proc of a process outside with which those inside may share locks: it must be seen from there. The caller has one thread, or is privileged. On an error
/// this process is as it was, but for the user namespace in which it may be. What must not stay open in the process that waits is in `close`, and given back.
pub(crate) fn enter<T>(parent: u32, close: T) -> Result<T, (String, T)> {
    match make(parent) {
        Ok(Side::Parent(first)) => {
            drop(close);
            // the first one's end is the end of all that it has started; this one's ends it, by its parent-death signal
            process::leave_like(fork::await_cause(first))
        }
        Ok(Side::Child) => Ok(close),
        Err(why) => Err((why, close)),
    }
}

/// Makes the namespace and its first process: which of both this is.
fn make(parent: u32) -> Result<Side, String> {
    let refused = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
    if let Err(error) = unshare(CloneFlags::CLONE_NEWPID) {
        if error != nix::Error::EPERM {
            return Err(refused("the kernel gives no PID namespace", &error));
        }
        enter_user_namespace().map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput if fork::threads().is_none_or(|threads| threads > 1) => {
                refused("who is not root gets it in copies of a program only, not in those of a test binary, which have several threads", &error)
            }
            _ => refused(WHAT_TO_DO, &error),
        })?;
    }
    // ends with the process that waits: inside, whose child it is can't be asked, for the number of a parent outside is 0, whoever it is
    let (lifeline, held) = io::pipe().map_err(|error| refused("no pipe", &error))?;
    let side = fork::fork()
        .map_err(|error| refused("no process can be made in a PID namespace", &error))?;
    if matches!(side, Side::Parent(_)) {
        // open until this process ends
        std::mem::forget(held);
    } else {
        drop(held);
        failpoint::at("namespace.forked");
        process::arm_parent_death().map_err(|error| refused("prctl", &error))?;
        if wait_for(lifeline.as_fd(), Ready::ToRead, Duration::ZERO).unwrap_or(false) {
            // it had ended before: the signal will not come
            process::leave_like(ExitCause::Exited(1));
        }
        failpoint::at("first.armed");
        let is_seen = fs::metadata(format!("/proc/{parent}/stat")).is_ok();
        if !is_seen || numbers("self").is_none_or(|numbers| numbers.len() < 2) {
            return Err("/proc does not show there the processes outside: it is mounted with hidepid, or belongs to another namespace".to_owned());
        }
    }
    Ok(side)
}

/// A user namespace in which this user and this group are what they were, and there are no others; and a PID namespace that belongs to it.
fn enter_user_namespace() -> io::Result<()> {
    let (user, group) = (nix::unistd::geteuid(), nix::unistd::getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("{group} {group} 1"))?;
    drop_capabilities()
}

/// Whoever makes a user namespace may do anything in it, which is more than a worker is to have: it could mount file systems there, for one thing.
fn drop_capabilities() -> io::Result<()> {
    /// Of linux/capability.h, version 3.
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    // user 0 would get all of them back with the next program that it executes
    const NOROOT: libc::c_ulong = 1 << 0 | 1 << 1;
    // SAFETY: numbers only.
    let result = unsafe { libc::prctl(libc::PR_SET_SECUREBITS, NOROOT, 0, 0, 0) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let header = Header { version: 0x2008_0522, pid: 0 };
    // effective, permitted and inheritable ones, twice 32 of each
    let none = [0_u32; 6];
    // SAFETY: the kernel reads a header and, with this version, twice three numbers, all of which live as long as the call.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_in_the_files_of_proc() {
        let me = std::process::id();
        assert_eq!(me_in_proc(), Some(me));
        assert!(!is_foreign());
        assert_eq!((to_proc(me), from_proc([me])), (Some(me), vec![me]));
        assert_eq!(numbers("self").unwrap().last(), Some(&me));
        let pidfd = super::super::pidfd::PidFd::open(me).unwrap();
        assert_eq!(number_in_proc(pidfd.as_fd()), Some(me));
        assert_eq!(field("Name:\tx\nNSpid:\t12\t1\n", "NSpid:"), Some("12\t1"));
    }
}
