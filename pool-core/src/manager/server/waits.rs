//! Operations that wait for others, on the thread of the connection; and those that end the waiting.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connection::{Connection, Grant, Hangup, Outcome, wrong_kind};
use super::object::{Object, Owner, State};
use crate::limits::MANAGER_SLICE;
use crate::manager::ManagerError;
use crate::manager::frame::{Body, Op, put_u64};
use crate::primitives::unpoisoned;
use crate::sys::poll::wait_readable;

/// The end of a wait.
enum Waited<T> {
    Ready(T),
    TimedOut,
}

fn deadline(nanoseconds: u64) -> Option<Instant> {
    if nanoseconds == u64::MAX {
        return None;
    }
    Instant::now().checked_add(Duration::from_nanos(nanoseconds))
}

/// The state, which is of the right kind if the client's proxy is.
macro_rules! expect {
    ($state:expr, $object:expr, $kind:ident) => {
        match $state {
            State::$kind(inner) => inner,
            _ => return Ok(Err(wrong_kind(stringify!($kind), $object))),
        }
    };
}

impl Connection<'_> {
    /// Whether nobody waits for the reply any more. A client that waits sends nothing, so whatever can be read is the end.
    fn is_gone(&self) -> bool {
        self.server.is_stopping()
            || wait_readable(self.stream.as_fd(), Some(Instant::now())).unwrap_or(true)
    }

    /// Looks at the state until `ready` finds what it wants.
    fn wait_until<T>(
        &self,
        id: u64,
        object: &Object,
        deadline: Option<Instant>,
        mut ready: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<Result<Waited<T>, ManagerError>, Hangup> {
        let mut state = unpoisoned(object.state.lock());
        let mut has_waited = false;
        loop {
            // what is wanted is given to nobody who is gone
            if has_waited && self.is_gone() {
                return Err(Hangup);
            }
            if let Some(found) = ready(&mut state) {
                return Ok(Ok(Waited::Ready(found)));
            }
            if has_waited && self.is_destroyed(id) {
                return Ok(Err(ManagerError::NoSuchObject));
            }
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(Ok(Waited::TimedOut));
            }
            let slice = left.map_or(MANAGER_SLICE, |left| left.min(MANAGER_SLICE));
            state = unpoisoned(object.changed.wait_timeout(state, slice)).0;
            has_waited = true;
        }
    }

    /// Who has locked the registry never waits for the lock of an object, so it may be locked with one held.
    fn is_destroyed(&self, id: u64) -> bool {
        self.server.registry().get(id).is_err()
    }

    pub(super) fn wait_or_wake(
        &mut self,
        op: Op,
        id: u64,
        object: &Arc<Object>,
        body: &mut Body<'_>,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let outcome = match op {
            Op::Put | Op::Take | Op::Close | Op::TaskDone | Op::Join | Op::Unfinished => {
                self.queue(op, id, object, body, out)
            }
            Op::Lock | Op::Unlock => self.lock(op, id, object, body, out),
            Op::SemAcquire | Op::SemRelease | Op::SemAvailable => {
                self.semaphore(op, id, object, body, out)
            }
            Op::CondWait | Op::CondNotify => self.condition(op, id, object, body, out),
            Op::EventSet | Op::EventClear | Op::EventIsSet | Op::EventWait => {
                self.event(op, id, object, body, out)
            }
            _ => self.barrier(op, id, object, body, out),
        };
        let changes = !matches!(
            op,
            Op::Unfinished
                | Op::SemAvailable
                | Op::EventIsSet
                | Op::EventWait
                | Op::Lock
                | Op::Join
        );
        if changes {
            object.changed.notify_all();
        }
        outcome
    }

    fn queue(
        &mut self,
        op: Op,
        id: u64,
        object: &Arc<Object>,
        body: &mut Body<'_>,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let limit = if matches!(op, Op::Put | Op::Take | Op::Join) { body.u64() } else { Ok(0) };
        let Ok(limit) = limit else { return Err(Hangup) };
        let deadline = deadline(limit);
        let error = match op {
            Op::Put => {
                let mut item = Some(body.rest().to_vec());
                let waited = self.wait_until(id, object, deadline, |state| {
                    let State::Queue(queue) = state else { return Some(Err(())) };
                    if queue.closed {
                        return Some(Ok(false));
                    }
                    let has_room = queue.bound.is_none_or(|bound| queue.items.len() < bound);
                    let item = if has_room { item.take() } else { None };
                    queue.unfinished += u64::from(item.is_some());
                    queue.items.extend(item);
                    has_room.then_some(Ok(true))
                })?;
                match waited {
                    Ok(Waited::Ready(Ok(true))) => return Ok(Ok(())),
                    Ok(Waited::Ready(Ok(false))) => ManagerError::Closed,
                    Ok(Waited::Ready(Err(()))) => wrong_kind("Queue", object),
                    Ok(Waited::TimedOut) => ManagerError::Full,
                    Err(error) => error,
                }
            }
            Op::Take => {
                let waited = self.wait_until(id, object, deadline, |state| {
                    let State::Queue(queue) = state else { return Some(Err(())) };
                    let item = queue.items.pop_front();
                    (item.is_some() || queue.closed).then_some(Ok(item))
                })?;
                match waited {
                    Ok(Waited::Ready(Ok(Some(item)))) => {
                        self.granted = Some(Grant::Item(Arc::clone(object), out.len()));
                        out.extend_from_slice(&item);
                        return Ok(Ok(()));
                    }
                    Ok(Waited::Ready(Ok(None))) => ManagerError::Closed,
                    Ok(Waited::Ready(Err(()))) => wrong_kind("Queue", object),
                    Ok(Waited::TimedOut) => ManagerError::Empty,
                    Err(error) => error,
                }
            }
            Op::Join => {
                let waited = self.wait_until(id, object, deadline, |state| match state {
                    State::Queue(queue) => (queue.unfinished == 0).then_some(true),
                    _ => Some(false),
                })?;
                return Ok(waited.map(|waited| {
                    out.push(u8::from(matches!(waited, Waited::Ready(_))));
                }));
            }
            _ => {
                let mut state = unpoisoned(object.state.lock());
                let queue = expect!(&mut *state, object, Queue);
                match op {
                    Op::Close => queue.closed = true,
                    Op::TaskDone if queue.unfinished == 0 => {
                        return Ok(Err(ManagerError::TooManyDone));
                    }
                    Op::TaskDone => queue.unfinished -= 1,
                    _ => put_u64(out, queue.unfinished),
                }
                return Ok(Ok(()));
            }
        };
        Ok(Err(error))
    }

    /// Takes a lock; whether it is poisoned, or `None` when the time is up.
    fn take_lock(
        &mut self,
        id: u64,
        object: &Arc<Object>,
        owner: Owner,
        depth: u32,
        deadline: Option<Instant>,
    ) -> Result<Result<Option<bool>, ManagerError>, Hangup> {
        let waited = self.wait_until(id, object, deadline, |state| match state {
            State::Lock(lock) => lock.take(owner, depth).then_some(Some(lock.poisoned)),
            _ => Some(None),
        })?;
        Ok(match waited {
            Ok(Waited::Ready(Some(poisoned))) => {
                self.granted = Some(Grant::Lock(Arc::clone(object), owner));
                Ok(Some(poisoned))
            }
            Ok(Waited::Ready(None)) => Err(wrong_kind("Lock", object)),
            Ok(Waited::TimedOut) => Ok(None),
            Err(error) => Err(error),
        })
    }

    fn lock(
        &mut self,
        op: Op,
        id: u64,
        object: &Arc<Object>,
        body: &mut Body<'_>,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let (Ok(who), Ok(number)) = (body.u64(), body.u64()) else { return Err(Hangup) };
        let owner = Owner { client: self.client, who };
        if op == Op::Lock {
            let taken = self.take_lock(id, object, owner, 1, deadline(number))?;
            return Ok(taken.map(|taken| {
                // 0: not taken, 1: taken, 2: taken and poisoned
                out.push(taken.map_or(0, |poisoned| 1 + u8::from(poisoned)));
            }));
        }
        let mut state = unpoisoned(object.state.lock());
        let lock = expect!(&mut *state, object, Lock);
        if let Err(error) = lock.check(owner) {
            return Ok(Err(error));
        }
        match number {
            1 => lock.poisoned = true,
            2 => lock.poisoned = false,
            _ => {}
        }
        lock.depth -= 1;
        if lock.depth == 0 {
            lock.free();
        }
        Ok(Ok(()))
    }

    fn semaphore(
        &mut self,
        op: Op,
        id: u64,
        object: &Arc<Object>,
        body: &mut Body<'_>,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let client = self.client;
        if op == Op::SemAcquire {
            let Ok(limit) = body.u64() else { return Err(Hangup) };
            let waited = self.wait_until(id, object, deadline(limit), |state| match state {
                State::Semaphore(semaphore) => semaphore.take(client).then_some(true),
                _ => Some(false),
            })?;
            return Ok(match waited {
                Ok(Waited::Ready(true)) => {
                    self.granted = Some(Grant::Permit(Arc::clone(object)));
                    out.push(1);
                    Ok(())
                }
                Ok(Waited::Ready(false)) => Err(wrong_kind("Semaphore", object)),
                Ok(Waited::TimedOut) => {
                    out.push(0);
                    Ok(())
                }
                Err(error) => Err(error),
            });
        }
        let mut state = unpoisoned(object.state.lock());
        let semaphore = expect!(&mut *state, object, Semaphore);
        if op == Op::SemAvailable {
            put_u64(out, semaphore.available);
            return Ok(Ok(()));
        }
        let Ok(mode) = body.u64() else { return Err(Hangup) };
        match mode {
            // a permit is given back
            0 if semaphore.forget(client) => semaphore.available += 1,
            // a permit is not going to be given back by this client
            1 if semaphore.forget(client) => {}
            0 | 1 => return Ok(Err(ManagerError::NotHeld)),
            // a permit out of nothing
            _ => {
                let held: u64 = semaphore.held.values().sum();
                if semaphore
                    .bound
                    .is_some_and(|bound| semaphore.available.saturating_add(held) >= bound)
                {
                    return Ok(Err(ManagerError::OverRelease));
                }
                semaphore.available += 1;
            }
        }
        Ok(Ok(()))
    }

    /// Registered as waiting before the lock is let go, so no notification is missed by who has let it go.
    fn condition(
        &mut self,
        op: Op,
        id: u64,
        object: &Arc<Object>,
        body: &mut Body<'_>,
        out: &mut Vec<u8>,
    ) -> Outcome {
        if op == Op::CondNotify {
            let Ok(count) = body.u64() else { return Err(Hangup) };
            expect!(&mut *unpoisoned(object.state.lock()), object, Condition).notify(count);
            return Ok(Ok(()));
        }
        let (Ok(lock_id), Ok(who), Ok(limit)) = (body.u64(), body.u64(), body.u64()) else {
            return Err(Hangup);
        };
        let lock_object = match self.server.registry().get(lock_id) {
            Ok(lock_object) => lock_object,
            Err(error) => return Ok(Err(error)),
        };
        let owner = Owner { client: self.client, who };
        let number = {
            let mut state = unpoisoned(object.state.lock());
            let condition = expect!(&mut *state, object, Condition);
            condition.next += 1;
            let number = condition.next;
            condition.waiting.push_back(number);
            number
        };
        let depth = {
            let mut state = unpoisoned(lock_object.state.lock());
            match &mut *state {
                State::Lock(lock) => lock.check(owner).map(|()| lock.free()),
                _ => Err(wrong_kind("Lock", &lock_object)),
            }
        };
        let depth = match depth {
            Ok(depth) => depth,
            Err(error) => {
                withdraw(object, number);
                return Ok(Err(error));
            }
        };
        lock_object.changed.notify_all();
        let waited = self.wait_until(id, object, deadline(limit), |state| match state {
            State::Condition(condition) => condition.notified.remove(&number).then_some(()),
            _ => None,
        });
        if !matches!(waited, Ok(Ok(Waited::Ready(())))) {
            withdraw(object, number);
        }
        let was_notified = matches!(waited?, Ok(Waited::Ready(())));
        // the client's guard must hold the lock again, so there is no limit
        let taken = self.take_lock(lock_id, &lock_object, owner, depth, None)?;
        Ok(taken.map(|taken| {
            out.push(u8::from(was_notified));
            out.push(u8::from(taken.unwrap_or(false)));
        }))
    }

    fn event(
        &mut self,
        op: Op,
        id: u64,
        object: &Arc<Object>,
        body: &mut Body<'_>,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let before = {
            let mut state = unpoisoned(object.state.lock());
            let event = expect!(&mut *state, object, Event);
            match op {
                Op::EventSet => {
                    event.times += u64::from(!event.is_set);
                    event.is_set = true;
                }
                Op::EventClear => event.is_set = false,
                _ => {}
            }
            if op != Op::EventWait {
                out.push(u8::from(event.is_set));
                return Ok(Ok(()));
            }
            event.times
        };
        let Ok(limit) = body.u64() else { return Err(Hangup) };
        let waited = self.wait_until(id, object, deadline(limit), |state| match state {
            State::Event(event) => (event.is_set || event.times != before).then_some(()),
            _ => None,
        })?;
        Ok(waited.map(|waited| out.push(u8::from(matches!(waited, Waited::Ready(()))))))
    }

    fn barrier(
        &mut self,
        op: Op,
        id: u64,
        object: &Arc<Object>,
        body: &mut Body<'_>,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let (place, round) = {
            let mut state = unpoisoned(object.state.lock());
            let barrier = expect!(&mut *state, object, Barrier);
            match op {
                Op::BarrierAbort | Op::BarrierReset => {
                    let waiting = barrier.arrived;
                    if waiting > 0 {
                        barrier.end_round(false, waiting);
                    }
                    barrier.broken = op == Op::BarrierAbort;
                    return Ok(Ok(()));
                }
                Op::BarrierState => {
                    put_u64(out, barrier.parties);
                    put_u64(out, barrier.arrived);
                    out.push(u8::from(barrier.broken));
                    return Ok(Ok(()));
                }
                _ => {}
            }
            if barrier.broken {
                return Ok(Err(ManagerError::BrokenBarrier));
            }
            let place = barrier.arrived;
            barrier.arrived += 1;
            if barrier.arrived == barrier.parties {
                barrier.end_round(true, place);
                put_u64(out, place);
                return Ok(Ok(()));
            }
            (place, barrier.round)
        };
        let Ok(limit) = body.u64() else { return Err(Hangup) };
        let waited = self.wait_until(id, object, deadline(limit), |state| match state {
            State::Barrier(barrier) => barrier.look(round),
            _ => None,
        });
        match waited {
            Ok(Ok(Waited::Ready(true))) => {
                put_u64(out, place);
                return Ok(Ok(()));
            }
            Ok(Ok(Waited::Ready(false))) => {}
            // gone, or its time is up: the others wait in vain, unless the last has come in this moment
            _ => {
                let mut state = unpoisoned(object.state.lock());
                if let State::Barrier(barrier) = &mut *state {
                    match barrier.look(round) {
                        Some(true) if waited.is_ok() => {
                            put_u64(out, place);
                            return Ok(Ok(()));
                        }
                        Some(_) => {}
                        None => {
                            let others = barrier.arrived - 1;
                            barrier.end_round(false, others);
                            barrier.broken = true;
                        }
                    }
                }
            }
        }
        waited?.map_or_else(|error| Ok(Err(error)), |_| Ok(Err(ManagerError::BrokenBarrier)))
    }
}

fn withdraw(object: &Object, number: u64) {
    if let State::Condition(condition) = &mut *unpoisoned(object.state.lock()) {
        condition.withdraw(number);
    }
    object.changed.notify_all();
}
