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
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTSTP, SIGUSR1};

use crate::exit::{Exit, Failure};
use crate::job::Plan;
use crate::job::inputs::{Input, Item, Next};
use crate::report::human::{Human, Style, plural, signal_name};
use crate::report::json::{Json, line};
use crate::report::quiet::Quiet;
use crate::report::{Ended, Ending, Outcome, Product, Record, Report, SHOWN_FAILURES, Summary};
use crate::signals;
use batch::{Batch, Intake};
use feed::{Feed, Read};
use order::Order;
use workers::{Settled, Workers};
use writer::{Sink, Writer};

/// Finished results that may be held in memory, waiting for their turn or for a slow reader, before no new input is started.
const MAX_HELD_BYTES: usize = 64 << 20;

/// When the run has been killed, a reader of the results that does not read is given this long.
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
        if let Some(event) = run.wait(&heard) {
            run.hear(event);
        }
        run.due(Instant::now());
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
    fn start(
        plan: &'a Plan,
        audience: Audience,
        events: Sender<Event>,
    ) -> Result<Run<'a>, Failure> {
        let out = open_output(plan)?;
        let source = &plan.inputs.source;
        let known = source.known_len();
        // Workers that would never get an input need not be started.
        let procs =
            known.map_or(plan.pool.procs, |known| plan.pool.procs.min(known.max(1) as usize));

        let to_run = events.clone();
        // A signal that comes when the run is over changes nothing.
        signals::listen(move |signal| drop(to_run.send(Event::Signal(signal)))).map_err(refused)?;
        let workers = Workers::start(plan, procs, events.clone())?;
        let (mut report, bar) = audience.report();
        match known {
            Some(total) => report.total(total),
            None if audience.wants_total() && source.is_repeatable() => {
                feed::count(source.clone(), events.clone()).map_err(refused)?;
            }
            None => {}
        }
        let bar = bar.filter(|_| plan.output.file.is_none() && io::stdout().is_terminal());
        let writer = Writer::start(Sink { out, bar }, events.clone()).map_err(refused)?;
        let feed = Feed::start(source.clone(), events).map_err(refused)?;
        let started = Instant::now();
        Ok(Run {
            plan,
            batch: Batch::new(workers.slots(), plan.limits.retries),
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
            let held =
                self.writer.backlog_bytes() + self.order.as_ref().map_or(0, Order::held_bytes);
            let intake = if held > MAX_HELD_BYTES { Intake::RetriesOnly } else { Intake::Open };
            let Some((slot, request)) = self.batch.start(intake) else { break };
            if let Err(error) = self.workers.submit(slot, request) {
                self.settled(slot, never_ran(Outcome::Cancelled, error.clone()));
                self.abort(Ending::PoolBroken { error });
            }
        }
        self.feed.ask(self.batch.ask());
        if self.batch.is_done() {
            let now = Instant::now();
            for line in self.order.iter_mut().flat_map(Order::drain) {
                self.writer.write(&line, now);
            }
            self.writer.finish();
        }
    }

    /// Waits for the next event, or for the next time at which something is due.
    fn wait(&self, heard: &Receiver<Event>) -> Option<Event> {
        let look_at = self.workers.next_look();
        let due = [self.next_tick, self.kill_at, self.give_up_at, look_at, self.writer.due_at()];
        let due = due.into_iter().flatten().min();
        match due {
            None => heard.recv().ok(),
            Some(due) => heard.recv_timeout(due.saturating_duration_since(Instant::now())).ok(),
        }
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Input(read) => self.input(read),
            Event::InputsEnded(Ok(count)) => {
                self.set_total(count);
                self.batch.all_read();
            }
            Event::InputsEnded(Err(error)) => {
                // What was read is still worth doing.
                self.batch.all_read();
                if self.ending == Ending::Completed {
                    self.ending = Ending::InputFailed { error };
                }
            }
            Event::Total(total) => self.set_total(total),
            Event::Settled { slot, ticket } => {
                if let Some(settled) = self.workers.settled(slot, ticket) {
                    self.attempt_settled(slot, settled);
                }
            }
            Event::Written(bytes) => self.writer.written(bytes),
            Event::WriterEnded(end) => self.writer_ended(end),
            Event::Signal(signal) => self.signal(signal),
        }
    }

    /// Does what the time has come for.
    fn due(&mut self, now: Instant) {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        self.workers.look(now);
        self.writer.due(now);
        if is_due(self.next_tick) {
            self.next_tick = self.report.interval().map(|interval| now + interval);
            self.report.tick(self.batch.counts());
        }
        if is_due(self.kill_at) {
            self.kill_at = None;
            self.kill(now);
        }
        if is_due(self.give_up_at) {
            self.give_up_at = None;
            self.writer_over = true;
        }
    }

    fn set_total(&mut self, total: u64) {
        self.total = Some(total);
        self.report.total(total);
    }

    fn input(&mut self, Read { index, next }: Read) {
        let (input, error) = match next {
            Next::Input(input) => {
                let item = Item { index, input };
                match self.plan.request(&item) {
                    Ok(request) => return self.batch.add(item, request),
                    Err(unfilled) => (item.input, unfilled.to_string()),
                }
            }
            Next::Malformed { text, error } => (Input::Text(text), error),
        };
        let ended = never_ran(Outcome::Invalid, error);
        if let Some(record) = self.batch.add_invalid(Item { index, input }, ended) {
            self.result(record);
        }
    }

    fn attempt_settled(&mut self, slot: usize, settled: Settled) {
        match settled {
            Settled::Ended(ended) => self.settled(slot, *ended),
            Settled::Withdrawn => {
                if let Some(record) = self.batch.withdraw(slot) {
                    self.result(record);
                }
            }
        }
    }

    fn settled(&mut self, slot: usize, ended: Ended) {
        if let Some(record) = self.batch.settle(slot, ended) {
            self.result(record);
        }
    }

    /// An input is done.
    fn result(&mut self, record: Record) {
        self.report.settled(self.batch.counts());
        let (text, now) = (line(&record, self.plan.output.fields.as_deref()), Instant::now());
        match &mut self.order {
            None => self.writer.write(&text, now),
            Some(order) => {
                order
                    .push(record.item.index, text)
                    .into_iter()
                    .for_each(|line| self.writer.write(&line, now));
            }
        }
        if self.batch.is_open()
            && let Some(why) = self.plan.stop.applies_to(&record)
        {
            self.abort(Ending::Stopped { index: record.item.index, why });
        }
        if record.ended.outcome.is_failure() && self.failures.len() < SHOWN_FAILURES {
            self.failures.push(record);
        }
    }

    /// Starts nothing more; what runs goes on.
    fn close(&mut self) {
        for record in self.batch.close() {
            self.result(record);
        }
        for (slot, settled) in self.workers.withdraw() {
            self.attempt_settled(slot, settled);
        }
    }

    /// Starts nothing more and kills what runs. Whatever comes after a signal, the signal was why.
    fn abort(&mut self, ending: Ending) {
        if !matches!(self.ending, Ending::Interrupted { .. }) {
            self.ending = ending;
        }
        self.close();
        self.workers.terminate();
    }

    /// Kills what runs after a signal; then nobody waits long for a reader that does not read.
    fn kill(&mut self, now: Instant) {
        self.workers.terminate();
        self.give_up_at = Some(now + LAST_WRITE_PATIENCE);
    }

    fn writer_ended(&mut self, end: io::Result<()>) {
        self.writer_over = true;
        match end {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.abort(Ending::OutputClosed)
            }
            Err(error) => self.abort(Ending::OutputFailed { error: error.to_string() }),
        }
    }

    fn signal(&mut self, signal: i32) {
        let again = matches!(self.ending, Ending::Interrupted { .. });
        match signal {
            SIGUSR1 => self.report.asked(self.batch.counts()),
            SIGINT if again => {
                self.report
                    .notice("SIGINT: killing what runs; press Ctrl-C again to leave at once");
                self.kill(Instant::now());
            }
            SIGTSTP => self.stop_for_a_while(),
            _ => self.interrupt(signal, again),
        }
    }

    /// Stops the workers and the command, and goes on when the user wants it to. What has been waited for so long waits no less after it.
    fn stop_for_a_while(&mut self) {
        self.workers.suspend();
        let stopped = Instant::now();
        signals::stop_here();
        let pause = stopped.elapsed();
        for at in [&mut self.kill_at, &mut self.give_up_at].into_iter().flatten() {
            *at += pause;
        }
        self.workers.resume();
    }

    /// Lets what runs finish, and says how to force it.
    fn interrupt(&mut self, signal: i32, again: bool) {
        self.ending = Ending::Interrupted { signal };
        self.close();
        let waiting = match self.batch.running() as u64 {
            0 => "results to be written".to_owned(),
            count => plural(count, "task that runs", "tasks that run"),
        };
        let name = signal_name(signal);
        if signal == SIGINT {
            self.report
                .notice(&format!("{name}: waiting for {waiting}; press Ctrl-C again to kill"));
        } else if self.kill_at.is_none() && !(again && signal == SIGHUP) {
            let grace = self.plan.pool.term_grace;
            self.kill_at = Some(Instant::now() + grace);
            let grace = humantime::format_duration(grace);
            self.report.notice(&format!("{name}: waiting {grace} for {waiting}"));
        }
    }

    /// Makes sure that nothing is left, and sums up.
    fn finish(mut self) -> Exit {
        self.workers.finish();
        self.failures.sort_by_key(|record| record.item.index);
        let counts = self.batch.counts().clone();
        let summary = Summary {
            not_run: self.total.map(|total| total.saturating_sub(counts.done())),
            counts,
            elapsed: self.started.elapsed(),
            procs: self.procs,
            ending: self.ending,
            failures: self.failures,
        };
        self.report.finished(&summary);
        Exit::of(&summary)
    }
}

impl Audience {
    fn report(self) -> (Box<dyn Report>, Option<ProgressBar>) {
        match self {
            Audience::Human(style) => {
                let human = Human::new(style);
                let bar = human.bar();
                (Box::new(human), bar)
            }
            Audience::Json => (Box::new(Json), None),
            Audience::Quiet => (Box::new(Quiet), None),
        }
    }

    /// Whether it is worth a second look at the inputs to know how many there are.
    fn wants_total(self) -> bool {
        matches!(self, Audience::Human(Style::Bar | Style::Lines))
    }
}

fn refused(error: io::Error) -> Failure {
    Failure::new(
        Exit::OsRefused,
        format!("the system refuses a thread or a signal handler: {error}"),
    )
}

fn open_output(plan: &Plan) -> Result<Box<dyn Write + Send>, Failure> {
    let Some(path) = &plan.output.file else { return Ok(Box::new(io::stdout())) };
    if [Some(Path::new(&plan.name)), plan.inputs.source.file()]
        .into_iter()
        .flatten()
        .any(|read| is_same(read, path))
    {
        let message = format!(
            "`{}` is read by this job, and writing the results there would destroy it; choose another file",
            path.display()
        );
        return Err(Failure::new(Exit::CannotCreate, message));
    }
    match File::create(path) {
        Ok(file) => Ok(Box::new(file)),
        Err(error) => {
            let message = format!("can't create `{}`: {error}", path.display());
            Err(Failure::new(Exit::CannotCreate, message))
        }
    }
}

/// Whether both paths lead to one file, by whatever names.
fn is_same(one: &Path, other: &Path) -> bool {
    let id = |path: &Path| path.metadata().ok().map(|meta| (meta.dev(), meta.ino()));
    id(one).is_some_and(|one| id(other) == Some(one))
}

fn never_ran(outcome: Outcome, error: String) -> Ended {
    Ended { outcome, product: Product::Nothing, error: Some(error), can_retry: false, timing: None }
}
