//! A worker executable that goes wrong before it becomes a worker, as POOL_TESTS_EVIL says, and is a good worker otherwise.
//!
//! `2 kill`: the first two processes kill themselves. Numbers of starts are counted in the file POOL_TESTS_STARTS.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]

use nix::sys::signal::Signal;
use pool_tests::fault::{self, Fault};
use pool_tests::{Gate, Ledger, reply_socket};

fn main() {
    if let Ok(plan) = std::env::var("POOL_TESTS_EVIL") {
        let ledger = std::env::var("POOL_TESTS_STARTS").unwrap();
        Ledger::note(&ledger, std::process::id().into());
        let me = std::process::id().to_string();
        let notes = std::fs::read_to_string(&ledger).unwrap();
        // its own place in the file: others may have started at the same time
        let before = notes.lines().position(|line| line.ends_with(&format!(" {me}"))).unwrap();
        let (first, what) = plan.split_once(' ').unwrap();
        if before < first.parse().unwrap() {
            go_wrong(what);
        }
    }
    let registry = pool_core::Registry::new()
        .register("double", |input| Ok(input.repeat(2)))
        .register("wait", |gate| {
            Gate::wait_at(std::str::from_utf8(gate)?);
            Ok(Vec::new())
        });
    pool_core::init_with(registry);
}

fn go_wrong(what: &str) {
    match what.split(' ').collect::<Vec<_>>()[..] {
        ["kill"] => Fault::Raise(Signal::SIGKILL as i32).happen(),
        ["stop"] => Fault::Raise(Signal::SIGSTOP as i32).happen(),
        ["exit", code] => Fault::ExitAtOnce(code.parse().unwrap()).happen(),
        ["hang"] => fault::hang(),
        ["wait", gate] => Gate::wait_at(gate),
        // the reply socket is standard input as long as init() has not run
        ["send", bytes] => {
            let digits = bytes.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
            let bytes: Vec<u8> = digits.map(|d| u8::from_str_radix(d, 16).unwrap()).collect();
            reply_socket::write_to(0, &bytes);
            fault::hang();
        }
        _ => panic!("unknown: {what}"),
    }
}
