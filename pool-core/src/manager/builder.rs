//! How a manager is started: as a process of its own, or in this program.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::address::{Address, Listener, Stream};
use super::auth::{self, Key};
use super::link::Link;
use super::registered::{Exposed, TypeNames};
use super::server::Server;
use super::{Keeper, Manager, ManagerError};
use crate::limits::{DEFAULT_START_TIMEOUT, MANAGER_LINGER, MANAGER_SLICE};
use crate::process::{Process, ProcessBuilder};
use crate::sys::poll::wait_readable;

/// Settings of a manager that is to be started. See [`Manager::builder`].
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// # pool_core::init();
/// let manager = pool_core::Manager::builder().bind("127.0.0.1:0").authkey("a long secret").start()?;
/// let remote = pool_core::Manager::connect(manager.address(), "a long secret")?;
/// manager.publish("greeting", &manager.value("hello".to_owned())?)?;
/// let greeting: pool_core::manager::Value<String> = remote.lookup("greeting")?;
/// assert_eq!(greeting.get()?, "hello");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
#[must_use = "call start() or serve()"]
pub struct ManagerBuilder {
    address: Option<String>,
    key: Option<Key>,
    types: Vec<TypeNames>,
    linger: Option<Duration>,
    process: Option<ProcessBuilder>,
}

/// What the server process is told.
#[derive(Serialize, Deserialize)]
struct Setup {
    address: String,
    /// Where the server tells that it is there, and at which address.
    cradle: String,
    key: [u8; 32],
    types: Vec<TypeNames>,
    linger: Duration,
}

impl ManagerBuilder {
    /// The address: `host:port` for TCP, where port 0 lets the system choose, or `@name` for a Unix socket in the abstract namespace, which leaves
    /// nothing in the file system. Default: such a socket with a random name.
    pub fn bind(mut self, address: impl Into<String>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// The key that all clients must know. Whoever knows it can do what a task can do, so it must be long and random unless the machine is trusted; it may be
    /// empty. Default: a random one, which travels in the proxies.
    pub fn authkey(mut self, key: impl AsRef<[u8]>) -> Self {
        self.key = Some(Key::of(key.as_ref()));
        self
    }

    /// Offers a type of your own: see [`Exposed`].
    pub fn register<T: Send + 'static>(mut self, exposed: Exposed<T>) -> Self {
        self.types.push(exposed.into_names());
        self
    }

    /// How long an object is kept when nobody is known to have a proxy of it, if its proxies have been passed on before: somebody may still have the bytes
    /// of one that were decoded once already. Default: one hour. [`Duration::MAX`]: as long as the manager lives. Zero: not at all.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = Some(linger);
        self
    }

    /// Settings of the server process, for [`start`](ManagerBuilder::start): its name, environment, memory limit.
    pub fn process(mut self, process: ProcessBuilder) -> Self {
        self.process = Some(process);
        self
    }

    fn address(&self) -> Result<Address, ManagerError> {
        match &self.address {
            Some(address) => Ok(Address::parse(address)),
            None => fresh_name("manager"),
        }
    }

    fn key(&self) -> Result<Key, ManagerError> {
        let failed = ManagerError::os("cannot make a random key");
        self.key.map_or_else(|| Key::random().map_err(failed), Ok)
    }

    /// Starts a process, a copy of this executable, that serves until [`Manager::shutdown`] is called, the `Manager` is dropped, or this process ends. Blocks
    /// until it is there, some milliseconds.
    ///
    /// # Errors
    /// [`StartFailed`](ManagerError::StartFailed): the process did not start, or can't have the address. [`Os`](ManagerError::Os).
    pub fn start(self) -> Result<Manager, ManagerError> {
        let (address, key) = (self.address()?, self.key()?);
        let cradle = fresh_name("cradle")?;
        let cradle_listener =
            cradle.listen().map_err(ManagerError::os("cannot listen for the manager"))?;
        let setup = Setup {
            address: address.to_string(),
            cradle: cradle.to_string(),
            key: key.0,
            types: self.types,
            linger: self.linger.unwrap_or(MANAGER_LINGER),
        };
        let process = self.process.unwrap_or_else(|| ProcessBuilder::default().name("Manager"));
        let process = process.daemon(true).spawn(serve_in_process, (setup,));
        let process = process.map_err(|error| ManagerError::StartFailed(error.to_string()))?;
        let link = await_server(&cradle_listener, &process, &key)
            .and_then(|address| Link::connect(address, key));
        match link {
            Ok(link) => Ok(Manager::of(link, Keeper::Process(process))),
            Err(error) => {
                // ended already, perhaps
                let _ = process.kill();
                process.wait();
                Err(error)
            }
        }
    }

    /// Serves in this program, by threads of it, until [`Manager::shutdown`] is called or the `Manager` is dropped. For programs whose purpose is to be a
    /// manager for others; see [`Manager::wait`].
    ///
    /// # Errors
    /// [`Os`](ManagerError::Os): the address can't be had.
    pub fn serve(self) -> Result<Manager, ManagerError> {
        let (address, key) = (self.address()?, self.key()?);
        let server = Server::new(key, &self.types, self.linger.unwrap_or(MANAGER_LINGER))?;
        let failed = ManagerError::os("cannot serve");
        let listener = address.listen().map_err(&failed)?;
        let address = listener.address(&address).map_err(&failed)?;
        let running = Arc::clone(&server);
        let serve = move || {
            // its end is told to everybody by their connections
            let _ = running.run(&listener);
        };
        std::thread::Builder::new().name("manager".to_owned()).spawn(serve).map_err(&failed)?;
        match Link::connect(address, key) {
            Ok(link) => Ok(Manager::of(link, Keeper::Threads(server))),
            Err(error) => {
                server.stop();
                Err(error)
            }
        }
    }
}

fn fresh_name(what: &str) -> Result<Address, ManagerError> {
    let bytes: [u8; 16] = auth::random().map_err(ManagerError::os("cannot make a random name"))?;
    Ok(Address::Local(format!("pool-core-{what}-{:032x}", u128::from_le_bytes(bytes))))
}

/// What the server process runs.
fn serve_in_process(setup: Setup) -> anyhow::Result<()> {
    let Setup { address, cradle, key, types, linger } = setup;
    let server = Server::new(Key(key), &types, linger)?;
    let address = Address::parse(&address);
    let listener =
        address.listen().map_err(|error| anyhow::anyhow!("cannot listen at {address}: {error}"))?;
    let address = listener.address(&address)?.to_string();
    let stream = Address::parse(&cradle).connect(DEFAULT_START_TIMEOUT)?;
    let proof = Key(key).sign("address", &[address.as_bytes()]);
    let mut message = proof.as_bytes().to_vec();
    message.extend_from_slice(address.as_bytes());
    stream.write(&message)?;
    drop(stream);
    server.run(&listener)?;
    Ok(())
}

/// Waits until the server tells its address, or ends.
fn await_server(
    cradle: &Listener,
    process: &Process<()>,
    key: &Key,
) -> Result<Address, ManagerError> {
    let failed = |error: io::Error| ManagerError::StartFailed(error.to_string());
    let deadline = Instant::now() + DEFAULT_START_TIMEOUT;
    loop {
        let slice = Instant::now() + MANAGER_SLICE;
        if wait_readable(cradle.as_fd(), Some(slice)).map_err(failed)? {
            let stream = cradle.accept().map_err(failed)?;
            if let Some(address) = hear(&stream, key) {
                return Ok(address);
            }
        }
        if !process.is_alive() {
            let reason = match process.join() {
                Ok(()) => "the process has ended".to_owned(),
                Err(error) => error.to_string(),
            };
            return Err(ManagerError::StartFailed(reason));
        }
        if Instant::now() >= deadline {
            let text = format!("the process did not answer within {DEFAULT_START_TIMEOUT:?}");
            return Err(ManagerError::StartFailed(text));
        }
    }
}

/// The address, if whoever tells it knows the key.
fn hear(stream: &Stream, key: &Key) -> Option<Address> {
    stream.set_timeouts(Some(MANAGER_SLICE)).ok()?;
    let mut message = Vec::new();
    let mut buffer = [0; 512];
    while message.len() <= buffer.len() {
        match stream.read(&mut buffer).ok()? {
            0 => break,
            got => message.extend_from_slice(&buffer[..got]),
        }
    }
    let (proof, address) = message.split_first_chunk::<32>()?;
    let is_right = blake3::Hash::from_bytes(*proof) == key.sign("address", &[address]);
    let address = std::str::from_utf8(address).ok().filter(|_| is_right)?;
    Some(Address::parse(address))
}
