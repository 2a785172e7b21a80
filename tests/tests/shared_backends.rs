//! Shared objects with what is no pool of processes: threads, and a `Process`.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]

use std::time::Duration;

use nix::sys::signal::Signal;
use pool_core::{
    Event, GetError, Lock, Pipe, Poisoned, Pool, Process, Queue, RecvError, Semaphore, Value,
};
use pool_tests::{Case, fault};

pool_core::test_support!();

const SOON: Duration = Duration::from_secs(20);

fn add(total: Value<u64>, times: u64) {
    for _ in 0..times {
        *total.lock().unwrap_or_else(Poisoned::into_inner) += 1;
    }
}

#[test]
fn c6_175_worker_threads_share_them_without_encoding() {
    use std::sync::OnceLock;
    static FROM_PARENT: OnceLock<Value<u64>> = OnceLock::new();
    let total = Value::new(0_u64).unwrap();
    let pool = Pool::builder()
        .threads(3)
        .initializer(|total: Value<u64>| drop(FROM_PARENT.set(total)), (total.clone(),))
        .build()
        .unwrap();
    pool.starmap(add, (0..30).map(|_| (total.clone(), 1000))).unwrap();
    assert_eq!((total.get(), FROM_PARENT.get().unwrap().get()), (30_000, 30_000));
    // one made by a worker is a result like any other
    let made = pool.apply(|| Lock::new().unwrap(), ()).unwrap();
    assert!(made.try_lock().is_ok());
    let queue = Queue::<u64>::bounded(2).unwrap();
    let fill = |queue: Queue<u64>| (0..1000).for_each(|x| queue.put(x).unwrap());
    let filling = pool.apply_async(fill, (queue.clone(),)).unwrap();
    assert!((0..1000).all(|x| queue.get_timeout(SOON) == Ok(x)));
    filling.get().unwrap();
    let (event, permits) = (Event::new().unwrap(), Semaphore::new(1).unwrap());
    let wait = |event: Event, permits: Semaphore| {
        let _permit = permits.acquire();
        event.wait_timeout(SOON)
    };
    let waiting = pool.apply_async(wait, (event.clone(), permits.clone())).unwrap();
    event.set();
    assert_eq!(waiting.get(), Ok(true));
    assert_eq!(permits.available(), 1);
}

#[test]
fn c5_a_process_gets_them_and_its_end_is_seen() {
    let _case = Case::new();
    let total = Value::new(0_u64).unwrap();
    let processes: Vec<_> =
        (0..3).map(|_| Process::spawn(add, (total.clone(), 1000)).unwrap()).collect();
    processes.into_iter().for_each(|process| process.join().unwrap());
    assert_eq!(total.get(), 3000);

    // a big one takes another way
    let sum = |total: Value<u64>, numbers: Vec<u64>| total.get() + numbers.iter().sum::<u64>();
    let process = Process::spawn(sum, (total.clone(), vec![1; 100_000])).unwrap();
    assert_eq!(process.join(), Ok(103_000));

    // its end of the pipe is open nowhere else, though the handle is still there
    let (ours, theirs) = Pipe::<(), u64>::pair().unwrap();
    let say = |pipe: Pipe<u64, ()>| pipe.send(7).unwrap();
    let process = Process::spawn(say, (theirs,)).unwrap();
    assert_eq!(ours.recv_timeout(SOON), Ok(7));
    assert_eq!(ours.recv_timeout(SOON), Err(RecvError::Closed));
    process.join().unwrap();
}

#[test]
fn c6_181_a_process_that_is_killed_with_a_queue_blocks_nobody() {
    let _case = Case::new();
    let queue = Queue::<u64>::bounded(5).unwrap();
    let flood = |queue: Queue<u64>| (0..u64::MAX).for_each(|x| queue.put(x).unwrap());
    let process = Process::spawn(flood, (queue.clone(),)).unwrap();
    (0..1000).for_each(|x| assert_eq!(queue.get_timeout(SOON), Ok(x)));
    fault::send(process.pid().unwrap(), Signal::SIGKILL);
    process.join().unwrap_err();
    while queue.try_get() != Err(GetError::Empty) {}
    queue.put_timeout(1, SOON).unwrap();
    assert_eq!(queue.get(), Ok(1));
}
