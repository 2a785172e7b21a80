//! The nursery's end of one process: its task, its reply, and what its end means.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use super::ProcessError;
use super::child::{Child, Outcome};
use crate::attach::Attachments;
use crate::backend::process::exit::{OomKills, judge};
use crate::backend::process::last_lines::LastLines;
use crate::backend::process::link::{BigInput, ProcessLink, Stage};
use crate::backend::process::spawner::{Recipe, Wires};
use crate::backend::process::tagging::Tagger;
use crate::codec;
use crate::error::{ExitCause, TaskError, TaskInfo};
use crate::ids::{Lease, TaskId, WorkerIndex};
use crate::limits::INLINE_BYTES;
use crate::output::TaskOutput;
use crate::primitives::unpoisoned;
use crate::small_bytes::SmallBytes;
use crate::sys::clock;
use crate::sys::process::image_id;
use crate::sys::signal::GroupSignal;
use crate::task::callee::Callee;
use crate::transport::agreement::Need;
use crate::transport::replies::Round;
use crate::wire::from_worker::{Header, Kind};
use crate::wire::hello::Hello;
use crate::wire::outcome::outcome;
use crate::wire::to_worker::ToWorker;

/// A process has one task.
const LEASE: Lease = Lease { slot: 0, generation: 1 };

/// Exit code that is told of a process whose status somebody else has collected, as in CPython.
const CODE_UNKNOWN: i32 = 255;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Nursling {
    pub(super) child: Arc<Child>,
    pub(super) link: ProcessLink,
    /// Until when it must have said hello; `u64::MAX` when it has.
    pub(super) greets_until: u64,
    start_timeout: Duration,
    depth: u32,
    image: Option<[u64; 4]>,
    max_result: u64,
    reply: Option<Outcome>,
    /// Why it can't work.
    refused: Option<ProcessError>,
    /// It was told to leave after its task.
    dismissed: bool,
}

impl Nursling {
    /// Starts the process and sends it what it is to do.
    pub(super) fn start(
        child: Arc<Child>,
        recipe: &Recipe,
        start_timeout: Duration,
        (callee, input, attachments): (Callee, Arc<Vec<u8>>, Attachments),
        tagger: Option<&Tagger>,
    ) -> io::Result<Nursling> {
        let started = recipe.start(0, Wires::new(&[], recipe.fast_lane)?)?;
        let (mut link, printed) = ProcessLink::new(started, recipe.max_result);
        if let (Some(printed), Some(tagger)) = (printed, tagger) {
            link.tagged_stderr = LastLines::of(printed.stderr.as_ref());
            link.tag = Some(tagger.add(child.name(), printed));
        }
        let limit = u64::try_from(start_timeout.as_nanos()).unwrap_or(u64::MAX);
        let mut nursling = Nursling {
            child,
            link,
            start_timeout,
            greets_until: clock::now_ns().saturating_add(limit),
            depth: recipe.role.depth + 1,
            image: image_id().ok(),
            max_result: recipe.max_result,
            reply: None,
            refused: None,
            dismissed: false,
        };
        nursling.link.page.announce(LEASE, TaskId(u64::from(nursling.child.number)));
        if input.len() > INLINE_BYTES {
            nursling.link.push_big_task(LEASE, callee, BigInput::Encoded(input), &attachments);
        } else {
            nursling.link.push_task(LEASE, callee, &input, &attachments);
        }
        if nursling.dismiss_and_flush() {
            Ok(nursling)
        } else {
            nursling.discard();
            Err(io::Error::other("the system has no room for its arguments"))
        }
    }

    /// Ends a process that nobody has been told of.
    pub(super) fn discard(&self) {
        self.link.signal(GroupSignal::Kill);
        self.link.pidfd.reap();
    }

    /// Sends what is to be sent, and behind the last of the arguments the word that there is no more.
    fn dismiss_and_flush(&mut self) -> bool {
        if self.link.has_pushed_all() && !self.dismissed {
            self.link.push(&ToWorker::Stop);
            self.dismissed = true;
        }
        self.link.flush().is_ok()
    }

    /// Reads what the process has sent.
    pub(super) fn read(&mut self, buffer: &mut Vec<u8>) -> Round {
        if self.link.violated {
            return Round::End;
        }
        let stream = Arc::clone(&self.link.stream);
        let mut frames = Vec::new();
        let round =
            self.link.reader.read(stream.as_fd(), Some(Need::Now), buffer, |header, body| {
                frames.push((header, body));
            });
        let mut understood = round.is_ok();
        for (header, body) in frames {
            understood = understood && self.on_frame(header, body);
        }
        if !understood {
            self.link.violated = true;
            self.link.signal(GroupSignal::Kill);
        }
        round.unwrap_or(Round::End)
    }

    /// `false`: a process does not say this now.
    fn on_frame(&mut self, header: Header, body: SmallBytes) -> bool {
        match (header.kind, self.link.stage) {
            (Kind::Hello, Stage::Started) => {
                self.link.stage = Stage::Ready;
                self.greets_until = u64::MAX;
                let Ok(hello) = codec::decode::<Hello>(&body) else { return false };
                if let Some(reason) = hello.refuse(self.depth, self.image) {
                    self.refuse(ProcessError::StartFailed(reason));
                }
                true
            }
            (Kind::NotInitialized, Stage::Started) => {
                self.refuse(ProcessError::InitNotCalled);
                true
            }
            (Kind::Done | Kind::Numbers | Kind::Fault, Stage::Ready) => {
                if header.lease != LEASE || self.reply.is_some() {
                    return false;
                }
                self.reply = outcome(header.kind, body, self.max_result);
                self.reply.is_some()
            }
            (Kind::Printed, Stage::Ready) => {
                let Some(output) = TaskOutput::decode(&body) else { return false };
                self.keep(output);
                true
            }
            (Kind::Bell, Stage::Ready) => true, // the lane is read in any case
            (Kind::PieceTaken, Stage::Ready) => self.link.piece_taken() && self.dismiss_and_flush(),
            _ => false,
        }
    }

    fn keep(&self, output: TaskOutput) {
        if !output.is_empty() {
            *unpoisoned(self.child.output.lock()) = Some(output);
        }
    }

    fn refuse(&mut self, reason: ProcessError) {
        self.refused = Some(reason);
        self.link.killed = true;
        self.link.signal(GroupSignal::Kill);
    }

    /// It has not reached `init()` in time.
    pub(super) fn give_up(&mut self) {
        self.greets_until = u64::MAX;
        let limit = self.start_timeout;
        self.refuse(ProcessError::StartFailed(format!(
            "the process did not reach pool_core::init() within {limit:?}: call it first in main"
        )));
    }

    /// The process has ended and what it had sent was read: its status is collected. `None` if it has not ended after all.
    pub(super) fn end(&mut self, kills: &mut OomKills) -> Option<Outcome> {
        let (child, link, reply) = (&self.child, &mut self.link, &self.reply);
        let code = |exit| exit_code(exit, reply.as_ref());
        let exit = child.end(|| link.try_reap(), code)?;
        let killed = link.killed || child.was_signalled();
        let cause = judge(exit, link, killed, kills, clock::now_ns());
        link.cause = Some(cause);
        if self.reply.is_none() {
            link.keep_last_lines();
        }
        if let Some(output) = self.link.captured().filter(|_| self.reply.is_none()) {
            self.keep(output);
        }
        Some(match (self.reply.take(), self.refused.take()) {
            (Some(reply), _) => reply,
            (None, Some(refused)) => Err(refused.into()),
            (None, None) => Err(self.lost(cause)),
        })
    }

    fn lost(&self, cause: ExitCause) -> TaskError {
        match (self.link.stage, cause) {
            (Stage::Started, ExitCause::Exited(0)) => ProcessError::InitNotCalled.into(),
            (Stage::Started, ExitCause::Exited(_)) => ProcessError::StartFailed(format!(
                "the process (pid {}) {cause} before it reached pool_core::init()",
                self.link.pid
            ))
            .into(),
            _ => TaskError::WorkerLost {
                worker: WorkerIndex::PROCESS,
                pid: self.link.pid,
                cause,
                task: TaskInfo {
                    id: TaskId(u64::from(self.child.number)),
                    name: self.child.function.to_owned(),
                },
                stderr: self.link.last_lines.clone(),
            },
        }
    }

    /// After a panic of the nursery: whatever state this is in, nobody waits for it any more.
    pub(super) fn abandon(&self, reason: &str) {
        self.link.signal(GroupSignal::Kill);
        let reap = || {
            self.link.pidfd.reap();
            Some(ExitCause::Unknown)
        };
        self.child.end(reap, |_| CODE_UNKNOWN);
        // settled already if the panic came later than that
        let _ = self.child.slot.settle(Err(TaskError::PoolBroken(reason.to_owned())));
    }
}

/// 0: the function has returned; 1: it has failed or panicked; `-signal`; else what the process has exited with.
fn exit_code(exit: ExitCause, reply: Option<&Outcome>) -> i32 {
    match (exit, reply) {
        (ExitCause::Exited(0), Some(Err(_))) => 1,
        (ExitCause::Exited(code), _) => code,
        (ExitCause::Signaled { signal, .. }, _) => -signal,
        (_, Some(Ok(_))) => 0,
        (_, Some(Err(_))) => 1,
        (_, None) => CODE_UNKNOWN,
    }
}
