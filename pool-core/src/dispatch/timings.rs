//! How long tasks wait and run.

use std::time::Duration;

use hdrhistogram::Histogram;

/// The longest time that is told apart: one hour.
const LONGEST_NS: u64 = 3_600_000_000_000;

/// The distribution of a time, as far as it was observed. The quantiles are exact to one percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Times {
    /// How many were observed. The others are zero without any.
    pub count: u64,
    /// The mean.
    pub mean: Duration,
    /// Half of them were not longer.
    pub p50: Duration,
    /// Nine of ten were not longer.
    pub p90: Duration,
    /// 99 of 100 were not longer.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

/// Collected in nanoseconds.
#[derive(Debug)]
pub(super) struct Timings {
    run: Histogram<u64>,
    wait: Histogram<u64>,
    /// The sum of all run times.
    pub(super) busy_ns: u64,
}

impl Timings {
    pub(super) fn new() -> Timings {
        let histogram = || {
            Histogram::new_with_bounds(1, LONGEST_NS, 2).expect("bounds and digits are constants")
        };
        Timings { run: histogram(), wait: histogram(), busy_ns: 0 }
    }

    /// A task was answered that had been submitted `total_ns` ago, as far as that is known, and has run for `run_ns`, by its worker's account.
    #[inline]
    pub(super) fn observe(&mut self, total_ns: Option<u64>, run_ns: u64) {
        let run_ns = run_ns.min(total_ns.unwrap_or(LONGEST_NS));
        self.run.saturating_record(run_ns.max(1));
        if let Some(total_ns) = total_ns {
            self.wait.saturating_record((total_ns - run_ns).max(1));
        }
        self.busy_ns = self.busy_ns.saturating_add(run_ns);
    }

    pub(super) fn run(&self) -> Times {
        times(&self.run)
    }

    pub(super) fn wait(&self) -> Times {
        times(&self.wait)
    }
}

fn times(histogram: &Histogram<u64>) -> Times {
    if histogram.is_empty() {
        return Times::default();
    }
    let quantile = |q| Duration::from_nanos(histogram.value_at_quantile(q));
    Times {
        count: histogram.len(),
        mean: Duration::from_nanos(histogram.mean() as u64),
        p50: quantile(0.5),
        p90: quantile(0.9),
        p99: quantile(0.99),
        max: Duration::from_nanos(histogram.max()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_what_was_observed() {
        let mut timings = Timings::new();
        assert_eq!(timings.run(), Times::default());
        (1..=100).for_each(|ms| timings.observe(Some(ms * 2_000_000), ms * 1_000_000));
        let (run, wait) = (timings.run(), timings.wait());
        assert_eq!((run.count, wait.count), (100, 100));
        let near = |time: Duration, ms: u64| time.as_millis().abs_diff(u128::from(ms)) <= 1;
        assert!(near(run.p50, 50) && near(run.p90, 90) && near(run.max, 100), "{run:?}");
        assert!(near(run.mean, 50), "{run:?}");
        assert_eq!(timings.busy_ns, 5_050_000_000);
    }

    #[test]
    fn a_worker_that_lies_about_the_time_breaks_nothing() {
        let mut timings = Timings::new();
        timings.observe(Some(10), u64::MAX);
        timings.observe(None, u64::MAX);
        assert_eq!(timings.run().count, 2);
    }
}
