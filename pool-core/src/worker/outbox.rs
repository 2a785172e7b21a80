//! Replies: each is in shared memory or in the kernel's hands before the next task is begun, so that a later crash can't take it along.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::codec::{self, Lent};
use crate::limits::{
    BELL_BYTES, LONGEST_SLICE, PIECE_BYTES, SPARE_BYTES, TELL_LATER, TELL_LATER_NS, TELL_NS,
};
use crate::output::TaskOutput;
use crate::spin::spin_until;
use crate::sys::{failpoint, poll, socket};
use crate::task::entry::{Fault, Output};
use crate::task::job::caught;
use crate::transport::agreement::Need;
use crate::transport::block::WorkerBlock;
use crate::transport::lane::{self, LaneWriter};
use crate::transport::results::ResultsWriter;
use crate::wire::from_worker::{HEADER, Header, Kind};

/// What the lane keeps free, when a big result begins, for what is said of its pieces: the parent may take as many as there are places before it says how
/// far it has read.
const PIECES_SPARE: u64 = 4096;

/// Whether the parent has sent more to do with the same message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Something,
    Nothing,
}

/// Replies in the lane that the parent was not told of: when and where the first one was put there, and how many there are.
#[derive(Clone, Copy, Debug)]
struct Untold {
    since_ns: u64,
    first: u64,
    count: u32,
}

/// The worker's end of the reply socket, with a buffer that is used again for each frame.
#[derive(Debug)]
pub(super) struct Outbox {
    stream: OwnedFd,
    /// `None`: all goes by the socket.
    lane: Option<LaneWriter>,
    results: ResultsWriter,
    frame: Vec<u8>,
    /// The result itself, if it is a large vector of numbers: the buffer has nothing then.
    lent: Option<Lent>,
    /// A frame that is sent with the next one, or before this process sleeps.
    held: Vec<u8>,
    untold: Option<Untold>,
    max_result: u64,
}

impl Outbox {
    pub(super) fn new(
        stream: OwnedFd,
        block: &WorkerBlock,
        fast_lane: bool,
        max_result: u64,
    ) -> Outbox {
        Outbox {
            stream,
            lane: fast_lane.then(|| LaneWriter::new(block.replies())),
            results: ResultsWriter::new(block.results()),
            frame: Vec::new(),
            lent: None,
            held: Vec::new(),
            untold: None,
            max_result,
        }
    }

    /// The socket, on which descriptors come from the parent.
    pub(super) fn stream(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Sends one frame of the handshake or of a transfer by the socket; `fill` writes its body.
    pub(super) fn send(
        &mut self,
        header: Header,
        fill: impl FnOnce(&mut Vec<u8>) -> io::Result<()>,
    ) -> io::Result<()> {
        self.compose(header, fill)?;
        self.send_frame()
    }

    /// Like [`Outbox::send`], but the frame may wait for the next one, so that the parent is woken once for both.
    pub(super) fn hold(
        &mut self,
        header: Header,
        fill: impl FnOnce(&mut Vec<u8>) -> io::Result<()>,
    ) -> io::Result<()> {
        self.compose(header, fill)?;
        self.held.extend_from_slice(&self.frame);
        Ok(())
    }

    fn compose(
        &mut self,
        header: Header,
        fill: impl FnOnce(&mut Vec<u8>) -> io::Result<()>,
    ) -> io::Result<()> {
        self.begin();
        fill(&mut self.frame)?;
        self.put_header(header);
        Ok(())
    }

    /// Sends what is held.
    pub(super) fn release(&mut self) -> io::Result<()> {
        let held = std::mem::take(&mut self.held);
        socket::send_all(self.stream.as_fd(), &held)
    }

    /// Calls `function` with the buffer for its result, and gives the kind of frame that this has become. It waits in the buffer until
    /// [`Outbox::end`] sends it.
    pub(super) fn capture(
        &mut self,
        function: impl FnOnce(&mut Output<'_>) -> Result<(), Fault>,
    ) -> Kind {
        self.begin();
        let limit = self.max_result.saturating_add(HEADER as u64);
        let mut output = Output::new(&mut self.frame, limit);
        if self.lane.is_some() {
            output.lend_above = lane::LARGEST;
        }
        let outcome = caught(|| function(&mut output));
        self.lent = output.lent.filter(|_| outcome.is_ok());
        let Err(fault) = outcome else { return Kind::Done };
        self.frame.truncate(HEADER);
        // texts and numbers: this can't be refused
        let _ = codec::encode(&fault.cut(), &mut self.frame, u64::MAX);
        Kind::Fault
    }

    fn begin(&mut self) {
        self.frame.clear();
        self.frame.resize(HEADER, 0);
        // of an initializer, whose result nobody wants
        self.lent = None;
    }

    /// Sends the reply in the buffer: by the lane if it has room, which never blocks; else, if it is big, in pieces, or by the socket. The parent may not have
    /// been told of it yet: see [`Outbox::tell`]. Gives whether that took no time worth mentioning.
    pub(super) fn end(&mut self, header: Header, now_ns: u64, next: Next) -> io::Result<bool> {
        let body = self.frame.len() - HEADER;
        if self.lent.is_some() || (body > lane::LARGEST && header.kind == Kind::Done) {
            return self.end_big(header).map(|()| false);
        }
        self.put_header(header);
        let Some(lane) = &mut self.lane else { return self.send_frame().map(|()| false) };
        let alone = next == Next::Nothing && self.untold.is_none();
        if alone && body <= BELL_BYTES && lane.is_bell_wanted(Need::Now) {
            // it would need the bell at once: then it can as well go itself, which is quicker
            return self.send_frame().map(|()| false);
        }
        let position = lane.written();
        if !lane.publish(&self.frame, 0) {
            return self.send_frame().map(|()| false);
        }
        let here = Untold { since_ns: now_ns, first: position, count: 0 };
        let untold = self.untold.get_or_insert(here);
        untold.count += 1;
        let passed = now_ns - untold.since_ns;
        let is_late = passed >= TELL_LATER_NS || untold.count >= TELL_LATER;
        if !is_late && (passed < TELL_NS || !lane.is_needed(Need::Soon)) {
            return Ok(true);
        }
        let (unread, written) = (lane.unread(), lane.written() - untold.first);
        if unread < written {
            // the parent looks without being told: it has read all but the last ones
            let count = u64::from(untold.count) * unread / written;
            let first = lane.written() - unread;
            *untold = Untold { since_ns: now_ns, first, count: count as u32 };
            return Ok(true);
        }
        self.tell().map(|()| false)
    }

    /// Sends a big result: in pieces if that can be announced in the lane, else by the socket.
    fn end_big(&mut self, header: Header) -> io::Result<()> {
        let (lent, frame) = (self.lent.take(), std::mem::take(&mut self.frame));
        let (kind, body) = match &lent {
            Some(lent) => (Kind::Numbers, lent.bytes()),
            None => (Kind::Large, &frame[HEADER..]),
        };
        let announced = Header { kind, len: body.len() as u64, ..header }.encode();
        if self.lane.as_mut().is_some_and(|lane| lane.publish(&announced, PIECES_SPARE)) {
            let sent = self.send_pieces(body);
            self.keep(frame);
            return sent;
        }
        (self.lent, self.frame) = (lent, frame);
        self.end_by_socket(header)
    }

    /// Passes a big result through its area, as fast as the parent takes the pieces.
    fn send_pieces(&mut self, body: &[u8]) -> io::Result<()> {
        for piece in body.chunks(PIECE_BYTES) {
            while !self.results.has_room() && !spin_until(|| self.results.has_room()) {
                self.ring(Need::Later)?;
                self.results.sleep(LONGEST_SLICE);
                if poll::has_hung_up(self.stream.as_fd()) {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
            }
            self.results.put(piece);
            let header = Header { len: piece.len() as u64, ..Header::new(Kind::Piece) }.encode();
            if !self.lane.as_mut().is_some_and(|lane| lane.publish(&header, 0)) {
                return Err(io::Error::other("the parent takes pieces and reads no lane"));
            }
            failpoint::at("worker.piece");
            self.ring(Need::Now)?;
        }
        self.ring(Need::Later)
    }

    /// Says that a piece of an argument was taken: soon enough for the parent to fill its place before the others are empty.
    pub(super) fn piece_taken(&mut self) -> io::Result<()> {
        let header = Header::new(Kind::PieceTaken);
        if !self.lane.as_mut().is_some_and(|lane| lane.publish(&header.encode(), 0)) {
            return self.send(header, |_| Ok(()));
        }
        self.ring(Need::Later)
    }

    /// Tells the parent of what lies in the lane. To be called before this process sleeps.
    pub(super) fn tell(&mut self) -> io::Result<()> {
        self.release()?;
        self.tell_if(Need::Later)?;
        self.untold = None;
        Ok(())
    }

    /// Tells the parent of what lies in the lane if somebody waits there. To be called when nothing else is to be done.
    pub(super) fn tell_who_waits(&mut self) -> io::Result<()> {
        self.tell_if(Need::Now)
    }

    fn tell_if(&mut self, need: Need) -> io::Result<()> {
        if self.untold.is_some() { self.ring(need) } else { Ok(()) }
    }

    fn ring(&mut self, need: Need) -> io::Result<()> {
        if self.lane.as_ref().is_some_and(|lane| lane.is_bell_wanted(need)) {
            self.untold = None;
            socket::send_all(self.stream.as_fd(), &Header::new(Kind::Bell).encode())?;
        }
        Ok(())
    }

    /// Sends what a task has printed, and its reply, which waits in the buffer. Both by the socket: what goes by the lane may overtake it.
    pub(super) fn end_with(&mut self, header: Header, printed: &TaskOutput) -> io::Result<()> {
        self.put_header(header);
        let reply = std::mem::take(&mut self.frame);
        let Header { lease, .. } = header;
        self.send(Header { lease, ..Header::new(Kind::Printed) }, |body| {
            printed.encode(body);
            Ok(())
        })?;
        self.frame = reply;
        self.send_frame()
    }

    /// Sends the frame in the buffer by the socket, blocking until the kernel has taken it.
    pub(super) fn end_by_socket(&mut self, header: Header) -> io::Result<()> {
        self.put_header(header);
        self.send_frame()
    }

    fn put_header(&mut self, header: Header) {
        if let Some(lent) = self.lent.take() {
            lent.encode(&mut self.frame);
        }
        let len = (self.frame.len() - HEADER) as u64;
        self.frame[..HEADER].copy_from_slice(&Header { len, ..header }.encode());
    }

    fn send_frame(&mut self) -> io::Result<()> {
        let sent = if self.held.is_empty() {
            socket::send_all(self.stream.as_fd(), &self.frame)
        } else {
            self.held.extend_from_slice(&self.frame);
            self.release()
        };
        let frame = std::mem::take(&mut self.frame);
        self.keep(frame);
        sent
    }

    /// The next frame lies where this one did, if that is not too much.
    fn keep(&mut self, frame: Vec<u8>) {
        if frame.capacity() <= SPARE_BYTES {
            self.frame = frame;
        }
    }
}
