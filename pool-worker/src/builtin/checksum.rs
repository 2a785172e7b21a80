//! `checksum`: the blake3 checksum and the compressed size of a file, in constant memory.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use anyhow::Context;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};

use crate::Data;

/// What `checksum` finds out about a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum {
    /// Its size.
    pub bytes: u64,
    /// Its blake3 checksum in hexadecimal.
    pub blake3: String,
    /// Its size after gzip, at the default level.
    pub gzip_bytes: u64,
}

/// Reads the file once.
pub fn checksum(path: Data) -> anyhow::Result<Checksum> {
    let path = path.into_path();
    checksum_of(&path).with_context(|| format!("can't read {}", path.display()))
}

fn checksum_of(path: &Path) -> io::Result<Checksum> {
    const CHUNK_BYTES: usize = 64 << 10;
    let mut file = File::open(path)?;
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut bytes = 0;
    let mut hasher = blake3::Hasher::new();
    let mut gzip = GzEncoder::new(Counter::default(), Compression::default());
    loop {
        match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => {
                bytes += count as u64;
                hasher.update(&chunk[..count]);
                gzip.write_all(&chunk[..count])?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let gzip_bytes = gzip.finish()?.0;
    Ok(Checksum { bytes, blake3: hasher.finalize().to_hex().to_string(), gzip_bytes })
}

/// Counts what is written to it and keeps nothing.
#[derive(Debug, Default)]
struct Counter(u64);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_size_a_checksum_and_a_compressed_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, vec![b'a'; 1_000_000]).unwrap();
        let found = checksum(Data::from(path)).unwrap();
        assert_eq!(found.bytes, 1_000_000);
        assert_eq!(found.blake3, blake3::hash(&vec![b'a'; 1_000_000]).to_hex().as_str());
        assert!((20..10_000).contains(&found.gzip_bytes), "{}", found.gzip_bytes);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = format!("{:#}", checksum(Data::from("/no/such/file")).unwrap_err());
        assert_eq!(error, "can't read /no/such/file: No such file or directory (os error 2)");
    }
}
