//! Workers gone wild: whatever they write, close or overwrite, the parent lives, and only their own task is lost.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]

use std::io::{Seek, SeekFrom, Write};
use std::time::Duration;

use pool_core::{AsyncResult, ExitCause, Pool, TaskError};
use pool_tests::fault::hang;
use pool_tests::{Case, Gate, Program, eventually, reply_socket, seats};

pool_core::test_support!();

const PARENT: &str = env!("CARGO_BIN_EXE_parent");
const SOON: Duration = Duration::from_secs(20);

// kinds of frames, see pool-core/src/wire/from_worker.rs
const HELLO: u8 = 1;
const READY: u8 = 2;
const DONE: u8 = 3;
const FAULT: u8 = 4;
const PIECE_TAKEN: u8 = 6;
const BELL: u8 = 8;

fn header(kind: u8, slot: u16, generation: u32, len: u64) -> Vec<u8> {
    let mut bytes = vec![kind, 0];
    bytes.extend_from_slice(&slot.to_le_bytes());
    bytes.extend_from_slice(&generation.to_le_bytes());
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes
}

/// Writes to the reply socket and hangs.
fn writes(bytes: Vec<u8>) {
    reply_socket::write(&bytes);
    hang();
}

fn neighbour(x: u64) -> u64 {
    x * 3
}

fn neighbours(pool: &Pool, count: u64) -> Vec<AsyncResult<u64>> {
    (0..count).map(|x| pool.apply_async(neighbour, (x,)).unwrap()).collect()
}

#[track_caller]
fn check(neighbours: Vec<AsyncResult<u64>>, what: &str) {
    for (x, handle) in neighbours.into_iter().enumerate() {
        assert_eq!(handle.get(), Ok(x as u64 * 3), "{what}: neighbour {x}");
    }
}

/// Runs an evil task among good ones. Its outcome is for the caller; the good ones go well, and the pool is whole again.
fn among_neighbours<R: std::fmt::Debug>(
    pool: &Pool,
    what: &str,
    evil: impl FnOnce() -> AsyncResult<R>,
) -> Result<R, TaskError> {
    let workers = pool.workers().len();
    let before = neighbours(pool, 100);
    let evil = evil();
    let after = neighbours(pool, 100);
    let outcome = evil.get();
    check(before, what);
    check(after, what);
    seats(pool, workers);
    outcome
}

#[test]
fn bytes_that_are_no_frame_cost_the_worker_that_wrote_them() {
    let case = Case::new();
    let pool = case.builder(3).max_result_bytes(1 << 30).build().unwrap();
    let mut wrong_padding = header(DONE, 0, 1, 0);
    wrong_padding[1] = 1;
    let mut mixed = header(BELL, 0, 0, 0);
    mixed.extend_from_slice(&[0xEE; 100]);
    for (what, bytes) in [
        ("noise", vec![0xEE; 4_096]),
        ("zeros", vec![0; 24]),
        ("text", b"println! went to the wrong descriptor\n".repeat(100)),
        ("much noise", vec![0xAB; 3 << 20]),
        ("an unknown kind", header(99, 0, 1, 0)),
        ("padding", wrong_padding),
        ("a good frame, then noise", mixed),
        ("a result of 2^62 bytes", header(DONE, 0, 1, 1 << 62)),
        ("a result of 2^64 - 1 bytes", header(DONE, 0, 1, u64::MAX)),
        ("a result just above the limit", header(DONE, 0, 1, (1 << 30) + 1)),
        ("an error of 2^40 bytes", header(FAULT, 0, 1, 1 << 40)),
        ("a bell with a body", header(BELL, 0, 0, 1)),
        ("a second hello", header(HELLO, 0, 0, 0)),
        ("a second ready", header(READY, 0, 0, 0)),
        ("a piece that was never sent", header(PIECE_TAKEN, 0, 0, 0)),
        ("an initializer that failed later", header(5, 0, 0, 0)),
        ("a program without init", header(7, 0, 0, 0)),
        ("an error that is none", [header(FAULT, 0, 1, 4), vec![0xFF; 4]].concat()),
    ] {
        let outcome = among_neighbours(&pool, what, || pool.apply_async(writes, (bytes,)).unwrap());
        assert!(
            matches!(outcome, Err(TaskError::WorkerLost { cause: ExitCause::Protocol, .. })),
            "{what}: {outcome:?}"
        );
    }
}

#[test]
fn an_announced_length_takes_no_memory_and_blocks_nobody() {
    let case = Case::new();
    // no limit on results: the length is possible, the bytes never come
    let pool = case.pool(3);
    let evil = pool.apply_async(writes, (header(DONE, 0, 1, 1 << 62),)).unwrap();
    let slow = pool.apply_async(writes, (header(DONE, 0, 1, 1 << 30)[..13].to_vec(),)).unwrap();
    check(neighbours(&pool, 500), "behind a header");
    assert!(!evil.ready() && !slow.ready());
    assert!(evil.cancel() && slow.cancel());
    seats(&pool, 3);
    check(neighbours(&pool, 100), "afterwards");
}

#[test]
fn replies_to_tasks_of_others_are_not_believed() {
    let case = Case::new();
    let pool = case.pool(3);
    let gate = Gate::new();
    let honest = |gate: String| {
        Gate::wait_at(&gate);
        77u64
    };
    let others: Vec<_> =
        (0..2).map(|_| pool.apply_async(honest, (gate.path(),)).unwrap()).collect();
    gate.await_arrivals(2);
    // answers for every slot and every generation that may be in use
    let forges = || {
        for generation in 0..40 {
            for slot in 0..1024 {
                let mut frame = header(DONE, slot, generation, 8);
                frame.extend_from_slice(&666u64.to_le_bytes());
                if !reply_socket::write(&frame) {
                    hang();
                }
            }
        }
        hang();
        0u64
    };
    let outcome = pool.apply(forges, ());
    // it may lie about its own task only, and is killed for the rest
    assert!(matches!(outcome, Ok(666) | Err(TaskError::WorkerLost { .. })), "{outcome:?}");
    assert!(others.iter().all(|handle| !handle.ready()));
    gate.let_pass(2);
    for handle in others {
        assert_eq!(handle.get(), Ok(77));
    }
    seats(&pool, 3);
    check(neighbours(&pool, 100), "afterwards");
}

#[test]
fn a_worker_that_closes_its_descriptors_loses_its_task() {
    let case = Case::new();
    let pool = case.pool(2);
    let closes = |from: u32, to: u32| {
        for fd in from..=to {
            let _ = nix::unistd::close(fd as i32);
        }
        hang();
    };
    for (from, to) in [(3, 100), (0, 100)] {
        let outcome =
            among_neighbours(&pool, "closed", || pool.apply_async(closes, (from, to)).unwrap());
        assert!(
            matches!(
                outcome,
                Err(TaskError::WorkerLost {
                    cause: ExitCause::Protocol | ExitCause::Signaled { signal: 9, .. },
                    ..
                })
            ),
            "{outcome:?}"
        );
    }
    // one that goes on as if nothing had happened
    let closes = |to: u32| {
        for fd in 3..=to {
            let _ = nix::unistd::close(fd as i32);
        }
    };
    let outcome =
        among_neighbours(&pool, "closed and went on", || pool.apply_async(closes, (100,)).unwrap());
    assert!(matches!(outcome, Ok(()) | Err(TaskError::WorkerLost { .. })), "{outcome:?}");
}

#[test]
fn a_worker_that_closes_its_standard_streams_goes_on() {
    let case = Case::new();
    let pool = case.pool(1);
    let closes = || (0..=2).for_each(|fd| nix::unistd::close(fd).unwrap());
    assert_eq!(pool.apply(closes, ()), Ok(()));
    assert_eq!(pool.apply(neighbour, (5,)), Ok(15));
    assert_eq!(pool.stats().workers_lost, 0);
}

#[test]
fn floods_do_not_starve_the_others() {
    let case = Case::new();
    let pool = case.pool(3);
    // frames that a worker may send at any time, without end
    let floods = || {
        let bells = header(BELL, 0, 0, 0).repeat(2_000);
        while reply_socket::write(&bells) {}
        hang();
    };
    let flood = pool.apply_async(floods, ()).unwrap();
    eventually(SOON, "the flood begins", || flood.pid().is_some());
    for _ in 0..5 {
        check(neighbours(&pool, 200), "in the flood");
    }
    assert!(!flood.ready());
    assert!(flood.cancel());
    seats(&pool, 3);

    let outcome = among_neighbours(&pool, "noise without end", || {
        let floods = || {
            while reply_socket::write(&[0xCD; 100_000]) {}
            hang();
        };
        pool.apply_async(floods, ()).unwrap()
    });
    assert!(
        matches!(outcome, Err(TaskError::WorkerLost { cause: ExitCause::Protocol, .. })),
        "{outcome:?}"
    );
}

#[test]
fn terminate_is_bounded_in_a_flood() {
    let case = Case::new();
    let pool = case.builder(2).grace(Duration::from_millis(200)).build().unwrap();
    let floods = || {
        pool_tests::fault::become_deaf();
        let bells = header(BELL, 0, 0, 0).repeat(2_000);
        while reply_socket::write(&bells) {}
        hang();
    };
    let handles: Vec<_> = (0..2).map(|_| pool.apply_async(floods, ()).unwrap()).collect();
    eventually(SOON, "the floods begin", || handles.iter().all(|handle| handle.pid().is_some()));
    let bound = Duration::from_millis(1_200);
    pool_tests::within(bound, "terminate", || pool.terminate());
    case.assert_nothing_left();
    assert!(handles.into_iter().all(|handle| handle.get() == Err(TaskError::Terminated)));
}

/// The shared blocks of this worker: where they are mapped.
fn shared_blocks() -> Vec<(u64, u64)> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let shared = maps.lines().filter(|line| line.contains("/memfd:") && line.contains("rw-s"));
    let blocks: Vec<_> = shared
        .map(|line| {
            let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
            let number = |text| u64::from_str_radix(text, 16).unwrap();
            (number(start), number(end))
        })
        .collect();
    assert!(!blocks.is_empty(), "{maps}");
    blocks
}

/// Overwrites all memory that the worker shares with the parent.
fn scribbles(pattern: u8, then_hang: bool) {
    let mut memory = std::fs::OpenOptions::new().write(true).open("/proc/self/mem").unwrap();
    for (start, end) in shared_blocks() {
        memory.seek(SeekFrom::Start(start)).unwrap();
        memory.write_all(&vec![pattern; (end - start) as usize]).unwrap();
    }
    reply_socket::write(&header(BELL, 0, 0, 0));
    if then_hang {
        hang();
    }
}

#[test]
fn nonsense_in_shared_memory_costs_at_most_its_own_worker() {
    let case = Case::new();
    let pool = case.builder(3).task_timeout(Duration::from_secs(2)).build().unwrap();
    for pattern in [0xFF, 0x00, 0x01, 0x80, 0x03] {
        for then_hang in [false, true] {
            let what = format!("{pattern:#x} {then_hang}");
            let outcome = among_neighbours(&pool, &what, || {
                pool.apply_async(scribbles, (pattern, then_hang)).unwrap()
            });
            assert!(
                matches!(outcome, Ok(()) | Err(TaskError::WorkerLost { .. } | TaskError::TimedOut)),
                "{what}: {outcome:?}"
            );
        }
    }
}

#[test]
fn shared_memory_can_not_be_shrunk_under_the_parent() {
    let case = Case::new();
    let pool = case.pool(2);
    let shrinks = || {
        let mut refused = 0;
        for (start, end) in shared_blocks() {
            let path = format!("/proc/self/map_files/{start:x}-{end:x}");
            if let Ok(file) = std::fs::OpenOptions::new().read(true).write(true).open(path) {
                assert!(file.set_len(0).is_err(), "the block can be shrunk");
                assert!(file.set_len(1 << 30).is_err(), "the block can be grown");
                refused += 1;
            }
        }
        refused
    };
    let outcome = among_neighbours(&pool, "shrinks", || pool.apply_async(shrinks, ()).unwrap());
    assert!(matches!(outcome, Ok(1..)), "{outcome:?}");
}

#[test]
fn uninvited_descriptors_are_not_taken() {
    let case = Case::new();
    Program::new(&case, PARENT, &["uninvited-descriptors", "100"]).assert_stays_flat(2_048);
}
