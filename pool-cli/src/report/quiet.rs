//! Tells nothing: the results and the exit code say it all.

use std::time::Duration;

use super::{Counts, Report, Summary};

/// A report to nobody.
#[derive(Debug)]
pub(crate) struct Quiet;

impl Report for Quiet {
    fn total(&mut self, _total: u64) {}

    fn settled(&mut self, _counts: &Counts) {}

    fn interval(&self) -> Option<Duration> {
        None
    }

    fn tick(&mut self, _counts: &Counts) {}

    fn asked(&mut self, _counts: &Counts) {}

    fn notice(&mut self, _text: &str) {}

    fn finished(&mut self, _summary: &Summary) {}
}
