//! Functions that run in the manager on what it keeps: capture-free, named by their place in the executable as the functions of tasks are.

use std::any::{Any, type_name};
use std::cell::Cell;
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::link::Link;
use super::{ManagerError, proxy};
use crate::codec;
use crate::task::callee::{Callee, instance};
use crate::task::entry::{Fault, Output, with_causes};
use crate::task::panics;

/// An encoded value.
pub(super) type Item = Vec<u8>;

/// What a function is given to work on.
pub(super) enum Target<'a> {
    Items(&'a mut VecDeque<Item>),
    Item(&'a mut Item),
    Slot(&'a mut Option<Item>),
    /// A value of a registered type.
    State(&'a mut dyn Any),
    /// The place for a new one.
    New(&'a mut Option<Box<dyn Any + Send>>),
}

/// The manager in which a function runs.
#[derive(Clone, Copy)]
pub(super) struct Keeper<'a> {
    pub(super) instance: u64,
    /// Makes these objects live as long as what the function works on. To be called before proxies of them are dropped.
    pub(super) hold: &'a dyn Fn(&[u64]),
}

/// Decodes, calls, encodes: the target, the arguments, where the result goes.
pub(super) type Method =
    fn(Target<'_>, &[u8], &mut Vec<u8>, Keeper<'_>) -> Result<(), ManagerError>;

/// A type that stands for a method.
pub(super) trait Body {
    const METHOD: Method;
}

thread_local! {
    static FOUND: Cell<Option<Method>> = const { Cell::new(None) };
}

/// What is named is this function, which is of the type that can be named; called in the manager, it says which method is meant.
fn reveal<B: Body>(_: &[u8], _: &mut Output<'_>) -> Result<(), Fault> {
    FOUND.set(Some(B::METHOD));
    Ok(())
}

pub(super) fn name_of<B: Body>() -> i64 {
    Callee::of(reveal::<B>).0
}

/// The method of this name, which was made by [`name_of`] in a copy of this executable.
pub(super) fn find(name: i64) -> Option<Method> {
    let mut bytes = Vec::new();
    let mut out = Output::new(&mut bytes, 0);
    FOUND.set(None);
    Callee(name).entry()(&[], &mut out).ok()?;
    FOUND.take()
}

/// Runs it; a panic is an error.
pub(super) fn run(
    method: Method,
    target: Target<'_>,
    args: &[u8],
    out: &mut Vec<u8>,
    keeper: Keeper<'_>,
) -> Result<(), ManagerError> {
    panics::keep();
    match catch_unwind(AssertUnwindSafe(|| method(target, args, out, keeper))) {
        Ok(result) => result,
        Err(payload) => {
            let panics::Report { message, location, .. } = panics::take(&*payload);
            // its drop is the user's code too
            let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
            Err(ManagerError::Panicked { message, location })
        }
    }
}

fn decode<T: DeserializeOwned + 'static>(bytes: &[u8]) -> Result<T, ManagerError> {
    codec::decode_value(bytes)
        .map_err(|error| ManagerError::Decode(format!("{}: {error}", type_name::<T>())))
}

/// Encodes what stays.
fn encode<T: Serialize + 'static>(value: &T, keeper: Keeper<'_>) -> Result<Item, ManagerError> {
    let mut item = Vec::new();
    let (result, met) = proxy::collecting(keeper.instance, || Link::encode(value, &mut item));
    if !met.is_empty() {
        (keeper.hold)(&met);
    }
    result.map(|()| item)
}

fn wrong() -> ManagerError {
    ManagerError::Failed("the function is for another kind of object".to_owned())
}

/// `Fn(&mut T, A) -> R` on one encoded value, which stays as it was if anything goes wrong.
pub(super) struct OnItem<T, A, R, F>(PhantomData<(T, A, R, F)>);

impl<T, A, R, F> Body for OnItem<T, A, R, F>
where
    T: Serialize + DeserializeOwned + 'static,
    A: DeserializeOwned + 'static,
    R: Serialize + 'static,
    F: Fn(&mut T, A) -> R + Copy + 'static,
{
    const METHOD: Method = |target, args, out, keeper| {
        let Target::Item(item) = target else { return Err(wrong()) };
        let mut value: T = decode(item)?;
        let result = instance::<F>()(&mut value, decode(args)?);
        let changed = encode(&value, keeper)?;
        Link::encode(&result, out)?;
        *item = changed;
        Ok(())
    };
}

/// `Fn(&mut Option<T>, A) -> R` on a place that may be empty.
pub(super) struct OnSlot<T, A, R, F>(PhantomData<(T, A, R, F)>);

impl<T, A, R, F> Body for OnSlot<T, A, R, F>
where
    T: Serialize + DeserializeOwned + 'static,
    A: DeserializeOwned + 'static,
    R: Serialize + 'static,
    F: Fn(&mut Option<T>, A) -> R + Copy + 'static,
{
    const METHOD: Method = |target, args, out, keeper| {
        let Target::Slot(slot) = target else { return Err(wrong()) };
        let mut value: Option<T> = slot.as_deref().map(decode).transpose()?;
        let result = instance::<F>()(&mut value, decode(args)?);
        let changed = value.as_ref().map(|value| encode(value, keeper)).transpose()?;
        Link::encode(&result, out)?;
        *slot = changed;
        Ok(())
    };
}

/// `Fn(&mut Vec<T>, A) -> R` on all elements.
pub(super) struct OnItems<T, A, R, F>(PhantomData<(T, A, R, F)>);

impl<T, A, R, F> Body for OnItems<T, A, R, F>
where
    T: Serialize + DeserializeOwned + 'static,
    A: DeserializeOwned + 'static,
    R: Serialize + 'static,
    F: Fn(&mut Vec<T>, A) -> R + Copy + 'static,
{
    const METHOD: Method = |target, args, out, keeper| {
        let Target::Items(items) = target else { return Err(wrong()) };
        let mut values = items.iter().map(|i| decode(i)).collect::<Result<Vec<T>, _>>()?;
        let result = instance::<F>()(&mut values, decode(args)?);
        let changed =
            values.iter().map(|value| encode(value, keeper)).collect::<Result<VecDeque<_>, _>>()?;
        Link::encode(&result, out)?;
        *items = changed;
        Ok(())
    };
}

/// `Fn(A) -> T`: makes a value of a registered type.
pub(super) struct Make<T, A, F>(PhantomData<(T, A, F)>);

impl<T, A, F> Body for Make<T, A, F>
where
    T: Send + 'static,
    A: DeserializeOwned + 'static,
    F: Fn(A) -> T + Copy + 'static,
{
    const METHOD: Method = |target, args, _, _| {
        let Target::New(place) = target else { return Err(wrong()) };
        *place = Some(Box::new(instance::<F>()(decode(args)?)));
        Ok(())
    };
}

/// `Fn(A) -> anyhow::Result<T>`: the same, if it can fail.
pub(super) struct TryMake<T, A, F>(PhantomData<(T, A, F)>);

impl<T, A, F> Body for TryMake<T, A, F>
where
    T: Send + 'static,
    A: DeserializeOwned + 'static,
    F: Fn(A) -> anyhow::Result<T> + Copy + 'static,
{
    const METHOD: Method = |target, args, _, _| {
        let Target::New(place) = target else { return Err(wrong()) };
        *place = Some(Box::new(instance::<F>()(decode(args)?).map_err(failed)?));
        Ok(())
    };
}

/// `Fn(&mut T, A) -> R` on a value of a registered type.
pub(super) struct OnState<T, A, R, F>(PhantomData<(T, A, R, F)>);

impl<T, A, R, F> Body for OnState<T, A, R, F>
where
    T: Send + 'static,
    A: DeserializeOwned + 'static,
    R: Serialize + 'static,
    F: Fn(&mut T, A) -> R + Copy + 'static,
{
    const METHOD: Method = |target, args, out, _| {
        let result = instance::<F>()(state::<T>(target)?, decode(args)?);
        Link::encode(&result, out)
    };
}

/// `Fn(&mut T, A) -> anyhow::Result<R>`: the same, if it can fail.
pub(super) struct OnStateFallible<T, A, R, F>(PhantomData<(T, A, R, F)>);

impl<T, A, R, F> Body for OnStateFallible<T, A, R, F>
where
    T: Send + 'static,
    A: DeserializeOwned + 'static,
    R: Serialize + 'static,
    F: Fn(&mut T, A) -> anyhow::Result<R> + Copy + 'static,
{
    const METHOD: Method = |target, args, out, _| {
        let result = instance::<F>()(state::<T>(target)?, decode(args)?).map_err(failed)?;
        Link::encode(&result, out)
    };
}

fn state<T: 'static>(target: Target<'_>) -> Result<&mut T, ManagerError> {
    match target {
        Target::State(state) => state.downcast_mut::<T>().ok_or_else(wrong),
        _ => Err(wrong()),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "used as a function for map_err")]
fn failed(error: anyhow::Error) -> ManagerError {
    ManagerError::Failed(with_causes(&error))
}
