//! A chunk of a map: one task that calls its function for each of several items, each with an outcome of its own.

use std::collections::VecDeque;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::TaskFn;
use super::callee::instance;
use super::entry::{Fault, Output, decode_args, decode_error, failed, unencodable};
use super::job::{Value, caught};
use crate::attach;
use crate::codec::{self, Unencodable};
use crate::error::TaskError;
use crate::sys::memory;

/// The outcomes of a chunk. Nearly always all items have a value, so what they cost is the values alone.
#[derive(Debug)]
pub(crate) struct Chunk<R> {
    values: Vec<R>,
    /// Which items have none, counted from 0, in order.
    faults: Vec<(u64, TaskError)>,
}

impl<R> Chunk<R> {
    /// What [`call_each`] has given.
    pub(crate) fn new(values: Vec<R>, faults: Vec<(u64, Fault)>, limit: u64) -> Chunk<R> {
        let faults = faults.into_iter().map(|(at, fault)| (at, fault.into_error(limit))).collect();
        Chunk { values, faults }
    }

    /// A chunk that has failed as a whole.
    pub(crate) fn failed(items: usize, error: &TaskError) -> Chunk<R> {
        let faults = (0..items as u64).map(|item| (item, error.clone())).collect();
        Chunk { values: Vec::new(), faults }
    }

    /// Whether there is an outcome for each of so many items behind so many others, of which so many have faults. A worker may say anything.
    fn has_added(&self, items: usize, before: usize, faults: usize) -> bool {
        let faults = &self.faults[faults..];
        let ordered = faults.is_sorted_by(|(one, _), (next, _)| one < next);
        let begins = faults.first().is_none_or(|(first, _)| *first >= before as u64);
        let ends = faults.last().is_none_or(|(last, _)| *last < (before + items) as u64);
        ordered && begins && ends && self.len() == before + items
    }

    /// Adds so many items behind its own, by a function that may do anything: if what it adds is not one outcome for each, all of them have failed.
    pub(crate) fn extend(
        &mut self,
        items: usize,
        add: impl FnOnce(&mut Chunk<R>) -> Result<(), TaskError>,
    ) {
        let (values, faults) = (self.values.len(), self.faults.len());
        let result = add(self);
        let error = match result {
            Ok(()) if self.has_added(items, values + faults, faults) => return,
            Ok(()) => {
                let text =
                    format!("the worker's answer is not one outcome for each of {items} items");
                TaskError::Decode(text)
            }
            Err(error) => error,
        };
        self.values.truncate(values);
        self.faults.truncate(faults);
        self.append(Chunk::failed(items, &error));
    }

    /// A chunk in which all went well.
    pub(crate) fn of_values(values: Vec<R>) -> Chunk<R> {
        Chunk { values, faults: Vec::new() }
    }

    /// The error of the first item that has no value.
    pub(crate) fn first_error(&self) -> Option<TaskError> {
        self.faults.first().map(|(_, error)| error.clone())
    }

    /// The first error that is not only a consequence of another one's.
    pub(crate) fn cause(&self) -> Option<TaskError> {
        let cause = self.faults.iter().find(|(_, error)| *error != TaskError::Cancelled);
        cause.map(|(_, error)| error.clone()).or_else(|| self.first_error())
    }

    /// A chunk for so many items, without any yet.
    pub(crate) fn with_capacity(items: usize) -> Chunk<R> {
        Chunk { values: memory::vec_with_huge_pages(items), faults: Vec::new() }
    }

    /// So many items have an outcome.
    fn len(&self) -> usize {
        self.values.len() + self.faults.len()
    }

    /// Adds the items of a chunk behind its own.
    pub(crate) fn append(&mut self, chunk: Chunk<R>) {
        let before = self.len() as u64;
        self.faults.extend(chunk.faults.into_iter().map(|(item, error)| (before + item, error)));
        if self.values.capacity() == 0 {
            self.values = chunk.values;
        } else {
            self.values.extend(chunk.values);
        }
    }

    /// All items of these chunks, in order.
    pub(crate) fn concat(chunks: impl IntoIterator<Item = Chunk<R>>) -> Chunk<R> {
        chunks.into_iter().fold(Chunk::of_values(Vec::new()), |mut whole, chunk| {
            whole.append(chunk);
            whole
        })
    }

    /// The values, or the error of the first item that has none.
    pub(crate) fn into_values(self) -> Result<Vec<R>, TaskError> {
        match self.faults.into_iter().next() {
            None => Ok(self.values),
            Some((_, error)) => Err(error),
        }
    }

    /// One outcome per item, in order.
    pub(crate) fn into_outcomes(self) -> impl Iterator<Item = Result<R, TaskError>> {
        let mut values = self.values.into_iter();
        let mut faults = VecDeque::from(self.faults);
        (0..).map_while(move |item| match faults.front() {
            Some((at, _)) if *at == item => faults.pop_front().map(|(_, error)| Err(error)),
            _ => values.next().map(Ok),
        })
    }
}

/// The entry point of a chunk. Travels as the faults with their items, then the values.
pub(crate) fn run<F, Args, Kind>(input: &[u8], out: &mut Output<'_>) -> Result<(), Fault>
where
    F: TaskFn<Args, Kind>,
    Args: DeserializeOwned + 'static,
{
    let items = decode_args::<F, Vec<Args>>(input)?;
    let (values, faults) = call_each(instance::<F>(), items);
    attach::returning(|| encode(values, faults, out))
}

/// Calls the function for each item: the values, and which items have none, counted from 0.
pub(crate) fn call_each<F, Args, Kind>(
    function: F,
    items: Vec<Args>,
) -> (Vec<F::Output>, Vec<(u64, Fault)>)
where
    F: TaskFn<Args, Kind>,
{
    let mut values: Vec<F::Output> = Vec::with_capacity(items.len());
    let mut faults = Vec::new();
    let mut items = items.into_iter();
    // one unwinding boundary around many calls: a panic costs its item, and the loop goes on behind it
    while items.len() > 0 {
        let calls = || {
            for args in items.by_ref() {
                match function.call(args) {
                    Ok(value) => values.push(value),
                    Err(error) => {
                        faults.push(((values.len() + faults.len()) as u64, failed(error)))
                    }
                }
            }
            Ok(())
        };
        if let Err(fault) = caught(calls) {
            faults.push(((values.len() + faults.len()) as u64, fault));
        }
    }
    (values, faults)
}

fn encode<R: Serialize + 'static>(
    values: Vec<R>,
    faults: Vec<(u64, Fault)>,
    out: &mut Output<'_>,
) -> Result<(), Fault> {
    out.bytes.reserve(size_of_val(values.as_slice()) + 16);
    match encode_both(&values, &faults, out) {
        Ok(()) => Ok(()),
        Err(Unencodable::TooLarge(size)) => Err(Fault::TooLarge(size)),
        Err(Unencodable::Refused(_)) => {
            let (values, faults) = sort_out(values, faults, out.limit);
            encode_both(&values, &faults, out).map_err(unencodable::<R>)
        }
    }
}

fn encode_both<R: Serialize + 'static>(
    values: &Vec<R>,
    faults: &Vec<(u64, Fault)>,
    out: &mut Output<'_>,
) -> Result<(), Unencodable> {
    let start = out.bytes.len();
    codec::encode(faults, out.bytes, out.limit)?;
    codec::encode_value(values, out.bytes, out.limit).inspect_err(|_| out.bytes.truncate(start))
}

/// Puts faults in the place of the values that can't be encoded.
fn sort_out<R: Serialize>(
    values: Vec<R>,
    faults: Vec<(u64, Fault)>,
    limit: u64,
) -> (Vec<R>, Vec<(u64, Fault)>) {
    let (mut values, mut known) = (values.into_iter(), VecDeque::from(faults));
    let (mut kept, mut faults) = (Vec::new(), Vec::new());
    for item in 0.. {
        if known.front().is_some_and(|(at, _)| *at == item) {
            faults.extend(known.pop_front());
        } else if let Some(value) = values.next() {
            match codec::encode(&value, &mut Vec::new(), limit) {
                Ok(()) => kept.push(value),
                Err(error) => faults.push((item, unencodable::<R>(error))),
            }
        } else {
            break;
        }
    }
    (kept, faults)
}

/// The other side of [`run`].
pub(crate) fn decode<R>(value: Value, limit: u64) -> Result<Chunk<R>, TaskError>
where
    R: DeserializeOwned + 'static,
{
    let mut chunk = Chunk::of_values(Vec::new());
    decode_onto(value, limit, &mut chunk)?;
    Ok(chunk)
}

/// Like [`decode`]: the items are added behind those of `whole`, which may have some of them after an error.
pub(crate) fn decode_onto<R>(
    value: Value,
    limit: u64,
    whole: &mut Chunk<R>,
) -> Result<(), TaskError>
where
    R: DeserializeOwned + 'static,
{
    match value {
        Value::Encoded(bytes) => decode_bytes(&bytes, limit, whole),
        other @ (Value::Direct(_) | Value::Numbers(_)) => {
            whole.append(other.open(|_| Ok(Chunk::of_values(Vec::new())))?);
            Ok(())
        }
    }
}

fn decode_bytes<R>(bytes: &[u8], limit: u64, whole: &mut Chunk<R>) -> Result<(), TaskError>
where
    R: DeserializeOwned + 'static,
{
    let before = whole.len() as u64;
    let decode = || -> Result<(), String> {
        let (faults, used) = codec::decode_first::<Vec<(u64, Fault)>>(bytes)?;
        let faults = faults
            .into_iter()
            .map(|(at, fault)| (before.saturating_add(at), fault.into_error(limit)));
        // the values first: decoding them is the user's code, which may panic
        codec::decode_onto(&bytes[used..], &mut whole.values)?;
        whole.faults.extend(faults);
        Ok(())
    };
    attach::returned(decode).map_err(|error| decode_error::<R>(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(
        input: &[(u32,)],
        f: impl TaskFn<(u32,), super::super::Plain, Output = u32>,
    ) -> Vec<Option<u32>> {
        fn go<F: TaskFn<(u32,), super::super::Plain, Output = u32>>(
            _: F,
            input: &[u8],
            out: &mut Vec<u8>,
        ) {
            run::<F, (u32,), super::super::Plain>(input, &mut Output::new(out, 1 << 20)).unwrap();
        }
        let (mut encoded, mut out) = (Vec::new(), Vec::new());
        codec::encode(&input, &mut encoded, u64::MAX).unwrap();
        go(f, &encoded, &mut out);
        let mut chunk = Chunk::<u32>::with_capacity(1);
        decode_bytes(&out, 0, &mut chunk).unwrap();
        chunk.into_outcomes().map(Result::ok).collect()
    }

    #[test]
    fn each_item_has_its_own_outcome() {
        let odd = |x: u32| if x.is_multiple_of(2) { panic!("even") } else { x };
        assert_eq!(
            outcomes(&[(1,), (2,), (3,), (4,), (4,)], odd),
            [Some(1), None, Some(3), None, None]
        );
        assert_eq!(outcomes(&[(2,)], odd), [None]);
        assert_eq!(outcomes(&[], odd), []);
        assert_eq!(outcomes(&[(7,), (9,)], odd), [Some(7), Some(9)]);
    }

    #[derive(Debug, PartialEq)]
    struct Picky(u32);

    impl Serialize for Picky {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            match self.0 {
                0 => Err(serde::ser::Error::custom("zero")),
                value => value.serialize(serializer),
            }
        }
    }

    #[test]
    fn one_value_that_can_not_be_encoded_costs_its_item() {
        let mut bytes = Vec::new();
        let values = vec![Picky(1), Picky(0), Picky(3)];
        let faults = vec![(1, Fault::Failed("before".to_owned()))];
        encode(values, faults, &mut Output::new(&mut bytes, 1000)).unwrap();
        let mut chunk = Chunk::<u32>::with_capacity(1);
        decode_bytes(&bytes, 0, &mut chunk).unwrap();
        let outcomes: Vec<_> = chunk.into_outcomes().collect();
        let before = TaskError::Failed("before".to_owned());
        assert_eq!(outcomes[..2], [Ok(1), Err(before)]);
        assert!(matches!(&outcomes[2], Err(TaskError::Encode(text)) if text.contains("zero")));
        assert_eq!(outcomes[3..], [Ok(3)]);
    }
}
