//! Reads inputs on a thread of its own, as many as it is asked for: a source may block (a pipe) or never end.

use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use super::Event;
use crate::job::inputs::{Next, Source};

/// The asking side. Dropped, the thread ends as soon as its source lets it.
#[derive(Debug)]
pub(crate) struct Feed {
    ask: Sender<usize>,
}

/// An input with its number, as it was read.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) index: u64,
    pub(crate) next: Next,
}

impl Feed {
    /// Starts the thread.
    pub(crate) fn start(source: Source, events: Sender<Event>) -> io::Result<Feed> {
        let (ask, asked) = mpsc::channel();
        thread::Builder::new().name("inputs".into()).spawn(move || {
            let end = read(&source, &asked, &events);
            // The run may be over already.
            let _ = events.send(Event::InputsEnded(end));
        })?;
        Ok(Feed { ask })
    }

    /// Asks for some more inputs. Each comes as an event, until one says that there are no more.
    pub(crate) fn ask(&self, count: usize) {
        if count > 0 {
            // A reader that has ended has said so by an event.
            let _ = self.ask.send(count);
        }
    }
}

fn read(source: &Source, asked: &Receiver<usize>, events: &Sender<Event>) -> Result<u64, String> {
    let mut reading = source.read().map_err(|error| error.to_string())?;
    let mut index = 0;
    while let Ok(count) = asked.recv() {
        for _ in 0..count {
            let Some(next) = reading.next() else { return Ok(index) };
            let next = next.map_err(|error| error.to_string())?;
            if events.send(Event::Input(Read { index, next })).is_err() {
                return Ok(index);
            }
            index += 1;
        }
    }
    Ok(index)
}

/// Counts the inputs of a source that can be read twice, beside the run, so that progress can tell how much is left.
pub(crate) fn count(source: Source, events: Sender<Event>) -> io::Result<()> {
    let count = move || {
        if let Ok(reading) = source.read() {
            // The run may be over already.
            let _ = events.send(Event::Total(reading.count() as u64));
        }
    };
    thread::Builder::new().name("count".into()).spawn(count).map(drop)
}
