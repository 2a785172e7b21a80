//! The parent's end of one worker process: its descriptors, its status page, and what is on its way.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use crate::attach::Attachments;
use crate::error::ExitCause;
use crate::ids::Lease;
use crate::limits::PIECE_BYTES;
use crate::sys::pidfd::PidFd;
use crate::sys::signal::{GroupSignal, send_to_group};
use crate::sys::socket::Stream;
use crate::task::callee::Callee;
use crate::transport::attachments;
use crate::transport::replies::ReplyReader;
use crate::transport::status::StatusPage;
use crate::transport::tasks::{TaskSender, Unsent};
use crate::wire::to_worker::{self, ToWorker};

/// A process that has been started, with everything that connects it to the pool.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) seat: u32,
    pub(crate) pid: u32,
    pub(crate) pidfd: PidFd,
    pub(crate) stream: OwnedFd,
    pub(crate) sender: TaskSender,
    pub(crate) page: StatusPage,
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
    /// Nobody: it has no tasks, and the next one may be waited for by a thread again. Spares calls back to back from telling the kernel each time.
    Parked,
    /// Nobody: the stream has ended.
    Ended,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) seat: u32,
    pub(crate) pid: u32,
    pub(crate) pidfd: PidFd,
    pub(crate) stream: Arc<Stream>,
    pub(crate) page: StatusPage,
    pub(crate) reader: ReplyReader,
    pub(crate) stage: Stage,
    pub(crate) reading: Reading,
    /// It was killed because of what it sent.
    pub(crate) violated: bool,
    /// It was killed by the pool for another reason.
    pub(crate) killed: bool,
    /// Set when it is gone.
    pub(crate) cause: Option<ExitCause>,
    sender: TaskSender,
    /// The message that is being put together.
    message: Vec<u8>,
    /// What travels with it.
    attachments: Vec<Attachments>,
    transfers: VecDeque<Transfer>,
    /// Pieces in the shared area that the worker has not taken: at most one per half.
    pieces_ahead: u8,
    next_half: u8,
}

/// Big arguments on their way through the shared area.
#[derive(Debug)]
struct Transfer {
    lease: Lease,
    callee: Callee,
    input: Arc<Vec<u8>>,
    attachments: Attachments,
    sent: usize,
}

impl Link {
    pub(crate) fn new(started: Started, max_result: u64) -> Link {
        Link {
            seat: started.seat,
            pid: started.pid,
            pidfd: started.pidfd,
            stream: Arc::new(Stream(started.stream)),
            reader: ReplyReader::new(started.page.lane(), max_result),
            page: started.page,
            stage: Stage::Started,
            reading: Reading::Watched,
            violated: false,
            killed: false,
            cause: None,
            sender: started.sender,
            message: Vec::new(),
            attachments: Vec::new(),
            transfers: VecDeque::new(),
            pieces_ahead: 0,
            next_half: 0,
        }
    }

    /// Adds a record to the message.
    pub(crate) fn push(&mut self, record: &ToWorker<'_>) {
        to_worker::push(record, &mut self.message);
    }

    /// Adds a task to the message.
    pub(crate) fn push_task(
        &mut self,
        lease: Lease,
        callee: Callee,
        input: &[u8],
        attachments: &Attachments,
    ) {
        self.page.announce(lease);
        self.push_attachments(attachments);
        self.push(&ToWorker::Task { lease, callee, input });
    }

    /// Adds what travels with the next task or initializer of the message.
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
        input: Arc<Vec<u8>>,
        attachments: &Attachments,
    ) {
        self.page.announce(lease);
        let attachments = attachments.clone();
        self.transfers.push_back(Transfer { lease, callee, input, attachments, sent: 0 });
        self.push_pieces();
    }

    /// The worker has emptied a half of the shared area. `false`: there was nothing in it.
    pub(crate) fn piece_taken(&mut self) -> bool {
        if self.pieces_ahead == 0 {
            return false;
        }
        self.pieces_ahead -= 1;
        self.push_pieces();
        true
    }

    fn push_pieces(&mut self) {
        while self.pieces_ahead < 2
            && let Some(transfer) = self.transfers.front_mut()
        {
            let Transfer { lease, callee, .. } = *transfer;
            let len = transfer.input.len();
            if transfer.sent == 0 {
                let count = transfer.attachments.objects().len() as u32;
                if count > 0 {
                    to_worker::push(&ToWorker::Attached { count }, &mut self.message);
                    self.attachments.push(transfer.attachments.clone());
                }
                let record = ToWorker::BigTask { lease, callee, len: len as u64 };
                to_worker::push(&record, &mut self.message);
            }
            let end = len.min(transfer.sent + PIECE_BYTES);
            let piece = &transfer.input[transfer.sent..end];
            self.page.put_piece(self.next_half, piece);
            let record = ToWorker::Piece { half: self.next_half, len: piece.len() as u32 };
            to_worker::push(&record, &mut self.message);
            self.next_half ^= 1;
            self.pieces_ahead += 1;
            transfer.sent = end;
            if end == len {
                self.transfers.pop_front();
            }
        }
    }

    /// Sends the message, if there is one. That the worker is gone is not told: the pidfd will.
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
            Ok(()) | Err(Unsent::Gone) => Ok(()),
        }
    }

    /// Signals the worker and whatever it has started in its process group. The process has not been reaped, so its number is its own.
    pub(crate) fn signal(&self, signal: GroupSignal) {
        if self.cause.is_some() {
            return;
        }
        // an empty group, or one that the worker has left, can't be signalled, and need not be
        let _ = send_to_group(self.pid, signal);
        if signal == GroupSignal::Kill {
            let _ = self.pidfd.kill();
        }
    }
}
