//! A test's frame: watchdog, pools that can be told from those of other tests, and the census at the end.

use std::collections::HashSet;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use pool_core::{
    Pool, PoolBuilder, Process as PoolProcess, ProcessBuilder, StartMethod, WorkerState,
};

use crate::census::{self, Process};

/// No test takes as long as this, unless it hangs.
const WATCHDOG: Duration = Duration::from_secs(90);

/// Lives as long as its test: declare it before the pools, so that it is dropped after them and can count what they have left.
#[derive(Debug)]
pub struct Case {
    cookie: String,
    name: String,
    stop: Option<mpsc::Sender<()>>,
}

/// What a variable that changes the whole suite says; one that says nothing known must not pass for another.
fn chosen(variable: &str, values: &[&'static str]) -> &'static str {
    let said = std::env::var(variable).unwrap_or_else(|_| values[0].to_owned());
    let known = values.iter().find(|value| **value == said);
    known.unwrap_or_else(|| panic!("{variable} is one of {values:?}, not {said:?}"))
}

/// Whether the pools of the suite have a fast lane where a test does not decide that itself: `POOL_TESTS_FAST_LANE`, `on` or `off`.
#[must_use]
pub fn fast_lane() -> bool {
    chosen("POOL_TESTS_FAST_LANE", &["on", "off"]) == "on"
}

/// A builder of worker processes that are started as they are by default, with a fast lane if [`fast_lane`] says so.
pub fn plain_builder(processes: usize) -> PoolBuilder {
    Pool::builder().processes(processes).fast_lane(fast_lane())
}

/// A pool of a [`plain_builder`].
#[must_use]
pub fn plain_pool(processes: usize) -> Pool {
    plain_builder(processes).build().unwrap()
}

/// A [`plain_builder`] of worker processes that are started as `POOL_TESTS_START` says: `afresh`, by a `fork-server`, or in a `pid-namespace`.
pub fn builder(processes: usize) -> PoolBuilder {
    let builder = plain_builder(processes);
    match chosen("POOL_TESTS_START", &["afresh", "fork-server", "pid-namespace"]) {
        "fork-server" => builder.start_method(StartMethod::ForkServer),
        "pid-namespace" => builder.start_method(StartMethod::ForkServer).pid_namespace(true),
        _ => builder,
    }
}

impl Default for Case {
    fn default() -> Self {
        Case::new()
    }
}

impl Case {
    /// Starts the watchdog.
    #[must_use]
    pub fn new() -> Case {
        Case::with_limit(WATCHDOG)
    }

    /// Starts a watchdog that waits longer.
    #[must_use]
    pub fn with_limit(limit: Duration) -> Case {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let test = std::thread::current().name().unwrap_or("?").to_owned();
        let (stop, stopped) = mpsc::channel();
        let watch = move || {
            if stopped.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                dump(&format!("{test} did not end within {limit:?}"));
                std::process::abort();
            }
        };
        std::thread::Builder::new().name("watchdog".to_owned()).spawn(watch).unwrap();
        let cookie = format!("{}-{number}", std::process::id());
        Case { cookie, name: format!("t{number}x"), stop: Some(stop) }
    }

    /// A builder whose workers belong to this test.
    pub fn builder(&self, processes: usize) -> PoolBuilder {
        builder(processes).name(self.name.clone()).env(census::COOKIE, self.cookie.clone())
    }

    /// A pool whose workers belong to this test.
    #[must_use]
    pub fn pool(&self, processes: usize) -> Pool {
        self.builder(processes).build().unwrap()
    }

    /// A builder of processes that belong to this test.
    pub fn process(&self) -> ProcessBuilder {
        PoolProcess::builder().env(census::COOKIE, self.cookie.clone())
    }

    /// What marks the processes of this test in their environment.
    #[must_use]
    pub fn cookie(&self) -> &str {
        &self.cookie
    }

    /// The live processes of this test's pools, and what they have started.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        census::with_cookie(&self.cookie)
    }

    /// Asserts that no process of this test is left.
    pub fn assert_nothing_left(&self) {
        let left = self.processes();
        assert!(left.is_empty(), "processes are left: {left:#?}");
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        drop(self.stop.take());
        if !std::thread::panicking() {
            self.assert_nothing_left();
            // Other tests of this process may have zombies just now: each of them must go.
            let zombies =
                census::children(std::process::id()).into_iter().filter(|p| p.state == 'Z');
            for zombie in zombies {
                eventually(Duration::from_secs(10), "a zombie is reaped", || {
                    census::process(zombie.pid).is_none_or(|process| process != zombie)
                });
            }
        }
    }
}

/// Polls until the condition holds. The limit is generous: it is there to end a test that hangs, not to measure.
#[track_caller]
pub fn eventually(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    let mut pause = Duration::from_micros(200);
    while !condition() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

/// Asserts a bound that the contract promises, and gives what the call gave.
#[track_caller]
pub fn within<R>(bound: Duration, what: &str, call: impl FnOnce() -> R) -> R {
    let start = Instant::now();
    let result = call();
    let took = start.elapsed();
    assert!(took <= bound, "{what} took {took:?}, the contract says {bound:?}");
    result
}

/// Waits until the pool has this many workers up, each a live process of its own; gives their process ids in the order of seats.
#[track_caller]
pub fn seats(pool: &Pool, count: usize) -> Vec<u32> {
    let mut pids = Vec::new();
    eventually(Duration::from_secs(20), "all seats have a live worker", || {
        let workers = pool.workers();
        pids = workers
            .iter()
            .filter(|worker| matches!(worker.state(), WorkerState::Idle | WorkerState::Busy))
            .map(pool_core::WorkerInfo::pid)
            .filter(|&pid| census::is_alive(pid))
            .collect();
        let distinct: HashSet<_> = pids.iter().collect();
        workers.len() == count && pids.len() == count && distinct.len() == count
    });
    pids
}

/// Writes what can be known about a test that hangs.
fn dump(why: &str) {
    eprintln!("WATCHDOG: {why}");
    let me = std::process::id();
    for process in std::iter::once(me).chain(census::descendants(me).iter().map(|p| p.pid)) {
        eprintln!("  process {process}: {:?}", census::process(process));
        for thread in census::list(&format!("/proc/{process}/task")) {
            let read = |file: &str| {
                std::fs::read_to_string(format!("/proc/{process}/task/{thread}/{file}"))
                    .unwrap_or_default()
            };
            eprintln!(
                "    thread {thread} {} wchan={} syscall={}",
                read("comm").trim(),
                read("wchan"),
                read("syscall").trim()
            );
        }
    }
    let gdb = ["-p", &me.to_string(), "-batch", "-ex", "thread apply all bt 10"];
    if let Ok(output) = Command::new("gdb").args(gdb).output() {
        eprintln!("{}", String::from_utf8_lossy(&output.stdout));
    }
}

/// Ends a pool. What it gives is not dropped yet: that would be one more end.
pub type Ending = fn(Pool) -> Option<Pool>;

/// The ways in which a program ends a pool that has nothing to do.
pub const ENDINGS: [(&str, Ending); 3] = [
    ("terminate", |pool| {
        pool.terminate();
        Some(pool)
    }),
    ("close", |pool| {
        pool.close();
        pool.join().unwrap();
        Some(pool)
    }),
    ("drop", |pool| {
        drop(pool);
        None
    }),
];
