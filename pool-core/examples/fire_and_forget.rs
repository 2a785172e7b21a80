//! Fire and forget: tasks are submitted for what they do, nobody asks for their results, and the program waits for the last of them.
//!
//! In Python:
//!
//! ```python
//! with multiprocessing.Pool(4) as pool:
//!     for i in range(1000):
//!         pool.apply_async(append_line, (path, i))
//!     pool.close()
//!     pool.join()
//! ```
#![expect(clippy::print_stdout, reason = "an example")]

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use pool_core::{Pool, PoolBuilder, SubmitError};

const TASKS: u64 = 1000;

/// A function that returns `anyhow::Result` may fail; an ordinary one may not.
fn append_line(path: PathBuf, line: u64) -> anyhow::Result<()> {
    let mut file = OpenOptions::new().append(true).open(path)?;
    // one write of a few bytes, so that the lines of different processes don't mix
    file.write_all(format!("{line}\n").as_bytes())?;
    Ok(())
}

/// Worker processes, or threads with `--threads`: the rest of the program is the same.
fn builder(workers: usize) -> PoolBuilder {
    match std::env::args().any(|arg| arg == "--threads") {
        true => Pool::builder().threads(workers),
        false => Pool::builder().processes(workers),
    }
}

fn main() -> anyhow::Result<()> {
    pool_core::init(); // what `if __name__ == "__main__":` is for in Python: worker processes stay inside this call
    let path = std::env::temp_dir().join(format!("fire-and-forget-{}", std::process::id()));
    std::fs::write(&path, "")?;

    let pool = builder(4).build()?;
    for line in 0..TASKS {
        // dropping the handle detaches the task; `drop` says that this is meant
        drop(pool.apply_async(append_line, (path.clone(), line))?);
    }
    pool.close(); // no more tasks; what was submitted still runs
    pool.join()?; // waits until all of it is done and the workers are gone

    let refused = pool.apply_async(append_line, (path.clone(), 0)).map(drop);
    assert_eq!(refused, Err(SubmitError::Closed), "a closed pool takes nothing");
    assert_eq!(pool.stats().finished, TASKS);

    let mut lines: Vec<u64> =
        std::fs::read_to_string(&path)?.lines().map(str::parse).collect::<Result<_, _>>()?;
    std::fs::remove_file(&path)?;
    lines.sort_unstable();
    assert!(lines.into_iter().eq(0..TASKS), "each task has run exactly once");
    println!("{TASKS} tasks have run, each once; nobody waited for any of them");
    Ok(())
}
