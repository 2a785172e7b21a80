//! Time that must not be held against a task, and patience that must end: pauses of this process, and workers that stand still.

use super::core::{Core, Effects};
use crate::backend::process::link::Still;
use crate::ids::WorkerKey;
use crate::limits::{PAUSE_NS, PAUSES, STILL_NS};
use crate::sched::Event;
use crate::sys::signal::GroupSignal;
use crate::transport::status::Progress;

impl Core {
    /// Whether this process did not run although it should have (SIGSTOP, a frozen container, a machine that swaps): what has happened meanwhile is
    /// read first, and only at the next turn the clock is looked at, without the time of the pause.
    pub(super) fn was_paused(&mut self, now: u64) -> bool {
        let from = std::mem::replace(&mut self.last_turn, now);
        let late = now.saturating_sub(self.sleeps_until.max(from)) > PAUSE_NS;
        if !late || self.excused {
            self.excused = false;
            return false;
        }
        self.excused = true;
        if self.pauses.len() == PAUSES {
            self.pauses.remove(0);
        }
        self.pauses.push((from, now));
        self.sched.excuse(now.saturating_sub(from));
        true
    }

    /// How much of the time since then was a pause.
    pub(super) fn excused_since(&self, since: u64) -> u64 {
        let overlap = |&(from, to): &(u64, u64)| to.saturating_sub(from.max(since));
        self.pauses.iter().map(overlap).sum()
    }

    /// Ends a worker that holds a task with a time limit and does not move: it has not started the task, or it has finished it and the reply stands
    /// still. (A running task is judged by its limit.) A stopped worker, mostly.
    pub(super) fn check_still(&mut self, worker: WorkerKey, now: u64, effects: &mut Effects) {
        let Some((still, limit)) = self.standing(worker, now) else { return };
        let Some(link) = self.process_mut(worker) else { return };
        let known = link.still.filter(|known| Still { since: now, ..*known } == still);
        let since = known.unwrap_or(still).since;
        link.still = Some(Still { since, ..still });
        let patience = limit.max(STILL_NS).saturating_add(self.excused_since(since));
        let due = since.saturating_add(patience);
        if due > now {
            self.next_limit_check = self.next_limit_check.min(due);
        } else if still.is_over {
            self.event(Event::Expired { worker, lease: still.lease }, now, effects);
        } else if let Some(link) = self.process_mut(worker) {
            // nothing was started, so nothing is lost: others get its tasks when it is gone
            link.killed = true;
            link.signal(GroupSignal::Kill);
        }
    }

    fn standing(&self, worker: WorkerKey, now: u64) -> Option<(Still, u64)> {
        let link = self.link(worker)?.as_process()?;
        let (task, lease) = self.sched.worker(worker)?.running_order().next()?;
        let limit = self.bodies.get(task.index())?.as_ref()?.limits().hard_ns?;
        let is_over = match link.page.progress(lease) {
            Progress::Queued => false,
            Progress::Over => true,
            Progress::Started { .. } | Progress::Scribbled => return None,
        };
        Some((Still { lease, is_over, moved: link.moved(), since: now }, limit))
    }
}
