//! What scripts/chaos_peers.py does to other pools: batches of short tasks, during each of which one worker is killed.

use std::time::{Duration, Instant};

use pool_core::{TaskError, WorkerInfo};
use pool_tests::fault;
use serde_json::{Value, json};

use crate::random::Random;

const WORKERS: usize = 4;
const BATCH: u64 = 200;
const PATIENCE: Duration = Duration::from_secs(10);

fn task(number: u64) -> u64 {
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(2) {
        std::thread::park_timeout(Duration::from_millis(2).saturating_sub(start.elapsed()));
    }
    number * 3
}

pub(crate) fn run(kills: u64, seed: u64) -> Value {
    let mut random = Random::new(seed);
    let pool = pool_tests::plain_pool(WORKERS);
    let (mut right, mut lost, mut hangs, mut wrong) = (0u64, 0u64, 0u64, 0u64);
    for _ in 0..kills {
        let handles: Vec<_> =
            (0..BATCH).map(|number| pool.apply_async(task, (number,)).unwrap()).collect();
        std::thread::park_timeout(Duration::from_micros(random.below(50_000)));
        let pids: Vec<u32> =
            pool.workers().iter().map(WorkerInfo::pid).filter(|&pid| pid > 1).collect();
        if !pids.is_empty() {
            let victim = pids[random.below(pids.len() as u64) as usize];
            fault::try_send(victim, nix::sys::signal::Signal::SIGKILL);
        }
        for (number, mut handle) in (0..BATCH).zip(handles) {
            match handle.get_timeout(PATIENCE) {
                Ok(result) if result == number * 3 => right += 1,
                Ok(_) => wrong += 1,
                Err(TaskError::NotReady(_)) => hangs += 1,
                Err(_) => lost += 1,
            }
        }
    }
    json!({
        "pool": "pool-core", "submitted": kills * BATCH, "ok": right, "killed": kills, "pools": 1, "lost with its worker": lost,
        "failed because the pool broke": 0, "hangs": hangs, "wrong": wrong, "pools that did not end": 0,
    })
}
