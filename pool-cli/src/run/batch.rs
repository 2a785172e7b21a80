//! Which input is started when, and which attempt is the last: the state of a run, without processes, threads or clocks.
//!
//! An input is `waiting`, then an attempt at it is `running` in a slot, and then it is settled or waits again as a retry. Only
//! as many attempts run as there are slots, and only a window of inputs is read ahead, so an endless source costs nothing.

use std::collections::VecDeque;

use crate::job::inputs::Item;
use crate::job::plan::Request;
use crate::report::{Counts, Ended, Record};

/// Inputs that are asked for beyond those for which there are slots, so that the thread that reads them is not woken for each one.
const READ_AHEAD: usize = 16;

/// The state of a run.
#[derive(Debug)]
pub(crate) struct Batch {
    slots: Vec<Option<Attempt>>,
    fresh: VecDeque<Attempt>,
    retries: VecDeque<Attempt>,
    max_retries: u32,
    /// Inputs that were asked for and have not arrived.
    requested: usize,
    phase: Phase,
    counts: Counts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// There may be more inputs.
    Reading,
    /// All inputs have been read.
    Read,
    /// Nothing more is started.
    Closed,
}

/// One input on its way.
#[derive(Debug)]
struct Attempt {
    item: Item,
    request: Request,
    /// How often it has been started, this time included once it runs.
    number: u32,
    /// How the attempt before ended.
    last: Option<Ended>,
}

/// Whether inputs that were not started yet may be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intake {
    Open,
    /// Results pile up: only retries are started, because an earlier input may be all that is waited for.
    RetriesOnly,
}

impl Batch {
    /// A run with this many slots.
    pub(crate) fn new(slots: usize, max_retries: u32) -> Self {
        Batch {
            slots: (0..slots).map(|_| None).collect(),
            fresh: VecDeque::new(),
            retries: VecDeque::new(),
            max_retries,
            requested: 0,
            phase: Phase::Reading,
            counts: Counts::default(),
        }
    }

    /// How many inputs to ask for now, so that each slot always has one to follow. They count as asked for.
    pub(crate) fn ask(&mut self) -> usize {
        if self.phase != Phase::Reading {
            return 0;
        }
        let ahead = self.fresh.len() + self.requested;
        let needed = self.slots.len() + self.free_slots();
        let missing = if ahead < needed { needed + READ_AHEAD - ahead } else { 0 };
        self.requested += missing;
        missing
    }

    /// An input that was asked for arrived.
    pub(crate) fn add(&mut self, item: Item, request: Request) {
        self.requested -= 1;
        if self.phase != Phase::Closed {
            self.fresh.push_back(Attempt { item, request, number: 0, last: None });
        }
    }

    /// An input that was asked for can't be used. `None` if nothing counts any more.
    pub(crate) fn add_invalid(&mut self, item: Item, ended: Ended) -> Option<Record> {
        self.requested -= 1;
        if self.phase == Phase::Closed {
            return None;
        }
        self.counts.add(ended.outcome);
        Some(Record { item, ended, attempts: 0 })
    }

    /// There are no more inputs.
    pub(crate) fn all_read(&mut self) {
        if self.phase == Phase::Reading {
            self.phase = Phase::Read;
        }
    }

    /// Starts the next attempt: the slot it runs in, and what is to be run.
    pub(crate) fn start(&mut self, intake: Intake) -> Option<(usize, &Request)> {
        if self.phase == Phase::Closed {
            return None;
        }
        let slot = self.slots.iter().position(Option::is_none)?;
        let mut attempt = match (self.retries.pop_front(), intake) {
            (Some(retry), _) => retry,
            (None, Intake::Open) => self.fresh.pop_front()?,
            (None, Intake::RetriesOnly) => return None,
        };
        attempt.number += 1;
        self.counts.retries += u64::from(attempt.number > 1);
        Some((slot, &self.slots[slot].insert(attempt).request))
    }

    /// An attempt ended. If it was the last one for its input, here is the result.
    pub(crate) fn settle(&mut self, slot: usize, ended: Ended) -> Option<Record> {
        let mut attempt = self.slots[slot].take()?;
        let again =
            ended.can_retry && attempt.number <= self.max_retries && self.phase != Phase::Closed;
        if again {
            attempt.last = Some(ended);
            self.retries.push_back(attempt);
            return None;
        }
        Some(self.finish(attempt, ended))
    }

    /// An attempt that was not begun never will be: it does not count. What an earlier attempt at its input has come to is its result.
    pub(crate) fn withdraw(&mut self, slot: usize) -> Option<Record> {
        let mut attempt = self.slots[slot].take()?;
        let last = attempt.last.take()?;
        attempt.number -= 1;
        self.counts.retries -= 1;
        Some(self.finish(attempt, last))
    }

    /// Starts nothing more. The results of inputs that waited for another attempt are those of their last one.
    pub(crate) fn close(&mut self) -> Vec<Record> {
        self.phase = Phase::Closed;
        self.fresh.clear();
        let waiting = std::mem::take(&mut self.retries);
        let ended = waiting.into_iter().filter_map(|mut attempt| {
            let last = attempt.last.take()?;
            Some(self.finish(attempt, last))
        });
        ended.collect()
    }

    fn finish(&mut self, attempt: Attempt, ended: Ended) -> Record {
        self.counts.add(ended.outcome);
        Record { item: attempt.item, ended, attempts: attempt.number }
    }

    /// Whether nothing runs and nothing will.
    pub(crate) fn is_done(&self) -> bool {
        let idle = self.running() == 0 && self.retries.is_empty() && self.fresh.is_empty();
        idle && self.phase != Phase::Reading
    }

    /// Whether anything may still be started.
    pub(crate) fn is_open(&self) -> bool {
        self.phase != Phase::Closed
    }

    /// How many attempts are under way.
    pub(crate) fn running(&self) -> usize {
        self.slots.len() - self.free_slots()
    }

    /// How many results of each kind there are.
    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    fn free_slots(&self) -> usize {
        self.slots.iter().filter(|slot| slot.is_none()).count()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::job::inputs::Input;
    use crate::report::{Outcome, Product};

    fn item(index: u64) -> Item {
        Item { index, input: Input::Json(Value::from(index)) }
    }

    fn request(index: u64) -> Request {
        Request { task: "t".into(), input: vec![index as u8] }
    }

    fn ended(outcome: Outcome) -> Ended {
        let can_retry = outcome != Outcome::Ok;
        Ended { outcome, product: Product::Nothing, error: None, can_retry, timing: None }
    }

    /// Feeds what the batch asks for, from an endless source.
    fn feed(batch: &mut Batch, next: &mut u64) {
        for _ in 0..batch.ask() {
            batch.add(item(*next), request(*next));
            *next += 1;
        }
    }

    fn start_all(batch: &mut Batch) -> Vec<usize> {
        std::iter::from_fn(|| batch.start(Intake::Open).map(|(slot, _)| slot)).collect()
    }

    #[test]
    fn as_many_run_as_there_are_slots_and_as_many_are_read_ahead() {
        let (mut batch, mut next) = (Batch::new(3, 0), 0);
        feed(&mut batch, &mut next);
        assert_eq!(next, 6 + READ_AHEAD as u64);
        assert_eq!(start_all(&mut batch), [0, 1, 2]);
        for _ in 0..1000 {
            feed(&mut batch, &mut next);
            let record = batch.settle(1, ended(Outcome::Ok)).unwrap();
            assert_eq!(record.attempts, 1);
            assert_eq!(start_all(&mut batch), [1]);
            assert!(next <= batch.counts().done() + 6 + READ_AHEAD as u64, "read too far ahead");
        }
        assert_eq!(batch.running(), 3);
    }

    #[test]
    fn a_failure_is_tried_again_and_the_last_attempt_counts() {
        let mut batch = Batch::new(1, 2);
        assert_eq!(batch.ask(), 2 + READ_AHEAD);
        batch.add(item(0), request(0));
        batch.all_read();
        for attempt in 1..=2 {
            assert_eq!(start_all(&mut batch), [0]);
            assert_eq!(batch.settle(0, ended(Outcome::Failed)), None, "attempt {attempt}");
            assert!(!batch.is_done());
        }
        assert_eq!(start_all(&mut batch), [0]);
        let record = batch.settle(0, ended(Outcome::Lost)).unwrap();
        assert_eq!((record.attempts, record.ended.outcome), (3, Outcome::Lost));
        assert_eq!((batch.counts().retries, batch.counts().done()), (2, 1));
        assert!(batch.is_done());
    }

    #[test]
    fn closed_it_lets_running_attempts_end_and_starts_nothing() {
        let (mut batch, mut next) = (Batch::new(2, 5), 0);
        feed(&mut batch, &mut next);
        start_all(&mut batch);
        assert_eq!(batch.settle(0, ended(Outcome::Failed)), None);
        let waiting = batch.close();
        assert_eq!((waiting.len(), waiting[0].item.index, waiting[0].attempts), (1, 0, 1));
        assert_eq!((start_all(&mut batch).len(), batch.ask()), (0, 0));
        assert!(!batch.is_done());
        // No retry after the end, whatever the limit says.
        assert!(batch.settle(1, ended(Outcome::Failed)).is_some());
        assert!(batch.is_done());
    }

    #[test]
    fn what_was_not_begun_does_not_count_and_an_attempt_before_it_does() {
        let (mut batch, mut next) = (Batch::new(2, 5), 0);
        feed(&mut batch, &mut next);
        start_all(&mut batch);
        assert_eq!(batch.settle(0, ended(Outcome::Failed)), None);
        assert_eq!(start_all(&mut batch), [0]);
        assert_eq!((batch.close().len(), batch.counts().retries), (0, 1));
        let record = batch.withdraw(0).unwrap();
        assert_eq!((record.attempts, record.ended.outcome), (1, Outcome::Failed));
        assert_eq!(batch.withdraw(1), None);
        assert_eq!((batch.counts().retries, batch.counts().done()), (0, 1));
        assert!(batch.is_done());
    }

    #[test]
    fn when_results_pile_up_only_retries_are_started() {
        let (mut batch, mut next) = (Batch::new(2, 1), 0);
        feed(&mut batch, &mut next);
        start_all(&mut batch);
        batch.settle(0, ended(Outcome::Failed));
        batch.settle(1, ended(Outcome::Ok));
        assert_eq!(
            batch.start(Intake::RetriesOnly).map(|(_, request)| request.input.clone()),
            Some(vec![0])
        );
        assert_eq!(batch.start(Intake::RetriesOnly), None);
        assert!(batch.start(Intake::Open).is_some());
    }

    #[test]
    fn an_invalid_input_is_a_result_that_was_never_started() {
        let mut batch = Batch::new(1, 5);
        batch.ask();
        let record = batch.add_invalid(item(0), ended(Outcome::Invalid)).unwrap();
        assert_eq!((record.attempts, record.ended.outcome), (0, Outcome::Invalid));
        batch.all_read();
        assert!(batch.is_done());
        assert_eq!(batch.counts().failures(), 1);
    }
}
