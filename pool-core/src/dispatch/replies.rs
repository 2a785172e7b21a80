//! What workers say, and how they end.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::core::{Core, Effects};
use super::time_limits::LOOK_NS;
use crate::backend::Link;
use crate::backend::process::exit::{LAST_ROUNDS, judge};
use crate::backend::process::link::{Reading, Stage};
use crate::codec;
use crate::error::{ExitCause, PoolError, TaskError};
use crate::events::PoolEvent;
use crate::ids::{Lease, WorkerIndex, WorkerKey};
use crate::limits::MEMORY_CHECK_NS;
use crate::output::TaskOutput;
use crate::sched::{self, Event, Reply, WorkerPhase};
use crate::small_bytes::SmallBytes;
use crate::sys::signal::GroupSignal;
use crate::sys::{failpoint, process};
use crate::task::entry::Fault;
use crate::transport::replies::Round;
use crate::transport::status::Progress;
use crate::wire::from_worker::{Header, Kind};
use crate::wire::hello::Hello;
use crate::wire::outcome::outcome;

/// Where to look for replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ways {
    Lane,
    Both,
}

/// Lanes that are looked at in one go: each look may have to fetch a word from another core.
const LANES_AT_ONCE: usize = 32;

impl Core {
    /// Reads what the worker has sent, and acts on it.
    pub(super) fn read_link(
        &mut self,
        worker: WorkerKey,
        now: u64,
        effects: &mut Effects,
    ) -> Round {
        self.read_ways(worker, Ways::Both, now, effects)
    }

    /// Reads the lanes in which something lies: costs no system call. Of many workers, some are looked at this time, some the next.
    pub(super) fn read_lanes(&mut self, now: u64, effects: &mut Effects) {
        let count = self.links.len();
        for offset in 0..count.min(LANES_AT_ONCE) {
            let index = (self.next_lane + offset) % count;
            let link = self.links[index].as_ref().and_then(Link::as_process);
            if link.is_some_and(|link| link.reader.has_news()) {
                self.read_ways(WorkerKey(index as u32), Ways::Lane, now, effects);
            }
        }
        if count > LANES_AT_ONCE {
            self.next_lane = (self.next_lane + LANES_AT_ONCE) % count;
        }
    }

    /// Reads the lane of one worker.
    pub(super) fn read_lane_of(&mut self, worker: WorkerKey, now: u64, effects: &mut Effects) {
        if self.link(worker).and_then(Link::as_process).is_some() {
            self.read_ways(worker, Ways::Lane, now, effects);
        }
    }

    fn read_ways(
        &mut self,
        worker: WorkerKey,
        ways: Ways,
        now: u64,
        effects: &mut Effects,
    ) -> Round {
        let many_wait = !self.sched.is_starved();
        let link = match self.links.get_mut(worker.index()).and_then(Option::as_mut) {
            Some(Link::Process(link)) => link,
            Some(Link::Thread(_)) => {
                self.read_thread(worker, now, effects);
                return Round::Drained;
            }
            None => return Round::End,
        };
        if link.violated {
            return Round::End;
        }
        failpoint::with("parent.read", link.pid);
        let bell = link.bell(many_wait);
        let (frames, buffer) = (&mut self.frames, &mut self.read_buffer);
        let take = |header, body| frames.push((header, body));
        let round = match ways {
            Ways::Both => link.reader.read(link.stream.as_fd(), bell, buffer, take),
            Ways::Lane => link.reader.read_lane(bell, take),
        };
        let mut frames = std::mem::take(&mut self.frames);
        let mut understood = round.is_ok();
        for (header, body) in frames.drain(..) {
            understood &= self.on_frame(worker, header, body, now, effects);
        }
        self.frames = frames;
        if !understood {
            self.violation(worker, now, effects);
        }
        self.check_memory(worker, now, effects);
        self.event(Event::RepliesRead { worker }, now, effects);
        let busy = self.sched.worker(worker).is_some_and(sched::Worker::is_busy);
        if let Some(link) = self.process_mut(worker).filter(|_| !busy) {
            link.awaited = false;
        }
        if round == Ok(Round::Budget) {
            // the rest rings no bell
            self.read_again(worker);
            effects.hurry = true;
        }
        round.unwrap_or(Round::End)
    }

    fn violation(&mut self, worker: WorkerKey, now: u64, effects: &mut Effects) {
        if let Some(link) = self.process_mut(worker) {
            link.violated = true;
        }
        self.event(Event::Violated { worker }, now, effects);
    }

    /// `false`: a worker does not say this now.
    fn on_frame(
        &mut self,
        worker: WorkerKey,
        header: Header,
        body: SmallBytes,
        now: u64,
        effects: &mut Effects,
    ) -> bool {
        let Some(link) = self.process_mut(worker) else { return true };
        match (header.kind, link.stage) {
            (Kind::Done | Kind::Numbers | Kind::Fault, Stage::Ready) => {
                self.on_reply(worker, header, body, now, effects)
            }
            (Kind::Bell, Stage::Ready) => true, // the lane is read in any case
            (Kind::Printed, Stage::Ready) => {
                let Some(output) = TaskOutput::decode(&body) else { return false };
                self.put_output(worker, header.lease, output);
                true
            }
            (Kind::PieceTaken, Stage::Ready) => {
                let taken = link.piece_taken();
                self.flush(worker, now);
                self.perform(now, effects);
                taken
            }
            (Kind::Hello, Stage::Started) => {
                link.stage = Stage::Greeted;
                self.on_hello(&body, now, effects)
            }
            (Kind::Unconfined, Stage::Greeted) => self.on_unconfined(worker, &body, now, effects),
            (Kind::Ready, Stage::Greeted) => {
                link.stage = Stage::Ready;
                effects.phase_changed = true;
                let (seat, pid) = (WorkerIndex(link.seat), link.pid);
                self.tell(|| PoolEvent::WorkerReady { worker: seat, pid });
                self.event(Event::Ready { worker }, now, effects);
                true
            }
            (Kind::Finalized | Kind::FinalizerFailed, Stage::Ready) if link.finalizing => {
                link.finalizing = false;
                let Some(outcome) = outcome(header.kind, body, self.settings.max_result) else {
                    return false;
                };
                self.finalized.push(outcome.map_err(Box::new));
                true
            }
            (Kind::InitFailed, Stage::Greeted) => {
                let Ok(fault) = codec::decode::<Fault>(&body) else { return false };
                let text = match fault.into_error(0) {
                    TaskError::Failed(text) => text,
                    other => other.to_string(),
                };
                self.refuse(PoolError::InitFailed(text), now, effects);
                true
            }
            (Kind::NotInitialized, Stage::Started) => {
                self.refuse(PoolError::InitNotCalled, now, effects);
                true
            }
            _ => false,
        }
    }

    fn on_reply(
        &mut self,
        worker: WorkerKey,
        header: Header,
        body: SmallBytes,
        now: u64,
        effects: &mut Effects,
    ) -> bool {
        let Header { kind, lease, elapsed_ns, .. } = header;
        // first: a task ends only by a reply that says something
        let Some(outcome) = outcome(kind, body, self.settings.max_result) else { return false };
        let outcome = outcome.map_err(Box::new);
        failpoint::at("parent.reply");
        match self.sched.reply(worker, lease, elapsed_ns, now) {
            Reply::Settles { task, function } => {
                self.settle_replied((task, function), outcome, elapsed_ns, now, effects);
            }
            Reply::Late => effects.unwanted.push(outcome),
            Reply::Unknown => return false,
        }
        if self.limited > 0 {
            // the next one of this worker may have a limit
            self.next_limit_check = self.next_limit_check.min(now.saturating_add(LOOK_NS));
        }
        true
    }

    /// A worker that has answered may have grown too large.
    fn check_memory(&mut self, worker: WorkerKey, now: u64, effects: &mut Effects) {
        let Some(max) = self.settings.max_memory else { return };
        let Some(link) = self.process_mut(worker).filter(|link| link.next_memory_check <= now)
        else {
            return;
        };
        link.next_memory_check = now + MEMORY_CHECK_NS;
        if process::resident_bytes(link.pid).is_some_and(|bytes| bytes > max) {
            self.event(Event::Outgrown { worker }, now, effects);
        }
    }

    fn on_hello(&mut self, body: &[u8], now: u64, effects: &mut Effects) -> bool {
        let Ok(hello) = codec::decode::<Hello>(body) else { return false };
        let depth = self.settings.recipe().map_or(0, |recipe| recipe.role.depth + 1);
        if let Some(reason) = hello.refuse(depth, self.image) {
            self.refuse(PoolError::StartFailed(reason), now, effects);
        }
        true
    }

    pub(super) fn refuse(&mut self, reason: PoolError, now: u64, effects: &mut Effects) {
        effects.phase_changed = true;
        self.event(Event::Refused { reason }, now, effects);
    }

    /// The process has ended: its last replies are taken, and only then is judged what its death has cost.
    pub(super) fn on_exit(&mut self, worker: WorkerKey, now: u64, effects: &mut Effects) {
        let Some(link) = self.process_mut(worker) else { return };
        failpoint::with("parent.exit", link.pid);
        // what it has started ends with it; its number is its own until it is reaped below
        link.signal(GroupSignal::Kill);
        for _ in 0..LAST_ROUNDS {
            if self.read_link(worker, now, effects) != Round::Budget {
                break;
            }
        }
        failpoint::at("parent.drained");
        let watch = Arc::clone(&self.watch);
        let Some(link) = self.process_mut(worker) else { return };
        let exit = link.try_reap();
        // failing to unwatch what is about to be closed changes nothing
        let _ = watch.remove(link.pidfd.as_fd());
        let Some(exit) = exit else {
            self.untold.push(worker);
            return;
        };
        if link.reading == Reading::Watched {
            let _ = watch.remove(link.stream.as_fd());
        }
        link.reading = Reading::Ended;
        let Some(Link::Process(link)) = self.links.get(worker.index()).and_then(Option::as_ref)
        else {
            return;
        };
        let cause = judge(exit, link, link.killed, &mut self.oom_kills, now);
        let leaving = self.sched.worker(worker).is_some_and(|w| w.phase == WorkerPhase::Retiring);
        let dismissed = self.sched.worker(worker).is_some_and(|w| w.dismissed);
        let started = self.started(worker);
        if let Some(&running) = started.first() {
            self.keep_output(worker, running);
            self.keep_last_lines(worker);
        }
        if let Some(link) = self.process_mut(worker) {
            let (seat, pid) = (WorkerIndex(link.seat), link.pid);
            let left = dismissed || leaving && cause == ExitCause::Exited(0);
            self.tell(|| match left {
                true => PoolEvent::WorkerLeft { worker: seat, pid },
                false => PoolEvent::WorkerLost { worker: seat, pid, cause },
            });
        }
        if let Some(link) = self.process_mut(worker) {
            link.cause = Some(cause);
        }
        effects.phase_changed = true;
        self.event(Event::Gone { worker, started: &started, cause }, now, effects);
        self.links[worker.index()] = None;
    }

    /// The tasks that a dead worker had begun and not answered.
    pub(super) fn started(&self, worker: WorkerKey) -> Vec<Lease> {
        let (Some(link), Some(state)) = (self.link(worker), self.sched.worker(worker)) else {
            return Vec::new();
        };
        let begun = |lease: &Lease| link.page().progress(*lease) != Progress::Queued;
        state.running_order().map(|(_, lease)| lease).filter(begun).collect()
    }
}
