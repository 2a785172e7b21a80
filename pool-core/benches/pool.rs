//! One measurement per run, printed as one line of JSON: `pool MEASUREMENT SIZE`. `scripts/bench` runs it beside its twin,
//! `scripts/bench_peer.py`, which measures the same of CPython's `multiprocessing.Pool`; keep the two alike.
//!
//! | measurement | size |
//! |---|---|
//! | `apply_async` | tasks |
//! | `map` | items |
//! | `round_trip_apart`, `round_trip_together` | calls; caller and workers on two cores, or all on one |
//! | `start`, `idle_memory` | workers |
//! | `terminate` | workers |
//! | `program_500` | tasks, at least 101 |
//! | `lock`, `lock_contended` | times that it is taken and let go |
//! | `queue` | items |
//! | `array_fill` | elements |
//! | `pass_gigabyte` | calls |
#![expect(clippy::print_stdout, reason = "its output is what it is for")]
#![expect(unsafe_code, reason = "processes are bound to cores, which std can't do")]

#[path = "shared/mod.rs"]
mod shared;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use pool_core::{Pool, WorkerInfo, WorkerState};

/// Two workers where throughput and delay are measured: what the machine has cores for.
const WORKERS: usize = 2;

/// Bytes of a ping and of a pong, about what a small task and its reply take.
const PING_BYTES: usize = 64;

/// Pings and calls take turns in stretches of this many, so that both see the same machine.
const STRETCH: usize = 500;

fn plus_one(x: u64) -> u64 {
    x + 1
}

fn half_a_second(p: u64) -> (u64, bool) {
    std::thread::sleep(Duration::from_millis(500));
    (p, p == 100)
}

fn main() -> anyhow::Result<()> {
    pool_core::init();
    // `cargo bench` appends an option for harnesses that this one has no use for
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let size = |text: &String| text.parse::<usize>().with_context(|| format!("size {text:?}"));
    let line = match &arguments[..] {
        [] => {
            println!("nothing measured; see scripts/bench");
            return Ok(());
        }
        [measurement] if measurement == "pong" => return pong(),
        [measurement, text] => measure(measurement, size(text)?)?,
        _ => bail!("usage: pool MEASUREMENT SIZE"),
    };
    println!("{line}");
    Ok(())
}

fn measure(measurement: &str, size: usize) -> anyhow::Result<String> {
    match measurement {
        "apply_async" => apply_async(size),
        "map" => map(size),
        "round_trip_apart" => round_trip(size, Placement::Apart),
        "round_trip_together" => round_trip(size, Placement::Together),
        "start" => start(size),
        "terminate" => terminate(size),
        "idle_memory" => idle_memory(size),
        "program_500" => program_500(size as u64),
        "lock" => shared::lock(size),
        "lock_contended" => shared::lock_contended(size),
        "queue" => shared::queue(size),
        "array_fill" => shared::array_fill(size),
        "pass_gigabyte" => shared::pass_gigabyte(size),
        other => bail!("no measurement is called {other:?}"),
    }
}

/// Submitted one by one from one thread, then every result is taken.
fn apply_async(tasks: usize) -> anyhow::Result<String> {
    let pool = Pool::new(WORKERS)?;
    let run = |tasks: u64| -> anyhow::Result<Duration> {
        let begun = Instant::now();
        let handles: Vec<_> =
            (0..tasks).map(|x| pool.apply_async(plus_one, (x,))).collect::<Result<_, _>>()?;
        for (x, handle) in handles.into_iter().enumerate() {
            assert_eq!(handle.get()?, x as u64 + 1);
        }
        Ok(begun.elapsed())
    };
    run(tasks as u64 / 10)?;
    let elapsed = run(tasks as u64)?;
    Ok(format!(r#"{{"per_s": {}}}"#, tasks as f64 / elapsed.as_secs_f64()))
}

/// Default settings.
fn map(items: usize) -> anyhow::Result<String> {
    let pool = Pool::new(WORKERS)?;
    let input: Vec<u64> = (0..items as u64).collect();
    pool.map(plus_one, input.iter().copied())?;
    let begun = Instant::now();
    let results = pool.map(plus_one, input.iter().copied())?;
    let elapsed = begun.elapsed();
    assert!(results.into_iter().eq(1..=items as u64));
    Ok(format!(r#"{{"per_s": {}}}"#, items as f64 / elapsed.as_secs_f64()))
}

/// Where caller and worker run. Left to the kernel, a pair of processes that wait for each other settles now on one core, now on two,
/// and one takes five times as long as the other: figures could not be compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Placement {
    Apart,
    Together,
}

/// `apply` back to back, beside bytes that go to another process and back over a bare socket.
fn round_trip(calls: usize, placement: Placement) -> anyhow::Result<String> {
    let cores = cores()?;
    let (Some(&here), Some(&there)) = (cores.first(), cores.last()) else {
        bail!("no core to run on")
    };
    if placement == Placement::Together {
        bind(0, here)?; // everything that is started from here inherits it
    } else if here == there {
        bail!("there is only one core");
    }
    let pool = Pool::new(WORKERS)?;
    let (mut socket, mut child) = start_pong()?;
    if placement == Placement::Apart {
        bind(0, here)?;
        let others =
            pool.workers().iter().map(WorkerInfo::pid).chain([child.id()]).collect::<Vec<_>>();
        others.into_iter().try_for_each(|pid| bind(pid, there))?;
    }
    let mut ping = || -> anyhow::Result<()> {
        let mut bytes = [7; PING_BYTES];
        socket.write_all(&bytes)?;
        Ok(socket.read_exact(&mut bytes)?)
    };
    let mut call = || Ok(pool.apply(plus_one, (1,)).map(|x| assert_eq!(x, 2))?);
    let (mut pings, mut applies) = (Vec::new(), Vec::new());
    timed(STRETCH, &mut ping, &mut Vec::new())?;
    timed(STRETCH, &mut call, &mut Vec::new())?;
    while applies.len() < calls {
        timed(STRETCH, &mut ping, &mut pings)?;
        timed(STRETCH, &mut call, &mut applies)?;
    }
    drop(socket);
    child.wait()?;
    pings.sort_unstable();
    applies.sort_unstable();
    Ok(format!(
        r#"{{"p50_us": {}, "p99_us": {}, "ping_p50_us": {}, "ping_p99_us": {}}}"#,
        percentile_us(&applies, 50),
        percentile_us(&applies, 99),
        percentile_us(&pings, 50),
        percentile_us(&pings, 99),
    ))
}

fn timed(
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

fn percentile_us(sorted: &[Duration], percent: usize) -> f64 {
    sorted[(sorted.len() - 1) * percent / 100].as_secs_f64() * 1e6
}

/// The cores that this process may use.
fn cores() -> anyhow::Result<Vec<usize>> {
    // SAFETY: a set of cores is plain bits, zero is one, and the kernel fills it up to the size given.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) != 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        Ok((0..libc::CPU_SETSIZE as usize).filter(|&core| libc::CPU_ISSET(core, &set)).collect())
    }
}

/// Binds the main thread of a process, or with 0 this thread, to one core.
fn bind(pid: u32, core: usize) -> anyhow::Result<()> {
    // SAFETY: as above; the kernel only reads the set.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        if libc::sched_setaffinity(i32::try_from(pid)?, size_of::<libc::cpu_set_t>(), &set) != 0 {
            return Err(std::io::Error::last_os_error().into());
        }
    }
    Ok(())
}

fn start_pong() -> anyhow::Result<(UnixStream, Child)> {
    let (ours, theirs) = UnixStream::pair()?;
    let theirs = Stdio::from(std::os::fd::OwnedFd::from(theirs));
    let child = Command::new(std::env::current_exe()?).arg("pong").stdin(theirs).spawn()?;
    Ok((ours, child))
}

/// The other process of the bare socket: sends back what comes.
fn pong() -> anyhow::Result<()> {
    let stdin = std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned()?;
    let mut socket = UnixStream::from(stdin);
    let mut bytes = [0; PING_BYTES];
    while socket.read_exact(&mut bytes).is_ok() {
        socket.write_all(&bytes)?;
    }
    Ok(())
}

/// From nothing until each worker could have answered once.
fn start(workers: usize) -> anyhow::Result<String> {
    let begun = Instant::now();
    let pool = Pool::new(workers)?;
    let handles: Vec<_> =
        (0..workers as u64).map(|x| pool.apply_async(plus_one, (x,))).collect::<Result<_, _>>()?;
    for handle in handles {
        handle.get()?;
    }
    Ok(format!(r#"{{"ms": {}}}"#, begun.elapsed().as_secs_f64() * 1e3))
}

/// All workers are in the middle of a long task.
fn terminate(workers: usize) -> anyhow::Result<String> {
    let pool = Pool::new(workers)?;
    for _ in 0..workers {
        drop(pool.apply_async(|| std::thread::sleep(Duration::from_secs(100)), ())?);
    }
    while pool.workers().iter().any(|w| w.current_task().is_none()) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let begun = Instant::now();
    pool.terminate();
    pool.join()?;
    Ok(format!(r#"{{"ms": {}}}"#, begun.elapsed().as_secs_f64() * 1e3))
}

/// Proportional set size: a page that several processes share counts for each of them with its share.
fn idle_memory(workers: usize) -> anyhow::Result<String> {
    let pool = Pool::new(workers)?;
    pool.task(plus_one).chunk_size(1).map(0..100)?;
    while pool.workers().iter().any(|w| w.state() != WorkerState::Idle) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut sizes =
        pool.workers().iter().map(|w| pss_kib(w.pid())).collect::<Result<Vec<_>, _>>()?;
    sizes.sort_unstable();
    Ok(format!(r#"{{"kib": {}}}"#, sizes[sizes.len() / 2]))
}

fn pss_kib(pid: u32) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).context("no Pss")?;
    Ok(kib.parse()?)
}

/// 10 workers, tasks of half a second, until number 100 says that it is enough.
fn program_500(tasks: u64) -> anyhow::Result<String> {
    let begun = Instant::now();
    let pool = Pool::new(10)?;
    let handles: Vec<_> =
        (0..tasks).map(|p| pool.apply_async(half_a_second, (p,))).collect::<Result<_, _>>()?;
    let mut stopping = None;
    for handle in handles {
        if handle.get()?.1 {
            stopping = Some(Instant::now());
            pool.terminate();
            break;
        }
    }
    pool.join()?;
    let stopping = stopping.context("no task has said that it is enough")?.elapsed();
    let (total, stopping) = (begun.elapsed().as_secs_f64(), stopping.as_secs_f64() * 1e3);
    Ok(format!(r#"{{"s": {total}, "stop_ms": {stopping}}}"#))
}
