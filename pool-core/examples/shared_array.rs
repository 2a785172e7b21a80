//! An array in shared memory, filled in parallel: each task writes its own part, and nothing is copied to or from the workers.
#![expect(clippy::print_stdout, reason = "an example")]

use std::ops::Range;
use std::time::Instant;

use pool_core::{Pool, RawArray};

const LEN: usize = 1 << 20;
const PART: usize = 1 << 16;

fn fill(squares: RawArray<f64>, part: Range<usize>) {
    let values: Vec<f64> = part.clone().map(|i| (i * i) as f64).collect();
    squares.write(part.start, &values);
}

fn main() -> anyhow::Result<()> {
    pool_core::init(); // worker processes stay inside this call
    let pool = Pool::new(4)?;
    let squares = RawArray::<f64>::zeroed(LEN)?;
    let begun = Instant::now();
    let parts = (0..LEN).step_by(PART).map(|start| (squares.clone(), start..start + PART));
    pool.task(fill).chunk_size(1).starmap(parts)?;
    let elapsed = begun.elapsed();
    assert!(squares.to_vec().iter().enumerate().all(|(i, square)| *square == (i * i) as f64));
    println!("{LEN} elements, filled by 4 processes in {:.1} ms", elapsed.as_secs_f64() * 1e3);
    Ok(())
}
