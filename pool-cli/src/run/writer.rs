//! Writes results on a thread of its own, so that a slow reader never keeps the run from hearing signals.

use std::io::{self, BufWriter, Write};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread;

use indicatif::ProgressBar;

use super::Event;

/// The run's end of it. What is handed over and not written yet is counted.
#[derive(Debug)]
pub(crate) struct Writer {
    lines: Option<Sender<String>>,
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
        Ok(Writer { lines: Some(lines), backlog_bytes: 0 })
    }

    /// Hands a line over.
    pub(crate) fn write(&mut self, line: String) {
        self.backlog_bytes += line.len();
        if let Some(lines) = &self.lines {
            // A writer that has failed has said so by an event.
            let _ = lines.send(line);
        }
    }

    /// Some of it has been written.
    pub(crate) fn written(&mut self, bytes: usize) {
        self.backlog_bytes -= bytes;
    }

    /// How much is handed over and not written.
    pub(crate) fn backlog_bytes(&self) -> usize {
        self.backlog_bytes
    }

    /// No more lines: the writer writes what it has and ends.
    pub(crate) fn finish(&mut self) {
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
        lines.iter().for_each(|line| writer.write((*line).into()));
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
    fn everything_is_out_when_it_ends_and_a_full_disk_is_an_error() {
        ended(Box::new(Full(6)), &["abc", "def"]).unwrap();
        let error = ended(Box::new(Full(5)), &["abc", "def"]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
