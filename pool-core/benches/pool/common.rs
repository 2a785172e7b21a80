//! What every program that measures needs: figures as JSON, work of a known length, arrivals, cores, memory. Used by
//! `benches/peers` as well, so that all of them measure alike.

use std::fmt;
use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// Two workers where throughput and delay are measured: what the machine has cores for.
pub(crate) const WORKERS: usize = 2;

/// Calls of different kinds take turns in stretches of this many, so that all see the same machine.
pub(crate) const STRETCH: usize = 500;

/// How long tasks are for which the efficiency is measured, in nanoseconds.
pub(crate) const GRAINS_NS: [u64; 10] =
    [100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 10_000_000];

/// How large arguments and results are for which the bandwidth is measured.
pub(crate) const PAYLOADS: [usize; 6] = [1 << 10, 16 << 10, 64 << 10, 1 << 20, 16 << 20, 64 << 20];

/// Named figures; shown as one line of JSON.
#[derive(Default)]
pub(crate) struct Figures(Vec<(String, f64)>);

impl Figures {
    pub(crate) fn one(name: &str, value: f64) -> Figures {
        let mut figures = Figures::default();
        figures.add(name, value);
        figures
    }

    pub(crate) fn add(&mut self, name: impl Into<String>, value: f64) {
        self.0.push((name.into(), value));
    }

    /// Median and tails of a distribution, in microseconds.
    pub(crate) fn add_percentiles(&mut self, prefix: &str, durations: &mut [Duration]) {
        durations.sort_unstable();
        for (name, share) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)] {
            let at = ((durations.len() - 1) as f64 * share) as usize;
            self.add(format!("{prefix}{name}_us"), durations[at].as_secs_f64() * 1e6);
        }
    }

    /// The whole distribution, as quantiles for a plot.
    pub(crate) fn add_quantiles(&mut self, durations: &mut [Duration]) {
        durations.sort_unstable();
        for step in 0..=100 {
            // evenly spaced in the number of nines: 0, 0.21, .., 0.9, .., 0.99, .., 0.9999
            let share = 1.0 - 10f64.powf(-4.0 * f64::from(step) / 100.0);
            let at = ((durations.len() - 1) as f64 * share) as usize;
            self.add(format!("q{step:03}"), durations[at].as_secs_f64() * 1e6);
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<_> =
            self.0.iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
        write!(f, "{{{}}}", parts.join(", "))
    }
}

/// How quickly so many items are dealt with by calls in a row, each of which tells how long it took: the median of at most 20 calls within a second. The
/// first one, which also pays for memory that the others use again, is told on its own.
pub(crate) fn in_a_row(
    items: u64,
    mut call: impl FnMut() -> anyhow::Result<Duration>,
) -> anyhow::Result<Figures> {
    let first = call()?;
    let begun = Instant::now();
    let mut others = vec![call()?];
    while others.len() < 20 && begun.elapsed() < Duration::from_secs(1) {
        others.push(call()?);
    }
    others.sort_unstable();
    let rate = |time: Duration| items as f64 / time.as_secs_f64();
    let mut figures = Figures::one("per_s", rate(others[others.len() / 2]));
    figures.add("first_per_s", rate(first));
    Ok(figures)
}

pub(crate) fn plus_one(x: u64) -> u64 {
    x + 1
}

pub(crate) fn length(bytes: Vec<u8>) -> u64 {
    bytes.len() as u64
}

pub(crate) fn make(len: u64) -> Vec<u8> {
    vec![7; len as usize]
}

/// Computes for a time that depends on nothing but the number: a task that watches a clock would count the time in which it did not run.
pub(crate) fn work(rounds: u64) -> u64 {
    let mut x = rounds;
    for _ in 0..rounds {
        x = black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    }
    x
}

/// Rounds of [`work`] per microsecond, on a core that does nothing else.
pub(crate) fn rounds_per_us() -> f64 {
    const ROUNDS: u64 = 200_000;
    let once = || {
        let begun = Instant::now();
        black_box(work(black_box(ROUNDS)));
        begun.elapsed()
    };
    let best = (0..30).map(|_| once()).min().unwrap_or_default();
    ROUNDS as f64 / (best.as_secs_f64() * 1e6)
}

/// How many tasks of this length are run: 0.2 seconds of work for each worker, but not more than `most`.
pub(crate) fn tasks_of(grain_ns: u64, most: u64) -> u64 {
    (WORKERS as u64 * 200_000_000 / grain_ns).clamp(20, most)
}

/// The efficiency at each length of task: the time that the work takes if nothing is lost, by the time that it took. `run` runs so many tasks of so many rounds each.
pub(crate) fn efficiency(
    most: u64,
    mut run: impl FnMut(u64, u64) -> anyhow::Result<()>,
) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let rounds_per_us = rounds_per_us();
    run(1_000, 10)?;
    for grain_ns in GRAINS_NS {
        let tasks = tasks_of(grain_ns, most);
        let rounds = (grain_ns as f64 / 1e3 * rounds_per_us) as u64;
        run(tasks / 20 + 1, rounds)?;
        let begun = Instant::now();
        run(tasks, rounds)?;
        let elapsed = begun.elapsed().as_secs_f64();
        let ideal = tasks as f64 * grain_ns as f64 / 1e9 / WORKERS as f64;
        figures.add(format!("eff_{grain_ns}"), ideal / elapsed);
        figures.add(format!("rate_{grain_ns}"), tasks as f64 / elapsed);
    }
    Ok(figures)
}

/// Bandwidth, in GB/s, of calls that carry so many bytes and tell how long they took: by the median of as many calls of each size as fit into a short time, at least five.
pub(crate) fn bandwidth(
    prefix: &str,
    figures: &mut Figures,
    largest: usize,
    mut call: impl FnMut(usize) -> anyhow::Result<Duration>,
) -> anyhow::Result<()> {
    const TIME: Duration = Duration::from_millis(100);
    for bytes in PAYLOADS.into_iter().filter(|&bytes| bytes <= largest) {
        (0..2).try_for_each(|_| call(bytes).map(drop))?;
        let mut times = Vec::new();
        while times.len() < 5 || times.iter().sum::<Duration>() < TIME {
            times.push(call(bytes)?);
        }
        let bandwidth = bytes as f64 / median(times)?.as_secs_f64() / 1e9;
        figures.add(format!("{prefix}{bytes}"), bandwidth);
    }
    Ok(())
}

/// A task of the mixed load.
#[derive(Clone, Copy)]
pub(crate) struct Arrival {
    /// After the beginning.
    pub(crate) at: Duration,
    pub(crate) is_long: bool,
}

pub(crate) const LONG: Duration = Duration::from_millis(50);
pub(crate) const SHORT: Duration = Duration::from_micros(100);

/// One in a hundred tasks is long, and they come at random, so many that the workers are busy for 0.4 of their time. Always the same ones.
pub(crate) fn arrivals(tasks: usize, workers: usize) -> Vec<Arrival> {
    let mut state = 7u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let mean = 0.01 * LONG.as_secs_f64() + 0.99 * SHORT.as_secs_f64();
    let gap = mean / (0.4 * workers as f64);
    let mut at = 0.0;
    (0..tasks)
        .map(|_| {
            at += -gap * (1.0 - random()).ln();
            Arrival { at: Duration::from_secs_f64(at), is_long: random() < 0.01 }
        })
        .collect()
}

/// A task of the mixed load; gives the time at which it ended. A long one waits, as for a disk, so that the figures show whom the pool lets wait, not whom the
/// kernel does.
pub(crate) fn mixed_task(work_rounds: u64) -> u64 {
    if work_rounds == 0 {
        std::thread::sleep(LONG);
    } else {
        black_box(work(work_rounds));
    }
    now_ns()
}

/// Submits the tasks at their times, and tells how long the short ones took from then to their ends.
pub(crate) fn mixed<H>(
    tasks: usize,
    workers: usize,
    mut submit: impl FnMut(u64) -> anyhow::Result<H>,
    mut get: impl FnMut(H) -> anyhow::Result<u64>,
) -> anyhow::Result<Figures> {
    fine_timers();
    let rounds = (rounds_per_us() * SHORT.as_secs_f64() * 1e6) as u64;
    let warm = (0..100).map(|_| submit(rounds)).collect::<Result<Vec<_>, _>>()?;
    warm.into_iter().try_for_each(|handle| get(handle).map(drop))?;
    let (begun, begun_ns) = (Instant::now(), now_ns());
    let mut handles = Vec::with_capacity(tasks);
    for arrival in arrivals(tasks, workers) {
        std::thread::sleep(arrival.at.saturating_sub(begun.elapsed()));
        handles.push((arrival, submit(if arrival.is_long { 0 } else { rounds })?));
    }
    let mut delays = Vec::with_capacity(tasks);
    for (arrival, handle) in handles {
        let ended = get(handle)?;
        if !arrival.is_long {
            let due = begun_ns + arrival.at.as_nanos() as u64;
            delays.push(Duration::from_nanos(ended.saturating_sub(due)));
        }
    }
    let mut figures = Figures::default();
    figures.add_percentiles("", &mut delays);
    figures.add_quantiles(&mut delays);
    Ok(figures)
}

/// The monotonic clock, which is the same in all processes.
pub(crate) fn now_ns() -> u64 {
    // SAFETY: a timespec is plain numbers, which the kernel fills in.
    let now = unsafe {
        let mut now: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now);
        now
    };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// This thread's sleeps end on time, not up to 50 µs later.
fn fine_timers() {
    // SAFETY: it changes a number of this thread.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
}

pub(crate) fn timed(
    times: usize,
    call: &mut impl FnMut() -> anyhow::Result<()>,
    durations: &mut Vec<Duration>,
) -> anyhow::Result<()> {
    for _ in 0..times {
        let begun = Instant::now();
        call()?;
        durations.push(begun.elapsed());
    }
    Ok(())
}

/// The cores that this process may use.
pub(crate) fn cores() -> anyhow::Result<Vec<usize>> {
    // SAFETY: a set of cores is plain bits, zero is one, and the kernel fills it up to the size given.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) != 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        Ok((0..libc::CPU_SETSIZE as usize).filter(|&core| libc::CPU_ISSET(core, &set)).collect())
    }
}

/// Binds a thread (a process: its main thread), or with 0 this thread, to one core.
pub(crate) fn bind(thread: u32, core: usize) -> anyhow::Result<()> {
    // SAFETY: as above; the kernel only reads the set.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        if libc::sched_setaffinity(i32::try_from(thread)?, size_of::<libc::cpu_set_t>(), &set) != 0
        {
            return Err(std::io::Error::last_os_error().into());
        }
    }
    Ok(())
}

/// Where caller and worker run. Left to the kernel, a pair of processes that wait for each other settles now on one core, now on two,
/// and one takes five times as long as the other: figures could not be compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placement {
    Apart,
    Together,
}

impl Placement {
    /// Of this thread; what is started from here inherits it. Gives the core for the workers.
    pub(crate) fn before_the_start(self) -> anyhow::Result<usize> {
        let cores = cores()?;
        let (Some(&here), Some(&there)) = (cores.first(), cores.last()) else {
            bail!("no core to run on")
        };
        if self == Placement::Together {
            bind(0, here)?;
            return Ok(here);
        }
        if here == there {
            bail!("there is only one core");
        }
        Ok(there)
    }

    /// When everything runs: this thread here, the workers there.
    pub(crate) fn after_the_start(
        self,
        there: usize,
        workers: impl IntoIterator<Item = u32>,
    ) -> anyhow::Result<()> {
        if self == Placement::Apart {
            bind(0, cores()?[0])?;
            workers.into_iter().try_for_each(|worker| bind(worker, there))?;
        }
        Ok(())
    }
}

/// All threads of a process.
pub(crate) fn threads_of(pid: u32) -> Vec<u32> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/task"));
    let names = entries.into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.filter_map(|name| name.to_str()?.parse().ok()).collect()
}

/// Calls after a pause, in which everybody has gone to sleep.
pub(crate) fn after_idling(
    times: usize,
    mut calls: impl FnMut(usize) -> anyhow::Result<()>,
    kinds: &[&str],
) -> anyhow::Result<Figures> {
    const PAUSE: Duration = Duration::from_millis(2);
    let mut durations = vec![Vec::with_capacity(times); kinds.len()];
    for _ in 0..times {
        for (kind, durations) in durations.iter_mut().enumerate() {
            std::thread::sleep(PAUSE);
            let begun = Instant::now();
            calls(kind)?;
            durations.push(begun.elapsed());
        }
    }
    let mut figures = Figures::default();
    for (name, mut durations) in kinds.iter().zip(durations) {
        figures.add_percentiles(name, &mut durations);
    }
    Ok(figures)
}

/// Proportional set size: a page that several processes share counts for each of them with its share.
pub(crate) fn pss_kib(pid: u32) -> anyhow::Result<u64> {
    kib_of(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

pub(crate) fn kib_of(path: &str, name: &str) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kib.with_context(|| format!("no {name} in {path}"))?.parse()?)
}

pub(crate) fn median<T: Ord + Copy>(mut values: Vec<T>) -> anyhow::Result<T> {
    values.sort_unstable();
    values.get(values.len() / 2).copied().context("nothing was measured")
}
