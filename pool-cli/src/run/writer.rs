//! Writes results on a thread of its own, so that a slow reader never keeps the run from hearing signals.

use std::io::{self, BufWriter, Write};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use super::Event;

/// Lines that come quickly one after the other are handed over together, this long after the last ones at the latest: each time costs a wake-up of two threads.
const TOGETHER: Duration = Duration::from_millis(5);

/// So many bytes are handed over at once.
const TOGETHER_BYTES: usize = 32 << 10;

/// The run's end of it. What was given to it and is not written yet is counted.
#[derive(Debug)]
pub(crate) struct Writer {
    lines: Option<Sender<String>>,
    /// Lines that wait for others.
    waiting: String,
    handed_over: Option<Instant>,
    backlog_bytes: usize,
}

/// Where results go.
pub(crate) struct Sink {
    pub(crate) out: Box<dyn Write + Send>,
    /// A bar on the same terminal, which has to step aside for each line.
    pub(crate) bar: Option<ProgressBar>,
}

impl Writer {
    /// Starts the thread.
    pub(crate) fn start(sink: Sink, events: Sender<Event>) -> io::Result<Writer> {
        let (lines, queue) = mpsc::channel();
        thread::Builder::new().name("results".into()).spawn(move || {
            let end = write_all(sink, &queue, &events);
            // The run may be over already.
            let _ = events.send(Event::WriterEnded(end));
        })?;
        let (waiting, handed_over) = (String::new(), None);
        Ok(Writer { lines: Some(lines), waiting, handed_over, backlog_bytes: 0 })
    }

    /// Takes a line, and hands it over or keeps it for a moment.
    pub(crate) fn write(&mut self, line: &str, now: Instant) {
        self.backlog_bytes += line.len();
        self.waiting.push_str(line);
        if self.waiting.len() >= TOGETHER_BYTES {
            self.hand_over(now);
        }
        self.due(now);
    }

    /// When [`due`](Self::due) should be called next.
    pub(crate) fn due_at(&self) -> Option<Instant> {
        if self.waiting.is_empty() { None } else { self.handed_over.map(|at| at + TOGETHER) }
    }

    /// Hands over what has waited long enough.
    pub(crate) fn due(&mut self, now: Instant) {
        if !self.waiting.is_empty() && self.due_at().is_none_or(|at| at <= now) {
            self.hand_over(now);
        }
    }

    fn hand_over(&mut self, now: Instant) {
        self.handed_over = Some(now);
        let waiting = std::mem::take(&mut self.waiting);
        if let Some(lines) = &self.lines {
            // A writer that has failed has said so by an event.
            let _ = lines.send(waiting);
        }
    }

    /// Some of it has been written.
    pub(crate) fn written(&mut self, bytes: usize) {
        self.backlog_bytes -= bytes;
    }

    /// How much was given to it and is not written.
    pub(crate) fn backlog_bytes(&self) -> usize {
        self.backlog_bytes
    }

    /// No more lines: the writer writes what it has and ends.
    pub(crate) fn finish(&mut self) {
        if !self.waiting.is_empty() {
            self.hand_over(Instant::now());
        }
        self.lines = None;
    }
}

fn write_all(sink: Sink, queue: &Receiver<String>, events: &Sender<Event>) -> io::Result<()> {
    let mut out = BufWriter::new(sink.out);
    loop {
        // While more is waiting, one write may take several lines; before it waits, all is out.
        let line = match queue.try_recv() {
            Ok(line) => line,
            Err(TryRecvError::Disconnected) => return out.flush(),
            Err(TryRecvError::Empty) => {
                out.flush()?;
                match queue.recv() {
                    Ok(line) => line,
                    Err(_) => return Ok(()),
                }
            }
        };
        match &sink.bar {
            Some(bar) => {
                bar.suspend(|| out.write_all(line.as_bytes()).and_then(|()| out.flush()))?
            }
            None => out.write_all(line.as_bytes())?,
        }
        // The run may be over already.
        let _ = events.send(Event::Written(line.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Accepts some bytes, then fails.
    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            let count = bytes.len().min(self.0);
            self.0 -= count;
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn ended(sink: Box<dyn Write + Send>, lines: &[&str]) -> io::Result<()> {
        let (events, heard) = mpsc::channel();
        let mut writer = Writer::start(Sink { out: sink, bar: None }, events).unwrap();
        let now = Instant::now();
        lines.iter().for_each(|line| writer.write(line, now));
        writer.finish();
        loop {
            match heard.recv().unwrap() {
                Event::Written(bytes) => writer.written(bytes),
                Event::WriterEnded(end) => {
                    break end.inspect(|()| assert_eq!(writer.backlog_bytes(), 0));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_line_goes_at_once_and_those_that_follow_it_quickly_go_together() {
        let (lines, given) = mpsc::channel();
        let begun = Instant::now();
        let mut writer = Writer {
            lines: Some(lines),
            waiting: String::new(),
            handed_over: None,
            backlog_bytes: 0,
        };
        ["a\n", "b\n", "c\n"].iter().for_each(|line| writer.write(line, begun));
        assert_eq!(given.try_iter().collect::<Vec<_>>(), ["a\n"]);
        assert_eq!(writer.due_at(), Some(begun + TOGETHER));
        writer.due(begun + TOGETHER / 2);
        assert_eq!(given.try_iter().count(), 0);
        writer.due(begun + TOGETHER);
        assert_eq!(given.try_iter().collect::<Vec<_>>(), ["b\nc\n"]);
        assert_eq!((writer.due_at(), writer.backlog_bytes()), (None, 6));
        writer.write(&"x".repeat(TOGETHER_BYTES), begun + TOGETHER);
        assert_eq!(given.try_iter().count(), 1, "much does not wait");
    }

    #[test]
    fn everything_is_out_when_it_ends_and_a_full_disk_is_an_error() {
        ended(Box::new(Full(6)), &["abc", "def"]).unwrap();
        let error = ended(Box::new(Full(5)), &["abc", "def"]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
