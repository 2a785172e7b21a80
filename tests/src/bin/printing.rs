//! Programs about what is printed where.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]
#![allow(clippy::print_stdout, reason = "it is about what is printed")]
#![expect(unsafe_code, reason = "prints by a C function")]

use std::io::Write;

use pool_core::{Output, Process, StartMethod, TaskError};

fn main() {
    pool_core::init();
    match std::env::args().nth(1).as_deref() {
        Some("tagged-process") => tagged_process(),
        Some("preload") => preload(),
        Some("unread") => unread(),
        what => panic!("unknown: {what:?}"),
    }
}

/// Ends as soon as its process has.
fn tagged_process() {
    let print = |lines: u32| (0..lines).for_each(|line| println!("line {line}"));
    let process = Process::builder().name("printer").stdout(Output::Tagged);
    process.spawn(print, (500,)).unwrap().join().unwrap();
}

/// Its standard error is a pipe that nobody reads, into which more is to be written than it can hold when the worker dies. That still has its last line told.
fn unread() {
    let pool = pool_tests::plain_builder(1).stderr(Output::Tagged).build().unwrap();
    let dies = || -> () {
        // with its tag, this is more than one pipe can hold, and less than two
        let lines: String = (0..8000).map(|line| format!("line {line}\n")).collect();
        std::io::stderr().write_all(lines.as_bytes()).unwrap();
        std::process::abort();
    };
    match pool.apply(dies, ()) {
        Err(TaskError::WorkerLost { stderr, .. }) => println!("{}", stderr.lines().last().unwrap()),
        other => println!("{other:?}"),
    }
    // this one waits until it is killed: its lines can't be written
    std::thread::park();
}

/// A preload function prints a part of a line, and the workers print nothing.
fn preload() {
    let print = || {
        print!("loaded;");
        // SAFETY: a constant string with its zero.
        unsafe { libc::printf(c"loaded in C;".as_ptr()) };
    };
    let pool =
        pool_tests::plain_builder(3).start_method(StartMethod::ForkServer).preload(print, ());
    let pool = pool.build().unwrap();
    assert_eq!(pool.map(|x: u32| x + 1, 0..30).unwrap().len(), 30);
    pool.close();
    pool.join().unwrap();
    std::io::stdout().flush().unwrap();
}
