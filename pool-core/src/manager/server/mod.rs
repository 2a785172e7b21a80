//! The manager's own side: objects, and one thread for each connection.

mod connection;
mod containers;
mod object;
mod registry;
mod waits;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use super::ManagerError;
use super::address::{Listener, Stream};
use super::auth::{self, Identity, Key};
use super::method::{self, Method};
use super::registered::TypeNames;
use crate::limits::MANAGER_STRANGERS;
use crate::primitives::unpoisoned;
use crate::sys::poll::wait_readable;
use crate::sys::process::image_id;
use crate::sys::socket::stream_pair;
use registry::{Dropped, Registry};

/// What all threads of a server share.
pub(super) struct Server {
    key: Key,
    identity: Identity,
    types: HashMap<String, Type>,
    registry: Mutex<Registry>,
    stop: Stop,
}

/// A type that the user has registered.
struct Type {
    make: Method,
    methods: Arc<HashMap<String, Method>>,
}

/// How the threads are told to end.
struct Stop {
    requested: AtomicBool,
    /// Readable when it was requested: the accepting thread watches it.
    watched: OwnedFd,
    bell: Mutex<Option<OwnedFd>>,
    /// All connections, to be shut down; by a number.
    streams: Mutex<HashMap<usize, Stream>>,
    next: AtomicUsize,
    strangers: AtomicUsize,
    /// Notified when the accepting thread has ended.
    ended: (Mutex<bool>, Condvar),
}

impl Server {
    pub(super) fn new(
        key: Key,
        types: &[TypeNames],
        linger: Duration,
    ) -> Result<Arc<Server>, ManagerError> {
        let failed = ManagerError::os("cannot start a manager");
        let instance = u64::from_le_bytes(auth::random().map_err(&failed)?);
        let image = image_id().map_err(&failed)?;
        let (watched, bell) = stream_pair().map_err(&failed)?;
        let unknown = || ManagerError::Config("a registered function can't be found".to_owned());
        let mut by_name = HashMap::new();
        for TypeNames { name, make, methods } in types {
            let methods = methods.iter().map(|(name, function)| {
                Ok((name.clone(), method::find(*function).ok_or_else(unknown)?))
            });
            let methods = Arc::new(methods.collect::<Result<HashMap<_, _>, ManagerError>>()?);
            let make = method::find(*make).ok_or_else(unknown)?;
            by_name.insert(name.clone(), Type { make, methods });
        }
        Ok(Arc::new(Server {
            key,
            identity: Identity { instance, image },
            types: by_name,
            registry: Mutex::new(Registry::new(linger)),
            stop: Stop {
                requested: AtomicBool::new(false),
                watched,
                bell: Mutex::new(Some(bell)),
                streams: Mutex::default(),
                next: AtomicUsize::new(0),
                strangers: AtomicUsize::new(0),
                ended: (Mutex::new(false), Condvar::new()),
            },
        }))
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        unpoisoned(self.registry.lock())
    }

    /// Serves clients until [`stop`](Server::stop) is called.
    pub(super) fn run(self: &Arc<Self>, listener: &Listener) -> io::Result<()> {
        let result = self.accept_all(listener);
        self.stop();
        for stream in unpoisoned(self.stop.streams.lock()).values() {
            stream.shut_down();
        }
        *unpoisoned(self.stop.ended.0.lock()) = true;
        self.stop.ended.1.notify_all();
        result
    }

    fn accept_all(self: &Arc<Self>, listener: &Listener) -> io::Result<()> {
        listener.set_nonblocking()?;
        let mut both = crate::sys::poll::Watch::new()?;
        let watch = &mut both;
        watch.add(listener.as_fd(), 0)?;
        watch.add(self.stop.watched.as_fd(), 1)?;
        let mut ready = Vec::new();
        while !self.is_stopping() {
            ready.clear();
            watch.wait(None, &mut ready)?;
            if !ready.contains(&0) {
                continue;
            }
            match listener.accept() {
                Ok(stream) => self.welcome(stream),
                Err(error) if is_exhausted(&error) => {
                    // no descriptor is free: clients wait in the queue until there is
                    wait_readable(self.stop.watched.as_fd(), Some(soon()))?;
                }
                // it is gone again
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn welcome(self: &Arc<Self>, stream: Stream) {
        if self.stop.strangers.fetch_add(1, Ordering::SeqCst) >= MANAGER_STRANGERS {
            self.stop.strangers.fetch_sub(1, Ordering::SeqCst);
            return;
        }
        let server = Arc::clone(self);
        let serve = move || {
            let number = server.stop.next.fetch_add(1, Ordering::SeqCst);
            server.attend(number, stream);
            unpoisoned(server.stop.streams.lock()).remove(&number);
        };
        let started = std::thread::Builder::new().name("manager-client".to_owned()).spawn(serve);
        if started.is_err() {
            // its stream is closed, which the client sees
            self.stop.strangers.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// One connection from its handshake to its end.
    fn attend(self: &Arc<Self>, number: usize, stream: Stream) {
        let admitted = stream.set_blocking().and_then(|()| {
            unpoisoned(self.stop.streams.lock()).insert(number, stream.try_clone()?);
            Ok(())
        });
        let admitted = admitted.map_err(auth::Refusal::from).and_then(|()| {
            auth::admit(&stream, &self.key, &self.identity, crate::limits::MANAGER_PATIENCE)
        });
        self.stop.strangers.fetch_sub(1, Ordering::SeqCst);
        // a stranger is told nothing more; when this ends before all streams are shut down, it was not in the list yet
        if let (Ok(client), false) = (admitted, self.is_stopping()) {
            connection::serve(self, stream, client);
        }
    }

    fn is_stopping(&self) -> bool {
        self.stop.requested.load(Ordering::SeqCst)
    }

    /// Begins the end: no new connections, all are closed.
    pub(super) fn stop(&self) {
        self.stop.requested.store(true, Ordering::SeqCst);
        // the other end becomes readable
        drop(unpoisoned(self.stop.bell.lock()).take());
    }

    /// Waits until it has ended.
    pub(super) fn wait(&self) {
        let mut ended = unpoisoned(self.stop.ended.0.lock());
        while !*ended {
            ended = unpoisoned(self.stop.ended.1.wait(ended));
        }
    }
}

fn soon() -> std::time::Instant {
    std::time::Instant::now() + crate::limits::MANAGER_SLICE
}

/// `EMFILE` and its like: the connection waits for a descriptor.
fn is_exhausted(error: &io::Error) -> bool {
    !matches!(
        error.kind(),
        io::ErrorKind::WouldBlock
            | io::ErrorKind::Interrupted
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}

/// Drops objects; the user's code may panic there, which concerns nobody.
fn discard(dropped: Dropped) {
    for object in dropped {
        crate::task::panics::keep();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(object)));
    }
}
