//! Programs that say how large pools are without being told, and that end without closing them.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program of the tests")]

use std::sync::OnceLock;

use pool_core::{Pool, dummy};

fn main() {
    pool_core::init();
    match std::env::args().nth(1).unwrap().as_str() {
        "sizes" => sizes(),
        "static" => {
            static POOL: OnceLock<Pool> = OnceLock::new();
            use_it(POOL.get_or_init(two_threads));
        }
        "leaked" => use_it(Box::leak(Box::new(two_threads()))),
        "busy" => {
            let pool = Box::leak(Box::new(two_threads()));
            drop(pool.apply_async(std::thread::park, ()).unwrap());
            use_it(pool);
        }
        other => panic!("unknown: {other}"),
    }
}

fn sizes() {
    let cpus = std::thread::available_parallelism().unwrap();
    let processes = Pool::builder().build().unwrap().workers().len();
    let threads = dummy::Pool::builder().build().unwrap().workers().len();
    println!("{cpus} processes {processes} threads {threads}");
}

fn two_threads() -> Pool {
    Pool::builder().threads(2).build().unwrap()
}

fn use_it(pool: &Pool) {
    println!("{}", pool.apply(|x: u64| x * x, (7,)).unwrap());
}
