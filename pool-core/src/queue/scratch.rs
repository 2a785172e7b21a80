//! A buffer that a thread uses again for each item.

use std::cell::Cell;

/// More than this is given back.
const KEEP: usize = 256 << 10;

/// Calls `work` with an empty buffer.
pub(super) fn with<R>(work: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    thread_local! {
        static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    }
    // taken out, because a user's serde code may come here again
    let mut buffer = BUFFER.take();
    buffer.clear();
    let result = work(&mut buffer);
    if buffer.capacity() <= KEEP {
        BUFFER.set(buffer);
    }
    result
}
