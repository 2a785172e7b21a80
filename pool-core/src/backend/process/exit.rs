//! What the end of a worker process means.

use std::collections::HashMap;

use super::link::ProcessLink;
use crate::error::ExitCause;
use crate::limits::OOM_WINDOW_NS;
use crate::sys::cgroup::Place;
use crate::sys::process;
use crate::sys::signal::KILL;

/// What a dead worker can have left unread is less than one round; a descendant that holds its socket could go on for ever.
pub(crate) const LAST_ROUNDS: usize = 4;

/// The cause that is told, from the collected status: the process was killed for what it sent, or by us for another reason (`killed`), or otherwise.
pub(crate) fn judge(
    exit: ExitCause,
    link: &ProcessLink,
    killed: bool,
    kills: &mut OomKills,
    now: u64,
) -> ExitCause {
    if link.violated {
        ExitCause::Protocol
    } else if matches!(exit, ExitCause::Signaled { signal: KILL, .. })
        && !killed
        && kills.explain(link, now)
    {
        ExitCause::OutOfMemory
    } else {
        exit
    }
}

/// The kernel's out-of-memory kills, by the groups in which workers are counted.
///
/// The kernel tells nobody whom it killed. It counts its kills for each memory cgroup and for the whole machine. Of a worker with a group of its own that says all. Others share theirs with
/// the pool, so a SIGKILL that we did not send is taken for such a kill if the count of the group has gone up since a worker of it was last started or killed: a good guess. Only where groups
/// tell nothing it is the count of the machine.
#[derive(Debug, Default)]
pub(crate) struct OomKills {
    groups: HashMap<Option<Place>, Tally>,
    /// Of which group, and when, the counts were read at the last start that has read them.
    looked: Option<(Option<Place>, u64)>,
}

impl OomKills {
    /// A worker is started: what was counted before explains no end later. What was counted within [the window](OOM_WINDOW_NS) may explain one in any case, so if workers are
    /// started one after the other, the counts are read once in that time: reading them takes as long as a quarter of a start.
    pub(crate) fn on_start(&mut self, home: Option<&Place>, now: u64) {
        let is_known = |(place, at): &(Option<Place>, u64)| {
            place.as_ref() == home && now.saturating_sub(*at) < OOM_WINDOW_NS
        };
        if self.looked.as_ref().is_some_and(is_known) {
            return;
        }
        self.look(None, process::oom_kills(), now);
        self.look(home, home.and_then(Place::oom_kills), now);
        self.looked = Some((home.cloned(), now));
    }

    /// `first` is what had been counted in a group that was never looked at: a worker has been moved there.
    fn look(&mut self, home: Option<&Place>, first: Option<u64>, now: u64) {
        let (place, count) = count(home);
        let tally = self.groups.entry(place).or_insert(Tally { seen: first, ..Tally::default() });
        tally.look(count, now);
    }

    /// Whether this worker's end by SIGKILL is explained by such a kill, which then explains no other one.
    fn explain(&mut self, link: &ProcessLink, now: u64) -> bool {
        if let Some(group) = &link.group {
            return group.had_oom_kill();
        }
        self.look(link.home.as_ref(), Some(0), now);
        let (place, _) = count(link.home.as_ref());
        self.groups.get_mut(&place).is_some_and(|tally| tally.take(now))
    }
}

/// The count that applies, and what it is the count of; `None` is the machine.
fn count(home: Option<&Place>) -> (Option<Place>, Option<u64>) {
    match home.map(|home| (home, home.oom_kills())) {
        Some((home, Some(kills))) => (Some(home.clone()), Some(kills)),
        _ => (None, process::oom_kills()),
    }
}

#[derive(Debug, Default)]
struct Tally {
    seen: Option<u64>,
    /// Kills that have explained no end yet, and until when they may.
    unexplained: u64,
    until: u64,
}

impl Tally {
    fn look(&mut self, count: Option<u64>, now: u64) {
        if let (Some(before), Some(count)) = (self.seen, count)
            && count > before
        {
            let left = if now > self.until { 0 } else { self.unexplained };
            (self.unexplained, self.until) = (left + count - before, now + OOM_WINDOW_NS);
        }
        self.seen = count.or(self.seen);
    }

    fn take(&mut self, now: u64) -> bool {
        let any = self.unexplained > 0 && now <= self.until;
        self.unexplained -= u64::from(any);
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_explains_one_end_and_only_for_a_while() {
        let mut tally = Tally { seen: Some(3), ..Tally::default() };
        tally.look(Some(3), 0);
        assert!(!tally.take(0), "nothing was killed");
        // two at once are both explained, a third is not
        tally.look(Some(5), 10);
        tally.look(Some(5), 11);
        assert!(tally.take(11) && tally.take(12) && !tally.take(13));
        // one that explained nothing in time was of another process
        tally.look(Some(6), 20);
        assert!(!tally.take(21 + OOM_WINDOW_NS));
        tally.look(Some(7), 30 + OOM_WINDOW_NS);
        let now = 31 + OOM_WINDOW_NS;
        assert!(tally.take(now) && !tally.take(now), "the old one is forgotten");
        // a count that can't be read for once tells nothing
        tally.look(None, now);
        assert!(!tally.take(now));
    }
}
