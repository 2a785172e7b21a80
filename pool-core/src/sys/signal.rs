//! Signals: names, and sending them to a worker's process group.

use std::io;
use std::marker::PhantomData;

use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, killpg, pthread_sigmask};
use nix::unistd::Pid;

/// The number of SIGKILL.
pub(crate) const KILL: i32 = Signal::SIGKILL as i32;

/// `SIGSEGV` for 11.
pub(crate) fn name(signal: i32) -> Option<&'static str> {
    Signal::try_from(signal).ok().map(Signal::as_str)
}

/// What the pool sends to a worker's process group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GroupSignal {
    /// SIGTERM, and SIGCONT so that a stopped process gets it too.
    Terminate,
    /// SIGKILL.
    Kill,
    /// SIGSTOP.
    Stop,
    /// SIGCONT.
    Continue,
}

/// Sends to all processes of the group that `leader` leads. The caller must not have reaped `leader`: its number can't be
/// in use for something else as long as it is at least a zombie.
pub(crate) fn send_to_group(leader: u32, signal: GroupSignal) -> io::Result<()> {
    let group = Pid::from_raw(i32::try_from(leader).map_err(io::Error::other)?);
    if group.as_raw() <= 1 {
        return Err(io::Error::other("not a worker's process group"));
    }
    match signal {
        GroupSignal::Terminate => {
            killpg(group, Signal::SIGTERM)?;
            killpg(group, Signal::SIGCONT)?;
        }
        GroupSignal::Kill => killpg(group, Signal::SIGKILL)?,
        GroupSignal::Stop => killpg(group, Signal::SIGSTOP)?,
        GroupSignal::Continue => killpg(group, Signal::SIGCONT)?,
    }
    Ok(())
}

/// Like [`send_to_group`], and to `leader` itself if it has left its group.
pub(crate) fn send_to_child(leader: u32, signal: GroupSignal) -> io::Result<()> {
    let sent = send_to_group(leader, signal);
    let pid = Pid::from_raw(i32::try_from(leader).map_err(io::Error::other)?);
    if pid.as_raw() <= 1 || nix::unistd::getpgid(Some(pid)) == Ok(pid) {
        return sent;
    }
    match signal {
        GroupSignal::Terminate => {
            kill(pid, Signal::SIGTERM)?;
            kill(pid, Signal::SIGCONT)?;
        }
        GroupSignal::Kill => kill(pid, Signal::SIGKILL)?,
        GroupSignal::Stop => kill(pid, Signal::SIGSTOP)?,
        GroupSignal::Continue => kill(pid, Signal::SIGCONT)?,
    }
    Ok(())
}

/// Gives the signals by which a process is asked to end, and SIGCHLD, their default meaning again if this process has inherited
/// that they are ignored or blocked: a worker must be stoppable, and a task must be able to wait for what it starts.
pub(crate) fn restore_defaults() {
    let signals = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGCHLD];
    // can't fail with these numbers
    let _ = pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&SigSet::from_iter(signals)), None);
    for signal in signals {
        // SAFETY: the default action runs no code of this process; called first thing in a fresh worker, which has no handlers.
        let _ = unsafe { nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigDfl) };
    }
}

/// Keeps SIGTERM from the calling thread, and from those that it starts, until it is dropped: one that has come meanwhile arrives then.
#[derive(Debug)]
pub(crate) struct TermHeldBack {
    before: SigSet,
    /// The mask is one of the thread.
    _thread: PhantomData<*const ()>,
}

impl TermHeldBack {
    pub(crate) fn new() -> TermHeldBack {
        let mut before = SigSet::empty();
        // can't fail with this number
        let term = SigSet::from(Signal::SIGTERM);
        let _ = pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&term), Some(&mut before));
        TermHeldBack { before, _thread: PhantomData }
    }
}

impl Drop for TermHeldBack {
    fn drop(&mut self) {
        // as above
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None);
    }
}
