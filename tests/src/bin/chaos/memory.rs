//! What memory the soak has: what is in use, and what the allocator keeps for later.

use serde_json::{Value, json};

/// After a pool has ended, in KiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// Allocated and not freed, over all arenas: what a leak would be part of.
    live: u64,
    /// Anonymous memory that the process has from the kernel. The allocator keeps some for later: glibc has up to eight arenas per processor, and each keeps at its end up to
    /// twice the largest block that was ever freed.
    held: u64,
}

#[allow(unsafe_code, reason = "neither std nor nix has it")]
pub(crate) fn measure() -> Memory {
    let held = anonymous_kib();
    #[cfg(target_env = "gnu")]
    let live = {
        // SAFETY: it takes nothing, and looks after its own locks.
        let info = unsafe { libc::mallinfo2() };
        (info.uordblks + info.hblkhd) as u64 >> 10
    };
    #[cfg(not(target_env = "gnu"))]
    let live = held;
    Memory { live, held }
}

/// Why this is more than a soak may take. What is in use may grow by what the soak itself writes down: some 20 bytes per death.
pub(crate) fn growth(checkpoints: &[Memory]) -> Option<String> {
    const SLACK: u64 = 2 << 10;
    let (first, last) = (checkpoints.first()?, checkpoints.last()?);
    let is_known = cfg!(target_env = "gnu");
    (is_known && last.live > first.live + SLACK)
        .then(|| format!("memory in use grows: {checkpoints:?}"))
}

/// In KiB.
pub(crate) fn report(checkpoints: &[Memory]) -> Value {
    let each = |figure: fn(&Memory) -> u64| checkpoints.iter().map(figure).collect::<Vec<_>>();
    json!({
        "live_after_each_pool": each(|memory| memory.live),
        "held_after_each_pool": each(|memory| memory.held),
    })
}

fn anonymous_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}
