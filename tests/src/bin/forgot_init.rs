//! A program that forgets `pool_core::init()`: it must get an error, and must not start copies of itself without end.
#![allow(clippy::print_stdout, reason = "tells the test what it got")]

use std::io::Write;

fn main() {
    // one line per process that runs this main
    if let Ok(path) = std::env::var("POOL_TESTS_MAINS")
        && let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(path)
    {
        let _ = writeln!(file, "{}", std::process::id());
    }
    if std::env::args().nth(1).as_deref() == Some("process") {
        let joined = pool_core::Process::spawn(|| 1, ()).map(|process| process.join());
        return println!("{joined:?}");
    }
    match pool_core::Pool::new(4) {
        Ok(_) => println!("a pool"),
        Err(error) => println!("{error:?}"),
    }
}
