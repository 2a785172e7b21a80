//! Rows 15-17, 34, 35 and H1-H8 of docs/reliability.md: what a worker writes where its replies go, byte by byte.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]

use std::os::fd::AsRawFd;
use std::time::Duration;

use pool_core::{ExitCause, Pool, TaskError};
use pool_tests::fault::{Fault, hang};
use pool_tests::reply_socket::{self, frame, header, kind};
use pool_tests::{Case, Gate, seats};
use serde::{Deserialize, Serialize};

pool_core::test_support!();

/// What a fresh worker calls its first task.
const SLOT: u16 = 0;
const GENERATION: u32 = 1;

/// The reply to the first task of a worker, if its result is this number.
fn reply(number: u64) -> Vec<u8> {
    frame(kind::DONE, SLOT, GENERATION, &number.to_le_bytes())
}

/// Writes to the reply socket, then dies. Only for the first task of a worker.
fn writes_and_dies(bytes: Vec<u8>) -> u64 {
    reply_socket::write(&bytes);
    Fault::Raise(9).happen();
    0
}

fn was_killed(outcome: &Result<u64, TaskError>) -> bool {
    matches!(
        outcome,
        Err(TaskError::WorkerLost { cause: ExitCause::Signaled { signal: 9, .. }, .. })
    )
}

fn was_refused(outcome: &Result<u64, TaskError>) -> bool {
    matches!(outcome, Err(TaskError::WorkerLost { cause: ExitCause::Protocol, .. }))
}

#[test]
fn row_15_and_16_killed_at_every_byte_of_its_reply() {
    let case = Case::new();
    let pool = case.pool(1);
    let whole = reply(777);
    for len in 0..whole.len() {
        let outcome = pool.apply(writes_and_dies, (whole[..len].to_vec(),));
        assert!(was_killed(&outcome), "after {len} bytes: {outcome:?}");
    }
    assert_eq!(pool.apply(writes_and_dies, (whole,)), Ok(777), "a complete reply beats a death");
}

#[test]
fn row_17_what_was_answered_is_not_run_again() {
    let case = Case::new();
    let ledger = pool_tests::Ledger::new();
    let pool = case.builder(1).retries(5).build().unwrap();
    let answers = |ledger: String, bytes: Vec<u8>| {
        pool_tests::Ledger::note(&ledger, 1);
        writes_and_dies(bytes)
    };
    for round in 1..=5 {
        assert_eq!(pool.apply(answers, (ledger.path(), reply(round))), Ok(round));
        assert_eq!(ledger.count(1) as u64, round);
    }
}

#[test]
fn row_h2_every_bit_of_a_reply_flipped() {
    let case = Case::new();
    let pool = case.pool(2);
    let whole = reply(777);
    let mut refused = 0;
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        // one worker may have run tasks before: then this is a reply to a task that it does not have
        let outcome = pool.apply(writes_and_dies, (bytes,));
        let is_right = match (&outcome, bit / 8) {
            // 8 bytes have become none, which is no number
            (Err(TaskError::Decode(_)), 8) => bit == 67,
            // the body, and the time that the task took, are the worker's own business
            (Ok(number), 24..) => *number == 777 ^ (1 << (bit - 24 * 8)),
            (Ok(number), 16..24) => *number == 777,
            (outcome, _) => was_killed(outcome) || was_refused(outcome),
        };
        assert!(is_right, "bit {bit}: {outcome:?}");
        refused += usize::from(was_refused(&outcome));
        assert_eq!(pool.apply(u64::pow, (2, 3)), Ok(8), "bit {bit}");
    }
    assert!(refused > 60, "{refused} were seen to be no replies");
    let mut bytes = whole;
    bytes[8] = 0;
    let outcome = case.pool(1).apply(writes_and_dies, (bytes,));
    assert!(matches!(outcome, Err(TaskError::Decode(_))), "of its first task: {outcome:?}");
}

#[test]
fn row_h4_a_second_reply_is_ignored_and_costs_the_worker() {
    let case = Case::new();
    let pool = case.pool(1);
    let pid = seats(&pool, 1)[0];
    // one goes by the socket, the other one by the ring: which of them is seen first would depend on luck if they came at the same time
    let gate = Gate::new();
    let answers_twice = |bytes: Vec<u8>, gate: String| {
        reply_socket::write(&bytes);
        Gate::wait_at(&gate);
        1u64
    };
    let outcome = pool.apply(answers_twice, (reply(777), gate.path()));
    assert_eq!(outcome, Ok(777), "the first one counts");
    gate.let_pass(1);
    assert_works_or_dies_with_the_liar(&pool);
    pool_tests::eventually(Duration::from_secs(20), "the liar is gone", || {
        !pool_tests::census::is_alive(pid)
    });
}

#[test]
fn row_34_a_copy_of_the_worker_answers_too() {
    let case = Case::new();
    #[allow(unsafe_code, reason = "fork is the point")]
    let forks = |bytes: Vec<u8>| {
        // SAFETY: the child writes to a descriptor and leaves by _exit.
        let child = unsafe { libc::fork() };
        if child == 0 {
            reply_socket::write(&bytes);
            Fault::ExitAtOnce(0).happen();
        }
        let child = nix::unistd::Pid::from_raw(child);
        nix::sys::wait::waitpid(child, None).unwrap();
        1u64
    };
    for round in 0..5 {
        // only the first task of a worker is called so
        let pool = case.pool(1);
        // the two answers come by two ways, and who looks at the lane by himself may see that of the worker first: the other one is late then
        let answer = pool.apply(forks, (reply(700 + round),)).unwrap();
        assert!(answer == 700 + round || answer == 1, "{answer}");
        assert_works_or_dies_with_the_liar(&pool);
        pool_tests::eventually(Duration::from_secs(20), "the worker is replaced", || {
            pool.stats().workers_lost > 0
        });
    }
}

#[test]
fn row_35_another_file_in_the_place_of_the_reply_socket() {
    let case = Case::new();
    let pool = case.pool(2);
    let replaces = |path: String| {
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        #[allow(unsafe_code, reason = "nix refuses to do this")]
        // SAFETY: integers only; that the descriptor is somebody else's is the point.
        let number = unsafe { libc::dup2(file.as_raw_fd(), reply_socket::find()) };
        assert!(number > 2);
        7u64
    };
    for path in ["/dev/null", "/dev/zero", "/dev/full"] {
        let outcome = pool.apply(replaces, (path.to_owned(),));
        // the reply may have gone by the ring, before anything was missed
        let is_lost = matches!(outcome, Err(TaskError::WorkerLost { .. }));
        assert!(outcome == Ok(7) || is_lost, "{path}: {outcome:?}");
        assert_eq!(pool.map(|x: u64| x * x, 0..100).unwrap().len(), 100, "{path}");
    }
}

#[test]
fn row_h3_replies_with_a_stale_generation_or_a_strangers_slot() {
    let case = Case::new();
    let gate = Gate::new();
    let pool = case.pool(2);
    let honest = |gate: String| {
        Gate::wait_at(&gate);
        77u64
    };
    let other = pool.apply_async(honest, (gate.path(),)).unwrap();
    gate.await_arrivals(1);
    for (slot, generation) in [(0, 0), (0, 2), (1, 1), (1023, 1), (1024, 1), (u16::MAX, u32::MAX)] {
        let bytes = frame(kind::DONE, slot, generation, &666u64.to_le_bytes());
        let outcome = pool.apply(writes_and_dies, (bytes,));
        assert!(was_refused(&outcome) || was_killed(&outcome), "{slot} {generation}: {outcome:?}");
        assert!(!other.ready());
    }
    gate.let_pass(1);
    assert_eq!(other.get(), Ok(77));
}

#[test]
fn row_h7_a_reply_byte_by_byte_is_a_reply() {
    let case = Case::new();
    let pool = case.pool(2);
    let dribbles = |bytes: Vec<u8>| {
        for byte in bytes {
            reply_socket::write(&[byte]);
            // until it was read: each byte comes alone
            while reply_socket::unread(reply_socket::find()) > 0 {
                std::thread::yield_now();
            }
        }
        Fault::Raise(9).happen();
        0u64
    };
    let slow = pool.apply_async(dribbles, (reply(777),)).unwrap();
    assert_eq!(pool.map(|x: u64| x * x, 0..200).unwrap().len(), 200);
    assert_eq!(slow.get(), Ok(777));
}

#[test]
fn row_h7_a_reply_that_never_ends_is_ended_by_the_time_limit() {
    let case = Case::new();
    let pool = case.pool(2);
    let never_ends = || {
        reply_socket::write(&header(kind::DONE, SLOT, GENERATION, 1 << 40));
        while reply_socket::write(&[7]) {}
        hang();
        0u64
    };
    let limited = pool.task(never_ends).timeout(Duration::from_millis(300));
    let handle = limited.apply_async(()).unwrap();
    assert_eq!(pool.map(|x: u64| x * x, 0..200).unwrap().len(), 200);
    assert_eq!(handle.get(), Err(TaskError::TimedOut));
}

/// Takes its time to be decoded, until the gate lets it pass.
struct Slow;

impl Serialize for Slow {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        std::env::var("POOL_TESTS_SLOW").unwrap().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Slow {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Slow, D::Error> {
        Gate::wait_at(&String::deserialize(deserializer)?);
        Ok(Slow)
    }
}

#[test]
fn row_h8_a_result_that_is_decoded_for_ever_holds_up_its_caller_only() {
    let case = Case::new();
    let gate = Gate::new();
    let pool = case.builder(1).env("POOL_TESTS_SLOW", gate.path()).build().unwrap();
    let slow = pool.apply_async(|| Slow, ()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| slow.get().unwrap());
        gate.await_arrivals(1);
        assert_eq!(pool.map(|x: u64| x * x, 0..100).unwrap().len(), 100);
        gate.let_pass(1);
    });
}

#[test]
fn row_h8_a_result_that_claims_more_than_it_has_is_a_decode_error() {
    let case = Case::new();
    let pool = case.pool(1);
    let claims = |bytes: Vec<u8>| -> Vec<u64> {
        reply_socket::write(&bytes);
        Fault::Raise(9).happen();
        Vec::new()
    };
    for count in [3u64, 1 << 20, 1 << 40, u64::MAX / 8, u64::MAX] {
        let mut body = count.to_le_bytes().to_vec();
        body.extend_from_slice(&[1; 16]);
        let bytes = frame(kind::DONE, SLOT, GENERATION, &body);
        let outcome = pool.apply(claims, (bytes,));
        assert!(matches!(outcome, Err(TaskError::Decode(_))), "{count}: {outcome:?}");
    }
    assert_works(&pool);
}

/// The worker may have begun the next task before its lie was read.
fn assert_works_or_dies_with_the_liar(pool: &Pool) {
    let outcome = pool.apply(u64::pow, (2, 3)).map(|_| 8);
    assert!(outcome == Ok(8) || was_refused(&outcome), "{outcome:?}");
    assert_works(pool);
}

fn assert_works(pool: &Pool) {
    assert_eq!(pool.apply(u64::pow, (2, 10)), Ok(1024));
}

#[test]
fn row_h1_lengths_at_every_power_of_two() {
    let case = Case::new();
    let pool = case.builder(2).max_result_bytes(1 << 20).build().unwrap();
    for exponent in 0..64 {
        let bytes = header(kind::DONE, SLOT, GENERATION, 1 << exponent);
        let outcome = pool.apply(writes_and_dies, (bytes,));
        let is_right = if exponent > 20 { was_refused(&outcome) } else { was_killed(&outcome) };
        assert!(is_right || was_refused(&outcome), "2^{exponent}: {outcome:?}");
    }
    assert_works(&pool);
}
