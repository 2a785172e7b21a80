//! Shared objects on their way to workers and back, and what lies in shared memory: rows 184 and 187 to 190 of the conformance list.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]

use std::io::Write;
use std::time::Duration;

use nix::sys::signal::Signal;
use pool_core::{
    Array, ExitCause, Lock, Poisoned, RawArray, RawValue, SharedBytes, TaskError, TryLockError,
    Value,
};
use pool_tests::fault::{self, Fault};
use pool_tests::{Case, Gate, census, eventually, seats};

pool_core::test_support!();

const SOON: Duration = Duration::from_secs(30);

fn add(total: Value<u64>, times: u64) {
    for _ in 0..times {
        total.update(|total| *total += 1);
    }
}

// ---- the way there and back ----

#[test]
fn c6_184_more_shared_objects_than_fit_into_one_message() {
    let case = Case::new();
    let pool = case.pool(2);
    let locks: Vec<Lock> = (0..300).map(|_| Lock::new().unwrap()).collect();
    let free = |locks: Vec<Lock>| locks.iter().filter(|lock| lock.try_lock().is_ok()).count();
    assert_eq!(pool.apply(free, (locks.clone(),)), Ok(300));
    let _held = locks[299].lock().unwrap();
    assert_eq!(pool.apply(free, (locks.clone(),)), Ok(299), "each is the one that was meant");
    let many = vec![locks.clone(); 4].concat();
    assert_eq!(pool.apply(|locks: Vec<Lock>| locks.len(), (many,)), Ok(1200), "of 300 objects");
    let too_many: Vec<_> = (0..1001).map(|_| RawValue::new(0_u8).unwrap()).collect();
    let error = pool.apply(|values: Vec<RawValue<u8>>| values.len(), (too_many,)).unwrap_err();
    assert!(error.to_string().contains("more than 1000 shared objects"), "{error}");
}

#[test]
fn c6_184_objects_do_not_pile_up_in_worker_or_parent() {
    let case = Case::new();
    let pool = case.pool(1);
    let worker = seats(&pool, 1)[0];
    let total = Value::new(0_u64).unwrap();
    let mappings =
        || std::fs::read_to_string(format!("/proc/{worker}/maps")).unwrap().lines().count();
    let run = || pool.starmap(add, (0..1000).map(|_| (total.clone(), 1))).unwrap();
    run();
    let (holdings, maps) = (census::holdings(worker), mappings());
    (0..10).for_each(|_| drop(run()));
    assert_eq!(total.get(), 11_000);
    assert_eq!(census::holdings(worker).descriptors, holdings.descriptors);
    assert!(mappings() <= maps + 8, "{} -> {}", maps, mappings());
    for size in [1, 100_000] {
        // also with arguments that take the other way, and objects of their own
        for _ in 0..50 {
            let bytes = SharedBytes::from(vec![7; 100]);
            let sum = |bytes: SharedBytes, filler: Vec<u8>| bytes.len() + filler.len();
            assert_eq!(pool.apply(sum, (bytes, vec![0; size])), Ok(100 + size));
        }
    }
    assert_eq!(census::holdings(worker).descriptors, holdings.descriptors);
    assert!(mappings() <= maps + 8);
}

#[test]
fn c6_184_an_object_may_be_retried_on_another_worker() {
    let case = Case::new();
    let pool = case.pool(1);
    let seen = RawValue::new(0_u32).unwrap();
    let second_time = |seen: RawValue<u32>| {
        if seen.fetch_add(1) == 0 {
            Fault::Abort.happen();
        }
        seen.get()
    };
    // the caller keeps no handle: the task does
    let task = pool.task(second_time).retries(1).apply_async((seen,)).unwrap();
    assert_eq!(task.get(), Ok(2));
}

#[test]
fn c6_184_queued_tasks_take_their_objects_along_when_a_worker_dies() {
    let case = Case::new();
    let pool = case.pool(2);
    let gate = Gate::new();
    let total = Value::new(0_u64).unwrap();
    let wait = |gate: String| {
        Gate::wait_at(&gate);
        std::process::id()
    };
    let blocked: Vec<_> = (0..2).map(|_| pool.apply_async(wait, (gate.path(),)).unwrap()).collect();
    let adds: Vec<_> =
        (0..500).map(|_| pool.apply_async(add, (total.clone(), 2)).unwrap()).collect();
    let pids = gate.await_arrivals(2);
    fault::send(pids[0], Signal::SIGKILL);
    // it must not take what is for the other one
    eventually(Duration::from_secs(20), "it is dead", || !census::is_alive(pids[0]));
    gate.let_pass(1);
    let lost = blocked.into_iter().map(pool_core::AsyncResult::get).filter(Result::is_err).count();
    assert_eq!(lost, 1);
    adds.into_iter().for_each(|add| add.get().unwrap());
    assert_eq!(total.get(), 1000);
}

#[test]
fn c6_184_results_name_what_came_from_the_parent() {
    let case = Case::new();
    let pool = case.pool(1);
    let value = Value::new(1_u64).unwrap();
    let back = pool.apply(|v: Value<u64>| v, (value.clone(),)).unwrap();
    back.set(2);
    assert_eq!(value.get(), 2, "it is the same one");
    // also if nobody here has a handle any more when the task ends
    let bytes = SharedBytes::from(b"abc".to_vec());
    assert_eq!(&*pool.apply(|bytes: SharedBytes| bytes, (bytes,)).unwrap(), b"abc");
    assert_eq!(&*pool.apply(|b: SharedBytes| b, (SharedBytes::from(Vec::new()),)).unwrap(), b"");
    let each = pool.map(|v: Value<u64>| v, vec![value.clone(), Value::new(7).unwrap()]).unwrap();
    assert_eq!(each.iter().map(Value::get).collect::<Vec<_>>(), [2, 7]);
    // callbacks have the value also if nobody has the handle, or it is one for many tasks
    let (sender, seen) = std::sync::mpsc::channel();
    let tell = {
        let sender = sender.clone();
        move |value: &Value<u64>| sender.send(Ok(value.get())).unwrap()
    };
    let fail = move |error: &TaskError| sender.send(Err(error.clone())).unwrap();
    let call = || pool.task(|v: Value<u64>| v).on_success(tell.clone()).on_error(fail.clone());
    drop(call().apply_async((Value::new(5).unwrap(),)).unwrap());
    assert_eq!(seen.recv_timeout(SOON), Ok(Ok(5)));
    let (sender, mapped) = std::sync::mpsc::channel();
    let tell = move |values: &Vec<Value<u64>>| {
        sender.send(values.iter().map(Value::get).collect::<Vec<_>>()).unwrap();
    };
    let call = pool.task(|v: Value<u64>| v).chunk_size(1).on_success(tell);
    let each = call.map(vec![Value::new(8).unwrap(), Value::new(9).unwrap()]).unwrap();
    assert_eq!(mapped.recv_timeout(SOON), Ok(vec![8, 9]));
    assert_eq!(each.iter().map(Value::get).collect::<Vec<_>>(), [8, 9]);
    let error = pool.apply(|| Lock::new().unwrap(), ()).unwrap_err();
    assert!(
        matches!(&error, TaskError::Encode(text) if text.contains("made in a worker")),
        "{error}"
    );
    let mixed = |x: u32| if x == 1 { Some(Lock::new().unwrap()) } else { None };
    let outcomes = pool.task(mixed).chunk_size(3).map_async(0..3).unwrap().get_each();
    assert_eq!(outcomes.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
}

#[test]
fn c6_184_elsewhere_a_shared_object_says_where_it_can_go() {
    let value = Value::new(1_u64).unwrap();
    let text = "can only be passed in the arguments and results of tasks";
    let error = serde_json::to_string(&value).unwrap_err().to_string();
    assert!(error.contains(text), "{error}");
    let json = r#"{"id":[1,2],"kind":{"what":"Value","unit":8},"len":72,"index":0}"#;
    let error = serde_json::from_str::<Value<u64>>(json).unwrap_err().to_string();
    assert!(error.contains(text), "{error}");
}

#[test]
fn c6_184_initializers_and_nested_pools_get_them_too() {
    use std::sync::OnceLock;
    static TOTAL: OnceLock<Value<u64>> = OnceLock::new();
    let case = Case::new();
    let total = Value::new(0_u64).unwrap();
    let pool = case
        .builder(2)
        .initializer(|total: Value<u64>| TOTAL.set(total).is_ok(), (total.clone(),))
        .build()
        .unwrap();
    pool.map(|n: u64| add(TOTAL.get().unwrap().clone(), n), [1, 2, 3]).unwrap();
    assert_eq!(total.get(), 6);
    let nested = |total: Value<u64>| -> anyhow::Result<u64> {
        let inner = pool_tests::plain_builder(2).build()?;
        inner.starmap(add, [(total.clone(), 10), (total.clone(), 20)])?;
        let made_here = Value::new(5_u64)?;
        inner.apply(add, (made_here.clone(), 1))?;
        let back = inner.apply(|value: Value<u64>| value, (made_here,))?;
        Ok(back.get())
    };
    assert_eq!(pool.apply(nested, (total.clone(),)), Ok(6));
    assert_eq!(total.get(), 36);
}

// ---- what lies in it ----

#[test]
fn c6_190_a_block_is_the_same_memory_everywhere() {
    let case = Case::new();
    let pool = case.pool(2);
    let bytes = SharedBytes::from((0..=255_u8).cycle().take(1 << 20).collect::<Vec<u8>>());
    let sum = |bytes: SharedBytes| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    assert_eq!(pool.map(sum, vec![bytes.clone(); 4]), Ok(vec![4096 * 255 * 128; 4]));
    assert_eq!(bytes.len(), 1 << 20);
    assert!(SharedBytes::from(Vec::new()).is_empty());
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"from a file").unwrap();
    let copied = SharedBytes::from_file(&file).unwrap();
    // SAFETY: nobody else has the file.
    #[allow(unsafe_code, reason = "the contract is kept")]
    let mapped = unsafe { SharedBytes::map_file(&file) }.unwrap();
    for block in [copied, mapped] {
        assert_eq!(
            pool.apply(|block: SharedBytes| block.to_vec(), (block,)).unwrap(),
            b"from a file"
        );
    }
}

#[test]
fn c6_190_a_gigabyte_is_passed_without_a_copy() {
    let case = Case::new();
    let pool = case.pool(2);
    // a file with a hole: a gigabyte that takes no memory
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 30).unwrap();
    // SAFETY: nobody else has the file.
    #[allow(unsafe_code, reason = "the contract is kept")]
    let block = unsafe { SharedBytes::map_file(&file) }.unwrap();
    let ends = |block: SharedBytes| (block.len(), block[0], block[block.len() - 1]);
    assert_eq!(pool.apply(ends, (block.clone(),)), Ok((1 << 30, 0, 0)));
    let worker_pids = seats(&pool, 2);
    for _ in 0..100 {
        pool.apply(ends, (block.clone(),)).unwrap();
    }
    for pid in worker_pids {
        assert!(census::rss_kib(pid) < 200 << 10, "nobody holds a copy");
    }
}

#[test]
fn c6_188_values_and_arrays_are_changed_under_their_lock() {
    let case = Case::new();
    let pool = case.pool(4);
    let total = Value::new(0_u64).unwrap();
    pool.starmap(add, (0..40).map(|_| (total.clone(), 1000))).unwrap();
    assert_eq!(total.get(), 40_000);

    let array = Array::<u32>::zeroed(10).unwrap();
    assert_eq!(array.to_vec(), [0; 10], "from a size: zeros");
    let shift = |array: Array<u32>| {
        let mut guard = array.lock().unwrap_or_else(Poisoned::into_inner);
        for i in 0..guard.len() {
            guard[i] += i as u32;
        }
        guard.rotate_left(1);
        guard.rotate_right(1);
    };
    pool.map(shift, vec![array.clone(); 20]).unwrap();
    assert_eq!(array.to_vec(), (0..10).map(|i| 20 * i).collect::<Vec<_>>());
    array.write(3, &[1, 2]);
    let mut part = [0; 4];
    array.read(2, &mut part);
    assert_eq!(part, [40, 1, 2, 100]);
    assert_eq!(Array::from_slice(&[1.5, 2.5]).unwrap().get(1), 2.5);
    assert!(Array::<u8>::zeroed(0).unwrap().is_empty());
    assert!(matches!(array.try_lock().map(drop), Ok(())));
    let guard = array.lock().unwrap();
    assert!(matches!(array.try_lock(), Err(TryLockError::WouldBlock)));
    assert!(array.lock_timeout(Duration::from_millis(5)).unwrap_err().is_would_block());
    drop(guard);
    assert!(std::panic::catch_unwind(|| array.get(10)).is_err());
    assert!(array.lock().is_ok(), "an index that does not exist poisons nothing");
}

#[test]
fn c6_188_raw_variants_are_atomic_by_element() {
    let case = Case::new();
    let pool = case.pool(4);
    let array = RawArray::<i64>::zeroed(4).unwrap();
    let bump = |array: RawArray<i64>, by: i64| {
        for _ in 0..1000 {
            array.fetch_add(1, by);
        }
    };
    pool.starmap(bump, [3, -1, 4, -2].map(|by| (array.clone(), by))).unwrap();
    assert_eq!(array.to_vec(), [0, 4000, 0, 0]);
    array.set(0, 9);
    assert_eq!(
        (array.get(0), array.swap(0, 8), array.fetch_max(0, 20), array.get(0)),
        (9, 9, 8, 20)
    );
    assert_eq!(array.compare_exchange(0, 20, 1), Ok(20));
    assert_eq!(array.compare_exchange(0, 20, 2), Err(1));
    // a type of three words, and one of single bytes
    let triples = RawArray::from_slice(&[[1_u64, 2, 3], [4, 5, 6]]).unwrap();
    assert_eq!(pool.apply(|t: RawArray<[u64; 3]>| t.get(1), (triples,)), Ok([4, 5, 6]));
    let odd = RawArray::from_slice(&[[1_u8, 2, 3], [4, 5, 6]]).unwrap();
    odd.set(0, [7, 8, 9]);
    assert_eq!(
        pool.apply(|t: RawArray<[u8; 3]>| t.to_vec(), (odd,)),
        Ok(vec![[7, 8, 9], [4, 5, 6]])
    );
}

#[test]
fn c6_189_structs_are_shared_as_they_are() {
    #[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
    #[repr(C)]
    struct Point {
        x: f64,
        y: f64,
    }
    let case = Case::new();
    let pool = case.pool(2);
    let points = Array::from_slice(&[Point { x: 1.0, y: 2.0 }; 3]).unwrap();
    let scale = |points: Array<Point>, i: usize, by: f64| {
        let mut points = points.lock().unwrap();
        points[i].x *= by;
    };
    pool.starmap(scale, (0..3).map(|i| (points.clone(), i, i as f64))).unwrap();
    let copy = points.to_vec();
    points.set(0, Point { x: 9.0, y: 9.0 });
    assert_eq!(copy.map_x(), [0.0, 1.0, 2.0], "a copy is a copy");

    trait Xs {
        fn map_x(&self) -> Vec<f64>;
    }
    impl Xs for Vec<Point> {
        fn map_x(&self) -> Vec<f64> {
            self.iter().map(|point| point.x).collect()
        }
    }
}

// ---- deaths ----

#[test]
fn c6_187_the_next_taker_gets_the_lock_of_the_dead_and_is_told() {
    let case = Case::new();
    let pool = case.pool(1);
    let value = Value::new(1_u64).unwrap();
    let die = |value: Value<u64>| {
        let mut guard = value.lock().unwrap_or_else(Poisoned::into_inner);
        *guard += 1;
        Fault::Raise(9).happen();
    };
    let lost = pool.apply(die, (value.clone(),));
    assert!(matches!(
        lost,
        Err(TaskError::WorkerLost { cause: ExitCause::Signaled { signal: 9, .. }, .. })
    ));
    let poisoned = value.lock().unwrap_err();
    assert_eq!(**poisoned.get_ref(), 2);
    drop(poisoned);
    // not repaired: told again, here and elsewhere
    assert!(matches!(value.try_lock(), Err(TryLockError::Poisoned(_))));
    assert_eq!(pool.apply(|value: Value<u64>| value.lock().is_err(), (value.clone(),)), Ok(true));
    pool.apply(die, (value.clone(),)).unwrap_err();
    *value.lock().unwrap_err().recover() = 10;
    assert_eq!(*value.lock().unwrap(), 10);
    // a panic is told in the same way
    let panics = |value: Value<u64>| {
        let _guard = value.lock().unwrap();
        Fault::Panic.happen();
    };
    assert!(matches!(pool.apply(panics, (value.clone(),)), Err(TaskError::Panicked { .. })));
    assert!(
        value.lock_timeout(Duration::from_secs(20)).is_err_and(|error| !error.is_would_block())
    );
}

#[test]
fn c6_187_a_sleeper_gets_the_lock_of_who_is_killed_meanwhile() {
    let case = Case::new();
    let pool = case.pool(2);
    let (gate, lock) = (Gate::new(), Lock::new().unwrap());
    let hold = |lock: Lock, gate: String| {
        let _guard = lock.lock();
        Gate::wait_at(&gate);
    };
    let held = pool.apply_async(hold, (lock.clone(), gate.path())).unwrap();
    let holder = gate.await_arrivals(1)[0];
    let sleeper = pool.apply_async(|lock: Lock| lock.lock().is_err(), (lock.clone(),)).unwrap();
    eventually(Duration::from_secs(20), "the other one runs", || sleeper.pid().is_some());
    assert!(lock.lock_timeout(Duration::from_millis(1)).unwrap_err().is_would_block());
    fault::send(holder, Signal::SIGKILL);
    assert_eq!(sleeper.get(), Ok(true));
    held.get().unwrap_err();
}

#[test]
fn r_79_memory_lives_until_its_last_user_is_gone() {
    let case = Case::new();
    let pool = case.pool(2);
    let array = Array::<u64>::zeroed(1 << 20).unwrap();
    let write = |array: Array<u64>| {
        array.set(0, 42);
        Fault::Raise(9).happen();
    };
    pool.apply(write, (array.clone(),)).unwrap_err();
    assert_eq!(array.get(0), 42, "who wrote it is dead");
    let gate = Gate::new();
    let last = |array: Array<u64>, gate: String| {
        Gate::wait_at(&gate);
        array.get(0)
    };
    let task = pool.apply_async(last, (array, gate.path())).unwrap();
    gate.await_arrivals(1);
    gate.let_pass(1);
    assert_eq!(task.get(), Ok(42), "who made it has dropped it");
}

#[test]
fn c6_184_a_worker_without_descriptors_tells_so_and_lives() {
    use nix::sys::resource::{Resource, setrlimit};
    let case = Case::new();
    let pool = case.pool(1);
    let pid = pool.apply(std::process::id, ()).unwrap();
    let few = || setrlimit(Resource::RLIMIT_NOFILE, 40, 40).unwrap();
    pool.apply(few, ()).unwrap();
    let locks: Vec<Lock> = (0..200).map(|_| Lock::new().unwrap()).collect();
    let error = pool.apply(|locks: Vec<Lock>| locks.len(), (locks.clone(),)).unwrap_err();
    assert!(
        matches!(&error, TaskError::Decode(text) if text.contains("too many files")),
        "{error}"
    );
    let one = pool.apply(|lock: Lock| lock.try_lock().is_ok(), (locks[199].clone(),));
    assert_eq!(one, Ok(true));
    assert_eq!(pool.apply(std::process::id, ()), Ok(pid), "the same worker");
}

#[test]
fn handles_are_for_all_threads() {
    fn is_shared<T: Clone + Send + Sync + serde::Serialize + 'static>() {}
    use pool_core::{Barrier, BoundedSemaphore, Condition, Event, Pipe, Queue, RLock, Semaphore};
    // also for items that are not, as far as a type may say so
    is_shared::<(SharedBytes, Array<u8>, Value<u8>, RawArray<u8>, RawValue<u8>)>();
    is_shared::<(Lock, RLock, Semaphore, BoundedSemaphore, Condition, Event, Barrier)>();
    is_shared::<(Queue<std::cell::Cell<u8>>, Pipe<std::cell::Cell<u8>, u8>)>();
}
