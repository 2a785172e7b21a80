//! `Queue`.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ManagerError;
use super::frame::{self, Op, put_u64};
use super::link::Link;
use super::list::decode;
use super::locks::{FOREVER, nanoseconds};
use super::proxy::proxy;

proxy! {
    /// A queue in a manager, of many producers and consumers.
    ///
    /// An item is taken by one consumer. One that dies before the item was sent to it leaves it in the queue; what it has received is its own. A bounded
    /// queue makes producers wait.
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// use pool_core::{Manager, Process, manager::Queue};
    /// let manager = Manager::new()?;
    /// let queue: Queue<u32> = manager.queue(Some(2))?;
    /// let fill = |queue: Queue<u32>| -> anyhow::Result<()> {
    ///     for i in 0..10 {
    ///         queue.put(&i)?; // waits while there are two
    ///     }
    ///     Ok(queue.close()?)
    /// };
    /// let producer = Process::spawn(fill, (queue.clone(),))?;
    /// let mut sum = 0;
    /// while let Ok(item) = queue.get() {
    ///     sum += item;
    /// }
    /// assert_eq!(sum, 45);
    /// # producer.join()?;
    /// # Ok(())
    /// # }
    /// ```
    Queue<T> of Queue
}

impl<T: Serialize + DeserializeOwned + 'static> Queue<T> {
    fn put_within(&self, item: &T, limit: u64) -> Result<(), ManagerError> {
        let write = |out: &mut Vec<u8>| {
            put_u64(out, limit);
            Link::encode(item, out).map(|()| Vec::new())
        };
        self.proxy.call(Op::Put, write, |_| Ok(()))
    }

    fn get_within(&self, limit: u64) -> Result<T, ManagerError> {
        self.proxy.ask(Op::Take, &[limit], |body| decode(body.rest()))
    }

    /// Puts an item at the end; waits while the queue is full.
    ///
    /// # Errors
    /// [`Closed`](ManagerError::Closed); the item can't be encoded; the manager can't be asked.
    pub fn put(&self, item: &T) -> Result<(), ManagerError> {
        self.put_within(item, FOREVER)
    }

    /// The same, waiting at most so long.
    ///
    /// # Errors
    /// [`Full`](ManagerError::Full), and as [`put`](Queue::put).
    pub fn put_timeout(&self, item: &T, limit: Duration) -> Result<(), ManagerError> {
        self.put_within(item, nanoseconds(limit))
    }

    /// The same, without waiting.
    ///
    /// # Errors
    /// [`Full`](ManagerError::Full), and as [`put`](Queue::put).
    pub fn try_put(&self, item: &T) -> Result<(), ManagerError> {
        self.put_within(item, 0)
    }

    /// Takes the first item; waits until there is one.
    ///
    /// # Errors
    /// [`Closed`](ManagerError::Closed), when it was closed and is empty; the item is no `T` (it is gone then); the manager can't be asked.
    pub fn get(&self) -> Result<T, ManagerError> {
        self.get_within(FOREVER)
    }

    /// The same, waiting at most so long.
    ///
    /// # Errors
    /// [`Empty`](ManagerError::Empty), and as [`get`](Queue::get).
    pub fn get_timeout(&self, limit: Duration) -> Result<T, ManagerError> {
        self.get_within(nanoseconds(limit))
    }

    /// The same, without waiting.
    ///
    /// # Errors
    /// [`Empty`](ManagerError::Empty), and as [`get`](Queue::get).
    pub fn try_get(&self) -> Result<T, ManagerError> {
        self.get_within(0)
    }

    /// How many items there are now.
    ///
    /// # Errors
    /// The manager can't be asked.
    pub fn len(&self) -> Result<usize, ManagerError> {
        let len = self.proxy.ask(Op::Len, &[], frame::u64)?;
        Ok(usize::try_from(len).unwrap_or(usize::MAX))
    }

    /// Whether there are no items now.
    ///
    /// # Errors
    /// The manager can't be asked.
    pub fn is_empty(&self) -> Result<bool, ManagerError> {
        self.len().map(|len| len == 0)
    }

    /// From now on nothing can be put; who waits for room or for items is told. What is in the queue can be taken.
    ///
    /// # Errors
    /// The manager can't be asked.
    pub fn close(&self) -> Result<(), ManagerError> {
        self.proxy.ask(Op::Close, &[], |_| Ok(()))
    }

    /// Says that an item that was taken is done with: see [`join`](Queue::join).
    ///
    /// # Errors
    /// [`TooManyDone`](ManagerError::TooManyDone); the manager can't be asked.
    pub fn task_done(&self) -> Result<(), ManagerError> {
        self.proxy.ask(Op::TaskDone, &[], |_| Ok(()))
    }

    /// How many items were put for which nobody has called [`task_done`](Queue::task_done).
    ///
    /// # Errors
    /// The manager can't be asked.
    pub fn unfinished(&self) -> Result<u64, ManagerError> {
        self.proxy.ask(Op::Unfinished, &[], frame::u64)
    }

    /// Waits until [`task_done`](Queue::task_done) was called for each item that was put.
    ///
    /// # Errors
    /// The manager can't be asked.
    pub fn join(&self) -> Result<(), ManagerError> {
        self.proxy.ask(Op::Join, &[FOREVER], |_| Ok(()))
    }

    /// The same, waiting at most so long; whether all is done.
    ///
    /// # Errors
    /// The manager can't be asked.
    pub fn join_timeout(&self, limit: Duration) -> Result<bool, ManagerError> {
        self.proxy.ask(Op::Join, &[nanoseconds(limit)], frame::u8).map(|done| done != 0)
    }
}
