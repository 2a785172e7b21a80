//! The parent's end of one worker process: its descriptors, its status page, and what is on its way.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::fork_server::ForkedEnd;
use super::last_lines::LastLines;
use super::spawner::{Printed, Sink};
use super::tagging::Tag;
use crate::attach::Attachments;
use crate::codec::Lent;
use crate::error::ExitCause;
use crate::ids::Lease;
use crate::limits::{PIECE_BYTES, PIECES, TEXT_BYTES};
use crate::output::TaskOutput;
use crate::sys::capture;
use crate::sys::cgroup::{Group, Place};
use crate::sys::clock;
use crate::sys::pidfd::PidFd;
use crate::sys::signal::{GroupSignal, send_to_group};
use crate::sys::socket::Stream;
use crate::task::callee::Callee;
use crate::transport::agreement::Need;
use crate::transport::attachments;
use crate::transport::block::WorkerBlock;
use crate::transport::replies::ReplyReader;
use crate::transport::status::StatusPage;
use crate::transport::task_queue::TaskQueueWriter;
use crate::transport::tasks::Unsent;
use crate::wire::to_worker::{self, ToWorker};

/// A process that has been started, with everything that connects it to the pool.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) seat: u32,
    pub(crate) pid: u32,
    pub(crate) pidfd: PidFd,
    /// Where its fork server tells its end, if it has one.
    pub(crate) ends: Option<ForkedEnd>,
    pub(crate) stream: OwnedFd,
    pub(crate) sender: TaskQueueWriter,
    pub(crate) block: WorkerBlock,
    pub(crate) group: Option<Group>,
    /// The cgroup in which its memory is counted if it has none of its own.
    pub(crate) home: Option<Place>,
    /// Standard output and standard error.
    pub(crate) sinks: [Sink; 2],
}

/// How far the handshake has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The process has not said hello.
    Started,
    /// It runs the initializer.
    Greeted,
    /// It takes tasks.
    Ready,
}

/// Who reads the worker's replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// The pool's thread.
    Watched,
    /// A thread that waits for one of them.
    Attended,
    /// Nobody: it has no tasks, and the next one may be waited for by a thread again, which then looks by itself: replies in the lane ring no bell. Spares
    /// calls back to back from telling the kernel each time.
    Parked,
    /// Nobody: the stream has ended.
    Ended,
}

/// The first task that a worker has not answered, and how far the bytes of its arguments or of its reply have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Still {
    pub(crate) lease: Lease,
    /// It has run: the reply is to come.
    pub(crate) is_over: bool,
    pub(crate) moved: usize,
    /// Since when it has been so.
    pub(crate) since: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct ProcessLink {
    pub(crate) seat: u32,
    pub(crate) pid: u32,
    pub(crate) pidfd: PidFd,
    ends: Option<ForkedEnd>,
    pub(crate) stream: Arc<Stream>,
    pub(crate) page: StatusPage,
    pub(crate) reader: ReplyReader,
    pub(crate) stage: Stage,
    pub(crate) reading: Reading,
    /// Threads that look into the lane again and again: replies ring no bell meanwhile.
    pub(crate) onlookers: u32,
    /// Somebody sleeps until a task that it has, or had, is done. Until it has none.
    pub(crate) awaited: bool,
    /// Who attends to it collects the results of many tasks.
    pub(crate) unhurried: bool,
    /// It was asked to leave when all before that is done.
    is_asked_to_leave: bool,
    /// It was asked for the result of the finalizer, and has not told it.
    pub(crate) finalizing: bool,
    /// When its memory is looked at next.
    pub(crate) next_memory_check: u64,
    /// It was killed because of what it sent.
    pub(crate) violated: bool,
    /// It was killed by the pool for another reason.
    pub(crate) killed: bool,
    /// The files of standard output and standard error, if they are captured.
    captured: [Option<OwnedFd>; 2],
    /// Where its standard error can be read if it is tagged.
    pub(crate) tagged_stderr: LastLines,
    /// By which the thread that writes its output knows it, if that is tagged.
    pub(crate) tag: Option<Tag>,
    /// The last lines of its standard error, when it is gone and has cost a task.
    pub(crate) last_lines: String,
    /// Its own cgroup, if it has one.
    pub(crate) group: Option<Group>,
    /// The cgroup in which its memory is counted otherwise; `None` if that is not known.
    pub(crate) home: Option<Place>,
    /// Where it stands still, if it does.
    pub(crate) still: Option<Still>,
    /// Set when it is gone.
    pub(crate) cause: Option<ExitCause>,
    block: WorkerBlock,
    sender: TaskQueueWriter,
    /// The message that is being put together.
    message: Vec<u8>,
    /// What travels with it.
    attachments: Vec<Attachments>,
    transfers: VecDeque<Transfer>,
    /// Pieces in the shared area that the worker has not taken: at most one per place.
    pieces_ahead: u8,
    next_place: u8,
}

/// Big arguments on their way through the shared area.
#[derive(Debug)]
struct Transfer {
    lease: Lease,
    callee: Callee,
    input: BigInput,
    attachments: Attachments,
    sent: usize,
}

/// What is passed in pieces.
#[derive(Clone, Debug)]
pub(crate) enum BigInput {
    Encoded(Arc<Vec<u8>>),
    Numbers(Lent),
}

impl BigInput {
    fn bytes(&self) -> &[u8] {
        match self {
            BigInput::Encoded(bytes) => bytes,
            BigInput::Numbers(numbers) => numbers.bytes(),
        }
    }
}

impl ProcessLink {
    /// The link, and the pipes of a worker whose output is tagged.
    pub(crate) fn new(started: Started, max_result: u64) -> (ProcessLink, Option<Printed>) {
        let mut captured = [None, None];
        let mut tagged = [None, None];
        for (index, sink) in started.sinks.into_iter().enumerate() {
            match sink {
                Sink::Elsewhere => {}
                Sink::Captured(file) => captured[index] = Some(file),
                Sink::Tagged(pipe) => tagged[index] = Some(pipe),
            }
        }
        let [stdout, stderr] = tagged;
        let any = stdout.is_some() || stderr.is_some();
        let printed = any.then_some(Printed { stdout, stderr });
        let link = ProcessLink {
            seat: started.seat,
            pid: started.pid,
            pidfd: started.pidfd,
            ends: started.ends,
            stream: Arc::new(Stream(started.stream)),
            reader: ReplyReader::new(&started.block, max_result),
            page: started.block.status(),
            block: started.block,
            stage: Stage::Started,
            reading: Reading::Watched,
            onlookers: 0,
            awaited: false,
            unhurried: false,
            is_asked_to_leave: false,
            finalizing: false,
            next_memory_check: 0,
            violated: false,
            killed: false,
            captured,
            tagged_stderr: LastLines::default(),
            tag: None,
            last_lines: String::new(),
            home: started.home,
            group: started.group,
            still: None,
            cause: None,
            sender: started.sender,
            message: Vec::new(),
            attachments: Vec::new(),
            transfers: VecDeque::new(),
            pieces_ahead: 0,
            next_place: 0,
        };
        (link, printed)
    }

    /// What the task that the worker is running has printed so far, or had when the worker died.
    pub(crate) fn captured(&self) -> Option<TaskOutput> {
        if self.captured.iter().all(Option::is_none) {
            return None;
        }
        let [stdout, stderr] = self.captured.each_ref().map(|file| {
            let read = |file: &OwnedFd| capture::read_captured(file.as_fd(), TEXT_BYTES).ok();
            file.as_ref().and_then(read).unwrap_or_default()
        });
        Some(TaskOutput { stdout, stderr })
    }

    /// The worker is dead: keeps the last lines that it has written to its standard error, as far as that is read here. Never waits.
    pub(crate) fn keep_last_lines(&mut self) {
        self.last_lines = self.tagged_stderr.read(self.captured[1].as_ref());
    }

    /// Adds a record to the message.
    #[inline]
    pub(crate) fn push(&mut self, record: &ToWorker<'_>) {
        to_worker::push(record, &mut self.message);
    }

    /// Asks it to leave when all before that is done, unless it was asked already.
    pub(crate) fn push_stop(&mut self) {
        if !std::mem::replace(&mut self.is_asked_to_leave, true) {
            self.push(&ToWorker::Stop);
        }
    }

    /// Adds a task, which has been announced, to the message.
    #[inline]
    pub(crate) fn push_task(
        &mut self,
        lease: Lease,
        callee: Callee,
        input: &[u8],
        attachments: &Attachments,
    ) {
        self.push_attachments(attachments);
        self.push(&ToWorker::Task { lease, callee, input });
    }

    /// Adds what travels with the next task or initializer of the message.
    #[inline]
    pub(crate) fn push_attachments(&mut self, attachments: &Attachments) {
        let count = attachments.objects().len() as u32;
        if count > 0 {
            self.push(&ToWorker::Attached { count });
            self.attachments.push(attachments.clone());
        }
    }

    /// Begins to pass big arguments through the shared area.
    pub(crate) fn push_big_task(
        &mut self,
        lease: Lease,
        callee: Callee,
        input: BigInput,
        attachments: &Attachments,
    ) {
        let attachments = attachments.clone();
        self.transfers.push_back(Transfer { lease, callee, input, attachments, sent: 0 });
        self.push_pieces();
    }

    /// The worker has emptied a place of the shared area. `false`: there was nothing in it.
    pub(crate) fn piece_taken(&mut self) -> bool {
        if self.pieces_ahead == 0 {
            return false;
        }
        self.pieces_ahead -= 1;
        self.push_pieces();
        true
    }

    /// Whether all arguments are on their way.
    pub(crate) fn has_pushed_all(&self) -> bool {
        self.transfers.is_empty()
    }

    /// A number that changes with the bytes of arguments and replies that have come through.
    pub(crate) fn moved(&self) -> usize {
        let transfer = self.transfers.front().map_or(0, |transfer| transfer.sent);
        transfer + usize::from(self.pieces_ahead) + self.reader.incomplete()
    }

    fn push_pieces(&mut self) {
        while self.pieces_ahead < PIECES
            && let Some(transfer) = self.transfers.front_mut()
        {
            let Transfer { lease, callee, .. } = *transfer;
            let len = transfer.input.bytes().len();
            if transfer.sent == 0 {
                let count = transfer.attachments.objects().len() as u32;
                if count > 0 {
                    to_worker::push(&ToWorker::Attached { count }, &mut self.message);
                    self.attachments.push(transfer.attachments.clone());
                }
                let numbers = matches!(transfer.input, BigInput::Numbers(_));
                let record = ToWorker::BigTask { lease, callee, len: len as u64, numbers };
                to_worker::push(&record, &mut self.message);
            }
            let end = len.min(transfer.sent + PIECE_BYTES);
            let piece = &transfer.input.bytes()[transfer.sent..end];
            self.block.put_piece(self.next_place, piece);
            let record = ToWorker::Piece { place: self.next_place, len: piece.len() as u32 };
            to_worker::push(&record, &mut self.message);
            self.next_place = (self.next_place + 1) % PIECES;
            self.pieces_ahead += 1;
            transfer.sent = end;
            if end == len {
                self.transfers.pop_front();
            }
        }
    }

    /// Sends the message, if there is one. That the worker is gone is not told: the pidfd will. One that lives and can't be reached (its task has
    /// closed what it found open, say) is of no use any more, and is ended, so that the pidfd tells in any case.
    #[inline]
    pub(crate) fn flush(&mut self) -> Result<(), Unsent> {
        if self.message.is_empty() {
            return Ok(());
        }
        let attached = self.attachments.iter().flat_map(Attachments::objects).map(AsFd::as_fd);
        let sent = attachments::send(self.stream.as_fd(), attached)
            .and_then(|()| self.sender.send(&self.message));
        self.attachments.clear();
        self.message.clear();
        match sent {
            Err(Unsent::Stuck) => sent,
            Err(Unsent::Gone) => {
                self.signal(GroupSignal::Kill);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// How soon replies in the lane are to be told by the bell; `None`: somebody looks by himself, or nobody wants to know. `many_wait`: there are more tasks than workers can have.
    #[inline]
    pub(crate) fn bell(&self, many_wait: bool) -> Option<Need> {
        if self.onlookers > 0 || self.reading == Reading::Parked {
            return None;
        }
        // who has submitted more than the workers can have at a time gains nothing by being told of each
        let is_collected = many_wait && (self.reading == Reading::Watched || self.unhurried);
        Some(if self.awaited {
            Need::Now
        } else if is_collected {
            Need::Later
        } else if self.reading == Reading::Attended {
            Need::Now
        } else {
            Need::Soon
        })
    }

    /// Collects how the process has ended, which its pidfd has told; `None`: not yet.
    pub(crate) fn try_reap(&mut self) -> Option<ExitCause> {
        // which a zombie can still be asked
        self.home = self.home.take().and_then(|home| home.at_the_end(self.pid));
        match &self.ends {
            None => self.pidfd.try_reap(),
            Some(end) => end.take(self.pid, clock::now_ns()),
        }
    }

    /// Signals the worker and whatever it has started in its process group. The process has not been reaped, so its number is its own.
    pub(crate) fn signal(&self, signal: GroupSignal) {
        if self.cause.is_some() {
            return;
        }
        if let Some(group) = self.group.as_ref().filter(|_| signal == GroupSignal::Kill) {
            group.kill();
        }
        if self.ends.as_ref().is_some_and(ForkedEnd::is_closed) {
            // its fork server is gone, and did not keep its number for it: only the descriptor is sure to mean it
            if matches!(signal, GroupSignal::Terminate | GroupSignal::Kill) {
                let _ = self.pidfd.kill();
            }
            return;
        }
        // an empty group, or one that the worker has left, can't be signalled, and need not be
        let _ = send_to_group(self.pid, signal);
        if signal == GroupSignal::Kill {
            let _ = self.pidfd.kill();
        }
    }
}
