//! Workers: what each has of its own, how they begin and leave, and how many there are.

use std::collections::{BTreeMap, HashSet};
use std::num::NonZero;
use std::time::Duration;

use pool_core::{PoolError, TaskError, WorkerState, worker};
use pool_tests::{Case, Gate, Ledger, eventually};
use serde::{Deserialize, Serialize};

use crate::{Backend, SOON, square, squares, wait_at};

with_both![
    c1_28_recycling_replaces_every_worker_and_loses_nothing,
    c1_28_workers_that_are_too_old_are_replaced,
    c1_33_one_worker_that_can_not_start_ends_all,
    c1_34_a_pool_of_200_workers,
    c1_36_every_task_sees_what_the_initializer_has_set_up,
    c1_37_an_initializer_that_fails_is_told_with_its_text,
    c1_52_workers_are_started_when_tasks_wait_and_used_again,
    c1_64_seats_and_names_are_stable_and_visible,
    c1_64_a_task_knows_its_worker_and_its_number,
    c1_65_all_workers_read_one_shared_object,
    c1_66_a_worker_keeps_its_state,
    c1_67_finalizers_give_results,
    c1_67_a_finalizer_that_fails_is_told,
    c1_68_workers_run_on_the_cpus_that_were_named,
    c1_68_niceness_is_that_of_the_worker,
    c2_99_workers_and_stats_tell_what_is_going_on,
    c4_158_workers_that_are_idle_leave_and_come_back,
    c4_159_resize_under_load_loses_nothing,
    c4_159_resize_refuses_what_makes_no_sense,
];

/// The thread that runs this, which is a worker's for as long as it lives.
fn who() -> i32 {
    nix::unistd::gettid().as_raw()
}

fn c1_28_recycling_replaces_every_worker_and_loses_nothing(backend: Backend) {
    let case = Case::new();
    let ten = NonZero::new(10).unwrap();
    let pool = backend.builder(&case, 2).max_tasks_per_child(ten).build().unwrap();
    let with_worker = |x: u64| (x * x, who());
    let results = pool.task(with_worker).chunk_size(1).map(0..100).unwrap();
    assert!(results.iter().map(|(square, _)| *square).eq(squares(0..100)));
    let mut tasks_of: BTreeMap<i32, usize> = BTreeMap::new();
    results.iter().for_each(|(_, worker)| *tasks_of.entry(*worker).or_default() += 1);
    assert!(tasks_of.values().all(|&tasks| tasks <= 10), "{tasks_of:?}");
    assert!(tasks_of.len() >= 10);
    // row 31: items count, not chunks
    let results = pool.task(with_worker).chunk_size(10).map(0..100).unwrap();
    let workers: HashSet<_> = results.iter().map(|(_, worker)| *worker).collect();
    assert!(workers.len() >= 9, "each chunk fills a worker's measure: {workers:?}");
    assert_eq!(pool.stats().workers_lost, 0, "leaving is not dying");
    assert!(pool.stats().workers_started >= 20);
}

fn c1_28_workers_that_are_too_old_are_replaced(backend: Backend) {
    let case = Case::new();
    let age = Duration::from_millis(30);
    let pool = backend.builder(&case, 1).max_age(age).build().unwrap();
    let mut seen = Vec::new();
    let mut submitted = 0;
    eventually(SOON, "four workers have had their time", || {
        let worker = pool.apply(who, ()).unwrap();
        submitted += 1;
        if seen.last() != Some(&worker) {
            seen.push(worker);
        }
        seen.len() > 3
    });
    let stats = pool.stats();
    assert_eq!((stats.submitted, stats.finished, stats.workers_lost), (submitted, submitted, 0));
}

#[derive(Debug)]
struct Table {
    squares: Vec<u64>,
    used: u64,
}

fn load_table(ledger: String, size: u64) {
    Ledger::note(&ledger, who().unsigned_abs().into());
    worker::set_state(Table { squares: squares(0..size), used: 0 });
}

fn look_up(index: usize) -> (i32, u64, u64) {
    let mut table = worker::state::<Table>();
    table.used += 1;
    (who(), table.squares[index], table.used)
}

fn c1_36_every_task_sees_what_the_initializer_has_set_up(backend: Backend) {
    let case = Case::new();
    let ledger = Ledger::new();
    let three = NonZero::new(3).unwrap();
    let builder = backend.builder(&case, 3).initializer(load_table, (ledger.path(), 100));
    let pool = builder.max_tasks_per_child(three).build().unwrap();
    let found = pool.task(look_up).chunk_size(1).map(0..90).unwrap();
    assert!(found.iter().map(|(_, square, _)| *square).eq(squares(0..90)));
    pool.close();
    pool.join().unwrap();
    assert!(ledger.notes().len() >= 30, "one for each worker, the replacements too");
    ledger.assert_at_most_once();
    assert!(found.iter().all(|(worker, ..)| ledger.count(worker.unsigned_abs().into()) == 1));
}

fn c1_66_a_worker_keeps_its_state(backend: Backend) {
    let case = Case::new();
    let ledger = Ledger::new();
    let two = NonZero::new(2).unwrap();
    let builder = backend.builder(&case, 1).initializer(load_table, (ledger.path(), 10));
    let pool = builder.max_tasks_per_child(two).build().unwrap();
    let used: Vec<_> = (0..6).map(|x| pool.apply(look_up, (x,)).unwrap().2).collect();
    assert_eq!(used, [1, 2, 1, 2, 1, 2], "kept by a worker, new for the next one");
    // of another type, borrowed twice, none
    let wrong = pool.apply(|| *worker::state::<u64>(), ()).unwrap_err().to_string();
    assert!(wrong.contains("no state of type u64"), "{wrong}");
    let twice = || {
        let _first = worker::state::<Table>();
        worker::try_state::<Table>().is_none() && worker::try_state::<u8>().is_none()
    };
    assert_eq!(pool.apply(twice, ()), Ok(true));
    // a panic while it is borrowed gives it back
    let panics = || -> () {
        let mut table = worker::state::<Table>();
        table.used = 77;
        panic!("with the state in its hands");
    };
    let pool = backend.builder(&case, 1).initializer(load_table, (ledger.path(), 10));
    let pool = pool.build().unwrap();
    assert!(matches!(pool.apply(panics, ()), Err(TaskError::Panicked { .. })));
    assert_eq!(pool.apply(look_up, (3,)).map(|(_, square, used)| (square, used)), Ok((9, 78)));
    assert!(worker::try_state::<Table>().is_none(), "not on this thread");
}

fn c1_37_an_initializer_that_fails_is_told_with_its_text(backend: Backend) {
    let case = Case::new();
    let fails = || -> anyhow::Result<()> { anyhow::bail!("no table today") };
    let error = backend.builder(&case, 2).initializer(fails, ()).build().unwrap_err();
    assert_eq!(error, PoolError::InitFailed("no table today".to_owned()));
    let panics = || -> () { panic!("no table ever") };
    let error = backend.builder(&case, 2).initializer(panics, ()).build().unwrap_err();
    let PoolError::InitFailed(text) = &error else { panic!("{error:?}") };
    assert!(text.contains("no table ever"), "{text}");
    // one that fails in a replacement ends the pool, and says why
    let first_only = |ledger: String| -> anyhow::Result<()> {
        Ledger::note(&ledger, 0);
        let lines = std::fs::read_to_string(&ledger)?.lines().count();
        anyhow::ensure!(lines == 1, "the second time it fails");
        Ok(())
    };
    let ledger = Ledger::new();
    let one = NonZero::new(1).unwrap();
    let builder = backend.builder(&case, 1).initializer(first_only, (ledger.path(),));
    let pool = builder.max_tasks_per_child(one).build().unwrap();
    assert_eq!(pool.apply(square, (2,)), Ok(4));
    let text = "the second time it fails".to_owned();
    match pool.apply(square, (3,)) {
        Err(TaskError::InitFailed(told)) => assert_eq!(told, text),
        // it had broken before the call
        Err(TaskError::PoolBroken(told)) => assert!(told.contains(&text), "{told}"),
        other => panic!("{other:?}"),
    }
    let broken = pool.join().unwrap_err().to_string();
    assert!(broken.contains(&text), "{broken}");
}

fn c1_33_one_worker_that_can_not_start_ends_all(backend: Backend) {
    let case = Case::new();
    let third_fails = || -> anyhow::Result<()> {
        anyhow::ensure!(worker::index().unwrap().get() != 2, "the third one can't");
        Ok(())
    };
    let error = backend.builder(&case, 4).initializer(third_fails, ()).build().unwrap_err();
    assert_eq!(error, PoolError::InitFailed("the third one can't".to_owned()));
    case.assert_nothing_left();
}

fn c1_52_workers_are_started_when_tasks_wait_and_used_again(backend: Backend) {
    let case = Case::new();
    let gate = Gate::new();
    let pool = backend.builder(&case, 4).min_size(1).build().unwrap();
    assert_eq!(pool.workers().len(), 1);
    let workers: HashSet<_> = (0..50).map(|_| pool.apply(who, ()).unwrap()).collect();
    assert_eq!((workers.len(), pool.stats().workers_started), (1, 1), "the idle one is used");
    let handles: Vec<_> =
        (0..10).map(|_| pool.apply_async(wait_at, (gate.path(),)).unwrap()).collect();
    gate.await_arrivals(4);
    assert_eq!(pool.workers().len(), 4, "as many as were allowed");
    gate.let_pass(10);
    assert!(handles.into_iter().all(|handle| handle.get().is_ok()));
    assert_eq!(pool.stats().workers_started, 4);
}

fn c4_158_workers_that_are_idle_leave_and_come_back(backend: Backend) {
    let case = Case::new();
    let builder = backend.builder(&case, 3).min_size(1).idle_timeout(Duration::from_millis(20));
    let pool = builder.build().unwrap();
    for round in 0..5u64 {
        let gate = Gate::new();
        let handles: Vec<_> =
            (0..3).map(|_| pool.apply_async(wait_at, (gate.path(),)).unwrap()).collect();
        gate.await_arrivals(3);
        gate.let_pass(3);
        assert!(handles.into_iter().all(|handle| handle.get().is_ok()), "{round}");
        eventually(SOON, "all but one have left", || pool.workers().len() == 1);
    }
    // submitting while they leave
    for x in 0..300 {
        let handles: Vec<_> = (0..3).map(|i| pool.apply_async(square, (x + i,)).unwrap()).collect();
        if x % 30 == 0 {
            eventually(SOON, "some have left", || pool.workers().len() < 3);
        }
        for (i, handle) in handles.into_iter().enumerate() {
            assert_eq!(handle.get(), Ok(square(x + i as u64)));
        }
    }
    let stats = pool.stats();
    assert_eq!(stats.workers_lost, 0, "leaving is not dying");
    assert!(stats.workers_started >= 11, "{stats:?}");
}

fn c4_159_resize_under_load_loses_nothing(backend: Backend) {
    let case = Case::new();
    let ledger = Ledger::new();
    let pool = backend.pool(&case, 2);
    let note = |ledger: String, number: u64| {
        Ledger::note(&ledger, number);
        number
    };
    let handles: Vec<_> = (0..400)
        .map(|number| {
            if number % 20 == 0 {
                pool.resize(1 + (number as usize / 20 * 7) % 5).unwrap();
            }
            pool.apply_async(note, (ledger.path(), number)).unwrap()
        })
        .collect();
    for size in [5, 1, 4, 2, 1, 3] {
        pool.resize(size).unwrap();
        eventually(SOON, "the pool has its size", || {
            let stays = |w: &&pool_core::WorkerInfo| w.state() != WorkerState::Stopping;
            pool.workers().iter().filter(stays).count() == size
        });
    }
    for (number, handle) in handles.into_iter().enumerate() {
        assert_eq!(handle.get(), Ok(number as u64));
    }
    ledger.assert_at_most_once();
    assert_eq!(pool.stats().workers_lost, 0);
    // all of them work
    let gate = Gate::new();
    let at_work: Vec<_> =
        (0..3).map(|_| pool.apply_async(wait_at, (gate.path(),)).unwrap()).collect();
    gate.await_arrivals(3);
    // one that is busy leaves when it has finished
    pool.resize(1).unwrap();
    let queued = pool.apply_async(square, (5,)).unwrap();
    gate.let_pass(3);
    assert!(at_work.into_iter().all(|handle| handle.get().is_ok()));
    assert_eq!(queued.get(), Ok(25));
    eventually(SOON, "one is left", || pool.workers().len() == 1);
    assert_eq!(pool.stats().workers_lost, 0);
}

fn c4_159_resize_refuses_what_makes_no_sense(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 1);
    for size in [0, 1 << 40] {
        assert!(matches!(pool.resize(size), Err(PoolError::Config(_))));
    }
    assert_eq!(pool.apply(square, (2,)), Ok(4));
}

fn c1_64_a_task_knows_its_worker_and_its_number(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 3);
    let about =
        |_: u8| (worker::index().map(|i| i.get()), worker::task_id().map(|id| id.get()), who());
    let told = pool.task(about).chunk_size(1).map(0..60).unwrap();
    let mut seats: BTreeMap<u32, HashSet<i32>> = BTreeMap::new();
    for (i, (seat, id, worker)) in told.into_iter().enumerate() {
        assert_eq!(id, Some(i as u64 + 1));
        seats.entry(seat.unwrap()).or_default().insert(worker);
    }
    assert!(seats.keys().all(|&seat| seat < 3));
    assert!(seats.values().all(|workers| workers.len() == 1), "a seat for each: {seats:?}");
    // in the initializer there is a seat, and no task
    let set = || worker::set_state((worker::index().is_some(), worker::task_id().is_none()));
    let pool = backend.builder(&case, 1).initializer(set, ()).build().unwrap();
    assert_eq!(pool.apply(|| *worker::state::<(bool, bool)>(), ()), Ok((true, true)));
    assert_eq!((worker::index(), worker::task_id()), (None, None), "this is no worker");
}

/// How often a value of this type was encoded and decoded in this process.
static CODED: [std::sync::atomic::AtomicU32; 2] =
    [const { std::sync::atomic::AtomicU32::new(0) }; 2];

#[derive(Clone, Debug, PartialEq)]
struct Counted(Vec<u64>);

impl Serialize for Counted {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        CODED[0].fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Counted {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        CODED[1].fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Vec::deserialize(deserializer).map(Counted)
    }
}

fn coded() -> [u32; 2] {
    CODED.each_ref().map(|count| count.load(std::sync::atomic::Ordering::Relaxed))
}

fn c1_65_all_workers_read_one_shared_object(backend: Backend) {
    let case = Case::new();
    // larger than what arguments and initializers may carry in one message
    let object = Counted(squares(0..200_000));
    let encoded_before = coded()[0];
    let thirty = NonZero::new(30).unwrap();
    let builder = backend.builder(&case, 3).shared(object).max_tasks_per_child(thirty);
    let pool = builder.build().unwrap();
    let look_up = |i: usize| (worker::shared::<Counted>().0[i], coded()[1]);
    let found = pool.task(look_up).chunk_size(1).map(0..200).unwrap();
    assert!(found.iter().map(|(square, _)| *square).eq(squares(0..200)));
    let once = u32::from(!backend.is_threads());
    assert!(found.iter().all(|(_, decoded)| *decoded == once), "decoded once per process");
    assert_eq!(coded()[0] - encoded_before, once, "encoded once for all");
    let wrong = pool.apply(|| worker::shared::<String>().len(), ()).unwrap_err().to_string();
    assert!(wrong.contains("shared object") && wrong.contains("String"), "{wrong}");
    assert!(pool.apply(look_up, (7,)).is_ok(), "it is still there");
    let none = backend.pool(&case, 1).apply(|| worker::shared::<String>().len(), ());
    assert!(none.unwrap_err().to_string().contains("no shared object"));
}

fn big_count(size: usize) -> (u64, Vec<u8>) {
    (worker::state::<Table>().used, vec![7; size])
}

fn c1_67_finalizers_give_results(backend: Backend) {
    let case = Case::new();
    let ledger = Ledger::new();
    // a large result, and one for each worker that leaves in good order
    for (per_child, size) in [(None, 3 << 20), (NonZero::new(5), 10)] {
        let mut builder = backend
            .builder(&case, 2)
            .initializer(load_table, (ledger.path(), 100))
            .finalizer(big_count, (size,));
        if let Some(per_child) = per_child {
            builder = builder.max_tasks_per_child(per_child);
        }
        let pool = builder.build().unwrap();
        pool.task(look_up).chunk_size(1).map(0..50).unwrap();
        pool.close();
        pool.join().unwrap();
        let results = pool.finalized::<(u64, Vec<u8>)>();
        let results: Vec<_> = results.into_iter().map(Result::unwrap).collect();
        assert_eq!(results.iter().map(|(used, _)| used).sum::<u64>(), 50);
        assert!(
            results.iter().all(|(_, bytes)| bytes.len() == size && bytes.iter().all(|b| *b == 7))
        );
        // a replacement that was still starting when the pool had nothing left to do has nothing to tell
        let least = if per_child.is_some() { 10 } else { 2 };
        assert!((least..=least + 2).contains(&results.len()), "{}", results.len());
        assert!(pool.finalized::<(u64, Vec<u8>)>().is_empty(), "each result is given once");
        assert_eq!(pool.stats().workers_lost, 0);
    }
    // not those that are killed
    let pool = backend.builder(&case, 2).finalizer(|| 1u8, ()).build().unwrap();
    pool.terminate();
    assert!(pool.finalized::<u8>().is_empty());
}

fn c1_67_a_finalizer_that_fails_is_told(backend: Backend) {
    let case = Case::new();
    let fails = || -> anyhow::Result<u8> { anyhow::bail!("nothing to show") };
    let pool = backend.builder(&case, 1).finalizer(fails, ()).build().unwrap();
    assert_eq!(pool.apply(square, (2,)), Ok(4));
    pool.close();
    pool.join().unwrap();
    assert_eq!(pool.finalized(), [Err::<u8, _>(TaskError::Failed("nothing to show".to_owned()))]);
    let panics = || -> u8 { panic!("at the very end") };
    let pool = backend.builder(&case, 2).finalizer(panics, ()).build().unwrap();
    pool.close();
    pool.join().unwrap();
    let told = pool.finalized::<u8>();
    assert_eq!(told.len(), 2);
    assert!(told.iter().all(
        |o| matches!(o, Err(TaskError::Panicked { message, .. }) if message == "at the very end")
    ));
}

/// The CPUs that the calling thread may use, as the kernel lists them.
fn allowed_cpus() -> String {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.unwrap().trim().to_owned()
}

fn usable_cpus() -> Vec<usize> {
    let set = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).unwrap();
    (0..nix::sched::CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap()).collect()
}

fn c1_68_workers_run_on_the_cpus_that_were_named(backend: Backend) {
    let case = Case::new();
    let usable = usable_cpus();
    let named: Vec<usize> = [usable[0], *usable.last().unwrap()].into();
    let before = allowed_cpus();
    let pool = backend.builder(&case, 3).cpu_affinity(named.clone()).build().unwrap();
    let where_am_i = |_: u8| (worker::index().unwrap().get(), allowed_cpus());
    for (seat, cpus) in pool.task(where_am_i).chunk_size(1).map(0..30).unwrap() {
        assert_eq!(cpus, named[seat as usize % named.len()].to_string());
    }
    assert_eq!(allowed_cpus(), before, "this thread is where it was");
    for bad in [usable.last().unwrap() + 1, 1 << 20, usize::MAX] {
        let error = backend.builder(&case, 1).cpu_affinity([usable[0], bad]).build().unwrap_err();
        assert!(
            matches!(&error, PoolError::Config(text) if text.contains(&bad.to_string())),
            "{error}"
        );
    }
}

fn niceness() -> i64 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    fields.split(' ').nth(16).unwrap().parse().unwrap()
}

fn c1_68_niceness_is_that_of_the_worker(backend: Backend) {
    let case = Case::new();
    let here = niceness();
    let nicer = i32::try_from(here).unwrap().saturating_add(5).min(19);
    let pool = backend.builder(&case, 1).niceness(nicer).build().unwrap();
    assert_eq!(pool.apply(niceness, ()), Ok(i64::from(nicer)));
    assert_eq!(niceness(), here, "this thread is as it was");
    assert_eq!(backend.pool(&case, 1).apply(niceness, ()), Ok(here));
    for bad in [-21, 20] {
        let error = backend.builder(&case, 1).niceness(bad).build().unwrap_err();
        assert!(matches!(&error, PoolError::Config(text) if text.contains("niceness")), "{error}");
    }
}

fn c1_34_a_pool_of_200_workers(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 200);
    assert_eq!(pool.workers().len(), 200);
    assert_eq!(pool.task(square).chunk_size(1).map(0..2_000).unwrap(), squares(0..2_000));
    pool.close();
    pool.join().unwrap();
}

fn c1_64_seats_and_names_are_stable_and_visible(backend: Backend) {
    let case = Case::new();
    let pool = backend.builder(&case, 3).name("crew").build().unwrap();
    let name = || std::fs::read_to_string("/proc/thread-self/comm").unwrap().trim().to_owned();
    let names: HashSet<_> =
        (0..30).map(|_| pool.apply_async(name, ()).unwrap()).map(|h| h.get().unwrap()).collect();
    let all = ["crew-0", "crew-1", "crew-2"].map(str::to_owned);
    assert!(names.iter().all(|name| all.contains(name)), "{names:?}");
    let indices: Vec<_> = pool.workers().iter().map(|worker| worker.index().get()).collect();
    assert_eq!(indices, [0, 1, 2]);
}

fn c2_99_workers_and_stats_tell_what_is_going_on(backend: Backend) {
    let case = Case::new();
    let gate = Gate::new();
    let pool = backend.pool(&case, 2);
    assert!(pool.workers().iter().all(|worker| worker.state() == WorkerState::Idle));
    assert!(pool.workers().iter().all(|worker| worker.current_task().is_none()));
    let handles: Vec<_> =
        (0..5).map(|_| pool.apply_async(wait_at, (gate.path(),)).unwrap()).collect();
    let mut at_work = gate.await_arrivals(2);
    at_work.sort_unstable();
    let workers = pool.workers();
    let mut pids: Vec<_> = workers.iter().map(pool_core::WorkerInfo::pid).collect();
    pids.sort_unstable();
    assert_eq!(pids, at_work);
    for worker in &workers {
        assert_eq!(worker.state(), WorkerState::Busy);
        assert!(worker.current_task().unwrap().name.ends_with("wait_at"));
        assert_eq!(worker.tasks_done(), 0);
    }
    let stats = pool.stats();
    assert_eq!((stats.submitted, stats.finished), (5, 0));
    assert_eq!(stats.queued + stats.leased, 5);
    gate.let_pass(5);
    assert!(handles.into_iter().all(|handle| handle.get().is_ok()));
    assert_eq!(pool.workers().iter().map(pool_core::WorkerInfo::tasks_done).sum::<u64>(), 5);
    let stats = pool.stats();
    assert_eq!((stats.submitted, stats.finished, stats.queued, stats.leased), (5, 5, 0, 0));
    assert_eq!((stats.workers_started, stats.workers_lost, stats.retried), (2, 0, 0));
}
