//! Descriptors that travel beside encoded values: shared objects are written as a name and the number of a descriptor.
//!
//! serde knows nothing of descriptors, so what is going on is kept by the thread while it encodes or decodes. Anywhere else, a shared object can't be
//! written or read, and says so.
//!
//! | while | a shared object |
//! |---|---|
//! | arguments are encoded | adds its descriptor to those that travel with the task |
//! | arguments are decoded | is known already, or is made of the descriptor that came along |
//! | a result is encoded | must have come from the parent, and is written by name |
//! | a result is decoded | must be known by its name: no descriptor is taken from a worker |
//! | an item of a queue, or a message of a pipe, is encoded | adds its descriptor to those that go with it |
//! | one of these is decoded | is known already, or is made of the descriptor that came along |

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use crate::limits::MAX_ATTACHMENTS;
use crate::shm::object::{Object, Wire};

const OUTSIDE: &str = "a shared object can only be passed in the arguments and results of tasks, and through a Queue or Pipe";

/// What travels with the arguments of a task, and is kept as long as the task may be started (again). `None`: nothing, as nearly always.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attachments(Option<Arc<Vec<Arc<Object>>>>);

impl Attachments {
    pub(crate) const NONE: Attachments = Attachments(None);

    pub(crate) fn objects(&self) -> &[Arc<Object>] {
        self.0.as_deref().map_or(&[], Vec::as_slice)
    }

    /// Without descriptors whose being open tells the other side something: ends of pipes.
    pub(crate) fn only_memory(self) -> Attachments {
        match self.0 {
            Some(objects) if objects.iter().any(|object| object.is_pipe_end()) => {
                let memory = objects.iter().filter(|object| !object.is_pipe_end());
                Attachments(Some(Arc::new(memory.cloned().collect())))
            }
            objects => Attachments(objects),
        }
    }

    /// Their descriptors.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.objects().iter().map(|object| object.as_fd().as_raw_fd())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

/// What this thread is doing with shared objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    Nothing,
    /// And there is none yet.
    Collecting,
    /// And some are there.
    Collected,
    Taking,
    /// And nothing came along.
    TakingNone,
    Returning,
    Recognising,
}

thread_local! {
    /// Nearly always no object is met, and this is all that is touched.
    static DOING: Cell<Doing> = const { Cell::new(Doing::Nothing) };
    /// Of [`Doing::Collected`].
    static OBJECTS: RefCell<Vec<Arc<Object>>> = const { RefCell::new(Vec::new()) };
    /// Of [`Doing::Taking`]: what came along.
    static CAME: RefCell<Vec<Option<OwnedFd>>> = const { RefCell::new(Vec::new()) };
    /// What has arrived for the next arguments that are decoded here, if anything has.
    static ARRIVED: RefCell<Vec<Option<OwnedFd>>> = const { RefCell::new(Vec::new()) };
    static HAS_ARRIVED: Cell<bool> = const { Cell::new(false) };
}

/// Sets what the thread was doing before when it is dropped, also by a panic of a user's `Serialize`.
struct Before {
    doing: Doing,
    /// Of [`Doing::Collected`] and [`Doing::Taking`].
    kept: Option<Box<Kept>>,
}

struct Kept {
    objects: Vec<Arc<Object>>,
    came: Vec<Option<OwnedFd>>,
}

impl Before {
    #[inline]
    fn start(what: Doing) -> Before {
        let doing = DOING.replace(what);
        let has_kept = matches!(doing, Doing::Collected | Doing::Taking);
        let kept = has_kept.then(|| Box::new(Kept { objects: OBJECTS.take(), came: CAME.take() }));
        Before { doing, kept }
    }
}

impl Drop for Before {
    #[inline]
    fn drop(&mut self) {
        match DOING.replace(self.doing) {
            Doing::Collected => drop(OBJECTS.take()),
            Doing::Taking => drop(CAME.take()),
            _ => {}
        }
        if let Some(kept) = self.kept.take() {
            OBJECTS.set(kept.objects);
            CAME.set(kept.came);
        }
    }
}

/// Encodes arguments, and collects what travels with them.
pub(crate) fn collect<R>(encode: impl FnOnce() -> R) -> (R, Attachments) {
    let before = Before::start(Doing::Collecting);
    let result = encode();
    let attachments = match DOING.get() {
        Doing::Collected => Attachments(Some(Arc::new(OBJECTS.take()))),
        _ => Attachments::NONE,
    };
    drop(before);
    (result, attachments)
}

/// What has arrived with the arguments that are decoded next on this thread. `None`: a descriptor that could not be received.
pub(crate) fn hand_over(arrived: Vec<Option<OwnedFd>>) {
    if HAS_ARRIVED.replace(!arrived.is_empty()) || !arrived.is_empty() {
        ARRIVED.set(arrived);
    }
}

/// Decodes arguments for which [`hand_over`] was called.
pub(crate) fn arguments<R>(decode: impl FnOnce() -> R) -> R {
    let arrived = if HAS_ARRIVED.replace(false) { ARRIVED.take() } else { Vec::new() };
    take(arrived, decode)
}

/// Decodes something with which these descriptors came.
pub(crate) fn take<R>(came: Vec<Option<OwnedFd>>, decode: impl FnOnce() -> R) -> R {
    // without any, an object can only be one that is known already
    let _before = Before::start(if came.is_empty() { Doing::TakingNone } else { Doing::Taking });
    if !came.is_empty() {
        CAME.set(came);
    }
    decode()
}

/// Encodes a result.
pub(crate) fn returning<R>(encode: impl FnOnce() -> R) -> R {
    let _before = Before::start(Doing::Returning);
    encode()
}

/// Decodes a result.
pub(crate) fn returned<R>(decode: impl FnOnce() -> R) -> R {
    let _before = Before::start(Doing::Recognising);
    decode()
}

/// The number under which the object's descriptor travels.
pub(crate) fn attach(object: &Arc<Object>) -> Result<u32, String> {
    match DOING.get() {
        Doing::Collecting | Doing::Collected => {
            DOING.set(Doing::Collected);
            OBJECTS.with_borrow_mut(|objects| add(objects, object))
        }
        Doing::Returning if object.is_from_elsewhere() => Ok(u32::MAX),
        Doing::Returning => Err(
            "a shared object that was made in a worker can't be its task's result, because the parent takes no descriptors from workers: make it in the parent and pass it as an argument, or send it through a Queue or Pipe".to_owned(),
        ),
        _ => Err(OUTSIDE.to_owned()),
    }
}

fn add(objects: &mut Vec<Arc<Object>>, object: &Arc<Object>) -> Result<u32, String> {
    // the same lock may be in every item of a map
    let known = objects.iter().rposition(|other| Arc::ptr_eq(other, object));
    let index = known.unwrap_or(objects.len());
    if known.is_none() {
        if objects.len() == MAX_ATTACHMENTS {
            return Err(format!(
                "more than {MAX_ATTACHMENTS} shared objects can't be passed at once"
            ));
        }
        objects.push(Arc::clone(object));
    }
    Ok(index as u32)
}

/// The object of this name.
pub(crate) fn fetch(wire: &Wire) -> Result<Arc<Object>, String> {
    match DOING.get() {
        Doing::Taking | Doing::TakingNone => {
            let index = wire.index as usize;
            let fd = CAME.with_borrow_mut(|came| came.get_mut(index).and_then(Option::take));
            if let Some(object) = Object::known(wire) {
                return Ok(object);
            }
            let fd = fd.ok_or(
                "the descriptor of a shared object did not arrive: are too many files open?",
            )?;
            Object::receive(wire, fd).map_err(text)
        }
        Doing::Recognising => Object::known(wire).ok_or_else(|| {
            "the result names a shared object that this process does not have any more".to_owned()
        }),
        _ => Err(OUTSIDE.to_owned()),
    }
}

fn text(error: impl Display) -> String {
    format!("a shared object could not be mapped: {error}")
}
