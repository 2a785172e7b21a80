//! Signals: names, and sending them to a worker's process group.

use std::io;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

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
    }
    Ok(())
}
