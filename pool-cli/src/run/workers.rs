//! The pool: the only file that starts, watches and ends worker processes.
//!
//! Each slot holds the handle of one attempt. A handle is a future; its waker sends an event, so the run waits for results,
//! inputs and signals in one place and never polls.
//!
//! There is one slot for each worker, and one more if they run commands, so that the pool always has the next one at hand and
//! no worker waits for the run. What has not begun when the run is to end is taken back, and counts as not run.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pool_core::{AsyncResult, Output, Pool, PoolError, TaskError};
use pool_worker::builtin::CommandOutput;
use pool_worker::call::{self, CALL, Reply};

use super::Event;
use crate::exit::{Exit, Failure};
use crate::job::Plan;
use crate::job::file::WorkerStderr;
use crate::job::plan::{Request, TaskPlan};
use crate::report::human::killed_by;
use crate::report::{Ended, Outcome, Product, Timing};

/// A pool and what runs in it.
#[derive(Debug)]
pub(crate) struct Workers {
    pool: Pool,
    slots: Vec<Option<Running>>,
    /// Whether there are more slots than workers.
    is_ahead: bool,
    kind: Kind,
    events: Sender<Event>,
    next_ticket: u64,
}

/// How an answer is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Command,
    Named,
}

/// What has become of an attempt.
#[derive(Debug, PartialEq)]
pub(crate) enum Settled {
    Ended(Box<Ended>),
    /// It was taken back before it began.
    Withdrawn,
}

/// One attempt.
#[derive(Debug)]
struct Running {
    handle: AsyncResult<Vec<u8>>,
    ticket: u64,
    waker: Waker,
    start: SystemTime,
    clock: Instant,
    worker_pid: Option<u32>,
    /// When to look which worker runs it.
    look_at: Option<Instant>,
    /// After how long to look again if none does.
    pause: Duration,
}

/// An attempt that still runs after this time is looked at, so that the worker is known even if it can't say so itself, because
/// it is killed or its task panics. Shorter ones are not worth it.
const LOOK_AFTER: Duration = Duration::from_millis(10);

impl Running {
    /// Sees which worker runs it, and since when. If none does yet, it waits for another attempt.
    fn look(&mut self, now: Instant) {
        match self.handle.started_at() {
            Some(at) => {
                let waited = at.saturating_duration_since(self.clock);
                (self.start, self.clock, self.look_at) = (self.start + waited, at, None);
                self.worker_pid = self.handle.pid();
            }
            None => {
                self.look_at = Some(now + self.pause);
                self.pause *= 2;
            }
        }
    }
}

/// Tells the run that a handle has settled.
struct Bell {
    slot: usize,
    ticket: u64,
    events: Sender<Event>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        // The run may be over already.
        let _ = self.events.send(Event::Settled { slot: self.slot, ticket: self.ticket });
    }
}

impl Workers {
    /// Starts the pool that the plan asks for.
    pub(crate) fn start(
        plan: &Plan,
        procs: usize,
        events: Sender<Event>,
    ) -> Result<Workers, Failure> {
        let kind = match plan.task {
            TaskPlan::Command(_) => Kind::Command,
            TaskPlan::Named(_) => Kind::Named,
        };
        // a task by name may take heed of being asked to end, as one that runs is if it begins while it is taken back; and if one result can make the rest unnecessary, no
        // other input may be begun before it is known
        let is_ahead = kind == Kind::Command && !plan.stop.is_any();
        let slots = if is_ahead { 2 * procs } else { procs };
        let mut builder =
            Pool::builder().processes(procs).max_pending(2 * slots).current_dir(&plan.folder);
        builder = match &plan.task {
            TaskPlan::Command(_) => builder.stdout(Output::Discard).stderr(Output::Inherit),
            TaskPlan::Named(named) => {
                if let Some(worker) = &named.worker {
                    builder = builder.executable(worker);
                }
                if let Some(cwd) = &named.cwd {
                    builder = builder.current_dir(cwd);
                }
                for (name, value) in &named.env {
                    builder = builder.env(name, value);
                }
                // The command's own standard output carries results and nothing else.
                builder.stdout(Output::Discard).stderr(match named.stderr {
                    WorkerStderr::Inherit => Output::Inherit,
                    WorkerStderr::Discard => Output::Discard,
                })
            }
        };
        if let Some(time) = plan.limits.timeout {
            builder = builder.task_timeout(time);
        }
        if let Some(bytes) = plan.limits.memory_bytes {
            builder = builder.memory_limit(bytes);
        }
        if let Some(time) = plan.pool.start_timeout {
            builder = builder.start_timeout(time);
        }
        if let Some(time) = plan.pool.grace {
            builder = builder.grace(time);
        }
        let pool = builder.build().map_err(explain_build)?;
        Ok(Workers {
            pool,
            slots: (0..slots).map(|_| None).collect(),
            is_ahead,
            kind,
            events,
            next_ticket: 0,
        })
    }

    /// Starts an attempt in a free slot. The error is that of a pool that takes no more tasks.
    pub(crate) fn submit(&mut self, slot: usize, request: &Request) -> Result<(), String> {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let waker = Waker::from(Arc::new(Bell { slot, ticket, events: self.events.clone() }));
        let (start, clock) = (SystemTime::now(), Instant::now());
        let request = call::request(&request.task, &request.input);
        let handle = self.pool.apply_named(CALL, &request).map_err(|error| error.to_string())?;
        waker.wake_by_ref();
        let (worker_pid, look_at, pause) = (None, Some(clock + LOOK_AFTER), LOOK_AFTER);
        let running = Running { handle, ticket, waker, start, clock, worker_pid, look_at, pause };
        self.slots[slot] = Some(running);
        Ok(())
    }

    /// How many attempts there may be at a time.
    pub(crate) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// When [`look`](Self::look) should be called next.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        self.slots.iter().flatten().filter_map(|running| running.look_at).min()
    }

    /// Sees which workers run the attempts whose time has come.
    pub(crate) fn look(&mut self, now: Instant) {
        for running in self.slots.iter_mut().flatten() {
            if running.look_at.is_some_and(|at| at <= now) {
                running.look(now);
            }
        }
    }

    /// Looks at the attempt of a ticket. `None` if it still runs, or was seen to end before.
    pub(crate) fn settled(&mut self, slot: usize, ticket: u64) -> Option<Settled> {
        let running = self.slots[slot].as_mut().filter(|running| running.ticket == ticket)?;
        let mut context = Context::from_waker(&running.waker);
        let Poll::Ready(result) = Pin::new(&mut running.handle).poll(&mut context) else {
            return None;
        };
        let Running { start, worker_pid, clock, .. } = *running;
        self.slots[slot] = None;
        // nothing else cancels
        if matches!(result, Err(TaskError::Cancelled)) {
            return Some(Settled::Withdrawn);
        }
        let now = Instant::now();
        let timing = Timing { start, duration: now - clock, worker_pid };
        // another one may have its worker now
        for waiting in self.slots.iter_mut().flatten() {
            waiting.look_at = waiting.look_at.map(|at| at.min(now + LOOK_AFTER));
            waiting.pause = LOOK_AFTER;
        }
        Some(Settled::Ended(Box::new(ended(result, self.kind, timing))))
    }

    /// Takes back what has not begun, and tells what has settled.
    pub(crate) fn withdraw(&mut self) -> Vec<(usize, Settled)> {
        if !self.is_ahead {
            return Vec::new();
        }
        let mut settled = Vec::new();
        for slot in 0..self.slots.len() {
            let Some(Running { handle, ticket, .. }) = &self.slots[slot] else { continue };
            let ticket = *ticket;
            // a command that runs does not hear of it
            handle.request_cancel();
            settled.extend(self.settled(slot, ticket).map(|settled| (slot, settled)));
        }
        settled
    }

    /// Stops all workers and what they started.
    pub(crate) fn suspend(&self) {
        self.pool.suspend();
    }

    /// Lets them go on.
    pub(crate) fn resume(&self) {
        self.pool.resume();
    }

    /// Ends all workers and what they started. Attempts that ran settle as cancelled.
    pub(crate) fn terminate(&self) {
        self.pool.terminate();
    }

    /// Waits until no worker is left. Everything has settled, so all that can be left are processes that commands left behind,
    /// and they go with the workers.
    pub(crate) fn finish(self) {
        self.pool.terminate();
        // After `terminate` there is nothing that `join` could fail at.
        let _ = self.pool.join();
    }
}

fn explain_build(error: PoolError) -> Failure {
    match error {
        PoolError::Os { .. } => Failure::new(Exit::OsRefused, error),
        PoolError::Config(_) => Failure::new(Exit::InvalidJob, error),
        PoolError::InitNotCalled => {
            Failure::new(Exit::PoolBroken, "the worker executable never joined the pool")
                .hint("its main must call pool_worker::Host::run() before anything else")
        }
        other => Failure::new(Exit::PoolBroken, other),
    }
}

/// How an attempt ended, from what the pool says. `timing` is what was seen from here; the worker knows better, if it answered.
fn ended(result: Result<Vec<u8>, TaskError>, kind: Kind, timing: Timing) -> Ended {
    let answer = match result {
        Ok(answer) => answer,
        Err(error) => {
            let (outcome, retry) = classify(&error);
            // The pool counts tasks in its own way; the result says which input it is about.
            let (worker_pid, text) = match error {
                TaskError::WorkerLost { pid, cause, .. } => {
                    // its standard error is not read here: it is the user's terminal, or nowhere
                    (Some(pid), format!("its worker (pid {pid}) {cause}"))
                }
                TaskError::Cancelled | TaskError::Terminated | TaskError::Closed => {
                    (timing.worker_pid, "the run was stopped before this task had finished".into())
                }
                other => (timing.worker_pid, other.to_string()),
            };
            return failed(outcome, text, retry, Timing { worker_pid, ..timing });
        }
    };
    let Some(reply) = Reply::parse(&answer) else {
        let error = "the worker's answer makes no sense; was it built with another version?";
        return failed(Outcome::Failed, error.into(), Retry::Useless, timing);
    };
    let timing = measured(reply.started_unix_ms, reply.duration_us, reply.worker_pid);
    match reply.result {
        Ok(value) => product(&value, kind, timing),
        Err(error) => failed(Outcome::Failed, error, Retry::Useful, timing),
    }
}

fn measured(started_unix_ms: u64, duration_us: u64, worker_pid: u32) -> Timing {
    Timing {
        start: UNIX_EPOCH + Duration::from_millis(started_unix_ms),
        duration: Duration::from_micros(duration_us),
        worker_pid: Some(worker_pid),
    }
}

fn product(value: &[u8], kind: Kind, timing: Timing) -> Ended {
    let product = match kind {
        Kind::Command => serde_json::from_slice(value).map(command_ended),
        Kind::Named => serde_json::from_slice(value).map(|value| Ended {
            outcome: Outcome::Ok,
            product: Product::Value(value),
            error: None,
            can_retry: false,
            timing: Some(timing),
        }),
    };
    product.unwrap_or_else(|error| {
        let error = format!("the worker answered something else than expected: {error}");
        failed(Outcome::Failed, error, Retry::Useless, timing)
    })
}

/// Whether another attempt could end differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retry {
    Useful,
    Useless,
}

fn classify(error: &TaskError) -> (Outcome, Retry) {
    match error {
        TaskError::Failed(_) => (Outcome::Failed, Retry::Useful),
        TaskError::Panicked { .. } => (Outcome::Panicked, Retry::Useful),
        TaskError::WorkerLost { .. } => (Outcome::Lost, Retry::Useful),
        TaskError::Quarantined { .. } => (Outcome::Lost, Retry::Useless),
        TaskError::TimedOut => (Outcome::TimedOut, Retry::Useful),
        TaskError::Cancelled
        | TaskError::Terminated
        | TaskError::Closed
        | TaskError::PoolBroken(_) => (Outcome::Cancelled, Retry::Useless),
        // Too large, or not to be encoded: the same input gives the same again.
        _ => (Outcome::Failed, Retry::Useless),
    }
}

fn failed(outcome: Outcome, error: String, retry: Retry, timing: Timing) -> Ended {
    let can_retry = retry == Retry::Useful;
    Ended {
        outcome,
        product: Product::Nothing,
        error: Some(error),
        can_retry,
        timing: Some(timing),
    }
}

/// A command's own measure leaves out the wait for what it left behind.
fn command_ended(output: CommandOutput) -> Ended {
    let timing = measured(output.started_unix_ms, output.duration_us, output.worker_pid);
    let error = match (output.exit_code, output.signal) {
        (Some(0), _) => None,
        (Some(code), _) => Some(format!("exit code {code}")),
        (None, Some(signal)) => Some(killed_by(signal)),
        (None, None) => Some("it ended in an unknown way".to_owned()),
    };
    // What a command says last is usually why it failed.
    let said = output.stderr.text.to_text().trim_end().lines().next_back().map(str::to_owned);
    let error = error.map(|error| match said {
        Some(said) if !said.is_empty() => format!("{error}: {said}"),
        _ => error,
    });
    Ended {
        outcome: if error.is_none() { Outcome::Ok } else { Outcome::Failed },
        can_retry: error.is_some(),
        error,
        product: Product::Command(Box::new(output)),
        timing: Some(timing),
    }
}

#[cfg(test)]
mod tests {
    use pool_worker::builtin::{CommandSpec, command};

    use super::*;

    fn timing() -> Timing {
        Timing { start: UNIX_EPOCH, duration: Duration::ZERO, worker_pid: Some(1) }
    }

    fn answer(value: &str) -> Vec<u8> {
        let head = r#"{"ok":true,"started_unix_ms":5,"duration_us":7,"worker_pid":9}"#;
        format!("{head}\n{value}").into_bytes()
    }

    fn run(script: &str) -> Ended {
        let argv = format!(r#"{{"argv": ["sh", "-c", "{script}"]}}"#);
        let spec: CommandSpec = serde_json::from_str(&argv).unwrap();
        let output = serde_json::to_string(&command(spec).unwrap()).unwrap();
        ended(Ok(answer(&output)), Kind::Command, timing())
    }

    #[test]
    fn the_worker_knows_best_when_and_where_a_task_ran() {
        let ended = ended(Ok(answer("[1]")), Kind::Named, timing());
        assert_eq!((ended.outcome, ended.product), (Outcome::Ok, Product::Value([1].into())));
        assert_eq!(ended.timing.unwrap(), measured(5, 7, 9));
    }

    #[test]
    fn a_command_fails_by_its_exit_code_or_signal() {
        let good = run("echo out");
        assert_eq!((good.outcome, good.can_retry, good.error), (Outcome::Ok, false, None));
        assert_eq!(good.timing.unwrap().worker_pid, Some(std::process::id()));
        let bad = run("echo first >&2; echo last >&2; exit 3");
        assert_eq!((bad.outcome, bad.can_retry), (Outcome::Failed, true));
        assert_eq!(bad.error.unwrap(), "exit code 3: last");
        assert_eq!(run("kill -KILL $$").error.unwrap(), "was killed by signal 9 (SIGKILL)");
    }

    #[test]
    fn an_answer_that_is_no_json_fails_the_task() {
        for answer in [b"oops".to_vec(), answer("oops")] {
            let ended = ended(Ok(answer), Kind::Named, timing());
            assert_eq!((ended.outcome, ended.can_retry), (Outcome::Failed, false));
        }
    }

    #[test]
    fn errors_of_the_pool_have_their_outcomes() {
        let outcome = |error| {
            let ended = ended(Err(error), Kind::Named, timing());
            (ended.outcome, ended.can_retry, ended.error.unwrap())
        };
        let failed = outcome(TaskError::Failed("why".into()));
        assert_eq!(failed, (Outcome::Failed, true, "the task failed: why".into()));
        assert_eq!(outcome(TaskError::TimedOut).0, Outcome::TimedOut);
        assert_eq!(outcome(TaskError::Terminated).0, Outcome::Cancelled);
        assert_eq!(outcome(TaskError::Decode("x".into())), (Outcome::Failed, false, "x".into()));
    }
}
