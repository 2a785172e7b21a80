//! A place where a number of parties wait for each other.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicU8, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};
use std::time::Duration;

use super::lock::Held;
use super::word::LockWord;
use super::{Futex, Slices};
use crate::shm::object::{Object, What, Words, travels};
use crate::sys::identity::{is_gone, me};

/// A place where a fixed number of parties, threads of any processes, wait until all are there. It can be used again at once.
///
/// A party that dies while it waits breaks the barrier: the others get [`BrokenBarrier`], as they do after a party's time was up, or after
/// [`abort`](Barrier::abort). A broken barrier stays so until [`reset`](Barrier::reset). A party that dies before it arrives is not known; use
/// [`wait_timeout`](Barrier::wait_timeout) where that may happen.
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// # pool_core::init();
/// use pool_core::Barrier;
/// let pool = pool_core::Pool::new(2)?;
/// let both = Barrier::new(2)?;
/// let meet = |both: Barrier| -> anyhow::Result<usize> { Ok(both.wait()?) };
/// let mut places = pool.task(meet).chunk_size(1).map([both.clone(), both])?;
/// places.sort();
/// assert_eq!(places, [0, 1]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Barrier {
    object: Arc<Object>,
}

/// The barrier was broken: a party died or gave up while it waited, or somebody called `abort` or `reset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the barrier is broken: a party died or gave up, or somebody aborted or reset it")]
pub struct BrokenBarrier;

/// The most parties that a barrier can have.
const MOST: usize = 1 << 16;
/// Rounds whose end is remembered, for parties that are slow to wake up.
const ROUNDS: usize = 1 << 10;

/// All changes are made with the lock held, and each is one store to `phase` that makes the stores before it count.
#[repr(C)]
struct State {
    lock: LockWord,
    changed: Futex,
    _gap: Futex,
    /// `round << 32 | broken << 31 | arrived`.
    phase: AtomicU64,
    parties: AtomicU64,
    /// By round: 1 if it was ended by a reset.
    reset: [AtomicU8; ROUNDS],
}

// SAFETY: atomics only.
unsafe impl Words for State {}

const HEAD: usize = size_of::<State>().next_multiple_of(64);

/// What `phase` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Phase {
    round: u32,
    broken: bool,
    arrived: u32,
}

impl Phase {
    fn of(word: u64) -> Phase {
        let arrived = word as u32 & !(1 << 31);
        Phase { round: (word >> 32) as u32, broken: word & 1 << 31 != 0, arrived }
    }

    fn word(self) -> u64 {
        u64::from(self.round) << 32 | u64::from(self.broken) << 31 | u64::from(self.arrived)
    }

    fn next(self) -> Phase {
        Phase { round: self.round.wrapping_add(1), broken: false, arrived: 0 }
    }
}

impl Barrier {
    /// A barrier for so many parties, at most 65,536.
    ///
    /// # Errors
    /// There is no memory, or no descriptor is free; or the number of parties is 0 or too large.
    pub fn new(parties: usize) -> io::Result<Barrier> {
        if !(1..=MOST).contains(&parties) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a barrier is for 1 to 65,536 parties",
            ));
        }
        let barrier = Barrier { object: Object::create(What::Barrier.alone(), bytes(parties))? };
        barrier.state().parties.store(parties as u64, Relaxed);
        Ok(barrier)
    }

    fn state(&self) -> &State {
        self.object.words(0)
    }

    /// Who has arrived as the party of this number.
    fn party(&self, number: u32) -> &AtomicU64 {
        self.object.memory().word(HEAD + number as usize * 8)
    }

    /// How many parties it is for.
    #[must_use]
    pub fn parties(&self) -> usize {
        (self.state().parties.load(Relaxed) as usize).min(self.places())
    }

    fn places(&self) -> usize {
        (self.object.memory().len() - HEAD) / 8
    }

    /// How many parties wait just now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        let phase = self.phase();
        if phase.broken { 0 } else { phase.arrived as usize }
    }

    /// Whether it is broken.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.phase().broken
    }

    fn phase(&self) -> Phase {
        Phase::of(self.state().phase.load(Acquire))
    }

    /// Waits until all parties are there. Gives the place in the order of arrival, from 0: different for each party.
    ///
    /// # Errors
    /// [`BrokenBarrier`]: see there.
    pub fn wait(&self) -> Result<usize, BrokenBarrier> {
        self.wait_with(None, || {})
    }

    /// Waits until all parties are there, at most so long; then the barrier is broken, for all that wait.
    ///
    /// # Errors
    /// [`BrokenBarrier`]: see there.
    pub fn wait_timeout(&self, limit: Duration) -> Result<usize, BrokenBarrier> {
        self.wait_with(Some(limit), || {})
    }

    /// Like [`wait`](Barrier::wait) or, with a limit, [`wait_timeout`](Barrier::wait_timeout). The last one to arrive calls `action` before any goes on; if that
    /// panics, the barrier is broken.
    ///
    /// # Errors
    /// [`BrokenBarrier`]: see there.
    pub fn wait_with(
        &self,
        limit: Option<Duration>,
        action: impl FnOnce(),
    ) -> Result<usize, BrokenBarrier> {
        let mut slices = Slices::new(limit);
        let (round, place) = self.arrive(limit)?;
        if place as usize + 1 == self.parties() {
            let bomb = Breaks { barrier: self, round };
            action();
            std::mem::forget(bomb);
            return if self.end(round, |phase| Some(phase.next())) {
                Ok(place as usize)
            } else {
                Err(BrokenBarrier)
            };
        }
        loop {
            let count = self.state().changed.load();
            let phase = self.phase();
            if phase.round != round {
                let reset = self.state().reset[round as usize % ROUNDS].load(Acquire) != 0;
                return if reset { Err(BrokenBarrier) } else { Ok(place as usize) };
            }
            if phase.broken {
                return Err(BrokenBarrier);
            }
            match slices.next() {
                None => {
                    self.end(round, broken);
                }
                Some(slice) => {
                    self.state().changed.wait(count, Some(slice));
                    if self.has_lost_a_party(round) {
                        self.end(round, broken);
                    }
                }
            }
        }
    }

    /// Takes the next place of the round.
    fn arrive(&self, limit: Option<Duration>) -> Result<(u32, u32), BrokenBarrier> {
        let held = Held::take_whole(&self.state().lock, limit).ok_or(BrokenBarrier)?;
        let phase = self.phase();
        let place = phase.arrived;
        // more than there are: the last one runs its action, and this one is a party of no round yet
        if phase.broken || place as usize >= self.parties() {
            drop(held);
            return if phase.broken { Err(BrokenBarrier) } else { self.arrive_later(limit) };
        }
        self.party(place).store(me(), Relaxed);
        if place == 0 {
            self.state().reset[phase.round as usize % ROUNDS].store(0, Relaxed);
        }
        self.set(Phase { arrived: place + 1, ..phase });
        Ok((phase.round, place))
    }

    /// All places of the round are taken: waits until it has ended.
    fn arrive_later(&self, limit: Option<Duration>) -> Result<(u32, u32), BrokenBarrier> {
        let mut slices = Slices::new(limit);
        let round = self.phase().round;
        loop {
            let count = self.state().changed.load();
            let phase = self.phase();
            if phase.round != round || phase.broken || (phase.arrived as usize) < self.parties() {
                return self.arrive(limit);
            }
            let slice = slices.next().ok_or(BrokenBarrier)?;
            self.state().changed.wait(count, Some(slice));
            if self.has_lost_a_party(round) {
                self.end(round, broken);
            }
        }
    }

    fn has_lost_a_party(&self, round: u32) -> bool {
        let phase = self.phase();
        let arrived = phase.arrived.min(self.places() as u32);
        phase.round == round
            && !phase.broken
            && (0..arrived).any(|place| is_gone(self.party(place).load(Relaxed)))
    }

    /// Makes the round another one or a broken one, and wakes all; `false` if it is that already.
    fn end(&self, round: u32, change: impl FnOnce(Phase) -> Option<Phase>) -> bool {
        let held = Held::take_whole(&self.state().lock, None);
        let phase = self.phase();
        let changed = if phase.round == round && !phase.broken { change(phase) } else { None };
        if let Some(phase) = changed {
            self.set(phase);
        }
        drop(held);
        if changed.is_some() {
            self.state().changed.wake(u32::MAX);
        }
        changed.is_some()
    }

    fn set(&self, phase: Phase) {
        self.state().phase.store(phase.word(), Release);
    }

    /// Breaks the barrier: all that wait, and all that come, get [`BrokenBarrier`].
    pub fn abort(&self) {
        self.end(self.phase().round, broken);
    }

    /// Begins anew: a broken barrier is whole again, and those that wait now get [`BrokenBarrier`].
    pub fn reset(&self) {
        let held = Held::take_whole(&self.state().lock, None);
        let phase = self.phase();
        let ended = u8::from(phase.arrived > 0);
        self.state().reset[phase.round as usize % ROUNDS].store(ended, Release);
        self.set(phase.next());
        drop(held);
        self.state().changed.wake(u32::MAX);
    }
}

fn broken(phase: Phase) -> Option<Phase> {
    Some(Phase { broken: true, ..phase })
}

/// Breaks the barrier when it is dropped: an action has panicked.
struct Breaks<'a> {
    barrier: &'a Barrier,
    round: u32,
}

impl Drop for Breaks<'_> {
    fn drop(&mut self) {
        self.barrier.end(self.round, broken);
    }
}

fn bytes(parties: usize) -> usize {
    HEAD + 8 * parties
}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Barrier").field("parties", &self.parties()).finish_non_exhaustive()
    }
}

travels!([] Barrier, [What::Barrier.alone()], |object| {
    Ok(Barrier { object: object.at_least(bytes(1))? })
});
