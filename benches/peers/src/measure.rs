//! The measurements, over whatever runs functions elsewhere.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::common::{
    self, Figures, Placement, STRETCH, WORKERS, length, make, plus_one, timed, work,
};

/// A pool of workers, processes or threads.
pub(crate) trait Peer: Sized {
    /// What a call gives before its result is there.
    type Handle<R>;

    fn start(workers: usize) -> anyhow::Result<Self>;

    fn submit<A: Value, R: Value>(&self, function: fn(A) -> R, argument: A) -> Self::Handle<R>;

    fn get<R: Value>(handle: Self::Handle<R>) -> anyhow::Result<R>;

    /// In the way in which the peer is used for many items.
    fn map<F: Each>(&self, items: Vec<u64>) -> anyhow::Result<Vec<u64>>;

    /// Processes or threads of the workers.
    fn workers(&self) -> Vec<u32>;

    /// Ends the workers in the middle of what they do; `None` if it can't be done.
    fn kill(self) -> Option<()>;

    /// How many calls may be unfinished: descriptors are few.
    const WINDOW: usize = usize::MAX;

    /// Whether arguments are copied to somewhere else at all.
    const COPIES: bool;
}

/// A function of one item, known when the map is compiled, as it is in programs.
pub(crate) trait Each: 'static {
    fn call(x: u64) -> u64;
}

struct PlusOne;

impl Each for PlusOne {
    fn call(x: u64) -> u64 {
        plus_one(x)
    }
}

struct Work;

impl Each for Work {
    fn call(x: u64) -> u64 {
        work(x)
    }
}

/// What may be passed.
pub(crate) trait Value:
    serde::Serialize + serde::de::DeserializeOwned + Send + 'static
{
}

impl<T: serde::Serialize + serde::de::DeserializeOwned + Send + 'static> Value for T {}

pub(crate) fn measure<P: Peer>(measurement: &str, size: usize) -> anyhow::Result<Figures> {
    match measurement {
        "apply_async" => apply_async::<P>(size as u64),
        "map" => map::<P>(size as u64),
        "efficiency_apply" => efficiency_apply::<P>(size as u64),
        "efficiency_map" => efficiency_map::<P>(size as u64),
        "round_trip_apart" => round_trip::<P>(size, Placement::Apart),
        "round_trip_together" => round_trip::<P>(size, Placement::Together),
        "round_trip_idle" => round_trip_idle::<P>(size),
        "mixed_2" => mixed::<P>(size, 2),
        "mixed_8" => mixed::<P>(size, 8),
        "payload" if P::COPIES => payload::<P>(size),
        "start" => start::<P>(size),
        "terminate" => terminate::<P>(size),
        "idle_memory" if P::COPIES => idle_memory::<P>(size),
        "program_500" => program_500::<P>(size as u64),
        other => bail!("no measurement is called {other:?}"),
    }
}

fn submit_all<P: Peer>(
    pool: &P,
    tasks: u64,
    function: fn(u64) -> u64,
    argument: impl Fn(u64) -> u64,
) -> anyhow::Result<()> {
    let mut handles = VecDeque::new();
    for x in 0..tasks {
        if handles.len() == P::WINDOW
            && let Some(oldest) = handles.pop_front()
        {
            P::get(oldest)?;
        }
        handles.push_back(pool.submit(function, argument(x)));
    }
    handles.into_iter().try_for_each(|handle| P::get(handle).map(drop))
}

fn apply_async<P: Peer>(tasks: u64) -> anyhow::Result<Figures> {
    let pool = P::start(WORKERS)?;
    submit_all(&pool, tasks / 10, plus_one, |x| x)?;
    let begun = Instant::now();
    submit_all(&pool, tasks, plus_one, |x| x)?;
    Ok(Figures::one("per_s", tasks as f64 / begun.elapsed().as_secs_f64()))
}

fn map<P: Peer>(items: u64) -> anyhow::Result<Figures> {
    let pool = P::start(WORKERS)?;
    let input: Vec<u64> = (0..items).collect();
    common::in_a_row(items, || {
        let input = input.clone();
        let begun = Instant::now();
        let results = pool.map::<PlusOne>(input)?;
        let elapsed = begun.elapsed();
        assert!(results.into_iter().eq(1..=items));
        Ok(elapsed)
    })
}

fn efficiency_apply<P: Peer>(most: u64) -> anyhow::Result<Figures> {
    let pool = P::start(WORKERS)?;
    common::efficiency(most, |tasks, rounds| submit_all(&pool, tasks, work, |_| rounds))
}

fn efficiency_map<P: Peer>(most: u64) -> anyhow::Result<Figures> {
    let pool = P::start(WORKERS)?;
    common::efficiency(most, |tasks, rounds| {
        pool.map::<Work>(vec![rounds; tasks as usize]).map(drop)
    })
}

fn round_trip<P: Peer>(calls: usize, placement: Placement) -> anyhow::Result<Figures> {
    let there = placement.before_the_start()?;
    let pool = P::start(WORKERS)?;
    let mut call = || P::get(pool.submit(plus_one, 1)).map(|x| assert_eq!(x, 2));
    timed(STRETCH, &mut call, &mut Vec::new())?;
    placement.after_the_start(there, pool.workers())?;
    timed(STRETCH, &mut call, &mut Vec::new())?;
    let mut calls_took = Vec::with_capacity(calls);
    timed(calls, &mut call, &mut calls_took)?;
    let mut figures = Figures::default();
    figures.add_percentiles("", &mut calls_took);
    figures.add_quantiles(&mut calls_took);
    Ok(figures)
}

fn round_trip_idle<P: Peer>(calls: usize) -> anyhow::Result<Figures> {
    let there = Placement::Apart.before_the_start()?;
    let pool = P::start(WORKERS)?;
    let mut call = || P::get(pool.submit(plus_one, 1)).map(drop);
    timed(STRETCH, &mut call, &mut Vec::new())?;
    Placement::Apart.after_the_start(there, pool.workers())?;
    common::after_idling(calls, |_| call(), &[""])
}

fn mixed<P: Peer>(tasks: usize, workers: usize) -> anyhow::Result<Figures> {
    let pool = P::start(workers)?;
    common::mixed(tasks, workers, |rounds| Ok(pool.submit(common::mixed_task, rounds)), P::get)
}

fn payload<P: Peer>(largest: usize) -> anyhow::Result<Figures> {
    let pool = P::start(1)?;
    let mut figures = Figures::default();
    common::bandwidth("in_", &mut figures, largest, |bytes| {
        let argument = vec![7; bytes];
        let begun = Instant::now();
        assert_eq!(P::get(pool.submit(length, argument))?, bytes as u64);
        Ok(begun.elapsed())
    })?;
    common::bandwidth("out_", &mut figures, largest, |bytes| {
        let begun = Instant::now();
        let result = P::get(pool.submit(make, bytes as u64))?;
        let taken = begun.elapsed();
        assert_eq!(result.len(), bytes);
        Ok(taken)
    })?;
    Ok(figures)
}

fn start<P: Peer>(workers: usize) -> anyhow::Result<Figures> {
    let begun = Instant::now();
    let pool = P::start(workers)?;
    submit_all(&pool, workers as u64, plus_one, |x| x)?;
    Ok(Figures::one("ms", begun.elapsed().as_secs_f64() * 1e3))
}

fn sleep(ms: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(ms));
    ms
}

fn terminate<P: Peer>(workers: usize) -> anyhow::Result<Figures> {
    let pool = P::start(workers)?;
    submit_all(&pool, workers as u64, plus_one, |x| x)?;
    let handles: Vec<_> = (0..workers).map(|_| pool.submit(sleep, 100_000)).collect();
    sleep(500); // there is no way to ask which of them have begun
    let begun = Instant::now();
    pool.kill().context("it can't end what runs")?;
    let figures = Figures::one("ms", begun.elapsed().as_secs_f64() * 1e3);
    drop(handles);
    Ok(figures)
}

fn idle_memory<P: Peer>(workers: usize) -> anyhow::Result<Figures> {
    let pool = P::start(workers)?;
    submit_all(&pool, 100, plus_one, |x| x)?;
    sleep(100);
    let sizes: Vec<u64> =
        pool.workers().into_iter().map(common::pss_kib).collect::<Result<_, _>>()?;
    Ok(Figures::one("kib", common::median(sizes)? as f64))
}

fn half_a_second(p: u64) -> (u64, bool) {
    sleep(500);
    (p, p == 100)
}

fn program_500<P: Peer>(tasks: u64) -> anyhow::Result<Figures> {
    let begun = Instant::now();
    let pool = P::start(10)?;
    let mut handles: VecDeque<_> = (0..tasks).map(|p| pool.submit(half_a_second, p)).collect();
    while let Some(handle) = handles.pop_front() {
        if P::get(handle)?.1 {
            break;
        }
    }
    let stopping = Instant::now();
    pool.kill().context("it can't end what runs")?;
    let mut figures = Figures::one("s", begun.elapsed().as_secs_f64());
    figures.add("stop_ms", stopping.elapsed().as_secs_f64() * 1e3);
    Ok(figures)
}
