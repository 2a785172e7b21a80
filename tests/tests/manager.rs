//! `Manager`: the rows of C6 of the conformance list that concern it, and what goes wrong around managers.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use nix::sys::signal::Signal;
use pool_core::manager::{
    Array, Barrier, BoundedSemaphore, Condition, Dict, Event, Exposed, List, Lock, LockError,
    ManagerError, Namespace, Queue, RLock, Registered, Semaphore, Value,
};
use pool_core::{Manager, Process, dummy};
use pool_tests::{Case, Gate, census, eventually, fault, within};

pool_core::test_support!();

const SOON: Duration = Duration::from_secs(30);
const MOMENT: Duration = Duration::from_millis(30);

/// A manager whose process belongs to the test.
fn manager(case: &Case) -> Manager {
    builder(case).start().unwrap()
}

fn builder(case: &Case) -> pool_core::manager::ManagerBuilder {
    Manager::builder().process(case.process().name("Manager"))
}

fn is_died(error: &ManagerError) -> bool {
    matches!(error, ManagerError::Died { .. })
}

#[test]
fn c6_192_two_clients_share_a_list() {
    let case = Case::new();
    let manager = manager(&case);
    let list: List<String> = manager.list(["zero".to_owned()]).unwrap();
    let append = |list: List<String>, word: String| -> anyhow::Result<usize> {
        assert_eq!(list.get(0)?.as_deref(), Some("zero"));
        Ok(list.push(&word)?)
    };
    let one: Process<usize> = case.process().spawn(append, (list.clone(), "a".to_owned())).unwrap();
    assert_eq!(one.join(), Ok(1));
    let two = case.process().spawn(append, (list.clone(), "b".to_owned())).unwrap();
    assert_eq!(two.join(), Ok(2));
    assert_eq!(list.snapshot().unwrap(), ["zero", "a", "b"]);
    let refused = list.set(9, &String::new());
    assert_eq!(refused, Err(ManagerError::OutOfRange { index: 9, len: 3 }));
}

#[test]
fn c6_192_every_operation_of_a_list() {
    let case = Case::new();
    let manager = manager(&case);
    let list = manager.list([3_u32, 1]).unwrap();
    assert_eq!((list.len(), list.is_empty()), (Ok(2), Ok(false)));
    list.extend([4, 1, 5]).unwrap();
    list.insert(0, &9).unwrap();
    list.insert(6, &8).unwrap();
    list.push_front(&7).unwrap();
    assert_eq!(list.snapshot().unwrap(), [7, 9, 3, 1, 4, 1, 5, 8]);
    assert_eq!(list.insert(9, &0), Err(ManagerError::OutOfRange { index: 9, len: 9 }));
    assert_eq!((list.remove(1), list.pop(), list.pop_front()), (Ok(9), Ok(Some(8)), Ok(Some(7))));
    assert_eq!(list.remove(5), Err(ManagerError::OutOfRange { index: 5, len: 5 }));
    assert_eq!((list.position(&1), list.position(&6)), (Ok(Some(1)), Ok(None)));
    assert_eq!(
        (list.count(&1), list.contains(&5), list.contains(&6)),
        (Ok(2), Ok(true), Ok(false))
    );
    assert_eq!((list.get(4), list.get(5), list.set(4, &6)), (Ok(Some(5)), Ok(None), Ok(5)));
    list.reverse().unwrap();
    assert_eq!(list.range(1, 3).unwrap(), [1, 4]);
    assert_eq!(list.range(4, 99).unwrap(), [3]);
    assert!(list.range(3, 1).unwrap().is_empty());
    list.sort().unwrap();
    assert_eq!(list.iter().unwrap().collect::<Vec<_>>(), [1, 1, 3, 4, 6]);
    assert_eq!(list.update_at(2, |x, by: u32| std::mem::replace(x, *x * by), 5), Ok(3));
    let sum = |items: &mut Vec<u32>, ()| items.drain(1..).sum::<u32>();
    assert_eq!((list.update(sum, ()), list.snapshot().unwrap()), (Ok(26), vec![1]));
    list.clear().unwrap();
    assert_eq!((list.pop(), list.pop_front(), list.len()), (Ok(None), Ok(None), Ok(0)));

    let array: Array<i8> = manager.array([0; 3]).unwrap();
    assert_eq!((array.len(), array.is_empty()), (Ok(3), Ok(false)));
    assert_eq!((array.set(2, &7), array.update_at(0, |x, ()| *x -= 1, ())), (Ok(0), Ok(())));
    assert_eq!(array.snapshot().unwrap(), [-1, 0, 7]);
    assert!(array.update(|items, ()| items.push(1), ()).is_err(), "its length is fixed");
    assert_eq!(array.len(), Ok(3));
}

#[test]
fn c6_192_every_operation_of_a_dict_a_namespace_and_a_value() {
    let case = Case::new();
    let manager = manager(&case);
    let dict = manager.dict([("b".to_owned(), 1), ("a".to_owned(), 2)]).unwrap();
    assert_eq!((dict.insert("b", &7), dict.insert("c", &3)), (Ok(Some(1)), Ok(None)));
    assert_eq!((dict.get("b"), dict.get("x"), dict.len()), (Ok(Some(7)), Ok(None), Ok(3)));
    assert_eq!(dict.keys().unwrap(), ["b", "a", "c"], "in the order in which they came");
    assert_eq!(dict.values().unwrap(), [7, 2, 3]);
    assert_eq!((dict.get_or_insert("a", &9), dict.get_or_insert("d", &9)), (Ok(2), Ok(9)));
    assert_eq!((dict.remove("a"), dict.remove("a")), (Ok(Some(2)), Ok(None)));
    assert_eq!((dict.contains_key("a"), dict.contains_key("b")), (Ok(false), Ok(true)));
    let double = |value: &mut Option<i32>, ()| {
        *value = value.filter(|value| *value > 5).map(|value| value * 2);
        value.is_some()
    };
    assert_eq!((dict.update("b", double, ()), dict.update("c", double, ())), (Ok(true), Ok(false)));
    let entries: Vec<_> = dict.iter().unwrap().collect();
    assert_eq!(entries, [("b".to_owned(), 14), ("d".to_owned(), 9)]);
    dict.clear().unwrap();
    assert_eq!(dict.is_empty(), Ok(true));

    let names = manager.namespace().unwrap();
    names.set("n", &5_u8).unwrap();
    names.set("text", &"five".to_owned()).unwrap();
    assert_eq!(names.get("n"), Ok(Some(5_u8)));
    assert_eq!(names.get::<String>("text").unwrap().as_deref(), Some("five"));
    assert_eq!(names.update("n", |n: &mut Option<u8>, ()| n.take(), ()), Ok(Some(5)));
    assert_eq!((names.get::<u8>("n"), names.names()), (Ok(None), Ok(vec!["text".to_owned()])));
    assert_eq!((names.remove("text"), names.remove("text")), (Ok(true), Ok(false)));

    let value = manager.value(Some(2.5)).unwrap();
    assert_eq!((value.get(), value.replace(&None)), (Ok(Some(2.5)), Ok(Some(2.5))));
    value.set(&Some(1.0)).unwrap();
    let previous = value.update(|value, by: f64| value.replace(by), 4.0);
    assert_eq!((previous, value.get()), (Ok(Some(1.0)), Ok(Some(4.0))));
}

#[test]
fn c6_192_proxies_nest_and_keep_each_other() {
    let case = Case::new();
    let manager = builder(&case).linger(Duration::ZERO).start().unwrap();
    let outer: List<List<u64>> = manager.list([]).unwrap();
    {
        let inner = manager.list([1, 2]).unwrap();
        outer.push(&inner).unwrap();
    }
    assert_eq!(manager.objects(), Ok(2), "the outer list holds the inner one");
    outer.get(0).unwrap().unwrap().push(&3).unwrap();
    assert_eq!(outer.get(0).unwrap().unwrap().snapshot().unwrap(), [1, 2, 3]);
    let dict: Dict<String, List<List<u64>>> = manager.dict([("x".to_owned(), outer)]).unwrap();
    assert_eq!(manager.objects(), Ok(3));
    let through = |dict: Dict<String, List<List<u64>>>| -> anyhow::Result<Vec<u64>> {
        let outer = dict.get("x")?.ok_or_else(|| anyhow::anyhow!("nothing"))?;
        let inner = outer.get(0)?.ok_or_else(|| anyhow::anyhow!("nothing"))?;
        Ok(inner.snapshot()?)
    };
    let process = case.process().spawn(through, (dict.clone(),)).unwrap();
    assert_eq!(process.join().unwrap(), [1, 2, 3]);
    // a function in the manager may look through proxies, too
    let sum = |outer: &mut Option<List<List<u64>>>, ()| -> u64 {
        outer.as_ref().unwrap().get(0).unwrap().unwrap().iter().unwrap().sum()
    };
    assert_eq!(dict.update("x", sum, ()), Ok(6));
    drop(dict);
    eventually(SOON, "all are dropped with the last proxy", || manager.objects() == Ok(0));
}

type All = (Value<u64>, Dict<u64, u64>, List<(u64, u64)>, Lock, Value<u64>);

#[test]
fn c6_192_eight_clients_at_once_lose_no_update() {
    const EACH: u64 = 500;
    let case = Case::new();
    let manager = manager(&case);
    let counter = manager.value(0_u64).unwrap();
    let counts: Dict<u64, u64> = manager.dict([]).unwrap();
    let list: List<(u64, u64)> = manager.list([]).unwrap();
    let (lock, total) = (manager.lock().unwrap(), manager.value(0_u64).unwrap());
    let work = |who: u64, all: All| {
        let (counter, counts, list, lock, total) = all;
        for i in 0..EACH {
            counter.update(|count, by: u64| *count += by, 1).unwrap();
            counts.update(&(i % 7), |count, ()| *count.get_or_insert(0) += 1, ()).unwrap();
            list.push(&(who, i)).unwrap();
            if i % 10 == 0 {
                let _guard = lock.lock().unwrap();
                total.set(&(total.get().unwrap() + 1)).unwrap();
            }
        }
    };
    let all = || (counter.clone(), counts.clone(), list.clone(), lock.clone(), total.clone());
    let clients: Vec<_> =
        (0..8).map(|who| case.process().spawn(work, (who, all())).unwrap()).collect();
    clients.iter().for_each(|client| client.join().unwrap());
    assert_eq!(counter.get(), Ok(8 * EACH));
    assert_eq!(counts.values().unwrap().iter().sum::<u64>(), 8 * EACH);
    assert_eq!(total.get(), Ok(8 * EACH / 10));
    let found = list.snapshot().unwrap();
    for who in 0..8 {
        let own: Vec<_> = found.iter().filter(|(by, _)| *by == who).map(|(_, i)| *i).collect();
        assert_eq!(own, (0..EACH).collect::<Vec<_>>(), "in the client's own order");
    }
}

#[test]
fn c6_192_large_values() {
    let case = Case::new();
    let manager = manager(&case);
    let value = manager.value(Vec::<u8>::new()).unwrap();
    for size in [0, 1, (64 << 10) - 1, 64 << 10, (64 << 10) + 1, 10 << 20] {
        let bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        value.set(&bytes).unwrap();
        assert!(value.get().unwrap() == bytes, "{size}");
        let process =
            case.process().spawn(|value: Value<Vec<u8>>| value.get().unwrap(), (value.clone(),));
        assert!(process.unwrap().join().unwrap() == bytes, "{size}, from another process");
    }
    let list = manager.list(vec!["x".repeat(1000); 5000]).unwrap();
    assert_eq!(list.snapshot().unwrap().len(), 5000);
    assert_eq!(list.push(&"y".repeat(10 << 20)).unwrap(), 5000);
    assert_eq!(list.pop().unwrap().unwrap().len(), 10 << 20);
}

#[test]
fn c6_192_queues_bound_close_and_count() {
    let case = Case::new();
    let manager = manager(&case);
    let queue: Queue<u32> = manager.queue(Some(2)).unwrap();
    assert_eq!(
        (queue.try_get(), queue.get_timeout(MOMENT)),
        (Err(ManagerError::Empty), Err(ManagerError::Empty))
    );
    queue.put(&1).unwrap();
    queue.try_put(&2).unwrap();
    assert_eq!(
        (queue.try_put(&3), queue.put_timeout(&3, MOMENT)),
        (Err(ManagerError::Full), Err(ManagerError::Full))
    );
    assert_eq!((queue.len(), queue.unfinished()), (Ok(2), Ok(2)));
    assert_eq!(queue.join_timeout(MOMENT), Ok(false));
    let consume = |queue: Queue<u32>| -> anyhow::Result<Vec<u32>> {
        let mut got = Vec::new();
        loop {
            match queue.get() {
                Ok(item) => got.push(item),
                Err(ManagerError::Closed) => return Ok(got),
                Err(other) => return Err(other.into()),
            }
            queue.task_done()?;
        }
    };
    let consumer = case.process().spawn(consume, (queue.clone(),)).unwrap();
    for item in 3..100 {
        queue.put(&item).unwrap();
    }
    queue.join().unwrap();
    assert_eq!(queue.task_done(), Err(ManagerError::TooManyDone));
    queue.close().unwrap();
    assert_eq!(consumer.join().unwrap(), (1..100).collect::<Vec<_>>());
    assert_eq!(
        (queue.put(&1), queue.get()),
        (Err(ManagerError::Closed), Err(ManagerError::Closed))
    );
}

#[test]
fn c6_192_locks_and_semaphores_of_all_kinds() {
    let case = Case::new();
    let manager = manager(&case);
    let lock = manager.lock().unwrap();
    let guard = lock.lock().unwrap();
    assert!(lock.try_lock().unwrap_err().is_would_block(), "it is not reentrant");
    assert!(lock.lock_timeout(MOMENT).unwrap_err().is_would_block());
    let try_it = |lock: Lock| lock.try_lock().is_ok();
    assert_eq!(case.process().spawn(try_it, (lock.clone(),)).unwrap().join(), Ok(false));
    drop(guard);
    assert_eq!(case.process().spawn(try_it, (lock.clone(),)).unwrap().join(), Ok(true));

    let rlock = manager.rlock().unwrap();
    let (outer, inner) = (rlock.lock().unwrap(), rlock.try_lock().unwrap());
    drop(outer);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| rlock.try_lock().unwrap_err().is_would_block());
        assert!(other.join().unwrap(), "one guard is left");
    });
    drop(inner);
    let try_it = |lock: RLock| lock.try_lock().is_ok();
    assert_eq!(case.process().spawn(try_it, (rlock.clone(),)).unwrap().join(), Ok(true));

    let semaphore: Semaphore = manager.semaphore(1).unwrap();
    let permit = semaphore.acquire().unwrap();
    assert!(semaphore.try_acquire().unwrap().is_none());
    assert!(semaphore.acquire_timeout(MOMENT).unwrap().is_none());
    permit.forget();
    assert_eq!(semaphore.available(), Ok(0));
    semaphore.release().unwrap();
    semaphore.release().unwrap();
    assert_eq!(semaphore.available(), Ok(2));

    let bounded: BoundedSemaphore = manager.bounded_semaphore(1).unwrap();
    assert_eq!(bounded.release(), Err(ManagerError::OverRelease));
    let permit = bounded.acquire().unwrap();
    assert_eq!(bounded.release(), Err(ManagerError::OverRelease), "the permit is somebody's");
    permit.forget();
    assert_eq!((bounded.release(), bounded.available()), (Ok(()), Ok(1)));
}

#[test]
fn c6_192_a_panic_with_the_lock_held_is_told() {
    let case = Case::new();
    let manager = manager(&case);
    let lock = manager.lock().unwrap();
    let panics = |lock: Lock| -> () {
        let _guard = lock.lock().unwrap();
        panic!("with the lock held");
    };
    let process = case.process().spawn(panics, (lock.clone(),)).unwrap();
    process.join().unwrap_err();
    let poisoned = lock.lock().unwrap_err();
    assert!(poisoned.is_poisoned());
    drop(poisoned);
    let poisoned = lock.try_lock().unwrap_err();
    drop(poisoned.recover().unwrap());
    assert!(lock.lock().is_ok(), "it was repaired");
}

#[test]
fn c6_192_conditions_events_and_barriers() {
    let case = Case::new();
    let manager = manager(&case);
    let (lock, changed, level) =
        (manager.lock().unwrap(), manager.condition().unwrap(), manager.value(0_u32).unwrap());
    {
        let guard = lock.lock().unwrap();
        let (guard, notified) = changed.wait_timeout(guard, MOMENT).unwrap();
        assert!(!notified);
        assert!(lock.try_lock().unwrap_err().is_would_block(), "it is held again");
        let (_guard, holds) = changed.wait_while_timeout(guard, MOMENT, || true).unwrap();
        assert!(!holds);
    }
    let wait = |lock: Lock, changed: Condition, level: Value<u32>| {
        let guard = lock.lock().unwrap();
        let guard = changed.wait_while(guard, || level.get().unwrap() < 3).unwrap();
        drop(guard);
        level.get().unwrap()
    };
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let args = (lock.clone(), changed.clone(), level.clone());
            case.process().spawn(wait, args).unwrap()
        })
        .collect();
    for _ in 0..3 {
        let _guard = lock.lock().unwrap();
        level.update(|level, ()| *level += 1, ()).unwrap();
        changed.notify_all().unwrap();
    }
    waiting.iter().for_each(|process| assert_eq!(process.join(), Ok(3)));

    let event = manager.event().unwrap();
    assert_eq!((event.is_set(), event.wait_timeout(MOMENT)), (Ok(false), Ok(false)));
    let process =
        case.process().spawn(|event: Event| event.wait().unwrap(), (event.clone(),)).unwrap();
    event.set().unwrap();
    process.join().unwrap();
    assert_eq!((event.is_set(), event.wait_timeout(Duration::ZERO)), (Ok(true), Ok(true)));
    event.clear().unwrap();
    assert_eq!(event.is_set(), Ok(false));

    const ROUNDS: usize = 100;
    let barrier = manager.barrier(3).unwrap();
    let rounds =
        |barrier: Barrier| -> Vec<usize> { (0..ROUNDS).map(|_| barrier.wait().unwrap()).collect() };
    let parties: Vec<_> =
        (0..3).map(|_| case.process().spawn(rounds, (barrier.clone(),)).unwrap()).collect();
    let places: Vec<_> = parties.iter().map(|party| party.join().unwrap()).collect();
    for round in 0..ROUNDS {
        let mut of_round: Vec<_> = places.iter().map(|places| places[round]).collect();
        of_round.sort_unstable();
        assert_eq!(of_round, [0, 1, 2]);
    }
    assert_eq!(barrier.wait_timeout(MOMENT), Err(ManagerError::BrokenBarrier));
    assert_eq!((barrier.is_broken(), barrier.wait()), (Ok(true), Err(ManagerError::BrokenBarrier)));
    barrier.reset().unwrap();
    let party = case.process().spawn(|b: Barrier| b.wait().is_err(), (barrier.clone(),)).unwrap();
    eventually(SOON, "it waits", || barrier.waiting() == Ok(1));
    barrier.abort().unwrap();
    assert_eq!((party.join(), barrier.parties(), barrier.waiting()), (Ok(true), Ok(3), Ok(0)));
    assert!(manager.barrier(0).is_err());
}

struct Account {
    balance: i64,
}

fn account() -> Exposed<Account> {
    Exposed::try_new("Account", |balance: i64| {
        anyhow::ensure!(balance >= 0, "it can't begin with {balance}");
        Ok(Account { balance })
    })
    .method("add", |account: &mut Account, by: i64| {
        account.balance += by;
        account.balance
    })
    .method("break", |_: &mut Account, text: String| -> () { panic!("it broke: {text}") })
    .fallible("withdraw", |account: &mut Account, amount: i64| {
        anyhow::ensure!(amount <= account.balance, "there are only {}", account.balance);
        account.balance -= amount;
        Ok(account.balance)
    })
}

#[test]
fn c6_193_registered_types_have_the_methods_that_were_exposed() {
    let case = Case::new();
    let manager = builder(&case).register(account()).start().unwrap();
    let account: Registered<Account> = manager.create("Account", 10_i64).unwrap();
    assert_eq!(account.call("add", 5_i64), Ok(15_i64));
    let withdraw = |account: Registered<Account>| account.call::<i64>("withdraw", 12_i64).unwrap();
    let process = case.process().spawn(withdraw, (account.clone(),)).unwrap();
    assert_eq!(process.join(), Ok(3));
    let failed = account.call::<i64>("withdraw", 4_i64);
    assert_eq!(failed, Err(ManagerError::Failed("there are only 3".to_owned())));
    let made: Result<Registered<Account>, _> = manager.create("Account", ());
    let told = [
        (account.call::<i64>("add", ()), "the argument of the method \"add\" as i64"),
        (
            account.call::<i64>("break", 7_u8),
            "the argument of the method \"break\" as alloc::string",
        ),
        (
            account.call::<String>("add", 0_i64).map(|_| 0),
            "the result of the method \"add\" as alloc::string",
        ),
        (made.map(|_| 0), "the argument of a new \"Account\" as i64"),
    ];
    for (outcome, expected) in told {
        let error = outcome.unwrap_err();
        assert!(
            matches!(&error, ManagerError::Decode(text) if text.starts_with(expected)),
            "{error}"
        );
    }
    match account.call::<i64>("steal", ()) {
        Err(ManagerError::UnknownMethod { name, known }) => {
            assert_eq!(
                (name.as_str(), known),
                ("steal", ["add", "break", "withdraw"].map(str::to_owned).to_vec())
            );
        }
        other => panic!("{other:?}"),
    }
    match account.call::<()>("break", "x".to_owned()) {
        Err(ManagerError::Panicked { message, location }) => {
            assert_eq!(message, "it broke: x");
            assert!(location.contains("manager.rs"), "{location}");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(account.call::<i64>("add", ()), Err(ManagerError::Decode(_))));
    assert_eq!(account.call("add", 0_i64), Ok(3_i64), "it goes on");
    let refused = manager.create::<Account>("Account", -1_i64).unwrap_err();
    assert_eq!(refused, ManagerError::Failed("it can't begin with -1".to_owned()));
    let unknown = manager.create::<Account>("Bank", ()).unwrap_err();
    assert_eq!(
        unknown,
        ManagerError::UnknownType { name: "Bank".to_owned(), known: vec!["Account".to_owned()] }
    );
}

#[test]
fn c6_193_a_panicking_update_changes_nothing_and_the_manager_lives() {
    let case = Case::new();
    let manager = manager(&case);
    let list = manager.list([1, 2]).unwrap();
    let half = |items: &mut Vec<i32>, ()| -> () {
        items.clear();
        panic!("half way");
    };
    match list.update(half, ()) {
        Err(ManagerError::Panicked { message, .. }) => assert_eq!(message, "half way"),
        other => panic!("{other:?}"),
    }
    assert_eq!(list.snapshot().unwrap(), [1, 2]);
    // an abort is the end of the manager, and an error everywhere
    let end = list.update(|_, ()| -> () { std::process::abort() }, ());
    assert!(is_died(&end.unwrap_err()));
    assert!(is_died(&list.len().unwrap_err()));
}

#[test]
fn c6_193_values_that_can_not_be_encoded_or_decoded() {
    let case = Case::new();
    let manager = manager(&case);
    let names: Namespace = manager.namespace().unwrap();
    names.set("n", &5_u8).unwrap();
    assert!(matches!(names.get::<String>("n"), Err(ManagerError::Decode(_))));
    let bad = fault::Mine { when: fault::When::EncodeInParent, what: fault::What::Refuse };
    assert!(matches!(names.set("bad", &bad), Err(ManagerError::Encode(_))));
    assert_eq!(names.names().unwrap(), ["n"], "the connection goes on");
}

#[test]
fn c6_193_remote_managers_and_names() {
    let case = Case::new();
    let manager = builder(&case).bind("127.0.0.1:0").authkey("secret").start().unwrap();
    let jobs: Queue<u32> = manager.queue(None).unwrap();
    manager.publish("jobs", &jobs).unwrap();
    let remote = |address: String| -> anyhow::Result<usize> {
        let manager = Manager::connect(address, "secret")?;
        let jobs: Queue<u32> = manager.lookup("jobs")?;
        (0..5).try_for_each(|job| jobs.put(&job))?;
        let kept: List<u32> = manager.list([7])?;
        manager.publish("kept", &kept)?;
        Ok(jobs.len()?)
    };
    let process = case.process().spawn(remote, (manager.address().to_owned(),)).unwrap();
    assert_eq!(process.join(), Ok(5));
    assert_eq!(jobs.try_get(), Ok(0));
    let kept: List<u32> = manager.lookup("kept").unwrap();
    assert_eq!(kept.snapshot().unwrap(), [7], "its maker has ended");
    let nothing = manager.lookup::<List<u32>>("x").unwrap_err();
    assert_eq!(nothing, ManagerError::NotPublished("x".to_owned()));
    let wrong = manager.lookup::<Lock>("jobs").unwrap_err();
    assert!(matches!(wrong, ManagerError::WrongKind { .. }), "{wrong}");
}

#[test]
fn c6_193_a_manager_restarts_at_the_same_address() {
    let case = Case::new();
    let first = builder(&case).bind("127.0.0.1:0").authkey("").start().unwrap();
    let address = first.address().to_owned();
    let list = first.list([1]).unwrap();
    first.shutdown();
    let second = builder(&case).bind(&address).authkey("").start().unwrap();
    assert_eq!(second.address(), address);
    let other = second.list([2]).unwrap();
    assert!(is_died(&list.snapshot().unwrap_err()), "another manager's objects are not its own");
    assert_eq!(other.snapshot().unwrap(), [2]);
    let taken = builder(&case).bind(&address).start().unwrap_err();
    assert!(
        matches!(&taken, ManagerError::StartFailed(why) if why.contains("cannot listen")),
        "{taken}"
    );
    let again = Manager::connect(&address, "").unwrap();
    again.ping().unwrap();
}

#[test]
fn c6_193_served_by_threads_of_this_program() {
    let case = Case::new();
    let manager = Manager::builder().register(account()).serve().unwrap();
    let account: Registered<Account> = manager.create("Account", 1_i64).unwrap();
    let add = |account: Registered<Account>| account.call::<i64>("add", 2_i64).unwrap();
    let process = case.process().spawn(add, (account.clone(),)).unwrap();
    assert_eq!((process.join(), manager.pid()), (Ok(3), None));
    manager.shutdown();
    manager.wait();
    assert!(is_died(&account.call::<i64>("add", 1_i64).unwrap_err()));
}

#[test]
fn c6_185_a_wrong_key_is_refused() {
    let case = Case::new();
    for address in ["127.0.0.1:0", "@"] {
        let address = match address {
            "@" => format!("@pool-tests-{}", std::process::id()),
            other => other.to_owned(),
        };
        let manager = builder(&case).bind(address).authkey("right").start().unwrap();
        for wrong in ["", "wrong", "right "] {
            let refused = Manager::connect(manager.address(), wrong).unwrap_err();
            assert!(matches!(refused, ManagerError::WrongKey { .. }), "{refused}");
        }
        Manager::connect(manager.address(), "right").unwrap().ping().unwrap();
    }
}

#[test]
fn c6_185_a_server_without_the_key_is_refused() {
    // it says yes to everything, and can't prove anything
    let impostor = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = impostor.local_addr().unwrap().to_string();
    let play = std::thread::spawn(move || {
        let (mut stream, _) = impostor.accept().unwrap();
        let mut greeting = [0; 48];
        stream.read_exact(&mut greeting).unwrap();
        stream.write_all(&greeting).unwrap();
        stream.read_exact(&mut [0; 80]).unwrap();
        stream.write_all(&[1; 73]).unwrap();
    });
    let refused = Manager::connect(address, "secret").unwrap_err();
    assert!(matches!(refused, ManagerError::WrongKey { .. }), "{refused}");
    play.join().unwrap();
    // what is no manager at all
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = stranger.local_addr().unwrap().to_string();
    let play = std::thread::spawn(move || {
        let (mut stream, _) = stranger.accept().unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let refused = Manager::connect(address, "secret").unwrap_err();
    assert!(matches!(refused, ManagerError::Protocol { .. }), "{refused}");
    play.join().unwrap();
    // nobody
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    assert!(is_died(&Manager::connect(free, "secret").unwrap_err()));
}

#[test]
fn c6_185_garbage_on_the_socket_harms_nobody() {
    let case = Case::new();
    let manager = builder(&case).bind("127.0.0.1:0").start().unwrap();
    let list = manager.list([1]).unwrap();
    let mut open = Vec::new();
    for garbage in [
        &b""[..],
        b"x",
        &[0; 1000],
        &[255; 100_000],
        b"pool-manager/2\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(manager.address()).unwrap();
        // it may be closed already
        let _ = stream.write_all(garbage);
        open.push(stream);
    }
    // a greeting like a client's, and then a proof that is none
    let mut stream = TcpStream::connect(manager.address()).unwrap();
    stream.write_all(b"pool-manager/2\r\n").unwrap();
    stream.write_all(&[7; 32 + 80]).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert_eq!((answer.len(), answer.last()), (49, Some(&0)), "refused, and closed");
    assert_eq!(list.push(&2), Ok(1));
    drop(open);
    assert_eq!(list.snapshot().unwrap(), [1, 2]);
}

#[test]
fn c6_193_a_copy_by_fork_uses_connections_of_its_own() {
    const EACH: u64 = 300;
    let case = Case::new();
    let manager = manager(&case);
    let list: List<u64> = manager.list([]).unwrap();
    // in a process with one thread, where a fork is harmless
    let fork = |list: List<u64>| {
        list.push(&0).unwrap();
        #[allow(unsafe_code, reason = "the fault is the point")]
        // SAFETY: this process has one thread; the copy ends by _exit.
        let copy = unsafe { libc::fork() };
        let pushed = (0..EACH).all(|i| list.push(&i).is_ok());
        if copy == 0 {
            #[allow(unsafe_code, reason = "the fault is the point")]
            // SAFETY: ends this process.
            unsafe {
                libc::_exit(i32::from(!pushed))
            };
        }
        let copy = nix::unistd::Pid::from_raw(copy);
        let end = nix::sys::wait::waitpid(copy, None).unwrap();
        pushed && end == nix::sys::wait::WaitStatus::Exited(copy, 0)
    };
    let process = case.process().spawn(fork, (list.clone(),)).unwrap();
    assert_eq!(process.join(), Ok(true));
    assert_eq!(list.len(), Ok(1 + 2 * usize::try_from(EACH).unwrap()));
}

fn hold(lock: Lock, gate: String) {
    let _guard = lock.lock().unwrap_or_else(|error| match error {
        LockError::Poisoned(poisoned) => poisoned.recover(),
        other => panic!("{other}"),
    });
    Gate::wait_at(&gate);
}

#[test]
fn c6_194_the_lock_of_a_killed_client_is_free_and_its_taker_is_told() {
    let case = Case::new();
    let manager = manager(&case);
    let (lock, gate) = (manager.lock().unwrap(), Gate::new());
    for round in 1..=20 {
        let process = case.process().spawn(hold, (lock.clone(), gate.path())).unwrap();
        gate.await_arrivals(round);
        assert!(lock.try_lock().unwrap_err().is_would_block());
        process.kill().unwrap();
        let poisoned = within(SOON, "the lock is had", || lock.lock().unwrap_err());
        assert!(poisoned.is_poisoned());
        drop(poisoned.recover().unwrap());
        drop(lock.lock().unwrap());
        process.wait();
    }
}

#[test]
fn c6_194_permits_of_a_killed_client_come_back() {
    let case = Case::new();
    let manager = manager(&case);
    let (semaphore, gate) = (manager.bounded_semaphore(2).unwrap(), Gate::new());
    let hold = |semaphore: BoundedSemaphore, gate: String| {
        let _both = (semaphore.acquire().unwrap(), semaphore.acquire().unwrap());
        Gate::wait_at(&gate);
    };
    let process = case.process().spawn(hold, (semaphore.clone(), gate.path())).unwrap();
    gate.await_arrivals(1);
    assert!(semaphore.try_acquire().unwrap().is_none());
    process.kill().unwrap();
    let permit = semaphore.acquire().unwrap();
    drop(permit);
    eventually(SOON, "both are back", || semaphore.available() == Ok(2));
}

#[test]
fn p29_a_client_that_is_killed_while_it_waits_takes_nothing() {
    let case = Case::new();
    let manager = manager(&case);
    let (lock, queue) = (manager.lock().unwrap(), manager.queue::<u32>(None).unwrap());
    let (barrier, gate) = (manager.barrier(3).unwrap(), Gate::new());
    let guard = lock.lock().unwrap();
    let wait_lock = |gate: String, lock: Lock| {
        Gate::announce(&gate);
        drop(lock.lock());
    };
    let wait_queue = |gate: String, queue: Queue<u32>| {
        Gate::announce(&gate);
        let _ = queue.get();
    };
    let one = case.process().spawn(wait_lock, (gate.path(), lock.clone())).unwrap();
    let two = case.process().spawn(wait_queue, (gate.path(), queue.clone())).unwrap();
    let wait = |barrier: Barrier| barrier.wait();
    let three = case.process().spawn(move |b: Barrier| drop(b.wait()), (barrier.clone(),)).unwrap();
    gate.await_arrivals(2);
    eventually(SOON, "one is at the barrier", || barrier.waiting() == Ok(1));
    std::thread::scope(|scope| {
        let party = scope.spawn(|| wait(barrier.clone()));
        eventually(SOON, "two are at the barrier", || barrier.waiting() == Ok(2));
        for process in [&one, &two, &three] {
            process.kill().unwrap();
            process.wait();
        }
        assert_eq!(party.join().unwrap(), Err(ManagerError::BrokenBarrier));
    });
    queue.put(&7).unwrap();
    assert_eq!(queue.get_timeout(SOON), Ok(7), "the dead one has not taken it");
    drop(guard);
    let taken = lock.lock_timeout(SOON);
    assert!(!matches!(taken, Err(LockError::WouldBlock | LockError::Manager(_))), "{taken:?}");
}

#[test]
fn p29_clients_killed_in_the_middle_of_operations() {
    let case = Case::with_limit(Duration::from_secs(110));
    let manager = manager(&case);
    let (list, dict) =
        (manager.list::<u64>([]).unwrap(), manager.dict::<u64, Vec<u8>>([]).unwrap());
    let (lock, gate) = (manager.lock().unwrap(), Gate::new());
    let storm = |gate: String, list: List<u64>, dict: Dict<u64, Vec<u8>>, lock: Lock| {
        Gate::announce(&gate);
        for i in 0.. {
            let guard = lock.lock().or_else(LockError::recover).unwrap();
            list.push(&i).unwrap();
            drop(guard);
            dict.insert(&(i % 10), &vec![7; 100_000]).unwrap();
            dict.get(&(i % 10)).unwrap();
        }
    };
    for round in 1..=30 {
        let args = (gate.path(), list.clone(), dict.clone(), lock.clone());
        let process = case.process().spawn(storm, args).unwrap();
        gate.await_arrivals(round);
        let before = list.len().unwrap();
        eventually(SOON, "it works", || list.len().unwrap() > before);
        process.kill().unwrap();
        process.wait();
        drop(lock.lock().or_else(LockError::recover).unwrap());
    }
    assert!(dict.values().unwrap().iter().all(|value| value == &[7; 100_000]));
}

#[test]
fn p29_objects_go_with_their_last_client() {
    let case = Case::new();
    let manager = builder(&case).linger(Duration::ZERO).start().unwrap();
    let gate = Gate::new();
    drop(manager.list([1]).unwrap());
    assert_eq!(manager.objects(), Ok(0));
    let own = manager.value(1).unwrap();
    let make = |gate: String, manager: Manager, given: Value<i32>| {
        let _own: Vec<_> = (0..10).map(|i| manager.value(i).unwrap()).collect();
        given.set(&2).unwrap();
        Gate::wait_at(&gate);
    };
    let process =
        case.process().spawn(make, (gate.path(), manager_of(&manager), own.clone())).unwrap();
    gate.await_arrivals(1);
    assert_eq!(manager.objects(), Ok(11));
    process.kill().unwrap();
    process.wait();
    eventually(SOON, "its objects are gone", || manager.objects() == Ok(1));
    assert_eq!(own.get(), Ok(2));
    drop(own);
    assert_eq!(manager.objects(), Ok(0));
    let value = manager.value(5).unwrap();
    let other = value.clone();
    value.destroy().unwrap();
    assert_eq!(other.get(), Err(ManagerError::NoSuchObject));
}

/// The same manager, for somebody else.
fn manager_of(manager: &Manager) -> Manager {
    // a trip through serde is what arguments make
    let text = serde_json::to_string(manager).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn p29_a_proxy_on_its_way_keeps_its_object() {
    let case = Case::new();
    let manager = builder(&case).linger(Duration::ZERO).start().unwrap();
    // made in a process that has ended when its result is decoded; the bytes are this program's then
    let pool = case.pool(1);
    let gate = Gate::new();
    let use_it = |gate: String, list: List<u64>| {
        Gate::wait_at(&gate);
        list.snapshot().unwrap()
    };
    let list = manager.list([1, 2, 3]).unwrap();
    let first = pool.apply_async(|gate: String| Gate::wait_at(&gate), (gate.path(),)).unwrap();
    let handle = pool.apply_async(use_it, (gate.path(), list.clone())).unwrap();
    drop(list);
    assert_eq!(manager.objects(), Ok(1), "nobody has a proxy, but one is on its way");
    gate.let_pass(2);
    first.get().unwrap();
    assert_eq!(handle.get().unwrap(), [1, 2, 3]);
    eventually(SOON, "it is dropped after its last use", || manager.objects() == Ok(0));
}

#[test]
fn p29_a_result_of_a_dead_worker_keeps_its_object_for_a_while() {
    let case = Case::new();
    let manager = manager(&case);
    let make = |manager: Manager| manager.list([7_u64]).unwrap();
    let process = case.process().spawn(make, (manager_of(&manager),)).unwrap();
    process.wait();
    eventually(SOON, "it is gone", || !census::is_alive(process.pid().unwrap()));
    let list: List<u64> = process.join().unwrap();
    assert_eq!(list.snapshot().unwrap(), [7]);
}

#[test]
fn c6_192_proxies_travel_through_pools_threads_processes_and_results() {
    let case = Case::new();
    let manager = manager(&case);
    let list: List<u64> = manager.list([]).unwrap();
    let push = |list: List<u64>, x: u64| -> List<u64> {
        list.push(&x).unwrap();
        list
    };
    let pool = case.pool(2);
    let back = pool.starmap(push, (0..10).map(|x| (list.clone(), x))).unwrap();
    assert!(back.iter().all(|other| *other == list));
    let threads = dummy::Pool::new(2).unwrap();
    threads.starmap(push, (10..20).map(|x| (list.clone(), x))).unwrap();
    let nested = |list: List<u64>| {
        let pool = pool_tests::plain_pool(2);
        let push = |list: List<u64>, x: u64| list.push(&x).unwrap();
        pool.starmap(push, (20..30).map(|x| (list.clone(), x))).unwrap();
        let inner = Process::spawn(push, (list, 30)).unwrap();
        inner.join().unwrap();
    };
    pool.apply(nested, (list.clone(),)).unwrap();
    let queue: Queue<List<u64>> = manager.queue(None).unwrap();
    queue.put(&list).unwrap();
    let through = |queue: Queue<List<u64>>| queue.get().unwrap().push(&31).unwrap();
    case.process().spawn(through, (queue.clone(),)).unwrap().join().unwrap();
    let own = |manager: Manager| {
        let own = manager.list([1_u8]).unwrap();
        own.push(&2).unwrap();
        own
    };
    let made = pool.apply(own, (manager_of(&manager),)).unwrap();
    assert_eq!(made.snapshot().unwrap(), [1, 2]);
    let mut all = list.snapshot().unwrap();
    all.sort_unstable();
    assert_eq!(all, (0..32).collect::<Vec<_>>());
}

#[test]
fn p29_the_managers_death_is_an_error_on_every_proxy() {
    let case = Case::new();
    let manager = manager(&case);
    let (list, queue) = (manager.list([1]).unwrap(), manager.queue::<u8>(None).unwrap());
    let (lock, event) = (manager.lock().unwrap(), manager.event().unwrap());
    let gate = Gate::new();
    let elsewhere = |gate: String, event: Event| {
        Gate::announce(&gate);
        matches!(event.wait(), Err(ManagerError::Died { .. }))
    };
    let process = case.process().spawn(elsewhere, (gate.path(), event.clone())).unwrap();
    gate.await_arrivals(1);
    let guard = lock.lock().unwrap();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| queue.get().unwrap_err());
        let locks = scope.spawn(|| ManagerError::from(lock.lock().unwrap_err()));
        fault::send(manager.pid().unwrap(), Signal::SIGKILL);
        assert!(is_died(&waits.join().unwrap()));
        assert!(is_died(&locks.join().unwrap()));
    });
    assert_eq!(process.join(), Ok(true));
    drop(guard);
    assert!(is_died(&list.len().unwrap_err()) && is_died(&manager.ping().unwrap_err()));
    // a proxy that arrives when its manager has died is an error when it is used
    let late = case.process().spawn(|list: List<i32>| list.len(), (list.clone(),));
    drop(late.map(|late| late.join()));
    let pool = case.pool(1);
    let outcome = pool.apply(|list: List<i32>| list.len().is_err(), (list,));
    assert_eq!(outcome, Ok(true));
}

#[test]
fn p29_managers_killed_in_the_middle_of_operations() {
    let case = Case::new();
    let gate = Gate::new();
    let storm = |gate: String, list: List<u64>, lock: Lock| {
        Gate::announce(&gate);
        for i in 0.. {
            let outcome = lock.lock().or_else(LockError::recover).and_then(|_guard| list.push(&i));
            match outcome {
                Ok(_) => {}
                Err(ManagerError::Died { .. }) => return i,
                Err(other) => panic!("{other}"),
            }
        }
        0
    };
    for round in 1..=10 {
        let manager = manager(&case);
        let (list, lock) = (manager.list([]).unwrap(), manager.lock().unwrap());
        let client =
            || case.process().spawn(storm, (gate.path(), list.clone(), lock.clone())).unwrap();
        let clients = [client(), client()];
        gate.await_arrivals(2 * round);
        eventually(SOON, "they work", || list.len().unwrap() > 20);
        fault::send(manager.pid().unwrap(), Signal::SIGKILL);
        for client in &clients {
            within(SOON, "the client is told", || client.join().unwrap());
        }
        assert!(is_died(&list.len().unwrap_err()));
    }
}

#[test]
fn p29_a_stopped_manager_is_noticed() {
    let case = Case::new();
    let manager = manager(&case);
    let list = manager.list([1]).unwrap();
    let pid = manager.pid().unwrap();
    fault::send(pid, Signal::SIGSTOP);
    eventually(SOON, "it stops", || census::is_stopped(pid));
    let error = within(SOON, "the call gives up", || list.len().unwrap_err());
    assert!(matches!(error, ManagerError::Unresponsive { .. }), "{error}");
    // dropping it ends it all the same
}

#[test]
fn p29_a_long_operation_is_waited_for() {
    let case = Case::new();
    let manager = manager(&case);
    let gate = Gate::new();
    let value = manager.value(0).unwrap();
    let long = |value: &mut i32, gate: String| {
        Gate::wait_at(&gate);
        *value += 1;
    };
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| value.update(long, gate.path()));
        gate.await_arrivals(1);
        let (quick, other) = (manager.value(1).unwrap(), manager.lock().unwrap());
        assert_eq!(quick.get(), Ok(1), "others are not blocked");
        drop(other.lock().unwrap());
        gate.let_pass(1);
        slow.join().unwrap().unwrap();
    });
    assert_eq!(value.get(), Ok(1));
}

#[test]
fn p29_shutdown_and_drop_leave_nothing() {
    let case = Case::new();
    // in a process that has nothing else to do
    let many = |cookie: String| {
        let once = || {
            let process = Process::builder().env(census::COOKIE, cookie.clone());
            let manager = Manager::builder().process(process).start().unwrap();
            let list = manager.list([1]).unwrap();
            let pid = manager.pid().unwrap();
            drop(manager);
            assert!(!census::is_alive(pid));
            assert!(is_died(&list.len().unwrap_err()));
        };
        // the thread and the descriptors that look after processes stay
        once();
        let before = census::holdings(std::process::id());
        (0..10).for_each(|_| once());
        let after = census::holdings(std::process::id());
        let counts = |holdings: census::Holdings| {
            (holdings.descriptors, holdings.threads, holdings.children)
        };
        (counts(before), counts(after))
    };
    let process = case.process().spawn(many, (case.cookie().to_owned(),)).unwrap();
    let (before, after) = process.join().unwrap();
    assert_eq!(before, after, "descriptors, threads, children");
}

#[test]
fn p29_the_manager_ends_with_its_program() {
    let case = Case::new();
    let gate = Gate::new();
    let keep = |gate: String, cookie: String| {
        let process = Process::builder().env(census::COOKIE, cookie);
        let _manager = Manager::builder().process(process).start().unwrap();
        Gate::wait_at(&gate);
    };
    let args = (gate.path(), case.cookie().to_owned());
    let process = case.process().spawn(keep, args).unwrap();
    gate.await_arrivals(1);
    assert_eq!(case.processes().len(), 2);
    process.kill().unwrap();
    process.wait();
    eventually(SOON, "the manager is gone", || case.processes().is_empty());
}

#[test]
fn errors_are_errors() {
    fn is_error<E: std::error::Error + Send + Sync + 'static>() {}
    is_error::<ManagerError>();
    let error: anyhow::Error = ManagerError::Closed.into();
    assert_eq!(error.to_string(), "the queue was closed");
}
