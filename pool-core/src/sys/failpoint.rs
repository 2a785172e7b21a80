//! Places at which a test lets this process, or the worker at hand, die, stop or wait, so that what else depends on luck happens each time. Without the feature
//! `failpoints` they are nothing.
//!
//! A place does something if the directory of failpoints has a file of its name. The first process that comes there takes the file away and does what it says:
//!
//! | content | what happens |
//! |---|---|
//! | `kill`, `stop`, `abort`, `exit N`, `panic` | to the process that has come there |
//! | `kill-worker`, `stop-worker` | to the worker that the parent deals with there; the parent goes on when it is dead, or stopped |
//! | `hold` | it leaves a file `NAME.held`, and goes on when there is a file `NAME.go` |
//! | `pass N`, a line before the others | the first N passages are let through |
//!
//! Workers find the directory by the variable [`DIRECTORY`], the parent by [`set_directory`].

/// Passes a place of this process.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub(crate) fn at(_place: &str) {}

/// Passes a place of the parent's at which it deals with a worker.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub(crate) fn with(_place: &str, _worker: u32) {}

#[cfg(feature = "failpoints")]
pub use active::{DIRECTORY, set_directory};
#[cfg(feature = "failpoints")]
pub(crate) use active::{at, with};

#[cfg(feature = "failpoints")]
mod active {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::sync::RwLock;
    use std::time::{Duration, Instant};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    /// The variable that names the directory.
    pub const DIRECTORY: &str = "POOL_CORE_FAILPOINTS";

    /// Nobody is held for longer, lest a failing test hang.
    const PATIENCE: Duration = Duration::from_secs(60);

    static OURS: RwLock<Option<PathBuf>> = RwLock::new(None);

    /// From now on, this process looks there, whatever the variable says.
    pub fn set_directory(directory: Option<&Path>) {
        *OURS.write().unwrap_or_else(|poisoned| poisoned.into_inner()) =
            directory.map(Path::to_owned);
    }

    fn directory() -> Option<PathBuf> {
        let ours = OURS.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        ours.or_else(|| std::env::var_os(DIRECTORY).map(PathBuf::from))
    }

    pub(crate) fn at(place: &str) {
        with(place, 0);
    }

    pub(crate) fn with(place: &str, worker: u32) {
        let Some(directory) = directory() else { return };
        let Some(action) = take(&directory.join(place)) else { return };
        let me = std::process::id();
        match action.split_once(' ').unwrap_or((&action, "")) {
            ("kill", _) => send(me, Signal::SIGKILL),
            ("stop", _) => send(me, Signal::SIGSTOP),
            ("abort", _) => std::process::abort(),
            ("exit", code) => leave(code.parse().unwrap_or(1)),
            ("panic", _) => panic!("failpoint {place}"),
            ("kill-worker", _) => {
                send(worker, Signal::SIGKILL);
                wait(|| matches!(state(worker), None | Some('Z' | 'X')));
            }
            ("stop-worker", _) => {
                send(worker, Signal::SIGSTOP);
                wait(|| matches!(state(worker), None | Some('Z' | 'X' | 'T')));
            }
            ("hold", _) => {
                // the test fails by itself if it does not find it
                let _ = fs::write(directory.join(format!("{place}.held")), me.to_string());
                wait(|| directory.join(format!("{place}.go")).exists());
            }
            (other, _) => panic!("failpoint {place}: unknown action {other}"),
        }
    }

    /// What is to be done by the one who has come here first.
    fn take(file: &Path) -> Option<String> {
        let text = fs::read_to_string(file).ok()?;
        let passes = text.lines().next().and_then(|line| line.strip_prefix("pass "));
        if let Some(passes) =
            passes.and_then(|number| number.parse::<u32>().ok()).filter(|&n| n > 0)
        {
            let rest: Vec<&str> = text.lines().skip(1).collect();
            let next = format!("pass {}\n{}", passes - 1, rest.join("\n"));
            let _ = fs::write(file, next);
            return None;
        }
        fs::rename(file, file.with_extension("hit")).ok()?;
        text.lines().find(|line| !line.starts_with("pass ")).map(str::to_owned)
    }

    fn send(pid: u32, signal: Signal) {
        // gone already: that is as good
        let _ = kill(Pid::from_raw(pid as i32), signal);
    }

    #[expect(clippy::exit, reason = "what a test wants to see")]
    fn leave(code: i32) -> ! {
        std::process::exit(code)
    }

    fn state(pid: u32) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.trim_start().chars().next()
    }

    fn wait(mut until: impl FnMut() -> bool) {
        let start = Instant::now();
        while !until() && start.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}
