//! The steps of `push` and `pop`, with their orderings, in a ring of two units whose memory loom knows. (The ring itself lies in shared memory, which loom does not.)

use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::thread;

use super::*;

const UNITS: u64 = 2;

struct Small {
    tail: AtomicU64,
    head: AtomicU64,
    closed: AtomicU64,
    units: [AtomicU64; UNITS as usize],
}

impl Small {
    fn new(start: u64) -> Small {
        let [tail, head] = [start, start].map(AtomicU64::new);
        Small { tail, head, closed: AtomicU64::new(0), units: [0, 0].map(AtomicU64::new) }
    }

    fn filled(&self) -> Distance {
        let head = Cursor(self.head.load(Acquire));
        head.until(Cursor(self.tail.load(Acquire)))
    }

    /// Items of one unit, which is all that they are.
    fn push(&self, item: u64) -> bool {
        let tail = Cursor(self.tail.load(Acquire));
        let filled = self.filled();
        assert!(filled.units <= UNITS && filled.items == filled.units);
        if filled.units == UNITS {
            return false;
        }
        self.units[tail.offset(UNITS) as usize].store(item, Relaxed);
        self.tail.store(tail.advance(1, 1).0, Release);
        true
    }

    fn pop(&self) -> Option<u64> {
        let head = Cursor(self.head.load(Acquire));
        let filled = self.filled();
        assert!(filled.units <= UNITS && filled.items == filled.units);
        if filled.items == 0 {
            return None;
        }
        let item = self.units[head.offset(UNITS) as usize].load(Relaxed);
        self.head.store(head.advance(1, 1).0, Release);
        Some(item)
    }
}

fn model(run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(run);
}

/// A producer and a consumer, who have a lock each and so are one of each kind, over the end of all positions: nothing is lost, doubled, or seen half written.
#[test]
fn items_come_as_they_were_put() {
    model(|| {
        let ring = Arc::new(Small::new(u64::MAX));
        let producer = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || {
                for item in 1..4 {
                    while !ring.push(item) {
                        thread::yield_now();
                    }
                }
            })
        };
        for expected in 1..4 {
            loop {
                match ring.pop() {
                    Some(item) => break assert_eq!(item, expected),
                    None => thread::yield_now(),
                }
            }
        }
        producer.join().unwrap();
        assert_eq!(ring.pop(), None);
    });
}

/// The queue is closed after the last item, and seen closed before it is seen empty: then there is no more to come.
#[test]
fn who_sees_it_closed_and_then_empty_has_seen_all() {
    model(|| {
        let ring = Arc::new(Small::new(0));
        let producer = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || {
                assert!(ring.push(1) && ring.push(2));
                ring.closed.store(1, Release);
            })
        };
        let mut got = 0;
        loop {
            let is_closed = ring.closed.load(Acquire) != 0;
            match ring.pop() {
                Some(item) => {
                    got += 1;
                    assert_eq!(item, got);
                }
                None if is_closed => break,
                None => thread::yield_now(),
            }
        }
        assert_eq!(got, 2);
        producer.join().unwrap();
    });
}
