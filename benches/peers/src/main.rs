//! One measurement of one peer per run, printed as one line of JSON: `bench-peers PEER MEASUREMENT SIZE`. The measurements are those of `pool-core/benches/pool`,
//! whose `common.rs` it shares.

#[path = "../../../pool-core/benches/pool/common.rs"]
mod common;
mod crossbeam;
mod measure;
mod procspawn;
mod rayon;

use anyhow::{Context, bail};

fn main() -> anyhow::Result<()> {
    ::procspawn::init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [peer, measurement, size] = &arguments[..] else {
        bail!("usage: bench-peers procspawn|rayon|crossbeam MEASUREMENT SIZE");
    };
    let size = size.parse().with_context(|| format!("size {size:?}"))?;
    let figures = match peer.as_str() {
        "procspawn" => measure::measure::<procspawn::Pool>(measurement, size)?,
        "rayon" => measure::measure::<rayon::Pool>(measurement, size)?,
        "crossbeam" => measure::measure::<crossbeam::Pool>(measurement, size)?,
        other => bail!("no peer is called {other:?}"),
    };
    println!("{figures}");
    Ok(())
}
