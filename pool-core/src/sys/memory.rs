//! Anonymous shared memory: sealed in size, mapped by several processes, gone with the last of them.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
#[cfg_attr(miri, expect(unused_imports, reason = "system calls that it does not know"))]
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// A shared mapping of a sealed block. Other processes may write to it at any time, so it is only ever read by copying and
/// by atomics, never through references to plain data.
#[derive(Debug)]
pub(crate) struct SharedBlock {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: all accesses are atomics, or copies through raw pointers of bytes that carry no meaning until they were copied.
unsafe impl Send for SharedBlock {}
// SAFETY: as above.
unsafe impl Sync for SharedBlock {}

/// What a mapping is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// An anonymous file that can be sealed.
pub(crate) fn anonymous_file() -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    Ok(memfd_create(c"pool-core", flags)?)
}

/// Nobody can change the size any more, nor these seals; and nobody can change the content, if `content`.
pub(crate) fn seal(fd: BorrowedFd<'_>, content: bool) -> io::Result<()> {
    let mut seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    if content {
        seals |= SealFlag::F_SEAL_WRITE;
    }
    fcntl(fd, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(())
}

/// Fails unless the file has exactly this size for ever, and, if `content`, this content. Then touching a mapping of it can't raise SIGBUS.
pub(crate) fn check_sealed(fd: BorrowedFd<'_>, len: usize, content: bool) -> io::Result<()> {
    let seals = SealFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GET_SEALS)?);
    let mut wanted = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
    if content {
        wanted |= SealFlag::F_SEAL_WRITE;
    }
    let size = nix::sys::stat::fstat(fd)?.st_size;
    if seals.contains(wanted) && u64::try_from(size).is_ok_and(|size| size == len as u64) {
        Ok(())
    } else {
        Err(io::Error::other("the descriptor is no sealed memory of the expected size"))
    }
}

impl SharedBlock {
    /// Miri knows neither memfds nor shared mappings: there, a block is zeroed memory of this process.
    #[cfg(miri)]
    pub(crate) fn create(len: usize) -> io::Result<(SharedBlock, OwnedFd)> {
        let layout = std::alloc::Layout::from_size_align(len, 4096).map_err(io::Error::other)?;
        // SAFETY: the layout is not empty.
        let start = unsafe { std::alloc::alloc_zeroed(layout) };
        let start = NonNull::new(start).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok((SharedBlock { start, len }, std::fs::File::open("/dev/null")?.into()))
    }

    /// Creates a zeroed block whose size nobody can change, and the descriptor by which another process maps it.
    #[cfg(not(miri))]
    pub(crate) fn create(len: usize) -> io::Result<(SharedBlock, OwnedFd)> {
        let fd = anonymous_file()?;
        nix::unistd::ftruncate(&fd, i64::try_from(len).map_err(io::Error::other)?)?;
        seal(fd.as_fd(), false)?;
        Ok((SharedBlock::map(fd.as_fd(), len)?, fd))
    }

    /// Maps a block that was created with this length.
    pub(crate) fn map(fd: BorrowedFd<'_>, len: usize) -> io::Result<SharedBlock> {
        SharedBlock::map_for(fd, len, Access::Write)
    }

    /// Maps the first `len` bytes of a file, which must not be 0.
    pub(crate) fn map_for(
        fd: BorrowedFd<'_>,
        len: usize,
        access: Access,
    ) -> io::Result<SharedBlock> {
        let size = len.try_into().map_err(io::Error::other)?;
        let protection = match access {
            Access::Read => ProtFlags::PROT_READ,
            Access::Write => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        };
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing; the block is sealed, so touching it can't
        // raise SIGBUS.
        let start = unsafe { mmap(None, size, protection, MapFlags::MAP_SHARED, fd, 0) }?;
        Ok(SharedBlock { start: start.cast(), len })
    }

    /// Where the mapping starts; it stays there as long as `self` lives.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The 64-bit word at `offset`, which must be a multiple of 8 and inside the block.
    pub(crate) fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.len, "inside the block and aligned");
        // SAFETY: inside the mapping, aligned (the mapping starts at a page), and only accessed atomically by both sides.
        unsafe { AtomicU64::from_ptr(self.start.add(offset).as_ptr().cast()) }
    }

    /// The 32-bit word at `offset`, of which the same holds.
    pub(crate) fn half_word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.len, "inside the block and aligned");
        // SAFETY: as above.
        unsafe { AtomicU32::from_ptr(self.start.add(offset).as_ptr().cast()) }
    }

    /// Copies `bytes` into the block.
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset <= self.len && bytes.len() <= self.len - offset, "inside the block");
        // SAFETY: inside the mapping, and `bytes` is ordinary memory that can't overlap it.
        unsafe {
            std::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                self.start.as_ptr().add(offset),
                bytes.len(),
            );
        }
    }

    /// Copies bytes of the block to `out`.
    pub(crate) fn read(&self, offset: usize, out: &mut [u8]) {
        assert!(offset <= self.len && out.len() <= self.len - offset, "inside the block");
        // SAFETY: inside the mapping, and `out` is ordinary memory that can't overlap it.
        unsafe {
            let source = self.start.as_ptr().add(offset);
            std::ptr::copy_nonoverlapping(source, out.as_mut_ptr(), out.len());
        }
    }

    /// Appends `len` bytes of the block to `out`, which has the capacity for them.
    pub(crate) fn read_into(&self, offset: usize, len: usize, out: &mut Vec<u8>) {
        assert!(offset <= self.len && len <= self.len - offset, "inside the block");
        assert!(out.capacity() - out.len() >= len, "reserved by the caller");
        // SAFETY: inside the mapping and inside the spare capacity; the bytes are initialised by the copy.
        unsafe {
            let target = out.as_mut_ptr().add(out.len());
            std::ptr::copy_nonoverlapping(self.start.as_ptr().add(offset), target, len);
            out.set_len(out.len() + len);
        }
    }
}

/// Gives back to the system what was freed, also between pieces that are in use. To be done before a process is copied: what it has is copied for each.
pub(crate) fn trim() {
    // SAFETY: it looks after the allocator's own memory, under the allocator's own locks.
    #[cfg(all(target_env = "gnu", not(miri)))]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// From this size on, memory is worth huge pages: a page fault for each 4 KiB is most of what fresh memory costs.
const HUGE: usize = 4 << 20;

/// A vector with room for so many items; if they are many, in huge pages, if the kernel has any.
pub(crate) fn vec_with_huge_pages<T>(items: usize) -> Vec<T> {
    let mut items = Vec::with_capacity(items);
    take_huge_pages(&mut items);
    items
}

/// What a vector has room for lies in huge pages from now on, if that is much and nothing lies there yet.
pub(crate) fn take_huge_pages<T>(items: &mut Vec<T>) {
    let room = items.spare_capacity_mut();
    let (start, len) = (room.as_mut_ptr().addr(), size_of_val(room));
    let first = start.next_multiple_of(HUGE_PAGE);
    if len >= HUGE && !cfg!(miri) {
        let whole = (start + len - first) / HUGE_PAGE * HUGE_PAGE;
        // SAFETY: the range lies in the vector's own memory, and the advice changes nothing that it holds. Without such pages, nothing happens.
        let _ = unsafe {
            let first = room.as_mut_ptr().cast::<u8>().add(first - start);
            libc::madvise(first.cast(), whole, libc::MADV_HUGEPAGE)
        };
    }
}

const HUGE_PAGE: usize = 2 << 20;

/// A file without a name that has this content, which nobody can change any more.
pub(crate) fn sealed_file(content: &[u8]) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = File::from(memfd_create(c"pool-core", flags)?);
    file.write_all(content)?;
    let seals = SealFlag::F_SEAL_WRITE
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}

/// The content of such a file. Several processes may read it at the same time: it has one position for all, which is not used.
pub(crate) fn read_sealed(file: OwnedFd, len: u64) -> io::Result<Vec<u8>> {
    let mut content = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    File::from(file).read_exact_at(&mut content, 0)?;
    Ok(content)
}

impl Drop for SharedBlock {
    #[cfg(miri)]
    fn drop(&mut self) {
        let layout = std::alloc::Layout::from_size_align(self.len, 4096);
        // SAFETY: allocated with this layout by `create`, and no reference into it outlives `self`.
        unsafe { std::alloc::dealloc(self.start.as_ptr(), layout.expect("as in create")) };
    }

    #[cfg(not(miri))]
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference into it outlives `self`.
        let _ = unsafe { munmap(self.start.cast(), self.len) };
    }
}
