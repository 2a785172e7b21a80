//! What workers could not apply of their sandbox.

use super::core::{Core, Effects};
use crate::codec;
use crate::error::PoolError;
use crate::events::PoolEvent;
use crate::ids::{WorkerIndex, WorkerKey};

impl Core {
    /// A worker says what it lacks, before it has run any code of the user's. `false`: it says it in no language.
    pub(super) fn on_unconfined(
        &mut self,
        worker: WorkerKey,
        body: &[u8],
        now: u64,
        effects: &mut Effects,
    ) -> bool {
        let (Ok(missing), Some(link)) =
            (codec::decode::<Vec<String>>(body), self.process_mut(worker))
        else {
            return false;
        };
        let (seat, pid) = (WorkerIndex(link.seat), link.pid);
        if self.settings.sandbox_required {
            let what = missing.join("; ");
            let text = format!(
                "the sandbox can't be applied: {what}. Sandbox::best_effort() goes on without that"
            );
            self.refuse(PoolError::StartFailed(text), now, effects);
            return true;
        }
        for gap in &missing {
            if !self.sandbox_gaps.contains(gap) {
                self.sandbox_gaps.push(gap.clone());
            }
        }
        self.tell(|| PoolEvent::SandboxIncomplete { worker: seat, pid, missing });
        true
    }
}
