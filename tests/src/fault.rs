//! Ways in which a worker goes wrong, and values that go wrong when they are encoded or decoded.

use std::fmt;

use nix::sys::signal::{SigHandler, Signal, kill, raise};
use nix::unistd::Pid;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use crate::census::COOKIE;

/// A way to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// `panic!`.
    Panic,
    /// `abort`.
    Abort,
    /// `exit` with this code.
    Exit(i32),
    /// `_exit` with this code: nothing of the program's own runs.
    ExitAtOnce(i32),
    /// A write to address 8.
    WildPointer,
    /// Recursion without end.
    StackOverflow,
    /// A signal to itself.
    Raise(i32),
    /// A panic while another one unwinds.
    DoublePanic,
}

impl Fault {
    /// Goes wrong.
    pub fn happen(self) {
        match self {
            Fault::Panic => panic!("a fault was asked for"),
            Fault::Abort => std::process::abort(),
            Fault::Exit(code) => exit(code),
            // SAFETY: ends this process.
            #[allow(unsafe_code, reason = "the fault is the point")]
            Fault::ExitAtOnce(code) => unsafe { libc::_exit(code) },
            Fault::WildPointer => write_to_nowhere(),
            Fault::StackOverflow => {
                overflow(1);
            }
            Fault::Raise(signal) => raise(Signal::try_from(signal).unwrap()).unwrap(),
            Fault::DoublePanic => {
                let _bomb = PanicsInDrop;
                panic!("the first of two");
            }
        }
    }
}

#[allow(clippy::exit, reason = "the fault is the point")]
fn exit(code: i32) -> ! {
    std::process::exit(code)
}

struct PanicsInDrop;

impl Drop for PanicsInDrop {
    fn drop(&mut self) {
        panic!("the second of two");
    }
}

#[allow(unsafe_code, reason = "the fault is the point")]
fn write_to_nowhere() {
    // SAFETY: none: this is meant to be killed by the kernel.
    unsafe { std::ptr::without_provenance_mut::<u64>(8).write_volatile(1) }
}

#[allow(unconditional_recursion, reason = "the fault is the point")]
fn overflow(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 512]);
    overflow(depth + 1) + frame[7]
}

/// Whether this process is a worker of a [`Case`](crate::Case).
#[must_use]
pub fn in_worker() -> bool {
    std::env::var_os(COOKIE).is_some()
}

/// A signal from outside.
pub fn send(pid: u32, signal: Signal) {
    assert!(pid > 1, "not a worker");
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

/// Like [`send`], to a process that may have ended.
pub fn try_send(pid: u32, signal: Signal) {
    assert!(pid > 1, "not a worker");
    let _ = kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal);
}

/// Makes this process ignore the signals by which a process is asked to end.
#[allow(unsafe_code, reason = "the fault is the point")]
pub fn become_deaf() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        // SAFETY: ignoring a signal runs no code.
        unsafe { nix::sys::signal::signal(signal, SigHandler::SigIgn) }.unwrap();
    }
}

/// Never returns, though its type says that it may.
pub fn hang() {
    while std::hint::black_box(true) {
        std::thread::park();
    }
}

/// What an instance of [`Mine`] does, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum When {
    /// Nothing.
    Never,
    /// When a worker decodes it.
    DecodeInWorker,
    /// When the parent decodes it.
    DecodeInParent,
    /// When a worker encodes it.
    EncodeInWorker,
    /// When the parent encodes it.
    EncodeInParent,
}

/// What happens then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// serde's own error.
    Refuse,
    /// A fault.
    Fault(Fault),
}

/// A value that goes wrong when it is encoded or decoded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Mine {
    /// When it goes off.
    pub when: When,
    /// What happens then.
    pub what: What,
}

impl Mine {
    /// One that does not go off.
    pub const DUD: Mine = Mine { when: When::Never, what: What::Refuse };

    fn step(self, now: When) -> Result<(), &'static str> {
        match self.what {
            _ if now != self.when => Ok(()),
            What::Refuse => Err("this value refuses"),
            What::Fault(fault) => {
                fault.happen();
                Ok(())
            }
        }
    }
}

impl fmt::Debug for Mine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.when, self.what)
    }
}

impl Serialize for Mine {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let now = if in_worker() { When::EncodeInWorker } else { When::EncodeInParent };
        self.step(now).map_err(ser::Error::custom)?;
        (self.when, self.what).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Mine {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (when, what) = Deserialize::deserialize(deserializer)?;
        let mine = Mine { when, what };
        let now = if in_worker() { When::DecodeInWorker } else { When::DecodeInParent };
        mine.step(now).map_err(de::Error::custom)?;
        Ok(mine)
    }
}

static AT_EXIT: std::sync::OnceLock<Fault> = std::sync::OnceLock::new();

/// Lets a fault happen when this process exits.
#[allow(unsafe_code, reason = "std has no atexit")]
pub fn happen_at_exit(fault: Fault) {
    extern "C" fn happen() {
        if let Some(fault) = AT_EXIT.get() {
            fault.happen();
        }
    }
    AT_EXIT.set(fault).unwrap();
    // SAFETY: the function touches only a static that is set before.
    let registered = unsafe { libc::atexit(happen) };
    assert_eq!(registered, 0);
}

/// Starts something that has left its process group and its session, is nobody's child but init's, and is deaf. It writes the number by which /proc knows it into the file.
pub fn run_away(file: String) {
    let script = "trap '' TERM HUP INT; read pid rest </proc/self/stat; echo $pid >>\"$0\"; while :; do sleep 1000; done";
    let twice = format!("setsid sh -c '{}' \"$0\" & exit 0", script.replace('\'', "'\\''"));
    let status = std::process::Command::new("setsid").args(["sh", "-c", &twice, &file]).status();
    assert!(status.unwrap().success());
}
