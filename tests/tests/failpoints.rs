//! Faults at exact places of both processes: what other tests meet by luck, met each time. Only with the feature `failpoints`:
//! `cargo nextest run -p pool-tests --features failpoints --test failpoints`.
#![cfg(feature = "failpoints")]
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]
#![allow(clippy::print_stdout, reason = "says what was left out")]

use std::fs;
use std::num::NonZero;
use std::os::unix::process::ExitStatusExt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use pool_core::failpoint::{DIRECTORY, set_directory};
use pool_core::{ExitCause, Pool, PoolBuilder, PoolError, StartMethod, TaskError};
use pool_tests::{Case, Gate, Ledger, Program, census, eventually, fault, seats};

pool_core::test_support!();

const SURROUNDINGS: &str = env!("CARGO_BIN_EXE_surroundings");
const PARENT: &str = env!("CARGO_BIN_EXE_parent");
const SOON: Duration = Duration::from_secs(30);

/// Ways in which a process that has come to a place ends.
const ENDS: [&str; 3] = ["kill", "exit 0", "abort"];

/// The places at which something happens, in the processes of one test.
struct Places {
    directory: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Places {
    fn new() -> Places {
        static ALONE: Mutex<()> = Mutex::new(());
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = tempfile::tempdir().unwrap();
        set_directory(Some(directory.path()));
        Places { directory, _alone }
    }

    fn path(&self) -> &str {
        self.directory.path().to_str().unwrap()
    }

    /// From now on, the first process that comes to this place does this.
    fn set(&self, place: &str, action: &str) {
        // whole at once: somebody may be looking just now
        let new = self.directory.path().join("new");
        fs::write(&new, action).unwrap();
        fs::rename(new, self.directory.path().join(place)).unwrap();
    }

    fn was_met(&self, place: &str) -> bool {
        self.directory.path().join(place).with_extension("hit").exists()
    }

    /// Waits until a process is held at the place; its number.
    fn await_held(&self, place: &str) -> u32 {
        let file = self.directory.path().join(format!("{place}.held"));
        let mut held = String::new();
        eventually(SOON, "somebody is held", || {
            held = fs::read_to_string(&file).unwrap_or_default();
            !held.is_empty()
        });
        held.parse().unwrap()
    }

    fn let_go(&self, place: &str) {
        fs::write(self.directory.path().join(format!("{place}.go")), "").unwrap();
    }

    fn builder(&self, case: &Case, processes: usize) -> PoolBuilder {
        case.builder(processes).env(DIRECTORY, self.path())
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        set_directory(None);
    }
}

fn note(path: String, number: u64) -> u64 {
    Ledger::note(&path, number);
    number
}

/// Submits so many tasks that each leave a note, and gives how they ended.
fn submit(pool: &Pool, ledger: &Ledger, tasks: u64) -> Vec<Result<u64, TaskError>> {
    let handles: Vec<_> =
        (0..tasks).map(|n| pool.apply_async(note, (ledger.path(), n)).unwrap()).collect();
    handles.into_iter().map(|handle| handle.get()).collect()
}

#[track_caller]
fn all_well(outcomes: &[Result<u64, TaskError>], what: &str) {
    for (number, outcome) in outcomes.iter().enumerate() {
        assert_eq!(*outcome, Ok(number as u64), "{what}");
    }
}

/// Each way to end, at each place.
fn each(places: &[&'static str], test: impl Fn(&Places, &'static str, &'static str)) {
    for &place in places {
        for action in ENDS {
            let all = Places::new();
            test(&all, place, action);
            assert!(all.was_met(place), "nobody came to {place}");
        }
    }
}

#[test]
fn row_9_a_worker_that_dies_before_it_begins_a_task_costs_nothing() {
    each(&["worker.received", "worker.start"], |places, place, action| {
        let (case, ledger) = (Case::new(), Ledger::new());
        let pool = places.builder(&case, 2).build().unwrap();
        places.set(place, action);
        all_well(&submit(&pool, &ledger, 30), &format!("{action} at {place}"));
        ledger.assert_at_most_once();
    });
}

#[test]
fn row_10_a_worker_that_dies_before_it_has_answered_costs_the_task_that_it_had_begun() {
    let places = ["worker.started", "worker.called", "worker.finished"];
    each(&places, |places, place, action| {
        let (case, ledger) = (Case::new(), Ledger::new());
        let pool = places.builder(&case, 2).build().unwrap();
        places.set(place, action);
        let outcomes = submit(&pool, &ledger, 30);
        let lost = outcomes.iter().filter(|outcome| outcome.is_err()).count();
        assert_eq!(lost, 1, "{action} at {place}: {outcomes:?}");
        let lost = outcomes.iter().position(Result::is_err).unwrap();
        let Err(TaskError::WorkerLost { cause, .. }) = &outcomes[lost] else {
            panic!("{action} at {place}: {:?}", outcomes[lost]);
        };
        let expected = match action {
            "exit 0" => matches!(cause, ExitCause::Exited(0)),
            // one that was killed from outside may have been the kernel's choice, for all that the pool can see
            "kill" => {
                matches!(cause, ExitCause::Signaled { signal: 9, .. } | ExitCause::OutOfMemory)
            }
            _ => matches!(cause, ExitCause::Signaled { signal: 6, .. }),
        };
        assert!(expected, "{action} at {place}: {cause:?}");
        let runs = usize::from(place != "worker.started");
        assert_eq!(ledger.count(lost as u64), runs, "{action} at {place}");
        ledger.assert_at_most_once();
    });
}

#[test]
fn row_15_a_worker_that_dies_in_the_middle_of_a_big_result_costs_its_task_and_shows_no_part_of_it()
{
    each(&["worker.piece"], |places, place, action| {
        let case = Case::new();
        let pool = places.builder(&case, 2).fast_lane(true).build().unwrap();
        places.set(place, action);
        let make = |size: usize| vec![7_u8; size];
        let sizes = [3 << 20, 10, 300 << 10, 5 << 20];
        let handles = sizes.map(|size| pool.apply_async(make, (size,)).unwrap());
        let outcomes = handles.map(pool_core::AsyncResult::get);
        let lost = outcomes.iter().filter(|outcome| outcome.is_err()).count();
        assert_eq!(lost, 1, "{action} at {place}");
        for (size, outcome) in sizes.into_iter().zip(outcomes) {
            match outcome {
                Ok(bytes) => assert!(bytes == vec![7; size], "{size}"),
                Err(TaskError::WorkerLost { .. }) => assert!(size > 100 << 10, "{size}"),
                Err(other) => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn row_24_a_worker_that_stands_still_in_the_middle_of_a_big_result_delays_no_others() {
    let make = |size: usize| vec![7_u8; size];
    for end in ["goes on", "is killed", "is out of time", "is terminated"] {
        let (places, case) = (Places::new(), Case::new());
        let pool = places.builder(&case, 2).fast_lane(true).build().unwrap();
        places.set("worker.piece", "pass 3\nhold");
        let limit = Duration::from_secs(if end == "is out of time" { 1 } else { 3600 });
        let handle = pool.task(make).timeout(limit).apply_async((5 << 20,)).unwrap();
        let held = places.await_held("worker.piece");
        for size in 0..200 {
            assert_eq!(pool.apply(make, (size,)), Ok(make(size)));
        }
        match end {
            "goes on" => {
                assert!(!handle.ready(), "three of forty pieces are no result");
                places.let_go("worker.piece");
                assert!(handle.get() == Ok(make(5 << 20)));
            }
            "is killed" => {
                fault::send(held, Signal::SIGKILL);
                assert!(matches!(handle.get(), Err(TaskError::WorkerLost { .. })));
            }
            "is out of time" => assert_eq!(handle.get(), Err(TaskError::TimedOut)),
            _ => {
                pool.terminate();
                assert_eq!(handle.get(), Err(TaskError::Terminated));
                continue;
            }
        }
        assert!(pool.apply(make, (3 << 20,)) == Ok(make(3 << 20)), "{end}");
    }
}

#[test]
fn a_task_is_not_charged_with_the_time_that_the_reply_before_it_took() {
    let (places, case) = (Places::new(), Case::new());
    let pool = places.builder(&case, 1).fast_lane(true).build().unwrap();
    let make = |size: usize, gate: Option<String>| {
        gate.iter().for_each(|gate| Gate::wait_at(gate));
        vec![7_u8; size]
    };
    // known to be quick, the function has its tasks one behind the other in the worker
    let quick = pool.task(make).chunk_size(1).starmap(vec![(0, None); 500]);
    assert_eq!(quick.unwrap().len(), 500);
    let (first, second) = (Gate::new(), Gate::new());
    let before = pool.apply_async(make, (0, Some(first.path()))).unwrap();
    first.await_arrivals(1);
    places.set("worker.piece", "pass 3\nhold");
    let limit = Duration::from_secs(1);
    let big = pool.apply_async(make, (5 << 20, None)).unwrap();
    let small = pool.task(make).timeout(limit).apply_async((10, Some(second.path()))).unwrap();
    first.let_pass(1);
    places.await_held("worker.piece");
    let other = case.pool(1);
    let pass = |time| {
        assert_eq!(other.task(fault::hang).timeout(time).apply(()), Err(TaskError::TimedOut));
    };
    pass(limit);
    places.let_go("worker.piece");
    second.await_arrivals(1);
    // long enough for the parent to see how long the task is running
    pass(limit / 4);
    second.let_pass(1);
    assert!(big.get() == Ok(vec![7; 5 << 20]));
    assert_eq!(small.get(), Ok(vec![7; 10]), "it had its time");
    assert_eq!(before.get(), Ok(vec![]));
}

#[test]
fn row_10_with_retries_it_is_run_again() {
    let places = ["worker.started", "worker.called", "worker.finished"];
    each(&places, |places, place, action| {
        let case = Case::new();
        let pool = places.builder(&case, 2).retries(1).build().unwrap();
        let ledger = Ledger::new();
        places.set(place, action);
        all_well(&submit(&pool, &ledger, 30), &format!("{action} at {place}"));
    });
}

#[test]
fn row_16_and_17_a_worker_that_dies_after_it_has_answered_costs_nothing() {
    for lane in [true, false] {
        each(&["worker.replied", "worker.told"], |places, place, action| {
            let (case, ledger) = (Case::new(), Ledger::new());
            let pool = places.builder(&case, 2).fast_lane(lane).build().unwrap();
            places.set(place, action);
            all_well(&submit(&pool, &ledger, 30), &format!("{action} at {place}"));
            for number in 0..30 {
                assert_eq!(ledger.count(number), 1, "{action} at {place}: run again");
            }
        });
    }
}

#[test]
fn row_1_and_2_a_worker_that_dies_at_any_place_of_its_start_is_replaced() {
    let places =
        ["worker.begin", "worker.booted", "worker.hello", "worker.greeted", "worker.initialize"];
    each(&places, |places, place, action| {
        let (case, ledger) = (Case::new(), Ledger::new());
        places.set(place, action);
        let pool = places.builder(&case, 2).build().unwrap();
        assert_eq!(seats(&pool, 2).len(), 2);
        all_well(&submit(&pool, &ledger, 10), &format!("{action} at {place}"));
    });
}

#[test]
fn row_3_a_worker_that_is_held_before_its_hello_is_replaced_when_its_time_is_up() {
    let (places, case) = (Places::new(), Case::new());
    places.set("worker.begin", "hold");
    let builder = places.builder(&case, 2).start_timeout(Duration::from_millis(500));
    let pool = builder.build().unwrap();
    let held = places.await_held("worker.begin");
    eventually(SOON, "it is killed", || !census::is_alive(held));
    assert!(seats(&pool, 2).iter().all(|&pid| pid != held));
    assert_eq!(pool.apply(u64::pow, (2, 3)), Ok(8));
}

#[test]
fn row_18_a_worker_that_dies_while_it_leaves_costs_nothing() {
    each(&["worker.stop", "worker.leave"], |places, place, action| {
        let (case, ledger) = (Case::new(), Ledger::new());
        let recycled = places.builder(&case, 2).max_tasks_per_child(NonZero::new(3).unwrap());
        let pool = recycled.build().unwrap();
        places.set(place, action);
        all_well(&submit(&pool, &ledger, 30), &format!("{action} at {place}"));
        ledger.assert_at_most_once();
        pool.close();
        pool.join().unwrap();
    });
}

#[test]
fn row_6_and_7_a_worker_killed_between_choice_and_send_costs_nothing() {
    for place in ["parent.lease", "parent.send"] {
        let (places, case, ledger) = (Places::new(), Case::new(), Ledger::new());
        let pool = places.builder(&case, 2).build().unwrap();
        places.set(place, "kill-worker");
        all_well(&submit(&pool, &ledger, 30), place);
        assert!(places.was_met(place));
        ledger.assert_at_most_once();
    }
}

#[test]
fn row_9_a_worker_killed_with_a_message_unread_costs_nothing() {
    let (places, case, ledger) = (Places::new(), Case::new(), Ledger::new());
    // the first message is that of the initializer
    places.set("worker.received", "pass 1\nhold");
    let pool = places.builder(&case, 1).build().unwrap();
    let first = pool.apply_async(note, (ledger.path(), 0)).unwrap();
    let held = places.await_held("worker.received");
    let second = pool.apply_async(note, (ledger.path(), 1)).unwrap();
    fault::send(held, Signal::SIGKILL);
    assert_eq!((first.get(), second.get()), (Ok(0), Ok(1)));
    ledger.assert_at_most_once();
}

#[test]
fn row_19_a_worker_killed_while_it_is_retired_costs_nothing() {
    let (places, case, ledger) = (Places::new(), Case::new(), Ledger::new());
    let recycled = places.builder(&case, 2).max_tasks_per_child(NonZero::new(3).unwrap());
    let pool = recycled.build().unwrap();
    places.set("parent.retire", "kill-worker");
    all_well(&submit(&pool, &ledger, 30), "parent.retire");
    assert!(places.was_met("parent.retire"));
    ledger.assert_at_most_once();
}

#[test]
fn row_1_a_worker_killed_before_the_parent_watches_it_is_replaced() {
    for place in ["parent.spawned", "parent.initialize"] {
        let (places, case, ledger) = (Places::new(), Case::new(), Ledger::new());
        places.set(place, "kill-worker");
        let pool = places.builder(&case, 2).build().unwrap();
        assert!(places.was_met(place));
        all_well(&submit(&pool, &ledger, 10), place);
    }
}

#[test]
fn row_29_a_worker_that_dies_just_before_it_is_signalled_is_one_outcome() {
    let (places, case) = (Places::new(), Case::new());
    let pool = places.builder(&case, 2).build().unwrap();
    let waits = || std::thread::park_timeout(Duration::from_secs(1_000));
    let handles: Vec<_> = (0..6).map(|_| pool.apply_async(waits, ()).unwrap()).collect();
    places.set("parent.signal", "kill-worker");
    pool.terminate();
    assert!(places.was_met("parent.signal"));
    for handle in handles {
        assert_eq!(handle.get(), Err(TaskError::Terminated));
    }
}

#[test]
fn a_cancelled_task_that_was_not_begun_is_skipped_and_its_worker_goes_on() {
    let (places, case, ledger) = (Places::new(), Case::new(), Ledger::new());
    places.set("worker.start", "hold");
    let pool = places.builder(&case, 1).build().unwrap();
    let handle = pool.apply_async(note, (ledger.path(), 0)).unwrap();
    let held = places.await_held("worker.start");
    handle.cancel();
    assert_eq!(handle.get(), Err(TaskError::Cancelled));
    places.let_go("worker.start");
    assert_eq!(pool.apply(std::process::id, ()), Ok(held), "it was not killed");
    assert_eq!(ledger.count(0), 0, "it did not run");
}

#[test]
fn a_worker_whose_only_task_is_taken_back_leaves_in_good_order() {
    for lane in [true, false] {
        let (places, case, ledger) = (Places::new(), Case::new(), Ledger::new());
        places.set("worker.start", "hold");
        let once = places.builder(&case, 1).max_tasks_per_child(NonZero::new(1).unwrap());
        let pool = once.fast_lane(lane).build().unwrap();
        let handle = pool.apply_async(note, (ledger.path(), 0)).unwrap();
        let held = places.await_held("worker.start");
        handle.cancel();
        assert_eq!(handle.get(), Err(TaskError::Cancelled));
        // it was told to leave with the task
        places.let_go("worker.start");
        assert_ne!(pool.apply(std::process::id, ()), Ok(held));
        assert_eq!(ledger.count(0), 0, "it did not run");
        pool.close();
        pool.join().unwrap();
        assert_eq!(pool.stats().workers_lost, 0, "it has left, and nobody has killed it");
    }
}

#[test]
fn a_cancelled_task_that_was_begun_costs_its_worker_also_when_it_is_about_to_end() {
    for place in ["worker.started", "worker.called"] {
        let (places, case, ledger) = (Places::new(), Case::new(), Ledger::new());
        places.set(place, "hold");
        let pool = places.builder(&case, 1).build().unwrap();
        let handle = pool.apply_async(note, (ledger.path(), 0)).unwrap();
        let held = places.await_held(place);
        handle.cancel();
        assert_eq!(handle.get(), Err(TaskError::Cancelled), "{place}");
        eventually(SOON, "it is killed", || !census::is_alive(held));
        assert_ne!(pool.apply(std::process::id, ()), Ok(held), "{place}");
    }
}

#[test]
fn a_cancelled_task_that_has_ended_kills_nobody() {
    let (places, case, ledger) = (Places::new(), Case::new(), Ledger::new());
    places.set("worker.finished", "hold");
    let pool = places.builder(&case, 1).build().unwrap();
    let handle = pool.apply_async(note, (ledger.path(), 7)).unwrap();
    let held = places.await_held("worker.finished");
    handle.cancel();
    places.let_go("worker.finished");
    assert_eq!(handle.get(), Ok(7), "too late for it");
    assert_eq!(pool.apply(std::process::id, ()), Ok(held));
}

#[test]
fn a_worker_killed_while_its_task_is_cancelled_is_one_outcome() {
    let (places, case, ledger) = (Places::new(), Case::new(), Ledger::new());
    places.set("worker.called", "hold");
    let pool = places.builder(&case, 1).build().unwrap();
    let handle = pool.apply_async(note, (ledger.path(), 0)).unwrap();
    places.await_held("worker.called");
    places.set("parent.take-back", "kill-worker");
    handle.cancel();
    assert!(places.was_met("parent.take-back"));
    let outcome = handle.get();
    let is_one = matches!(outcome, Err(TaskError::Cancelled | TaskError::WorkerLost { .. }));
    assert!(is_one, "{outcome:?}");
    assert_eq!(pool.apply(u64::pow, (2, 3)), Ok(8));
}

#[test]
fn row_38_a_fork_server_that_dies_at_any_place_is_replaced() {
    let places = ["forks.fork", "forks.forked", "forks.child", "forks.ended"];
    each(&places, |places, place, action| {
        let (case, ledger) = (Case::new(), Ledger::new());
        places.set(place, action);
        let builder = places.builder(&case, 2).start_method(StartMethod::ForkServer);
        let pool = builder.build().unwrap();
        // one more has to be forked, and the end of one to be told
        let dies = || -> () { std::process::abort() };
        assert!(matches!(pool.apply(dies, ()), Err(TaskError::WorkerLost { .. })));
        eventually(SOON, "the place is met", || places.was_met(place));
        // those whose server is gone go with it: so what they had begun may be lost, and is said to be
        for outcome in submit(&pool, &ledger, 20) {
            let told = matches!(outcome, Ok(_) | Err(TaskError::WorkerLost { .. }));
            assert!(told, "{action} at {place}: {outcome:?}");
        }
        ledger.assert_at_most_once();
        seats(&pool, 2);
        let ledger = Ledger::new();
        all_well(&submit(&pool, &ledger, 20), &format!("{action} at {place}"));
    });
}

#[test]
fn row_36_a_parent_killed_at_any_place_leaves_no_worker() {
    let all = [
        "parent.spawn",
        "parent.spawned",
        "parent.initialize",
        "parent.lease",
        "parent.send",
        "parent.sent",
        "parent.read",
        "parent.reply",
        "parent.signal",
        "parent.exit",
        "parent.drained",
    ];
    for place in all {
        for passes in [0, 1] {
            let (places, case) = (Places::new(), Case::new());
            places.set(place, &format!("pass {passes}\nkill"));
            let program = Program::new(&case, SURROUNDINGS, &["two-squares"]);
            let (status, ..) = program.env(DIRECTORY, places.path()).run();
            assert!(places.was_met(place), "nobody came to {place}");
            assert_eq!(status.signal(), Some(libc::SIGKILL), "{place}");
            eventually(SOON, "its workers are gone", || case.processes().is_empty());
        }
    }
}

#[test]
fn row_37_a_worker_whose_parent_died_before_it_had_armed_its_signal_leaves_by_itself() {
    for place in ["worker.begin", "worker.booted"] {
        let (places, case) = (Places::new(), Case::new());
        places.set(place, "hold");
        let program = Program::new(&case, SURROUNDINGS, &["two-squares"]);
        let mut parent = program.env(DIRECTORY, places.path()).start();
        let held = places.await_held(place);
        parent.kill();
        assert!(census::is_alive(held), "nobody has killed it: it has not asked for that");
        places.let_go(place);
        eventually(SOON, "it leaves", || case.processes().is_empty());
    }
}

/// It would be stopped for ever, if somebody stopped it then: nothing but the signal ends who is stopped.
#[test]
fn row_37_the_first_process_of_a_namespace_whose_parent_died_before_it_had_armed_its_signal_leaves()
{
    let probe = Case::new();
    let isolated = probe.builder(1).start_method(StartMethod::ForkServer).pid_namespace(true);
    if let Err(PoolError::NoPidNamespace(why)) = isolated.build() {
        println!("SKIPPED: {why}");
        return;
    }
    let (places, case, gate) = (Places::new(), Case::new(), Gate::new());
    places.set("namespace.forked", "hold");
    places.set("first.armed", "hold");
    let program = Program::new(&case, PARENT, &["isolated-runaway", &gate.path()]);
    let mut parent = program.env(DIRECTORY, places.path()).start();
    places.await_held("namespace.forked");
    let all: Vec<u32> = census::descendants(parent.pid()).iter().map(|p| p.pid).collect();
    let held = all.iter().copied().find(|&pid| census::descendants(pid).is_empty()).unwrap();
    parent.kill();
    let others = || all.iter().any(|&pid| pid != held && census::is_alive(pid));
    eventually(SOON, "the one that waits for it is gone", || !others());
    assert!(census::is_alive(held), "nobody has killed it: it has not asked for that");
    places.let_go("namespace.forked");
    eventually(SOON, "it leaves", || case.processes().is_empty());
    assert!(!places.was_met("first.armed"), "it went on");
}

#[test]
fn row_44_a_panic_while_an_end_is_judged_settles_everything() {
    for place in ["parent.exit", "parent.drained"] {
        let (places, case) = (Places::new(), Case::new());
        let pool = places.builder(&case, 2).build().unwrap();
        let waits = || std::thread::park_timeout(Duration::from_secs(1_000));
        let handles: Vec<_> = (0..6).map(|_| pool.apply_async(waits, ()).unwrap()).collect();
        let pid = seats(&pool, 2)[0];
        places.set(place, "panic");
        fault::send(pid, Signal::SIGKILL);
        for handle in handles {
            let outcome = handle.get();
            assert!(matches!(outcome, Err(TaskError::PoolBroken(_))), "{place}: {outcome:?}");
        }
        assert!(places.was_met(place));
    }
}
