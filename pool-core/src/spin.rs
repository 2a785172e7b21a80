//! Waiting for the other side of shared memory without sleeping, for a moment.

use crate::limits::SPIN_NS;
use crate::sys::clock;

/// Looks in a row between two offers of the CPU to others: some 500 ns. Both sides may share one core, and then only the offer lets the other one
/// get on.
const LOOKS: u32 = 32;

/// Looks again and again whether `ready`, for at most [`SPIN_NS`]; returns whether it was.
pub(crate) fn spin_until(mut ready: impl FnMut() -> bool) -> bool {
    let mut end = None;
    loop {
        for _ in 0..LOOKS {
            if ready() {
                return true;
            }
            std::hint::spin_loop();
        }
        let now = clock::now_ns();
        if now >= *end.get_or_insert(now + SPIN_NS) {
            return ready();
        }
        std::thread::yield_now();
    }
}
