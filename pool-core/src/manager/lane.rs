//! The short way between a client and a manager on one machine: memory that both have, with a place for one frame in each direction.
//!
//! A frame goes there if its receiver is awake and looks at it, and otherwise by the socket, which wakes it. So nobody needs a system call while requests and
//! replies follow each other closely, nobody is awake for long without need, and the end of the other side is seen at the socket, as without a lane.
//!
//! Each place has one word. Whoever wants to receive sets it to `AWAKE`, looks at it for a moment, and takes that back before it turns to the socket. Whoever
//! sends writes the frame and then swaps `AWAKE` for its length, or, if it is to go by the socket, for `ELSEWHERE`. Both are compare-and-swaps, so they agree on the way that
//! each frame takes; and who is killed before its swap has sent nothing. In each direction at most one frame is on its way. (What a client tells without a
//! reply goes by the socket, and so does what follows, so that nothing is overtaken.)

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};

use super::address::Stream;
use super::spin::Spin;
use crate::limits::MANAGER_LANE_BYTES;
use crate::sys::memory::{self, SharedBlock};
use crate::sys::socket;

/// The receiver does not look.
const ASLEEP: u64 = 0;
/// It looks.
const AWAKE: u64 = 1;
/// It is to look at the socket.
const ELSEWHERE: u64 = 2;
/// This and more: a frame is there, of so many bytes less.
const FULL: u64 = 3;

/// Offsets of the words, in cache lines of their own, and of the frames.
const WORDS: [usize; 2] = [0, 128];
const HEAD: usize = 4096;

/// What both sides do with a word: for all kinds of words, because a model has one that loom knows.
trait Word {
    fn state(&self) -> u64;
    fn set(&self, state: u64);
    fn change(&self, from: u64, to: u64) -> Result<u64, u64>;

    /// The receiver ends its look, unless something has come: what it finds.
    fn settle(&self) -> u64 {
        self.change(AWAKE, ASLEEP).unwrap_or_else(|state| state)
    }

    /// The sender says what has come, if the receiver looks.
    fn tell(&self, state: u64) -> bool {
        self.change(AWAKE, state).is_ok()
    }
}

macro_rules! word {
    ($word:ty) => {
        impl Word for $word {
            fn state(&self) -> u64 {
                self.load(Acquire)
            }

            fn set(&self, state: u64) {
                self.store(state, Release);
            }

            fn change(&self, from: u64, to: u64) -> Result<u64, u64> {
                self.compare_exchange(from, to, AcqRel, Acquire)
            }
        }
    };
}

word!(AtomicU64);

/// One side's view.
#[derive(Debug)]
pub(super) struct Lane {
    block: SharedBlock,
    /// In which place this side receives; it sends in the other one.
    inbox: usize,
}

impl Lane {
    /// The client's part, after the handshake: offers a lane, if the manager is on this machine and there is memory.
    pub(super) fn offer(stream: &Stream) -> io::Result<Option<Lane>> {
        if !stream.is_local() {
            return Ok(None);
        }
        let Ok((block, file)) = SharedBlock::create(HEAD + 2 * MANAGER_LANE_BYTES) else {
            socket::send_all(stream.as_fd(), &[0])?;
            return Ok(None);
        };
        socket::send_with(stream.as_fd(), &[1], &[file.as_raw_fd()])?;
        Ok(Some(Lane { block, inbox: 1 }))
    }

    /// The manager's part. Waits as long as the stream's time limit.
    pub(super) fn accept(stream: &Stream) -> io::Result<Option<Lane>> {
        if !stream.is_local() {
            return Ok(None);
        }
        let mut offered = [0];
        let (len, fds) = socket::receive_with(stream.as_fd(), &mut offered)?;
        let bad = || io::ErrorKind::InvalidData.into();
        match (len, offered, fds.into_iter().next()) {
            (1, [0], None) => Ok(None),
            (1, [1], Some(file)) => {
                let len = HEAD + 2 * MANAGER_LANE_BYTES;
                memory::check_sealed(file.as_fd(), len, false)?;
                let block = SharedBlock::map(file.as_fd(), len)?;
                Ok(Some(Lane { block, inbox: 0 }))
            }
            _ => Err(bad()),
        }
    }

    fn word(&self, place: usize) -> &AtomicU64 {
        self.block.word(WORDS[place])
    }

    fn start(place: usize) -> usize {
        HEAD + place * MANAGER_LANE_BYTES
    }

    /// This side looks from now on: to be followed by [`take`](Lane::take).
    pub(super) fn look(&self) {
        self.word(self.inbox).set(AWAKE);
    }

    /// Waits awake for a frame, and writes it to `frame`. `false`: the next one comes by the socket.
    pub(super) fn take(&self, spin: &mut Spin, frame: &mut Vec<u8>) -> io::Result<bool> {
        let word = self.word(self.inbox);
        let arrived = || Some(word.state()).filter(|state| *state != AWAKE);
        let state = match spin.until(arrived) {
            Some(state) => state,
            None => match word.settle() {
                AWAKE => return Ok(false),
                state => state,
            },
        };
        if state < FULL {
            word.set(ASLEEP);
            return Ok(false);
        }
        let len = usize::try_from(state - FULL).ok().filter(|len| *len <= MANAGER_LANE_BYTES);
        let len = len.ok_or(io::ErrorKind::InvalidData)?;
        frame.clear();
        frame.reserve(len);
        self.block.read_into(Lane::start(self.inbox), len, frame);
        word.set(ASLEEP);
        Ok(true)
    }

    /// Sends a frame if the other side is awake and it fits; else it is to go by the socket.
    pub(super) fn put(&self, frame: &[u8]) -> bool {
        let place = 1 - self.inbox;
        let word = self.word(place);
        if word.state() != AWAKE {
            return false;
        }
        let fits = frame.len() <= MANAGER_LANE_BYTES;
        let state = if fits {
            self.block.write(Lane::start(place), frame);
            FULL + frame.len() as u64
        } else {
            ELSEWHERE
        };
        word.tell(state) && fits
    }

    /// Tells the other side, if it is awake, that something comes by the socket.
    pub(super) fn announce(&self) {
        self.word(1 - self.inbox).tell(ELSEWHERE);
    }

    /// Whether what was sent last is still there, which it is for ever if the other side was gone.
    pub(super) fn is_untaken(&self) -> bool {
        self.word(1 - self.inbox).state() >= FULL
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn pair() -> (Lane, Lane) {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let client = Lane::offer(&Stream::Unix(ours)).unwrap().unwrap();
        (client, Lane::accept(&Stream::Unix(theirs)).unwrap().unwrap())
    }

    fn spin() -> Spin {
        Spin::new(Duration::from_micros(10))
    }

    #[test]
    fn a_frame_takes_the_lane_only_if_somebody_looks() {
        let (client, server) = pair();
        let mut frame = Vec::new();
        assert!(!client.put(b"asleep"));
        server.look();
        assert!(client.put(b"one") && client.is_untaken());
        assert!(!client.put(b"two"), "there is one already");
        assert!(server.take(&mut spin(), &mut frame).unwrap());
        assert_eq!((&frame[..], client.is_untaken()), (&b"one"[..], false));
        assert!(!client.put(b"asleep"));
        // nothing comes, and then it is too late
        server.look();
        assert!(!server.take(&mut spin(), &mut frame).unwrap());
        assert!(!client.put(b"late"));
        // what is too long, and what is announced, comes by the socket
        for by_socket in
            [|lane: &Lane| assert!(!lane.put(&[0; MANAGER_LANE_BYTES + 1])), Lane::announce]
        {
            server.look();
            by_socket(&client);
            assert!(!server.take(&mut spin(), &mut frame).unwrap());
        }
        // the other direction, with as much as fits
        client.look();
        assert!(server.put(&[7; MANAGER_LANE_BYTES]));
        assert!(client.take(&mut spin(), &mut frame).unwrap());
        assert_eq!(frame, [7; MANAGER_LANE_BYTES]);
    }

    #[test]
    fn nonsense_is_an_error() {
        let (client, server) = pair();
        server.look();
        client.word(0).set(u64::MAX);
        server.take(&mut spin(), &mut Vec::new()).unwrap_err();
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let unsealed = memory::anonymous_file().unwrap();
        for fds in [&[][..], &[unsealed.as_raw_fd()]] {
            socket::send_with(ours.as_fd(), &[1], fds).unwrap();
            Lane::accept(&Stream::Unix(theirs.try_clone().unwrap())).unwrap_err();
        }
    }

    #[test]
    fn two_threads_agree_on_the_way_of_each_frame() {
        let (client, server) = pair();
        let (sender, receiver) = std::sync::mpsc::channel();
        let taken = std::sync::Arc::new(AtomicU64::new(0));
        let count = std::sync::Arc::clone(&taken);
        let received = std::thread::spawn(move || {
            let mut by_lane = 0;
            for i in 0..2_000_u32 {
                let mut frame = Vec::new();
                server.look();
                if server.take(&mut Spin::new(Duration::from_nanos(200)), &mut frame).unwrap() {
                    by_lane += 1;
                } else {
                    frame = receiver.recv().unwrap();
                }
                assert_eq!(frame, i.to_le_bytes());
                count.fetch_add(1, Release);
            }
            by_lane
        });
        let mut by_lane = 0;
        for i in 0..2_000_u32 {
            // not before the last one was taken
            while taken.load(Acquire) < u64::from(i) {
                std::thread::yield_now();
            }
            if client.put(&i.to_le_bytes()) {
                by_lane += 1;
            } else {
                sender.send(i.to_le_bytes().to_vec()).unwrap();
            }
        }
        assert_eq!(received.join().unwrap(), by_lane);
    }
}

#[cfg(all(test, loom))]
mod model {
    use super::*;
    use crate::primitives::{lock, unpoisoned};
    use loom::sync::atomic::{AtomicU64, Ordering::Relaxed};
    use loom::sync::{Arc, Condvar, Mutex};
    use loom::thread;

    word!(AtomicU64);

    /// A place with its word, and the socket beside it.
    struct Both {
        word: AtomicU64,
        place: AtomicU64,
        socket: (Mutex<Option<u64>>, Condvar),
    }

    impl Both {
        fn new() -> Both {
            let [word, place] = [ASLEEP, 0].map(AtomicU64::new);
            Both { word, place, socket: (Mutex::new(None), Condvar::new()) }
        }

        /// The receiver looks so many times (not at all, if that is 0), and then turns to the socket.
        fn receive(&self, looks: usize) -> u64 {
            if looks > 0 {
                let found = (0..looks).map(|_| self.word.state()).find(|state| *state != AWAKE);
                if found.unwrap_or_else(|| self.word.settle()) >= FULL {
                    let frame = self.place.load(Relaxed);
                    self.word.set(ASLEEP);
                    return frame;
                }
            }
            let mut arrived = lock(&self.socket.0);
            loop {
                match arrived.take() {
                    Some(frame) => return frame,
                    None => arrived = unpoisoned(self.socket.1.wait(arrived)),
                }
            }
        }

        /// As [`Lane::put`], and else by the socket.
        fn send(&self, frame: u64) {
            let is_awake = self.word.state() == AWAKE;
            if is_awake {
                self.place.store(frame, Relaxed);
            }
            if !is_awake || !self.word.tell(FULL) {
                *lock(&self.socket.0) = Some(frame);
                self.socket.1.notify_one();
            }
        }
    }

    /// Requests and replies in turn: each arrives, whole, whichever way it takes.
    #[test]
    fn each_frame_arrives_by_one_way() {
        for looks in 1..3 {
            let mut builder = loom::model::Builder::new();
            builder.preemption_bound = Some(3);
            builder.check(move || {
                let both = Arc::new((Both::new(), Both::new()));
                let server = Arc::clone(&both);
                let server = thread::spawn(move || {
                    let mut looks_now = 0;
                    for request in 1..3 {
                        assert_eq!(server.0.receive(looks_now), request);
                        // before the client can send the next one
                        looks_now = looks;
                        server.0.word.set(AWAKE);
                        server.1.send(10 + request);
                    }
                });
                for request in 1..3 {
                    both.1.word.set(AWAKE);
                    both.0.send(request);
                    assert_eq!(both.1.receive(looks), 10 + request);
                }
                server.join().unwrap();
            });
        }
    }
}
