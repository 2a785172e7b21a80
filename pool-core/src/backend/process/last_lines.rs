//! The last lines that a worker has written to its standard error, told with its death.
//!
//! A pipe has two readers. One is the thread that writes what comes out of it, which may be held up at that; the other one is whoever judges the worker's
//! end, who must not be, and takes what is left in the pipe at that moment. It puts that where the first one finds it.

use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, Weak};

use crate::limits::{LAST_LINES, LAST_LINES_BYTES};
use crate::primitives::lock;
use crate::sys::capture;

/// How often a pipe is read when its worker is gone: as much as it can hold. A descendant that goes on printing is not waited for.
pub(super) const LAST_READS: usize = 128;

/// The parent's end of a pipe into which a worker prints.
#[derive(Debug)]
pub(crate) struct Pipe {
    reader: Arc<PipeReader>,
    taken: Arc<Mutex<Taken>>,
}

/// What was taken out of a pipe.
#[derive(Debug, Default)]
struct Taken {
    /// Not written yet.
    ahead: Vec<u8>,
    last: Last,
}

impl Pipe {
    /// The end of which nobody waits for bytes.
    pub(super) fn new(reader: PipeReader) -> io::Result<Pipe> {
        capture::set_nonblocking(&reader)?;
        Ok(Pipe { reader: Arc::new(reader), taken: Arc::default() })
    }

    /// Adds what comes next, if there is something; how much.
    pub(super) fn read(&self, into: &mut Vec<u8>) -> io::Result<usize> {
        let mut taken = lock(&self.taken);
        if !taken.ahead.is_empty() {
            let ahead = std::mem::take(&mut taken.ahead);
            into.extend_from_slice(&ahead);
            return Ok(ahead.len());
        }
        let mut buffer = [0; 8 << 10];
        let read = (&*self.reader).read(&mut buffer)?;
        taken.last.push(&buffer[..read]);
        into.extend_from_slice(&buffer[..read]);
        Ok(read)
    }

    fn listener(&self) -> Listener {
        Listener { reader: Arc::downgrade(&self.reader), taken: Arc::clone(&self.taken) }
    }
}

impl AsFd for Pipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

/// Another reader of a pipe, which does not keep it open.
#[derive(Debug)]
struct Listener {
    reader: Weak<PipeReader>,
    taken: Arc<Mutex<Taken>>,
}

impl Listener {
    /// Takes what is there now.
    fn last(&self) -> Last {
        let mut taken = lock(&self.taken);
        if let Some(reader) = self.reader.upgrade() {
            let mut buffer = [0; 8 << 10];
            for _ in 0..LAST_READS {
                match (&*reader).read(&mut buffer) {
                    Ok(0) => break,
                    Ok(read) => {
                        taken.ahead.extend_from_slice(&buffer[..read]);
                        taken.last.push(&buffer[..read]);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
        }
        taken.last.clone()
    }
}

/// Where the standard error of a worker can be read.
#[derive(Debug, Default)]
pub(crate) struct LastLines(Option<Listener>);

impl LastLines {
    pub(crate) fn of(pipe: Option<&Pipe>) -> LastLines {
        LastLines(pipe.map(Pipe::listener))
    }

    /// The last lines of what was written to the pipe, or else to the file, up to now. Never waits.
    pub(crate) fn read(&self, file: Option<&OwnedFd>) -> String {
        match (&self.0, file) {
            (Some(pipe), _) => pipe.last().text(),
            (None, Some(file)) => {
                let (mut last, more) = (Last::default(), LAST_LINES_BYTES + 1);
                last.push(&capture::read_captured_end(file.as_fd(), more).unwrap_or_default());
                last.text()
            }
            (None, None) => String::new(),
        }
    }
}

/// The end of a stream of bytes.
#[derive(Clone, Debug, Default)]
struct Last {
    bytes: Vec<u8>,
    /// Something was before it.
    is_cut: bool,
}

impl Last {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        if let Some(surplus) = self.bytes.len().checked_sub(LAST_LINES_BYTES)
            && surplus > 0
        {
            self.bytes.drain(..surplus);
            self.is_cut = true;
        }
    }

    fn text(&self) -> String {
        let mut bytes = self.bytes.trim_ascii_end();
        if self.is_cut
            && let Some(at) = bytes.iter().position(|&byte| byte == b'\n')
        {
            // the beginning of this one is not known
            bytes = &bytes[at + 1..];
        }
        let breaks = bytes.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
        if let Some((at, _)) = breaks.take(LAST_LINES).nth(LAST_LINES - 1) {
            bytes = &bytes[at + 1..];
        }
        let start = bytes.iter().position(|&byte| byte != b'\n').unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[start..]).into_owned()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]
mod tests {
    use std::io::Write;

    use super::*;

    fn last(pieces: &[&[u8]]) -> String {
        let mut last = Last::default();
        pieces.iter().for_each(|piece| last.push(piece));
        last.text()
    }

    #[test]
    fn the_end_is_whole_lines_as_far_as_there_are_any() {
        assert_eq!(last(&[]), "");
        assert_eq!(last(&[b"one\ntw", b"o\n\n"]), "one\ntwo");
        assert_eq!(last(&[b"\none"]), "one");
        let lines: Vec<String> = (0..500).map(|n| format!("line {n}\n")).collect();
        let pieces: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
        let expected = lines[500 - LAST_LINES..].concat();
        assert_eq!(last(&pieces), expected.trim_end());
        assert_eq!(last(&[lines.concat().as_bytes()]), expected.trim_end());
        // one line without an end is cut, and one that was cut is left out if there is another one
        assert_eq!(last(&[&[b'x'; 5000]]).len(), LAST_LINES_BYTES);
        assert_eq!(last(&[&[b'x'; 5000], b"\nend\n"]), "end");
        // bytes that are no text are replaced
        assert_eq!(last(&[b"a\xff\xfeb\n"]), "a\u{fffd}\u{fffd}b");
    }

    #[test]
    fn what_is_read_for_the_end_is_still_there_for_the_writer_once_and_in_order() {
        let (reader, mut writer) = io::pipe().unwrap();
        let pipe = Pipe::new(reader).unwrap();
        let end = LastLines::of(Some(&pipe));
        let mut written = Vec::new();
        writer.write_all(b"one\n").unwrap();
        assert_eq!(pipe.read(&mut written).unwrap(), 4);
        writer.write_all(b"two\n").unwrap();
        // the pipe is still open, and nobody waits
        assert_eq!(end.read(None), "one\ntwo");
        writer.write_all(b"three\n").unwrap();
        assert_eq!(pipe.read(&mut written).unwrap(), 4);
        assert_eq!(pipe.read(&mut written).unwrap(), 6);
        assert_eq!(pipe.read(&mut written).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(writer);
        assert_eq!(pipe.read(&mut written).unwrap(), 0);
        assert_eq!(written, b"one\ntwo\nthree\n");
        assert_eq!(end.read(None), "one\ntwo\nthree");
        // who writes it is gone: it can be closed
        drop(pipe);
        assert_eq!(end.read(None), "one\ntwo\nthree");
        assert!(end.0.unwrap().reader.upgrade().is_none());
    }

    #[test]
    fn a_file_is_read_from_its_end() {
        let mut file = std::fs::File::from(capture::capture_file().unwrap());
        file.write_all(&[b'x'; 100_000]).unwrap();
        file.write_all(b"\nlast\n").unwrap();
        assert_eq!(LastLines::default().read(Some(&file.into())), "last");
    }
}
