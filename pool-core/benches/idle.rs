//! The memory of idle workers, of a program that does nothing else: `idle spawn|fork-server WORKERS` prints the median of their proportional set sizes, and of what each has for itself. A program's own pages,
//! and what the kernel maps around those that are touched, count with them: those of `benches/pool` are many, and say more of that program than of the pool.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]
#![expect(unsafe_code, reason = "some of `common.rs`, of which little is needed here")]
#![expect(dead_code, reason = "what the other programs that measure need of `common.rs`")]

#[path = "pool/common.rs"]
mod common;

use std::time::Duration;

use anyhow::bail;
use pool_core::{Pool, StartMethod, WorkerState};

use common::{Figures, plus_one};

fn main() -> anyhow::Result<()> {
    pool_core::init();
    // `cargo bench` appends an option for harnesses that this one has no use for
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [method, workers] = &arguments[..] else {
        println!("nothing measured; see scripts/bench");
        return Ok(());
    };
    let method = match method.as_str() {
        "spawn" => StartMethod::Spawn,
        "fork-server" => StartMethod::ForkServer,
        _ => bail!("usage: idle spawn|fork-server WORKERS"),
    };
    let pool = Pool::builder().processes(workers.parse()?).start_method(method).build()?;
    pool.task(plus_one).chunk_size(1).map(0..100)?;
    while pool.workers().iter().any(|w| w.state() != WorkerState::Idle) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let median = |size: fn(u32) -> anyhow::Result<u64>| -> anyhow::Result<f64> {
        let sizes = pool.workers().iter().map(|w| size(w.pid())).collect::<Result<Vec<_>, _>>()?;
        Ok(common::median(sizes)? as f64)
    };
    let mut figures = Figures::one("kib", median(common::pss_kib)?);
    figures.add("own_kib", median(own_kib)?);
    println!("{figures}");
    Ok(())
}

/// What only this process has.
fn own_kib(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    Ok(common::kib_of(&path, "Private_Clean:")? + common::kib_of(&path, "Private_Dirty:")?)
}
