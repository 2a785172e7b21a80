//! Frames between client and server, and what is in them: little-endian numbers, byte strings with their length, and values as the codec writes them.
//!
//! Request: `length u32, op u8, object u64, references u32, body, references x u64`. Reply: `length u32, status u8, body`.

use std::io;
use std::time::Duration;

use super::ManagerError;
use super::address::Stream;
use super::lane::Lane;
use crate::limits::{MANAGER_BUFFER_BYTES, MANAGER_FRAME_BYTES};
use crate::spin::Spin;

/// Bytes taken for a frame before they have arrived.
const STEP: usize = 1 << 20;

/// The reply has a result.
pub(super) const DONE: u8 = 0;
/// The reply has a `ManagerError`.
pub(super) const REFUSED: u8 = 1;

/// Length of a request without body and references.
const HEAD: usize = 4 + 1 + 8 + 4;

macro_rules! ops {
    ($($name:ident),* $(,)?) => {
        /// What a client asks for. Those on the contents of objects mean what the proxies' methods of that name say.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(super) enum Op { $($name),* }

        impl Op {
            fn of(byte: u8) -> Option<Op> {
                $(if byte == Op::$name as u8 { return Some(Op::$name); })*
                None
            }
        }
    };
}

ops! {
    // the manager and the life of objects
    Ping, Create, Acquire, Release, Ticket, Destroy, Publish, Lookup, Objects, Shutdown,
    // containers
    Len, Get, Set, Push, PushFront, Insert, Remove, Pop, PopFront, Extend, Clear, Range, Position, Count, Reverse,
    DictGet, DictInsert, DictRemove, DictContains, DictGetOrInsert, DictExtend, DictItems, DictKeys, DictValues,
    ValueGet, ValueSet, Update, UpdateAt, UpdateKey, Call,
    // queues
    Put, Take, Close, TaskDone, Join, Unfinished,
    // what is waited for
    Lock, Unlock, SemAcquire, SemRelease, SemAvailable, CondWait, CondNotify,
    EventSet, EventClear, EventIsSet, EventWait, BarrierWait, BarrierAbort, BarrierReset, BarrierState,
}

/// A request as the server sees it.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) op: Op,
    pub(super) object: u64,
    pub(super) body: Body<'a>,
    /// The objects whose proxies are in the values of the body.
    pub(super) references: Vec<u64>,
}

impl Request<'_> {
    pub(super) fn parse(frame: &[u8]) -> Option<Request<'_>> {
        let mut body = Body(frame);
        let op = Op::of(body.u8().ok()?)?;
        let object = body.u64().ok()?;
        let count = body.u32().ok()? as usize;
        let at = body.0.len().checked_sub(count.checked_mul(8)?)?;
        let (rest, references) = body.0.split_at(at);
        let references = references.as_chunks::<8>().0.iter().map(|id| u64::from_le_bytes(*id));
        Some(Request { op, object, body: Body(rest), references: references.collect() })
    }
}

/// Begins a request in `out`.
pub(super) fn begin(out: &mut Vec<u8>, op: Op, object: u64) {
    out.clear();
    out.extend_from_slice(&[0; 4]);
    out.push(op as u8);
    out.extend_from_slice(&object.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
}

/// Ends what [`begin`] has begun.
pub(super) fn end(out: &mut Vec<u8>, references: &[u64]) -> Result<(), ManagerError> {
    out[HEAD - 4..HEAD].copy_from_slice(&(references.len() as u32).to_le_bytes());
    for id in references {
        out.extend_from_slice(&id.to_le_bytes());
    }
    seal(out)
}

/// Writes the length of the frame to its front.
pub(super) fn seal(out: &mut [u8]) -> Result<(), ManagerError> {
    let len = out.len() - 4;
    if len > MANAGER_FRAME_BYTES {
        let limit = MANAGER_FRAME_BYTES as u64;
        return Err(ManagerError::TooLarge { size: len as u64, limit });
    }
    out[..4].copy_from_slice(&(len as u32).to_le_bytes());
    Ok(())
}

/// What a body holds, from front to back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Body<'a>(pub(super) &'a [u8]);

impl<'a> Body<'a> {
    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], ManagerError> {
        let (chunk, rest) = self.0.split_first_chunk::<N>().ok_or_else(short)?;
        self.0 = rest;
        Ok(*chunk)
    }

    pub(super) fn u8(&mut self) -> Result<u8, ManagerError> {
        Ok(self.chunk::<1>()?[0])
    }

    pub(super) fn u32(&mut self) -> Result<u32, ManagerError> {
        self.chunk().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, ManagerError> {
        self.chunk().map(u64::from_le_bytes)
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], ManagerError> {
        let len = self.u32()? as usize;
        let (bytes, rest) = self.0.split_at_checked(len).ok_or_else(short)?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, ManagerError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| short())
    }

    /// All that is left.
    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A reply that is a number.
pub(super) fn u64(body: &mut Body<'_>) -> Result<u64, ManagerError> {
    body.u64()
}

/// A reply that is a small number, or a yes or no.
pub(super) fn u8(body: &mut Body<'_>) -> Result<u8, ManagerError> {
    body.u8()
}

fn short() -> ManagerError {
    ManagerError::Protocol { address: "?".to_owned(), reason: "a frame is damaged".to_owned() }
}

pub(super) fn put_u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

/// A byte string with its length in front. Longer ones than 4 GiB do not fit into a frame, which is noticed at its end.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// What `write` appends, with its length in front.
pub(super) fn put_with<E>(
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out)?;
    let len = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&len.to_le_bytes());
    Ok(())
}

/// Bytes that have arrived and were not used yet.
#[derive(Debug)]
pub(super) struct Inlet {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    lane: Option<Lane>,
    spin: Spin,
    looking: bool,
    /// A frame that has come by the lane.
    short: Vec<u8>,
}

impl Inlet {
    /// Nothing yet. Whoever waits for a frame does so awake for `spin` before it sleeps.
    pub(super) fn new(lane: Option<Lane>, spin: Duration) -> Inlet {
        let spin = Spin::new(spin);
        Inlet {
            buffer: Vec::new(),
            start: 0,
            end: 0,
            lane,
            spin,
            looking: false,
            short: Vec::new(),
        }
    }

    /// What the other side sends from now on may come by the lane, if there is one and it is worth it: to be called before it can send anything, and followed
    /// by [`frame`](Inlet::frame).
    pub(super) fn look(&mut self) {
        if let Some(lane) = &self.lane
            && self.spin.is_worth_it()
        {
            lane.look();
            self.looking = true;
        }
    }

    pub(super) fn lane(&self) -> Option<&Lane> {
        self.lane.as_ref()
    }

    /// The next frame; `None` at the end of the stream. `stalled` is asked what to do when the stream's time limit has passed without a byte.
    pub(super) fn frame(
        &mut self,
        stream: &Stream,
        mut stalled: impl FnMut() -> io::Result<()>,
    ) -> io::Result<Option<&[u8]>> {
        self.tidy();
        if std::mem::take(&mut self.looking)
            && let Some(lane) = &self.lane
            && lane.take(&mut self.spin, &mut self.short)?
        {
            return Ok(Some(&self.short[4.min(self.short.len())..]));
        }
        loop {
            let have = self.end - self.start;
            let mut want = MANAGER_BUFFER_BYTES;
            if let Some((len, _)) = self.buffer[self.start..self.end].split_first_chunk::<4>() {
                let len = u32::from_le_bytes(*len) as usize;
                if len > MANAGER_FRAME_BYTES {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "the frame is too long",
                    ));
                }
                if have >= 4 + len {
                    let at = self.start + 4;
                    self.start = at + len;
                    return Ok(Some(&self.buffer[at..at + len]));
                }
                want = want.max(4 + len);
            }
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, have);
            }
            // memory grows with what has arrived, not with what was claimed
            let room = want.min(self.end + STEP.max(self.end));
            if self.buffer.len() < room {
                self.buffer.resize(room, 0);
            }
            let space = &mut self.buffer[self.end..];
            let soon = if self.lane.is_none() && self.spin.is_worth_it() {
                self.spin.until(|| stream.read_now(space).transpose())
            } else {
                None
            };
            match soon.unwrap_or_else(|| stream.read(space)) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(got) => self.end += got,
                Err(error) => retry(error, &mut stalled)?,
            }
        }
    }

    fn tidy(&mut self) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.buffer.len() > STEP {
                self.buffer = Vec::new();
            }
        }
    }
}

/// Writes all of `bytes`; `stalled` as for [`Inlet::frame`].
pub(super) fn send(
    stream: &Stream,
    mut bytes: &[u8],
    mut stalled: impl FnMut() -> io::Result<()>,
) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(sent) => bytes = &bytes[sent..],
            Err(error) => retry(error, &mut stalled)?,
        }
    }
    Ok(())
}

fn retry(error: io::Error, stalled: &mut impl FnMut() -> io::Result<()>) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::Interrupted => Ok(()),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => stalled(),
        _ => Err(error),
    }
}

/// Gives large memory back.
pub(super) fn shrink(out: &mut Vec<u8>) {
    if out.capacity() > STEP {
        *out = Vec::new();
    }
}
