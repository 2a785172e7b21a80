//! SIGKILL at random instructions of processes that hold or use shared objects: rows 77 of the fault matrix, 181 and 187 of the conformance list. Each test kills
//! some 40 processes, or as many as `POOL_TESTS_STORM` says.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]

use std::collections::HashMap;
use std::time::Duration;

use nix::sys::signal::Signal;
use pool_core::{
    Array, AsyncResult, Barrier, Condition, ExitCause, GetError, Lock, Poisoned, Pool, Queue,
    RawArray, RawValue, Semaphore, TaskError, TryLockError, Value,
};
use pool_tests::{Case, eventually, fault};

pool_core::test_support!();

const SOON: Duration = Duration::from_secs(20);

/// How many processes to kill.
fn kills() -> u64 {
    std::env::var("POOL_TESTS_STORM").map_or(40, |text| text.parse().unwrap())
}

fn case() -> Case {
    Case::with_limit(Duration::from_secs(60) + Duration::from_millis(500) * kills() as u32)
}

/// A number below `limit`, different from one call to the next, the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % limit
    }
}

/// A task that goes on until its worker is killed, and counts what it does.
struct Victim {
    task: AsyncResult<()>,
    steps: RawValue<u64>,
}

impl Victim {
    fn start<A, F, Kind>(pool: &Pool, function: F, args: A) -> Victim
    where
        F: pool_core::TaskFn<(A, RawValue<u64>), Kind, Output = ()>,
        Kind: 'static,
        A: serde::Serialize + serde::de::DeserializeOwned + Send + 'static,
    {
        let steps = RawValue::new(0).unwrap();
        let task = pool.apply_async(function, (args, steps.clone())).unwrap();
        Victim { task, steps }
    }

    /// Kills it in the middle of something, some steps after it has begun.
    fn kill(self, dice: &mut Dice) {
        let steps = 1 + dice.roll(300);
        while self.steps.get() < steps {
            assert!(!self.task.ready(), "it has ended: {:?}", self.task.get());
            std::thread::yield_now();
        }
        self.kill_now(dice);
    }

    fn kill_now(self, dice: &mut Dice) {
        eventually(SOON, "it runs", || self.task.pid().is_some());
        (0..dice.roll(3000)).for_each(|_| std::hint::spin_loop());
        fault::send(self.task.pid().unwrap(), Signal::SIGKILL);
        let lost = self.task.get();
        // out of memory: a guess, made if any process of the machine was killed for that just now
        let by_us = |cause: &ExitCause| {
            matches!(cause, ExitCause::Signaled { signal: 9, .. } | ExitCause::OutOfMemory)
        };
        assert!(
            matches!(&lost, Err(TaskError::WorkerLost { cause, .. }) if by_us(cause)),
            "{lost:?}"
        );
    }
}

#[test]
fn r_77_c6_187_holders_of_a_lock_die() {
    let case = case();
    let pool = case.pool(2);
    // equal whenever nobody is between the two steps
    let pair = Array::<u64>::zeroed(2).unwrap();
    fn work(pair: Array<u64>, steps: RawValue<u64>) {
        loop {
            let mut guard = pair.lock().unwrap_or_else(|poisoned| {
                let mut guard = poisoned.recover();
                guard[1] = guard[0];
                guard
            });
            assert_eq!(guard[0], guard[1]);
            guard[0] += 1;
            std::hint::black_box(&mut guard);
            guard[1] += 1;
            drop(guard);
            steps.fetch_add(1);
        }
    }
    let mut dice = Dice(1);
    let mut told = 0;
    let mut victims = vec![Victim::start(&pool, work, pair.clone())];
    for _ in 0..kills() {
        victims.push(Victim::start(&pool, work, pair.clone()));
        victims.swap_remove(dice.roll(2) as usize).kill(&mut dice);
        match pair.lock_timeout(SOON) {
            Ok(guard) => assert_eq!(guard[0], guard[1]),
            Err(TryLockError::Poisoned(poisoned)) => {
                assert!(poisoned.get_ref()[0] - poisoned.get_ref()[1] <= 1);
                told += 1;
                let mut guard = poisoned.recover();
                guard[1] = guard[0];
            }
            Err(TryLockError::WouldBlock) => panic!("the lock of the dead was never had"),
        }
    }
    victims.pop().unwrap().kill(&mut dice);
    let _ = told; // by the workers, or here: who comes first is chance
    assert!(pair.lock_timeout(SOON).map_or_else(|error| !error.is_would_block(), |_| true));
}

#[test]
fn r_77_holders_of_permits_die() {
    let case = case();
    let pool = case.pool(3);
    let permits = Semaphore::new(2).unwrap();
    fn work(permits: Semaphore, steps: RawValue<u64>) {
        loop {
            let _permit = permits.acquire();
            steps.fetch_add(1);
        }
    }
    let mut dice = Dice(2);
    let mut victims: Vec<_> = (0..2).map(|_| Victim::start(&pool, work, permits.clone())).collect();
    for _ in 0..kills() {
        victims.push(Victim::start(&pool, work, permits.clone()));
        victims.swap_remove(dice.roll(3) as usize).kill(&mut dice);
        assert!(permits.acquire_timeout(SOON).is_some());
    }
    victims.into_iter().for_each(|victim| victim.kill(&mut dice));
    let both = (permits.acquire_timeout(SOON), permits.acquire_timeout(SOON));
    assert!(both.0.is_some() && both.1.is_some(), "all permits are had back");
    assert!(permits.try_acquire().is_none(), "and no more");
}

#[test]
fn r_77_those_who_wait_and_notify_die() {
    let case = case();
    let pool = case.pool(2);
    type Ball = (Condition, Value<u64>);
    let ball: Ball = (Condition::new().unwrap(), Value::new(0).unwrap());
    // whoever finds an even number makes it odd, and the other way round
    fn play((changed, ball): Ball, steps: RawValue<u64>) {
        let mut guard = ball.lock().unwrap_or_else(Poisoned::recover);
        loop {
            *guard += 1;
            changed.notify_all();
            steps.fetch_add(1);
            let seen = *guard;
            (guard, _) = changed
                .wait_while_timeout(guard, Duration::from_millis(2), |ball| **ball == seen)
                .unwrap_or_else(|error| match error {
                    TryLockError::Poisoned(poisoned) => (poisoned.recover(), true),
                    TryLockError::WouldBlock => panic!("the lock was lost"),
                });
        }
    }
    let mut dice = Dice(3);
    let mut victims = vec![Victim::start(&pool, play, ball.clone())];
    for _ in 0..kills() {
        victims.push(Victim::start(&pool, play, ball.clone()));
        // each step may take the whole of 2 ms when the other one is dead
        let victim = victims.swap_remove(dice.roll(2) as usize);
        eventually(SOON, "it plays", || victim.steps.get() > 0);
        fault::send(victim.task.pid().unwrap(), Signal::SIGKILL);
        victim.task.get().unwrap_err();
        assert!(ball.1.lock_timeout(SOON).map_or_else(|error| !error.is_would_block(), |_| true));
    }
    let survivor = victims.pop().unwrap();
    let steps = survivor.steps.get();
    eventually(SOON, "the game goes on", || survivor.steps.get() > steps + 2);
    survivor.task.cancel();
}

#[test]
fn r_77_parties_of_a_barrier_die() {
    let case = case();
    let pool = case.pool(2);
    let barrier = Barrier::new(2).unwrap();
    fn meet(barrier: Barrier, steps: RawValue<u64>) {
        loop {
            // broken: begun anew by whoever sees it first
            if barrier.wait_timeout(Duration::from_millis(20)).is_err() && barrier.is_broken() {
                barrier.reset();
            }
            steps.fetch_add(1);
        }
    }
    let mut dice = Dice(4);
    let mut victims = vec![Victim::start(&pool, meet, barrier.clone())];
    for _ in 0..kills() {
        victims.push(Victim::start(&pool, meet, barrier.clone()));
        let victim = victims.swap_remove(dice.roll(2) as usize);
        eventually(SOON, "it has met somebody", || victim.steps.get() > 0);
        (0..dice.roll(3000)).for_each(|_| std::hint::spin_loop());
        fault::send(victim.task.pid().unwrap(), Signal::SIGKILL);
        victim.task.get().unwrap_err();
    }
    victims.pop().unwrap().task.cancel();
    eventually(SOON, "it can be used", || {
        barrier.reset();
        let other = barrier.clone();
        let other = std::thread::spawn(move || other.wait_timeout(SOON).is_ok());
        barrier.wait_timeout(SOON).is_ok() & other.join().unwrap()
    });
}

/// Bytes that depend on who has put the item in, and when.
fn filler(producer: u64, number: u64) -> Vec<u8> {
    let len = (producer * 7 + number * 31) % 3000;
    (0..len).map(|i| (i + number + producer) as u8).collect()
}

#[test]
fn c6_181_producers_and_consumers_of_a_queue_die() {
    storm_at_a_queue(false);
}

#[test]
fn c6_181_producers_and_consumers_of_shared_objects_die() {
    storm_at_a_queue(true);
}

fn storm_at_a_queue(with_objects: bool) {
    // by whom, the number, something that follows from these, and an object that has the number in it
    type Item = (u64, u64, Vec<u8>, Option<RawValue<u64>>);
    // who has put in how many (at least), and of whom how many were got; by whom, and whether with objects
    type Books = (Queue<Item>, RawArray<u64>, RawArray<u64>, (u64, bool));
    let case = case();
    let pool = case.pool(2);
    let places = kills() as usize + 2;
    let queue = Queue::bounded(30).unwrap();
    let (put, got) = (RawArray::zeroed(places).unwrap(), RawArray::zeroed(places).unwrap());
    let noted = RawValue::new(0_u64).unwrap();
    let books = |who| -> Books { (queue.clone(), put.clone(), got.clone(), (who, with_objects)) };
    let produce = |(queue, put, _, who): Books, steps: RawValue<u64>| -> anyhow::Result<()> {
        let (producer, with_objects) = who;
        for number in 0.. {
            let object = with_objects.then(|| RawValue::new(number)).transpose()?;
            queue.put((producer, number, filler(producer, number), object))?;
            put.set(producer as usize, number + 1);
            steps.fetch_add(1);
        }
        Ok(())
    };
    fn note(got: &RawArray<u64>, noted: &RawValue<u64>, item: Item) {
        let (producer, number, bytes, object) = item;
        noted.fetch_add(1);
        assert!(
            object.is_none_or(|object| object.get() == number),
            "an object is that of its item"
        );
        assert!(bytes == filler(producer, number), "an item is whole");
        let expected = got.get(producer as usize);
        assert!(number >= expected, "{producer}: {number} came twice");
        got.set(producer as usize, number + 1);
    }
    let consume = |((queue, _, got, _), noted): (Books, RawValue<u64>),
                   steps: RawValue<u64>|
     -> anyhow::Result<()> {
        loop {
            note(&got, &noted, queue.get()?);
            steps.fetch_add(1);
        }
    };
    let mut dice = Dice(5);
    let mut producer = Victim::start(&pool, produce, books(0));
    let mut consumer = Victim::start(&pool, consume, (books(0), noted.clone()));
    let (mut producers, mut dead_consumers) = (1_u64, 0_u64);
    for _ in 0..kills() {
        if dice.roll(2) == 0 {
            producer.kill(&mut dice);
            producer = Victim::start(&pool, produce, books(producers));
            producers += 1;
        } else {
            consumer.kill(&mut dice);
            consumer = Victim::start(&pool, consume, (books(0), noted.clone()));
            dead_consumers += 1;
        }
    }
    // each alone would soon have nothing to do
    producer.kill_now(&mut dice);
    consumer.kill_now(&mut dice);
    dead_consumers += 1;
    let mut left = 0;
    loop {
        match queue.try_get() {
            Ok(item) => note(&got, &noted, item),
            Err(GetError::Empty) => break,
            Err(error) => panic!("{error}"),
        }
        left += 1;
    }
    assert!(left <= 30);
    let put: u64 = put.to_vec().into_iter().sum();
    let noted = noted.get();
    // a producer may be killed before it has noted its last item, a consumer with one that it has got
    assert!(noted <= put + producers, "{noted} items of {put} by {producers} producers");
    assert!(put <= noted + dead_consumers, "{noted} of {put}, {dead_consumers} consumers died");
    queue.put((0, 0, Vec::new(), None)).unwrap();
    assert_eq!(queue.len(), 1, "it goes on");
}

#[test]
fn r_77_whoever_is_killed_while_it_waits_for_a_lock_is_not_missed() {
    let case = case();
    let pool = case.pool(3);
    let locks: HashMap<u8, Lock> = (0..3).map(|i| (i, Lock::new().unwrap())).collect();
    fn work(locks: HashMap<u8, Lock>, steps: RawValue<u64>) {
        loop {
            for i in 0..3 {
                drop(locks[&i].lock().unwrap_or_else(Poisoned::recover));
                steps.fetch_add(1);
            }
        }
    }
    let mut dice = Dice(6);
    let mut victims: Vec<_> = (0..2).map(|_| Victim::start(&pool, work, locks.clone())).collect();
    for _ in 0..kills() {
        victims.push(Victim::start(&pool, work, locks.clone()));
        victims.swap_remove(dice.roll(3) as usize).kill(&mut dice);
    }
    victims.into_iter().for_each(|victim| victim.kill(&mut dice));
    for lock in locks.values() {
        assert!(!lock.lock_timeout(SOON).is_err_and(|error| error.is_would_block()));
    }
}
