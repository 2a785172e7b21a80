//! Queues and pipes between processes.

mod cursor;
mod errors;
mod pipe;
mod ring;
mod scratch;

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use errors::{GetError, PutError, RecvError, SendError, TooManyDone};
pub use pipe::Pipe;
use ring::{NUMBER_BYTES, Refused, Ring, Wait};

use crate::attach;
use crate::codec::{self, Unencodable};
use crate::limits::QUEUE_BYTES;
use crate::shm::object::{Object, What, travels};
use crate::shm::post::MOST_DESCRIPTORS;

/// A queue between processes and threads: any number of producers and consumers, first in, first out.
///
/// The items lie in shared memory, encoded, and nobody has to serve them: there is no thread behind a queue, and a process may end with items of its own still
/// in it. A process that is killed in the middle of putting or getting leaves the queue whole and blocks nobody: its item is then not in the queue, or still in
/// it. An item that was got is the consumer's: it dies with it.
///
/// A queue is bounded by the number of its items, if that was asked for, and always by their encoded size, 64 MiB unless
/// [`with_memory`](Queue::with_memory) says otherwise. Memory is taken as it is used, and used again: a queue that is emptied now and then stays small.
///
/// Cloning is cheap and gives another handle of the same queue; so does passing it to a task.
///
/// Items may hold shared objects (a [`Lock`](crate::Lock), an [`Array`](crate::Array), another queue), at most 250 each. The queue keeps them while they are in it, whatever becomes
/// of the process that has put them in. Some 250 items with shared objects can be in it at a time, however few objects they have; while there are more, `put` waits as it does for
/// any full queue. The kernel counts what lies in queues as descriptors on their way, and allows a user as many of these as a process may have open (`ulimit -n`).
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// # pool_core::init();
/// use pool_core::{GetError, Queue};
/// let pool = pool_core::Pool::new(1)?;
/// let squares = Queue::<(u64, u64)>::bounded(10)?;
/// let produce = |squares: Queue<(u64, u64)>, n: u64| -> anyhow::Result<()> {
///     for x in 0..n {
///         squares.put((x, x * x))?; // waits while 10 are in it
///     }
///     squares.close();
///     Ok(())
/// };
/// let producer = pool.apply_async(produce, (squares.clone(), 100))?;
/// let sum: u64 = squares.iter().map(|item| item.map(|(_, square)| square)).sum::<Result<_, _>>()?;
/// assert_eq!(sum, 328_350);
/// assert_eq!(squares.get(), Err(GetError::Closed));
/// producer.get()?;
/// # Ok(())
/// # }
/// ```
///
/// What a worker has made, and is too large to be copied:
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// # pool_core::init();
/// use pool_core::{Queue, SharedBytes};
/// let pool = pool_core::Pool::new(1)?;
/// let images = Queue::<SharedBytes>::unbounded()?;
/// let render = |images: Queue<SharedBytes>| -> anyhow::Result<()> {
///     Ok(images.put(SharedBytes::new(&[7; 1_000_000])?)?)
/// };
/// pool.apply(render, (images.clone(),))?;
/// assert_eq!(images.get()?.len(), 1_000_000); // mapped here, not copied
/// # Ok(())
/// # }
/// ```
pub struct Queue<T> {
    object: Arc<Object>,
    _items: PhantomData<fn(T) -> T>,
}

impl<T: Serialize + DeserializeOwned + 'static> Queue<T> {
    /// A queue that holds at most so many items: `put` waits while it is full.
    ///
    /// # Errors
    /// There is no memory, or no descriptor is free; or the bound is 0.
    pub fn bounded(items: usize) -> io::Result<Queue<T>> {
        Queue::with_memory(Some(items), QUEUE_BYTES)
    }

    /// A queue without a bound for the number of its items. Their size is bounded, see [`Queue`].
    ///
    /// # Errors
    /// There is no memory, or no descriptor is free.
    pub fn unbounded() -> io::Result<Queue<T>> {
        Queue::with_memory(None, QUEUE_BYTES)
    }

    /// A queue with this much space for encoded items, rounded up to a power of two. It is address space; memory is taken as it is used.
    ///
    /// # Errors
    /// There is no memory, or no descriptor is free; or the bound is 0.
    pub fn with_memory(items: Option<usize>, bytes: usize) -> io::Result<Queue<T>> {
        let object = Object::create_with_post(What::Queue.alone(), ring::object_bytes(bytes)?)?;
        Ring::of(&object).set_bound(items)?;
        Ok(Queue { object, _items: PhantomData })
    }

    fn ring(&self) -> Ring<'_> {
        Ring::of(&self.object)
    }

    /// Puts an item in; waits while the queue is full.
    ///
    /// # Errors
    /// [`PutError::Closed`], [`PutError::Encode`], [`PutError::TooLarge`]; [`PutError::Os`] if the kernel refuses to keep its shared objects. Each has the item.
    pub fn put(&self, item: T) -> Result<(), PutError<T>> {
        self.put_in(item, Wait::For(None))
    }

    /// Like [`put`](Queue::put); waits for so long at most.
    ///
    /// # Errors
    /// [`PutError::Full`] when the time is up; else as [`put`](Queue::put).
    pub fn put_timeout(&self, item: T, limit: Duration) -> Result<(), PutError<T>> {
        self.put_in(item, Wait::For(Some(limit)))
    }

    /// Like [`put`](Queue::put), if there is room. Waits for nobody but a process that is just putting, which takes microseconds; if that is stopped in the midst of it (by a signal, or a
    /// debugger), for 100 ms.
    ///
    /// # Errors
    /// [`PutError::Full`] if there is no room, or another process stands in the way for those 100 ms; else as [`put`](Queue::put).
    pub fn try_put(&self, item: T) -> Result<(), PutError<T>> {
        self.put_in(item, Wait::Not)
    }

    fn put_in(&self, item: T, wait: Wait) -> Result<(), PutError<T>> {
        let ring = self.ring();
        let limit = ring.longest();
        let done = scratch::with(|bytes| {
            // room for what the ring writes in front if there are descriptors
            bytes.extend_from_slice(&[0; NUMBER_BYTES]);
            let (encoded, attachments) =
                attach::collect(|| codec::encode_value(&item, bytes, limit));
            encoded.map_err(|error| match error {
                Unencodable::TooLarge(size) => Refused::TooLarge(size),
                Unencodable::Refused(text) => Refused::Encode(text),
            })?;
            if attachments.is_empty() {
                return ring.put(&mut bytes[NUMBER_BYTES..], &[], wait);
            }
            let carried: Vec<_> = attachments.numbers().collect();
            if carried.len() > MOST_DESCRIPTORS {
                let text = format!("it holds more than {MOST_DESCRIPTORS} shared objects");
                return Err(Refused::Encode(text));
            }
            ring.put(bytes, &carried, wait)
        });
        done.map_err(|refused| match refused {
            Refused::Full => PutError::Full(item),
            Refused::Closed => PutError::Closed(item),
            Refused::Damaged => PutError::Damaged(item),
            Refused::TooLarge(size) => PutError::TooLarge { item, size, limit },
            Refused::Encode(reason) => PutError::Encode { item, reason },
            Refused::Os(error) => PutError::Os { item, error },
        })
    }

    /// Takes the first item out; waits until there is one.
    ///
    /// # Errors
    /// [`GetError::Closed`] if the queue is closed and empty; [`GetError::Decode`] if the item, which is gone then, can't be decoded;
    /// [`GetError::Os`] if no descriptor is free for the shared objects in it: it stays in the queue.
    pub fn get(&self) -> Result<T, GetError> {
        self.get_out(Wait::For(None))
    }

    /// Like [`get`](Queue::get); waits for so long at most.
    ///
    /// # Errors
    /// [`GetError::Empty`] when the time is up; else as [`get`](Queue::get).
    pub fn get_timeout(&self, limit: Duration) -> Result<T, GetError> {
        self.get_out(Wait::For(Some(limit)))
    }

    /// Like [`get`](Queue::get), if there is an item. Waits for nobody but a process that is just getting, which takes microseconds; if that is stopped in the midst of it (by a signal, or a
    /// debugger), for 100 ms.
    ///
    /// # Errors
    /// [`GetError::Empty`] if there is none, or another process stands in the way for those 100 ms; else as [`get`](Queue::get).
    pub fn try_get(&self) -> Result<T, GetError> {
        self.get_out(Wait::Not)
    }

    fn get_out(&self, wait: Wait) -> Result<T, GetError> {
        scratch::with(|bytes| {
            let mut carried = Vec::new();
            if !self.ring().get(bytes, &mut carried, wait)? {
                return codec::decode_value(bytes).map_err(GetError::Decode);
            }
            let encoded = bytes.get(NUMBER_BYTES..).unwrap_or_default();
            let carried = carried.into_iter().map(Some).collect();
            attach::take(carried, || codec::decode_value(encoded)).map_err(GetError::Decode)
        })
    }

    /// The items as they come, until the queue is closed and empty. An item that can't be decoded is an error, and does not end the iteration.
    pub fn iter(&self) -> impl Iterator<Item = Result<T, GetError>> + '_ {
        std::iter::from_fn(|| match self.get() {
            Err(GetError::Closed | GetError::Damaged) => None,
            item => Some(item),
        })
    }

    /// How many items are in it just now: exact, but others may put and get.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ring().len()
    }

    /// Whether no items are in it just now.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether as many items are in it just now as its bound allows.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.ring().is_full()
    }

    /// Closes the queue for all: nothing can be put in any more. What is in it can still be got.
    pub fn close(&self) {
        self.ring().close();
    }

    /// Whether somebody has closed it.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.ring().is_closed()
    }

    /// Says that an item that was got has been dealt with: see [`join`](Queue::join).
    ///
    /// # Errors
    /// [`TooManyDone`] if it was said for all items already.
    pub fn task_done(&self) -> Result<(), TooManyDone> {
        self.ring().task_done()
    }

    /// Waits until [`task_done`](Queue::task_done) has been called for every item that was ever put in. If a consumer may die before it says so, use
    /// [`join_timeout`](Queue::join_timeout).
    pub fn join(&self) {
        self.ring().join(None);
    }

    /// Like [`join`](Queue::join), for so long at most; returns whether all is done.
    pub fn join_timeout(&self, limit: Duration) -> bool {
        self.ring().join(Some(limit))
    }

    /// For how many items that were put in nobody has called [`task_done`](Queue::task_done).
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.ring().unfinished()
    }
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Queue { object: Arc::clone(&self.object), _items: PhantomData }
    }
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("len", &Ring::of(&self.object).len()).finish_non_exhaustive()
    }
}

travels!([T] Queue<T>, [What::Queue.alone()], |object| {
    Ok(Queue { object: ring::check(object)?, _items: PhantomData })
});
