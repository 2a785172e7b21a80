//! Reading what a command writes: both pipes at once, bounded in memory, and never for ever.

use std::io::{self, Read};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::command::Captured;

/// Each reader takes as much at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// A reader needs its buffer on the heap and little else.
const READER_STACK_BYTES: usize = 128 << 10;

/// Reads several pipes until each has ended. A pipe beyond its cap is still read, so that the writer never blocks; what is
/// beyond is counted and dropped.
#[derive(Debug)]
pub(super) struct Capture {
    streams: Vec<Arc<Mutex<Captured>>>,
    ended: mpsc::Receiver<()>,
    /// Kept only so that `ended` never disconnects: a reader that panicked must look like one that goes on.
    _end: mpsc::Sender<()>,
}

impl Capture {
    /// Starts one reader a pipe.
    pub(super) fn start(pipes: Vec<Box<dyn Read + Send>>, cap_bytes: u64) -> io::Result<Capture> {
        let (end, ended) = mpsc::channel();
        let mut streams = Vec::with_capacity(pipes.len());
        for pipe in pipes {
            let stream = Arc::new(Mutex::new(Captured::default()));
            let (into, end) = (Arc::clone(&stream), end.clone());
            thread::Builder::new().name("capture".into()).stack_size(READER_STACK_BYTES).spawn(
                move || {
                    read_to_end(pipe, cap_bytes, &into);
                    // Nobody listens any more when the pipe was given up as leaked.
                    let _ = end.send(());
                },
            )?;
            streams.push(stream);
        }
        Ok(Capture { streams, ended, _end: end })
    }

    /// What was read, in the order of the pipes, and whether a pipe was still open after `patience`: then somebody else than
    /// the command holds it. Its reader is left behind and ends with the holder.
    pub(super) fn finish(self, patience: Duration) -> (Vec<Captured>, Leak) {
        let deadline = Instant::now() + patience;
        let mut leak = Leak::No;
        for _ in &self.streams {
            match self.ended.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => leak = Leak::Yes,
            }
        }
        let take = |stream: &Arc<Mutex<Captured>>| {
            std::mem::take(&mut *stream.lock().unwrap_or_else(PoisonError::into_inner))
        };
        (self.streams.iter().map(take).collect(), leak)
    }
}

/// Whether a pipe outlived the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leak {
    /// All pipes ended with the command.
    No,
    /// A process that the command left behind still holds one.
    Yes,
}

fn read_to_end(mut pipe: Box<dyn Read + Send>, cap_bytes: u64, into: &Mutex<Captured>) {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match pipe.read(&mut chunk) {
            Ok(0) => return,
            Ok(count) => {
                into.lock().unwrap_or_else(PoisonError::into_inner).push(&chunk[..count], cap_bytes)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A pipe can't fail otherwise; if it does, what was read is all there is.
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_beyond_its_cap_is_read_to_its_end() {
        let long = io::repeat(b'x').take(1 << 20);
        let capture = Capture::start(vec![Box::new(long), Box::new(&b"short"[..])], 10).unwrap();
        let (streams, leak) = capture.finish(Duration::from_secs(60));
        assert_eq!(leak, Leak::No);
        assert_eq!(streams[0].text.as_bytes(), b"xxxxxxxxxx");
        assert_eq!((streams[0].total_bytes, streams[0].truncated()), (1 << 20, true));
        assert_eq!(streams[1].text.as_bytes(), b"short");
        assert_eq!((streams[1].total_bytes, streams[1].truncated()), (5, false));
    }

    #[test]
    fn a_pipe_that_stays_open_is_given_up() {
        let (reader, _held_open) = io::pipe().unwrap();
        let capture = Capture::start(vec![Box::new(reader)], 10).unwrap();
        let (streams, leak) = capture.finish(Duration::ZERO);
        assert_eq!((leak, streams[0].total_bytes), (Leak::Yes, 0));
    }
}
