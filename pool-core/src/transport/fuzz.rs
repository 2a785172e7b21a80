//! Arbitrary bytes as replies: on the socket, cut anywhere, and in the lane. `scripts/fuzz` takes its time; the tests replay the corpus.

use std::os::fd::AsFd;

use super::agreement::Need;
use super::block::WorkerBlock;
use super::lane::{self, LaneReader};
use super::replies::{ReplyReader, Round};
use crate::codec;
use crate::mutate;
use crate::sys::socket;
use crate::task::entry::Fault;
use crate::wire::from_worker::{Header, Kind, Malformed};
use crate::wire::hello::Hello;

const MAX_RESULT: u64 = 1 << 20;

type Frames = Vec<(Header, Vec<u8>)>;

/// What a reader makes of bytes that arrive in these chunks.
fn read(page: &WorkerBlock, chunks: &[&[u8]]) -> (Frames, Result<Round, Malformed>) {
    let (ours, theirs) = socket::stream_pair().unwrap();
    let mut reader = ReplyReader::new(page, MAX_RESULT);
    let (mut buffer, mut frames) = (Vec::new(), Vec::new());
    let mut read = || {
        reader.read(ours.as_fd(), Some(Need::Now), &mut buffer, |header, body| {
            assert_eq!(header.len, body.len() as u64, "a frame has the length that it says");
            frames.push((header, body.into_vec()));
        })
    };
    for chunk in chunks {
        socket::send_all(theirs.as_fd(), chunk).unwrap();
        if let Err(malformed) = read() {
            return (frames, Err(malformed));
        }
    }
    drop(theirs);
    let end = read();
    (frames, end)
}

/// What the parent does with bodies before it believes them.
fn decode(frames: &Frames) {
    for (header, body) in frames {
        match header.kind {
            Kind::Hello => {
                if let Ok(hello) = codec::decode::<Hello>(body) {
                    drop(hello.refuse(1, Some([0; 4])));
                }
            }
            Kind::Fault | Kind::InitFailed => {
                if let Ok(fault) = codec::decode::<Fault>(body) {
                    drop(fault.into_error(MAX_RESULT).to_string());
                }
            }
            _ => {}
        }
    }
}

#[test]
fn any_bytes_on_the_socket_mean_the_same_however_they_are_cut() {
    let (page, _fd) = WorkerBlock::create().unwrap();
    let corpus = mutate::corpus(&["fuzz/replies"]);
    mutate::fuzz("replies", &corpus, &[], |input| {
        let input = &input[..input.len().min(30_000)];
        let (whole, end) = read(&page, &[input]);
        decode(&whole);
        let received: usize = whole.iter().map(|(_, body)| 24 + body.len()).sum();
        assert!(received <= input.len(), "more comes out than went in");
        let cut = 1 + input.first().map_or(0, |byte| usize::from(*byte) * 7);
        let chunks: Vec<&[u8]> = input.chunks(cut.max(input.len() / 50)).collect();
        assert_eq!(read(&page, &chunks), (whole, end), "cut into pieces of {cut}");
    });
}

#[test]
fn any_bytes_in_the_lane_are_refused_or_frames() {
    let (page, _fd) = WorkerBlock::create().unwrap();
    let corpus = mutate::corpus(&["fuzz/replies"]);
    mutate::fuzz("lane", &corpus, &[], |input| {
        // the positions come from the input too
        let Some((positions, bytes)) = input.split_first_chunk::<16>() else { return };
        let [a, b] = [0, 8]
            .map(|at| u64::from_le_bytes(positions[at..at + 8].try_into().expect("eight bytes")));
        let lane = page.replies();
        let mut copied = Vec::new();
        for (read, written) in [(a, b), (a, a.wrapping_add(bytes.len() as u64)), (b, a)] {
            lane.scribble(written, read, bytes);
            let mut reader = LaneReader::at(page.replies(), read);
            if reader.copy_out(&mut copied) == Ok(true) {
                assert!(copied.len() <= lane::LEN && !reader.has_news());
            }
        }
        // and what a reader makes of it that has read nothing yet
        lane.scribble(bytes.len() as u64, 0, bytes);
        let (ours, _theirs) = socket::stream_pair().unwrap();
        let (mut buffer, mut frames) = (Vec::new(), Vec::new());
        let mut reader = ReplyReader::new(&page, MAX_RESULT);
        // whatever it says, it says it without a panic
        let _ = reader.read(ours.as_fd(), Some(Need::Now), &mut buffer, |header, body| {
            frames.push((header, body.into_vec()));
        });
        decode(&frames);
        // as it was, for the others
        lane.scribble(0, 0, &[]);
    });
}
