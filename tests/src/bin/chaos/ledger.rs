//! A count of starts per task, and how many it may have, in memory that the tasks share with the soak and that no death can take along.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap};

/// Where workers find it.
pub(crate) const PATH: &str = "POOL_CHAOS_LEDGER";

/// More tasks than a soak can run. Pages that nobody touches take no memory.
const TASKS: usize = 1 << 28;

/// A word holds the number of starts, and this many times the number of those that are allowed, if that is not one.
const ALLOWED: u32 = 1 << 16;

/// The mapping of this process, whichever side it is on.
static MAPPED: OnceLock<&'static [AtomicU32]> = OnceLock::new();

/// The soak's side.
pub(crate) struct Ledger {
    file: OwnedFd,
    next: AtomicU64,
}

#[allow(unsafe_code, reason = "shared memory")]
fn map(file: &OwnedFd) -> &'static [AtomicU32] {
    let size = (TASKS * size_of::<AtomicU32>()).try_into().unwrap();
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping of a file that is as large, never unmapped, and only accessed by atomics.
    unsafe {
        let start = mmap(None, size, protection, MapFlags::MAP_SHARED, file, 0).unwrap();
        std::slice::from_raw_parts(start.cast::<AtomicU32>().as_ptr(), TASKS)
    }
}

impl Ledger {
    pub(crate) fn create() -> Ledger {
        let file = memfd_create(c"chaos", MFdFlags::MFD_CLOEXEC).unwrap();
        nix::unistd::ftruncate(&file, (TASKS * size_of::<AtomicU32>()) as i64).unwrap();
        MAPPED.set(map(&file)).unwrap();
        Ledger { file, next: AtomicU64::new(0) }
    }

    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// A number for a new task.
    pub(crate) fn number(&self) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        assert!((number as usize) < TASKS, "more tasks than the ledger has room for");
        number
    }

    pub(crate) fn numbers(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    pub(crate) fn starts(&self, number: u64) -> u32 {
        self.word(number).load(Ordering::Relaxed) % ALLOWED
    }

    /// This task may be started so many times, because it has retries.
    pub(crate) fn may_start(&self, number: u64, times: u32) {
        self.word(number).fetch_add(times * ALLOWED, Ordering::Relaxed);
    }

    pub(crate) fn allowed(&self, number: u64) -> u32 {
        (self.word(number).load(Ordering::Relaxed) / ALLOWED).max(1)
    }

    fn word(&self, number: u64) -> &AtomicU32 {
        &MAPPED.get().unwrap()[number as usize]
    }
}

/// The initializer of workers.
pub(crate) fn open_in_worker() -> anyhow::Result<()> {
    let path = std::env::var(PATH)?;
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path)?;
    MAPPED.set(map(&file.into())).map_err(|_| anyhow::anyhow!("opened twice"))
}

/// In a task: notes that it was started.
pub(crate) fn note(number: u64) {
    MAPPED.get().unwrap()[number as usize].fetch_add(1, Ordering::Relaxed);
}
