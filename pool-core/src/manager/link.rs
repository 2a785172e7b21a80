//! The client's side of one manager: connections that all threads of the process share, each used by one operation at a time.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, Weak};

use serde::Serialize;

use super::address::{Address, Stream};
use super::auth::{self, Client, ClientId, Identity, Key, Refusal};
use super::frame::{self, Body, Inlet, Op};
use super::lane::Lane;
use super::{ManagerError, proxy};
use crate::codec;
use crate::limits::{MANAGER_CLIENT_SPIN, MANAGER_FRAME_BYTES, MANAGER_LINKS, MANAGER_PATIENCE};
use crate::primitives::unpoisoned;
use crate::sys::process::image_id;

/// The links of this process. Global because proxies come into being wherever a value is decoded.
static LINKS: Mutex<Option<Links>> = Mutex::new(None);

#[derive(Default)]
struct Links {
    /// All of them, by address and instance, so that each manager is connected to once.
    all: HashMap<(Address, u64), Weak<Link>>,
    /// Those that are kept also when no proxy is left: the next task of a worker is likely to have one again.
    recent: VecDeque<Arc<Link>>,
}

/// Who this process is to managers, with its number: a copy made by `fork` is somebody else.
static ME: Mutex<Option<(u32, ClientId)>> = Mutex::new(None);

fn me() -> io::Result<Client> {
    let pid = std::process::id();
    let mut me = unpoisoned(ME.lock());
    let id = match *me {
        Some((owner, id)) if owner == pid => id,
        _ => {
            let id = auth::random()?;
            *me = Some((pid, id));
            id
        }
    };
    Ok(Client { id, image: image_id()? })
}

/// What is known of one manager, and the way to it.
pub(super) struct Link {
    pub(super) address: Address,
    pub(super) key: Key,
    pub(super) instance: u64,
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    /// Which process has opened them: a copy made by `fork` must not use them.
    owner: u32,
    connections: Vec<Connection>,
}

struct Connection {
    stream: Stream,
    inlet: Inlet,
    out: Vec<u8>,
    same_image: bool,
    /// Something without a reply was told last: what follows must not overtake it.
    told: bool,
}

impl Connection {
    /// Sends something that has no reply.
    fn tell(&mut self, op: Op, object: u64) -> bool {
        frame::begin(&mut self.out, op, object);
        if let Some(lane) = self.inlet.lane() {
            lane.announce();
        }
        self.told = true;
        let stalled = || Err(io::ErrorKind::TimedOut.into());
        frame::end(&mut self.out, &[]).is_ok()
            && frame::send(&self.stream, &self.out, stalled).is_ok()
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Link {
    /// To the manager that is at this address now.
    pub(super) fn connect(address: Address, key: Key) -> Result<Arc<Link>, ManagerError> {
        let (connection, identity) = open(&address, &key)?;
        let link = Link::of(address, key, identity.instance);
        link.put_back(connection);
        Ok(link)
    }

    /// To a manager that was known by somebody. Does not connect yet.
    pub(super) fn of(address: Address, key: Key, instance: u64) -> Arc<Link> {
        let mut links = unpoisoned(LINKS.lock());
        let Links { all, recent } = links.get_or_insert_default();
        let name = (address.clone(), instance);
        if let Some(link) = all.get(&name).and_then(Weak::upgrade).filter(|l| l.key == key) {
            return link;
        }
        all.retain(|_, link| link.strong_count() > 0);
        let link = Arc::new(Link { address, key, instance, idle: Mutex::default() });
        all.insert(name, Arc::downgrade(&link));
        recent.push_back(Arc::clone(&link));
        if recent.len() > MANAGER_LINKS {
            recent.pop_front();
        }
        link
    }

    /// The manager is gone: nothing of it is kept.
    pub(super) fn forget(&self) {
        let mut links = unpoisoned(LINKS.lock());
        let recent = &mut links.get_or_insert_default().recent;
        recent.retain(|link| link.instance != self.instance);
        drop(links);
        unpoisoned(self.idle.lock()).connections.clear();
    }

    fn take(&self) -> Result<Connection, ManagerError> {
        if let Some(connection) = self.take_idle() {
            return Ok(connection);
        }
        let (connection, identity) = open(&self.address, &self.key)?;
        self.check(identity)?;
        Ok(connection)
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = unpoisoned(self.idle.lock());
        if idle.owner != std::process::id() {
            // closing this process' copies does not concern the owner
            idle.connections.clear();
        }
        idle.connections.pop()
    }

    fn put_back(&self, mut connection: Connection) {
        frame::shrink(&mut connection.out);
        let mut idle = unpoisoned(self.idle.lock());
        let pid = std::process::id();
        if idle.owner != pid {
            idle.connections.clear();
            idle.owner = pid;
        }
        idle.connections.push(connection);
    }

    fn check(&self, identity: Identity) -> Result<(), ManagerError> {
        if identity.instance == self.instance {
            return Ok(());
        }
        Err(self.died("another one is at its address"))
    }

    fn died(&self, reason: &str) -> ManagerError {
        ManagerError::Died { address: self.address.to_string(), reason: reason.to_owned() }
    }

    /// One operation: `write` appends its body and gives the objects that are mentioned in it, `read` takes the result out of the reply. Blocks until the
    /// manager answers.
    pub(super) fn call<R>(
        &self,
        op: Op,
        object: u64,
        write: impl FnOnce(&mut Vec<u8>) -> Result<Vec<u64>, ManagerError>,
        read: impl FnOnce(&mut Body<'_>) -> Result<R, ManagerError>,
    ) -> Result<R, ManagerError> {
        let mut used = Used { link: self, connection: Some(self.take()?) };
        let Some(connection) = &mut used.connection else { return Err(self.died("never")) };
        frame::begin(&mut connection.out, op, object);
        let references = write(&mut connection.out)?;
        frame::end(&mut connection.out, &references)?;
        if runs_code(op) && !connection.same_image {
            return Err(ManagerError::OtherExecutable);
        }
        let body = match self.exchange(connection) {
            Ok(body) => body,
            Err(error) => {
                // it is in the middle of something
                used.connection = None;
                if matches!(error, ManagerError::Died { .. }) {
                    self.forget();
                }
                return Err(error);
            }
        };
        let mut body = Body(body);
        match body.u8() {
            Ok(frame::DONE) => read(&mut body).map_err(|error| self.name(error)),
            Ok(frame::REFUSED) => Err(codec::decode::<ManagerError>(body.0)
                .map_or_else(ManagerError::Decode, |error| self.name(error))),
            _ => Err(self.name_protocol("the reply is damaged")),
        }
    }

    fn exchange<'a>(&self, connection: &'a mut Connection) -> Result<&'a [u8], ManagerError> {
        let Connection { stream, inlet, out, told, .. } = connection;
        let mut unresponsive = None;
        let mut stalled = || {
            self.probe().map_err(|error| {
                unresponsive = Some(error);
                io::Error::other("the manager does not answer")
            })
        };
        inlet.look();
        let by_lane = !std::mem::take(told) && inlet.lane().is_some_and(|lane| lane.put(out));
        let sent = if by_lane { Ok(()) } else { frame::send(stream, out, &mut stalled) };
        let result = sent.and_then(|()| inlet.frame(stream, &mut stalled));
        match result {
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => Err(self.died("it has closed the connection")),
            Err(error) => Err(unresponsive.unwrap_or_else(|| self.died(&error.to_string()))),
        }
    }

    /// Tells something that has no reply. For drops: what can't be told is known to the manager when this process ends.
    pub(super) fn tell(&self, op: Op, object: u64) {
        let Some(mut connection) = self.take_idle().or_else(|| self.take().ok()) else { return };
        if connection.tell(op, object) {
            self.put_back(connection);
        }
    }

    /// The same, only if there is a connection that nobody uses, which is closed then.
    pub(super) fn tell_at_once(&self, op: Op) -> bool {
        self.take_idle().is_some_and(|mut connection| connection.tell(op, 0))
    }

    /// Nothing was heard for a while: asks on another connection whether the manager lives. It may well, if the operation takes long.
    fn probe(&self) -> Result<(), ManagerError> {
        let (connection, identity) = open(&self.address, &self.key)?;
        self.check(identity)?;
        drop(connection);
        Ok(())
    }

    fn name_protocol(&self, reason: &str) -> ManagerError {
        let address = self.address.to_string();
        ManagerError::Protocol { address, reason: reason.to_owned() }
    }

    /// Frames don't know where they come from.
    fn name(&self, error: ManagerError) -> ManagerError {
        match error {
            ManagerError::Protocol { reason, .. } => self.name_protocol(&reason),
            other => other,
        }
    }

    /// Appends an encoded value of whose proxies tickets are made: somebody will decode it.
    pub(super) fn encode<T: Serialize + 'static>(
        value: &T,
        out: &mut Vec<u8>,
    ) -> Result<(), ManagerError> {
        let limit = MANAGER_FRAME_BYTES as u64;
        codec::encode_value(value, out, limit).map_err(|e| ManagerError::unencodable(e, limit))
    }

    /// Appends an encoded value that stays in the manager; gives the objects whose proxies are in it.
    pub(super) fn encode_to_stay<T: Serialize + 'static>(
        &self,
        value: &T,
        out: &mut Vec<u8>,
    ) -> Result<Vec<u64>, ManagerError> {
        let (result, references) = proxy::collecting(self.instance, || Link::encode(value, out));
        result.map(|()| references)
    }
}

/// A connection in use, which is put back whatever happens to the operation: if the last one were closed, the manager would take this process for dead.
struct Used<'a> {
    link: &'a Link,
    connection: Option<Connection>,
}

impl Drop for Used<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.link.put_back(connection);
        }
    }
}

/// Whether the operation names functions by their place in the executable.
fn runs_code(op: Op) -> bool {
    matches!(op, Op::Update | Op::UpdateAt | Op::UpdateKey)
}

fn open(address: &Address, key: &Key) -> Result<(Connection, Identity), ManagerError> {
    let failed = |error: Refusal| refused(address, &error);
    let me = me().map_err(ManagerError::os("cannot tell who this process is"))?;
    let stream = address.connect(MANAGER_PATIENCE).map_err(|error| failed(error.into()))?;
    let identity = auth::greet(&stream, key, &me, MANAGER_PATIENCE).map_err(failed)?;
    stream.set_timeouts(Some(MANAGER_PATIENCE)).map_err(|error| failed(error.into()))?;
    let lane = Lane::offer(&stream).map_err(|error| failed(error.into()))?;
    let (inlet, out) = (Inlet::new(lane, MANAGER_CLIENT_SPIN), Vec::new());
    let same_image = identity.image == me.image;
    Ok((Connection { stream, inlet, out, same_image, told: false }, identity))
}

fn refused(address: &Address, refusal: &Refusal) -> ManagerError {
    let address = address.to_string();
    match refusal {
        Refusal::WrongKey => ManagerError::WrongKey { address },
        Refusal::Stranger => ManagerError::Protocol {
            address,
            reason: "what answers is no manager, or one of another version".to_owned(),
        },
        Refusal::Io(error) => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                ManagerError::Unresponsive { address, waited: MANAGER_PATIENCE }
            }
            _ => ManagerError::Died { address, reason: error.to_string() },
        },
    }
}
