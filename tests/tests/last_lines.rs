//! The last lines of a dead worker's standard error are part of the error, where the pool reads them.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]
#![allow(clippy::print_stderr, reason = "it is about what is printed")]

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::time::Duration;

use nix::sys::signal::Signal;
use pool_core::{ExitCause, Output, Pool, StartMethod, TaskError};
use pool_tests::fault::{self, Fault};
use pool_tests::{Case, Program, census, eventually};

pool_core::test_support!();

const READ: [Output; 2] = [Output::Tagged, Output::Captured];

/// The signal and the last lines of a lost worker.
#[track_caller]
fn lost<R: std::fmt::Debug>(outcome: Result<R, TaskError>) -> (i32, String) {
    match outcome {
        Err(TaskError::WorkerLost {
            cause: ExitCause::Signaled { signal, .. }, stderr, ..
        }) => (signal, stderr),
        other => panic!("{other:?}"),
    }
}

fn says_and(text: String, fault: Fault) {
    eprint!("{text}");
    fault.happen();
}

fn each_pool(check: impl Fn(&Pool)) {
    let case = Case::new();
    for output in READ {
        for start in [StartMethod::Spawn, StartMethod::ForkServer] {
            check(&case.builder(1).stderr(output).start_method(start).build().unwrap());
        }
    }
}

#[test]
fn row_11_the_last_lines_of_standard_error_are_told_with_a_death() {
    each_pool(|pool| {
        for _ in 0..3 {
            let text = "about to\nfail: x is 3\n".to_owned();
            let outcome = pool.apply(says_and, (text, Fault::WildPointer));
            let error = outcome.clone().unwrap_err().to_string();
            let expected =
                "(last_lines::says_and); its standard error ends with\n  about to\n  fail: x is 3";
            assert!(error.ends_with(expected), "{error}");
            let (signal, text) = lost(outcome);
            assert_eq!((signal, &*text), (Signal::SIGSEGV as i32, "about to\nfail: x is 3"));
        }
        // a worker that has said nothing has no last lines
        let silent = pool.apply(says_and, (String::new(), Fault::Raise(9)));
        assert!(!silent.clone().unwrap_err().to_string().contains("standard error"));
        assert_eq!(lost(silent), (9, String::new()));
    });
}

extern "C" fn no_way_out() {
    panic!("x is {}", 3);
}

#[test]
fn row_11_and_12_what_rust_says_before_it_aborts_is_told() {
    each_pool(|pool| {
        let (signal, text) = lost(pool.apply(says_and, (String::new(), Fault::StackOverflow)));
        assert_eq!(signal, Signal::SIGABRT as i32);
        assert!(text.contains("has overflowed its stack"), "{text}");
        let (signal, text) = lost(pool.apply(says_and, (String::new(), Fault::DoublePanic)));
        assert_eq!(signal, Signal::SIGABRT as i32);
        assert!(text.contains("fault.rs:") && text.contains("the second of two"), "{text}");
        let (signal, text) = lost(pool.apply(|| no_way_out(), ()));
        assert_eq!(signal, Signal::SIGABRT as i32);
        assert!(text.contains("last_lines.rs:") && text.contains("x is 3"), "{text}");
        // a panic of an earlier task, which has nothing to do with it
        assert!(
            pool.apply(|| -> () { drop(std::panic::catch_unwind(|| panic!("caught"))) }, ())
                .is_ok()
        );
        let (signal, text) = lost(pool.apply(breaks_a_rule, ()));
        assert_eq!(signal, Signal::SIGABRT as i32);
        assert!(text.contains("precondition(s) violated") && !text.contains("caught"), "{text}");
    });
}

#[allow(unsafe_code, reason = "breaking its rule is the point")]
fn breaks_a_rule() -> u8 {
    let index = std::hint::black_box(9);
    // SAFETY: there is none; with debug assertions, std sees it and aborts.
    unsafe { *[1_u8, 2].get_unchecked(index) }
}

#[test]
fn a_flood_is_told_by_its_end() {
    each_pool(|pool| {
        let floods = || {
            let lines: String = (0..100_000).map(|n| format!("line {n}\n")).collect();
            std::io::stderr().write_all(lines.as_bytes()).unwrap();
            Fault::WildPointer.happen();
        };
        let lines: Vec<String> = (99_990..100_000).map(|n| format!("line {n}")).collect();
        assert_eq!(lost(pool.apply(floods, ())).1, lines.join("\n"));
        // one line without an end
        let mutters = || {
            std::io::stderr().write_all(&vec![b'x'; 1 << 20]).unwrap();
            Fault::WildPointer.happen();
        };
        assert_eq!(lost(pool.apply(mutters, ())).1, "x".repeat(2048));
    });
}

#[test]
fn what_is_no_text_is_told_as_far_as_it_is() {
    each_pool(|pool| {
        let writes = || {
            std::io::stderr().write_all(b"caf\xe9 \x1b[2J\n").unwrap();
            Fault::WildPointer.happen();
        };
        let outcome = pool.apply(writes, ());
        // the message moves no cursor
        let error = outcome.clone().unwrap_err().to_string();
        assert!(error.ends_with("\n  caf\u{fffd} \\u{1b}[2J"), "{error:?}");
        assert_eq!(lost(outcome).1, "caf\u{fffd} \u{1b}[2J");
    });
}

#[test]
fn row_32_a_grandchild_that_keeps_standard_error_open_is_not_waited_for() {
    each_pool(|pool| {
        let leaves = || {
            // in a group of its own, so it does not end with the worker
            let mut command = std::process::Command::new("sleep");
            let mut child = command.arg("1000").process_group(0).spawn().unwrap();
            assert!(child.try_wait().unwrap().is_none());
            eprint!("left {}", child.id());
            Fault::WildPointer.happen();
        };
        let (_, text) = lost(pool.apply(leaves, ()));
        let left: u32 = text.strip_prefix("left ").unwrap().parse().unwrap();
        assert!(census::is_alive(left));
        fault::send(left, Signal::SIGKILL);
        assert_eq!(pool.apply(|| 7, ()), Ok(7));
    });
}

#[test]
fn where_standard_error_is_not_read_there_are_no_last_lines() {
    let case = Case::new();
    for output in [Output::Inherit, Output::Discard] {
        let pool = case.builder(1).stderr(output).build().unwrap();
        let outcome = pool.apply(says_and, ("gone\n".to_owned(), Fault::WildPointer));
        assert_eq!(lost(outcome).1, "");
    }
}

#[test]
fn the_last_lines_of_a_process_are_told_too() {
    let case = Case::new();
    for output in READ {
        let args = ("the end\n".to_owned(), Fault::WildPointer);
        let process = case.process().stderr(output).spawn(says_and, args).unwrap();
        assert_eq!(lost(process.join()).1, "the end");
    }
}

/// Whoever writes tagged lines may be held up; the death is told at once all the same, with its last lines.
#[test]
fn a_standard_error_that_nobody_reads_delays_no_death() {
    let case = Case::new();
    let mut program = Program::new(&case, env!("CARGO_BIN_EXE_printing"), &["unread"]).start();
    assert_eq!(program.line(), "line 7999");
    program.kill();
    // the next worker ends by its parent's death
    eventually(Duration::from_secs(30), "its worker ends", || case.processes().is_empty());
}
