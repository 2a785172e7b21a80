//! The crate rayon: threads.

use std::sync::mpsc;

use rayon::prelude::*;

use crate::common;
use crate::measure::{Each, Peer, Value};

pub(crate) struct Pool(rayon::ThreadPool);

impl Peer for Pool {
    type Handle<R> = mpsc::Receiver<R>;
    const COPIES: bool = false;

    fn start(workers: usize) -> anyhow::Result<Pool> {
        Ok(Pool(rayon::ThreadPoolBuilder::new().num_threads(workers).build()?))
    }

    fn submit<A: Value, R: Value>(&self, function: fn(A) -> R, argument: A) -> mpsc::Receiver<R> {
        let (result, handle) = mpsc::sync_channel(1);
        // nobody waits for it: that is the caller's choice
        self.0.spawn(move || drop(result.send(function(argument))));
        handle
    }

    fn get<R: Value>(handle: mpsc::Receiver<R>) -> anyhow::Result<R> {
        Ok(handle.recv()?)
    }

    fn map<F: Each>(&self, items: Vec<u64>) -> anyhow::Result<Vec<u64>> {
        Ok(self.0.install(|| items.into_par_iter().map(F::call).collect()))
    }

    fn workers(&self) -> Vec<u32> {
        common::threads_of(std::process::id())
            .into_iter()
            .filter(|&thread| thread != std::process::id())
            .collect()
    }

    fn kill(self) -> Option<()> {
        None
    }
}
