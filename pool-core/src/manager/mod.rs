//! Shared objects in a server process, and typed proxies of them: what Python's `multiprocessing.Manager` is.

mod address;
mod auth;
mod builder;
mod dict;
mod error;
mod frame;
mod lane;
mod link;
mod list;
mod locks;
mod method;
mod proxy;
mod queue;
mod registered;
mod server;
mod signals;
mod spin;
mod value;

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use builder::ManagerBuilder;
pub use dict::{Dict, KeyRef, Namespace};
pub use error::{LockError, ManagerError, Poisoned, Recover};
pub use list::{Array, List};
pub use locks::{Condition, Lock, LockGuard, LockResult, RLock, RLockGuard, Relock};
pub use proxy::Shared;
pub use queue::Queue;
pub use registered::{Exposed, Registered};
pub use signals::{Barrier, BoundedSemaphore, Event, Permit, Semaphore};
pub use value::Value;

use address::Address;
use auth::Key;
use frame::{Op, put_u64};
use link::Link;
use proxy::create;
use server::Server;

use crate::limits::KILL_WAIT;
use crate::process::Process;

/// A server of shared objects: lists, maps, queues, locks, and types of your own, which processes on this machine and others use through proxies.
///
/// Proxies are plain values. They may be passed to tasks, processes, nested pools, through queues, as results, and be stored in other objects of the manager.
/// Every operation is a round trip to the server, some 5 to 100 microseconds on one machine, less if they follow each other closely; every operation is atomic.
/// Many items at a time ([`List::extend`], [`List::snapshot`], [`List::update`]) cost one round trip.
///
/// The manager ends with [`shutdown`](Manager::shutdown), when the `Manager` that started it is dropped, and with the program that started it. Every proxy
/// then gives [`ManagerError::Died`]; nobody waits for ever. One that is only stopped is noticed within ten seconds ([`ManagerError::Unresponsive`]).
///
/// # Clients that die
/// Locks and permits of a process that ends are had back, at most a tenth of a second after its end if threads of it were waiting for something: the next taker of a lock is told, see
/// [`LockError::Poisoned`]. What it was waiting for goes to others.
///
/// # How long objects live
/// As long as somebody has a proxy: a process, another object of the manager in which one was stored (until that is cleared or gone), a name by which it was
/// [published](Manager::publish), or the bytes of one that were made and not yet decoded, as long as the process lives that has made them. When nobody has one, the object is dropped at once if
/// its proxies were never passed on; otherwise an hour later ([`linger`](ManagerBuilder::linger)), because a task that is tried again, say, decodes the
/// same bytes twice. Objects that hold proxies of each other in a circle stay until one of them is [destroyed](List::destroy).
///
/// # Security
/// Every connection begins with a proof, by both sides, that they know the manager's key. The key is in each proxy: whoever gets a proxy can use the manager, and
/// who can use it can run functions of the executable in it. Nothing is encrypted: between machines use a network that you trust, or a tunnel.
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// # pool_core::init();
/// use pool_core::{Manager, Pool, manager::List};
/// let manager = Manager::new()?;
/// let found: List<u64> = manager.list([])?;
/// let search = |found: List<u64>, x: u64| -> anyhow::Result<()> {
///     if x % 7 == 0 {
///         found.push(&x)?;
///     }
///     Ok(())
/// };
/// Pool::new(2)?.starmap(search, (1..=10).map(|x| (found.clone(), x)))?;
/// assert_eq!(found.snapshot()?, [7]);
/// # Ok(())
/// # }
/// ```
pub struct Manager {
    link: Arc<Link>,
    keeper: Keeper,
    address: String,
}

/// Who looks after the server.
enum Keeper {
    Process(Process<()>),
    Threads(Arc<Server>),
    /// Somebody else.
    Other,
}

impl Manager {
    /// Starts a manager: see [`ManagerBuilder::start`].
    ///
    /// # Errors
    /// As there.
    pub fn new() -> Result<Manager, ManagerError> {
        Manager::builder().start()
    }

    /// A manager with other settings.
    pub fn builder() -> ManagerBuilder {
        ManagerBuilder::default()
    }

    /// The manager at this address (see [`ManagerBuilder::bind`]), which somebody else looks after. Blocks until it answers, at most some seconds.
    ///
    /// # Errors
    /// [`WrongKey`](ManagerError::WrongKey), [`Died`](ManagerError::Died) if there is none, [`Unresponsive`](ManagerError::Unresponsive),
    /// [`Protocol`](ManagerError::Protocol) if something else answers.
    pub fn connect(
        address: impl AsRef<str>,
        authkey: impl AsRef<[u8]>,
    ) -> Result<Manager, ManagerError> {
        let link = Link::connect(Address::parse(address.as_ref()), Key::of(authkey.as_ref()))?;
        Ok(Manager::of(link, Keeper::Other))
    }

    fn of(link: Arc<Link>, keeper: Keeper) -> Manager {
        let address = link.address.to_string();
        Manager { link, keeper, address }
    }

    /// Its address, with the port that the system has chosen.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The process id of the server, if this `Manager` has started it as a process.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        match &self.keeper {
            Keeper::Process(process) => process.pid(),
            _ => None,
        }
    }

    /// Whether it answers.
    ///
    /// # Errors
    /// Why not.
    pub fn ping(&self) -> Result<(), ManagerError> {
        self.link.call(Op::Ping, 0, |_| Ok(Vec::new()), |_| Ok(()))
    }

    /// How many objects there are, those included that are only kept for a while.
    ///
    /// # Errors
    /// The manager can't be asked.
    pub fn objects(&self) -> Result<u64, ManagerError> {
        self.link.call(Op::Objects, 0, |_| Ok(Vec::new()), frame::u64)
    }

    /// Ends the manager, if this `Manager` has started it; otherwise does nothing. Returns when it has ended: after two seconds at most the process is
    /// killed. Objects are dropped, and every proxy gives [`ManagerError::Died`].
    pub fn shutdown(&self) {
        match &self.keeper {
            Keeper::Process(process) => {
                let asked = process.is_alive() && self.link.tell_at_once(Op::Shutdown);
                if !asked || !process.wait_timeout(2 * KILL_WAIT) {
                    // ended already, perhaps
                    let _ = process.kill();
                    process.wait_timeout(KILL_WAIT);
                }
                self.link.forget();
            }
            Keeper::Threads(server) => {
                server.stop();
                server.wait();
                self.link.forget();
            }
            Keeper::Other => {}
        }
    }

    /// Waits until the manager ends: for programs whose purpose is to be one. Returns at once if this `Manager` was [connected](Manager::connect).
    pub fn wait(&self) {
        match &self.keeper {
            Keeper::Process(process) => {
                process.wait();
            }
            Keeper::Threads(server) => server.wait(),
            Keeper::Other => {}
        }
    }

    /// A list of these elements.
    ///
    /// # Errors
    /// An element can't be encoded; the manager can't be asked.
    pub fn list<T: Serialize + 'static>(
        &self,
        items: impl IntoIterator<Item = T>,
    ) -> Result<List<T>, ManagerError> {
        // proxies among them must live until the manager holds their objects
        let items: Vec<T> = items.into_iter().collect();
        create(&self.link, |out| list::write_items(&self.link, &items, out))
    }

    /// An array of these elements.
    ///
    /// # Errors
    /// As [`list`](Manager::list).
    pub fn array<T: Serialize + 'static>(
        &self,
        items: impl IntoIterator<Item = T>,
    ) -> Result<Array<T>, ManagerError> {
        // proxies among them must live until the manager holds their objects
        let items: Vec<T> = items.into_iter().collect();
        create(&self.link, |out| list::write_items(&self.link, &items, out))
    }

    /// A map of these keys and values.
    ///
    /// # Errors
    /// As [`list`](Manager::list).
    pub fn dict<K, V>(
        &self,
        entries: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Dict<K, V>, ManagerError>
    where
        K: Serialize + DeserializeOwned + 'static,
        V: Serialize + DeserializeOwned + 'static,
    {
        let dict: Dict<K, V> = create(&self.link, |_| Ok(Vec::new()))?;
        let mut entries = entries.into_iter().peekable();
        if entries.peek().is_some() {
            dict.extend(entries)?;
        }
        Ok(dict)
    }

    /// An empty namespace.
    ///
    /// # Errors
    /// The manager can't be asked.
    pub fn namespace(&self) -> Result<Namespace, ManagerError> {
        create(&self.link, |_| Ok(Vec::new()))
    }

    /// A value.
    ///
    /// # Errors
    /// It can't be encoded; the manager can't be asked.
    pub fn value<T: Serialize + 'static>(&self, value: T) -> Result<Value<T>, ManagerError> {
        create(&self.link, |out| self.link.encode_to_stay(&value, out))
    }

    /// A queue of at most so many items; `None`: of any number.
    ///
    /// # Errors
    /// The manager can't be asked.
    pub fn queue<T>(&self, bound: Option<usize>) -> Result<Queue<T>, ManagerError> {
        let bound = bound.map_or(u64::MAX, |bound| bound as u64);
        create(&self.link, numbers(bound))
    }

    /// A free lock.
    ///
    /// # Errors
    /// The manager can't be asked.
    pub fn lock(&self) -> Result<Lock, ManagerError> {
        create(&self.link, |_| Ok(Vec::new()))
    }

    /// A free reentrant lock.
    ///
    /// # Errors
    /// The manager can't be asked.
    pub fn rlock(&self) -> Result<RLock, ManagerError> {
        create(&self.link, |_| Ok(Vec::new()))
    }

    /// A semaphore with so many permits.
    ///
    /// # Errors
    /// The manager can't be asked.
    pub fn semaphore(&self, permits: u32) -> Result<Semaphore, ManagerError> {
        create(&self.link, numbers(permits.into()))
    }

    /// A semaphore that never has more than so many permits.
    ///
    /// # Errors
    /// The manager can't be asked.
    pub fn bounded_semaphore(&self, permits: u32) -> Result<BoundedSemaphore, ManagerError> {
        create(&self.link, numbers(permits.into()))
    }

    /// A condition variable.
    ///
    /// # Errors
    /// The manager can't be asked.
    pub fn condition(&self) -> Result<Condition, ManagerError> {
        create(&self.link, |_| Ok(Vec::new()))
    }

    /// An event that is not set.
    ///
    /// # Errors
    /// The manager can't be asked.
    pub fn event(&self) -> Result<Event, ManagerError> {
        create(&self.link, |_| Ok(Vec::new()))
    }

    /// A barrier for so many parties.
    ///
    /// # Errors
    /// [`Config`](ManagerError::Config) for none; the manager can't be asked.
    pub fn barrier(&self, parties: usize) -> Result<Barrier, ManagerError> {
        create(&self.link, numbers(parties as u64))
    }

    /// A value of a type that was [registered](ManagerBuilder::register), made by its function from `args`. `T` is for this program's eyes: the
    /// manager goes by the name.
    ///
    /// # Errors
    /// [`UnknownType`](ManagerError::UnknownType), which lists those there are; [`Failed`](ManagerError::Failed) and [`Panicked`](ManagerError::Panicked), if the
    /// function has; [`Decode`](ManagerError::Decode), if the arguments are of other types; the manager can't be asked.
    pub fn create<T>(
        &self,
        name: &str,
        args: impl Serialize + 'static,
    ) -> Result<Registered<T>, ManagerError> {
        Registered::create(&self.link, name, &args)
    }

    /// Makes an object of this manager known by a name, to be found by [`lookup`](Manager::lookup); an object that had the name loses it.
    ///
    /// # Errors
    /// The manager can't be asked.
    pub fn publish<S: Shared>(&self, name: &str, object: &S) -> Result<(), ManagerError> {
        if object.proxy().link().instance != self.link.instance {
            return Err(ManagerError::Config("the object is another manager's".to_owned()));
        }
        proxy::publish(name, object)
    }

    /// What was [published](Manager::publish) by this name.
    ///
    /// # Errors
    /// [`NotPublished`](ManagerError::NotPublished), [`WrongKind`](ManagerError::WrongKind); the manager can't be asked.
    pub fn lookup<S: Shared>(&self, name: &str) -> Result<S, ManagerError> {
        proxy::lookup(&self.link, name)
    }
}

fn numbers(number: u64) -> impl FnOnce(&mut Vec<u8>) -> Result<Vec<u64>, ManagerError> {
    move |out| {
        put_u64(out, number);
        Ok(Vec::new())
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manager")
            .field("address", &self.address)
            .field("pid", &self.pid())
            .finish_non_exhaustive()
    }
}

/// As [`connected`](Manager::connect): who gets it can make objects, and looks after nothing.
impl Serialize for Manager {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Key(key) = self.link.key;
        (&self.address, key, self.link.instance).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Manager {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Manager, D::Error> {
        let (address, key, instance) = <(String, [u8; 32], u64)>::deserialize(deserializer)?;
        let link = Link::of(Address::parse(&address), Key(key), instance);
        Ok(Manager::of(link, Keeper::Other))
    }
}
