//! Worker → parent: frames over a stream socket, small ones by the [lane](super::lane), big results by [their area](super::results). The parent reads without blocking, checks every length before it believes it,
//! and holds no more memory for a worker than what has been received from it plus one read.

use std::collections::TryReserveError;
use std::io;
use std::os::fd::BorrowedFd;

use super::agreement::Need;
use super::block::WorkerBlock;
use super::lane::{LaneProbe, LaneReader};
use super::results::ResultsReader;
use crate::limits::{PIECE_BYTES, PIECES, READ_BUDGET_BYTES, READ_BUFFER_BYTES};
use crate::small_bytes::SmallBytes;
use crate::sys::{memory, socket};
use crate::wire::from_worker::{HEADER, Header, Kind, Malformed};

/// So much room is made for a result that comes in pieces at first, and at least so much when that is full: address space, of which memory is taken as it is filled.
const FIRST_ROOM: usize = PIECES as usize * PIECE_BYTES;
const NEXT_ROOM: usize = 64 << 20;

/// Puts the parts of a stream together again.
#[derive(Debug)]
pub(crate) struct ReplyReader {
    /// The beginning of a frame that has not arrived whole.
    partial: Vec<u8>,
    /// A frame larger than one read, whose body grows as it arrives.
    large: Option<(Header, Vec<u8>)>,
    lane: LaneReader,
    results: ResultsReader,
    /// A result that comes in pieces.
    in_pieces: Option<(Header, Vec<u8>)>,
    max_result: u64,
}

/// How a round of reading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    /// Nothing more is there now.
    Drained,
    /// More may be there: the others come first.
    Budget,
    /// The other side has closed the stream.
    End,
}

impl ReplyReader {
    pub(crate) fn new(block: &WorkerBlock, max_result: u64) -> ReplyReader {
        ReplyReader {
            partial: Vec::new(),
            large: None,
            lane: LaneReader::new(block.replies()),
            results: ResultsReader::new(block.results()),
            in_pieces: None,
            max_result,
        }
    }

    /// Bytes of a frame that has not arrived whole.
    pub(crate) fn incomplete(&self) -> usize {
        let arrived =
            |of: &Option<(Header, Vec<u8>)>| of.as_ref().map_or(0, |(_, body)| body.len());
        self.partial.len() + arrived(&self.large) + arrived(&self.in_pieces)
    }

    /// Reads what is there on both ways, the lane to its end.
    pub(crate) fn read(
        &mut self,
        fd: BorrowedFd<'_>,
        bell: Option<Need>,
        buffer: &mut Vec<u8>,
        mut take: impl FnMut(Header, SmallBytes),
    ) -> Result<Round, Malformed> {
        let round = self.read_stream(fd, buffer, &mut take)?;
        let in_lane = self.read_lane(bell, take)?;
        Ok(if in_lane == Round::Budget { in_lane } else { round })
    }

    /// Whether something lies in the lane.
    #[inline]
    pub(crate) fn has_news(&self) -> bool {
        self.lane.has_news()
    }

    /// Replies in the lane ring the bell from now on. `false`: there is one already.
    pub(crate) fn listen(&self, need: Need) -> bool {
        self.lane.listen(need)
    }

    /// Replies ring no bell until the lane is read again: the reader looks by itself.
    pub(crate) fn stop_listening(&self) {
        self.lane.stop_listening();
    }

    pub(crate) fn probe(&self) -> LaneProbe {
        self.lane.probe()
    }

    /// Reads the lane to its end. `bell` is how soon the next reply is to be told; `None`: the reader looks by itself.
    pub(crate) fn read_lane(
        &mut self,
        bell: Option<Need>,
        mut take: impl FnMut(Header, SmallBytes),
    ) -> Result<Round, Malformed> {
        let mut budget = READ_BUDGET_BYTES;
        loop {
            let mut available = self.lane.available()?;
            while available > 0 && budget > 0 {
                // only whole frames are published
                let (len, copied) = self.take_frame(available, &mut take)?;
                available -= len;
                budget = budget.saturating_sub(copied);
            }
            self.lane.release();
            // a worker that only says that something is there gets no more rounds than one that says something
            budget = budget.saturating_sub(HEADER);
            if budget == 0 {
                return Ok(Round::Budget);
            }
            if self.lane.has_news() {
                continue;
            }
            if bell.is_none_or(|need| self.lane.listen(need)) {
                return Ok(Round::Drained);
            }
        }
    }

    /// Copies a frame out of the lane, the header before it is looked at; gives its length there, and how many bytes were copied.
    fn take_frame(
        &mut self,
        available: u64,
        take: &mut impl FnMut(Header, SmallBytes),
    ) -> Result<(u64, usize), Malformed> {
        let mut header = [0; HEADER];
        if available < HEADER as u64 {
            return Err(Malformed);
        }
        self.lane.take(&mut header);
        let header = Header::decode(&header, self.max_result)?;
        let len = header.len as usize;
        let copied = match header.kind {
            Kind::Done | Kind::Fault if header.len <= available - HEADER as u64 => {
                let few = SmallBytes::few(len, |bytes| self.lane.take(bytes));
                take(header, few.unwrap_or_else(|| self.lane.take_vec(len).into()));
                return Ok((HEADER as u64 + header.len, HEADER + len));
            }
            Kind::Large | Kind::Numbers => {
                self.begin_pieces(header)?;
                0
            }
            Kind::Piece => {
                self.take_piece(len, take)?;
                len
            }
            Kind::PieceTaken => {
                take(header, SmallBytes::NONE);
                0
            }
            _ => return Err(Malformed),
        };
        Ok((HEADER as u64, HEADER + copied))
    }

    fn begin_pieces(&mut self, header: Header) -> Result<(), Malformed> {
        if self.in_pieces.is_some() || header.len == 0 {
            return Err(Malformed);
        }
        self.in_pieces = Some((header, Vec::new()));
        Ok(())
    }

    /// Copies a piece out of the area, and hands out the result if it was the last one.
    fn take_piece(
        &mut self,
        len: usize,
        take: &mut impl FnMut(Header, SmallBytes),
    ) -> Result<(), Malformed> {
        let (header, mut body) = self.in_pieces.take().ok_or(Malformed)?;
        let missing = header.len - body.len() as u64;
        if len == 0 || len as u64 > missing {
            return Err(Malformed);
        }
        if body.capacity() - body.len() < len {
            // when some have come, many more may: growing by doubling would take huge pages apart
            let least = if body.is_empty() { FIRST_ROOM } else { NEXT_ROOM };
            make_room(&mut body, missing, least).map_err(|_| Malformed)?;
            memory::take_huge_pages(&mut body);
        }
        self.results.take(len, &mut body);
        if (body.len() as u64) < header.len {
            self.in_pieces = Some((header, body));
        } else {
            let kind = if header.kind == Kind::Large { Kind::Done } else { header.kind };
            take(Header { kind, ..header }, SmallBytes::from(body));
        }
        Ok(())
    }

    /// Reads what is there on the socket, at most [`READ_BUDGET_BYTES`], and hands each complete frame to `take`. `buffer` is lent: one for
    /// all workers.
    fn read_stream(
        &mut self,
        fd: BorrowedFd<'_>,
        buffer: &mut Vec<u8>,
        take: &mut impl FnMut(Header, SmallBytes),
    ) -> Result<Round, Malformed> {
        let mut budget = READ_BUDGET_BYTES;
        loop {
            let was_large = self.large.is_some();
            let received = match &mut self.large {
                Some((header, body)) => receive_large(fd, header.len, body),
                None => {
                    buffer.clear();
                    buffer.extend_from_slice(&self.partial);
                    buffer.reserve(READ_BUFFER_BYTES);
                    socket::receive_into(fd, buffer, READ_BUFFER_BYTES)
                }
            };
            let received = match received {
                Ok(0) => return Ok(Round::End),
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Round::Drained);
                }
                // the worker died with unread tasks: what it had answered before is still to be read
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => continue,
                Err(_) => return Ok(Round::End),
            };
            match self.large.take() {
                Some((header, body)) if body.len() as u64 == header.len => {
                    take(header, SmallBytes::from(body));
                }
                Some(unfinished) => self.large = Some(unfinished),
                None => self.parse_stream(buffer, take)?,
            }
            budget = budget.saturating_sub(received);
            if budget == 0 {
                return Ok(Round::Budget);
            }
            if received < READ_BUFFER_BYTES && !was_large && self.large.is_none() {
                // a short read of a stream: nothing was left, and the next look would only cost a system call
                return Ok(Round::Drained);
            }
        }
    }

    /// Hands out the complete frames of `bytes` and keeps the rest.
    fn parse_stream(
        &mut self,
        bytes: &[u8],
        take: &mut impl FnMut(Header, SmallBytes),
    ) -> Result<(), Malformed> {
        let mut rest = parse(bytes, self.max_result, take)?;
        if let Some((header, body)) = rest.split_first_chunk::<HEADER>() {
            let header = decode(header, self.max_result)?;
            if header.len as usize > READ_BUFFER_BYTES / 2 {
                self.large = Some((header, body.to_vec()));
                rest = &[];
            }
        }
        self.partial.clear();
        self.partial.extend_from_slice(rest);
        Ok(())
    }
}

/// A header on the socket.
fn decode(bytes: &[u8; HEADER], max_result: u64) -> Result<Header, Malformed> {
    let header = Header::decode(bytes, max_result)?;
    let is_of_lane = matches!(header.kind, Kind::Large | Kind::Numbers | Kind::Piece);
    if is_of_lane { Err(Malformed) } else { Ok(header) }
}

/// Hands out the complete frames and gives what is left.
fn parse<'a>(
    bytes: &'a [u8],
    max_result: u64,
    take: &mut impl FnMut(Header, SmallBytes),
) -> Result<&'a [u8], Malformed> {
    let mut rest = bytes;
    while let Some((header, body)) = rest.split_first_chunk::<HEADER>() {
        let header = decode(header, max_result)?;
        if (body.len() as u64) < header.len {
            break;
        }
        let (body, next) = body.split_at(header.len as usize);
        take(header, SmallBytes::from(body));
        rest = next;
    }
    Ok(rest)
}

/// Room for as much as has arrived, or for `least`, and never for more than is missing: it grows with what arrives, not with what is announced.
fn make_room(body: &mut Vec<u8>, missing: u64, least: usize) -> Result<(), TryReserveError> {
    body.try_reserve_exact((body.len().max(least) as u64).min(missing) as usize)
}

/// Reads more of a large body.
fn receive_large(fd: BorrowedFd<'_>, len: u64, body: &mut Vec<u8>) -> io::Result<usize> {
    let missing = len - body.len() as u64;
    if body.capacity() == body.len() {
        make_room(body, missing, READ_BUFFER_BYTES).map_err(io::Error::other)?;
    }
    socket::receive_into(fd, body, usize::try_from(missing).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Lease;
    use proptest::prelude::*;
    use std::os::fd::AsFd;

    fn frame(kind: Kind, slot: u16, body: &[u8]) -> Vec<u8> {
        let lease = Lease { slot, generation: 1 };
        let mut bytes =
            Header { lease, len: body.len() as u64, ..Header::new(kind) }.encode().to_vec();
        bytes.extend_from_slice(body);
        bytes
    }

    fn reader() -> ReplyReader {
        let (page, _fd) = crate::transport::block::WorkerBlock::create().unwrap();
        ReplyReader::new(&page, 1 << 40)
    }

    /// Sends `chunks` one after the other, reading after each, then closes; returns the bodies.
    fn pass(chunks: &[&[u8]]) -> (Vec<Vec<u8>>, Result<Round, Malformed>) {
        let (ours, theirs) = socket::stream_pair().unwrap();
        let (mut reader, mut buffer, mut bodies) = (reader(), Vec::new(), Vec::new());
        let mut read = |bodies: &mut Vec<Vec<u8>>| {
            reader.read(ours.as_fd(), Some(Need::Now), &mut buffer, |_, body| {
                bodies.push(body.into_vec())
            })
        };
        for chunk in chunks {
            for part in chunk.chunks(32 << 10) {
                socket::send_all(theirs.as_fd(), part).unwrap();
                if let Err(malformed) = read(&mut bodies) {
                    return (bodies, Err(malformed));
                }
            }
        }
        drop(theirs);
        let end = read(&mut bodies);
        (bodies, end)
    }

    #[test]
    fn large_and_small_frames_mix() {
        let bodies = [vec![1; 3], vec![2; 5_000_000], vec![], vec![3; 70_000], vec![4; 40_000]];
        let bytes: Vec<u8> = bodies.iter().flat_map(|body| frame(Kind::Done, 1, body)).collect();
        let (got, end) = pass(&[&bytes]);
        assert_eq!(end, Ok(Round::End));
        assert!(got == bodies);
    }

    #[test]
    fn an_incomplete_frame_is_never_delivered() {
        let whole = frame(Kind::Done, 1, b"result");
        for len in 0..whole.len() {
            let (bodies, end) = pass(&[&whole[..len]]);
            assert_eq!((bodies, end), (vec![], Ok(Round::End)));
        }
    }

    #[test]
    fn an_announced_length_takes_no_memory() {
        let header = Header { len: 1 << 39, ..Header::new(Kind::Done) }.encode();
        let (ours, theirs) = socket::stream_pair().unwrap();
        let (mut reader, mut buffer) = (reader(), Vec::new());
        socket::send_all(theirs.as_fd(), &header).unwrap();
        socket::send_all(theirs.as_fd(), &[0; 1000]).unwrap();
        let round =
            reader.read(ours.as_fd(), Some(Need::Now), &mut buffer, |_, _| panic!("incomplete"));
        assert_eq!(round, Ok(Round::Drained));
        let (_, body) = reader.large.as_ref().unwrap();
        assert!(body.capacity() <= 1000 + READ_BUFFER_BYTES, "{}", body.capacity());
    }

    /// What a reader makes of headers and pieces in the lane, in this order.
    fn by_lane(headers: &[(Kind, u64)]) -> (Vec<(Kind, u64)>, Result<Round, Malformed>) {
        let (block, _fd) = WorkerBlock::create().unwrap();
        let mut reader = ReplyReader::new(&block, 1 << 20);
        let mut lane = crate::transport::lane::LaneWriter::new(block.replies());
        for &(kind, len) in headers {
            assert!(lane.publish(&Header { len, ..Header::new(kind) }.encode(), 0));
        }
        let mut frames = Vec::new();
        let mut round = Ok(Round::Budget);
        while round == Ok(Round::Budget) {
            round = reader.read_lane(None, |header, body| {
                assert_eq!(header.len, body.len() as u64);
                frames.push((header.kind, header.len));
            });
        }
        (frames, round)
    }

    #[test]
    fn a_big_result_is_handed_out_when_its_last_piece_is_there() {
        let piece = PIECE_BYTES as u64;
        let all = [
            (Kind::Numbers, piece + 5),
            (Kind::Piece, piece),
            (Kind::PieceTaken, 0),
            (Kind::Done, 0),
            (Kind::Piece, 5),
            (Kind::Large, 1),
            (Kind::Piece, 1),
        ];
        let frames =
            [(Kind::PieceTaken, 0), (Kind::Done, 0), (Kind::Numbers, piece + 5), (Kind::Done, 1)];
        assert_eq!(by_lane(&all), (frames.to_vec(), Ok(Round::Drained)));
        // only whole results are handed out
        assert_eq!(by_lane(&all[..2]), (vec![], Ok(Round::Drained)));
    }

    #[test]
    fn pieces_that_belong_nowhere_are_refused() {
        let piece = PIECE_BYTES as u64;
        let wrong: [&[(Kind, u64)]; 7] = [
            &[(Kind::Piece, 1)],
            &[(Kind::Numbers, 10), (Kind::Piece, 11)],
            &[(Kind::Numbers, 10), (Kind::Piece, 0)],
            &[(Kind::Numbers, 10), (Kind::Numbers, 10)],
            &[(Kind::Large, 0)],
            &[(Kind::Large, (1 << 20) + 1)],
            &[(Kind::Large, 1 << 20), (Kind::Piece, piece + 1)],
        ];
        for headers in wrong {
            assert_eq!(by_lane(headers), (vec![], Err(Malformed)), "{headers:?}");
        }
        for kind in [Kind::Large, Kind::Numbers, Kind::Piece] {
            let (_, end) = pass(&[&frame(kind, 1, b"on the socket")]);
            assert_eq!(end, Err(Malformed), "{kind:?}");
        }
    }

    #[test]
    fn a_worker_that_announces_pieces_without_end_gets_no_more_than_its_round() {
        let (block, _fd) = WorkerBlock::create().unwrap();
        let mut reader = ReplyReader::new(&block, 1 << 40);
        let mut lane = crate::transport::lane::LaneWriter::new(block.replies());
        let mut publish =
            |kind, len: u64| lane.publish(&Header { len, ..Header::new(kind) }.encode(), 0);
        assert!(publish(Kind::Large, 1 << 39));
        while publish(Kind::Piece, PIECE_BYTES as u64) {}
        assert_eq!(reader.read_lane(None, |_, _| panic!("incomplete")), Ok(Round::Budget));
        assert!(reader.incomplete() <= READ_BUDGET_BYTES + PIECE_BYTES, "{}", reader.incomplete());
        let (_, body) = reader.in_pieces.as_ref().unwrap();
        assert!(body.capacity() <= FIRST_ROOM + NEXT_ROOM, "{}: as announced", body.capacity());
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..20),
                              cut in 1usize..100) {
            let bytes: Vec<u8> = bodies.iter().flat_map(|body| frame(Kind::Done, 1, body)).collect();
            let chunks: Vec<&[u8]> = bytes.chunks(cut).collect();
            let (got, end) = pass(&chunks);
            prop_assert_eq!(end, Ok(Round::End));
            prop_assert_eq!(got, bodies);
        }

        #[test]
        fn noise_is_refused_or_incomplete(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = pass(&[&bytes]);
        }
    }
}
