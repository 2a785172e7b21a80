//! Sleeping on a word of shared memory until another process changes it.

use std::io;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

/// How a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    /// The time is up.
    TimedOut,
    /// Woken, or the word had another value, or a signal came: the caller looks again.
    Maybe,
}

/// Sleeps while the word has this value, until it is woken or the time is up (`None`: for ever). The futex is not a private one: the sleepers of all
/// processes that map the word are found.
pub(crate) fn wait(word: &AtomicU32, value: u32, limit: Option<Duration>) -> Woken {
    let limit = limit.map(|limit| libc::timespec {
        tv_sec: libc::time_t::try_from(limit.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    });
    let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the word and the time live as long as the call; the kernel only reads them.
    let result =
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, value, limit) };
    if result < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ETIMEDOUT) {
        Woken::TimedOut
    } else {
        Woken::Maybe
    }
}

/// Wakes at most so many sleepers.
pub(crate) fn wake(word: &AtomicU32, count: u32) {
    let count = count.min(i32::MAX as u32);
    // SAFETY: the kernel uses the address only to find sleepers; waking too many or none is no error.
    let _ = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, count) };
}
