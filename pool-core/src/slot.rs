//! A one-shot cell for a task's outcome: settled once, by whoever comes first; waited for by a thread, by wakers, or not at all. As small as can be: there may be a
//! million of them, and few are waited for or have anything beside their value.

use std::sync::atomic::Ordering::{Acquire, Release};
use std::task::Waker;
use std::time::Instant;

use crate::primitives::{AtomicU8, Mutex, Parker, lock, unharmed};

/// See the module's documentation. `E` is what few slots have beside their value; it is there as long as the slot is, or until that is abandoned.
#[derive(Debug)]
pub(crate) struct Slot<T, E = ()> {
    state: Mutex<State<T, E>>,
    /// How far it is: to be asked without the lock. Changed with the lock held.
    stage: AtomicU8,
}

const PENDING: u8 = 0;
const SETTLED: u8 = 1;
/// Settled, and nothing is left in it.
const EMPTY: u8 = 2;

#[derive(Debug)]
enum State<T, E> {
    Pending(Option<Box<Pending<E>>>),
    /// Nobody wants the value that it will have.
    Abandoned(Option<Box<Pending<E>>>),
    Settled(T),
    /// Settled, and taken.
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
            State::Pending(_) | State::Abandoned(_) => None,
            State::Taken => Some(None),
            State::Beside(both) => Some(both.0.take()),
            State::Settled(_) => match std::mem::replace(self, State::Taken) {
                State::Settled(value) => Some(Some(value)),
                _ => None,
            },
        }
    }

    /// Those who wait, if it has no value yet.
    fn pending(&mut self) -> Option<&mut Option<Box<Pending<E>>>> {
        match self {
            State::Pending(pending) | State::Abandoned(pending) => Some(pending),
            State::Settled(_) | State::Taken | State::Beside(_) => None,
        }
    }
}

impl<T, E> Slot<T, E> {
    #[inline]
    pub(crate) fn new() -> Slot<T, E> {
        Slot { state: Mutex::new(State::Pending(None)), stage: AtomicU8::new(PENDING) }
    }

    /// Settles the slot and wakes all that wait. Wakers are user code: nothing may be locked here. A second value is refused; one that nobody wants is dropped.
    pub(crate) fn settle(&self, value: T) -> Result<(), T> {
        let mut state = lock(&self.state);
        let Some(pending) = state.pending() else { return Err(value) };
        let (wakers, extra) = match pending.take() {
            None => (Vec::new(), None),
            Some(pending) => (pending.wakers, pending.extra),
        };
        let (next, stage, unwanted) = match (&*state, extra) {
            (State::Abandoned(_), extra) => (State::Taken, EMPTY, Some((value, extra))),
            (_, None) => (State::Settled(value), SETTLED, None),
            (_, Some(extra)) => (State::Beside(Box::new((Some(value), extra))), SETTLED, None),
        };
        *state = next;
        self.stage.store(stage, Release);
        drop(state);
        for waker in wakers {
            // a waker that panics is its owner's problem, not that of the thread that settles slots
            unharmed(|| waker.wake());
        }
        drop(unwanted);
        Ok(())
    }

    /// Settles the slot if nobody waits for it, as far as can be seen at once: calls no code of anybody's, but for the drop of a value that nobody wants, and waits for nobody, so
    /// locks may be held. Otherwise the value is given back.
    #[inline]
    pub(crate) fn settle_unwaited(&self, value: T) -> Result<(), T> {
        // held by somebody who is about to wait: his waker is the user's code
        let Ok(mut state) = self.state.try_lock() else { return Err(value) };
        let (next, stage) = match &*state {
            State::Pending(None) => (State::Settled(value), SETTLED),
            State::Abandoned(None) => (State::Taken, EMPTY),
            _ => return Err(value),
        };
        *state = next;
        self.stage.store(stage, Release);
        Ok(())
    }

    /// Whether there is a value, or there was one.
    #[inline]
    pub(crate) fn is_settled(&self) -> bool {
        self.stage.load(Acquire) != PENDING
    }

    /// Takes the value out; `None` as long as there is none. `Some(None)`: it was taken before.
    #[inline]
    pub(crate) fn take(&self) -> Option<Option<T>> {
        let mut state = lock(&self.state);
        let taken = state.take();
        if matches!(*state, State::Taken) {
            self.stage.store(EMPTY, Release);
        }
        taken
    }

    /// By the only one who may want the value, and what is beside it: both are dropped, now or when the slot is settled. Who waits is still woken.
    #[inline]
    pub(crate) fn abandon(&self) {
        if self.stage.load(Acquire) != EMPTY {
            self.empty();
        }
    }

    fn empty(&self) {
        let mut state = lock(&self.state);
        if let Some(pending) = state.pending() {
            // with what is beside it: callbacks may still want to decode the value
            let pending = pending.take();
            *state = State::Abandoned(pending);
            return;
        }
        let dropped = std::mem::replace(&mut *state, State::Taken);
        self.stage.store(EMPTY, Release);
        drop(state);
        // the user's code
        drop(dropped);
    }

    /// Looks at the value.
    pub(crate) fn with<R>(&self, look: impl FnOnce(&T) -> R) -> Option<R> {
        match &*lock(&self.state) {
            State::Settled(value) => Some(look(value)),
            State::Beside(both) => both.0.as_ref().map(look),
            State::Pending(_) | State::Abandoned(_) | State::Taken => None,
        }
    }

    /// Has the waker woken when the slot is settled; at once if it is. `false`: it is settled, and the waker was not kept.
    pub(crate) fn register(&self, waker: &Waker) -> bool {
        let mut state = lock(&self.state);
        let Some(pending) = state.pending() else { return false };
        let wakers = &mut pending.get_or_insert_default().wakers;
        if !wakers.iter().any(|known| known.will_wake(waker)) {
            wakers.push(waker.clone());
        }
        true
    }

    /// Does not wake this waker any more.
    pub(crate) fn forget(&self, waker: &Waker) {
        if let Some(pending) = lock(&self.state).pending()
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
            State::Settled(_) | State::Taken | State::Abandoned(_) => None,
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
    fn what_nobody_wants_is_dropped_as_soon_as_it_is_there() {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let value = Arc::new(());
        let [before, after, quickly, taken]: [Slot<_, Arc<()>>; 4] =
            std::array::from_fn(|_| Slot::new());
        before.change_extra(|extra| *extra = Arc::clone(&value));
        assert!(before.register(&Waker::from(Arc::clone(&count))));
        before.abandon();
        before.abandon();
        assert!(!before.is_settled());
        assert!(before.settle_unwaited(Arc::clone(&value)).is_err(), "somebody waits");
        assert!(before.settle(Arc::clone(&value)).is_ok());
        assert_eq!(count.0.load(Ordering::Relaxed), 1, "who waits is told");
        after.change_extra(|extra| *extra = Arc::clone(&value));
        assert!(after.settle(Arc::clone(&value)).is_ok());
        after.abandon();
        quickly.abandon();
        assert!(quickly.settle_unwaited(Arc::clone(&value)).is_ok());
        assert!(taken.settle(Arc::clone(&value)).is_ok());
        drop(taken.take());
        taken.abandon();
        assert_eq!(Arc::strong_count(&value), 1);
        for slot in [before, after, quickly, taken] {
            assert!(slot.is_settled());
            assert_eq!(slot.take(), Some(None));
            assert!(slot.settle(Arc::clone(&value)).is_err(), "once");
        }
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
    fn a_value_is_dropped_once_whoever_comes_first() {
        loom::model(|| {
            let (slot, value) = (Arc::new(Slot::<_>::new()), Arc::new(()));
            let abandons = Arc::clone(&slot);
            let abandons = thread::spawn(move || abandons.abandon());
            if let Err(value) = slot.settle_unwaited(Arc::clone(&value)) {
                slot.settle(value).unwrap();
            }
            abandons.join().unwrap();
            assert_eq!(Arc::strong_count(&value), 1);
            assert!(matches!(slot.take(), Some(None)));
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
