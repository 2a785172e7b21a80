//! A process fills a queue, its parent empties it meanwhile. The queue holds at most 100 items, so neither gets far ahead of the other.
#![expect(clippy::print_stdout, reason = "an example")]

use std::time::Instant;

use pool_core::{Process, Queue};
use serde::{Deserialize, Serialize};

const LINES: usize = 100_000;

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    number: usize,
    text: String,
}

fn read(lines: Queue<Line>) -> anyhow::Result<usize> {
    for number in 0..LINES {
        lines.put(Line { number, text: format!("line {number}") })?;
    }
    lines.close(); // no more to come
    Ok(LINES)
}

fn main() -> anyhow::Result<()> {
    pool_core::init(); // the process stays inside this call
    let lines = Queue::bounded(100)?;
    let begun = Instant::now();
    let reader = Process::spawn(read, (lines.clone(),))?;
    let mut next = 0;
    for line in lines.iter() {
        let Line { number, text } = line?;
        assert_eq!((number, text), (next, format!("line {next}")), "in order, none lost");
        next += 1;
    }
    assert_eq!(reader.join()?, next);
    println!("{next} items in {:.3} s", begun.elapsed().as_secs_f64());
    Ok(())
}
