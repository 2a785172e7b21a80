//! The crate crossbeam-channel: threads that take boxed calls from one channel, as such pools are written by hand.

use std::sync::mpsc;
use std::thread;

use crossbeam_channel::{Sender, unbounded};

use crate::common;
use crate::measure::{Each, Peer, Value};

type Job = Box<dyn FnOnce() + Send>;

pub(crate) struct Pool {
    jobs: Sender<Job>,
    workers: usize,
}

impl Peer for Pool {
    type Handle<R> = mpsc::Receiver<R>;
    const COPIES: bool = false;

    fn start(workers: usize) -> anyhow::Result<Pool> {
        let (jobs, to_do) = unbounded::<Job>();
        for _ in 0..workers {
            let to_do = to_do.clone();
            thread::spawn(move || to_do.iter().for_each(|job| job()));
        }
        Ok(Pool { jobs, workers })
    }

    fn submit<A: Value, R: Value>(&self, function: fn(A) -> R, argument: A) -> mpsc::Receiver<R> {
        let (result, handle) = mpsc::sync_channel(1);
        let job: Job = Box::new(move || drop(result.send(function(argument))));
        // the workers live as long as the channel
        drop(self.jobs.send(job));
        handle
    }

    fn get<R: Value>(handle: mpsc::Receiver<R>) -> anyhow::Result<R> {
        Ok(handle.recv()?)
    }

    fn map<F: Each>(&self, items: Vec<u64>) -> anyhow::Result<Vec<u64>> {
        let size = items.len().div_ceil(8 * self.workers).max(1);
        let handles: Vec<_> = items
            .chunks(size)
            .map(|items| {
                let (result, handle) = mpsc::sync_channel(1);
                let items = items.to_vec();
                let call = move || items.into_iter().map(F::call).collect::<Vec<_>>();
                drop(self.jobs.send(Box::new(move || drop(result.send(call())))));
                handle
            })
            .collect();
        let mut results = Vec::with_capacity(items.len());
        for handle in handles {
            results.extend(handle.recv()?);
        }
        Ok(results)
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
