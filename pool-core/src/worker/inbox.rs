//! The worker's loop.

use std::io;
use std::os::fd::OwnedFd;

use super::context;
use super::outbox::{Next, Outbox};
use super::printed::Capture;
use crate::attach;
use crate::ids::Lease;
use crate::limits::SPARE_BYTES;
use crate::sys::{clock, failpoint, memory};
use crate::task::Registry;
use crate::task::callee::Callee;
use crate::task::entry::{Fault, Output};
use crate::trace;
use crate::transport::attachments;
use crate::transport::block::WorkerBlock;
use crate::transport::status::StatusPage;
use crate::transport::task_queue::TaskQueueReader;
use crate::wire::from_worker::{Header, Kind};
use crate::wire::to_worker::{Records, ToWorker};

/// Where tasks come from, and where their state is kept.
#[derive(Debug)]
pub(super) struct Inbox {
    tasks: TaskQueueReader,
    block: WorkerBlock,
    page: StatusPage,
    printed: Capture,
    incoming: Option<Incoming>,
    /// Empty, with the memory of an input that was decoded: fresh pages cost several times the copying.
    spare: Vec<u8>,
    /// Descriptors that were received and belong to later records.
    kept: Vec<Option<OwnedFd>>,
    /// Those of the next record.
    attached: Vec<Option<OwnedFd>>,
    /// When the last task was done, if nothing has come between: then the next one begins, and need not look at the clock.
    done_ns: Option<u64>,
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
    /// It is the bytes of a vector of numbers.
    numbers: bool,
    attached: Vec<Option<OwnedFd>>,
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
    pub(super) fn new(tasks: TaskQueueReader, block: WorkerBlock, printed: Capture) -> Inbox {
        let (kept, attached) = (Vec::new(), Vec::new());
        let page = block.status();
        Inbox {
            tasks,
            page,
            block,
            printed,
            incoming: None,
            kept,
            attached,
            done_ns: None,
            spare: Vec::new(),
        }
    }

    /// Runs what comes, until the parent says stop or is gone.
    pub(super) fn serve(&mut self, outbox: &mut Outbox, registry: &Registry) -> End {
        let mut message = Vec::new();
        loop {
            if !self.tasks.look(&mut message)
                && (outbox.tell().is_err() || !self.tasks.receive(&mut message))
            {
                return End::Orphaned;
            }
            failpoint::at("worker.received");
            if let Err(end) = self.handle_all(&message, outbox, registry) {
                return end;
            }
            if !self.tasks.has_more() && outbox.tell_who_waits().is_err() {
                return End::Orphaned;
            }
            failpoint::at("worker.told");
        }
    }

    fn handle_all(
        &mut self,
        message: &[u8],
        outbox: &mut Outbox,
        registry: &Registry,
    ) -> Result<(), End> {
        let mut records = Records(message);
        while let Some(record) = records.next() {
            if record == ToWorker::Elsewhere {
                self.done_ns = None;
                let message = self.tasks.elsewhere().ok_or(End::Orphaned)?;
                self.handle_all(&message, outbox, registry)?;
                continue;
            }
            let is_last = records.0.is_empty() && !self.tasks.has_more();
            let next = if is_last { Next::Nothing } else { Next::Something };
            self.handle(record, next, outbox, registry)?;
        }
        Ok(())
    }

    fn handle(
        &mut self,
        record: ToWorker<'_>,
        next: Next,
        outbox: &mut Outbox,
        registry: &Registry,
    ) -> Result<(), End> {
        let since = self.done_ns.take();
        match record {
            ToWorker::Attached { count } => {
                let count = count as usize;
                self.attached = attachments::receive(outbox.stream(), &mut self.kept, count)?;
            }
            ToWorker::Task { lease, callee, input } => {
                attach::hand_over(std::mem::take(&mut self.attached));
                let call = |out: &mut Output<'_>| call(callee, input, out, registry);
                let done_ns = self.execute(lease, since, next, outbox, call)?;
                self.done_ns = done_ns.filter(|_| next == Next::Something);
            }
            ToWorker::BigTask { lease, callee, len, numbers } => {
                // numbers become the argument itself, and what only has to be decoded can lie where the last one lay
                let mut input = if numbers { Vec::new() } else { std::mem::take(&mut self.spare) };
                let reserved = input.try_reserve_exact(usize::try_from(len).unwrap_or(usize::MAX));
                memory::take_huge_pages(&mut input);
                let input = reserved.is_ok().then_some(input);
                let attached = std::mem::take(&mut self.attached);
                let arrived = 0;
                self.incoming =
                    Some(Incoming { lease, callee, len, arrived, input, numbers, attached });
            }
            ToWorker::Piece { place, len } => self.take_piece(place, len, outbox, registry)?,
            ToWorker::Initialize { callee, input } => {
                attach::hand_over(std::mem::take(&mut self.attached));
                initialize(callee, input, outbox)?;
                self.tasks.expect_a_wait();
            }
            ToWorker::Finalize { callee, input } => {
                attach::hand_over(std::mem::take(&mut self.attached));
                let kind = match outbox.capture(|out| callee.entry()(input, out)) {
                    Kind::Fault => Kind::FinalizerFailed,
                    _ => Kind::Finalized,
                };
                outbox.end_by_socket(Header::new(kind))?;
            }
            ToWorker::Stop => {
                failpoint::at("worker.stop");
                outbox.tell()?;
                return Err(End::Stop);
            }
            // a pointer is followed where it is read
            ToWorker::Elsewhere => {}
        }
        Ok(())
    }

    fn take_piece(
        &mut self,
        place: u8,
        len: u32,
        outbox: &mut Outbox,
        registry: &Registry,
    ) -> Result<(), End> {
        let Some(incoming) = &mut self.incoming else { return Ok(()) };
        if let Some(input) = &mut incoming.input {
            self.block.take_piece(place, len, input);
        }
        incoming.arrived += u64::from(len);
        outbox.piece_taken()?;
        if incoming.arrived < incoming.len {
            return Ok(());
        }
        let Some(Incoming { lease, callee, len, input, numbers, attached, .. }) =
            self.incoming.take()
        else {
            return Ok(());
        };
        attach::hand_over(attached);
        let mut spare = Vec::new();
        let done = self.execute(lease, None, Next::Nothing, outbox, |out| match input {
            Some(input) if numbers => {
                out.numbers = Some(input);
                call(callee, &[], out, registry)
            }
            Some(input) => {
                spare = input;
                call(callee, &spare, out, registry)
            }
            None => Err(Fault::Decode(format!("no memory for arguments of {len} bytes"))),
        });
        if (1..=SPARE_BYTES).contains(&spare.capacity()) {
            spare.clear();
            self.spare = spare;
        }
        done.map(drop)
    }

    /// Runs a task that begins now (`since`, if that is known), unless the parent has taken it back, and replies. Gives when it was done, if that is still now.
    fn execute(
        &self,
        lease: Lease,
        since: Option<u64>,
        next: Next,
        outbox: &mut Outbox,
        function: impl FnOnce(&mut Output<'_>) -> Result<(), Fault>,
    ) -> Result<Option<u64>, End> {
        let started = since.unwrap_or_else(clock::now_ns);
        failpoint::at("worker.start");
        if !self.page.start(lease, started) {
            attach::hand_over(Vec::new());
            return Ok(None);
        }
        failpoint::at("worker.started");
        context::set_current(Some(lease));
        let kind = trace::in_task(|| outbox.capture(function));
        context::set_current(None);
        let now = clock::now_ns();
        failpoint::at("worker.called");
        if !self.page.finish(lease) {
            // too late: the parent kills this process because of this task, and nothing else may be begun
            return Err(End::Condemned);
        }
        failpoint::at("worker.finished");
        let header = Header { lease, elapsed_ns: now - started, ..Header::new(kind) };
        let at_once = match self.printed.take() {
            None => outbox.end(header, now, next)?,
            Some(output) => outbox.end_with(header, &output).map(|()| false)?,
        };
        failpoint::at("worker.replied");
        Ok(at_once.then_some(now))
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
    failpoint::at("worker.initialize");
    if input.is_empty() && callee == Callee::BY_NAME {
        outbox.send(Header::new(Kind::Ready), |_| Ok(()))?;
        return Ok(());
    }
    // the parent knows what takes its time
    outbox.release()?;
    match outbox.capture(|out| callee.entry()(input, out)) {
        Kind::Fault => {
            outbox.end_by_socket(Header::new(Kind::InitFailed))?;
            Err(End::Stop)
        }
        _ => Ok(outbox.send(Header::new(Kind::Ready), |_| Ok(()))?),
    }
}
