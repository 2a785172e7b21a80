//! A thread that waits for one result reads its worker's replies itself: the result then takes one wake-up instead of two.

use std::cell::{Cell, OnceCell};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use super::Shared;
use super::core::{Core, Effects};
use super::slots::SlotRef;
use super::task::TaskSlot;
use crate::backend::Link;
use crate::backend::process::link::Reading;
use crate::ids::{TaskKey, WorkerKey};
use crate::limits::SOON_NS;
use crate::output::Output;
use crate::sched::WorkerPhase;
use crate::spin::spin_until;
use crate::sys::clock;
use crate::sys::poll::{Doorbell, wait_either};
use crate::sys::socket::Stream;
use crate::transport::lane::LaneProbe;
use crate::transport::replies::Round;

impl Core {
    fn expect(&mut self, key: TaskKey, slot: &SlotRef, waiting: Waiting) {
        if !self.is_task(key, slot) {
            return;
        }
        let urgent = waiting == Waiting::ForThis;
        if urgent && let Some(body) = self.bodies[key.index()].as_mut() {
            body.set_awaited();
        }
        if let Some((worker, _)) = self.sched.lease_of(key) {
            self.unpark(worker);
            if urgent {
                self.hasten(worker);
            }
        }
    }

    /// Somebody sleeps until a task of this worker is done.
    pub(super) fn hasten(&mut self, worker: WorkerKey) {
        if let Some(link) = self.process_mut(worker)
            && !link.awaited
        {
            link.awaited = true;
            self.listen(worker);
        }
    }

    /// Whether a task is worth a look: by what was observed of its function.
    pub(crate) fn is_quick(&self, key: TaskKey) -> bool {
        self.sched.expected(key).is_some_and(|expected_ns| expected_ns <= SOON_NS)
    }

    /// Replies of the worker that has this task ring no bell from now on, if it is worth while to look for them.
    fn begin_to_look(
        &mut self,
        key: TaskKey,
        slot: &SlotRef,
        cpus: usize,
    ) -> Option<(WorkerKey, Arc<Stream>, LaneProbe)> {
        if !self.is_task(key, slot) {
            return None;
        }
        let (worker, _) = self.sched.lease_of(key)?;
        let recipe = self.settings.recipe()?;
        if !recipe.fast_lane || [recipe.stdout, recipe.stderr].contains(&Output::Captured) {
            // its reply does not come by the lane
            return None;
        }
        // with all of them busy, looking takes from the workers what it gains here
        let spare = self.sched.busy() < cpus.max(2);
        if !spare || !self.is_quick(key) {
            return None;
        }
        let link = self.process_mut(worker)?;
        if link.reading == Reading::Ended {
            return None;
        }
        link.onlookers += 1;
        link.reader.stop_listening();
        Some((worker, Arc::clone(&link.stream), link.reader.probe()))
    }
}

thread_local! {
    /// The pool for whose task this thread waited last, and how many tasks had been submitted then.
    static LAST_WAIT: Cell<(usize, u64)> = const { Cell::new((0, 0)) };
    /// Rung when the slot is settled by somebody else meanwhile.
    static BELL: OnceCell<Option<(Arc<Doorbell>, Waker)>> = const { OnceCell::new() };
}

fn bell() -> Option<(Arc<Doorbell>, Waker)> {
    BELL.with(|cell| {
        let make = || {
            let bell = Arc::new(Doorbell::new().ok()?);
            Some((Arc::clone(&bell), Waker::from(bell)))
        };
        cell.get_or_init(make).clone()
    })
}

/// What a thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    /// Just this task.
    ForThis,
    /// One of many that it has submitted before, whose results it collects one after the other. It is woken less often, and takes what has come meanwhile.
    ForMany,
}

impl Core {
    fn waiting(&self, key: TaskKey, pool: usize) -> Waiting {
        let id = self.bodies[key.index()].as_ref().map_or(0, |body| body.id().0);
        let (last, submitted) = LAST_WAIT.replace((pool, self.submitted()));
        if last == pool && id <= submitted { Waiting::ForMany } else { Waiting::ForThis }
    }
}

impl Shared {
    /// Waits until the slot of this task is settled, or until the deadline. Returns whether it is settled.
    pub(crate) fn wait(&self, key: TaskKey, slot: &SlotRef, deadline: Option<Instant>) -> bool {
        if slot.is_settled() {
            return true;
        }
        if self.settings.recipe().is_none() {
            // threads tell by themselves
        } else if self.on_service_thread() {
            self.expect(key, slot);
        } else {
            let Some(waiting) = self.look(key, slot, deadline) else { return true };
            if let Some((bell, waker)) = bell()
                && let Some((worker, stream)) = self.begin_to_attend(key, slot, waiting)
            {
                self.attend(worker, &stream, slot, (&bell, &waker), deadline);
                self.end_to_attend(worker, &stream);
            } else {
                self.expect_result(key, slot, waiting);
            }
        }
        slot.wait(deadline)
    }

    /// Reads what lies in the lanes; and if the result is not there but may come soon, and a CPU has nothing better to do, looks for it again and again for a
    /// moment. `None`: the slot is settled.
    fn look(&self, key: TaskKey, slot: &SlotRef, deadline: Option<Instant>) -> Option<Waiting> {
        let begun_ns = clock::now_ns();
        let mut core = self.lock();
        let mut effects = Effects::default();
        core.read_lanes(begun_ns, &mut effects);
        if !core.is_task(key, slot) {
            self.finish(core, effects);
            // it may be with its callbacks
            return (!slot.is_settled()).then_some(Waiting::ForThis);
        }
        let waiting = core.waiting(key, std::ptr::from_ref(self).addr());
        let begun = core.begin_to_look(key, slot, self.cpus);
        self.finish(core, effects);
        let unsettled = || (!slot.is_settled()).then_some(waiting);
        let Some((worker, stream, mut probe)) = begun else { return unsettled() };
        let is_late = || deadline.is_some_and(|deadline| Instant::now() >= deadline);
        loop {
            let came = !is_late() && spin_until(|| slot.is_settled() || probe.has_news());
            let now = clock::now_ns();
            let mut core = self.lock();
            let mut effects = Effects::default();
            core.read_lane_of(worker, now, &mut effects);
            core.read_lanes(now, &mut effects);
            let settled = !core.is_task(key, slot);
            let link = core.process_mut(worker).filter(|link| Arc::ptr_eq(&link.stream, &stream));
            if let Some(link) = link {
                // others' replies are no reason to look for ever
                if came && !settled && now < begun_ns + SOON_NS {
                    probe = link.reader.probe();
                    self.finish(core, effects);
                    continue;
                }
                link.onlookers -= 1;
                core.listen(worker);
            }
            self.finish(core, effects);
            return unsettled();
        }
    }

    /// Takes the reading of the worker that runs this task over from the pool's thread, unless somebody else has.
    fn begin_to_attend(
        &self,
        key: TaskKey,
        slot: &SlotRef,
        waiting: Waiting,
    ) -> Option<(WorkerKey, Arc<Stream>)> {
        let mut core = self.lock();
        if !core.is_task(key, slot) {
            return None;
        }
        let (worker, _) = core.sched.lease_of(key)?;
        let link = core.process_mut(worker)?;
        match link.reading {
            Reading::Watched => self.watch.remove(link.stream.as_fd()).ok()?,
            Reading::Parked => {}
            Reading::Attended | Reading::Ended => return None,
        }
        link.reading = Reading::Attended;
        link.unhurried = waiting == Waiting::ForMany;
        let stream = Arc::clone(&link.stream);
        // it may be taken back, and given to a worker whose replies this thread does not read
        if waiting == Waiting::ForThis
            && let Some(body) = core.bodies[key.index()].as_mut()
        {
            body.set_awaited();
        }
        Some((worker, stream))
    }

    /// Reads until the slot is settled, the deadline is over, or the stream has ended.
    fn attend(
        &self,
        worker: WorkerKey,
        stream: &Arc<Stream>,
        slot: &TaskSlot,
        (bell, waker): (&Doorbell, &Waker),
        deadline: Option<Instant>,
    ) {
        if !slot.register(waker) {
            return;
        }
        // what lies in the lane may have rung no bell; what comes after this does
        if self.read_attended(worker, stream) == Round::End {
            return;
        }
        loop {
            bell.arm();
            if slot.is_settled() {
                bell.disarm(false);
                return;
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let left_ns = left.map(|left| u64::try_from(left.as_nanos()).unwrap_or(u64::MAX));
            let waited = wait_either(stream.as_fd(), bell, left_ns);
            bell.disarm(waited.as_ref().is_ok_and(|&rung| rung));
            if waited.is_err() || left.is_some_and(|left| left.is_zero()) {
                return;
            }
            let mut round = self.read_attended(worker, stream);
            while round == Round::Budget && !slot.is_settled() {
                round = self.read_attended(worker, stream);
            }
            if round == Round::End {
                return;
            }
        }
    }

    fn read_attended(&self, worker: WorkerKey, stream: &Arc<Stream>) -> Round {
        let mut core = self.lock();
        let link = core.link(worker).and_then(Link::as_process);
        if !link.is_some_and(|link| Arc::ptr_eq(&link.stream, stream)) {
            return Round::End;
        }
        let mut effects = Effects::default();
        let round = core.read_link(worker, clock::now_ns(), &mut effects);
        self.finish(core, effects);
        round
    }

    fn end_to_attend(&self, worker: WorkerKey, stream: &Arc<Stream>) {
        let mut core = self.lock();
        let state = core.sched.worker(worker);
        let busy =
            state.is_some_and(|worker| worker.is_busy() || worker.phase != WorkerPhase::Ready);
        let Some(link) = core.process_mut(worker) else { return };
        if !Arc::ptr_eq(&link.stream, stream) || link.reading != Reading::Attended {
            return;
        }
        link.reading = Reading::Parked;
        if busy {
            core.unpark(worker);
        } else {
            link.reader.stop_listening();
        }
        self.finish(core, Effects::default());
    }

    /// Somebody sleeps until the task is settled, and does not read the worker's replies: the pool's thread has to, and at once.
    pub(crate) fn expect(&self, key: TaskKey, slot: &SlotRef) {
        self.expect_result(key, slot, Waiting::ForThis);
    }

    fn expect_result(&self, key: TaskKey, slot: &SlotRef, waiting: Waiting) {
        let mut core = self.lock();
        core.expect(key, slot, waiting);
        let effects = Effects::default();
        self.finish(core, effects);
    }
}
