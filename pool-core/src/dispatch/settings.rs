//! What the user has decided about a pool.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::observer::OnEvent;
use crate::attach::Attachments;
use crate::backend::process::spawner::{Recipe, StartMethod};
use crate::sched;
use crate::task::callee::Callee;
use crate::trace;

/// A function that each worker calls, its encoded arguments, and what travels with them.
pub(crate) type Hook = (Callee, Vec<u8>, Attachments);

/// What a pool does not change after it was built.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) name: String,
    pub(crate) workers: Workers,
    pub(crate) max_result: u64,
    pub(crate) sched: sched::Config,
    pub(crate) max_pending: usize,
    pub(crate) max_task: u64,
    /// A worker process with more resident memory than this is replaced.
    pub(crate) max_memory: Option<u64>,
    /// For threads; processes have them from their recipe.
    pub(crate) cpus: Vec<u32>,
    pub(crate) niceness: Option<i32>,
    pub(crate) task_timeout: Option<Duration>,
    pub(crate) retries: u32,
    pub(crate) start_timeout: Duration,
    pub(crate) grace: Duration,
    /// A worker that can't apply all of its sandbox is no worker.
    pub(crate) sandbox_required: bool,
    pub(crate) initializer: Option<Hook>,
    pub(crate) finalizer: Option<Hook>,
    pub(crate) on_event: EventHook,
    pub(crate) start_method: StartMethod,
    /// What the fork server calls before it forks, with its encoded arguments.
    pub(crate) preload: Option<(Callee, Vec<u8>)>,
}

/// Whom to tell what happens.
#[derive(Clone, Default)]
pub(crate) struct EventHook(pub(crate) Option<OnEvent>);

impl fmt::Debug for EventHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Some(..)" } else { "None" })
    }
}

/// Tells the user's function and the subscriber of `tracing`, as far as there are any.
pub(super) fn observe(settings: &Settings) -> OnEvent {
    let (name, hook) = (settings.name.clone(), settings.on_event.0.clone());
    Arc::new(move |event| {
        trace::tell(&name, event);
        if let Some(hook) = &hook {
            hook(event);
        }
    })
}

/// What kind of workers a pool has.
#[derive(Debug)]
pub(crate) enum Workers {
    Processes(Box<Recipe>),
    Threads {
        /// What all of them can read.
        shared: Option<Arc<dyn Any + Send + Sync>>,
    },
}

impl Settings {
    /// How worker processes are started; `None` for a pool of threads.
    pub(crate) fn recipe(&self) -> Option<&Recipe> {
        match &self.workers {
            Workers::Processes(recipe) => Some(recipe),
            Workers::Threads { .. } => None,
        }
    }
}
