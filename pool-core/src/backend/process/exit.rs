//! What the end of a worker process means.

use crate::error::ExitCause;
use crate::sys::process;
use crate::sys::signal::KILL;

/// What a dead worker can have left unread is less than one round; a descendant that holds its socket could go on for ever.
pub(crate) const LAST_ROUNDS: usize = 4;

/// The cause that is told, from the collected status: the process was killed for what it sent (`violated`), or by us for another reason (`killed`), or
/// otherwise.
///
/// The kernel counts its out-of-memory kills for the whole machine, and tells nobody whom it killed. So a SIGKILL that we did not send is
/// taken for one if the count has gone up since a worker was last started or lost, as `oom_kills` says: a good guess, and no more.
pub(crate) fn judge(
    exit: ExitCause,
    violated: bool,
    killed: bool,
    oom_kills: &mut Option<u64>,
) -> ExitCause {
    let before = std::mem::replace(oom_kills, process::oom_kills());
    let out_of_memory = matches!(exit, ExitCause::Signaled { signal: KILL, .. })
        && matches!((before, *oom_kills), (Some(before), Some(now)) if now > before);
    if violated {
        ExitCause::Protocol
    } else if out_of_memory && !killed {
        ExitCause::OutOfMemory
    } else {
        exit
    }
}
