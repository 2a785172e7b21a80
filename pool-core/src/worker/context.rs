//! What a task can ask about where it runs.

use std::any::{Any, type_name};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec;
use crate::ids::{Lease, TaskId, WorkerIndex};
use crate::primitives::unharmed;
use crate::transport::status::StatusPage;

thread_local! {
    static WORKER: RefCell<Option<(WorkerIndex, StatusPage)>> = const { RefCell::new(None) };
    static CURRENT: Cell<Option<Lease>> = const { Cell::new(None) };
    static SHARED: RefCell<Option<SharedObject>> = const { RefCell::new(None) };
    static STATE: RefCell<Option<Box<dyn Any>>> = const { RefCell::new(None) };
}

/// Has what this thread keeps be dropped when it ends, which is told the C library once: to be done before others are forked.
pub(crate) fn prepare() {
    WORKER.with(|_| ());
}

/// This thread is the worker of that seat from now on.
pub(crate) fn enter(seat: u32, page: StatusPage) {
    WORKER.set(Some((WorkerIndex(seat), page)));
}

/// This thread runs that task, or none.
pub(crate) fn set_current(lease: Option<Lease>) {
    CURRENT.set(lease);
}

/// The seat of the worker that runs this task, counted from 0: a number from 0 to one less than the pool's size, and no two workers have the same at
/// the same time. `None` outside a task. A worker that is replaced passes its seat on.
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// # pool_core::init();
/// let pool = pool_core::Pool::new(2)?;
/// let seat = pool.apply(|| pool_core::worker::index().map(|index| index.get()), ())?;
/// assert!(seat < Some(2));
/// assert_eq!(pool_core::worker::index(), None);
/// # Ok(())
/// # }
/// ```
#[must_use]
pub fn index() -> Option<WorkerIndex> {
    WORKER.with_borrow(|worker| worker.as_ref().map(|(index, _)| *index))
}

/// The number of the task that is running on this thread: the one that [`TaskInfo`](crate::TaskInfo) and errors name. `None` outside a task, and in
/// the initializer. All items of one chunk of a map are one task.
#[must_use]
pub fn task_id() -> Option<TaskId> {
    let lease = CURRENT.get()?;
    WORKER.with_borrow(|worker| worker.as_ref().map(|(_, page)| page.task(lease)))
}

/// Whether this task should come to an end: its soft time limit is over, or [`request_cancel`](crate::AsyncResult::request_cancel) was called. A long task
/// asks now and then, tidies up, and returns what it has. Takes some nanoseconds. `false` outside a task.
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// # pool_core::init();
/// use std::time::Duration;
/// let pool = pool_core::Pool::new(1)?;
/// fn count() -> u64 {
///     (0..).take_while(|_| !pool_core::worker::cancelled()).count() as u64
/// }
/// let counted = pool.task(count).soft_timeout(Duration::from_millis(20)).apply(())?;
/// assert!(counted > 0);
/// # Ok(())
/// # }
/// ```
#[must_use]
pub fn cancelled() -> bool {
    let Some(lease) = CURRENT.get() else { return false };
    WORKER.with_borrow(|worker| worker.as_ref().is_some_and(|(_, page)| page.is_end_wished(lease)))
}

/// What [`cancelled`] says, for the threads that this task starts. `None` outside a task.
#[must_use]
pub fn cancel_token() -> Option<CancelToken> {
    let lease = CURRENT.get()?;
    WORKER.with_borrow(|worker| {
        let (_, page) = worker.as_ref()?;
        Some(CancelToken { page: page.clone(), lease })
    })
}

/// Tells, on any thread, whether a task should come to an end. Made by [`cancel_token`].
#[derive(Clone)]
pub struct CancelToken {
    page: StatusPage,
    lease: Lease,
}

impl CancelToken {
    /// Whether the task should come to an end. After the end of the task, the answer means nothing.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.page.is_end_wished(self.lease)
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelToken").field("cancelled", &self.is_cancelled()).finish()
    }
}

/// Gives this worker a state, which its tasks find with [`state`]: nearly always in the initializer. A former one is dropped. The state stays with
/// this worker: one that takes its seat runs the initializer anew.
pub fn set_state<T: 'static>(value: T) {
    let former = STATE.replace(Some(Box::new(value)));
    drop(former);
}

/// This worker leaves. The drop of its state is user code: a panic of it must meet neither the thread's end nor `exit`, which would abort.
pub(crate) fn leave() {
    let state = STATE.take();
    unharmed(|| drop(state));
}

/// The state of this worker, to be read and changed.
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// # pool_core::init();
/// use pool_core::worker;
///
/// struct Parser { parsed: u64 }
///
/// fn parse(text: String) -> (usize, u64) {
///     let mut parser = worker::state::<Parser>();
///     parser.parsed += 1;
///     (text.len(), parser.parsed)
/// }
///
/// let pool = pool_core::Pool::builder()
///     .processes(1)
///     .initializer(|| worker::set_state(Parser { parsed: 0 }), ())
///     .build()?;
/// assert_eq!(pool.apply(parse, ("abc".to_owned(),))?, (3, 1));
/// assert_eq!(pool.apply(parse, ("de".to_owned(),))?, (2, 2));
/// # Ok(())
/// # }
/// ```
///
/// # Panics
/// If this worker has no state of this type, or it is borrowed already: see [`try_state`].
#[must_use]
#[track_caller]
pub fn state<T: 'static>() -> State<T> {
    match try_state() {
        Some(state) => state,
        None => panic!(
            "this worker has no state of type {} (or it is borrowed already): call worker::set_state in the pool's initializer",
            type_name::<T>()
        ),
    }
}

/// The state of this worker, if there is one of this type and nobody borrows it.
#[must_use]
pub fn try_state<T: 'static>() -> Option<State<T>> {
    STATE.with_borrow_mut(|slot| {
        let value = slot.take()?;
        match value.downcast::<T>() {
            Ok(value) => Some(State(Some(value))),
            Err(other) => {
                *slot = Some(other);
                None
            }
        }
    })
}

/// The borrowed state of a worker; given back when it is dropped. Made by [`state`].
pub struct State<T: 'static>(Option<Box<T>>);

impl<T: 'static> Deref for State<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("taken only by drop")
    }
}

impl<T: 'static> DerefMut for State<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("taken only by drop")
    }
}

impl<T: 'static> Drop for State<T> {
    fn drop(&mut self) {
        // one that was set in the meantime stays; none is kept in a thread that is ending
        let _ = STATE.try_with(|slot| {
            let mut slot = slot.borrow_mut();
            if slot.is_none() {
                *slot = self.0.take().map(|value| value as Box<dyn Any>);
            }
        });
    }
}

impl<T: fmt::Debug + 'static> fmt::Debug for State<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// The object that all workers share, as this worker has it.
#[derive(Clone)]
pub(crate) enum SharedObject {
    /// As the parent has passed it to this process.
    Encoded(Arc<Vec<u8>>),
    /// The object itself.
    Direct(Arc<dyn Any + Send + Sync>),
}

impl fmt::Debug for SharedObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedObject(..)")
    }
}

/// This worker finds the pool's shared object there.
pub(crate) fn set_shared(object: SharedObject) {
    SHARED.set(Some(object));
}

/// The object that the pool was built with: [`PoolBuilder::shared`](crate::PoolBuilder::shared). A worker process decodes it when it is first asked for, and
/// keeps it; worker threads all have the pool's own.
///
/// # Panics
/// If the pool was built without one, or with one of another type; and outside a worker.
#[must_use]
#[track_caller]
pub fn shared<T: DeserializeOwned + Send + Sync + 'static>() -> Arc<T> {
    let wanted = type_name::<T>();
    let object = SHARED.with_borrow(Clone::clone);
    match object {
        None => panic!("this pool has no shared object: call PoolBuilder::shared"),
        Some(SharedObject::Direct(object)) => match object.downcast::<T>() {
            Ok(object) => object,
            Err(_) => panic!("this pool's shared object is not of type {wanted}"),
        },
        Some(SharedObject::Encoded(bytes)) => match decode_shared::<T>(&bytes) {
            Ok(object) => {
                let object = Arc::new(object);
                set_shared(SharedObject::Direct(Arc::<T>::clone(&object)));
                object
            }
            Err(error) => panic!("this pool's shared object can't be had as {wanted}: {error}"),
        },
    }
}

/// Encodes an object with the name of its type.
pub(crate) fn encode_shared<T: Serialize>(object: &T) -> Result<Vec<u8>, codec::Unencodable> {
    let mut bytes = Vec::new();
    let name = type_name::<T>();
    bytes.extend_from_slice(&(name.len() as u32).to_le_bytes());
    bytes.extend_from_slice(name.as_bytes());
    codec::encode(object, &mut bytes, u64::MAX)?;
    Ok(bytes)
}

fn decode_shared<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let (len, rest) = bytes.split_first_chunk::<4>().ok_or("it is cut short")?;
    let (name, object) =
        rest.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or("it is cut short")?;
    if name != type_name::<T>().as_bytes() {
        return Err(format!("it is of type {}", String::from_utf8_lossy(name)));
    }
    codec::decode(object)
}
