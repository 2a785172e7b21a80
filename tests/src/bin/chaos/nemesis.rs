//! Kills, stops and starves workers at random.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pool_core::{Pool, WorkerState};
use pool_tests::census;
use serde_json::{Value, json};

use crate::random::Random;

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Nemesis {
    done: Mutex<BTreeMap<&'static str, u64>>,
    /// Whom it has killed by which signal, and when.
    kills: Mutex<HashMap<u32, (i32, Instant)>>,
}

impl Nemesis {
    pub(crate) fn new() -> Nemesis {
        Nemesis::default()
    }

    /// When this process was sent this signal.
    pub(crate) fn killed_at(&self, pid: u32, signal: i32) -> Option<Instant> {
        let kills = self.kills.lock().unwrap();
        kills.get(&pid).filter(|(sent, _)| *sent == signal).map(|(_, at)| *at)
    }

    pub(crate) fn report(&self) -> Value {
        let done = self.done.lock().unwrap();
        let deadly = ["kill", "segv", "abrt", "term", "bus", "kill_stopped"];
        let kills: u64 = deadly.iter().filter_map(|name| done.get(name)).sum();
        json!({ "deadly_signals": kills, "actions": *done })
    }

    pub(crate) fn rage(&self, pool: &Pool, rate: u64, random: &mut Random, is_over: &AtomicBool) {
        let mut pause = Duration::ZERO;
        let mut mood_ends = Instant::now();
        // those that were stopped, and when they go on
        let mut stopped: Vec<(Instant, Target)> = Vec::new();
        while !is_over.load(Ordering::SeqCst) {
            let now = Instant::now();
            if mood_ends <= now {
                // some calm in between: else no task would ever reach its time limit
                mood_ends = now + Duration::from_millis(500 + random.below(1_500));
                let slower = [1, 1, 1, 4, 40][random.below(5) as usize];
                pause = Duration::from_micros(2_000_000 * slower / rate.max(1));
            }
            std::thread::park_timeout(pause.mul_f64(random.below(1000) as f64 / 1000.0));
            let now = Instant::now();
            let mut index = 0;
            while index < stopped.len() {
                if stopped[index].0 > now {
                    index += 1;
                    continue;
                }
                let (_, target) = stopped.swap_remove(index);
                if random.one_of_1000(300) {
                    self.strike(&target, "kill_stopped", libc::SIGKILL);
                } else if target.signal(libc::SIGCONT) {
                    self.count("continue");
                }
            }
            let workers = pool.workers();
            if workers.is_empty() {
                continue;
            }
            let worker = &workers[random.below(workers.len() as u64) as usize];
            let is_starting = worker.state() == WorkerState::Starting;
            if is_starting && !random.one_of_1000(200) {
                continue;
            }
            let Some(target) = Target::open(worker.pid()) else { continue };
            if random.one_of_1000(2) {
                self.end_server_of(&target);
            }
            // an initializer that fails for want of memory breaks the pool, as it should: only what is up is starved
            match random.below(if is_starting { 90 } else { 100 }) {
                0..50 => self.strike(&target, "kill", libc::SIGKILL),
                50..60 => self.strike(&target, "segv", libc::SIGSEGV),
                60..65 => self.strike(&target, "abrt", libc::SIGABRT),
                65..70 => self.strike(&target, "term", libc::SIGTERM),
                70..73 => self.strike(&target, "bus", libc::SIGBUS),
                73..90 => {
                    if target.signal(libc::SIGSTOP) {
                        self.count("stop");
                        let time = Duration::from_millis(random.below(300));
                        stopped.push((now + time, target));
                    }
                }
                90..93 => self.limit(&target, "no_memory", libc::RLIMIT_AS),
                93..96 => self.limit(&target, "no_descriptors", libc::RLIMIT_NOFILE),
                96..98 => self.limit(&target, "no_files", libc::RLIMIT_FSIZE),
                _ => {
                    let lowest = 19;
                    #[allow(unsafe_code, reason = "neither std nor nix has it")]
                    // SAFETY: integers only.
                    unsafe {
                        libc::setpriority(libc::PRIO_PROCESS, target.pid as u32, lowest)
                    };
                    self.count("lowest_priority");
                }
            }
        }
        for (_, target) in stopped {
            target.signal(libc::SIGCONT);
        }
    }

    /// Kills the fork server from which a worker comes, if it comes from one; with it go all its workers.
    fn end_server_of(&self, target: &Target) {
        let parent = census::process(target.pid as u32).map(|process| process.parent);
        let server = parent.filter(|&parent| parent != std::process::id()).and_then(Target::open);
        if server.is_some_and(|server| server.signal(libc::SIGKILL)) {
            self.count("fork_server_killed");
        }
    }

    fn count(&self, what: &'static str) {
        *self.done.lock().unwrap().entry(what).or_default() += 1;
    }

    fn strike(&self, target: &Target, what: &'static str, signal: i32) {
        let mut kills = self.kills.lock().unwrap();
        let now = Instant::now();
        // numbers of processes are used again, after some time
        if kills.len() > 4_000 {
            kills.retain(|_, (_, at)| now.duration_since(*at) < Duration::from_secs(30));
        }
        if target.signal(signal) {
            kills
                .entry(target.pid as u32)
                .and_modify(|entry| {
                    // what killed it is the first signal, unless the number is another's by now
                    if now.duration_since(entry.1) > Duration::from_secs(5) {
                        *entry = (signal, now);
                    }
                })
                .or_insert((signal, now));
            drop(kills);
            self.count(what);
        }
    }

    #[allow(unsafe_code, reason = "neither std nor nix has it")]
    fn limit(&self, target: &Target, what: &'static str, resource: libc::__rlimit_resource_t) {
        let nothing = libc::rlimit64 { rlim_cur: 0, rlim_max: libc::RLIM64_INFINITY };
        // SAFETY: one pointer to a struct that lives, and a null pointer, which is allowed.
        unsafe { libc::prlimit64(target.pid, resource, &nothing, std::ptr::null_mut()) };
        self.count(what);
    }
}

/// A child of this process, not a stranger with its number.
struct Target {
    pid: i32,
    pidfd: OwnedFd,
}

impl Target {
    #[allow(unsafe_code, reason = "neither std nor nix has pidfds")]
    fn open(pid: u32) -> Option<Target> {
        if pid < 2 {
            return None;
        }
        let number = pid as i32;
        // SAFETY: integers in, a new descriptor out.
        let pidfd = unsafe {
            let pidfd = libc::syscall(libc::SYS_pidfd_open, number, 0);
            (pidfd >= 0).then(|| OwnedFd::from_raw_fd(pidfd as i32))
        }?;
        // its parent is this process, or a fork server of this process
        let me = std::process::id();
        let parent = census::process(pid)?.parent;
        let is_ours = parent == me || census::process(parent).is_some_and(|p| p.parent == me);
        is_ours.then_some(Target { pid: number, pidfd })
    }

    /// `false`: it had ended.
    #[allow(unsafe_code, reason = "neither std nor nix has pidfds")]
    fn signal(&self, signal: i32) -> bool {
        let nothing = std::ptr::null::<libc::siginfo_t>();
        let pidfd = self.pidfd.as_raw_fd();
        // SAFETY: integers and a null pointer, which is allowed.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd, signal, nothing, 0) == 0 }
    }
}
