//! Replies: each is in the kernel's hands before the next task is begun, so that a later crash can't take it along.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::codec;
use crate::limits::INLINE_BYTES;
use crate::sys::socket;
use crate::task::entry::{Fault, Output};
use crate::task::panics;
use crate::wire::from_worker::{HEADER, Header, Kind};

/// The worker's end of the reply socket, with a buffer that is used again for each frame.
#[derive(Debug)]
pub(super) struct Outbox {
    stream: OwnedFd,
    frame: Vec<u8>,
    max_result: u64,
}

impl Outbox {
    pub(super) fn new(stream: OwnedFd, max_result: u64) -> Outbox {
        Outbox { stream, frame: Vec::new(), max_result }
    }

    /// Sends one frame whose body is written by `fill`.
    pub(super) fn send(
        &mut self,
        header: Header,
        fill: impl FnOnce(&mut Vec<u8>) -> io::Result<()>,
    ) -> io::Result<()> {
        self.begin();
        fill(&mut self.frame)?;
        self.end(header)
    }

    /// Calls `function` with the buffer for its result, and gives the kind of frame that this has become. It waits in the buffer until
    /// [`Outbox::end`] sends it.
    pub(super) fn capture(
        &mut self,
        function: impl FnOnce(&mut Output<'_>) -> Result<(), Fault>,
    ) -> Kind {
        self.begin();
        let limit = self.max_result.saturating_add(HEADER as u64);
        let mut output = Output { bytes: &mut self.frame, limit };
        let outcome = match catch_unwind(AssertUnwindSafe(|| function(&mut output))) {
            Ok(outcome) => outcome,
            Err(payload) => {
                let report = panics::take(payload.as_ref());
                // a payload whose drop panics must not end the worker
                std::mem::forget(payload);
                Err(Fault::Panicked(report))
            }
        };
        let Err(fault) = outcome else { return Kind::Done };
        self.frame.truncate(HEADER);
        // texts and numbers: this can't be refused
        let _ = codec::encode(&fault, &mut self.frame, u64::MAX);
        Kind::Fault
    }

    fn begin(&mut self) {
        self.frame.clear();
        self.frame.resize(HEADER, 0);
    }

    /// Sends the frame in the buffer, blocking until the parent has taken it.
    pub(super) fn end(&mut self, header: Header) -> io::Result<()> {
        let len = (self.frame.len() - HEADER) as u64;
        self.frame[..HEADER].copy_from_slice(&Header { len, ..header }.encode());
        let sent = socket::send_all(self.stream.as_fd(), &self.frame);
        if self.frame.capacity() > INLINE_BYTES {
            self.frame = Vec::new();
        }
        sent
    }
}
