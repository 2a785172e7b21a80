//! One measurement per run, printed as one line of JSON: `pool MEASUREMENT SIZE`. `scripts/bench` runs it beside its peers: `scripts/benchmarks/peer.py`, which measures
//! the same of CPython's pools and their kin, and `benches/peers`, which measures it of Rust's. Keep them alike.
//!
//! What each measurement is and what its size counts stands in `scripts/benchmarks/measurements.py`.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]
#![expect(unsafe_code, reason = "processes are bound to cores, which std can't do")]

mod bare;
mod common;
mod delay;
mod lifetimes;
mod payload;
mod scale;
mod shared;
mod throughput;

use anyhow::{Context, bail};
use pool_core::{Pool, PoolBuilder, StartMethod};

use common::{Figures, Placement};

fn main() -> anyhow::Result<()> {
    pool_core::init();
    // `cargo bench` appends an option for harnesses that this one has no use for
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let size = |text: &String| text.parse::<usize>().with_context(|| format!("size {text:?}"));
    let figures = match &arguments[..] {
        [] => {
            println!("nothing measured; see scripts/bench");
            return Ok(());
        }
        [measurement] if measurement == "pong" => return bare::pong(),
        [measurement, text] => measure(measurement, size(text)?)?,
        _ => bail!("usage: pool MEASUREMENT SIZE"),
    };
    println!("{figures}");
    Ok(())
}

/// How a measurement starts its workers, if it is measured with both ways.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    Spawn,
    ForkServer,
}

impl Start {
    fn builder(self) -> PoolBuilder {
        let builder = Pool::builder();
        match self {
            Start::Spawn => builder,
            Start::ForkServer => builder.start_method(StartMethod::ForkServer),
        }
    }
}

fn measure(measurement: &str, size: usize) -> anyhow::Result<Figures> {
    let (name, start) = match measurement.strip_suffix("_fork_server") {
        Some(name) => (name, Start::ForkServer),
        None => (measurement, Start::Spawn),
    };
    match name {
        "apply_async" => throughput::apply_async(size),
        "apply_async_threads" => throughput::apply_async_threads(size),
        "map" => throughput::map(size),
        "plain_map" => throughput::plain_map(size),
        "efficiency_apply" => throughput::efficiency_apply(size as u64),
        "efficiency_map" => throughput::efficiency_map(size as u64),
        "efficiency_bare" => bare::efficiency(),
        "round_trip_apart" => delay::round_trip(size, Placement::Apart),
        "round_trip_together" => delay::round_trip(size, Placement::Together),
        "round_trip_idle" => delay::round_trip_idle(size),
        "mixed_2" => delay::mixed(size, 2),
        "mixed_8" => delay::mixed(size, 8),
        "mixed_2_ideal" => Ok(bare::mixed(size, 2)),
        "mixed_8_ideal" => Ok(bare::mixed(size, 8)),
        "payload" => payload::both_ways(size),
        "payload_shared" => payload::shared(size),
        "start" => lifetimes::start(start, size),
        "terminate" => lifetimes::terminate(start, size),
        "one_task_each" => lifetimes::one_task_each(start, size),
        "program_500" => lifetimes::program_500(size as u64),
        "outstanding" => scale::outstanding(size),
        "workers" => scale::workers(start, size),
        "imap" => scale::imap(size as u64),
        "long_imap" => scale::long_imap(size as u64),
        "lock" => shared::lock(size),
        "lock_contended" => shared::lock_contended(size),
        "queue" => shared::queue(size),
        "array_fill" => shared::array_fill(size),
        "pass_gigabyte" => shared::pass_gigabyte(size),
        other => bail!("no measurement is called {other:?}"),
    }
}
