//! Time in which the parent did not run is not held against its workers.

use super::{Scheduler, WorkerPhase};

impl Scheduler {
    /// Puts off what workers that start or leave have to do in time. Those that were killed are not waited for any longer.
    pub(crate) fn excuse(&mut self, ns: u64) {
        for (_, worker) in &mut self.workers {
            if matches!(worker.phase, WorkerPhase::Starting | WorkerPhase::Retiring) {
                worker.deadline = worker.deadline.map(|deadline| deadline.saturating_add(ns));
            }
        }
    }
}
