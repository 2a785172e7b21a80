//! How long a wait goes on, and how often it looks around: the second way out of every wait.

use std::time::{Duration, Instant};

use crate::handle::deadline;
use crate::limits::{FIRST_SLICE, LONGEST_SLICE};

/// A wait in slices that grow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slices {
    deadline: Option<Instant>,
    next: Duration,
}

impl Slices {
    /// For ever, or for so long.
    pub(crate) fn new(limit: Option<Duration>) -> Slices {
        Slices { deadline: limit.map(deadline), next: FIRST_SLICE }
    }

    /// Whether the time is up.
    pub(crate) fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }

    /// How long to sleep now; `None` when the time is up.
    pub(crate) fn next(&mut self) -> Option<Duration> {
        let slice = self.next;
        self.next = (slice * 2).min(LONGEST_SLICE);
        let Some(deadline) = self.deadline else { return Some(slice) };
        let left = deadline.saturating_duration_since(Instant::now());
        (!left.is_zero()).then(|| slice.min(left))
    }
}
