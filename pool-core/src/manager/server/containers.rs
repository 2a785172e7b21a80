//! Operations on lists, dicts and values.

use std::collections::VecDeque;

use super::connection::{Connection, items, wrong_kind};
use super::discard;
use super::object::{Dict, Object, State};
use crate::manager::ManagerError;
use crate::manager::frame::{Body, Op, put_bytes, put_u64};
use crate::manager::method::Item;
use crate::manager::proxy::Kind;
use crate::primitives::unpoisoned;

impl Connection<'_> {
    /// What blocks for nobody.
    pub(super) fn access(
        &self,
        op: Op,
        id: u64,
        object: &Object,
        body: &mut Body<'_>,
        references: &[u64],
        out: &mut Vec<u8>,
    ) -> Result<(), ManagerError> {
        let mut state = unpoisoned(object.state.lock());
        if !references.is_empty() {
            self.server.registry().hold(id, references);
        }
        match &mut *state {
            State::List(items) => list(op, items, object.kind == Kind::Array, body, out)?,
            State::Dict(dict) => dictionary(op, dict, body, out)?,
            State::Value(item) if op == Op::ValueGet => out.extend_from_slice(item),
            State::Value(item) if op == Op::ValueSet => {
                let before = std::mem::replace(item, body.rest().to_vec());
                out.extend_from_slice(&before);
            }
            State::Queue(queue) if op == Op::Len => put_u64(out, queue.items.len() as u64),
            _ => return Err(wrong_kind("container", object)),
        }
        if matches!(op, Op::Clear | Op::ValueSet) {
            let dropped = self.server.registry().let_go(id, references);
            drop(state);
            discard(dropped);
        }
        Ok(())
    }
}

fn index(number: u64, len: usize) -> Result<usize, ManagerError> {
    let out_of_range = ManagerError::OutOfRange { index: number, len: len as u64 };
    usize::try_from(number).ok().filter(|index| *index < len).ok_or(out_of_range)
}

/// 0, or 1 and the item.
fn put_option(out: &mut Vec<u8>, item: Option<&Item>) {
    match item {
        None => out.push(0),
        Some(item) => {
            out.push(1);
            out.extend_from_slice(item);
        }
    }
}

fn put_index(out: &mut Vec<u8>, index: Option<usize>) {
    put_u64(out, index.map_or(u64::MAX, |index| index as u64));
}

fn list(
    op: Op,
    list: &mut VecDeque<Item>,
    is_fixed: bool,
    body: &mut Body<'_>,
    out: &mut Vec<u8>,
) -> Result<(), ManagerError> {
    let resizes = matches!(
        op,
        Op::Push
            | Op::PushFront
            | Op::Insert
            | Op::Remove
            | Op::Pop
            | Op::PopFront
            | Op::Extend
            | Op::Clear
    );
    if resizes && is_fixed {
        let text = "the length of an array can't be changed";
        return Err(ManagerError::Failed(text.to_owned()));
    }
    let len = list.len();
    match op {
        Op::Len => put_u64(out, len as u64),
        Op::Get => {
            let at = body.u64()?;
            put_option(out, usize::try_from(at).ok().and_then(|at| list.get(at)));
        }
        Op::Set => {
            let at = index(body.u64()?, len)?;
            let before = std::mem::replace(&mut list[at], body.rest().to_vec());
            out.extend_from_slice(&before);
        }
        Op::Push => {
            list.push_back(body.rest().to_vec());
            put_u64(out, len as u64);
        }
        Op::PushFront => list.push_front(body.rest().to_vec()),
        Op::Insert => {
            let at = index(body.u64()?, len + 1)?;
            list.insert(at, body.rest().to_vec());
        }
        Op::Remove => {
            let at = index(body.u64()?, len)?;
            put_option(out, list.remove(at).as_ref());
        }
        Op::Pop => put_option(out, list.pop_back().as_ref()),
        Op::PopFront => put_option(out, list.pop_front().as_ref()),
        Op::Extend => list.extend(items(body)?),
        Op::Clear => *list = VecDeque::new(),
        Op::Range => {
            let (from, to) = (body.u64()?, body.u64()?);
            let clamp = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(len);
            let (from, to) = (clamp(from), clamp(to));
            list.iter().skip(from).take(to.saturating_sub(from)).for_each(|i| put_bytes(out, i));
        }
        Op::Position => {
            let wanted = body.rest();
            put_index(out, list.iter().position(|item| item == wanted));
        }
        Op::Count => {
            let wanted = body.rest();
            put_u64(out, list.iter().filter(|item| *item == wanted).count() as u64);
        }
        Op::Reverse => list.make_contiguous().reverse(),
        _ => return Err(not_for("list")),
    }
    Ok(())
}

fn dictionary(
    op: Op,
    dict: &mut Dict,
    body: &mut Body<'_>,
    out: &mut Vec<u8>,
) -> Result<(), ManagerError> {
    match op {
        Op::Len => put_u64(out, dict.len() as u64),
        Op::DictGet => put_option(out, dict.get(body.rest())),
        Op::DictInsert => {
            let key = body.bytes()?;
            put_option(out, dict.insert(key, body.rest().to_vec()).as_ref());
        }
        Op::DictRemove => put_option(out, dict.remove(body.rest()).as_ref()),
        Op::DictContains => out.push(u8::from(dict.get(body.rest()).is_some())),
        Op::DictGetOrInsert => {
            let key = body.bytes()?;
            if dict.get(key).is_none() {
                dict.insert(key, body.rest().to_vec());
            }
            out.extend_from_slice(dict.get(key).map_or(&[], Vec::as_slice));
        }
        Op::DictExtend => {
            while !body.is_empty() {
                let (key, value) = (body.bytes()?, body.bytes()?);
                dict.insert(key, value.to_vec());
            }
        }
        Op::Clear => dict.clear(),
        Op::DictItems => {
            for (key, value) in dict.in_order() {
                put_bytes(out, key);
                put_bytes(out, value);
            }
        }
        Op::DictKeys => dict.in_order().into_iter().for_each(|(key, _)| put_bytes(out, key)),
        Op::DictValues => dict.in_order().into_iter().for_each(|(_, value)| put_bytes(out, value)),
        _ => return Err(not_for("dict")),
    }
    Ok(())
}

fn not_for(kind: &str) -> ManagerError {
    ManagerError::WrongKind {
        expected: "another kind of object".to_owned(),
        found: kind.to_owned(),
    }
}
