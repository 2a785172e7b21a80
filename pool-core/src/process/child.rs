//! A process as its handles and the nursery share it: how far it has come, and its outcome.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Instant;

use super::ProcessError;
use super::builder::Settings;
use super::nursery::Nursery;
use crate::attach::Attachments;
use crate::backend::process::spawner::Member;
use crate::backend::process::tagging::Finishing;
use crate::boot;
use crate::error::{ExitCause, TaskError};
use crate::handle::{deadline, sentinel};
use crate::limits::{KILL_WAIT, MAX_DEPTH};
use crate::output::TaskOutput;
use crate::primitives::unpoisoned;
use crate::slot::Slot;
use crate::sys::pidfd::has_ended;
use crate::sys::poll::Sentinel;
use crate::sys::signal::{GroupSignal, send_to_child};
use crate::task::callee::Callee;
use crate::task::job::Value;

/// The bytes of a result, or why there is none.
pub(crate) type Outcome = Result<Value, TaskError>;

/// What is to be started, until it was.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) settings: Settings,
    pub(super) callee: Callee,
    /// Encoded arguments.
    pub(super) input: Result<Arc<Vec<u8>>, ProcessError>,
    /// What travels with them.
    pub(super) attachments: Attachments,
}

impl Plan {
    /// What is left of a plan that can't be tried again.
    pub(super) fn lost(reason: ProcessError) -> Plan {
        Plan {
            settings: Settings::default(),
            callee: Callee::BY_NAME,
            input: Err(reason),
            attachments: Attachments::default(),
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Child {
    /// Counted from 1 in this program.
    pub(super) number: u32,
    /// The path of its function.
    pub(super) function: &'static str,
    pub(super) daemon: bool,
    /// Settled when the process has ended and was reaped.
    pub(super) slot: Slot<Outcome>,
    /// What it has printed, if that is captured.
    pub(super) output: Mutex<Option<TaskOutput>>,
    /// When its tagged output was written; set when it has ended.
    pub(super) written: OnceLock<Finishing>,
    lineage: String,
    owner: u32,
    state: Mutex<State>,
    /// It was signalled by one of its handles.
    signalled: AtomicBool,
    sentinel: Mutex<Option<Arc<Sentinel>>>,
}

#[derive(Debug)]
struct State {
    name: String,
    phase: Phase,
    closed: bool,
}

/// How far it has come. As long as it is `Alive` here it has not been reaped, so its number is its own.
#[derive(Debug)]
enum Phase {
    Fresh(Box<Plan>),
    Starting,
    Alive { pid: u32 },
    Ended { pid: u32, code: i32 },
}

impl Child {
    pub(super) fn new(
        name: Option<String>,
        daemon: Option<bool>,
        function: &'static str,
        plan: Plan,
    ) -> Child {
        static STARTED: AtomicU32 = AtomicU32::new(1);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let family = boot::family();
        let lineage = match family {
            None => number.to_string(),
            Some(family) => format!("{}:{number}", family.kin.lineage),
        };
        let name = name.unwrap_or_else(|| format!("Process-{lineage}"));
        let inherited = family.is_none_or(|family| family.kin.daemon);
        Child {
            number,
            function,
            daemon: daemon.unwrap_or(inherited),
            slot: Slot::new(),
            output: Mutex::new(None),
            written: OnceLock::new(),
            lineage,
            owner: std::process::id(),
            state: Mutex::new(State { name, phase: Phase::Fresh(Box::new(plan)), closed: false }),
            signalled: AtomicBool::new(false),
            sentinel: Mutex::new(None),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        unpoisoned(self.state.lock())
    }

    pub(super) fn name(&self) -> String {
        self.state().name.clone()
    }

    pub(super) fn set_name(&self, name: String) -> Result<(), ProcessError> {
        let mut state = self.state();
        if state.closed {
            return Err(ProcessError::Closed);
        }
        if !matches!(state.phase, Phase::Fresh(_)) {
            return Err(ProcessError::AlreadyStarted);
        }
        state.name = name;
        Ok(())
    }

    pub(super) fn pid(&self) -> Option<u32> {
        match self.state().phase {
            Phase::Alive { pid } | Phase::Ended { pid, .. } => Some(pid),
            Phase::Fresh(_) | Phase::Starting => None,
        }
    }

    /// Starts it; returns when its function and small arguments are on their way.
    pub(super) fn start(self: &Arc<Self>) -> Result<(), ProcessError> {
        boot::end_if_forgotten();
        self.check_owner()?;
        let (plan, name) = {
            let mut state = self.state();
            if state.closed {
                return Err(ProcessError::Closed);
            }
            match std::mem::replace(&mut state.phase, Phase::Starting) {
                Phase::Fresh(plan) => (plan, state.name.clone()),
                other => {
                    state.phase = other;
                    return Err(ProcessError::AlreadyStarted);
                }
            }
        };
        self.launch(plan, name).map_err(|(error, plan)| {
            // nothing was started, so it can be tried again
            self.state().phase = Phase::Fresh(plan);
            error
        })
    }

    fn launch(
        self: &Arc<Self>,
        plan: Box<Plan>,
        name: String,
    ) -> Result<(), (ProcessError, Box<Plan>)> {
        let member = Member { name, lineage: self.lineage.clone(), daemon: self.daemon };
        let role = boot::role();
        let checked = if role.depth >= MAX_DEPTH {
            Err(ProcessError::NestedTooDeep { depth: role.depth + 1, limit: MAX_DEPTH })
        } else {
            plan.settings.recipe(role, member)
        };
        let nursery = Nursery::get();
        match (checked, plan.input.clone(), nursery) {
            (Ok(recipe), Ok(input), Ok(nursery)) => nursery.start(self, recipe, plan, input),
            (Err(error), _, _) | (_, Err(error), _) | (_, _, Err(error)) => Err((error, plan)),
        }
    }

    pub(super) fn set_alive(&self, pid: u32) {
        self.state().phase = Phase::Alive { pid };
    }

    /// Collects its status with `try_reap`, and makes an exit code of it. From here on its number is not used any more.
    pub(super) fn end(
        &self,
        try_reap: impl FnOnce() -> Option<ExitCause>,
        code: impl FnOnce(ExitCause) -> i32,
    ) -> Option<ExitCause> {
        let mut state = self.state();
        let Phase::Alive { pid } = state.phase else { return None };
        let exit = try_reap()?;
        state.phase = Phase::Ended { pid, code: code(exit) };
        Some(exit)
    }

    /// Whether it was signalled by one of its handles.
    pub(super) fn was_signalled(&self) -> bool {
        self.signalled.load(Ordering::SeqCst)
    }

    pub(super) fn signal(&self, signal: GroupSignal) -> Result<(), ProcessError> {
        self.check_owner()?;
        let state = self.state();
        match state.phase {
            _ if state.closed => Err(ProcessError::Closed),
            Phase::Fresh(_) | Phase::Starting => Err(ProcessError::NotStarted),
            Phase::Ended { .. } => Ok(()),
            Phase::Alive { pid } if has_ended(pid) => Ok(()),
            Phase::Alive { pid } => {
                self.signalled.store(true, Ordering::SeqCst);
                send_to_child(pid, signal).map_err(ProcessError::os("cannot signal the process"))
            }
        }
    }

    /// If the process has ended, waits until the nursery has noticed and has closed what it had of it, which takes no time to speak of; so what the
    /// system shows and what the handles say are the same.
    fn catch_up(&self) {
        let ended = match self.state().phase {
            Phase::Fresh(_) | Phase::Starting => false,
            Phase::Alive { pid } => has_ended(pid),
            Phase::Ended { .. } => true,
        };
        if ended && self.check_owner().is_ok() && !Nursery::is_this_thread() {
            self.slot.wait(Some(deadline(KILL_WAIT)));
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        self.catch_up();
        matches!(self.state().phase, Phase::Alive { pid } if !has_ended(pid))
    }

    pub(super) fn exit_code(&self) -> Option<i32> {
        self.catch_up();
        match self.state().phase {
            Phase::Ended { code, .. } => Some(code),
            _ => None,
        }
    }

    /// Whether it can be waited for here and now.
    pub(super) fn check_waitable(&self) -> Result<(), ProcessError> {
        self.check_owner()?;
        let state = self.state();
        match state.phase {
            _ if state.closed => Err(ProcessError::Closed),
            Phase::Fresh(_) | Phase::Starting => Err(ProcessError::NotStarted),
            Phase::Ended { .. } => Ok(()),
            Phase::Alive { .. } if Nursery::is_this_thread() => Err(ProcessError::WouldDeadlock),
            Phase::Alive { .. } => Ok(()),
        }
    }

    /// Waits for the end, and then for its tagged output, which must not be lost if the program ends next; returns whether the end has come.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> bool {
        match self.check_waitable() {
            Ok(()) => {
                let has_ended = self.slot.wait(deadline);
                if let Some(written) = self.written.get().filter(|_| has_ended) {
                    written.wait(deadline);
                }
                has_ended
            }
            Err(_) => self.slot.is_settled(),
        }
    }

    pub(super) fn close(&self) -> Result<(), ProcessError> {
        self.catch_up();
        let mut state = self.state();
        if matches!(state.phase, Phase::Alive { .. } | Phase::Starting) {
            return Err(ProcessError::StillAlive);
        }
        state.closed = true;
        drop(state);
        drop(self.slot.take());
        *unpoisoned(self.sentinel.lock()) = None;
        Ok(())
    }

    pub(super) fn sentinel(&self) -> Result<OwnedFd, ProcessError> {
        if self.state().closed {
            return Err(ProcessError::Closed);
        }
        sentinel(&self.sentinel, &self.slot).map_err(ProcessError::os("cannot create an eventfd"))
    }

    fn check_owner(&self) -> Result<(), ProcessError> {
        if std::process::id() == self.owner {
            Ok(())
        } else {
            Err(ProcessError::ForkedCopy { owner: self.owner })
        }
    }
}
