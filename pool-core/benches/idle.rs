//! The memory of idle workers, of a program that does nothing else: `idle spawn|fork-server WORKERS` prints the median of their proportional set sizes. A program's own pages,
//! and what the kernel maps around those that are touched, count with them: those of `benches/pool` are many, and say more of that program than of the pool.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::time::Duration;

use anyhow::{Context, bail};
use pool_core::{Pool, StartMethod, WorkerState};

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
    pool.task(|x: u64| x + 1).chunk_size(1).map(0..100)?;
    while pool.workers().iter().any(|w| w.state() != WorkerState::Idle) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut sizes: Vec<u64> =
        pool.workers().iter().map(|w| pss_kib(w.pid())).collect::<Result<_, _>>()?;
    sizes.sort_unstable();
    println!("{{\"kib\": {}}}", sizes.get(sizes.len() / 2).context("there are no workers")?);
    Ok(())
}

fn pss_kib(pid: u32) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    Ok(line.and_then(|line| line.trim().strip_suffix(" kB")).context("no Pss")?.parse()?)
}
