//! The worker's loop.

use std::io;

use super::context;
use super::outbox::{Next, Outbox};
use super::printed::Capture;
use crate::ids::Lease;
use crate::sys::clock;
use crate::task::Registry;
use crate::task::callee::Callee;
use crate::task::entry::{Fault, Output};
use crate::trace;
use crate::transport::block::WorkerBlock;
use crate::transport::status::StatusPage;
use crate::transport::tasks::TaskReceiver;
use crate::wire::from_worker::{Header, Kind};
use crate::wire::to_worker::{Records, ToWorker};

/// Where tasks come from, and where their state is kept.
#[derive(Debug)]
pub(super) struct Inbox {
    tasks: TaskReceiver,
    block: WorkerBlock,
    page: StatusPage,
    printed: Capture,
    incoming: Option<Incoming>,
}

/// A big task whose input arrives in pieces.
#[derive(Debug)]
struct Incoming {
    lease: Lease,
    callee: Callee,
    len: u64,
    arrived: u64,
    /// `None`: there is no memory for it.
    input: Option<Vec<u8>>,
}

/// What ends the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The parent asked for it.
    Stop,
    /// The parent is gone.
    Orphaned,
    /// The parent has given this process up.
    Condemned,
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> End {
        End::Orphaned
    }
}

impl Inbox {
    pub(super) fn new(tasks: TaskReceiver, block: WorkerBlock, printed: Capture) -> Inbox {
        Inbox { tasks, page: block.status(), block, printed, incoming: None }
    }

    /// Runs what comes, until the parent says stop or is gone.
    pub(super) fn serve(mut self, mut outbox: Outbox, registry: &Registry) -> End {
        while let Some(message) = self.tasks.receive() {
            let mut records = Records(&message);
            while let Some(record) = records.next() {
                let next = if records.0.is_empty() { Next::Nothing } else { Next::Something };
                if let Err(end) = self.handle(record, next, &mut outbox, registry) {
                    return end;
                }
            }
            if outbox.tell().is_err() {
                break;
            }
        }
        End::Orphaned
    }

    fn handle(
        &mut self,
        record: ToWorker<'_>,
        next: Next,
        outbox: &mut Outbox,
        registry: &Registry,
    ) -> Result<(), End> {
        match record {
            ToWorker::Task { lease, callee, input } => {
                self.execute(lease, next, outbox, |out| call(callee, input, out, registry))?;
            }
            ToWorker::BigTask { lease, callee, len } => {
                let mut input = Vec::new();
                let reserved = input.try_reserve_exact(usize::try_from(len).unwrap_or(usize::MAX));
                let input = reserved.is_ok().then_some(input);
                self.incoming = Some(Incoming { lease, callee, len, arrived: 0, input });
            }
            ToWorker::Piece { half, len } => self.take_piece(half, len, outbox, registry)?,
            ToWorker::Initialize { callee, input } => initialize(callee, input, outbox)?,
            ToWorker::Finalize { callee, input } => {
                let kind = match outbox.capture(|out| callee.entry()(input, out)) {
                    Kind::Fault => Kind::FinalizerFailed,
                    _ => Kind::Finalized,
                };
                outbox.end_by_socket(Header::new(kind))?;
            }
            ToWorker::Stop => {
                outbox.tell()?;
                return Err(End::Stop);
            }
        }
        Ok(())
    }

    fn take_piece(
        &mut self,
        half: u8,
        len: u32,
        outbox: &mut Outbox,
        registry: &Registry,
    ) -> Result<(), End> {
        let Some(incoming) = &mut self.incoming else { return Ok(()) };
        if let Some(input) = &mut incoming.input {
            self.block.take_piece(half, len, input);
        }
        incoming.arrived += u64::from(len);
        outbox.send(Header::new(Kind::PieceTaken), |_| Ok(()))?;
        if incoming.arrived < incoming.len {
            return Ok(());
        }
        let Some(Incoming { lease, callee, len, input, .. }) = self.incoming.take() else {
            return Ok(());
        };
        self.execute(lease, Next::Nothing, outbox, |out| match &input {
            Some(input) => call(callee, input, out, registry),
            None => Err(Fault::Decode(format!("no memory for arguments of {len} bytes"))),
        })
    }

    /// Runs a task, unless the parent has taken it back, and replies.
    fn execute(
        &self,
        lease: Lease,
        next: Next,
        outbox: &mut Outbox,
        function: impl FnOnce(&mut Output<'_>) -> Result<(), Fault>,
    ) -> Result<(), End> {
        let started = clock::now_ns();
        if !self.page.start(lease, started) {
            return Ok(());
        }
        context::set_current(Some(lease));
        let kind = trace::in_task(|| outbox.capture(function));
        context::set_current(None);
        let now = clock::now_ns();
        if !self.page.finish(lease) {
            // too late: the parent kills this process because of this task, and nothing else may be begun
            return Err(End::Condemned);
        }
        let header = Header { lease, elapsed_ns: now - started, ..Header::new(kind) };
        match self.printed.take() {
            None => outbox.end(header, now, next)?,
            Some(output) => outbox.end_with(header, &output)?,
        }
        Ok(())
    }
}

fn call(
    callee: Callee,
    input: &[u8],
    out: &mut Output<'_>,
    registry: &Registry,
) -> Result<(), Fault> {
    if callee == Callee::BY_NAME { registry.call(input, out) } else { callee.entry()(input, out) }
}

/// Runs the initializer. Its result is dropped; its failure ends the worker.
fn initialize(callee: Callee, input: &[u8], outbox: &mut Outbox) -> Result<(), End> {
    if input.is_empty() && callee == Callee::BY_NAME {
        outbox.send(Header::new(Kind::Ready), |_| Ok(()))?;
        return Ok(());
    }
    match outbox.capture(|out| callee.entry()(input, out)) {
        Kind::Fault => {
            outbox.end_by_socket(Header::new(Kind::InitFailed))?;
            Err(End::Stop)
        }
        _ => Ok(outbox.send(Header::new(Kind::Ready), |_| Ok(()))?),
    }
}
