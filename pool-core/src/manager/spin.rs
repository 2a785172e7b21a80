//! Looking again and again for a moment before going to sleep: waking a sleeper takes longer than most operations.

use std::time::{Duration, Instant};

/// After so many vain spins in a row, it is worth only one in [`RARE`].
const TRIES: u32 = 8;
const RARE: u32 = 64;

/// Looks between two system calls that let others run.
const LOOKS: u32 = 8;

/// How one side of a connection waits. Others get the processor in between, so that the two sides of a connection that share one do not wait for each other.
#[derive(Debug)]
pub(super) struct Spin {
    limit: Duration,
    /// In a row.
    vain: u32,
}

impl Spin {
    pub(super) fn new(limit: Duration) -> Spin {
        Spin { limit, vain: 0 }
    }

    /// Whether it is to be tried this time: hardly ever if it has been in vain for long.
    pub(super) fn is_worth_it(&mut self) -> bool {
        self.vain = self.vain.wrapping_add(1);
        self.vain <= TRIES || self.vain.is_multiple_of(RARE)
    }

    /// What `look` finds within the limit.
    pub(super) fn until<R>(&mut self, mut look: impl FnMut() -> Option<R>) -> Option<R> {
        let mut begun = None;
        loop {
            for _ in 0..LOOKS {
                if let Some(found) = look() {
                    self.vain = 0;
                    return Some(found);
                }
                std::hint::spin_loop();
            }
            if begun.get_or_insert_with(Instant::now).elapsed() >= self.limit {
                return None;
            }
            std::thread::yield_now();
        }
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
