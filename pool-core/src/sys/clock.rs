//! The monotonic clock, the same in all processes of the machine.

/// Nanoseconds since some point in the past. Not affected by changes of the time of day.
pub(crate) fn now_ns() -> u64 {
    match nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC) {
        Ok(time) => (time.tv_sec() as u64) * 1_000_000_000 + time.tv_nsec() as u64,
        Err(_) => unreachable!("CLOCK_MONOTONIC exists on every Linux"),
    }
}
