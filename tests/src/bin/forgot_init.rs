//! A program that forgets `pool_core::init()`: it must get an error, and must not start copies of itself without end.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]
#![allow(clippy::print_stdout, reason = "tells the test what it got")]

use std::io::Write;

fn main() {
    // one line per process that runs this main
    if let Ok(path) = std::env::var("POOL_TESTS_MAINS")
        && let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(path)
    {
        let _ = writeln!(file, "{}", std::process::id());
    }
    let how = std::env::args().nth(1).unwrap_or_default();
    let is_copy = std::env::var_os("POOL_TESTS_COPY").is_some();
    match how.as_str() {
        _ if is_copy && std::env::var_os("POOL_TESTS_HANG").is_some() => pool_tests::fault::hang(),
        _ if is_copy => pool_tests::fault::Fault::Exit(5).happen(),
        "process" => {
            let joined = pool_core::Process::spawn(|| 1, ()).map(|process| process.join());
            return println!("{joined:?}");
        }
        "process-exits" | "process-hangs" => {
            let builder = pool_core::Process::builder().env("POOL_TESTS_COPY", "yes");
            let builder = match how.as_str() {
                "process-hangs" => builder.env("POOL_TESTS_HANG", "yes"),
                _ => builder,
            };
            let builder = builder.start_timeout(std::time::Duration::from_millis(300));
            let process = builder.spawn(|| 1, ()).unwrap();
            let error = process.join().unwrap_err();
            return println!("{error} {:?}", process.exit_code());
        }
        _ => {}
    }
    match pool_core::Pool::new(4) {
        Ok(_) => println!("a pool"),
        Err(error) => println!("{error:?}"),
    }
}
