//! A host under a real pool. This test's executable is the host too, so it has no test harness: a worker must reach
//! `Host` before anything else.

#![expect(clippy::unwrap_used, reason = "a failure in a helper is the failure of the test")]

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;

use pool_core::{Pool, TaskError};
use pool_worker::Host;
use pool_worker::call::{self, CALL, Reply};

fn half(n: u64) -> anyhow::Result<u64> {
    anyhow::ensure!(n.is_multiple_of(2), "{n} is odd");
    Ok(n / 2)
}

fn host() -> Host {
    Host::new().task("half", half).task("double", |n: u64| 2 * n)
}

fn main() -> ExitCode {
    pool_core::init_with(host().into_registry());
    if list() {
        return ExitCode::SUCCESS;
    }
    let pool = Pool::builder().processes(1).executable(env::current_exe().unwrap());
    let pool = pool.build().unwrap();
    let task = |name: &str, input: &[u8]| pool.apply_named(name, input).unwrap().get();

    assert_eq!(task("double", b"21"), Ok(b"42".to_vec()));
    assert_eq!(task("half", b"42"), Ok(b"21".to_vec()));
    assert_eq!(task("half", b"3"), Err(TaskError::Failed("3 is odd".into())));
    let Err(TaskError::Failed(error)) = task("half", b"[]") else { panic!("a list is no number") };
    assert!(error.starts_with("task `half` can't read its input: "), "{error}");
    assert!(task("third", b"3").is_err(), "there is no such task");

    let call = |name: &str, input: &[u8]| {
        Reply::parse(&task(CALL, &call::request(name, input)).unwrap()).unwrap()
    };
    let reply = call("double", b"21");
    assert_eq!((&reply.result, reply.worker_pid), (&Ok(b"42".to_vec()), pool.workers()[0].pid()));
    assert_eq!(call("half", b"3").result, Err("3 is odd".into()));
    ExitCode::SUCCESS
}

/// A runner that asks which tests there are is told of one.
fn list() -> bool {
    let asked = |what: &str| env::args().any(|arg| arg == what);
    if asked("--list") && !asked("--ignored") {
        io::stdout().write_all(b"host: test\n").unwrap();
    }
    asked("--list")
}
