//! A one-shot cell for a task's outcome: settled once, by whoever comes first; waited for by a thread, by wakers, or not at all. As small as can be: there may be a
//! million of them, and few are waited for or have anything beside their value.

use std::sync::atomic::Ordering::{Acquire, Release};
use std::task::Waker;
use std::time::Instant;

use crate::primitives::{AtomicBool, Mutex, Parker, lock, unharmed, unpoisoned};

/// See the module's documentation. `E` is what few slots have beside their value; it is there as long as the slot is.
#[derive(Debug)]
pub(crate) struct Slot<T, E = ()> {
    state: Mutex<State<T, E>>,
    /// Not pending any more: to be asked without the lock. Set with the lock held.
    is_settled: AtomicBool,
}

#[derive(Debug)]
enum State<T, E> {
    Pending(Option<Box<Pending<E>>>),
    Settled(T),
    Taken,
    /// Settled, or taken, with something beside the value.
    Beside(Box<(Option<T>, E)>),
}

#[derive(Debug)]
struct Pending<E> {
    wakers: Vec<Waker>,
    extra: Option<E>,
}

impl<T, E> State<T, E> {
    /// What can be had of it, with the slot as it is afterwards; `None`: nothing yet.
    fn take(&mut self) -> Option<Option<T>> {
        match self {
            State::Pending(_) => None,
            State::Taken => Some(None),
            State::Beside(both) => Some(both.0.take()),
            State::Settled(_) => match std::mem::replace(self, State::Taken) {
                State::Settled(value) => Some(Some(value)),
                _ => None,
            },
        }
    }
}

impl<T, E> Slot<T, E> {
    #[inline]
    pub(crate) fn new() -> Slot<T, E> {
        Slot { state: Mutex::new(State::Pending(None)), is_settled: AtomicBool::new(false) }
    }

    /// A slot that was never pending.
    pub(crate) fn of(value: T) -> Slot<T, E> {
        Slot { state: Mutex::new(State::Settled(value)), is_settled: AtomicBool::new(true) }
    }

    /// Settles the slot and wakes all that wait. Wakers are user code: nothing may be locked here. A second value is refused.
    pub(crate) fn settle(&self, value: T) -> Result<(), T> {
        let mut state = lock(&self.state);
        let State::Pending(pending) = &mut *state else { return Err(value) };
        let (wakers, extra) = match pending.take() {
            None => (Vec::new(), None),
            Some(pending) => (pending.wakers, pending.extra),
        };
        *state = match extra {
            None => State::Settled(value),
            Some(extra) => State::Beside(Box::new((Some(value), extra))),
        };
        self.is_settled.store(true, Release);
        drop(state);
        for waker in wakers {
            // a waker that panics is its owner's problem, not that of the thread that settles slots
            unharmed(|| waker.wake());
        }
        Ok(())
    }

    /// Settles the slot if nobody waits for it, as far as can be seen at once: calls no code of anybody's and waits for nobody, so locks may be held. Otherwise the
    /// value is given back.
    #[inline]
    pub(crate) fn settle_unwaited(&self, value: T) -> Result<(), T> {
        // held by somebody who is about to wait: his waker is the user's code
        let Ok(mut state) = self.state.try_lock() else { return Err(value) };
        match &*state {
            State::Pending(None) => {
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
    pub(crate) fn take_alone(&mut self) -> Option<Option<T>> {
        unpoisoned(self.state.get_mut()).take()
    }

    /// Takes the value out; `None` as long as there is none. `Some(None)`: it was taken before.
    pub(crate) fn take(&self) -> Option<Option<T>> {
        lock(&self.state).take()
    }

    /// Looks at the value.
    pub(crate) fn with<R>(&self, look: impl FnOnce(&T) -> R) -> Option<R> {
        match &*lock(&self.state) {
            State::Settled(value) => Some(look(value)),
            State::Beside(both) => both.0.as_ref().map(look),
            State::Pending(_) | State::Taken => None,
        }
    }

    /// Has the waker woken when the slot is settled; at once if it is. `false`: it is settled, and the waker was not kept.
    pub(crate) fn register(&self, waker: &Waker) -> bool {
        let State::Pending(pending) = &mut *lock(&self.state) else { return false };
        let wakers = &mut pending.get_or_insert_default().wakers;
        if !wakers.iter().any(|known| known.will_wake(waker)) {
            wakers.push(waker.clone());
        }
        true
    }

    /// Does not wake this waker any more.
    pub(crate) fn forget(&self, waker: &Waker) {
        if let State::Pending(pending) = &mut *lock(&self.state)
            && let Some(waiting) = pending
        {
            waiting.wakers.retain(|known| !known.will_wake(waker));
            if waiting.wakers.is_empty() && waiting.extra.is_none() {
                *pending = None;
            }
        }
    }

    /// Waits until the slot is settled, or until the deadline. Returns whether it is settled.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> bool {
        if self.is_settled() {
            return true;
        }
        let parker = Parker::of_this_thread();
        let waker = parker.waker();
        if !self.register(&waker) {
            return true;
        }
        while !self.is_settled() {
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                self.forget(&waker);
                return self.is_settled();
            }
            parker.park(deadline);
        }
        true
    }
}

impl<T, E: Default> Slot<T, E> {
    /// Changes what is beside the value of a slot that is not settled yet.
    pub(crate) fn change_extra(&self, change: impl FnOnce(&mut E)) {
        if let State::Pending(pending) = &mut *lock(&self.state) {
            change(pending.get_or_insert_default().extra.get_or_insert_default());
        }
    }

    /// What is beside the value, if there is anything.
    pub(crate) fn with_extra<R>(&self, look: impl FnOnce(&E) -> R) -> Option<R> {
        match &*lock(&self.state) {
            State::Pending(pending) => pending.as_ref()?.extra.as_ref().map(look),
            State::Beside(both) => Some(look(&both.1)),
            State::Settled(_) | State::Taken => None,
        }
    }
}

impl<E> Default for Pending<E> {
    fn default() -> Pending<E> {
        Pending { wakers: Vec::new(), extra: None }
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
        let slot: Slot<_> = Slot::new();
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
        let slot: Slot<_> = Slot::new();
        assert!(slot.register(&waker));
        assert_eq!(slot.settle_unwaited(1), Err(1));
        assert!(!slot.is_settled());
        slot.forget(&waker);
        assert_eq!(slot.settle_unwaited(1), Ok(()));
        assert_eq!(slot.settle_unwaited(2), Err(2));
        assert!(slot.is_settled());
        assert_eq!(slot.take(), Some(Some(1)));
    }

    #[test]
    fn the_last_owner_gets_what_take_would_give() {
        assert_eq!(Slot::<u8>::new().take_alone(), None);
        let mut slot: Slot<_> = Slot::of(1);
        assert_eq!(slot.take_alone(), Some(Some(1)));
        assert_eq!((slot.take_alone(), slot.take()), (Some(None), Some(None)));
    }

    #[test]
    fn what_is_beside_the_value_stays() {
        let slot: Slot<u8, Vec<u8>> = Slot::new();
        assert_eq!(slot.with_extra(Vec::clone), None);
        slot.change_extra(|extra| extra.push(1));
        slot.change_extra(|extra| extra.push(2));
        assert_eq!(slot.with_extra(Vec::clone), Some(vec![1, 2]));
        assert_eq!(slot.settle_unwaited(7), Err(7), "not the quick way");
        assert_eq!(slot.settle(7), Ok(()));
        assert_eq!(slot.settle(8), Err(8));
        assert_eq!(slot.with(|value| *value), Some(7));
        assert_eq!((slot.take(), slot.take()), (Some(Some(7)), Some(None)));
        slot.change_extra(|extra| extra.push(3));
        assert_eq!(slot.with_extra(Vec::clone), Some(vec![1, 2]), "it came too late");
        assert!(slot.is_settled());
    }

    #[test]
    fn a_waker_is_woken_once_however_often_it_is_registered() {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let slot: Slot<_> = Slot::new();
        assert!(slot.register(&waker) && slot.register(&waker));
        slot.settle(()).unwrap();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(!slot.register(&waker), "there is nothing left to wait for");
    }

    #[test]
    fn a_forgotten_waker_is_not_woken() {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let slot: Slot<_> = Slot::new();
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
        let slot = Arc::new(Slot::<_>::new());
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
            let slot = Arc::new(Slot::<_>::new());
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
            let slot = Arc::new(Slot::<_>::new());
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
            let slot = Arc::new(Slot::<_>::new());
            let other = Arc::clone(&slot);
            let other = thread::spawn(move || other.settle(1).is_ok());
            let ours = slot.settle(2).is_ok();
            let theirs = other.join().unwrap();
            assert!(ours != theirs);
            assert_eq!(slot.take(), Some(Some(if ours { 2 } else { 1 })));
        });
    }
}
