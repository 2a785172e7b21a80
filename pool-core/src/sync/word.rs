//! The lock itself: one 64-bit word that names its owner, and a futex for those who wait.
//!
//! | bits | |
//! |---|---|
//! | 0..62 | the [token](crate::sys::identity) of the process that holds the lock; 0: nobody |
//! | 62 | poisoned: a holder died or panicked, and nobody has repaired what it left |
//! | 63 | somebody may be asleep |
//!
//! Taking a free lock is one compare-and-swap, which makes the owner known in the same instant, so there is no instruction at which a
//! process could be killed with the lock held by nobody. Letting it go is one swap; a process that is killed between it and the wake-up that may follow
//! leaves a free lock, which sleepers find at the end of their slice. Taking a lock from the dead is one compare-and-swap too, of that very owner's word, so of several
//! who see the same death one gets the lock; and if it dies in turn, the word names it.
//!
//! A robust futex would do the same with help of the kernel, which would wake a sleeper at once. But its list of held locks is one per thread and belongs to libc, whose nodes
//! lie inside the locks: pointers in shared memory, followed on unlock. A worker with a wild pointer could make its parent write anywhere.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::time::Duration;

use super::futex::{AtomicU64, Futex};
use crate::shm::object::Words;
use crate::sys::futex::Woken;
use crate::sys::identity::{TOKEN_BITS, Token};

const OWNER: u64 = (1 << TOKEN_BITS) - 1;
const POISONED: u64 = 1 << 62;
const SLEEPERS: u64 = 1 << 63;

/// Looks at a held lock before sleeping: about as long as a short critical section takes.
const SPINS: u32 = 60;

/// See the module's documentation.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct LockWord {
    word: AtomicU64,
    futex: Futex,
}

// SAFETY: atomics only. (A model makes its own, outside shared memory.)
unsafe impl Words for LockWord {}

/// The lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) poisoned: bool,
}

impl LockWord {
    /// Takes the lock if it is free.
    #[inline]
    pub(crate) fn try_free(&self, me: Token) -> bool {
        self.word.compare_exchange(0, me, Acquire, Relaxed).is_ok()
    }

    /// Takes the lock if nobody alive holds it.
    pub(crate) fn try_take(&self, me: Token, is_gone: impl Fn(Token) -> bool) -> Option<Taken> {
        let mut known = 0;
        loop {
            let word = self.word.load(Relaxed);
            let owner = word & OWNER;
            if owner != 0 && owner != known {
                if !is_gone(owner) {
                    return None;
                }
                known = owner;
            }
            if let Some(taken) = self.swap_in(word, me, 0) {
                return Some(taken);
            }
        }
    }

    /// Takes a word that names nobody, or somebody who is known to be dead.
    fn swap_in(&self, word: u64, me: Token, extra: u64) -> Option<Taken> {
        let died = if word & OWNER == 0 { 0 } else { POISONED };
        let new = me | word & (POISONED | SLEEPERS) | died | extra;
        self.word.compare_exchange(word, new, Acquire, Relaxed).ok()?;
        Some(Taken { poisoned: new & POISONED != 0 })
    }

    /// Waits for the lock. `next_slice` says how long to sleep before the next look for the dead: `None` when the time is up; `Some(None)`, for models, for ever.
    pub(crate) fn take(
        &self,
        me: Token,
        is_gone: impl Fn(Token) -> bool,
        mut next_slice: impl FnMut() -> Option<Option<Duration>>,
    ) -> Option<Taken> {
        let mut spins = 0;
        // who takes the lock after a sleep can't know whether others still sleep
        let mut slept = 0;
        loop {
            let word = self.word.load(Relaxed);
            if word & OWNER == 0 {
                if let Some(taken) = self.swap_in(word, me, slept) {
                    return Some(taken);
                }
                continue;
            }
            if spins < SPINS && word & SLEEPERS == 0 && cfg!(not(loom)) {
                spins += 1;
                std::hint::spin_loop();
                continue;
            }
            let count = self.futex.load();
            let marked = word | SLEEPERS;
            if self.word.compare_exchange(word, marked, Relaxed, Relaxed).is_err() {
                continue;
            }
            // the mark stays also when this one gives up: the next wake-up is one too many at worst
            let slice = next_slice()?;
            slept = SLEEPERS;
            if self.futex.wait(count, slice) == Woken::TimedOut {
                let word = self.word.load(Relaxed);
                let owner = word & OWNER;
                if owner != 0
                    && is_gone(owner)
                    && let Some(taken) = self.swap_in(word, me, slept)
                {
                    return Some(taken);
                }
            }
        }
    }

    /// Lets the lock go, if this process holds it: a copy of the holder made by `fork` has its guards, but not its locks.
    #[inline]
    pub(crate) fn release(&self, me: Token, poisoned: bool) {
        if self.word.load(Relaxed) & OWNER != me {
            return;
        }
        let before = self.word.swap(if poisoned { POISONED } else { 0 }, AcqRel);
        if before & SLEEPERS != 0 {
            self.futex.wake(1);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn word() -> LockWord {
        // SAFETY: zeroed atomics are valid.
        unsafe { std::mem::zeroed() }
    }

    const NEVER: fn(Token) -> bool = |_| false;

    #[test]
    fn the_lock_of_the_dead_is_taken_and_says_so_until_it_is_repaired() {
        let lock = word();
        assert!(lock.try_free(1));
        assert_eq!(lock.try_take(2, NEVER), None);
        assert_eq!(lock.try_take(2, |owner| owner == 1), Some(Taken { poisoned: true }));
        // the second one dies before it has repaired anything
        assert_eq!(lock.try_take(3, |owner| owner == 2), Some(Taken { poisoned: true }));
        lock.release(2, false); // whoever it is, it is not the holder
        lock.release(3, true);
        assert_eq!(lock.try_take(4, NEVER), Some(Taken { poisoned: true }));
        lock.release(4, false);
        assert!(lock.try_free(5));
    }

    #[test]
    fn a_wait_ends_when_the_time_is_up_and_the_next_release_wakes() {
        let lock = word();
        assert!(lock.try_free(1));
        assert_eq!(lock.take(2, NEVER, || None), None);
        assert_eq!(lock.word.load(Relaxed), 1 | SLEEPERS);
        lock.release(1, false);
        assert_eq!(lock.futex.load(), 1);
        assert!(lock.try_free(2));
    }

    #[test]
    fn any_word_is_answered() {
        let lock = word();
        lock.word.store(u64::MAX, Relaxed);
        assert_eq!(
            lock.take(2, |_| true, || Some(Some(Duration::ZERO))),
            Some(Taken { poisoned: true })
        );
    }
}

#[cfg(all(test, loom))]
mod model {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    fn word() -> Arc<LockWord> {
        Arc::new(LockWord { word: AtomicU64::new(0), futex: Futex::new() })
    }

    const NEVER: fn(Token) -> bool = |_| false;

    /// All interleavings with at most three preemptions: more take minutes.
    fn model(run: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(run);
    }

    fn lock(word: &LockWord, me: Token) -> Taken {
        if word.try_free(me) {
            return Taken { poisoned: false };
        }
        word.take(me, NEVER, || Some(None)).unwrap()
    }

    /// Three processes, no time limits: a lost wake-up would be a deadlock, which loom reports.
    #[test]
    fn one_holds_it_and_every_sleeper_is_woken() {
        model(|| {
            let (word, inside) = (word(), Arc::new(AtomicU64::new(0)));
            let enter = move |word: &LockWord, inside: &AtomicU64, me| {
                assert!(!lock(word, me).poisoned);
                assert_eq!(inside.swap(me, Relaxed), 0);
                inside.store(0, Relaxed);
                word.release(me, false);
            };
            let others: Vec<_> = (2..4)
                .map(|me| {
                    let (word, inside) = (Arc::clone(&word), Arc::clone(&inside));
                    thread::spawn(move || enter(&word, &inside, me))
                })
                .collect();
            enter(&word, &inside, 1);
            others.into_iter().for_each(|other| other.join().unwrap());
        });
    }

    /// One process dies with the lock held; two others see it at any time after: each gets the lock, one after the other, and is told.
    #[test]
    fn the_dead_are_succeeded_one_at_a_time() {
        model(|| {
            let word = word();
            assert!(word.try_free(9));
            let enter = |word: &LockWord, me| {
                let slices = || Some(Some(Duration::ZERO));
                let taken = word.take(me, |owner| owner == 9, slices).unwrap();
                assert!(taken.poisoned);
                assert_eq!(word.word.load(Relaxed) & OWNER, me);
                word.release(me, true);
            };
            let other = Arc::clone(&word);
            let other = thread::spawn(move || enter(&other, 2));
            enter(&word, 1);
            other.join().unwrap();
        });
    }

    /// A process is killed between letting the lock go and waking the sleeper: the sleeper finds it by itself.
    #[test]
    fn a_wake_up_that_is_never_sent_is_survived() {
        model(|| {
            let word = word();
            assert!(word.try_free(1));
            let other = Arc::clone(&word);
            let other = thread::spawn(move || {
                other.take(2, NEVER, || Some(Some(Duration::ZERO))).unwrap();
                other.release(2, false);
            });
            word.word.swap(0, AcqRel);
            other.join().unwrap();
        });
    }
}
