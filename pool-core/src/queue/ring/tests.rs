//! The ring against a plain queue, with damage, and with deaths between any two stores.

use super::*;
use crate::shm::object::What;
use proptest::prelude::*;
use std::collections::VecDeque;

fn object(bytes: usize) -> Arc<Object> {
    Object::create(What::Queue.alone(), object_bytes(bytes).unwrap()).unwrap()
}

fn put(ring: Ring<'_>, item: &[u8]) -> Result<(), Refused> {
    ring.put(&mut item.to_vec(), &[], Wait::Not)
}

fn get(ring: Ring<'_>) -> Result<Vec<u8>, GetError> {
    let mut bytes = Vec::new();
    ring.get(&mut bytes, &mut Vec::new(), Wait::Not).map(|_| bytes)
}

proptest! {
    /// Against a plain queue, with items of all sizes, from a position near the end of all positions.
    #[test]
    fn it_is_a_queue(
        steps in prop::collection::vec(prop_oneof![(0..5000_usize).prop_map(Some), (0..40_usize).prop_map(Some), Just(None)], 0..400),
        start in prop_oneof![Just(0), Just(u64::MAX - 3000), Just((1 << 36) - 100)],
        bound in prop_oneof![Just(None), Just(Some(3_usize))],
    ) {
        let object = object(8192);
        let ring = Ring::of(&object);
        ring.set_bound(bound).unwrap();
        [TAIL, HEAD, DONE].into_iter().for_each(|word| ring.word(word).store(start, Relaxed));
        let mut model: VecDeque<Vec<u8>> = VecDeque::new();
        for (i, step) in steps.into_iter().enumerate() {
            if let Some(len) = step {
                let item: Vec<u8> = (0..len).map(|at| (at + i) as u8).collect();
                match put(ring, &item) {
                    Ok(()) => model.push_back(item),
                    Err(error) => {
                        prop_assert_eq!(error, Refused::Full);
                        let used: u64 = model.iter().map(|item| units_of(item.len())).sum();
                        let is_full = bound.is_some_and(|bound| model.len() == bound);
                        prop_assert!(is_full || used + units_of(len) > ring.units / 2);
                    }
                }
            } else {
                prop_assert_eq!(get(ring), model.pop_front().ok_or(GetError::Empty));
            }
            prop_assert_eq!(ring.len(), model.len());
        }
        while let Some(item) = model.pop_front() {
            prop_assert_eq!(get(ring), Ok(item));
        }
    }

    /// Whatever a process has written over it, there is an answer.
    #[test]
    fn damage_is_survived(tail: u64, head: u64, lengths: [u64; 8]) {
        let object = object(4096);
        let ring = Ring::of(&object);
        ring.set_bound(None).unwrap();
        ring.word(TAIL).store(tail, Relaxed);
        ring.word(HEAD).store(head, Relaxed);
        for (i, len) in lengths.into_iter().enumerate() {
            ring.word(ITEMS + i * 512).store(len, Relaxed);
        }
        for _ in 0..4 {
            let _ = get(ring);
            let _ = put(ring, &[1; 100]);
        }
        ring.task_done().ok();
    }
}

#[test]
fn who_is_killed_before_the_last_store_has_done_nothing() {
    let object = object(4096);
    let ring = Ring::of(&object);
    ring.set_bound(None).unwrap();
    put(ring, b"one").unwrap();
    // a producer has written an item and dies before it has moved the tail
    let tail = ring.cursor(TAIL);
    ring.word(ring.place(tail)).store(99, Relaxed);
    put(ring, b"two").unwrap();
    // a consumer has copied an item out and dies before it has moved the head
    let head = ring.cursor(HEAD);
    assert_eq!(get(ring).unwrap(), b"one");
    ring.word(HEAD).store(head.0, Relaxed);
    assert_eq!(get(ring).unwrap(), b"one");
    assert_eq!(get(ring).unwrap(), b"two");
    assert_eq!(get(ring), Err(GetError::Empty));
}

#[test]
fn trying_does_not_wait_for_a_holder_that_is_stopped() {
    let object = object(4096);
    let ring = Ring::of(&object);
    ring.set_bound(None).unwrap();
    put(ring, b"one").unwrap();
    let stopped = Held::take_whole(ring.lock(PUT_LOCK), None);
    assert_eq!(put(ring, b"two"), Err(Refused::Full));
    assert_eq!(get(ring).unwrap(), b"one", "consumers have a lock of their own");
    drop(stopped);
    put(ring, b"two").unwrap();
    let stopped = Held::take_whole(ring.lock(GET_LOCK), None);
    assert_eq!(get(ring), Err(GetError::Empty));
    drop(stopped);
    assert_eq!(get(ring).unwrap(), b"two");
}

#[test]
fn a_queue_that_is_emptied_stays_in_its_first_pages() {
    let object = object(1 << 20);
    let ring = Ring::of(&object);
    ring.set_bound(None).unwrap();
    for _ in 0..10_000 {
        put(ring, &[7; 1000]).unwrap();
        assert!(ring.cursor(TAIL).offset(ring.units) <= FAR + 2 * units_of(1000));
        assert_eq!(get(ring).unwrap(), [7; 1000]);
    }
}
