//! Looking again and again for a moment before going to sleep: waking a sleeper takes longer than most of what is waited for.

use std::time::Duration;

use crate::limits::SPIN_NS;
use crate::sys::clock;

/// Looks in a row between two offers of the CPU to others, which take about as long: some 500 ns. Both sides may share one core, and then only the offer
/// lets the other one get on.
const LOOKS: u32 = 32;

/// After so many vain spins in a row, it is worth only one in [`RARE`].
const TRIES: u32 = 8;
const RARE: u32 = 64;

/// Looks again and again whether `ready`, for at most [`SPIN_NS`]; returns whether it was.
pub(crate) fn spin_until(mut ready: impl FnMut() -> bool) -> bool {
    spin_for(SPIN_NS, || ready().then_some(())).is_some()
}

/// What `look` finds within the limit.
fn spin_for<R>(limit_ns: u64, mut look: impl FnMut() -> Option<R>) -> Option<R> {
    let mut end = None;
    loop {
        for _ in 0..LOOKS {
            if let Some(found) = look() {
                return Some(found);
            }
            std::hint::spin_loop();
        }
        let now = clock::now_ns();
        if now >= *end.get_or_insert(now + limit_ns) {
            return look();
        }
        std::thread::yield_now();
    }
}

/// How somebody waits who waits often: hardly ever awake if that has been in vain for long.
#[derive(Debug)]
pub(crate) struct Spin {
    limit_ns: u64,
    /// In a row.
    vain: u32,
}

impl Spin {
    pub(crate) fn new(limit: Duration) -> Spin {
        Spin { limit_ns: u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX >> 1), vain: 0 }
    }

    /// Whether it is to be tried this time.
    pub(crate) fn is_worth_it(&mut self) -> bool {
        self.vain = self.vain.wrapping_add(1);
        self.vain <= TRIES || self.vain.is_multiple_of(RARE)
    }

    /// What `look` finds within the limit.
    pub(crate) fn until<R>(&mut self, look: impl FnMut() -> Option<R>) -> Option<R> {
        let found = spin_for(self.limit_ns, look);
        if found.is_some() {
            self.vain = 0;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_found_and_what_never_is_costs_less_and_less() {
        let mut spin = Spin::new(Duration::from_nanos(1));
        let mut tried = 0;
        for _ in 0..10 * RARE {
            if spin.is_worth_it() {
                tried += 1;
                assert_eq!(spin.until(|| None::<()>), None);
            }
        }
        assert!((TRIES..TRIES + 20).contains(&tried), "{tried}");
        // one that is found makes the next ones worth it again
        while !spin.is_worth_it() {}
        assert_eq!(spin.until(|| Some(1)), Some(1));
        assert!(spin.is_worth_it() && spin.is_worth_it());
    }
}
