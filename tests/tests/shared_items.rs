//! Shared objects that go through queues, in items: rows 184 of the conformance list, 79 of the fault matrix.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]

use std::fs;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use pool_core::{
    Array, Barrier, BoundedSemaphore, Condition, Event, GetError, Lock, Manager, Pipe, Poisoned,
    Pool, Process, PutError, Queue, RLock, RawArray, RawValue, Semaphore, SharedBytes, Value,
};
use pool_tests::{Case, census, eventually, fault};
use serde::{Deserialize, Serialize};

pool_core::test_support!();

const SOON: Duration = Duration::from_secs(20);
const AT_ONCE: Duration = Duration::from_millis(1);

/// One of each kind.
#[derive(Clone, Serialize, Deserialize)]
struct All {
    bytes: SharedBytes,
    array: Array<u32>,
    raw_array: RawArray<u64>,
    value: Value<u8>,
    raw_value: RawValue<i32>,
    lock: Lock,
    rlock: RLock,
    semaphore: Semaphore,
    bounded: BoundedSemaphore,
    condition: Condition,
    event: Event,
    barrier: Barrier,
    queue: Queue<String>,
    pipe: Pipe<u8, u8>,
}

impl All {
    /// With the other end of the pipe.
    fn new() -> (All, Pipe<u8, u8>) {
        let (pipe, other) = Pipe::pair().unwrap();
        let all = All {
            bytes: SharedBytes::new(b"hello").unwrap(),
            array: Array::zeroed(3).unwrap(),
            raw_array: RawArray::zeroed(3).unwrap(),
            value: Value::new(0).unwrap(),
            raw_value: RawValue::new(0).unwrap(),
            lock: Lock::new().unwrap(),
            rlock: RLock::new().unwrap(),
            semaphore: Semaphore::new(3).unwrap(),
            bounded: BoundedSemaphore::new(3).unwrap(),
            condition: Condition::new().unwrap(),
            event: Event::new().unwrap(),
            barrier: Barrier::new(2).unwrap(),
            queue: Queue::unbounded().unwrap(),
            pipe,
        };
        (all, other)
    }

    /// Does something with each that the other side sees.
    fn touch(&self) {
        assert_eq!(&self.bytes[..], b"hello");
        self.array.lock().unwrap()[1] = 11;
        self.raw_array.set(1, 12);
        self.value.set(13);
        self.raw_value.set(-14);
        assert!(self.lock.try_lock().is_err(), "the other side holds it");
        assert!(self.rlock.try_lock().is_err());
        self.semaphore.acquire().forget();
        self.bounded.acquire().forget();
        self.queue.put("fifteen".to_owned()).unwrap();
        self.pipe.send(16).unwrap();
        self.event.set();
        self.condition.notify_all();
        self.barrier.wait_timeout(SOON).unwrap();
    }

    fn check(&self, other: &Pipe<u8, u8>) {
        assert_eq!((self.array.to_vec()[1], self.raw_array.get(1)), (11, 12));
        assert_eq!((self.value.get(), self.raw_value.get()), (13, -14));
        assert_eq!((self.semaphore.available(), self.bounded.available()), (2, 2));
        assert_eq!(self.queue.get_timeout(SOON).unwrap(), "fifteen");
        assert_eq!(other.recv_timeout(SOON), Ok(16));
        assert!(self.event.is_set());
    }
}

#[test]
fn c6_184_every_kind_of_shared_object_goes_through_a_queue() {
    let case = Case::new();
    let (processes, threads) = (case.pool(1), Pool::builder().threads(1).build().unwrap());
    for pool in [processes, threads] {
        let queue = Queue::<All>::bounded(1).unwrap();
        let take = |queue: Queue<All>| queue.get_timeout(SOON).unwrap().touch();
        let taking = pool.apply_async(take, (queue.clone(),)).unwrap();
        let (all, other) = All::new();
        let _held = (all.lock.lock().unwrap(), all.rlock.lock().unwrap());
        queue.put(all.clone()).unwrap();
        all.barrier.wait_timeout(SOON).unwrap();
        taking.get().unwrap();
        all.check(&other);
    }
}

fn is_open(other: &Pipe<(), ()>) -> bool {
    !other.poll(Duration::ZERO).unwrap()
}

#[test]
fn c6_184_what_is_in_a_queue_outlives_its_maker() {
    let case = Case::new();
    let pool = case.pool(1);
    let queue = Queue::<(u64, Array<u64>, Pipe<u64, ()>)>::unbounded().unwrap();
    let (ours, theirs) = Pipe::<(), u64>::pair().unwrap();
    let make = |queue: Queue<(u64, Array<u64>, Pipe<u64, ()>)>, pipe: Pipe<u64, ()>| -> () {
        for i in 0..100 {
            let array = Array::zeroed(1000).unwrap();
            array.lock().unwrap().fill(i);
            queue.put((i, array, pipe.clone())).unwrap();
        }
        std::process::abort();
    };
    pool.apply(make, (queue.clone(), theirs)).unwrap_err();
    for i in 0..100 {
        let (number, array, pipe) = queue.get_timeout(SOON).unwrap();
        assert_eq!((number, array.to_vec()), (i, vec![i; 1000]));
        pipe.send(i).unwrap();
    }
    assert_eq!((0..100).map(|_| ours.recv().unwrap()).sum::<u64>(), 4950);
    // the last one who had it is gone
    eventually(SOON, "its end", || ours.recv_timeout(AT_ONCE) == Err(pool_core::RecvError::Closed));
    // and nothing was made for objects that are known already
    let (i, array, _) = {
        let item = (7, Array::zeroed(1).unwrap(), ours_again());
        queue.put(item.clone()).unwrap();
        item
    };
    let same = queue.get().unwrap();
    same.1.lock().unwrap()[0] = i;
    assert_eq!(array.to_vec(), [7]);
}

fn ours_again() -> Pipe<u64, ()> {
    Pipe::pair().unwrap().0
}

#[test]
fn c6_184_workers_of_nested_pools_and_processes_pass_them_on() {
    let case = Case::new();
    let pool = case.pool(1);
    type Item = (Lock, Array<u64>);
    type Letters = Queue<Item>;
    fn count((lock, array): Item) {
        for _ in 0..1000 {
            let _guard = lock.lock().unwrap_or_else(Poisoned::recover);
            array.update(|elements| elements[0] += 1);
        }
    }
    fn innermost(letters: Letters) {
        for item in letters.iter() {
            count(item.unwrap());
        }
    }
    // a queue in an item of a queue, made by a worker, and emptied by its own workers
    let middle = |mail: Queue<Letters>| {
        let letters = Letters::bounded(2).unwrap();
        mail.put(letters.clone()).unwrap();
        let nested = pool_tests::plain_pool(2);
        let tasks: Vec<_> =
            (0..2).map(|_| nested.apply_async(innermost, (letters.clone(),)).unwrap()).collect();
        let process = Process::spawn(innermost, (letters,)).unwrap();
        tasks.into_iter().for_each(|task| task.get().unwrap());
        process.join().unwrap();
    };
    let mail = Queue::unbounded().unwrap();
    let task = pool.apply_async(middle, (mail.clone(),)).unwrap();
    let letters = mail.get_timeout(SOON).unwrap();
    let item: Item = (Lock::new().unwrap(), Array::zeroed(1).unwrap());
    (0..20).for_each(|_| letters.put_timeout(item.clone(), SOON).unwrap());
    letters.close();
    task.get().unwrap();
    assert_eq!(item.1.to_vec(), [20_000]);
}

#[test]
fn c6_184_a_queue_takes_as_many_objects_as_the_kernel_keeps() {
    let queue = Queue::<(u64, RawValue<u64>)>::unbounded().unwrap();
    let item = |i| (i, RawValue::new(i).unwrap());
    let mut put = 0;
    let (number, _) = loop {
        match queue.try_put(item(put)) {
            Ok(()) => put += 1,
            Err(PutError::Full(item)) => break item,
            // fewer than are allowed here to be on their way
            Err(PutError::Os { item, .. }) => break item,
            Err(error) => panic!("{error}"),
        }
    };
    assert!(put >= 100 && number == put, "{put}");
    // with and without are in order
    let get = |i| {
        let (number, value) = queue.get().unwrap();
        assert_eq!((number, value.get()), (i, i));
    };
    (0..50).for_each(get);
    (put..put + 50).for_each(|i| queue.put(item(i)).unwrap());
    (50..put + 50).for_each(get);
    assert_eq!(queue.try_get().unwrap_err(), GetError::Empty);

    let many = Queue::<Vec<RawValue<u8>>>::unbounded().unwrap();
    let values = |count: u8| (0..count).map(|i| RawValue::new(i).unwrap()).collect::<Vec<_>>();
    many.put(values(250)).unwrap();
    assert!(many.get().unwrap().iter().enumerate().all(|(i, value)| value.get() == i as u8));
    let error = many.put(values(251)).unwrap_err();
    assert!(error.to_string().contains("more than 250 shared objects"), "{error}");
    assert_eq!(error.into_item().len(), 251);
    // one object many times is one
    many.put(vec![RawValue::new(1).unwrap(); 10_000]).unwrap();
    assert_eq!(many.get().unwrap().len(), 10_000);
}

#[test]
fn c6_184_items_with_and_without_objects_keep_their_order() {
    let case = Case::new();
    let pool = case.pool(2);
    type Item = (u64, Option<RawValue<u64>>);
    let queue = Queue::<Item>::bounded(500).unwrap();
    let produce = |queue: Queue<Item>| {
        for i in 0..5000 {
            let object = (i % 3 == 0).then(|| RawValue::new(i).unwrap());
            queue.put((i, object)).unwrap();
        }
        queue.close();
    };
    let producing = pool.apply_async(produce, (queue.clone(),)).unwrap();
    for i in 0..5000 {
        let (number, object) = queue.get_timeout(SOON).unwrap();
        assert_eq!((number, object.map(|object| object.get())), (i, (i % 3 == 0).then_some(i)));
    }
    assert_eq!(queue.get().unwrap_err(), GetError::Closed);
    producing.get().unwrap();
}

#[test]
fn c6_184_if_no_descriptor_is_free_the_item_stays() {
    let case = Case::new();
    let queue = Queue::<(u8, Lock)>::unbounded().unwrap();
    queue.put((1, Lock::new().unwrap())).unwrap();
    queue.put((2, Lock::new().unwrap())).unwrap();
    let get = |queue: Queue<(u8, Lock)>| {
        // the way out of the queue takes one once
        assert_eq!(queue.get().unwrap().0, 1);
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let open = census::list("/proc/self/fd").into_iter().max().unwrap();
        let fill: Vec<_> = (0..open).map_while(|_| fs::File::open("/dev/null").ok()).collect();
        setrlimit(Resource::RLIMIT_NOFILE, 3, hard).unwrap();
        let error = queue.try_get().unwrap_err();
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        drop(fill);
        assert!(matches!(&error, GetError::Os(_)), "{error:?}");
        assert!(error.to_string().contains("no descriptor is free"), "{error}");
        assert_eq!(queue.len(), 1);
        queue.get().unwrap().0
    };
    let process = case.process().spawn(get, (queue.clone(),)).unwrap();
    assert_eq!(process.join().unwrap(), 2);
    assert!(queue.is_empty());
}

#[test]
fn r_79_what_nobody_can_get_any_more_is_gone_circles_too() {
    #[derive(Serialize, Deserialize)]
    enum Knot {
        Queue(Queue<Knot>),
        End(Pipe<(), ()>),
    }
    let (one, other) = (Queue::unbounded().unwrap(), Queue::unbounded().unwrap());
    let (end, ours) = Pipe::pair().unwrap();
    one.put(Knot::Queue(other.clone())).unwrap();
    one.put(Knot::Queue(one.clone())).unwrap();
    other.put(Knot::Queue(one.clone())).unwrap();
    other.put(Knot::End(end)).unwrap();
    // it can be had in a roundabout way
    let Knot::Queue(found) = one.get().unwrap() else { panic!("no queue") };
    assert_eq!(found.len(), 2);
    one.put(Knot::Queue(found)).unwrap();
    assert!(is_open(&ours));
    drop((one, other));
    // it was in a queue in a queue that only they have: the kernel finds out some time
    eventually(SOON, "the end of the pipe", || {
        // it looks when a socket is closed
        drop(Queue::<()>::unbounded().unwrap());
        !is_open(&ours)
    });
}

#[test]
fn c6_184_killed_with_a_queue_of_objects_and_nothing_is_left() {
    let case = Case::new();
    let hoard = |said: Pipe<u32, ()>, end: Pipe<(), ()>| -> () {
        let queue = Queue::unbounded().unwrap();
        queue.put((end, SharedBytes::new(&[1; 100_000]).unwrap())).unwrap();
        said.send(1).unwrap();
        loop {
            std::thread::park();
        }
    };
    let (ours, theirs) = Pipe::<(), u32>::pair().unwrap();
    let (watched, end) = Pipe::pair().unwrap();
    let process = case.process().spawn(hoard, (theirs, end)).unwrap();
    ours.recv_timeout(SOON).unwrap();
    assert!(is_open(&watched));
    fault::send(process.pid().unwrap(), Signal::SIGKILL);
    process.join().unwrap_err();
    eventually(SOON, "the end of the pipe", || !is_open(&watched));
}

#[test]
fn c6_184_elsewhere_they_are_refused_in_plain_words() {
    let case = Case::new();
    let pool = case.pool(1);
    let made = pool.apply(|| Lock::new().unwrap(), ()).unwrap_err().to_string();
    assert!(made.contains("send it through a Queue or Pipe"), "{made}");
    let manager = Manager::new().unwrap();
    let list = manager.list::<Lock>([]).unwrap();
    let error = list.push(&Lock::new().unwrap()).unwrap_err().to_string();
    assert!(error.contains("through a Queue or Pipe"), "{error}");
    assert_eq!(list.len().unwrap(), 0);
}
