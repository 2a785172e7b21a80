//! How one who is about to sleep and one who moves a count in shared memory agree on who is told: the one says what he needs, then looks at the count once more; the
//! other moves the count, then looks whether he is needed. In the total order of these four steps, one of them sees the other.

use std::sync::atomic::Ordering::{Acquire, Release, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64};

/// How soon the bell is to be rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u64)]
pub(crate) enum Need {
    /// When the writer has nothing else to do, or has had much to do for long.
    Later = 1,
    /// The same, but it is not to be long.
    Soon = 2,
    /// At once: somebody waits.
    Now = 3,
}

/// The steps, with their orderings: for all kinds of words, because the model of the [lane](super::lane) has one that loom knows.
pub(super) trait Word {
    /// Sees all that was written before the value.
    fn get(&self) -> u64;
    /// Shows all that was written before.
    fn put(&self, value: u64);
    /// In one order with all other steps of these names.
    fn put_in_order(&self, value: u64);
    fn get_in_order(&self) -> u64;
    fn take_in_order(&self) -> u64;
}

/// The words that are, of 64 bits, and those of 32 bits, on which a process can sleep.
macro_rules! words {
    ($word:ty, $value:ty) => {
        impl Word for $word {
            fn get(&self) -> u64 {
                u64::from(self.load(Acquire))
            }

            fn put(&self, value: u64) {
                self.store(value as $value, Release);
            }

            fn put_in_order(&self, value: u64) {
                self.store(value as $value, SeqCst);
            }

            fn get_in_order(&self) -> u64 {
                u64::from(self.load(SeqCst))
            }

            fn take_in_order(&self) -> u64 {
                u64::from(self.swap(0, SeqCst))
            }
        }
    };
}
words!(AtomicU64, u64);
words!(AtomicU32, u32);

/// To be told from now on, by one who has seen this count; `false`: it has moved before the other one could know.
pub(super) fn ask(wish: &impl Word, count: &impl Word, seen: u64, need: Need) -> bool {
    wish.put_in_order(need as u64);
    count.get_in_order() == seen
}

/// By the one who has moved the count: whether the other one must be told. Asking takes the wish away.
pub(super) fn is_asked(wish: &impl Word, need: Need) -> bool {
    wish.get_in_order() >= need as u64 && wish.take_in_order() != 0
}
