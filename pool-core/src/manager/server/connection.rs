//! One connection: reads requests, does them, replies.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::object::{
    Barrier, Condition, Dict, Event, Lock, Object, Owner, Queue, Registered, Semaphore, State,
};
use super::{Server, discard};
use crate::codec;
use crate::limits::MANAGER_SERVER_SPIN;
use crate::manager::ManagerError;
use crate::manager::address::Stream;
use crate::manager::auth::{Client, ClientId};
use crate::manager::frame::{self, Body, DONE, Inlet, Op, REFUSED, Request, put_u64};
use crate::manager::lane::Lane;
use crate::manager::method::{self, Item, Keeper, Target};
use crate::manager::proxy::Kind;
use crate::primitives::unpoisoned;

/// A connection that has been admitted.
pub(super) struct Connection<'a> {
    pub(super) server: &'a Arc<Server>,
    pub(super) stream: &'a Stream,
    pub(super) client: ClientId,
    same_image: bool,
    /// What the client has been given and may not have noticed.
    pub(super) granted: Option<Grant>,
}

/// What must be undone if the client never learns of it.
pub(super) enum Grant {
    Lock(Arc<Object>, Owner),
    Permit(Arc<Object>),
    /// The item is in the reply, behind so many bytes.
    Item(Arc<Object>, usize),
}

/// The connection is to be closed: nobody is there, or nobody who makes sense.
pub(super) struct Hangup;

/// How an operation ends: not at all, or with a reply.
pub(super) type Outcome = Result<Result<(), ManagerError>, Hangup>;

/// Serves one client's connection to its end.
pub(super) fn serve(server: &Arc<Server>, stream: Stream, client: Client) {
    let same_image = client.image == server.identity.image;
    let client = client.id;
    server.registry().join(client);
    let lane = Lane::accept(&stream);
    if let (Ok(lane), true) = (lane, stream.set_timeouts(None).is_ok()) {
        let connection = Connection { server, stream: &stream, client, same_image, granted: None };
        // whatever happens there, the client is to be taken leave of
        let _ = catch_unwind(AssertUnwindSafe(|| connection.run(lane)));
    }
    // closed before others are told, so that who sees the consequences sees this, too
    stream.shut_down();
    let (held, dropped) = server.registry().leave(client);
    for object in held {
        object.bury(client);
    }
    discard(dropped);
}

impl Connection<'_> {
    fn run(mut self, lane: Option<Lane>) {
        let (mut inlet, mut out) = (Inlet::new(lane, MANAGER_SERVER_SPIN), Vec::new());
        let never = || Err(io::ErrorKind::TimedOut.into());
        let mut by_lane = false;
        while let Ok(Some(frame)) = inlet.frame(self.stream, never) {
            (self.granted, by_lane) = (None, false);
            let Some(request) = Request::parse(frame) else { return };
            let one_way = matches!(request.op, Op::Release | Op::Shutdown);
            out.clear();
            out.extend_from_slice(&[0, 0, 0, 0, DONE]);
            let Ok(result) = self.perform(request, &mut out) else { break };
            let result = result.and_then(|()| frame::seal(&mut out));
            if let Err(error) = result {
                out.clear();
                out.extend_from_slice(&[0, 0, 0, 0, REFUSED]);
                let sealed = codec::encode(&error, &mut out, u64::MAX).is_ok()
                    && frame::seal(&mut out).is_ok();
                if !sealed {
                    break;
                }
            }
            if one_way {
                continue;
            }
            // the next request may come as soon as this is out
            inlet.look();
            by_lane = inlet.lane().is_some_and(|lane| lane.put(&out));
            if !by_lane && frame::send(self.stream, &out, never).is_err() {
                break;
            }
            if let (Some(Grant::Item(..)), false) = (&self.granted, by_lane) {
                // it is the client's
                self.granted = None;
            }
            frame::shrink(&mut out);
        }
        let is_taken = || inlet.lane().is_some_and(|lane| !lane.is_untaken());
        if let (Some(Grant::Item(..)), true) = (&self.granted, by_lane && is_taken()) {
            self.granted = None;
        }
        self.undo(&out);
    }

    /// Takes back what the client has not heard of.
    fn undo(&mut self, out: &[u8]) {
        let object = match self.granted.take() {
            None => return,
            Some(Grant::Lock(object, owner)) => {
                if let State::Lock(lock) = &mut *unpoisoned(object.state.lock())
                    && lock.owner == Some(owner)
                {
                    lock.free();
                    // it may have heard, and died
                    lock.poisoned = true;
                }
                object
            }
            Some(Grant::Permit(object)) => {
                if let State::Semaphore(semaphore) = &mut *unpoisoned(object.state.lock())
                    && semaphore.forget(self.client)
                {
                    semaphore.available += 1;
                }
                object
            }
            Some(Grant::Item(object, at)) => {
                if let State::Queue(queue) = &mut *unpoisoned(object.state.lock()) {
                    queue.items.push_front(out[at..].to_vec());
                }
                object
            }
        };
        object.changed.notify_all();
    }

    fn perform(&mut self, request: Request<'_>, out: &mut Vec<u8>) -> Outcome {
        let Request { op, object: id, mut body, references } = request;
        let body = &mut body;
        let result = match op {
            Op::Ping => Ok(()),
            Op::Shutdown => {
                self.server.stop();
                Ok(())
            }
            Op::Objects => {
                put_u64(out, self.server.registry().len() as u64);
                Ok(())
            }
            Op::Create => self.create(body, &references, out),
            Op::Acquire => body.u64().and_then(|ticket| {
                let dropped = self.server.registry().acquire(self.client, id, ticket)?;
                discard(dropped);
                Ok(())
            }),
            Op::Release => {
                let dropped = self.server.registry().release(self.client, id);
                discard(dropped);
                Ok(())
            }
            Op::Ticket => {
                let ticket = self.server.registry().ticket(self.client, id);
                ticket.map(|ticket| put_u64(out, ticket))
            }
            Op::Destroy => {
                let object = self.server.registry().get(id);
                let dropped = self.server.registry().destroy(id);
                // who waits for it finds that it is gone
                object.into_iter().for_each(|object| object.changed.notify_all());
                dropped.map(discard)
            }
            Op::Publish => body.text().and_then(|name| {
                let dropped = self.server.registry().publish(name, id)?;
                discard(dropped);
                Ok(())
            }),
            Op::Lookup => kind(body).and_then(|kind| {
                let name = body.text()?;
                let id = self.server.registry().lookup(self.client, name, kind)?;
                put_u64(out, id);
                Ok(())
            }),
            _ => {
                let object = match self.server.registry().get(id) {
                    Ok(object) => object,
                    Err(error) => return Ok(Err(error)),
                };
                return match op {
                    Op::Update | Op::UpdateAt | Op::UpdateKey | Op::Call => {
                        Ok(self.run_method(op, id, &object, body, out))
                    }
                    _ if op as u8 >= Op::Put as u8 => self.wait_or_wake(op, id, &object, body, out),
                    _ => Ok(self.access(op, id, &object, body, &references, out)),
                };
            }
        };
        Ok(result)
    }

    fn create(
        &self,
        body: &mut Body<'_>,
        references: &[u64],
        out: &mut Vec<u8>,
    ) -> Result<(), ManagerError> {
        let kind = kind(body)?;
        let state = match kind {
            Kind::List | Kind::Array => State::List(items(body)?.into()),
            Kind::Dict | Kind::Namespace => State::Dict(Dict::default()),
            Kind::Value => State::Value(body.rest().to_vec()),
            Kind::Queue => {
                let bound = body.u64()?;
                let bound =
                    (bound != u64::MAX).then_some(usize::try_from(bound).unwrap_or(usize::MAX));
                State::Queue(Queue { bound, ..Queue::default() })
            }
            Kind::Lock | Kind::RLock => {
                let reentrant = kind == Kind::RLock;
                State::Lock(Lock { reentrant, ..Lock::default() })
            }
            Kind::Semaphore | Kind::BoundedSemaphore => {
                let available = body.u64()?;
                let bound = (kind == Kind::BoundedSemaphore).then_some(available);
                State::Semaphore(Semaphore { available, bound, ..Semaphore::default() })
            }
            Kind::Condition => State::Condition(Condition::default()),
            Kind::Event => State::Event(Event::default()),
            Kind::Barrier => {
                let parties = body.u64()?;
                if parties == 0 {
                    let text = "a barrier has at least one party";
                    return Err(ManagerError::Config(text.to_owned()));
                }
                State::Barrier(Barrier { parties, ..Barrier::default() })
            }
            Kind::Registered => State::Registered(self.make(body)?),
        };
        let (id, dropped) = self.server.registry().create(self.client, kind, state, references);
        discard(dropped);
        put_u64(out, id);
        Ok(())
    }

    fn make(&self, body: &mut Body<'_>) -> Result<Registered, ManagerError> {
        let name = body.text()?;
        let Some(found) = self.server.types.get(name) else {
            let mut known: Vec<_> = self.server.types.keys().cloned().collect();
            known.sort();
            return Err(ManagerError::UnknownType { name: name.to_owned(), known });
        };
        let mut value: Option<Box<dyn Any + Send>> = None;
        let keeper = Keeper { instance: self.server.identity.instance, hold: &|_| {} };
        let target = Target::New(&mut value);
        method::run(found.make, target, body.rest(), &mut Vec::new(), keeper)
            .map_err(|error| of_argument(&format!("argument of a new {name:?}"), error))?;
        let value = value.ok_or_else(|| ManagerError::Failed("nothing was made".to_owned()))?;
        Ok(Registered { value, methods: Arc::clone(&found.methods) })
    }

    /// Runs a function on an object, with its lock held: nobody else sees it meanwhile.
    fn run_method(
        &self,
        op: Op,
        id: u64,
        object: &Object,
        body: &mut Body<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), ManagerError> {
        let state = &mut *unpoisoned(object.state.lock());
        let hold = |references: &[u64]| self.server.registry().hold(id, references);
        let keeper = Keeper { instance: self.server.identity.instance, hold: &hold };
        if let (Op::Call, State::Registered(registered)) = (op, &mut *state) {
            let name = body.text()?;
            let Some(&method) = registered.methods.get(name) else {
                let mut known: Vec<_> = registered.methods.keys().cloned().collect();
                known.sort();
                return Err(ManagerError::UnknownMethod { name: name.to_owned(), known });
            };
            let target = Target::State(&mut *registered.value);
            return method::run(method, target, body.rest(), out, keeper)
                .map_err(|error| of_argument(&format!("argument of the method {name:?}"), error));
        }
        if !self.same_image {
            return Err(ManagerError::OtherExecutable);
        }
        let function = body.u64()?.cast_signed();
        let method = method::find(function)
            .ok_or_else(|| ManagerError::Failed("there is no such function".to_owned()))?;
        match (op, &mut *state) {
            (Op::Update, State::List(items)) => {
                let len = items.len();
                let mut changed = items.clone();
                let target = Target::Items(&mut changed);
                method::run(method, target, body.rest(), out, keeper)?;
                if object.kind == Kind::Array && changed.len() != len {
                    let text = "the length of an array can't be changed";
                    return Err(ManagerError::Failed(text.to_owned()));
                }
                *items = changed;
            }
            (Op::Update, State::Value(item)) => {
                method::run(method, Target::Item(item), body.rest(), out, keeper)?;
            }
            (Op::UpdateAt, State::List(items)) => {
                let index = body.u64()?;
                let len = items.len() as u64;
                let item = usize::try_from(index).ok().and_then(|index| items.get_mut(index));
                let item = item.ok_or(ManagerError::OutOfRange { index, len })?;
                method::run(method, Target::Item(item), body.rest(), out, keeper)?;
            }
            (Op::UpdateKey, State::Dict(dict)) => {
                let key = body.bytes()?;
                let mut slot = dict.get(key).cloned();
                let target = Target::Slot(&mut slot);
                method::run(method, target, body.rest(), out, keeper)?;
                match slot {
                    Some(value) => dict.insert(key, value),
                    None => dict.remove(key),
                };
            }
            _ => return Err(wrong_kind("an object that can be updated", object)),
        }
        Ok(())
    }
}

/// Says what could not be decoded: for values of registered types, that is the argument.
fn of_argument(what: &str, error: ManagerError) -> ManagerError {
    match error {
        ManagerError::Decode(text) => ManagerError::Decode(format!("the {what} as {text}")),
        other => other,
    }
}

fn kind(body: &mut Body<'_>) -> Result<Kind, ManagerError> {
    let unknown = || ManagerError::Config("there is no such kind of object".to_owned());
    Kind::of(body.u8()?).ok_or_else(unknown)
}

pub(super) fn items(body: &mut Body<'_>) -> Result<Vec<Item>, ManagerError> {
    let mut items = Vec::new();
    while !body.is_empty() {
        items.push(body.bytes()?.to_vec());
    }
    Ok(items)
}

pub(super) fn wrong_kind(expected: &str, object: &Object) -> ManagerError {
    let found = format!("{:?}", object.kind);
    ManagerError::WrongKind { expected: expected.to_owned(), found }
}
