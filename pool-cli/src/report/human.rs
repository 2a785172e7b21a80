//! Progress as a bar or as lines, and a summary as text, all on the standard error.

use std::fmt;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use pool_core::ExitCause;

use super::{Counts, Ending, Outcome, Record, Report, SHOWN_FAILURES, StopCause, Summary};
use crate::exit::say;

/// Lines of progress come this far apart: often enough to see that it goes on, rare enough for a log.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// The bar moves this often.
const BAR_INTERVAL: Duration = Duration::from_millis(200);

/// How much of an input or an error a summary shows.
const SHOWN_CHARS: usize = 160;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Bar,
    Lines,
    None,
}

/// A report for people.
#[derive(Debug)]
pub(crate) struct Human {
    bar: Option<ProgressBar>,
    style: Style,
    started: Instant,
    total: Option<u64>,
}

impl Human {
    /// A report that shows progress in this style.
    pub(crate) fn new(style: Style) -> Self {
        let bar = (style == Style::Bar).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(bar_style("{spinner} {pos} done, {rate}{msg}"));
            bar.enable_steady_tick(BAR_INTERVAL);
            bar
        });
        Human { bar, style, started: Instant::now(), total: None }
    }

    /// The bar, for whoever else writes to the same terminal.
    pub(crate) fn bar(&self) -> Option<ProgressBar> {
        self.bar.clone()
    }

    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(text)),
            None => say(text),
        }
    }

    fn say_progress(&self, counts: &Counts) {
        self.say(&progress_line(counts, self.total, self.started.elapsed()));
    }
}

fn bar_style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).expect("the template is a constant");
    style.with_key("rate", |state: &ProgressState, out: &mut dyn fmt::Write| {
        // A text can always be written to.
        let _ = write!(out, "{:.1}/s", state.per_sec());
    })
}

impl Report for Human {
    fn total(&mut self, total: u64) {
        self.total = Some(total);
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_style(bar_style("{bar:30} {pos}/{len} done, {rate}, eta {eta}{msg}"));
        }
    }

    fn settled(&mut self, counts: &Counts) {
        if let Some(bar) = &self.bar {
            bar.set_position(counts.done());
            if counts.failures() > 0 {
                bar.set_message(format!(", {} failed", counts.failures()));
            }
        }
    }

    fn interval(&self) -> Option<Duration> {
        (self.style == Style::Lines).then_some(LINE_INTERVAL)
    }

    fn tick(&mut self, counts: &Counts) {
        self.say_progress(counts);
    }

    fn asked(&mut self, counts: &Counts) {
        self.say_progress(counts);
    }

    fn notice(&mut self, text: &str) {
        self.say(&format!("{text}\n"));
    }

    fn finished(&mut self, summary: &Summary) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        say(&text(summary));
    }
}

fn progress_line(counts: &Counts, total: Option<u64>, elapsed: Duration) -> String {
    let done = counts.done();
    let rate = done as f64 / elapsed.as_secs_f64().max(1e-3);
    let mut line = match total {
        Some(total) => format!("{done}/{total} done"),
        None => format!("{done} done"),
    };
    if counts.failures() > 0 {
        line.push_str(&format!(", {} failed", counts.failures()));
    }
    line.push_str(&format!(", {rate:.1}/s"));
    if let Some(total) = total
        && done > 0
    {
        let left = total.saturating_sub(done) as f64 / rate;
        line.push_str(&format!(
            ", eta {}",
            humantime::format_duration(Duration::from_secs(left.round() as u64))
        ));
    }
    line + "\n"
}

/// The summary: what became of the inputs, the first failures, why it ended, how long it took.
fn text(summary: &Summary) -> String {
    let counts = &summary.counts;
    let mut parts: Vec<String> = Outcome::ALL
        .iter()
        .filter(|outcome| counts.of(**outcome) > 0)
        .map(|outcome| format!("{} {}", counts.of(*outcome), outcome.word()))
        .collect();
    if let Some(not_run) = summary.not_run.filter(|count| *count > 0) {
        parts.push(format!("{not_run} not run"));
    }
    if counts.retries > 0 {
        parts.push(plural(counts.retries, "retry", "retries"));
    }
    let mut text = match parts.as_slice() {
        [] => "there was no input\n".to_owned(),
        parts => format!("{}\n", parts.join(", ")),
    };
    for record in &summary.failures {
        text.push_str(&failure_line(record));
    }
    let unshown = counts.failures().saturating_sub(SHOWN_FAILURES as u64);
    if unshown > 0 {
        text.push_str(&format!("  ... and {unshown} more\n"));
    }
    text.push_str(&ending_line(&summary.ending));
    if counts.done() > 0 {
        let seconds = summary.elapsed.as_secs_f64();
        let rate = counts.done() as f64 / seconds.max(1e-6);
        let procs = plural(summary.procs as u64, "process", "processes");
        text.push_str(&format!("{seconds:.2} s, {rate:.1}/s, {procs}\n"));
    }
    text
}

/// A number with its noun.
pub(crate) fn plural(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn failure_line(record: &Record) -> String {
    let input = shorten(&record.item.input.clone().into_text().to_text());
    let error = shorten(record.ended.error.as_deref().unwrap_or("no reason known"));
    format!("  {} #{} {input}: {error}\n", record.ended.outcome.word(), record.item.index)
}

fn ending_line(ending: &Ending) -> String {
    match ending {
        Ending::Completed => String::new(),
        Ending::Stopped { index, why } => {
            let why = match why {
                StopCause::Equals => "has the result that [stop] waits for",
                StopCause::FirstSuccess => "is the first success",
                StopCause::FirstFailure => "is the first failure",
            };
            format!("stopped early: #{index} {why}\n")
        }
        Ending::Interrupted { signal } => format!("interrupted by {}\n", signal_name(*signal)),
        Ending::PoolBroken { error } => format!("error: {error}\n"),
        Ending::InputFailed { error } => {
            format!("error: inputs can't be read any further: {error}\n")
        }
        Ending::OutputFailed { error } => format!("error: results can't be written: {error}\n"),
        Ending::OutputClosed => "nobody reads the results any more\n".to_owned(),
    }
}

/// A signal by number and name.
pub(crate) fn signal_name(signal: i32) -> String {
    match signal_hook::low_level::signal_name(signal) {
        Some(name) => name.to_owned(),
        None => format!("signal {signal}"),
    }
}

/// How a worker or a command ended by a signal, as one would say it.
pub(crate) fn killed_by(signal: i32) -> String {
    ExitCause::Signaled { signal, core_dumped: false }.to_string()
}

fn shorten(text: &str) -> String {
    let line = text.trim().replace(['\n', '\r'], " ");
    match line.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Ended, Product};
    use super::*;
    use crate::job::inputs::{Input, Item};

    fn counts(list: &[(Outcome, u64)]) -> Counts {
        let mut counts = Counts::default();
        for (outcome, count) in list {
            (0..*count).for_each(|_| counts.add(*outcome));
        }
        counts
    }

    fn failed(index: u64, error: &str) -> Record {
        let input = Input::Text(format!("in{index}").into());
        let error = Some(error.into());
        let ended = Ended {
            outcome: Outcome::Failed,
            product: Product::Nothing,
            error,
            can_retry: true,
            timing: None,
        };
        Record { item: Item { index, input }, ended, attempts: 1 }
    }

    #[test]
    fn a_summary_is_a_few_lines() {
        let mut counts =
            counts(&[(Outcome::Ok, 87), (Outcome::Failed, 12), (Outcome::Cancelled, 2)]);
        counts.retries = 3;
        let summary = Summary {
            counts,
            not_run: Some(399),
            elapsed: Duration::from_millis(5_500),
            procs: 10,
            ending: Ending::Stopped { index: 100, why: StopCause::Equals },
            failures: (0..10).map(|index| failed(index, "exit code 2:\nbad")).collect(),
        };
        let text = text(&summary);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "87 ok, 12 failed, 2 cancelled, 399 not run, 3 retries");
        assert_eq!(lines[1], "  failed #0 in0: exit code 2: bad");
        assert_eq!(lines[11], "  ... and 2 more");
        assert_eq!(lines[12], "stopped early: #100 has the result that [stop] waits for");
        assert_eq!(lines[13], "5.50 s, 18.4/s, 10 processes");
    }

    #[test]
    fn both_forms_of_the_bar_are_well_formed() {
        let mut human = Human::new(Style::Bar);
        human.total(3);
        human.settled(&counts(&[(Outcome::Ok, 1), (Outcome::Failed, 1)]));
        assert_eq!(human.bar().unwrap().position(), 2);
    }

    #[test]
    fn progress_tells_rate_and_time_left() {
        let counts = counts(&[(Outcome::Ok, 90), (Outcome::Lost, 10)]);
        assert_eq!(
            progress_line(&counts, Some(500), Duration::from_secs(10)),
            "100/500 done, 10 failed, 10.0/s, eta 40s\n"
        );
        assert_eq!(
            progress_line(&counts, None, Duration::from_secs(10)),
            "100 done, 10 failed, 10.0/s\n"
        );
    }

    #[test]
    fn long_texts_are_cut_and_kept_on_one_line() {
        let line = failure_line(&failed(1, &"ä".repeat(1000)));
        assert!(line.ends_with("ä...\n") && line.chars().count() < 200, "{line}");
    }
}
