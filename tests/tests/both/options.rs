//! The options of one call.

use std::time::Duration;

use pool_core::{SubmitError, TaskError, TrySubmitError, worker};
use pool_tests::{Case, Gate, Ledger};

use crate::{Backend, square, squares, until_cancelled, wait_at};

with_both![
    c2_96_a_soft_time_limit_is_told_to_the_task,
    c2_96_soft_time_limits_of_several_tasks_are_their_own,
    c2_94_a_soft_time_limit_counts_from_the_start,
    options_priority_decides_who_is_next,
    options_a_name_is_what_is_told,
    options_zero_time_limits_are_refused,
    options_reach_every_verb,
];

fn c2_96_a_soft_time_limit_is_told_to_the_task(backend: Backend) {
    let case = Case::new();
    let gate = Gate::new();
    let pool = backend.pool(&case, 1);
    let limit = Duration::from_millis(20);
    for _ in 0..5 {
        let outcome = pool.task(until_cancelled).soft_timeout(limit).apply((gate.path(),));
        assert_eq!(outcome, Ok("tidied up".to_owned()));
        assert_eq!(pool.apply(worker::cancelled, ()), Ok(false), "the next one is not meant");
    }
    assert_eq!(pool.stats().workers_started, 1, "nobody was killed");
    // a chunk of a map is one task
    let items = [gate.path(), gate.path()];
    let outcome = pool.task(until_cancelled).soft_timeout(limit).chunk_size(2).map(items);
    assert_eq!(outcome.unwrap().len(), 2);
    // one that ends in time knows nothing of it
    let hour = Duration::from_secs(3600);
    let mapped = pool.task(|x: u64| (x, worker::cancelled())).soft_timeout(hour).map(0..100);
    assert!(mapped.unwrap().into_iter().eq((0..100).map(|x| (x, false))));
}

fn c2_96_soft_time_limits_of_several_tasks_are_their_own(backend: Backend) {
    let case = Case::new();
    let gate = Gate::new();
    let pool = backend.pool(&case, 3);
    let forever = pool.apply_async(until_cancelled, (gate.path(),)).unwrap();
    let soon = |ms| pool.task(until_cancelled).soft_timeout(Duration::from_millis(ms));
    let handles = [
        soon(5).apply_async((gate.path(),)).unwrap(),
        soon(25).apply_async((gate.path(),)).unwrap(),
    ];
    for handle in handles {
        assert_eq!(handle.get(), Ok("tidied up".to_owned()));
    }
    assert!(!forever.ready());
    assert!(forever.request_cancel());
    assert!(forever.get().is_ok());
}

fn c2_94_a_soft_time_limit_counts_from_the_start(backend: Backend) {
    let case = Case::new();
    let gate = Gate::new();
    let pool = backend.pool(&case, 1);
    let blocker = pool.apply_async(wait_at, (gate.path(),)).unwrap();
    gate.await_arrivals(1);
    let limit = Duration::from_millis(200);
    let was_cancelled = pool.task(worker::cancelled).soft_timeout(limit);
    let mut waits = was_cancelled.apply_async(()).unwrap();
    // longer than its limit, before it is begun
    let late = Duration::from_millis(250);
    assert_eq!(waits.get_timeout(late), Err(TaskError::NotReady(late)));
    gate.let_pass(1);
    assert_eq!(waits.get(), Ok(false));
    assert!(blocker.get().is_ok());
}

fn options_priority_decides_who_is_next(backend: Backend) {
    let case = Case::new();
    let (gate, order) = (Gate::new(), tempfile::NamedTempFile::new().unwrap());
    let pool = backend.pool(&case, 1);
    let blocker = pool.apply_async(wait_at, (gate.path(),)).unwrap();
    gate.await_arrivals(1);
    let note = |path: String, line: String| {
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
        writeln!(file, "{line}").unwrap();
    };
    let path = order.path().to_str().unwrap().to_owned();
    let mut handles = Vec::new();
    for round in 0..5 {
        for priority in [0, 7, -3, i32::MAX, i32::MIN, 7] {
            let call = pool.task(note).priority(priority);
            let line = format!("{priority} {round}");
            handles.push(call.apply_async((path.clone(), line)).unwrap());
        }
    }
    gate.let_pass(1);
    assert!(handles.into_iter().all(|handle| handle.get().is_ok()) && blocker.get().is_ok());
    let text = std::fs::read_to_string(order.path()).unwrap();
    let ran: Vec<(i32, u32)> = text
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(priority, round)| (priority.parse().unwrap(), round.parse().unwrap()))
        .collect();
    let mut expected = ran.clone();
    expected.sort_by_key(|&(priority, round)| (std::cmp::Reverse(priority), round));
    assert_eq!(ran.len(), 30);
    assert_eq!(ran, expected, "the highest first, equals in the order of their coming");
}

fn options_a_name_is_what_is_told(backend: Backend) {
    let case = Case::new();
    let gate = Gate::new();
    let pool = backend.pool(&case, 1);
    let handle = pool.task(wait_at).name("the long one").apply_async((gate.path(),)).unwrap();
    gate.await_arrivals(1);
    assert_eq!(pool.workers()[0].current_task().unwrap().name, "the long one");
    assert_eq!(pool.workers()[0].current_task().unwrap().to_string(), "task 1 (the long one)");
    gate.let_pass(1);
    assert!(handle.get().is_ok());
}

fn options_zero_time_limits_are_refused(backend: Backend) {
    let case = Case::new();
    let pool = backend.pool(&case, 1);
    let soft = pool.task(square).soft_timeout(Duration::ZERO);
    assert!(matches!(soft.apply_async((1,)), Err(SubmitError::Unsupported(_))));
    assert!(matches!(soft.apply((1,)), Err(TaskError::Unsupported(_))));
    assert!(matches!(soft.map(0..3), Err(TaskError::Unsupported(_))));
    match soft.try_apply_async((5,)) {
        Err(TrySubmitError::Unsupported(_, args)) => assert_eq!(args, (5,)),
        other => panic!("{other:?}"),
    }
    let hard = pool.task(square).timeout(Duration::ZERO);
    assert!(matches!(hard.apply_async((1,)), Err(SubmitError::Unsupported(_))));
    assert_eq!(pool.stats().submitted, 0);
}

fn options_reach_every_verb(backend: Backend) {
    let case = Case::new();
    let ledger = Ledger::new();
    let pool = backend.pool(&case, 2);
    let number = |ledger: String, x: u64| {
        Ledger::note(&ledger, worker::task_id().unwrap().get());
        x
    };
    let pairs = || (0..12).map(|x| (ledger.path(), x));
    let call = pool.task(number).chunk_size(4).priority(1).retries(0).name("by fours");
    assert_eq!(call.starmap(pairs()).unwrap(), (0..12).collect::<Vec<_>>());
    assert_eq!(call.starmap_async(pairs()).unwrap().get().unwrap(), (0..12).collect::<Vec<_>>());
    let counts: Vec<_> = ledger.notes().into_values().map(|notes| notes.len()).collect();
    assert_eq!(counts, [4; 6], "three tasks each");
    let lazy = pool.task(square).chunk_size(3).window(6);
    assert!(lazy.imap(0..20).map(Result::unwrap).eq(squares(0..20)));
    assert_eq!(
        lazy.imap_unordered(0..20).map(Result::unwrap).sum::<u64>(),
        squares(0..20).iter().sum()
    );
}

// ---- what only processes can keep ----

#[test]
fn c2_93_a_time_limit_that_kills_is_refused_by_threads() {
    let _case = Case::new();
    let pool = pool_core::Pool::builder().threads(1).build().unwrap();
    let call = pool.task(square).timeout(Duration::from_secs(1));
    let error = call.apply_async((1,)).unwrap_err();
    assert!(
        matches!(error, SubmitError::Unsupported(text) if text.contains("soft_timeout")),
        "{error}"
    );
    assert!(matches!(call.apply((1,)), Err(TaskError::Unsupported(_))));
    assert!(matches!(call.map_async(0..3), Err(SubmitError::Unsupported(_))));
    let outcomes: Vec<_> = call.imap(0..3).collect();
    assert!(matches!(outcomes[..], [Err(TaskError::Unsupported(_))]), "{outcomes:?}");
    match call.try_apply_async((5,)) {
        Err(error @ TrySubmitError::Unsupported(..)) => assert_eq!(error.into_args(), (5,)),
        other => panic!("{other:?}"),
    }
    assert_eq!(pool.apply(square, (5,)), Ok(25));
}

#[test]
fn c2_96_the_soft_limit_comes_before_the_hard_one() {
    let case = Case::new();
    let gate = Gate::new();
    let pool = case.pool(1);
    let (soft, hard) = (Duration::from_millis(20), Duration::from_secs(60));
    let both = pool.task(until_cancelled).soft_timeout(soft).timeout(hard);
    assert_eq!(both.apply((gate.path(),)), Ok("tidied up".to_owned()));
    // one that does not listen is killed at the hard one
    let deaf = pool.task(wait_at).soft_timeout(soft).timeout(Duration::from_millis(60));
    assert_eq!(deaf.apply((gate.path(),)), Err(TaskError::TimedOut));
    assert_eq!(pool.apply(square, (5,)), Ok(25));
}
