//! Which objects there are, who has proxies of them, and when they are dropped.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::object::{Object, State};
use crate::manager::ManagerError;
use crate::manager::auth::ClientId;
use crate::manager::proxy::Kind;

/// See the module's documentation.
pub(super) struct Registry {
    objects: HashMap<u64, Entry>,
    clients: HashMap<ClientId, Session>,
    /// Proxies on their way: the object, and who has sent it.
    tickets: HashMap<u64, (u64, ClientId)>,
    names: HashMap<String, u64>,
    /// Objects that nobody is known to have, though some may: until when they are kept.
    lingering: HashMap<u64, Instant>,
    linger: Duration,
    next: u64,
}

struct Entry {
    object: Arc<Object>,
    /// Proxies that clients have.
    leases: usize,
    /// Proxies on their way.
    tickets: usize,
    /// Names and containers that hold a proxy of it.
    stored: usize,
    /// Its proxies have been on their way: bytes of one may be somewhere.
    passed_on: bool,
    /// The objects whose proxies it holds.
    holds: HashSet<u64>,
}

/// A process of a client.
#[derive(Default)]
struct Session {
    connections: usize,
    leases: HashMap<u64, usize>,
}

/// Objects that nobody has any more. To be dropped where no lock is held: some run the user's code.
pub(super) type Dropped = Vec<Arc<Object>>;

impl Registry {
    pub(super) fn new(linger: Duration) -> Registry {
        Registry {
            objects: HashMap::new(),
            clients: HashMap::new(),
            tickets: HashMap::new(),
            names: HashMap::new(),
            lingering: HashMap::new(),
            linger,
            next: 1,
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn entry(&mut self, id: u64) -> Result<&mut Entry, ManagerError> {
        self.objects.get_mut(&id).ok_or(ManagerError::NoSuchObject)
    }

    pub(super) fn get(&self, id: u64) -> Result<Arc<Object>, ManagerError> {
        let entry = self.objects.get(&id).ok_or(ManagerError::NoSuchObject)?;
        Ok(Arc::clone(&entry.object))
    }

    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }

    /// A connection of this client is there.
    pub(super) fn join(&mut self, client: ClientId) {
        self.clients.entry(client).or_default().connections += 1;
    }

    /// One is gone. With the last one, the client is: its leases end, and what it has locked is to be freed, by those objects that are returned first.
    pub(super) fn leave(&mut self, client: ClientId) -> (Vec<Arc<Object>>, Dropped) {
        let Some(session) = self.clients.get_mut(&client) else { return Default::default() };
        session.connections -= 1;
        if session.connections > 0 {
            return Default::default();
        }
        let leases = self.clients.remove(&client).map(|session| session.leases).unwrap_or_default();
        let waited_for = self.objects.values().filter(|entry| entry.object.can_be_held());
        let waited_for = waited_for.map(|entry| Arc::clone(&entry.object)).collect();
        let mut dropped = Dropped::new();
        let sent: Vec<_> =
            self.tickets.iter().filter(|(_, (_, by))| *by == client).map(|(t, _)| *t).collect();
        for ticket in sent {
            self.redeem(ticket, &mut dropped);
        }
        for (id, count) in leases {
            if let Ok(entry) = self.entry(id) {
                entry.leases -= count;
                self.free_if_unused(id, &mut dropped);
            }
        }
        self.sweep(&mut dropped);
        (waited_for, dropped)
    }

    /// A new object, of which the client has a proxy.
    pub(super) fn create(
        &mut self,
        client: ClientId,
        kind: Kind,
        state: State,
        holds: &[u64],
    ) -> (u64, Dropped) {
        let mut dropped = Dropped::new();
        self.sweep(&mut dropped);
        let id = self.number();
        let entry = Entry {
            object: Arc::new(Object::new(kind, state)),
            leases: 0,
            tickets: 0,
            stored: 0,
            passed_on: false,
            holds: HashSet::new(),
        };
        self.objects.insert(id, entry);
        self.hold(id, holds);
        // it was just made
        let _ = self.lease(client, id);
        (id, dropped)
    }

    fn lease(&mut self, client: ClientId, id: u64) -> Result<(), ManagerError> {
        self.entry(id)?.leases += 1;
        self.lingering.remove(&id);
        let session = self.clients.entry(client).or_default();
        *session.leases.entry(id).or_default() += 1;
        Ok(())
    }

    /// A proxy has arrived with this ticket.
    pub(super) fn acquire(
        &mut self,
        client: ClientId,
        id: u64,
        ticket: u64,
    ) -> Result<Dropped, ManagerError> {
        self.lease(client, id)?;
        let mut dropped = Dropped::new();
        if self.tickets.get(&ticket).is_some_and(|(object, _)| *object == id) {
            self.redeem(ticket, &mut dropped);
        }
        Ok(dropped)
    }

    fn redeem(&mut self, ticket: u64, dropped: &mut Dropped) {
        if let Some((id, _)) = self.tickets.remove(&ticket)
            && let Ok(entry) = self.entry(id)
        {
            entry.tickets -= 1;
            self.free_if_unused(id, dropped);
        }
    }

    /// The client has dropped a proxy.
    pub(super) fn release(&mut self, client: ClientId, id: u64) -> Dropped {
        let mut dropped = Dropped::new();
        let Some(session) = self.clients.get_mut(&client) else { return dropped };
        let Some(count) = session.leases.get_mut(&id) else { return dropped };
        *count -= 1;
        if *count == 0 {
            session.leases.remove(&id);
        }
        if let Ok(entry) = self.entry(id) {
            entry.leases -= 1;
            self.free_if_unused(id, &mut dropped);
        }
        dropped
    }

    /// The client is about to pass a proxy on.
    pub(super) fn ticket(&mut self, client: ClientId, id: u64) -> Result<u64, ManagerError> {
        let entry = self.entry(id)?;
        entry.tickets += 1;
        entry.passed_on = true;
        let ticket = self.number();
        self.tickets.insert(ticket, (id, client));
        Ok(ticket)
    }

    /// Proxies of these objects were stored in `container`. They are held until it is emptied or dropped.
    pub(super) fn hold(&mut self, container: u64, references: &[u64]) {
        for &id in references {
            if id == container {
                continue; // it would never be dropped
            }
            let is_new = self.entry(container).is_ok_and(|entry| entry.holds.insert(id));
            if let Ok(entry) = self.entry(id) {
                entry.passed_on = true;
                entry.stored += usize::from(is_new);
            }
        }
    }

    /// The container is empty, or has other contents now.
    pub(super) fn let_go(&mut self, container: u64, keep: &[u64]) -> Dropped {
        let mut dropped = Dropped::new();
        let Ok(entry) = self.entry(container) else { return dropped };
        if entry.holds.is_empty() {
            return dropped;
        }
        let (kept, gone): (HashSet<_>, HashSet<_>) =
            entry.holds.drain().partition(|id| keep.contains(id));
        entry.holds = kept;
        for id in gone {
            self.unstore(id, &mut dropped);
        }
        dropped
    }

    fn unstore(&mut self, id: u64, dropped: &mut Dropped) {
        if let Ok(entry) = self.entry(id) {
            entry.stored -= 1;
            self.free_if_unused(id, dropped);
        }
    }

    fn free_if_unused(&mut self, id: u64, dropped: &mut Dropped) {
        let linger = self.linger;
        let Ok(entry) = self.entry(id) else { return };
        if entry.leases + entry.tickets + entry.stored > 0 {
            return;
        }
        if entry.passed_on && !linger.is_zero() {
            // so far away that it is never reached: for ever
            if let Some(until) = Instant::now().checked_add(linger) {
                self.lingering.insert(id, until);
            }
        } else {
            self.remove(id, dropped);
        }
    }

    fn remove(&mut self, id: u64, dropped: &mut Dropped) {
        let mut gone = vec![id];
        // not by recursion: lists may be nested deeply
        while let Some(id) = gone.pop() {
            self.lingering.remove(&id);
            let Some(entry) = self.objects.remove(&id) else { continue };
            dropped.push(entry.object);
            for held in entry.holds {
                let Ok(entry) = self.entry(held) else { continue };
                entry.stored -= 1;
                if entry.leases + entry.tickets + entry.stored == 0 {
                    if self.linger.is_zero() {
                        gone.push(held);
                    } else {
                        let until = Instant::now().checked_add(self.linger);
                        self.lingering.extend(until.map(|until| (held, until)));
                    }
                }
            }
        }
    }

    /// Drops what was kept for long enough.
    fn sweep(&mut self, dropped: &mut Dropped) {
        if self.lingering.is_empty() {
            return;
        }
        let now = Instant::now();
        let over: Vec<_> =
            self.lingering.iter().filter(|(_, until)| **until <= now).map(|(id, _)| *id).collect();
        for id in over {
            self.remove(id, dropped);
        }
    }

    /// Drops it, whoever has proxies.
    pub(super) fn destroy(&mut self, id: u64) -> Result<Dropped, ManagerError> {
        self.entry(id)?;
        let mut dropped = Dropped::new();
        self.names.retain(|_, named| *named != id);
        self.remove(id, &mut dropped);
        Ok(dropped)
    }

    pub(super) fn publish(&mut self, name: &str, id: u64) -> Result<Dropped, ManagerError> {
        let entry = self.entry(id)?;
        entry.stored += 1;
        entry.passed_on = true;
        let mut dropped = Dropped::new();
        if let Some(before) = self.names.insert(name.to_owned(), id) {
            self.unstore(before, &mut dropped);
        }
        Ok(dropped)
    }

    pub(super) fn lookup(
        &mut self,
        client: ClientId,
        name: &str,
        kind: Kind,
    ) -> Result<u64, ManagerError> {
        let not_there = || ManagerError::NotPublished(name.to_owned());
        let id = *self.names.get(name).ok_or_else(not_there)?;
        let found = self.get(id)?.kind;
        if found != kind {
            let (expected, found) = (format!("{kind:?}"), format!("{found:?}"));
            return Err(ManagerError::WrongKind { expected, found });
        }
        self.lease(client, id)?;
        Ok(id)
    }
}
