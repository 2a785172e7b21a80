//! The crate procspawn: processes over ipc-channel.

use std::collections::VecDeque;

use procspawn::JoinHandle;

use crate::measure::{Each, Peer, Value};

/// Items of one task of a map, which has to be made by hand.
const CHUNK: usize = 8_192;

pub(crate) struct Pool {
    pool: procspawn::Pool,
    workers: usize,
}

fn chunk<F: Each>(items: Vec<u64>) -> Vec<u64> {
    items.into_iter().map(F::call).collect()
}

impl Peer for Pool {
    type Handle<R> = JoinHandle<R>;
    const COPIES: bool = true;
    const WINDOW: usize = 250;

    fn start(workers: usize) -> anyhow::Result<Pool> {
        Ok(Pool { pool: procspawn::Pool::new(workers)?, workers })
    }

    fn submit<A: Value, R: Value>(&self, function: fn(A) -> R, argument: A) -> JoinHandle<R> {
        self.pool.spawn(argument, function)
    }

    fn get<R: Value>(handle: JoinHandle<R>) -> anyhow::Result<R> {
        Ok(handle.join()?)
    }

    fn map<F: Each>(&self, items: Vec<u64>) -> anyhow::Result<Vec<u64>> {
        let size = (items.len() / (8 * self.workers)).clamp(1, CHUNK);
        let (mut handles, mut results) = (VecDeque::new(), Vec::with_capacity(items.len()));
        for items in items.chunks(size) {
            // it deadlocks if many large results lie unread
            if handles.len() == 2 * self.workers
                && let Some(oldest) = handles.pop_front()
            {
                results.extend(Pool::get(oldest)?);
            }
            handles.push_back(self.pool.spawn(items.to_vec(), chunk::<F>));
        }
        for handle in handles {
            results.extend(Pool::get(handle)?);
        }
        Ok(results)
    }

    fn workers(&self) -> Vec<u32> {
        let me = std::process::id();
        let children =
            std::fs::read_dir(format!("/proc/{me}/task")).into_iter().flatten().flatten().map(
                |task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default(),
            );
        children
            .flat_map(|pids| {
                pids.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()
            })
            .collect()
    }

    fn kill(self) -> Option<()> {
        self.pool.kill();
        Some(())
    }
}
