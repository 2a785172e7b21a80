//! Processes and threads: one function each, with its result, its exit code, and the means to end it.
//!
//! In Python:
//!
//! ```python
//! process = Process(target=count_primes, args=(0, 1000), name="primes")
//! process.start()
//! process.join()
//! print(process.exitcode)
//! ```
//!
//! There the result has to be sent through a queue; here, `join` gives it.
#![expect(clippy::print_stdout, reason = "an example")]

use std::time::Duration;

use pool_core::{
    Process, TaskError, Thread, Waitable, active_children, current_process, parent_process, wait,
};

/// How many primes there are among `len` numbers from `start` on.
fn count_primes(start: u64, len: u64) -> usize {
    let is_prime =
        |n: &u64| *n >= 2 && (2..).take_while(|d| d * d <= *n).all(|d| !n.is_multiple_of(d));
    (start..start + len).filter(is_prime).count()
}

/// Who runs this, and who has started that.
fn introduce() -> (String, Option<u32>) {
    (current_process().name().to_owned(), parent_process().map(|parent| parent.pid()))
}

fn main() -> anyhow::Result<()> {
    pool_core::init(); // processes stay inside this call

    // a function, its arguments, its result
    let process = Process::spawn(count_primes, (0, 1000))?;
    assert_eq!(process.join()?, 168, "primes below 1000");
    assert_eq!(process.exit_code(), Some(0));

    // settings; start() separately
    let named = Process::builder().name("introducer").env("LC_ALL", "C").build(introduce, ());
    assert!(!named.is_alive());
    named.start()?;
    assert_eq!(named.join()?, ("introducer".to_owned(), Some(std::process::id())));

    // what can go wrong is told by join and by the exit code
    let fails = || -> anyhow::Result<u32> { Ok("seventeen".parse()?) };
    let process = Process::spawn(fails, ())?;
    let failed = TaskError::Failed("invalid digit found in string".to_owned());
    assert_eq!(process.join(), Err(failed));
    assert_eq!(process.exit_code(), Some(1));
    let process = Process::spawn(|| -> () { std::process::abort() }, ())?;
    if let Err(error) = process.join() {
        println!("as expected: {error}");
    }
    assert_eq!(process.exit_code(), Some(-6));

    // one that runs for ever is ended by its parent, here by way of active_children
    let endless = Process::spawn(std::thread::park, ())?;
    assert!(!endless.wait_timeout(Duration::from_millis(10)));
    for child in active_children() {
        child.terminate()?;
    }
    assert!(endless.join().is_err());
    assert_eq!(endless.exit_code(), Some(-15));

    // a thread has the same surface, and may capture; wait() takes both
    let factor = 3;
    let thread = Thread::spawn(move |x: u64| x * factor, (14,))?;
    let process = Process::spawn(u64::pow, (2, 5))?;
    let mut left: Vec<&dyn Waitable> = vec![&thread, &process];
    while !left.is_empty() {
        for ready in wait(&left, None).into_iter().rev() {
            left.remove(ready);
        }
    }
    println!("{} and {}", thread.join()?, process.join()?);
    Ok(())
}
