//! Blocks of bytes that many processes read and nobody writes.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::object::{FILE, Kind, Object, What, travels};
use crate::sys::memory;

/// A block of bytes that all workers can read without a copy: passing it to a task costs the same for 1 GiB as for 1 KiB.
///
/// The memory is sealed: no process can change it, so a reference into it is what any `&[u8]` is. It is freed when the last process that has it
/// drops it or ends, however it ends. Cloning is cheap.
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// # pool_core::init();
/// use pool_core::SharedBytes;
/// let pool = pool_core::Pool::new(2)?;
/// let text = SharedBytes::from(b"many megabytes".to_vec());
/// let count = |text: SharedBytes, byte: u8| text.iter().filter(|b| **b == byte).count();
/// assert_eq!(pool.apply(count, (text.clone(), b'm'))?, 2);
/// assert_eq!(text.len(), 14);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SharedBytes {
    object: Arc<Object>,
}

const SEALED: Kind = What::Bytes.alone();
const MAPPED: Kind = Kind { what: What::Bytes, unit: FILE };

/// How much of a file is copied at a time.
const PIECE: usize = 1 << 20;

impl SharedBytes {
    /// Copies the bytes into shared memory.
    ///
    /// # Errors
    /// There is no memory, or no descriptor is free.
    pub fn new(bytes: &[u8]) -> io::Result<SharedBytes> {
        let mut file = File::from(memory::anonymous_file()?);
        file.write_all(bytes)?;
        SharedBytes::sealed(file.into(), bytes.len())
    }

    /// Copies a file, from its start to its end, into shared memory. What happens to the file later does not matter. For a file that is too large to be
    /// copied see [`map_file`](SharedBytes::map_file).
    ///
    /// ```
    /// let file = std::fs::File::open("/proc/self/exe")?;
    /// let image = pool_core::SharedBytes::from_file(&file)?;
    /// assert_eq!(image[1..4], *b"ELF");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// The file can't be read, there is no memory, or no descriptor is free.
    pub fn from_file(file: &File) -> io::Result<SharedBytes> {
        let mut copy = File::from(memory::anonymous_file()?);
        let (mut piece, mut len) = (vec![0; PIECE], 0);
        loop {
            match file.read_at(&mut piece, len as u64) {
                Ok(0) => return SharedBytes::sealed(copy.into(), len),
                Ok(read) => {
                    copy.write_all(&piece[..read])?;
                    len += read;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Maps a file without copying it. An empty file is an empty block.
    ///
    /// # Safety
    /// As long as any process has the block, nobody may write to the file or make it shorter: the content of a `&[u8]` would change, or reading it would
    /// kill the process with SIGBUS.
    ///
    /// # Errors
    /// The file can't be mapped, or no descriptor is free.
    pub unsafe fn map_file(file: &File) -> io::Result<SharedBytes> {
        let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        let fd = file.as_fd().try_clone_to_owned()?;
        Ok(SharedBytes { object: Object::of_file(MAPPED, fd, len)? })
    }

    fn sealed(fd: OwnedFd, len: usize) -> io::Result<SharedBytes> {
        memory::seal(fd.as_fd(), true)?;
        Ok(SharedBytes { object: Object::of_file(SEALED, fd, len)? })
    }
}

impl From<Vec<u8>> for SharedBytes {
    /// # Panics
    /// If there is no memory, or no descriptor is free: see [`SharedBytes::new`].
    fn from(bytes: Vec<u8>) -> SharedBytes {
        SharedBytes::new(&bytes).unwrap_or_else(|error| panic!("no shared memory: {error}"))
    }
}

impl Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        if !self.object.has_memory() {
            return &[];
        }
        let memory = self.object.memory();
        // SAFETY: the mapping has this length and lives as long as `self`. Nobody writes to it: it was sealed against that before it was mapped, which a
        // receiving process checks; or the caller of `map_file` has promised so.
        unsafe { std::slice::from_raw_parts(memory.start().as_ptr(), memory.len()) }
    }
}

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedBytes").field("len", &self.len()).finish_non_exhaustive()
    }
}

travels!([] SharedBytes, [SEALED, MAPPED], |object| Ok(SharedBytes { object }));
