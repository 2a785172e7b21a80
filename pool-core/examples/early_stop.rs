//! Early stop: 500 tasks of half a second on 10 workers; task 100 says that it is enough, and the rest is terminated.
#![expect(clippy::print_stdout, reason = "an example")]

use std::time::{Duration, Instant};

use pool_core::{Pool, PoolBuilder};

fn is_answer(p: u64) -> (u64, bool) {
    std::thread::sleep(Duration::from_millis(500));
    (p, p == 100)
}

/// Worker processes, or threads with `--threads`: the rest of the program is the same.
fn builder(workers: usize) -> PoolBuilder {
    match std::env::args().any(|arg| arg == "--threads") {
        true => Pool::builder().threads(workers),
        false => Pool::builder().processes(workers),
    }
}

fn main() -> anyhow::Result<()> {
    pool_core::init(); // worker processes stay inside this call
    let begun = Instant::now();
    let pool = builder(10).build()?;
    let handles: Vec<_> =
        (0..500).map(|i| pool.apply_async(is_answer, (i,))).collect::<Result<_, _>>()?;
    let mut taken = 0;
    let mut stopping = None;
    for handle in handles {
        let (p, stop) = handle.get()?;
        assert_eq!(p, taken, "results come in the order of the handles");
        taken += 1;
        if stop {
            stopping = Some(Instant::now());
            pool.terminate(); // signals every child; a thread is asked to end
            break;
        }
    }
    pool.join()?;
    assert_eq!(taken, 101, "the loop has ended with task 100");
    assert!(pool.workers().is_empty(), "all workers are gone");
    let stopping = stopping.map(|since| since.elapsed()).unwrap_or_default();
    println!(
        "took {taken} results in {:.3} s; terminate and join took {:.1} ms",
        begun.elapsed().as_secs_f64(),
        stopping.as_secs_f64() * 1e3
    );
    Ok(())
}
