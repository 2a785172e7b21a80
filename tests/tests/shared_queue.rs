//! Queues and pipes: rows 177 to 184 of the conformance list (A5).
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::signal::Signal;
use pool_core::{
    Array, GetError, Lock, Pipe, PutError, Queue, RawValue, RecvError, SendError, TooManyDone,
};
use pool_tests::fault::{self, Fault};
use pool_tests::{Case, Gate, census, eventually};
use serde::{Deserialize, Serialize};

pool_core::test_support!();

const SOON: Duration = Duration::from_secs(20);
const AT_ONCE: Duration = Duration::from_millis(1);

// ---- Queue ----

#[test]
fn c6_177_put_and_get_with_and_without_waiting() {
    let case = Case::new();
    let pool = case.pool(1);
    let queue = Queue::<String>::bounded(2).unwrap();
    assert_eq!(queue.try_get(), Err(GetError::Empty));
    assert_eq!(queue.get_timeout(AT_ONCE), Err(GetError::Empty));
    assert_eq!(queue.get_timeout(Duration::ZERO), Err(GetError::Empty));
    for text in ["a", "b"] {
        queue.put(text.to_owned()).unwrap();
    }
    assert!(queue.is_full());
    assert_eq!(queue.try_put("c".to_owned()), Err(PutError::Full("c".to_owned())));
    let full = queue.put_timeout("d".to_owned(), AT_ONCE).unwrap_err();
    assert_eq!(
        (full.to_string(), full.into_item()),
        ("the queue is full".to_owned(), "d".to_owned())
    );
    // each side waits for the other, again and again
    let (there, back) = (Queue::<u64>::bounded(1).unwrap(), Queue::<u64>::bounded(1).unwrap());
    let double = |there: Queue<u64>, back: Queue<u64>| -> anyhow::Result<()> {
        for _ in 0..1000 {
            back.put_timeout(2 * there.get()?, SOON)?;
        }
        Ok(())
    };
    let task = pool.apply_async(double, (there.clone(), back.clone())).unwrap();
    for x in 0..1000 {
        there.put(x).unwrap();
        assert_eq!(back.get_timeout(SOON), Ok(2 * x));
    }
    task.get().unwrap();
}

#[test]
fn c6_177_many_producers_and_consumers_lose_and_double_nothing() {
    let case = Case::new();
    let pool = case.pool(4);
    let (queue, sums) =
        (Queue::<u64>::bounded(50).unwrap(), Queue::<(u64, u64)>::unbounded().unwrap());
    let produce = |queue: Queue<u64>, mut range: std::ops::Range<u64>| -> anyhow::Result<()> {
        range.try_for_each(|x| Ok(queue.put(x)?))
    };
    let consume = |queue: Queue<u64>, sums: Queue<(u64, u64)>| -> anyhow::Result<()> {
        let (mut count, mut sum, mut last) = (0, 0, [None; 2]);
        for item in queue.iter() {
            let x = item?;
            let producer = usize::from(x >= 20_000);
            anyhow::ensure!(last[producer] < Some(x), "the order of one producer is kept");
            last[producer] = Some(x);
            count += 1;
            sum += x;
        }
        Ok(sums.put((count, sum))?)
    };
    let consumers: Vec<_> =
        (0..2).map(|_| pool.apply_async(consume, (queue.clone(), sums.clone())).unwrap()).collect();
    let producers: Vec<_> = [0..20_000, 20_000..40_000]
        .map(|range| pool.apply_async(produce, (queue.clone(), range)).unwrap())
        .into();
    producers.into_iter().for_each(|producer| producer.get().unwrap());
    queue.close();
    consumers.into_iter().for_each(|consumer| consumer.get().unwrap());
    let (one, other) = (sums.get().unwrap(), sums.get().unwrap());
    assert_eq!(one.0 + other.0, 40_000);
    assert_eq!(one.1 + other.1, (0..40_000).sum());
}

#[test]
fn c6_177_items_of_any_size_go_through() {
    let case = Case::new();
    let pool = case.pool(1);
    let queue = Queue::<Vec<u8>>::with_memory(None, 1 << 20).unwrap();
    let echo = |queue: Queue<Vec<u8>>, back: Queue<usize>| -> anyhow::Result<()> {
        for bytes in queue.iter() {
            let bytes = bytes?;
            anyhow::ensure!(bytes.iter().enumerate().all(|(i, byte)| *byte == i as u8));
            back.put(bytes.len())?;
        }
        Ok(())
    };
    let back = Queue::unbounded().unwrap();
    let task = pool.apply_async(echo, (queue.clone(), back.clone())).unwrap();
    let sizes = [0, 1, 7, 8, 9, 100_000, 1_000_000, 0, 900_000, 70_000, 300_000, 300_000, 300_000];
    for size in sizes {
        queue.put((0..size).map(|i| i as u8).collect()).unwrap();
    }
    let too_large = queue.put(vec![1; 2 << 20]).unwrap_err();
    assert!(matches!(&too_large, PutError::TooLarge { limit, .. } if *limit < 1 << 20));
    assert_eq!(too_large.into_item().len(), 2 << 20);
    queue.close();
    task.get().unwrap();
    assert_eq!(sizes.map(|_| back.get().unwrap()), sizes);
}

#[test]
fn c6_178_its_length_is_exact() {
    let queue = Queue::<u8>::unbounded().unwrap();
    for count in 0..100 {
        assert_eq!(queue.len(), count);
        queue.put(1).unwrap();
    }
    for count in (0..100).rev() {
        queue.get().unwrap();
        assert_eq!(queue.len(), count);
    }
    assert!(queue.is_empty() && !queue.is_full());
}

#[test]
fn c6_178_join_waits_for_task_done() {
    let case = Case::new();
    let pool = case.pool(2);
    let queue = Queue::<u64>::unbounded().unwrap();
    let sum = RawValue::new(0_u64).unwrap();
    assert!(queue.join_timeout(Duration::ZERO), "nothing was put in");
    let work = |queue: Queue<u64>, sum: RawValue<u64>| -> anyhow::Result<()> {
        for item in queue.iter() {
            sum.fetch_add(item?);
            queue.task_done()?;
        }
        Ok(())
    };
    for round in 1..=5 {
        (0..1000).for_each(|x| queue.put(x).unwrap());
        assert_eq!(queue.unfinished(), 1000);
        assert!(!queue.join_timeout(AT_ONCE));
        if round == 1 {
            for _ in 0..2 {
                drop(pool.apply_async(work, (queue.clone(), sum.clone())).unwrap());
            }
        }
        queue.join();
        assert_eq!(sum.get(), round * 499_500);
        if round < 5 {
            // workers wait in get; this one makes join wait again
            queue.put(0).unwrap();
            queue.join();
            queue.put(0).unwrap();
            queue.join();
            assert_eq!(queue.task_done(), Err(TooManyDone));
        }
        if round == 1 {
            queue.close();
            break;
        }
    }
    assert_eq!(queue.task_done(), Err(TooManyDone));
}

#[test]
fn c6_178_182_a_closed_queue_gives_what_is_in_it_and_takes_no_more() {
    let case = Case::new();
    let pool = case.pool(1);
    let queue = Queue::<u8>::bounded(3).unwrap();
    queue.put(1).unwrap();
    queue.put(2).unwrap();
    queue.close();
    queue.close();
    assert!(queue.is_closed());
    assert_eq!(queue.put(3), Err(PutError::Closed(3)));
    assert_eq!(queue.try_put(3).unwrap_err().to_string(), "the queue is closed");
    assert_eq!((queue.get(), queue.try_get()), (Ok(1), Ok(2)));
    assert_eq!((queue.get(), queue.try_get()), (Err(GetError::Closed), Err(GetError::Closed)));
    // those that wait are told
    let queue = Queue::<u8>::bounded(1).unwrap();
    let wait = |queue: Queue<u8>| queue.get() == Err(GetError::Closed);
    let waits = pool.apply_async(wait, (queue.clone(),)).unwrap();
    eventually(SOON, "it runs", || waits.pid().is_some());
    queue.close();
    assert_eq!(waits.get(), Ok(true));
}

#[test]
fn c6_179_an_item_that_can_not_be_encoded_is_told_at_put() {
    #[derive(Debug, PartialEq, Deserialize)]
    struct Picky(u32);
    impl Serialize for Picky {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            match self.0 {
                0 => Err(serde::ser::Error::custom("zero is not for others")),
                value => value.serialize(serializer),
            }
        }
    }
    let queue = Queue::bounded(10).unwrap();
    queue.put(Picky(1)).unwrap();
    let error = queue.put(Picky(0)).unwrap_err();
    assert!(error.to_string().contains("zero is not for others"), "{error}");
    assert_eq!((error.into_item(), queue.len()), (Picky(0), 1));
    queue.put(Picky(2)).unwrap();
    assert_eq!((queue.get(), queue.get()), (Ok(Picky(1)), Ok(Picky(2))));

    // also with a shared object in front, which does not stay behind
    let both = Queue::<(Lock, Picky)>::bounded(2).unwrap();
    let error = both.put((Lock::new().unwrap(), Picky(0))).unwrap_err();
    assert!(error.to_string().contains("zero is not for others"), "{error}");
    both.put((Lock::new().unwrap(), Picky(3))).unwrap();
    assert_eq!((both.get().unwrap().1, both.len()), (Picky(3), 0));
}

#[test]
fn c6_180_a_producer_may_end_before_its_items_are_got() {
    let case = Case::new();
    let pool = case.builder(1).max_tasks_per_child(1.try_into().unwrap()).build().unwrap();
    let queue = Queue::<Vec<u8>>::unbounded().unwrap();
    let produce = |queue: Queue<Vec<u8>>| -> anyhow::Result<u32> {
        for _ in 0..1000 {
            queue.put(vec![7; 10_000])?;
        }
        Ok(census::me())
    };
    let pid = pool.apply(produce, (queue.clone(),)).unwrap();
    eventually(SOON, "the producer has ended", || !census::is_alive(pid));
    pool.close();
    pool.join().unwrap();
    assert_eq!(queue.len(), 1000);
    assert!((0..1000).all(|_| queue.get().unwrap() == [7; 10_000]));
}

#[test]
fn c6_181_who_is_killed_while_waiting_blocks_nobody() {
    let case = Case::new();
    let pool = case.pool(2);
    let queue = Queue::<u32>::bounded(1).unwrap();
    let get = |queue: Queue<u32>| queue.get().unwrap_or(0);
    let victims: Vec<_> =
        (0..2).map(|_| pool.apply_async(get, (queue.clone(),)).unwrap()).collect();
    for victim in victims {
        eventually(SOON, "it runs", || victim.pid().is_some());
        fault::send(victim.pid().unwrap(), Signal::SIGKILL);
        victim.get().unwrap_err();
    }
    queue.put(7).unwrap();
    assert_eq!(pool.apply(get, (queue.clone(),)), Ok(7));
    // and with an item got
    let die = |queue: Queue<u32>| {
        queue.get().unwrap();
        Fault::Raise(9).happen();
    };
    queue.put(8).unwrap();
    pool.apply(die, (queue.clone(),)).unwrap_err();
    queue.put_timeout(9, SOON).unwrap();
    assert_eq!(queue.get_timeout(SOON), Ok(9));
}

// ---- Pipe ----

#[test]
fn c6_183_boundaries_are_kept_and_any_length_is_legal() {
    let case = Case::new();
    let pool = case.pool(1);
    let (ours, theirs) = Pipe::<Vec<u8>, Vec<u8>>::pair().unwrap();
    let echo = |pipe: Pipe<Vec<u8>, Vec<u8>>| -> anyhow::Result<usize> {
        let mut count = 0;
        while let Ok(bytes) = pipe.recv() {
            pipe.send(bytes)?;
            count += 1;
        }
        Ok(count)
    };
    let server = pool.apply_async(echo, (theirs,)).unwrap();
    let sizes = [0, 1, 0, 5, 65_527, 65_528, 65_529, 200_000, 20_000_000, 0, 3];
    for size in sizes {
        let bytes: Vec<u8> = (0..size).map(|i| i as u8).collect();
        ours.send(bytes.clone()).unwrap();
        assert!(ours.recv_timeout(SOON).unwrap() == bytes, "{size}");
    }
    // several on their way: none is merged with another
    (0..20_u8).for_each(|i| ours.send(vec![i; usize::from(i)]).unwrap());
    (0..20_u8).for_each(|i| assert_eq!(ours.recv().unwrap(), vec![i; usize::from(i)]));
    assert_eq!(ours.try_recv(), Err(RecvError::Empty));
    assert_eq!(ours.recv_timeout(AT_ONCE), Err(RecvError::Empty));
    drop(ours);
    assert_eq!(server.get(), Ok(sizes.len() + 20), "the end was seen");
}

#[test]
fn c6_183_poll_and_the_end() {
    let (ours, theirs) = Pipe::<u8, String>::pair().unwrap();
    assert!(!ours.poll(Duration::ZERO).unwrap() && !ours.poll(AT_ONCE).unwrap());
    theirs.send("one".to_owned()).unwrap();
    theirs.send("two".to_owned()).unwrap();
    assert!(ours.poll(Duration::ZERO).unwrap());
    ours.send(1).unwrap(); // never read
    drop(theirs);
    assert_eq!((ours.recv(), ours.recv()), (Ok("one".to_owned()), Ok("two".to_owned())));
    assert!(ours.poll(Duration::ZERO).unwrap(), "the end is something to be received");
    assert_eq!((ours.recv(), ours.try_recv()), (Err(RecvError::Closed), Err(RecvError::Closed)));
    assert_eq!(ours.send(2), Err(SendError::Closed(2)));
    let (ours, _theirs) = Pipe::<Vec<u8>, ()>::pair().unwrap();
    let full = (0..100).find_map(|_| ours.send_timeout(vec![1; 60_000], AT_ONCE).err()).unwrap();
    assert!(matches!(full, SendError::Full(message) if message.len() == 60_000));
    // of two types that disagree
    let (ours, theirs) = Pipe::<Vec<String>, ()>::pair().unwrap();
    ours.send(vec!["x".to_owned()]).unwrap();
    drop(theirs);
}

#[test]
fn c6_183_the_death_of_a_worker_is_the_end() {
    let case = Case::new();
    let pool = case.pool(1);
    let (ours, theirs) = Pipe::<u32, Vec<u8>>::pair().unwrap();
    let flood = |pipe: Pipe<Vec<u8>, u32>| -> anyhow::Result<()> {
        loop {
            pipe.send(vec![9; 100_000])?;
        }
    };
    let task = pool.apply_async(flood, (theirs,)).unwrap();
    assert_eq!(ours.recv().unwrap().len(), 100_000);
    fault::send(task.pid().unwrap(), Signal::SIGKILL);
    task.get().unwrap_err();
    let end = loop {
        match ours.recv_timeout(SOON) {
            Ok(bytes) => assert!(bytes == [9; 100_000], "what had been sent is whole"),
            Err(error) => break error,
        }
    };
    assert_eq!(end, RecvError::Closed);
}

#[test]
fn c6_184_ends_and_shared_objects_go_through_pipes_both_ways() {
    let case = Case::new();
    let pool = case.pool(1);
    type Task = (Pipe<Array<u64>, u64>, Lock);
    let (ours, theirs) = Pipe::<Task, String>::pair().unwrap();
    let serve = |pipe: Pipe<String, Task>| -> anyhow::Result<()> {
        let (answer, lock) = pipe.recv()?;
        anyhow::ensure!(lock.try_lock().is_err(), "the parent holds it");
        // made in the worker, for the parent
        let array = Array::from_slice(&[1, 2, 3])?;
        answer.send(array.clone())?;
        anyhow::ensure!(answer.recv()? == 1, "the parent has changed it");
        pipe.send(format!("{:?}", array.to_vec()))?;
        Ok(())
    };
    let server = pool.apply_async(serve, (theirs,)).unwrap();
    let (inner, theirs) = Pipe::<u64, Array<u64>>::pair().unwrap();
    let lock = Lock::new().unwrap();
    let guard = lock.lock().unwrap();
    ours.send((theirs, lock.clone())).unwrap();
    let array = inner.recv().unwrap();
    array.set(0, 10);
    inner.send(1).unwrap();
    assert_eq!(ours.recv(), Ok("[10, 2, 3]".to_owned()));
    server.get().unwrap();
    drop(guard);
    assert_eq!(inner.recv().err(), Some(RecvError::Closed), "the end that was passed on is closed");
    let (one, _other) = Pipe::<Vec<Lock>, ()>::pair().unwrap();
    let error = one.send((0..251).map(|_| Lock::new().unwrap()).collect()).unwrap_err();
    assert!(error.to_string().contains("more than 250"), "{error}");
}

#[test]
fn c6_184_ends_in_queued_tasks_are_closed_when_the_task_has_ended() {
    let case = Case::new();
    let pool = case.pool(1);
    let gate = Gate::new();
    let (ours, theirs) = Pipe::<(), BTreeMap<String, u8>>::pair().unwrap();
    let say = |gate: String, pipe: Pipe<BTreeMap<String, u8>, ()>| -> anyhow::Result<()> {
        Gate::wait_at(&gate);
        Ok(pipe.send(BTreeMap::from([("a".to_owned(), 1)]))?)
    };
    let task = pool.apply_async(say, (gate.path(), theirs)).unwrap();
    gate.let_pass(1);
    assert_eq!(ours.recv().unwrap()["a"], 1);
    // with the handle still there
    assert_eq!(ours.recv_timeout(SOON), Err(RecvError::Closed));
    task.get().unwrap();
}
