//! What a process does that forks others: forks, adopts what its descendants leave behind, and collects all of them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use super::namespace;
use crate::error::ExitCause;

/// Which of both processes this is after a fork.
#[derive(Debug)]
pub(crate) enum Side {
    /// The one that has forked, with the number of the other.
    Parent(u32),
    Child,
}

/// Makes a copy of this process.
///
/// Only the calling thread is in the copy. The caller sees to it that there are no others that could hold a lock.
pub(crate) fn fork() -> io::Result<Side> {
    // SAFETY: the caller's process has one thread (or, in a test binary, others that wait), so the copy finds no lock held by a thread that it
    // does not have.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => {
            Ok(Side::Parent(child.as_raw().unsigned_abs()))
        }
        nix::unistd::ForkResult::Child => Ok(Side::Child),
    }
}

/// Makes `pid`, this process (0) or a child of it, the leader of a process group of its own.
pub(crate) fn lead_group(pid: u32) {
    let pid = Pid::from_raw(pid as i32);
    // done already by the other side, or the child is gone: both are fine
    let _ = nix::unistd::setpgid(pid, pid);
}

/// Descendants whose parents end become children of this process.
pub(crate) fn become_subreaper() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// Becomes readable when a child ends, if this is the only thread. The signal itself is blocked from now on, and in children until they undo it.
#[derive(Debug)]
pub(crate) struct ChildSignals(SignalFd);

impl ChildSignals {
    pub(crate) fn block() -> io::Result<ChildSignals> {
        let signals = SigSet::from(Signal::SIGCHLD);
        pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&signals), None)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(ChildSignals(SignalFd::with_flags(&signals, flags)?))
    }

    /// Takes what is there: one signal, however many children have ended. One that comes now makes it readable again.
    pub(crate) fn drain(&self) {
        let _ = self.0.read_signal();
    }

    /// In a child: the signal has its usual meaning again.
    pub(crate) fn unblock(self) {
        let signals = SigSet::from(Signal::SIGCHLD);
        // can't fail with this number
        let _ = pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&signals), None);
    }
}

impl AsFd for ChildSignals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// How a child has ended, if it has. It stays a zombie, so that its number is its own until [`reap`].
pub(crate) fn ended(pid: u32) -> Option<ExitCause> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    match waitid(Id::Pid(Pid::from_raw(pid as i32)), flags) {
        Ok(WaitStatus::StillAlive) | Err(nix::Error::EINTR) => None,
        Ok(WaitStatus::Exited(_, code)) => Some(ExitCause::Exited(code)),
        Ok(WaitStatus::Signaled(_, signal, core_dumped)) => {
            Some(ExitCause::Signaled { signal: signal as i32, core_dumped })
        }
        Ok(_) | Err(_) => Some(ExitCause::Unknown),
    }
}

/// A child that has ended, if there is any. It stays a zombie.
pub(crate) fn any_ended() -> Option<u32> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    let pid = waitid(Id::All, flags).ok()?.pid()?;
    Some(pid.as_raw().unsigned_abs())
}

/// Collects a child that has ended.
pub(crate) fn reap(pid: u32) {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
    // not a child, or not ended: nothing to collect
    let _ = waitid(Id::Pid(Pid::from_raw(pid as i32)), flags);
}

/// Waits for the end of a child that was killed, and collects it.
pub(crate) fn await_end(pid: u32) {
    let id = Pid::from_raw(pid as i32);
    while waitid(Id::Pid(id), WaitPidFlag::WEXITED) == Err(nix::Error::EINTR) {}
}

/// Waits for the end of a child, and collects it.
pub(crate) fn await_cause(pid: u32) -> ExitCause {
    let id = Pid::from_raw(pid as i32);
    loop {
        match waitid(Id::Pid(id), WaitPidFlag::WEXITED) {
            Err(nix::Error::EINTR) => {}
            Ok(WaitStatus::Exited(_, code)) => return ExitCause::Exited(code),
            Ok(WaitStatus::Signaled(_, signal, core_dumped)) => {
                return ExitCause::Signaled { signal: signal as i32, core_dumped };
            }
            Ok(_) | Err(_) => return ExitCause::Unknown,
        }
    }
}

/// The children of this process, adopted ones included, which nobody but the caller collects meanwhile. Needs /proc.
pub(crate) fn children() -> Vec<u32> {
    // the kernel lists them by thread; without that list, they are among all processes
    match listed_children() {
        Ok(children) if !children.is_empty() || !has_children() => children,
        _ => searched_children(),
    }
}

fn listed_children() -> io::Result<Vec<u32>> {
    let mut children = Vec::new();
    for thread in std::fs::read_dir("/proc/self/task")? {
        let list = std::fs::read_to_string(thread?.path().join("children"))?;
        let listed = list.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok());
        children.extend(listed);
    }
    Ok(namespace::from_proc(children))
}

/// Whether there is any child. None is collected.
fn has_children() -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::All, flags) != Err(nix::Error::ECHILD)
}

fn searched_children() -> Vec<u32> {
    let Some(me) = namespace::me_in_proc() else { return Vec::new() };
    let me = me.to_string();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let children = pids.filter(|pid| parent_of(*pid).as_deref() == Some(&*me));
    namespace::from_proc(children)
}

/// The second field after the name, which may contain anything.
fn parent_of(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(1).map(str::to_owned)
}

/// How many threads this process has; `None` without /proc.
pub(crate) fn threads() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/task").ok()?.count())
}

/// A connected pair of sockets that keep messages apart, closed on exec.
pub(crate) fn message_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}
