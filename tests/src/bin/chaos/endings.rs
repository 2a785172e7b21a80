//! How long pools take to end, and how long workers outlive a parent that was killed.

use std::io::{BufRead, BufReader};
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use pool_core::Pool;
use pool_tests::{Freezer, Gate, census, eventually, fault};
use serde_json::{Value, json};

use crate::account::{Account, percentiles};

const VICTIM: &str = "POOL_CHAOS_VICTIM";
const GATE: &str = "POOL_CHAOS_GATE";
const WORKERS: usize = 4;
const GRACE: Duration = Duration::from_millis(300);
const SOON: Duration = Duration::from_secs(20);

/// Workers in a state; gives their process ids.
fn prepare(pool: &Pool, path: &str, state: &str) -> Vec<u32> {
    let path = path.to_owned();
    for _ in 0..WORKERS {
        let handle = match state {
            "deaf" => {
                let deaf = |gate: String| {
                    fault::become_deaf();
                    Gate::wait_at(&gate);
                };
                pool.apply_async(deaf, (path.clone(),))
            }
            "spinning" => {
                let spin = |gate: String| {
                    Gate::announce(&gate);
                    while std::hint::black_box(true) {
                        std::hint::spin_loop();
                    }
                };
                pool.apply_async(spin, (path.clone(),))
            }
            "idle" => return pool.workers().iter().map(pool_core::WorkerInfo::pid).collect(),
            _ => pool.apply_async(|gate: String| Gate::wait_at(&gate), (path.clone(),)),
        };
        drop(handle.unwrap());
    }
    let mut pids = Vec::new();
    eventually(SOON, "the tasks arrive at the gate", || {
        pids = Gate::arrived_at(&path);
        pids.len() == WORKERS
    });
    if state == "stopped" {
        for &pid in &pids {
            fault::send(pid, Signal::SIGSTOP);
            eventually(SOON, "it stops", || census::is_stopped(pid));
        }
    }
    pids
}

const STATES: [&str; 5] = ["idle", "busy", "spinning", "stopped", "deaf"];

pub(crate) fn measure(count: usize, account: &Account) -> Value {
    let mut report = serde_json::Map::new();
    for state in STATES {
        let mut terminated: Vec<u64> = (0..count).map(|_| terminate(state, account)).collect();
        let mut orphaned: Vec<u64> = (0..count).flat_map(|_| kill_parent(state, account)).collect();
        report.insert(format!("terminate_{state}"), percentiles(&mut terminated));
        report.insert(format!("parent_killed_{state}"), percentiles(&mut orphaned));
    }
    if let Some(mut frozen) =
        (0..count).map(|_| terminate_frozen(account)).collect::<Option<Vec<_>>>()
    {
        report.insert("terminate_frozen".to_owned(), percentiles(&mut frozen));
    }
    report.insert("grace".to_owned(), json!(GRACE.as_millis() as u64));
    Value::Object(report)
}

fn terminate(state: &str, account: &Account) -> u64 {
    let gate = Gate::new();
    let pool = pool_tests::plain_builder(WORKERS).grace(GRACE).build().unwrap();
    let pids = prepare(&pool, &gate.path(), state);
    let start = Instant::now();
    pool.terminate();
    let took = start.elapsed();
    if took > GRACE + Duration::from_secs(1) || pids.iter().any(|&pid| census::is_alive(pid)) {
        account.violation(format!("terminate of {state} workers took {took:?}"));
    }
    took.as_nanos() as u64
}

/// With one worker that can't be killed; `None` if there is no way to make one.
fn terminate_frozen(account: &Account) -> Option<u64> {
    let freezer = Freezer::create()?;
    let gate = Gate::new();
    let pool = pool_tests::plain_builder(WORKERS).grace(GRACE).build().unwrap();
    let pids = prepare(&pool, &gate.path(), "busy");
    freezer.take(pids[0]);
    freezer.freeze();
    let start = Instant::now();
    pool.terminate();
    let took = start.elapsed();
    if took > GRACE + Duration::from_secs(1) {
        account.violation(format!("terminate with a frozen worker took {took:?}"));
    }
    freezer.thaw();
    eventually(SOON, "it is collected", || census::process(pids[0]).is_none());
    Some(took.as_nanos() as u64)
}

/// Kills a parent, and gives for each of its workers how long it lived on.
#[allow(unsafe_code, reason = "neither std nor nix has pidfds")]
fn kill_parent(state: &str, account: &Account) -> Vec<u64> {
    // not the parent's own: nobody would remove it
    let gate = Gate::new();
    let mut parent = Command::new("/proc/self/exe")
        .env(VICTIM, state)
        .env(GATE, gate.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(parent.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let pids: Vec<i32> = line.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(pids.len(), WORKERS);
    // SAFETY: integers in, a new descriptor out.
    let open = |pid: &i32| unsafe {
        let pidfd = libc::syscall(libc::SYS_pidfd_open, *pid, 0);
        assert!(pidfd >= 0, "a worker is there");
        OwnedFd::from_raw_fd(pidfd as i32)
    };
    let workers: Vec<OwnedFd> = pids.iter().map(open).collect();
    let start = Instant::now();
    parent.kill().unwrap();
    let mut times = Vec::new();
    for worker in &workers {
        let mut fds = [PollFd::new(std::os::fd::AsFd::as_fd(worker), PollFlags::POLLIN)];
        let left = Duration::from_secs(5).saturating_sub(start.elapsed());
        let left = PollTimeout::try_from(left.as_millis() as u32).unwrap();
        if poll(&mut fds, left) != Ok(1) {
            account.violation(format!("a {state} worker outlives its parent"));
        }
        times.push(start.elapsed().as_nanos() as u64);
    }
    parent.wait().unwrap();
    if start.elapsed() > Duration::from_secs(1) {
        account.violation(format!("{state} workers outlive their parent by more than a second"));
    }
    times
}

pub(crate) fn is_victim() -> bool {
    std::env::var_os(VICTIM).is_some()
}

/// The parent that is going to be killed.
pub(crate) fn be_victim() {
    let state = std::env::var(VICTIM).unwrap();
    let gate = std::env::var(GATE).unwrap();
    let pool = pool_tests::plain_pool(WORKERS);
    let pids: Vec<_> = prepare(&pool, &gate, &state).iter().map(u32::to_string).collect();
    println!("{}", pids.join(" "));
    std::io::stdin().read_line(&mut String::new()).unwrap();
}
