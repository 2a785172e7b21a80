//! Operations per second on managed objects, by one and by two clients, and the same with CPython's `multiprocessing.Manager` in the same run.
//!
//! `cargo bench -p pool-core --bench manager`; wants a quiet machine.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::unwrap_used, reason = "what fails here ends the benchmark")]

use std::process::Command;
use std::time::{Duration, Instant};

use pool_core::manager::{Barrier, Dict, List};
use pool_core::{Manager, Process};

type Objects = (List<u64>, Dict<u64, u64>, Barrier);

/// One client's time for `count` operations.
fn client(what: String, count: u64, (list, dict, start): Objects) -> Duration {
    // connected, and known to the manager
    dict.insert(&0, &0).unwrap();
    start.wait().unwrap();
    let begun = Instant::now();
    for i in 0..count {
        match what.as_str() {
            "list append" => drop(list.push(&i)),
            "dict set" => drop(dict.insert(&(i % 100), &i)),
            _ => drop(dict.get(&(i % 100))),
        }
    }
    begun.elapsed()
}

/// Operations per second of all clients together.
fn measure(what: &str, clients: usize, count: u64) -> f64 {
    let manager = Manager::new().unwrap();
    let start = manager.barrier(clients).unwrap();
    let objects = (manager.list([]).unwrap(), manager.dict([]).unwrap(), start);
    let run = || Process::spawn(client, (what.to_owned(), count, objects.clone())).unwrap();
    let running: Vec<_> = (0..clients).map(|_| run()).collect();
    let longest = running.iter().map(|process| process.join().unwrap()).max().unwrap();
    clients as f64 * count as f64 / longest.as_secs_f64()
}

fn main() {
    pool_core::init();
    // `cargo test --benches` only looks whether it runs
    let count = if std::env::args().any(|arg| arg == "--bench") { 100_000 } else { 100 };
    for what in ["list append", "dict set", "dict get"] {
        for clients in [1, 2] {
            let mut runs: Vec<_> = (0..3).map(|_| measure(what, clients, count)).collect();
            runs.sort_by(f64::total_cmp);
            println!("pool-core  {what:<12} {clients} clients {:>10.0} operations/s", runs[1]);
        }
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/benchmarks/manager.py");
    let python = Command::new("python3").arg(script).arg((count / 10).to_string()).status();
    if !python.is_ok_and(|status| status.success()) {
        println!("CPython: not measured, there is no python3");
    }
}
