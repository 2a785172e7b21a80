//! Workers that are confined: what untrusted code in them can't do, and what goes on working; each over both profiles and both ways to start workers.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]
#![allow(clippy::print_stderr, reason = "says what was skipped")]

use std::fs;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileExt, symlink};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pool_core::{ExitCause, Limit, Pool, PoolError, Sandbox, TaskError};
use pool_tests::Case;

pool_core::test_support!();

const CONFINED: &str = env!("CARGO_BIN_EXE_confined");
const BOTH: [&str; 2] = ["confined", "strict"];

fn run(mut command: Command) -> Vec<String> {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{:?}: {text}{error}", output.status);
    text.lines().map(str::to_owned).collect()
}

/// What a worker reports of a probe; the pool is well after it.
#[track_caller]
fn ask(profile: &str, method: &str, probe: &str, rest: &[&str]) -> String {
    let mut command = Command::new(CONFINED);
    command.args([profile, method, probe]).args(rest);
    let mut lines = run(command);
    assert_eq!(lines.pop().as_deref(), Some("well"), "{profile} {method} {probe}: {lines:?}");
    lines.join("\n")
}

/// None of the probes comes to anything, whatever the profile and the way to start.
#[track_caller]
fn refused(profiles: &[&str], probes: &[&str], rest: &[&str]) {
    for profile in profiles {
        for method in ["spawn", "fork"] {
            for probe in probes {
                let answer = ask(profile, method, probe, rest);
                let is_refused = matches!(answer.as_str(), "EPERM" | "EACCES" | "ENOSYS");
                assert!(is_refused, "{profile} {method} {probe} {rest:?}: {answer}");
            }
        }
    }
}

#[track_caller]
fn works(profiles: &[&str], probes: &[&str], rest: &[&str]) {
    for profile in profiles {
        for method in ["spawn", "fork"] {
            for probe in probes {
                assert_eq!(ask(profile, method, probe, rest), "OK", "{profile} {method} {probe}");
            }
        }
    }
}

/// A directory with files, outside of what can be read by default.
fn files() -> (tempfile::TempDir, String, String) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let secret = directory.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let (all, secret) = (path(directory.path()), path(&secret));
    (directory, all, secret)
}

#[test]
fn the_kernel_says_that_workers_are_confined() {
    for profile in BOTH {
        for method in ["spawn", "fork"] {
            let status = ask(profile, method, "status", &[]);
            for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "Seccomp_filters:\t2", "Threads:\t1"] {
                assert!(status.contains(line), "{profile} {method}: no {line} in {status}");
            }
            let limits = ask(profile, method, "limits", &[]);
            let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
            assert_eq!(core.split_ascii_whitespace().nth(4), Some("0"), "{core}");
        }
    }
}

#[test]
fn what_tasks_are_promised_works_in_the_strictest_sandbox() {
    for profile in BOTH {
        for method in ["spawn", "fork"] {
            assert_eq!(ask(profile, method, "works", &[]), "all");
        }
    }
    works(&BOTH, &["stream-pair"], &[]);
}

/// That the probes below fail says something only if they succeed where nobody is confined.
#[test]
fn without_a_sandbox_all_of_it_can_be_done() {
    let (directory, all, secret) = files();
    works(&["none"], &["chmod", "touch", "truncate", "read", "write"], &[&secret]);
    assert_eq!(ask("none", "spawn", "remove", &[&secret]), "OK");
    works(&["none"], &["round-trip", "list"], &[&all]);
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    works(&["none"], &["tcp"], &[&tcp.local_addr().unwrap().to_string()]);
    let path = directory.path().join("socket");
    let _unix = UnixListener::bind(&path).unwrap();
    works(&["none"], &["unix"], &[path.to_str().unwrap()]);
    let probes = ["udp", "datagram-pair", "kill-parent", "kill-thread-of-parent", "limit-parent"];
    works(&["none"], &probes, &[]);
    let probes = ["read-environment", "start", "outlive-parent", "be-dumped", "nested-pool"];
    works(&["none"], &probes, &[]);
    // others may be kept from it by the system
    if nix::unistd::geteuid().is_root() {
        assert!(ask("none", "spawn", "steal", &[]).starts_with("OK,EFAULT,"));
    }
}

#[test]
fn files_outside_can_not_be_reached() {
    let (directory, _, secret) = files();
    refused(&BOTH, &["read", "write", "remove", "chmod", "truncate"], &[&secret]);
    // by another way, or with tricks
    let link = directory.path().join("link");
    symlink(&secret, &link).unwrap();
    refused(&BOTH, &["read"], &[link.to_str().unwrap()]);
    refused(&BOTH, &["read"], &[&format!("/proc/self/root{secret}")]);
    refused(&BOTH, &["list"], &["/"]);
    refused(&["strict"], &["read"], &["/etc/passwd"]);
    refused(&["confined"], &["read"], &["/etc/shadow"]);
    refused(&["confined"], &["write"], &["/etc/passwd"]);
    assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
    works(&["confined"], &["read"], &["/etc/passwd"]);
    works(&["confined"], &["write"], &["/dev/null"]);
}

#[test]
fn files_that_were_allowed_can_be_reached_and_no_others() {
    let (_directory, all, secret) = files();
    let (_other, outside, other_secret) = files();
    works(&BOTH, &["read"], &[&secret, &format!("read:{all}")]);
    works(&BOTH, &["read"], &[&secret, &format!("read:{secret}")]);
    refused(&BOTH, &["write", "remove", "chmod", "truncate"], &[&secret, &format!("read:{all}")]);
    works(&BOTH, &["round-trip"], &[&all, &format!("write:{all}")]);
    refused(&BOTH, &["chmod", "touch"], &[&secret, &format!("write:{all}")]);
    refused(&BOTH, &["read"], &[&other_secret, &format!("write:{all}")]);
    refused(&BOTH, &["round-trip"], &[&outside, &format!("write:{all}")]);
    // a link out of it leads nowhere
    let link = format!("{all}/link");
    symlink(&other_secret, &link).unwrap();
    refused(&BOTH, &["read"], &[&link, &format!("read:{all}")]);
    assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
}

#[test]
fn nobody_can_be_connected_to() {
    let (directory, ..) = files();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap().to_string();
    refused(&BOTH, &["tcp"], &[&address]);
    let path = directory.path().join("socket");
    let _unix = UnixListener::bind(&path).unwrap();
    let write = format!("write:{}", directory.path().display());
    refused(&BOTH, &["unix"], &[path.to_str().unwrap(), &write]);
    let name = format!("pool-tests-{}", std::process::id());
    let _nameless =
        UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    refused(&BOTH, &["abstract"], &[&name]);
    refused(&BOTH, &["udp", "datagram-pair"], &[]);
}

#[test]
fn parent_and_siblings_can_not_be_signalled() {
    let probes = ["kill-parent", "kill-group", "kill-all", "kill-thread-of-parent", "limit-parent"];
    refused(&BOTH, &probes, &[]);
    let mut sibling = Command::new("sleep").arg("1000").spawn().unwrap();
    refused(&BOTH, &["kill-sibling"], &[&sibling.id().to_string()]);
    assert!(sibling.try_wait().unwrap().is_none());
    sibling.kill().unwrap();
    sibling.wait().unwrap();
}

#[test]
fn parent_and_siblings_can_not_be_traced_or_read() {
    refused(&BOTH, &["trace-parent", "read-memory-file", "read-environment"], &[]);
    for profile in BOTH {
        for method in ["spawn", "fork"] {
            assert_eq!(ask(profile, method, "steal", &[]), "EPERM,EPERM,EPERM,EPERM");
            assert_eq!(ask(profile, method, "is-dumpable", &[]), "Ok(false)");
        }
    }
}

#[test]
fn nothing_can_be_started_or_left_behind() {
    refused(&BOTH, &["start", "fork", "session", "outlive-parent", "be-dumped"], &[]);
    for profile in BOTH {
        assert_eq!(ask(profile, "spawn", "nested-pool", &[]), "refused");
    }
}

#[test]
fn there_is_no_way_around_the_filter() {
    refused(&BOTH, &["ring", "filter"], &[]);
    if cfg!(target_arch = "x86_64") {
        refused(&BOTH, &["x32"], &[]);
    }
}

#[test]
fn the_environment_is_what_was_allowed() {
    for profile in BOTH {
        for method in ["spawn", "fork"] {
            let mut command = Command::new(CONFINED);
            command.args([profile, method, "environment"]).env("PASSWORD", "1234");
            let lines = run(command);
            let mut names: Vec<&str> = lines[0].split(',').collect();
            names.sort_unstable();
            assert_eq!(names, ["ALLOWED", "POOL_CORE_WORKER"], "{profile} {method}");
        }
    }
}

#[test]
fn the_initializer_is_confined_too() {
    let (_directory, all, secret) = files();
    for profile in BOTH {
        let mut command = Command::new(CONFINED);
        let lines = run({
            command.args([profile, "spawn", "initializer", &secret]);
            command
        });
        assert!(lines[0].starts_with("build: the initializer failed"), "{lines:?}");
        let answer = Command::new(CONFINED)
            .args([profile, "spawn", "initializer", &secret, &format!("read:{all}")])
            .output()
            .unwrap();
        let text = String::from_utf8(answer.stderr).unwrap();
        // the pool was built; the probe itself is none
        assert!(text.contains("unknown probe"), "{text}");
    }
}

/// A kernel that knows a system call of the sandbox not, as `strace` makes it.
fn on_a_kernel_without(call: &str, profile: &str, probe: &str) -> Option<Vec<String>> {
    let mut command = Command::new("strace");
    let inject = format!("inject={call}:error=ENOSYS");
    let trace = format!("trace={call}");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject, CONFINED]);
    command.args([profile, "spawn", probe]);
    let has_strace = Command::new("strace").arg("-V").output().is_ok_and(|o| o.status.success());
    if !has_strace {
        eprintln!("SKIPPED: needs strace");
        return None;
    }
    Some(run(command))
}

#[test]
fn what_the_kernel_can_not_keep_is_an_error() {
    for (call, name) in [("landlock_create_ruleset", "landlock"), ("seccomp", "seccomp")] {
        let Some(lines) = on_a_kernel_without(call, "strict", "gaps") else { return };
        let [line] = &lines[..] else { panic!("{lines:?}") };
        assert!(line.starts_with("build: "), "{line}");
        assert!(line.contains(&format!("the sandbox can't be applied: {name}: ")), "{line}");
        assert!(line.contains("best_effort"), "{line}");
    }
}

#[test]
fn with_best_effort_what_the_kernel_can_not_keep_is_told() {
    for (call, name) in [("landlock_create_ruleset", "landlock"), ("seccomp", "seccomp")] {
        let Some(lines) = on_a_kernel_without(call, "strict-best-effort", "gaps") else { return };
        assert!(lines[0].starts_with(&format!("[\"{name}: ")), "{lines:?}");
        assert!(lines[0].ends_with("] Ok(8)"), "{lines:?}");
    }
    assert_eq!(ask("strict-best-effort", "spawn", "gaps", &[]), "[] Ok(8)");
}

/// A test binary has a thread besides the one that is confined, and says so.
#[test]
fn what_does_not_hold_for_all_threads_is_told() {
    let case = Case::new();
    let error = case.builder(1).sandbox(Sandbox::strict()).build().unwrap_err();
    assert!(matches!(&error, PoolError::StartFailed(text) if text.contains("threads")), "{error}");
    let pool = case.builder(1).sandbox(Sandbox::strict().best_effort()).build().unwrap();
    assert!(pool.sandbox_gaps()[0].starts_with("landlock: the process had "));
    assert_eq!(pool.apply(u64::pow, (2, 3)), Ok(8));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let case = Case::new();
    let refused = |builder: pool_core::PoolBuilder, what: &str| {
        let error = builder.build().unwrap_err();
        assert!(matches!(&error, PoolError::Config(text) if text.contains(what)), "{error}");
    };
    refused(case.builder(1).sandbox(Sandbox::strict().read("here")), "must be absolute");
    refused(case.builder(1).limit(Limit::OpenFiles(3)), "too few");
    refused(case.builder(1).limit(Limit::Stack(1)), "no worker can start");
    refused(case.builder(1).limit(Limit::CpuTime(Duration::ZERO)), "no time");
    refused(Pool::builder().threads(1).sandbox(Sandbox::strict()), "processes only");
    refused(Pool::builder().threads(1).limit(Limit::CoreSize(0)), "processes only");
    // a file that is not there is no file that may be read
    let mut command = Command::new(CONFINED);
    command.args(["strict", "spawn", "gaps", "read:/no/such/file"]);
    let lines = run(command);
    assert!(lines[0].contains("/no/such/file"), "{lines:?}");
}

fn overflow(depth: u64) -> u64 {
    let here = [depth; 64];
    if depth == 0 { 0 } else { std::hint::black_box(here)[7].min(overflow(depth - 1)) + 1 }
}

fn signal_of(outcome: Result<u64, TaskError>) -> i32 {
    match outcome {
        Err(TaskError::WorkerLost { cause: ExitCause::Signaled { signal, .. }, .. }) => signal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn p22_limits_hold() {
    let case = Case::new();
    let spins = || -> u64 {
        loop {
            std::hint::spin_loop();
        }
    };
    let limit = Limit::CpuTime(Duration::from_secs(1));
    let pool = case.builder(1).limit(limit).build().unwrap();
    assert_eq!(signal_of(pool.apply(spins, ())), libc::SIGXCPU);
    let writes = || {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[0; 100], 0).unwrap();
        file.write_all_at(&[0; 100], 4096).unwrap();
        0
    };
    let pool = case.builder(1).limit(Limit::FileSize(4096)).build().unwrap();
    assert_eq!(signal_of(pool.apply(writes, ())), libc::SIGXFSZ);
    let pool = case.builder(1).limit(Limit::Stack(512 << 10)).build().unwrap();
    assert_eq!(pool.apply(overflow, (100,)), Ok(100));
    assert!(matches!(pool.apply(overflow, (3000,)), Err(TaskError::WorkerLost { .. })));
    let pool = case.builder(1).limit(Limit::OpenFiles(32)).build().unwrap();
    let opens =
        || (0..100).map_while(|_| fs::File::open("/dev/null").ok()).collect::<Vec<_>>().len();
    assert!((1..32).contains(&pool.apply(opens, ()).unwrap()));
    let pool = case.builder(1).limit(Limit::CoreSize(0)).build().unwrap();
    let core = || fs::read_to_string("/proc/self/limits").unwrap();
    let limits = pool.apply(core, ()).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_ascii_whitespace().nth(5), Some("0"), "{core}");
}
