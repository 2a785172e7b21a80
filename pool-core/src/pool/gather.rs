//! Brings the chunks of a map together on the callback thread, so that callbacks get the whole result, once.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use serde::de::DeserializeOwned;

use crate::dispatch::{Finish, Shared, SlotRef};
use crate::error::TaskError;
use crate::handle::{AsyncResult, MapResult, TaskRef, chunk_outcome};
use crate::primitives::lock;
use crate::task::chunk::{self, Chunk};
use crate::task::job::{Outcome, Value, opened};

type Callbacks<R> = Box<dyn FnOnce(Result<Vec<R>, TaskError>) -> Outcome + Send>;

/// One map with callbacks.
pub(super) struct Gathering<R> {
    shared: Arc<Shared>,
    state: Arc<Mutex<State<R>>>,
}

struct State<R> {
    chunks: BTreeMap<usize, Chunk<R>>,
    expected: usize,
    items: usize,
    /// Taken by the one who calls them.
    callbacks: Option<Callbacks<R>>,
    /// The whole input has been submitted.
    complete: bool,
    /// The first error ends the rest.
    fail_fast: bool,
    failed: bool,
    /// To be cancelled then.
    tasks: Vec<TaskRef>,
    slot: SlotRef,
}

impl<R: DeserializeOwned + Send + 'static> Gathering<R> {
    pub(super) fn new(
        shared: Arc<Shared>,
        fail_fast: bool,
        callbacks: impl FnOnce(Result<Vec<R>, TaskError>) -> Outcome + Send + 'static,
    ) -> Gathering<R> {
        let state = State {
            chunks: BTreeMap::new(),
            expected: 0,
            items: 0,
            callbacks: Some(Box::new(callbacks)),
            complete: false,
            fail_fast,
            failed: false,
            tasks: Vec::new(),
            slot: shared.lone_slot(),
        };
        Gathering { shared, state: Arc::new(Mutex::new(state)) }
    }

    /// One more chunk, of so many items: what is done when it is there.
    pub(super) fn expect(&self, items: usize) -> Finish {
        let limit = self.shared.settings.max_result;
        let state = Arc::clone(&self.state);
        let index = {
            let mut state = lock(&state);
            state.expected += 1;
            state.items += items;
            state.expected - 1
        };
        Box::new(move |outcome| {
            // the user's decoding may panic, and the others wait for this chunk
            let decode = || opened(outcome, |value| chunk::decode::<R>(value, limit));
            let decoded = catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|payload| {
                std::mem::forget(payload);
                Err(TaskError::Decode("decoding the results of a chunk panicked".to_owned()))
            });
            let chunk = chunk_outcome(decoded, items);
            let mut guard = lock(&state);
            guard.failed |= guard.fail_fast && chunk.first_error().is_some();
            guard.chunks.insert(index, chunk);
            let unneeded = guard.unneeded();
            State::finish_if_whole(guard);
            cancel(&unneeded);
            // the chunk's own handle is only waited for
            Ok(Value::Direct(Box::new(())))
        })
    }

    /// The whole input has been submitted as these chunks.
    pub(super) fn into_map(self, chunks: Vec<AsyncResult<Chunk<R>>>) -> MapResult<R> {
        let tasks: Vec<TaskRef> = chunks.iter().map(|chunk| chunk.task().clone()).collect();
        let (slot, items, unneeded) = {
            let mut state = lock(&self.state);
            state.complete = true;
            state.tasks.clone_from(&tasks);
            (state.slot.clone(), state.items, state.unneeded())
        };
        cancel(&unneeded);
        let state = Arc::clone(&self.state);
        // on the callback thread also if there are no chunks, or all have come already
        self.shared.courier().send(move || State::finish_if_whole(lock(&state)));
        let whole = TaskRef::new(slot);
        let whole = AsyncResult::new(whole, chunk::decode::<R>);
        MapResult::gathered(whole, items, tasks, chunk::decode_onto::<R>)
    }
}

/// The last ones first: a worker that becomes free by this must find nothing to begin.
fn cancel(tasks: &[TaskRef]) {
    for task in tasks.iter().rev() {
        task.cancel();
    }
}

impl<R: Send + 'static> State<R> {
    /// The tasks that are to be cancelled now: all of them, once, those that have finished included.
    fn unneeded(&mut self) -> Vec<TaskRef> {
        if self.failed { std::mem::take(&mut self.tasks) } else { Vec::new() }
    }

    /// Calls the callbacks if nothing is missing, then makes the map's handle ready.
    fn finish_if_whole(mut state: std::sync::MutexGuard<'_, State<R>>) {
        if !state.complete || state.chunks.len() < state.expected {
            return;
        }
        let Some(callbacks) = state.callbacks.take() else { return };
        let chunks = std::mem::take(&mut state.chunks);
        let (slot, fail_fast) = (state.slot.clone(), state.fail_fast);
        drop(state);
        let whole = Chunk::concat(chunks.into_values());
        let error = if fail_fast { whole.cause() } else { whole.first_error() };
        let outcome = match error {
            Some(error) => {
                drop(callbacks(Err(error)));
                // with the outcomes of the other items
                Ok(Value::Direct(Box::new(whole)))
            }
            None => callbacks(whole.into_values()).and_then(|value| {
                let values: Vec<R> = value.open(|_| Ok(Vec::new()))?;
                Ok(Value::Direct(Box::new(Chunk::of_values(values))))
            }),
        };
        // nobody else settles it
        let _ = slot.settle(outcome);
    }
}
