//! What the manager keeps.

use std::any::Any;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Condvar, Mutex};

use crate::manager::ManagerError;
use crate::manager::auth::ClientId;
use crate::manager::method::{Item, Method};
use crate::manager::proxy::Kind;
use crate::primitives::unpoisoned;

/// One object: its lock is held for one operation at a time.
pub(super) struct Object {
    pub(super) kind: Kind,
    pub(super) state: Mutex<State>,
    /// Notified with every change that somebody may wait for.
    pub(super) changed: Condvar,
}

/// The contents of an object, by what can be done with it.
pub(super) enum State {
    /// Lists and arrays.
    List(VecDeque<Item>),
    /// Dicts and namespaces.
    Dict(Dict),
    Value(Item),
    Queue(Queue),
    /// Locks of both kinds.
    Lock(Lock),
    Semaphore(Semaphore),
    Condition(Condition),
    Event(Event),
    Barrier(Barrier),
    Registered(Registered),
}

/// Values by their encoded keys, in the order in which these came.
#[derive(Default)]
pub(super) struct Dict {
    entries: HashMap<Item, (u64, Item)>,
    next: u64,
}

impl Dict {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&Item> {
        self.entries.get(key).map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, key: &[u8]) -> Option<&mut Item> {
        self.entries.get_mut(key).map(|(_, value)| value)
    }

    pub(super) fn insert(&mut self, key: &[u8], value: Item) -> Option<Item> {
        if let Some(place) = self.get_mut(key) {
            return Some(std::mem::replace(place, value));
        }
        self.next += 1;
        self.entries.insert(key.to_vec(), (self.next, value));
        None
    }

    pub(super) fn remove(&mut self, key: &[u8]) -> Option<Item> {
        self.entries.remove(key).map(|(_, value)| value)
    }

    pub(super) fn clear(&mut self) {
        self.entries = HashMap::new();
    }

    pub(super) fn in_order(&self) -> Vec<(&Item, &Item)> {
        let mut all: Vec<_> = self.entries.iter().collect();
        all.sort_unstable_by_key(|(_, (number, _))| *number);
        all.into_iter().map(|(key, (_, value))| (key, value)).collect()
    }
}

#[derive(Default)]
pub(super) struct Queue {
    pub(super) items: VecDeque<Item>,
    pub(super) bound: Option<usize>,
    pub(super) closed: bool,
    /// Items that were put and not declared done.
    pub(super) unfinished: u64,
}

/// Who holds a lock: a client, and a guard (or, if the lock is reentrant, a thread) of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) client: ClientId,
    pub(super) who: u64,
}

#[derive(Default)]
pub(super) struct Lock {
    pub(super) reentrant: bool,
    pub(super) owner: Option<Owner>,
    pub(super) depth: u32,
    pub(super) poisoned: bool,
}

impl Lock {
    /// Takes it if that can be.
    pub(super) fn take(&mut self, owner: Owner, depth: u32) -> bool {
        match self.owner {
            None => {
                self.owner = Some(owner);
                self.depth = depth;
                true
            }
            Some(holder) if self.reentrant && holder == owner => {
                self.depth += depth;
                true
            }
            Some(_) => false,
        }
    }

    pub(super) fn check(&self, owner: Owner) -> Result<(), ManagerError> {
        if self.owner == Some(owner) { Ok(()) } else { Err(ManagerError::NotHeld) }
    }

    /// Lets it go altogether; how often it was taken.
    pub(super) fn free(&mut self) -> u32 {
        self.owner = None;
        std::mem::take(&mut self.depth)
    }
}

#[derive(Default)]
pub(super) struct Semaphore {
    pub(super) available: u64,
    pub(super) bound: Option<u64>,
    pub(super) held: HashMap<ClientId, u64>,
}

impl Semaphore {
    pub(super) fn take(&mut self, client: ClientId) -> bool {
        let taken = self.available > 0;
        if taken {
            self.available -= 1;
            *self.held.entry(client).or_default() += 1;
        }
        taken
    }

    /// The client has a permit less. Whether it had one.
    pub(super) fn forget(&mut self, client: ClientId) -> bool {
        let Some(count) = self.held.get_mut(&client) else { return false };
        *count -= 1;
        if *count == 0 {
            self.held.remove(&client);
        }
        true
    }
}

/// Who waits, in order, and who of them was notified.
#[derive(Default)]
pub(super) struct Condition {
    pub(super) next: u64,
    pub(super) waiting: VecDeque<u64>,
    pub(super) notified: HashSet<u64>,
}

impl Condition {
    pub(super) fn notify(&mut self, count: u64) {
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(self.waiting.len());
        self.notified.extend(self.waiting.drain(..count));
    }

    /// A waiter goes away without having been notified, or passes on that it was.
    pub(super) fn withdraw(&mut self, number: u64) {
        if self.notified.remove(&number) {
            self.notify(1);
        }
        self.waiting.retain(|waiting| *waiting != number);
    }
}

#[derive(Default)]
pub(super) struct Event {
    pub(super) is_set: bool,
    /// How often it was set: who waits sees it also if it has been cleared since.
    pub(super) times: u64,
}

#[derive(Default)]
pub(super) struct Barrier {
    pub(super) parties: u64,
    pub(super) arrived: u64,
    pub(super) round: u64,
    pub(super) broken: bool,
    /// How rounds have ended whose parties have not all noticed: whether well, and how many have not.
    pub(super) ended: HashMap<u64, (bool, u64)>,
}

impl Barrier {
    /// Ends the round for those who wait, of which there are `waiting`.
    pub(super) fn end_round(&mut self, well: bool, waiting: u64) {
        if waiting > 0 {
            self.ended.insert(self.round, (well, waiting));
        }
        self.round += 1;
        self.arrived = 0;
    }

    /// For one who waits: how its round has ended, if it has.
    pub(super) fn look(&mut self, round: u64) -> Option<bool> {
        let (well, waiting) = self.ended.get_mut(&round)?;
        let well = *well;
        *waiting -= 1;
        if *waiting == 0 {
            self.ended.remove(&round);
        }
        Some(well)
    }
}

/// A value of a type that the user has registered.
pub(super) struct Registered {
    pub(super) value: Box<dyn Any + Send>,
    pub(super) methods: std::sync::Arc<HashMap<String, Method>>,
}

impl Object {
    pub(super) fn new(kind: Kind, state: State) -> Object {
        Object { kind, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Whether clients have something of it that must be had back when they die.
    pub(super) fn can_be_held(&self) -> bool {
        matches!(self.kind, Kind::Lock | Kind::RLock | Kind::Semaphore | Kind::BoundedSemaphore)
    }

    /// The client has died.
    pub(super) fn bury(&self, client: ClientId) {
        match &mut *unpoisoned(self.state.lock()) {
            State::Lock(lock) if lock.owner.is_some_and(|owner| owner.client == client) => {
                lock.free();
                lock.poisoned = true;
            }
            State::Semaphore(semaphore) => {
                semaphore.available += semaphore.held.remove(&client).unwrap_or(0);
            }
            _ => return,
        }
        self.changed.notify_all();
    }
}
