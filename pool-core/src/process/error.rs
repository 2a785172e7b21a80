//! What can go wrong with a `Process` or a `Thread` itself, as opposed to its function.

/// Why a [`Process`](crate::Process) or a [`Thread`](crate::Thread) could not be started, waited for, signalled or closed.
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// # pool_core::init();
/// use pool_core::{Process, ProcessError};
/// let process = Process::spawn(|| 1 + 1, ())?;
/// assert_eq!(process.start(), Err(ProcessError::AlreadyStarted));
/// # process.join()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// A setting makes no sense; the text says which and why.
    #[error("{0}")]
    Config(String),
    /// It was started before: each is started once. Make a new one.
    #[error("it was started already, and can be started only once")]
    AlreadyStarted,
    /// It was not started yet.
    #[error("it was not started: call start() first")]
    NotStarted,
    /// `close` was called while it runs.
    #[error("it is still alive: end it or join it before close()")]
    StillAlive,
    /// It was closed.
    #[error("it was closed")]
    Closed,
    /// It would wait for itself, or the call was made by a waker on the thread that looks after processes.
    #[error("this call would wait for itself")]
    WouldDeadlock,
    /// Only the process that has made it can do this, not a copy made by `fork`.
    #[error("it belongs to process {owner}, of which this one is a forked copy")]
    ForkedCopy {
        /// The process id of the owner.
        owner: u32,
    },
    /// Processes are nested too deeply.
    #[error(
        "processes are nested {depth} deep, the limit is {limit}; does each process start another one?"
    )]
    NestedTooDeep {
        /// The depth that was asked for.
        depth: u32,
        /// The limit.
        limit: u32,
    },
    /// The arguments could not be encoded.
    #[error("{0}")]
    Encode(String),
    /// The program's `main` does not call [`pool_core::init`](crate::init) first, so its processes can't work.
    #[error(
        "the process never reached pool_core::init(): call it first in main (in a test crate: pool_core::test_support!())"
    )]
    InitNotCalled,
    /// The process came to nothing before it reached [`pool_core::init`](crate::init); the text says how.
    #[error("{0}")]
    StartFailed(String),
    /// The operating system refused a resource.
    #[error("{what}: {error}")]
    Os {
        /// What was asked for.
        what: &'static str,
        /// The system's answer.
        error: String,
    },
}

impl ProcessError {
    pub(crate) fn os(what: &'static str) -> impl Fn(std::io::Error) -> ProcessError {
        move |error| ProcessError::Os { what, error: error.to_string() }
    }
}
