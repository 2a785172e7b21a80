//! Rows 1-5, 37, 48, 51, 70, 74 and H9 of docs/reliability.md: workers that do not come up.
#![allow(clippy::print_stdout, reason = "says what it can not test here")]
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use pool_core::{Pool, PoolBuilder, PoolError, StartMethod, TaskError};
use pool_tests::reply_socket::{frame, header, kind, protocol_version};
use pool_tests::{Case, Gate, Ledger, Program, census, eventually, fault, seats, within};

pool_core::test_support!();

const EVIL: &str = env!("CARGO_BIN_EXE_evil_worker");
const PARENT: &str = env!("CARGO_BIN_EXE_surroundings");
const SOON: Duration = Duration::from_secs(20);

/// A pool whose first workers go wrong.
fn evil(case: &Case, workers: usize, plan: &str, starts: &Ledger) -> PoolBuilder {
    let builder = case.builder(workers).executable(EVIL);
    builder.env("POOL_TESTS_EVIL", plan).env("POOL_TESTS_STARTS", starts.path())
}

fn starts(ledger: &Ledger) -> usize {
    ledger.notes().values().map(Vec::len).sum()
}

#[track_caller]
fn assert_works(pool: &Pool) {
    assert_eq!(pool.apply_named("double", b"ab").unwrap().get(), Ok(b"abab".to_vec()));
}

#[test]
fn row_1_and_2_a_worker_that_ends_before_hello_is_started_again() {
    for what in ["kill", "exit 0", "exit 7"] {
        let (case, ledger) = (Case::new(), Ledger::new());
        let pool = evil(&case, 2, &format!("3 {what}"), &ledger).build().unwrap();
        assert_works(&pool);
        seats(&pool, 2);
        assert_eq!(starts(&ledger), 5, "three that end, two that stay: {what}");
        assert_eq!(pool.stats().workers_lost, 0, "what never was ready is not lost: {what}");
    }
}

#[test]
fn row_2_the_cause_is_told() {
    let (case, ledger) = (Case::new(), Ledger::new());
    let error = evil(&case, 2, "1000 exit 0", &ledger).build().unwrap_err();
    let PoolError::StartFailed(text) = &error else { panic!("{error:?}") };
    assert!(text.contains("exited with code 0"), "{text}");
}

#[test]
fn row_2_the_file_that_is_to_blame_is_named() {
    let case = Case::new();
    let told = |builder: PoolBuilder| match builder.build().unwrap_err() {
        PoolError::StartFailed(text) => text,
        other => panic!("{other:?}"),
    };
    for method in [StartMethod::Spawn, StartMethod::ForkServer] {
        let one = || case.builder(1).start_method(method);
        let text = told(one().executable("/no/such/worker"));
        assert!(text.contains("executable /no/such/worker: No such file"), "{text}");
        let text = told(one().current_dir("/no/such/folder"));
        assert!(text.contains("current_dir /no/such/folder is no directory"), "{text}");
        let text = told(one().executable("/bin/true"));
        assert!(text.contains("exited with code 0"), "{text}");
    }
    // the workers offer no functions by name
    let pool = case.pool(1);
    let error = pool.apply_named("double", b"ab").unwrap().get().unwrap_err().to_string();
    assert!(error.contains("it offers none: call pool_core::init_with"), "{error}");
}

#[test]
fn row_3_a_worker_that_never_says_hello_is_killed_and_the_others_come_up_meanwhile() {
    for what in ["hang", "stop"] {
        let (case, ledger) = (Case::new(), Ledger::new());
        let builder = evil(&case, 3, &format!("1 {what}"), &ledger);
        // build() waits for all of them; the one that hangs is replaced when its time is over
        let pool = builder.start_timeout(Duration::from_secs(2)).build().unwrap();
        assert_works(&pool);
        seats(&pool, 3);
        assert_eq!(starts(&ledger), 4, "{what}");
    }
}

#[test]
fn row_4_a_worker_of_another_version_is_refused_at_once() {
    let (case, ledger) = (Case::new(), Ledger::new());
    let mut hello = 99u32.to_le_bytes().to_vec();
    hello.extend_from_slice(&1u32.to_le_bytes());
    hello.extend_from_slice(&[0; 32]);
    let hex: String =
        frame(kind::HELLO, 0, 0, &hello).iter().map(|byte| format!("{byte:02x}")).collect();
    let error = evil(&case, 2, &format!("1000 send {hex}"), &ledger).build().unwrap_err();
    let PoolError::StartFailed(text) = &error else { panic!("{error:?}") };
    assert!(text.contains("version 99"), "{text}");
    assert!(starts(&ledger) <= 2, "no second attempt");
    case.assert_nothing_left();
}

#[test]
fn row_5_if_no_worker_comes_up_the_number_of_attempts_is_bounded() {
    let (case, ledger) = (Case::new(), Ledger::new());
    let error = evil(&case, 4, "1000000 kill", &ledger).build().unwrap_err();
    assert!(matches!(error, PoolError::StartFailed(_)), "{error:?}");
    assert!((8..=16).contains(&starts(&ledger)), "{} starts", starts(&ledger));
    case.assert_nothing_left();
}

#[test]
fn row_5_if_every_worker_sends_nonsense_first_the_number_of_attempts_is_bounded() {
    let (case, ledger) = (Case::new(), Ledger::new());
    let built =
        evil(&case, 2, "1000000 send eeeeeeee00000000000000000000000000000000eeeeeeee", &ledger);
    let error = built.build().unwrap_err();
    let PoolError::StartFailed(text) = &error else { panic!("{error:?}") };
    assert!(text.contains("malformed"), "{text}");
    assert!(starts(&ledger) <= 10, "{} starts", starts(&ledger));
    case.assert_nothing_left();
}

#[test]
fn row_5_a_fork_server_that_says_nonsense_is_not_waited_for() {
    let (case, ledger) = (Case::new(), Ledger::new());
    let nonsense = "1000000 send eeeeeeee00000000000000000000000000000000eeeeeeee";
    // an hour: whoever waits for that is ended by the watchdog
    let built = evil(&case, 1, nonsense, &ledger).start_timeout(Duration::from_secs(3600));
    let error = built.start_method(StartMethod::ForkServer).build().unwrap_err();
    let PoolError::StartFailed(text) = &error else { panic!("{error:?}") };
    assert!(text.contains("nonsense"), "{text}");
    assert!(starts(&ledger) <= 5, "{} starts", starts(&ledger));
    case.assert_nothing_left();
}

#[test]
fn row_74_join_returns_when_replacements_do_not_come_up() {
    let (case, ledger, gate) = (Case::new(), Ledger::new(), Gate::new());
    let doomed = case.builder(1).initializer(
        |ledger: String| {
            Ledger::note(&ledger, 0);
            if std::fs::read_to_string(&ledger).unwrap().lines().count() > 1 {
                fault::Fault::Exit(3).happen();
            }
        },
        (ledger.path(),),
    );
    let pool = doomed.build().unwrap();
    let first = pool.apply_async(|gate: String| Gate::wait_at(&gate), (gate.path(),)).unwrap();
    let queued: Vec<_> = (0..10).map(|x| pool.apply_async(u64::pow, (x, 2)).unwrap()).collect();
    let pid = gate.await_arrivals(1)[0];
    pool.close();
    fault::send(pid, Signal::SIGKILL);
    let joined = pool.join_timeout(Duration::from_secs(60));
    assert!(matches!(joined, Err(PoolError::Broken(_) | PoolError::StartFailed(_))), "{joined:?}");
    assert!(matches!(first.get(), Err(TaskError::WorkerLost { .. })));
    for handle in queued {
        assert!(matches!(handle.get(), Err(TaskError::PoolBroken(_))));
    }
}

#[test]
fn row_h9_frames_out_of_order_cost_the_worker() {
    let hello = {
        let mut body = protocol_version().to_le_bytes().to_vec();
        body.extend_from_slice(&1u32.to_le_bytes());
        body.extend_from_slice(&[0; 32]);
        frame(kind::HELLO, 0, 0, &body)
    };
    let ready = header(kind::READY, 0, 0, 0);
    for (what, bytes) in [
        ("ready before hello", ready.clone()),
        ("a reply before hello", frame(kind::DONE, 0, 1, b"12345678")),
        ("hello twice", hello.repeat(2)),
        ("a flood of hellos", hello.repeat(10_000)),
        ("ready twice", [hello.clone(), ready.repeat(2)].concat()),
        ("a reply to nothing", [hello.clone(), ready, frame(kind::DONE, 0, 1, b"x")].concat()),
        ("a hello that is none", frame(kind::HELLO, 0, 0, b"short")),
        ("a hello of 2^40 bytes", header(kind::HELLO, 0, 0, 1 << 40)),
        ("a text that is none", [hello, frame(kind::INIT_FAILED, 0, 0, &[0xFF; 9])].concat()),
        ("one byte and no more", vec![kind::HELLO]),
    ] {
        let (case, ledger) = (Case::new(), Ledger::new());
        // a file, because an environment can't hold a flood
        let hex: String = bytes.iter().take(48_000).map(|byte| format!("{byte:02x}")).collect();
        let pool = evil(&case, 2, &format!("1 send {hex}"), &ledger);
        let pool = pool.start_timeout(Duration::from_secs(4)).build().unwrap();
        assert_works(&pool);
        seats(&pool, 2);
        assert_eq!(starts(&ledger), 3, "{what}: one that is killed, two that stay");
    }
}

#[test]
fn row_37_a_worker_whose_parent_died_before_the_signal_was_armed_leaves_by_itself() {
    let (case, gate, ledger) = (Case::new(), Gate::new(), Ledger::new());
    let args = ["starts-slowly", EVIL, &gate.path(), &ledger.path()];
    let mut parent = Program::new(&case, PARENT, &args).start();
    // the worker waits before init(), where nothing ends it when its parent dies
    let worker = gate.await_arrivals(1)[0];
    parent.kill();
    assert!(census::is_alive(worker));
    gate.let_pass(8);
    eventually(SOON, "it sees that its parent is not there", || case.processes().is_empty());
}

#[test]
fn row_48_and_51_processes_and_threads_run_out() {
    let case = Case::new();
    let mut parent = Program::new(&case, PARENT, &["few-processes"]);
    if nix::unistd::geteuid().is_root() {
        // the limit does not hold for root; this user has nothing else to do here
        parent = parent.user(61_234);
    }
    parent.assert_stays_flat(4_096);
}

/// strace changes what system calls answer. Loudly skipped where it is missing or not permitted.
fn under_strace(case: &Case, inject: &str, args: &[&str]) -> Option<(bool, String)> {
    let allowed = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: strace is missing or not permitted");
        return None;
    }
    let call = inject.split(':').next().unwrap();
    let (trace, inject) = (format!("trace={call}"), format!("inject={inject}"));
    let strace = ["-qq", "-f", "-o", "/dev/null", "-e", &trace, "-e", &inject, PARENT];
    let (status, stdout, stderr) = Program::new(case, "strace", &[&strace, args].concat()).run();
    assert!(!stderr.contains("panicked"), "{stderr}");
    Some((status.success(), stdout))
}

#[test]
fn row_48_a_process_that_can_not_be_made_is_tried_again() {
    let case = Case::new();
    // std asks for clone3, and falls back to fork only if the kernel does not know it
    for inject in ["clone3:error=EAGAIN:when=3", "clone3:error=ENOMEM:when=4"] {
        let Some((_, stdout)) = under_strace(&case, inject, &["two-squares"]) else { return };
        assert_eq!(stdout.trim(), "Ok([0, 1, 4, 9])", "{inject}");
    }
}

#[test]
fn row_70_a_kernel_without_pidfds_is_an_error_and_one_without_clone3_works() {
    let case = Case::new();
    let Some((_, stdout)) = under_strace(&case, "pidfd_open:error=ENOSYS", &["two-squares"]) else {
        return;
    };
    assert!(stdout.contains("StartFailed") && stdout.contains("not implemented"), "{stdout}");
    case.assert_nothing_left();
    let without = under_strace(&case, "clone3:error=ENOSYS", &["two-squares"]);
    assert_eq!(without.unwrap().1.trim(), "Ok([0, 1, 4, 9])");
    let without = under_strace(&case, "close_range:error=ENOSYS", &["two-squares"]);
    assert_eq!(without.unwrap().1.trim(), "Ok([0, 1, 4, 9])");
}

#[test]
fn row_6_and_7_a_system_call_that_fails_while_tasks_are_sent_loses_nothing() {
    let case = Case::new();
    // the n-th message to a worker meets a socket that is gone
    for when in [3, 5, 9] {
        for error in ["EPIPE", "ECONNRESET", "ENOBUFS"] {
            let inject = format!("sendmsg:error={error}:when={when}");
            let Some((_, stdout)) = under_strace(&case, &inject, &["two-squares"]) else { return };
            let ends = stdout.trim();
            // the first messages are those that start workers
            assert!(ends == "Ok([0, 1, 4, 9])" || ends.starts_with("build: "), "{inject}: {ends}");
        }
    }
}

/// A worker whose replies nobody could be told to read is ended, for its end is heard; what it had not begun goes to the next one.
#[test]
fn a_worker_that_can_not_be_watched_again_is_replaced_and_costs_nothing() {
    let case = Case::new();
    let mut lost = Vec::new();
    for when in 1..=14 {
        let inject = format!("epoll_ctl:error=ENOMEM:when={when}");
        let Some((_, stdout)) = under_strace(&case, &inject, &["waits-and-does-not"]) else {
            return;
        };
        match stdout.trim().strip_prefix("lost ") {
            Some(workers) => lost.push(workers.parse::<u64>().unwrap()),
            None => assert!(stdout.starts_with("build: "), "{inject}: {stdout}"),
        }
    }
    assert!(lost.contains(&0) && lost.iter().any(|&lost| lost > 0), "{lost:?}");
}

#[test]
fn row_63_interrupted_system_calls_are_no_errors() {
    let case = Case::new();
    for call in ["epoll_wait", "poll", "recvfrom", "sendmsg", "waitid", "recvmsg"] {
        let inject = format!("{call}:error=EINTR:when=1+2");
        let Some((_, stdout)) = under_strace(&case, &inject, &["two-squares"]) else { return };
        assert_eq!(stdout.trim(), "Ok([0, 1, 4, 9])", "{inject}");
    }
}

#[test]
fn terminate_is_bounded_while_nothing_comes_up() {
    let (case, ledger) = (Case::new(), Ledger::new());
    let gate = Gate::new();
    let pool = evil(&case, 2, &format!("0 wait {}", gate.path()), &ledger).build().unwrap();
    for pid in seats(&pool, 2) {
        fault::send(pid, Signal::SIGKILL);
    }
    let bound = Duration::from_millis(1_900);
    within(bound, "terminate", || pool.terminate());
    case.assert_nothing_left();
}
