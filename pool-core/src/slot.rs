//! A one-shot cell for a task's outcome: settled once, by whoever comes first; waited for by a thread, by wakers, or not at all.

use std::sync::atomic::Ordering::{Acquire, Release};
use std::task::Waker;
use std::time::Instant;

use crate::primitives::{AtomicBool, Condvar, Mutex, lock, unharmed, unpoisoned};

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Slot<T> {
    state: Mutex<State<T>>,
    /// Not pending any more: to be asked without the lock. Set with the lock held.
    is_settled: AtomicBool,
    settled: Condvar,
}

#[derive(Debug)]
enum State<T> {
    Pending { wakers: Vec<Waker>, sleepers: usize },
    Settled(T),
    Taken,
}

impl<T> Slot<T> {
    #[inline]
    pub(crate) fn new() -> Slot<T> {
        let state = State::Pending { wakers: Vec::new(), sleepers: 0 };
        Slot {
            state: Mutex::new(state),
            is_settled: AtomicBool::new(false),
            settled: Condvar::new(),
        }
    }

    /// A slot that was never pending.
    pub(crate) fn of(value: T) -> Slot<T> {
        Slot {
            state: Mutex::new(State::Settled(value)),
            is_settled: AtomicBool::new(true),
            settled: Condvar::new(),
        }
    }

    /// Settles the slot and wakes all that wait. Wakers are user code: nothing may be locked here. A second value is refused.
    pub(crate) fn settle(&self, value: T) -> Result<(), T> {
        let mut state = lock(&self.state);
        let State::Pending { wakers, sleepers } = &mut *state else { return Err(value) };
        let (wakers, sleepers) = (std::mem::take(wakers), *sleepers);
        *state = State::Settled(value);
        self.is_settled.store(true, Release);
        drop(state);
        if sleepers > 0 {
            self.settled.notify_all();
        }
        for waker in wakers {
            // a waker that panics is its owner's problem, not that of the thread that settles slots
            unharmed(|| waker.wake());
        }
        Ok(())
    }

    /// Settles the slot if nobody waits for it: calls no code of anybody's and waits for nobody, so locks may be held. Otherwise the value is given back.
    #[inline]
    pub(crate) fn settle_unwaited(&self, value: T) -> Result<(), T> {
        // held by somebody who is about to wait: his waker is the user's code
        let Ok(mut state) = self.state.try_lock() else { return Err(value) };
        match &*state {
            State::Pending { wakers, sleepers: 0 } if wakers.is_empty() => {
                *state = State::Settled(value);
                self.is_settled.store(true, Release);
                Ok(())
            }
            _ => Err(value),
        }
    }

    /// Whether there is a value, or there was one.
    #[inline]
    pub(crate) fn is_settled(&self) -> bool {
        self.is_settled.load(Acquire)
    }

    /// What [`take`](Self::take) gives, by the last one who has the slot.
    #[inline]
    pub(crate) fn into_value(self) -> Option<Option<T>> {
        match unpoisoned(self.state.into_inner()) {
            State::Pending { .. } => None,
            State::Settled(value) => Some(Some(value)),
            State::Taken => Some(None),
        }
    }

    /// Takes the value out; `None` as long as there is none. `Some(None)`: it was taken before.
    pub(crate) fn take(&self) -> Option<Option<T>> {
        let mut state = lock(&self.state);
        match std::mem::replace(&mut *state, State::Taken) {
            pending @ State::Pending { .. } => {
                *state = pending;
                None
            }
            State::Settled(value) => Some(Some(value)),
            State::Taken => Some(None),
        }
    }

    /// Looks at the value.
    pub(crate) fn with<R>(&self, look: impl FnOnce(&T) -> R) -> Option<R> {
        match &*lock(&self.state) {
            State::Settled(value) => Some(look(value)),
            State::Pending { .. } | State::Taken => None,
        }
    }

    /// Has the waker woken when the slot is settled; at once if it is. `false`: it is settled, and the waker was not kept.
    pub(crate) fn register(&self, waker: &Waker) -> bool {
        match &mut *lock(&self.state) {
            State::Pending { wakers, .. } => {
                if !wakers.iter().any(|known| known.will_wake(waker)) {
                    wakers.push(waker.clone());
                }
                true
            }
            State::Settled(_) | State::Taken => false,
        }
    }

    /// Does not wake this waker any more.
    pub(crate) fn forget(&self, waker: &Waker) {
        if let State::Pending { wakers, .. } = &mut *lock(&self.state) {
            wakers.retain(|known| !known.will_wake(waker));
        }
    }

    /// Waits until the slot is settled, or until the deadline. Returns whether it is settled.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> bool {
        let mut state = lock(&self.state);
        loop {
            let State::Pending { sleepers, .. } = &mut *state else { return true };
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return false;
            }
            *sleepers += 1;
            state = match left {
                None => unpoisoned(self.settled.wait(state)),
                Some(left) => unpoisoned(self.settled.wait_timeout(state, left)).0,
            };
            if let State::Pending { sleepers, .. } = &mut *state {
                *sleepers -= 1;
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_first_value_stays() {
        let slot = Slot::new();
        assert_eq!(slot.take(), None);
        assert_eq!(slot.settle(1), Ok(()));
        assert_eq!(slot.settle(2), Err(2));
        assert_eq!(slot.with(|value| *value), Some(1));
        assert_eq!(slot.take(), Some(Some(1)));
        assert_eq!(slot.take(), Some(None));
        assert!(slot.is_settled());
    }

    #[test]
    fn only_a_slot_that_nobody_waits_for_is_settled_without_waking() {
        let waker = Waker::from(Arc::new(Count(AtomicUsize::new(0))));
        let slot = Slot::new();
        assert!(slot.register(&waker));
        assert_eq!(slot.settle_unwaited(1), Err(1));
        assert!(!slot.is_settled());
        slot.forget(&waker);
        assert_eq!(slot.settle_unwaited(1), Ok(()));
        assert_eq!(slot.settle_unwaited(2), Err(2));
        assert!(slot.is_settled());
        assert_eq!(slot.into_value(), Some(Some(1)));
    }

    #[test]
    fn the_last_owner_gets_what_take_would_give() {
        assert_eq!(Slot::<u8>::new().into_value(), None);
        let slot = Slot::of(1);
        assert_eq!(slot.take(), Some(Some(1)));
        assert_eq!(slot.into_value(), Some(None));
    }

    #[test]
    fn a_waker_is_woken_once_however_often_it_is_registered() {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let slot = Slot::new();
        assert!(slot.register(&waker) && slot.register(&waker));
        slot.settle(()).unwrap();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(!slot.register(&waker), "there is nothing left to wait for");
    }

    #[test]
    fn a_forgotten_waker_is_not_woken() {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let slot = Slot::new();
        assert!(slot.register(&waker));
        slot.forget(&waker);
        slot.settle(()).unwrap();
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_deadline_ends_the_wait() {
        let slot: Slot<()> = Slot::new();
        assert!(!slot.wait(Some(Instant::now())));
        assert_eq!(slot.settle_unwaited(()), Ok(()), "nobody waits any more");
    }

    #[test]
    fn threads_are_woken() {
        let slot = Arc::new(Slot::new());
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let slot = Arc::clone(&slot);
                std::thread::spawn(move || slot.wait(None))
            })
            .collect();
        slot.settle(7).unwrap();
        assert!(waiters.into_iter().all(|waiter| waiter.join().unwrap()));
    }
}

#[cfg(all(test, loom))]
mod model {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    #[test]
    fn a_sleeper_is_always_woken() {
        loom::model(|| {
            let slot = Arc::new(Slot::new());
            let waiter = Arc::clone(&slot);
            let waiter = thread::spawn(move || waiter.wait(None));
            slot.settle(1).unwrap();
            assert!(waiter.join().unwrap());
            assert_eq!(slot.take(), Some(Some(1)));
        });
    }

    #[test]
    fn a_sleeper_is_told_whoever_settles() {
        loom::model(|| {
            let slot = Arc::new(Slot::new());
            let waiter = Arc::clone(&slot);
            let waiter = thread::spawn(move || waiter.is_settled() || waiter.wait(None));
            if let Err(value) = slot.settle_unwaited(1) {
                slot.settle(value).unwrap();
            }
            assert!(waiter.join().unwrap());
            assert_eq!(slot.take(), Some(Some(1)));
        });
    }

    #[test]
    fn of_two_values_one_stays() {
        loom::model(|| {
            let slot = Arc::new(Slot::new());
            let other = Arc::clone(&slot);
            let other = thread::spawn(move || other.settle(1).is_ok());
            let ours = slot.settle(2).is_ok();
            let theirs = other.join().unwrap();
            assert!(ours != theirs);
            assert_eq!(slot.take(), Some(Some(if ours { 2 } else { 1 })));
        });
    }
}
