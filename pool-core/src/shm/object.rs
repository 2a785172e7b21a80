//! What every shared object is made of: one descriptor, usually a mapping of it, and a name by which a process knows it again.
//!
//! A process has one `Object` for a shared object, however often it arrives: the table of those that it knows holds weak references, so an object that nobody
//! uses is unmapped at once, and one that comes with every task costs no second mapping. The table is the one piece of state, beside the role, that
//! belongs to the process: two mappings of a lock in one process would be two owners.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{
    AtomicBool, AtomicI32, AtomicI64, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering,
};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::post::{self, Post};
use crate::attach;
use crate::sys::identity;
use crate::sys::memory::{self, Access, SharedBlock};

/// The name of an object, never used twice on this machine: the process that made it, and a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Id(u64, u64);

/// What an object is. Two processes agree about this before one of them looks inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kind {
    pub(crate) what: What,
    /// Bytes of an element, where there are elements.
    pub(crate) unit: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum What {
    Bytes,
    Array,
    RawArray,
    Value,
    RawValue,
    Lock,
    RLock,
    Semaphore,
    BoundedSemaphore,
    Condition,
    Event,
    Barrier,
    Queue,
    PipeEnd,
}

/// The unit of bytes that are a file of the user's, who has promised that nobody changes it.
pub(crate) const FILE: u32 = 1;

impl What {
    pub(crate) const fn alone(self) -> Kind {
        Kind { what: self, unit: 0 }
    }

    /// Whether its descriptor is the entrance of a post.
    const fn has_post(self) -> bool {
        matches!(self, What::Queue)
    }
}

/// Whether this process has made the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Here,
    Elsewhere,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Object {
    id: Id,
    kind: Kind,
    /// Bytes of memory; 0 for an object without.
    len: u64,
    fd: OwnedFd,
    /// The other end of its post, if it has one and this process has needed it.
    exit: OnceLock<OwnedFd>,
    memory: Option<SharedBlock>,
    origin: Origin,
    /// For objects whose owner is a thread of this process: which one, how often, and whether something went wrong. Not shared.
    pub(crate) thread: AtomicU64,
    pub(crate) depth: AtomicU32,
    pub(crate) tainted: AtomicBool,
}

/// Words that several processes may look at and change at any time.
///
/// # Safety
/// The type is `repr(C)`, aligned to at most 64 bytes, and made of atomics only, for which all bit patterns are valid.
pub(crate) unsafe trait Words {}

// SAFETY: an atomic.
unsafe impl Words for AtomicU8 {}
// SAFETY: an atomic.
unsafe impl Words for AtomicU16 {}
// SAFETY: an atomic.
unsafe impl Words for AtomicU32 {}
// SAFETY: an atomic.
unsafe impl Words for AtomicU64 {}
// SAFETY: an atomic.
unsafe impl Words for AtomicI32 {}
// SAFETY: an atomic.
unsafe impl Words for AtomicI64 {}

/// How an object is written into the bytes of a task.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Wire {
    pub(crate) id: Id,
    kind: Kind,
    len: u64,
    /// Which of the descriptors that travel along is this object's.
    pub(crate) index: u32,
}

fn table() -> &'static Mutex<HashMap<Id, Weak<Object>>> {
    static TABLE: OnceLock<Mutex<HashMap<Id, Weak<Object>>>> = OnceLock::new();
    TABLE.get_or_init(Mutex::default)
}

impl Object {
    /// A new object with zeroed memory.
    pub(crate) fn create(kind: Kind, len: usize) -> io::Result<Arc<Object>> {
        let (memory, fd) = SharedBlock::create(len)?;
        Ok(Object::keep(Object::next_id(), kind, fd, len, Some(memory), Origin::Here))
    }

    /// A new object with zeroed memory, and a way for descriptors through it.
    pub(crate) fn create_with_post(kind: Kind, len: usize) -> io::Result<Arc<Object>> {
        let (memory, file) = SharedBlock::create(len)?;
        let entrance = post::create(&file)?;
        Ok(Object::keep(Object::next_id(), kind, entrance, len, Some(memory), Origin::Here))
    }

    /// A new object of a file that is sealed with its content, or that nobody changes.
    pub(crate) fn of_file(kind: Kind, fd: OwnedFd, len: usize) -> io::Result<Arc<Object>> {
        let memory = map(kind, fd.as_fd(), len)?;
        Ok(Object::keep(Object::next_id(), kind, fd, len, memory, Origin::Here))
    }

    /// A new object that is nothing but a descriptor.
    pub(crate) fn of_descriptor(kind: Kind, fd: OwnedFd) -> Arc<Object> {
        Object::keep(Object::next_id(), kind, fd, 0, None, Origin::Here)
    }

    fn next_id() -> Id {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Id(identity::me(), NEXT.fetch_add(1, Ordering::Relaxed))
    }

    fn keep(
        id: Id,
        kind: Kind,
        fd: OwnedFd,
        len: usize,
        memory: Option<SharedBlock>,
        origin: Origin,
    ) -> Arc<Object> {
        let object = Arc::new(Object {
            id,
            kind,
            len: len as u64,
            fd,
            exit: OnceLock::new(),
            memory,
            origin,
            thread: AtomicU64::new(0),
            depth: AtomicU32::new(0),
            tainted: AtomicBool::new(false),
        });
        let mut table = table().lock().unwrap_or_else(PoisonError::into_inner);
        // two threads may receive the same object at once: the second mapping gives way, after the table was let go
        if let Some(known) = table.get(&id).and_then(Weak::upgrade) {
            drop(table);
            return known;
        }
        table.insert(id, Arc::downgrade(&object));
        object
    }

    /// The object of this name, if this process has it.
    pub(crate) fn known(wire: &Wire) -> Option<Arc<Object>> {
        let table = table().lock().unwrap_or_else(PoisonError::into_inner);
        let object = table.get(&wire.id).and_then(Weak::upgrade);
        drop(table);
        object.filter(|object| object.kind == wire.kind && object.len == wire.len)
    }

    /// The object of this name, made of a descriptor that came along unless this process has it already.
    pub(crate) fn receive(wire: &Wire, fd: OwnedFd) -> io::Result<Arc<Object>> {
        let len = usize::try_from(wire.len).map_err(io::Error::other)?;
        let memory = if wire.kind.what.has_post() {
            map(wire.kind, post::memory(fd.as_fd())?.as_fd(), len)?
        } else {
            map(wire.kind, fd.as_fd(), len)?
        };
        Ok(Object::keep(wire.id, wire.kind, fd, len, memory, Origin::Elsewhere))
    }

    /// The memory.
    pub(crate) fn memory(&self) -> &SharedBlock {
        match &self.memory {
            Some(memory) => memory,
            None => unreachable!("only ends of pipes and empty blocks have no memory"),
        }
    }

    pub(crate) fn has_memory(&self) -> bool {
        self.memory.is_some()
    }

    /// The way for descriptors through it.
    pub(crate) fn post(&self) -> Post<'_> {
        Post::of(self.fd.as_fd(), &self.exit)
    }

    pub(crate) fn is_pipe_end(&self) -> bool {
        self.kind.what == What::PipeEnd
    }

    /// The words at `offset`, which must be inside and a multiple of 64.
    pub(crate) fn words<W: Words>(&self, offset: usize) -> &W {
        let memory = self.memory();
        let fits = offset.checked_add(size_of::<W>()).is_some_and(|end| end <= memory.len());
        assert!(fits && offset.is_multiple_of(64), "inside the object and aligned");
        // SAFETY: inside the mapping, which lives as long as `self`; aligned, because the mapping starts at a page; and all bit patterns are valid,
        // and other processes may change them at any time: see `Words`.
        unsafe { self.memory().start().add(offset).cast().as_ref() }
    }

    /// Fails unless the memory has at least this many bytes: what comes from another process is not believed.
    pub(crate) fn at_least(self: Arc<Object>, len: usize) -> Result<Arc<Object>, String> {
        if self.len >= len as u64 {
            Ok(self)
        } else {
            Err(format!("a shared {:?} of {} bytes is too small", self.kind.what, self.len))
        }
    }

    pub(crate) fn is_from_elsewhere(&self) -> bool {
        self.origin == Origin::Elsewhere
    }

    /// Writes the object's name, and has its descriptor travel along.
    pub(crate) fn serialize<S: Serializer>(
        self: &Arc<Object>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let index = attach::attach(self).map_err(serde::ser::Error::custom)?;
        Wire { id: self.id, kind: self.kind, len: self.len, index }.serialize(serializer)
    }

    /// The other side of [`serialize`](Object::serialize).
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        kinds: &[Kind],
        deserializer: D,
    ) -> Result<Arc<Object>, D::Error> {
        let wire = Wire::deserialize(deserializer)?;
        if !kinds.contains(&wire.kind) {
            let text = format!("this is a shared {:?} and no {kinds:?}", wire.kind);
            return Err(serde::de::Error::custom(text));
        }
        attach::fetch(&wire).map_err(serde::de::Error::custom)
    }
}

impl AsFd for Object {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        let mut table = table().lock().unwrap_or_else(PoisonError::into_inner);
        // the same object may have arrived again meanwhile
        if table.get(&self.id).is_some_and(|known| known.strong_count() == 0) {
            table.remove(&self.id);
        }
    }
}

fn map(kind: Kind, fd: BorrowedFd<'_>, len: usize) -> io::Result<Option<SharedBlock>> {
    if len == 0 {
        return Ok(None);
    }
    if kind.what == What::Bytes {
        if kind.unit != FILE {
            memory::check_sealed(fd, len, true)?;
        }
        return SharedBlock::map_for(fd, len, Access::Read).map(Some);
    }
    memory::check_sealed(fd, len, false)?;
    SharedBlock::map(fd, len).map(Some)
}

/// serde for a type whose only field `object` is shared: it travels by its name and its descriptor.
macro_rules! travels {
    ([$($parameters:tt)*] $name:ty, $kinds:expr, $check:expr) => {
        impl<$($parameters)*> serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.object.serialize(serializer)
            }
        }

        impl<'de, $($parameters)*> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let object = $crate::shm::object::Object::deserialize(&$kinds, deserializer)?;
                let check: fn(std::sync::Arc<$crate::shm::object::Object>) -> Result<Self, String> =
                    $check;
                check(object).map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use travels;

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(object: &Object) -> Wire {
        Wire { id: object.id, kind: object.kind, len: object.len, index: 0 }
    }

    fn copy_of(object: &Object) -> OwnedFd {
        object.fd.try_clone().unwrap()
    }

    #[test]
    fn an_object_that_arrives_twice_is_one() {
        let object = Object::create(What::Lock.alone(), 64).unwrap();
        let name = wire(&object);
        let again = Object::receive(&name, copy_of(&object)).unwrap();
        assert!(Arc::ptr_eq(&object, &again) && !again.is_from_elsewhere());
        let fd = copy_of(&object);
        drop((object, again));
        assert!(Object::known(&name).is_none());
        let arrived: Vec<_> = std::thread::scope(|scope| {
            let receive = || Object::receive(&name, fd.try_clone().unwrap()).unwrap();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(receive)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(arrived.iter().all(|object| Arc::ptr_eq(object, &arrived[0])));
        assert!(arrived[0].is_from_elsewhere());
        drop(arrived);
        assert!(!table().lock().unwrap().contains_key(&name.id), "the table does not grow");
    }

    #[test]
    fn what_is_not_as_it_should_be_is_refused() {
        let object = Object::create(What::Array.alone(), 4096).unwrap();
        let (name, fd) = (wire(&object), copy_of(&object));
        assert!(Object::known(&Wire { kind: What::Lock.alone(), ..name }).is_none());
        assert!(Object::known(&Wire { len: 8192, ..name }).is_none());
        drop(object);
        assert!(Object::receive(&Wire { len: 8192, ..name }, fd.try_clone().unwrap()).is_err());
        // what others may write to can't be bytes, and what others may cut off nothing
        let bytes = Wire { kind: What::Bytes.alone(), ..name };
        assert!(Object::receive(&bytes, fd).is_err());
        let unsealed = memory::anonymous_file().unwrap();
        set_size(&unsealed);
        assert!(Object::receive(&name, unsealed).is_err());
    }

    fn set_size(fd: &OwnedFd) {
        std::fs::File::from(fd.try_clone().unwrap()).set_len(4096).unwrap();
    }
}
