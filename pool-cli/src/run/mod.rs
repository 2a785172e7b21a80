//! `pool-cli run`: one loop that hears everything as events and acts.
//!
//! ```text
//!  inputs ──▶ Input ─┐                          ┌─▶ workers   submit, terminate
//!  workers ─▶ Settled┼─▶ hear ─▶ Batch (pure) ──┼─▶ writer    result lines, in order if asked
//!  writer ──▶ Written┤                          └─▶ report    progress, notices, summary
//!  signals ─▶ Signal ┘
//! ```
//!
//! Everything that can block (reading inputs, writing results, waiting for a task) happens elsewhere and comes back as an
//! event, so a signal is always heard at once.

mod batch;
mod feed;
mod order;
mod stop;
mod workers;
mod writer;

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};

use crate::exit::{Exit, Failure};
use crate::job::Plan;
use crate::job::inputs::{Input, Item, Next};
use crate::report::human::{Human, Style, signal_name};
use crate::report::json::{Json, line};
use crate::report::quiet::Quiet;
use crate::report::{Ending, Outcome, Record, Report, SHOWN_FAILURES, StopCause, Summary};
use crate::signals;
use batch::{Batch, Intake};
use feed::{Feed, Read};
use order::Order;
use workers::Workers;
use writer::{Sink, Writer};

/// Finished results that may be held in memory, waiting for their turn or for a slow reader, before no new input is started.
const MAX_HELD_BYTES: usize = 64 << 20;

/// After the user has asked twice, a reader of the results that does not read is given this long.
const LAST_WRITE_PATIENCE: Duration = Duration::from_secs(1);

/// Who is told about the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audience {
    Human(Style),
    Json,
    Quiet,
}

/// Everything that the loop hears.
#[derive(Debug)]
pub(crate) enum Event {
    /// An input that was asked for.
    Input(Read),
    /// There are no more inputs; this many there were. Or reading them failed.
    InputsEnded(Result<u64, String>),
    /// How many inputs there will be.
    Total(u64),
    /// The attempt with this ticket may have settled.
    Settled { slot: usize, ticket: u64 },
    /// So many bytes of results are written.
    Written(usize),
    /// The writer has ended: after all was written, or because it can't be.
    WriterEnded(io::Result<()>),
    /// A signal to this process.
    Signal(i32),
}

/// Runs a job to its end and says how the command ends.
pub(crate) fn run(plan: &Plan, audience: Audience) -> Result<Exit, Failure> {
    let (events, heard) = mpsc::channel();
    let mut run = Run::start(plan, audience, events)?;
    while !run.is_over() {
        run.act();
        let event = run.wait(&heard);
        run.hear(event);
    }
    Ok(run.finish())
}

/// A job that runs.
struct Run<'a> {
    plan: &'a Plan,
    batch: Batch,
    workers: Workers,
    feed: Feed,
    writer: Writer,
    /// Whether the writer has ended or was given up.
    writer_over: bool,
    order: Option<Order>,
    report: Box<dyn Report>,
    total: Option<u64>,
    failures: Vec<Record>,
    ending: Ending,
    procs: usize,
    started: Instant,
    next_tick: Option<Instant>,
    /// What still runs then is killed.
    kill_at: Option<Instant>,
    /// What is still unwritten then is given up.
    give_up_at: Option<Instant>,
}

impl<'a> Run<'a> {
    fn start(plan: &'a Plan, audience: Audience, events: Sender<Event>) -> Result<Run<'a>, Failure> {
        let out: Box<dyn Write + Send> = match &plan.output.file {
            None => Box::new(io::stdout()),
            Some(path) => Box::new(File::create(path).map_err(|error| {
                Failure::new(Exit::CannotCreate, format!("can't create `{}`: {error}", path.display()))
            })?),
        };
        let known = plan.inputs.source.known_len();
        // Workers that would never get an input need not be started.
        let procs = known.map_or(plan.pool.procs, |known| plan.pool.procs.min(known.max(1) as usize));
        let refused = |error: io::Error| Failure::new(Exit::OsRefused, format!("can't start a thread: {error}"));

        let to_run = events.clone();
        // A signal that comes when the run is over changes nothing.
        signals::listen(move |signal| drop(to_run.send(Event::Signal(signal))))
            .map_err(|error| Failure::new(Exit::OsRefused, format!("can't listen to signals: {error}")))?;
        let workers = Workers::start(plan, procs, events.clone())?;
        let (mut report, bar) = audience.report();
        match known {
            Some(total) => report.total(total),
            None if matches!(audience, Audience::Human(Style::Bar | Style::Lines)) && plan.inputs.source.is_repeatable() => {
                feed::count(plan.inputs.source.clone(), events.clone()).map_err(refused)?;
            }
            None => {}
        }
        let bar = bar.filter(|_| plan.output.file.is_none() && io::stdout().is_terminal());
        let writer = Writer::start(Sink { out, bar }, events.clone()).map_err(refused)?;
        let feed = Feed::start(plan.inputs.source.clone(), events).map_err(refused)?;
        let started = Instant::now();
        Ok(Run {
            plan,
            batch: Batch::new(procs, plan.limits.retries),
            workers,
            feed,
            writer,
            writer_over: false,
            order: plan.output.keep_order.then(Order::default),
            next_tick: report.interval().map(|interval| started + interval),
            report,
            total: known,
            failures: Vec::new(),
            ending: Ending::Completed,
            procs,
            started,
            kill_at: None,
            give_up_at: None,
        })
    }

    /// Whether everything has settled and is written.
    fn is_over(&self) -> bool {
        self.batch.is_done() && self.writer_over
    }

    /// Starts what can be started, and asks for inputs.
    fn act(&mut self) {
        loop {
            let held = self.writer.backlog_bytes() + self.order.as_ref().map_or(0, Order::held_bytes);
            let intake = if held > MAX_HELD_BYTES { Intake::RetriesOnly } else { Intake::Open };
            let Some((slot, request)) = self.batch.start(intake) else { break };
            if let Err(error) = self.workers.submit(slot, request) {
                let timing = None;
                let ended = crate::report::Ended {
                    outcome: Outcome::Lost,
                    product: crate::report::Product::Nothing,
                    error: Some(error.clone()),
                    can_retry: false,
                    timing,
                };
                self.settled(slot, ended);
                self.end(Ending::PoolBroken { error });
            }
        }
        self.feed.ask(self.batch.ask());
        if self.batch.is_done() {
            for line in self.order.iter_mut().flat_map(Order::drain) {
                self.writer.write(line);
            }
            self.writer.finish();
        }
    }

    /// Waits for the next event, or for the next time at which something is due.
    fn wait(&self, heard: &Receiver<Event>) -> Option<Event> {
        let due = [self.next_tick, self.kill_at, self.give_up_at].into_iter().flatten().min();
        match due {
            None => heard.recv().ok(),
            Some(due) => match heard.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
            },
        }
    }

    fn hear(&mut self, event: Option<Event>) {
        match event {
            None => self.due(Instant::now()),
            Some(Event::Input(read)) => self.input(read),
            Some(Event::InputsEnded(Ok(count))) => {
                self.set_total(count);
                self.batch.all_read();
            }
            Some(Event::InputsEnded(Err(error))) => {
                self.batch.all_read();
                self.end(Ending::InputFailed { error });
            }
            Some(Event::Total(total)) => self.set_total(total),
            Some(Event::Settled { slot, ticket }) => {
                if let Some(ended) = self.workers.settled(slot, ticket) {
                    self.settled(slot, ended);
                }
            }
            Some(Event::Written(bytes)) => self.writer.written(bytes),
            Some(Event::WriterEnded(end)) => self.writer_ended(end),
            Some(Event::Signal(signal)) => self.signal(signal),
        }
    }
}
