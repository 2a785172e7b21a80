//! The thread of the pool that waits for replies, exits and timers.

use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::Shared;
use super::core::{Core, Effects};
use crate::backend::process::link::Reading;
use crate::error::PoolError;
use crate::ids::WorkerKey;
use crate::sched::{Action, Event, Phase, WorkerPhase};
use crate::sys::clock;
use crate::sys::signal::GroupSignal;
use crate::transport::replies::Round;

/// Tokens: the doorbell, and per worker its replies and its end.
pub(super) const BELL: u64 = u64::MAX;
pub(super) const ENDS: u64 = u64::MAX - 1;

/// How often a worker's end is asked for that its fork server does not tell: only to notice that the patience is at its end.
const UNTOLD_NS: u64 = 50_000_000;

pub(super) fn reply_token(worker: WorkerKey) -> u64 {
    u64::from(worker.0) << 1
}

pub(super) fn exit_token(worker: WorkerKey) -> u64 {
    u64::from(worker.0) << 1 | 1
}

/// Waits for whatever happens, until all workers are gone.
pub(super) fn serve(shared: &Arc<Shared>) {
    let mut tokens = Vec::new();
    // a mistake of this thread must not leave anybody waiting: all handles are settled, and the children are still reaped
    let mut turn = || catch_unwind(AssertUnwindSafe(|| turn(shared, &mut tokens)));
    while turn().unwrap_or_else(|_| give_up(shared)) {}
    // of the last turn: the user may keep the pool, which is to keep no arguments
    let aside = std::mem::take(&mut shared.lock().aside);
    drop(aside);
}

/// Breaks the pool after a panic of its own thread, which goes on to reap the children.
fn give_up(shared: &Arc<Shared>) -> bool {
    let mut core = shared.lock();
    let undone = std::mem::take(&mut core.actions);
    let reason = PoolError::Broken("the pool's own thread has panicked".to_owned());
    let mut effects = Effects::default();
    core.event(Event::Refused { reason }, clock::now_ns(), &mut effects);
    core.settle_forgotten(&mut effects);
    // nobody starts these processes any more, so nobody will see them end
    for action in undone {
        if let Action::Spawn { worker, .. } = action {
            let event = Event::SpawnFailed { worker, error: "was given up" };
            core.event(event, clock::now_ns(), &mut effects);
        }
    }
    shared.finish(core, effects);
    true
}

/// Waits for something to happen, and acts on it; `false` when the work is done.
fn turn(shared: &Arc<Shared>, tokens: &mut Vec<u64>) -> bool {
    shared.bell.arm();
    let Some(timeout) = shared.lock().sleep() else { return false };
    tokens.clear();
    if let Err(error) = shared.watch.wait(timeout, tokens) {
        let reason = PoolError::Broken(format!("waiting for workers failed: {error}"));
        shared.event(Event::Refused { reason });
    }
    shared.bell.disarm(tokens.contains(&BELL));
    let mut core = shared.lock();
    let mut effects = Effects::default();
    effects.garbage.append(&mut core.aside);
    core.aside_bytes = 0;
    let now = clock::now_ns();
    core.hear_ends(tokens.contains(&ENDS));
    for worker in std::mem::take(&mut core.untold) {
        core.on_exit(worker, now, &mut effects);
    }
    for worker in std::mem::take(&mut core.unread) {
        core.read_link(worker, now, &mut effects);
    }
    // replies first: an exit is judged last
    tokens.sort_unstable_by_key(|token| token & 1);
    for &token in tokens.iter().filter(|&&token| token < ENDS) {
        let worker = WorkerKey((token >> 1) as u32);
        if token & 1 == 0 {
            core.on_readable(worker, now, &mut effects);
        } else {
            core.on_exit(worker, now, &mut effects);
        }
    }
    if !core.was_paused(now) {
        core.on_time(now, &mut effects);
    }
    shared.finish(core, effects);
    true
}

impl Core {
    /// How long to wait at most; `None`: the work is done.
    fn sleep(&mut self) -> Option<Option<u64>> {
        if self.sched.phase() == Phase::Stopped {
            return None;
        }
        if !self.unread.is_empty() {
            return Some(Some(0));
        }
        let mut due = self.sched.next_tick().unwrap_or(u64::MAX).min(self.next_limit_check);
        if !self.untold.is_empty() {
            due = due.min(clock::now_ns().saturating_add(UNTOLD_NS));
        }
        // A timer that was set and is not needed any more is left as it is, and the thread wakes once in vain: workers that start one after the other set one each, which nobody has to be
        // woken for if an earlier one stands.
        let now = clock::now_ns();
        if self.sleeps_until > now {
            due = due.min(self.sleeps_until);
        }
        self.sleeps_until = due;
        Some((due != u64::MAX).then(|| due.saturating_sub(now)))
    }

    /// Fork servers have told something, or are gone.
    fn hear_ends(&mut self, heard: bool) {
        if heard {
            let watch = Arc::clone(&self.watch);
            self.ends.retain(|ends| {
                let listens = ends.listen();
                if !listens {
                    // failing to unwatch what has ended changes nothing
                    let _ = watch.remove(ends.as_fd());
                }
                listens
            });
        }
    }

    fn on_readable(&mut self, worker: WorkerKey, now: u64, effects: &mut Effects) {
        let round = self.read_link(worker, now, effects);
        let watch = Arc::clone(&self.watch);
        if let Some(link) = self.process_mut(worker)
            && round == Round::End
            && link.reading == Reading::Watched
        {
            let _ = watch.remove(link.stream.as_fd());
            link.reading = Reading::Ended;
            // A worker without its socket has no use. Nearly always it is ending already, which a signal does not change any more.
            let leaving =
                self.sched.worker(worker).is_none_or(|w| w.phase == WorkerPhase::Retiring);
            if let Some(link) = self.process_mut(worker).filter(|_| !leaving) {
                link.signal(GroupSignal::Kill);
            }
        }
    }

    pub(super) fn on_time(&mut self, now: u64, effects: &mut Effects) {
        if self.sched.next_tick().is_some_and(|due| due <= now) {
            for worker in self.sched.stalled(now) {
                self.read_link(worker, now, effects);
            }
            self.event(Event::Tick, now, effects);
        }
        if self.limited == 0 {
            self.next_limit_check = u64::MAX;
        } else if self.next_limit_check <= now {
            self.check_limits(now, effects);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::sys::signal::GroupSignal;
    use crate::{Pool, TaskError};
    use std::sync::atomic::Ordering;
    use std::time::{Duration, Instant};

    crate::test_support!();

    #[test]
    fn what_was_laid_aside_is_freed_when_the_pool_ends() {
        let pool = Pool::new(1).unwrap();
        let waits = |_: Vec<u8>| std::thread::park_timeout(Duration::from_secs(1_000));
        let handle = pool.apply_async(waits, (vec![7; 3 << 20],)).unwrap();
        let pid = loop {
            match handle.pid() {
                Some(pid) => break pid,
                None => std::thread::yield_now(),
            }
        };
        pool.close();
        crate::sys::signal::send_to_group(pid, GroupSignal::Kill).unwrap();
        pool.join().unwrap();
        // the pool's thread is at its end, and the pool is still there
        let limit = Instant::now() + Duration::from_secs(60);
        while !pool.shared().lock().aside.is_empty() {
            assert!(Instant::now() < limit, "arguments are kept");
            std::thread::yield_now();
        }
        assert!(matches!(handle.get(), Err(TaskError::WorkerLost { .. })));
    }

    #[test]
    fn a_handle_does_not_keep_the_state_of_its_pool() {
        let pool = Pool::new(1).unwrap();
        let shared = std::sync::Arc::downgrade(pool.shared());
        let handle = pool.apply_async(|x: u64| x, (7,)).unwrap();
        handle.wait();
        drop(pool);
        let limit = Instant::now() + Duration::from_secs(60);
        // its threads have it too, until they end
        while shared.strong_count() > 0 {
            assert!(Instant::now() < limit, "it is kept");
            std::thread::yield_now();
        }
        assert_eq!(handle.get(), Ok(7));
    }

    #[test]
    fn row_44_a_panic_of_the_pools_thread_settles_everything() {
        let pool = Pool::new(2).unwrap();
        let waits = || std::thread::park_timeout(std::time::Duration::from_secs(1_000));
        let handles: Vec<_> = (0..20).map(|_| pool.apply_async(waits, ()).unwrap()).collect();
        let pid = loop {
            match handles[0].pid() {
                Some(pid) => break pid,
                None => std::thread::yield_now(),
            }
        };
        // when the panic comes, the scheduler has settled and forgotten the task that is lost
        super::super::perform::PANICS.store(true, Ordering::SeqCst);
        crate::sys::signal::send_to_group(pid, GroupSignal::Kill).unwrap();
        for (number, handle) in handles.into_iter().enumerate() {
            match handle.get() {
                Err(TaskError::PoolBroken(_)) => {}
                // what the panic has interrupted may be done by another thread that takes the lock before the pool is given up
                Err(TaskError::WorkerLost { .. }) if number == 0 => {}
                outcome => panic!("task {number}: {outcome:?}"),
            }
        }
        assert!(pool.apply_async(waits, ()).is_err());
        pool.terminate();
        assert!(pool.workers().is_empty(), "its children are collected all the same");
    }
}
