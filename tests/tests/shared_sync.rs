//! Locks and their kin across processes: row 186 of the conformance list (A6), and what the death of a process does to each.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]

use std::time::Duration;

use nix::sys::signal::Signal;
use pool_core::{
    Array, AsyncResult, Barrier, BoundedSemaphore, BrokenBarrier, Condition, Event, Lock,
    OverRelease, Pool, RLock, RawValue, Semaphore, TaskError, Value,
};
use pool_tests::fault::{self, Fault};
use pool_tests::{Case, Gate, eventually};

pool_core::test_support!();

const SOON: Duration = Duration::from_secs(20);
const AT_ONCE: Duration = Duration::from_millis(1);

/// As many tasks as workers, all of them running at the same time.
fn on_each<A, R, F, Kind>(pool: &Pool, workers: usize, function: F, args: &A) -> Vec<AsyncResult<R>>
where
    F: pool_core::TaskFn<(A,), Kind, Output = R>,
    Kind: 'static,
    A: Clone + serde::Serialize + serde::de::DeserializeOwned + Send + 'static,
    R: serde::Serialize + serde::de::DeserializeOwned + Send + 'static,
{
    (0..workers).map(|_| pool.apply_async(function, (args.clone(),)).unwrap()).collect()
}

// ---- Lock and RLock ----

#[test]
fn c6_186_a_lock_excludes_processes_and_threads() {
    let case = Case::new();
    let pool = case.pool(3);
    // not atomic: only the lock makes the sum right
    let (lock, sum) = (Lock::new().unwrap(), RawValue::new(0_u64).unwrap());
    let add = |(lock, sum): (Lock, RawValue<u64>)| {
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (lock, sum) = (lock.clone(), sum.clone());
                std::thread::spawn(move || {
                    for _ in 0..2000 {
                        let _guard = lock.lock().unwrap();
                        sum.set(sum.get() + 1);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    };
    let tasks = on_each(&pool, 3, add, &(lock.clone(), sum.clone()));
    add((lock.clone(), sum.clone()));
    tasks.into_iter().for_each(|task| task.get().unwrap());
    assert_eq!(sum.get(), 4 * 2 * 2000);
    let _guard = lock.lock().unwrap();
    let try_all = |lock: Lock| {
        lock.try_lock().unwrap_err().is_would_block()
            && lock.lock_timeout(AT_ONCE).unwrap_err().is_would_block()
            && lock.lock_timeout(Duration::ZERO).unwrap_err().is_would_block()
    };
    assert_eq!(pool.apply(try_all, (lock.clone(),)), Ok(true));
    assert!(try_all(lock.clone()), "a thread that holds it, too");
}

#[test]
fn c6_186_an_rlock_is_taken_again_by_its_thread_only() {
    let case = Case::new();
    let pool = case.pool(1);
    let lock = RLock::new().unwrap();
    let outer = lock.lock().unwrap();
    let inner = lock.lock().unwrap();
    let is_free = |lock: RLock| lock.try_lock().is_ok();
    assert_eq!(pool.apply(is_free, (lock.clone(),)), Ok(false));
    let here = lock.clone();
    assert!(!std::thread::spawn(move || is_free(here)).join().unwrap());
    drop(outer);
    assert_eq!(pool.apply(is_free, (lock.clone(),)), Ok(false), "one guard is left");
    drop(inner);
    assert_eq!(pool.apply(is_free, (lock.clone(),)), Ok(true));
    let die = |lock: RLock| {
        let _guards = (lock.lock(), lock.lock());
        Fault::Raise(9).happen();
    };
    pool.apply(die, (lock.clone(),)).unwrap_err();
    let poisoned = lock.lock_timeout(SOON).unwrap_err();
    assert!(!poisoned.is_would_block());
    drop(poisoned);
    drop(lock.lock().unwrap_err().recover());
    assert_eq!(pool.apply(is_free, (lock.clone(),)), Ok(true));
}

// ---- Semaphore ----

#[test]
fn c6_186_a_semaphore_lets_so_many_in() {
    let case = Case::new();
    let pool = case.pool(4);
    let permits = Semaphore::new(2).unwrap();
    let (inside, most) = (RawValue::new(0_i64).unwrap(), RawValue::new(0_i64).unwrap());
    let enter = |(permits, inside, most): (Semaphore, RawValue<i64>, RawValue<i64>)| {
        for _ in 0..300 {
            let _permit = permits.acquire();
            most.fetch_max(inside.fetch_add(1) + 1);
            std::thread::yield_now();
            inside.fetch_add(-1);
        }
    };
    let args = (permits.clone(), inside.clone(), most.clone());
    on_each(&pool, 4, enter, &args).into_iter().for_each(|task| task.get().unwrap());
    assert!((1..=2).contains(&most.get()), "{}", most.get());
    assert_eq!((inside.get(), permits.available()), (0, 2));

    let both = (permits.acquire(), permits.try_acquire().unwrap());
    let none = |permits: Semaphore| {
        permits.try_acquire().is_none() && permits.acquire_timeout(AT_ONCE).is_none()
    };
    assert_eq!(pool.apply(none, (permits.clone(),)), Ok(true));
    // another process releases what this one has taken
    both.0.forget();
    pool.apply(|permits: Semaphore| permits.release(), (permits.clone(),)).unwrap();
    assert_eq!(pool.apply(none, (permits.clone(),)), Ok(false));
    drop(both.1);
    assert_eq!(permits.available(), 2);
    permits.release();
    assert_eq!(permits.available(), 3, "not bounded");
    assert!(Semaphore::new(0).unwrap().try_acquire().is_none());
}

#[test]
fn c6_186_a_bounded_semaphore_never_has_more_than_at_first() {
    let permits = BoundedSemaphore::new(2).unwrap();
    assert_eq!(permits.release(), Err(OverRelease));
    permits.acquire().forget();
    let _other = permits.try_acquire().unwrap();
    assert!(permits.acquire_timeout(AT_ONCE).is_none());
    assert_eq!(permits.release(), Ok(()));
    assert_eq!(permits.release(), Err(OverRelease), "one is held, which comes back by itself");
    drop(permits.try_acquire());
}

#[test]
fn c6_186_permits_of_the_dead_are_had_back() {
    let case = Case::new();
    let pool = case.pool(2);
    let permits = Semaphore::new(3).unwrap();
    let gate = Gate::new();
    let hold = |permits: Semaphore, gate: String| {
        let _held = (permits.acquire(), permits.acquire());
        Gate::wait_at(&gate);
    };
    let held = pool.apply_async(hold, (permits.clone(), gate.path())).unwrap();
    let pid = gate.await_arrivals(1)[0];
    let _third = permits.try_acquire().unwrap();
    assert!(permits.try_acquire().is_none());
    let waits = pool.apply_async(|p: Semaphore| drop(p.acquire()), (permits.clone(),)).unwrap();
    eventually(SOON, "it runs", || waits.pid().is_some());
    fault::send(pid, Signal::SIGKILL);
    waits.get().unwrap();
    held.get().unwrap_err();
    assert!(permits.acquire_timeout(SOON).is_some());
}

// ---- Condition ----

#[test]
fn c6_186_notify_wakes_as_many_as_it_says() {
    let case = Case::new();
    let pool = case.pool(3);
    let (condition, lock) = (Condition::new().unwrap(), Lock::new().unwrap());
    let (waiting, woken) = (RawValue::new(0_u32).unwrap(), RawValue::new(0_u32).unwrap());
    type Args = (Condition, Lock, RawValue<u32>, RawValue<u32>);
    let wait = |(condition, lock, waiting, woken): Args| {
        let guard = lock.lock().unwrap();
        waiting.fetch_add(1);
        let (_guard, notified) = condition.wait_timeout(guard, SOON).unwrap();
        woken.fetch_add(1);
        notified
    };
    let args = (condition.clone(), lock.clone(), waiting.clone(), woken.clone());
    let tasks = on_each(&pool, 3, wait, &args);
    // with the lock held, all that have counted themselves wait
    let all_wait = || {
        let _guard = lock.lock().unwrap();
        waiting.get() == 3
    };
    eventually(SOON, "all wait", all_wait);
    for (count, so_far) in [(1, 1), (0, 1), (2, 3)] {
        condition.notify(count);
        eventually(SOON, "they are woken", || woken.get() == so_far);
    }
    for task in tasks {
        assert_eq!(task.get(), Ok(true));
    }
    condition.notify_all(); // for nobody
    let (guard, notified) = condition.wait_timeout(lock.lock().unwrap(), AT_ONCE).unwrap();
    assert!(!notified, "a notification without anybody who waits is lost");
    drop(guard);
}

#[test]
fn c6_186_wait_while_sees_what_others_do() {
    let case = Case::new();
    let pool = case.pool(2);
    let (changed, items) = (Condition::new().unwrap(), Array::<u32>::zeroed(2).unwrap());
    let wait = |changed: Condition, items: Array<u32>, at: usize| {
        let guard = items.lock().unwrap();
        let guard = changed.wait_while(guard, |items| items[at] < 5).unwrap();
        guard[at]
    };
    let tasks: Vec<_> = (0..2)
        .map(|at| pool.apply_async(wait, (changed.clone(), items.clone(), at)).unwrap())
        .collect();
    for at in [0, 1, 0, 0, 1, 0, 1, 1, 1, 0] {
        items.lock().unwrap()[at] += 1;
        changed.notify_all();
    }
    for task in tasks {
        assert_eq!(task.get(), Ok(5));
    }
    let value = Value::new(0_u8).unwrap();
    let never = |value: &mut pool_core::ValueGuard<'_, u8>| **value == 0;
    let guard = value.lock().unwrap();
    let (guard, holds) = changed.wait_while_timeout(guard, AT_ONCE, never).unwrap();
    assert!(!holds && value.try_lock().is_err(), "the lock is held again");
    drop(guard);
}

#[test]
fn c6_186_a_notification_to_the_dead_is_passed_on() {
    let case = Case::new();
    let pool = case.pool(2);
    let (condition, lock) = (Condition::new().unwrap(), Lock::new().unwrap());
    let waiting = RawValue::new(0_u32).unwrap();
    let wait = |(condition, lock, waiting): (Condition, Lock, RawValue<u32>)| {
        let guard = lock.lock().unwrap();
        waiting.fetch_add(1);
        drop(condition.wait(guard).unwrap());
    };
    let args = (condition.clone(), lock.clone(), waiting.clone());
    let first = pool.apply_async(wait, (args.clone(),)).unwrap();
    let count = |n| lock.lock().is_ok_and(|_guard| waiting.get() == n);
    eventually(SOON, "the first one waits", || count(1));
    let pid = first.pid().unwrap();
    let second = pool.apply_async(wait, (args,)).unwrap();
    eventually(SOON, "the second one waits", || count(2));
    fault::send(pid, Signal::SIGKILL);
    first.get().unwrap_err();
    // it waits in the first place still, so the notification goes to the dead
    condition.notify_one();
    second.get().unwrap();
}

// ---- Event ----

#[test]
fn c6_186_an_event_is_waited_for() {
    let case = Case::new();
    let pool = case.pool(2);
    let event = Event::new().unwrap();
    assert!(!event.is_set() && !event.wait_timeout(AT_ONCE));
    let wait = |event: Event| event.wait_timeout(SOON);
    let tasks = on_each(&pool, 2, wait, &event);
    for task in &tasks {
        eventually(SOON, "it runs", || task.pid().is_some());
    }
    event.set();
    for task in tasks {
        assert_eq!(task.get(), Ok(true));
    }
    event.wait();
    assert!(event.wait_timeout(Duration::ZERO));
    event.clear();
    event.clear();
    assert!(!event.is_set() && !event.wait_timeout(Duration::ZERO));
}

// ---- Barrier ----

type Rounds = (Barrier, RawValue<u64>, u64);

fn rounds((barrier, sum, rounds): Rounds) -> anyhow::Result<u64> {
    let mut first = 0;
    for round in 0..rounds {
        sum.fetch_add(1);
        let place = barrier.wait()?;
        first += u64::from(place == 0);
        anyhow::ensure!(sum.get() >= (round + 1) * barrier.parties() as u64, "somebody was late");
    }
    Ok(first)
}

#[test]
fn c6_186_a_barrier_is_passed_by_all_or_none_1000_times() {
    let case = Case::new();
    let pool = case.pool(3);
    let (barrier, sum) = (Barrier::new(3).unwrap(), RawValue::new(0).unwrap());
    let tasks = on_each(&pool, 3, rounds, &(barrier.clone(), sum.clone(), 1000));
    let first: u64 = tasks.into_iter().map(|task| task.get().unwrap()).sum();
    assert_eq!((first, sum.get()), (1000, 3000));
    assert_eq!((barrier.waiting(), barrier.parties(), barrier.is_broken()), (0, 3, false));
    assert_eq!(Barrier::new(1).unwrap().wait(), Ok(0));
    assert!(Barrier::new(0).is_err() && Barrier::new(1 << 20).is_err());
}

#[test]
fn c6_186_the_last_party_acts_before_any_goes_on() {
    let case = Case::new();
    let pool = case.pool(2);
    let args = (Barrier::new(2).unwrap(), RawValue::new(0_u32).unwrap());
    let wait = |(barrier, acts): (Barrier, RawValue<u32>)| -> anyhow::Result<u32> {
        barrier.wait_with(None, || {
            acts.fetch_add(1);
        })?;
        Ok(acts.get())
    };
    for task in on_each(&pool, 2, wait, &args) {
        assert_eq!(task.get(), Ok(1));
    }
    let panics = |(barrier, _): (Barrier, RawValue<u32>)| {
        barrier.wait_with(None, || Fault::Panic.happen()).is_err()
    };
    let outcomes: Vec<_> =
        on_each(&pool, 2, panics, &args).into_iter().map(AsyncResult::get).collect();
    assert!(outcomes.contains(&Ok(true)), "{outcomes:?}");
    assert!(outcomes.iter().any(|o| matches!(o, Err(TaskError::Panicked { .. }))), "{outcomes:?}");
    assert!(args.0.is_broken());
}

#[test]
fn c6_186_a_barrier_breaks_by_time_abort_reset_and_death() {
    let case = Case::new();
    let pool = case.pool(2);
    let barrier = Barrier::new(3).unwrap();
    let wait = |barrier: Barrier| barrier.wait().is_err();
    let both_wait = || eventually(SOON, "both wait", || barrier.waiting() == 2);

    let tasks = on_each(&pool, 2, wait, &barrier);
    both_wait();
    barrier.abort();
    assert!(tasks.into_iter().all(|task| task.get() == Ok(true)));
    assert_eq!(barrier.wait(), Err(BrokenBarrier), "it stays broken");
    barrier.reset();
    assert!(!barrier.is_broken());

    let tasks = on_each(&pool, 2, wait, &barrier);
    both_wait();
    barrier.reset();
    assert!(tasks.into_iter().all(|task| task.get() == Ok(true)));
    assert!(!barrier.is_broken(), "whole for those that come");

    assert_eq!(barrier.wait_timeout(AT_ONCE), Err(BrokenBarrier));
    assert!(barrier.is_broken(), "for all");
    barrier.reset();

    let tasks = on_each(&pool, 2, wait, &barrier);
    both_wait();
    fault::send(tasks[0].pid().unwrap(), Signal::SIGKILL);
    let outcomes: Vec<_> = tasks.into_iter().map(AsyncResult::get).collect();
    assert!(matches!(outcomes[..], [Err(TaskError::WorkerLost { .. }), Ok(true)]), "{outcomes:?}");
    barrier.reset();
    let tasks = on_each(&pool, 2, wait, &barrier);
    assert!(barrier.wait().is_ok());
    assert!(tasks.into_iter().all(|task| task.get() == Ok(false)));
}
