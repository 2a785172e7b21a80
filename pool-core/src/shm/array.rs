//! An array with a lock.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use bytemuck::Pod;

use super::cells;
use super::object::{Kind, Object, What, travels};
use crate::sync::condition::{Relock, sealed};
use crate::sync::lock::{Held, wrap};
use crate::sync::poison::{Recover, never_timed_out};
use crate::sync::word::LockWord;
use crate::sync::{LockResult, TryLockResult};

/// An array in shared memory, with a lock: the guard is a slice of it. A holder that is killed never blocks the others, see [`Lock`](crate::Lock).
///
/// `T` is plain old data, as [`bytemuck::Pod`] says: numbers, arrays of them, and structs that derive it. [`get`](Array::get) and its like take the lock for one
/// operation; without any lock, see [`RawArray`](crate::RawArray).
///
/// The memory is freed when the last process that has the array drops it or ends. Cloning is cheap and gives another handle of the same array. Passing it to a
/// task copies nothing, whatever its size.
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// # pool_core::init();
/// use pool_core::{Array, Poisoned};
/// let pool = pool_core::Pool::new(2)?;
/// let sums = Array::<f64>::zeroed(3)?;
/// let add = |sums: Array<f64>, x: f64| {
///     let mut sums = sums.lock().unwrap_or_else(Poisoned::into_inner);
///     sums.iter_mut().for_each(|sum| *sum += x);
/// };
/// pool.starmap(add, [1.0, 2.0, 3.0].map(|x| (sums.clone(), x)))?;
/// assert_eq!(sums.to_vec(), [6.0, 6.0, 6.0]);
/// # Ok(())
/// # }
/// ```
pub struct Array<T> {
    object: Arc<Object>,
    _elements: PhantomData<fn(T) -> T>,
}

/// Holds the lock of an [`Array`]: a slice of its elements. Dropping it lets the lock go.
#[must_use = "the lock is let go at once if the guard is dropped"]
pub struct ArrayGuard<'a, T> {
    held: Held<'a>,
    /// No reference: while a [`Condition`](crate::Condition) waits, the elements are others'.
    elements: NonNull<[T]>,
    _elements: PhantomData<&'a mut [T]>,
}

const fn kind<T>() -> Kind {
    Kind { what: What::Array, unit: size_of::<T>() as u32 }
}

impl<T: Pod> Array<T> {
    /// An array of zeros.
    ///
    /// # Errors
    /// There is no memory, or no descriptor is free.
    pub fn zeroed(len: usize) -> io::Result<Array<T>> {
        let object = Object::create(kind::<T>(), cells::bytes::<T>(len)?)?;
        Ok(Array { object, _elements: PhantomData })
    }

    /// An array with these elements.
    ///
    /// # Errors
    /// There is no memory, or no descriptor is free.
    pub fn from_slice(elements: &[T]) -> io::Result<Array<T>> {
        let array = Array::zeroed(elements.len())?;
        array.quietly().copy_from_slice(elements);
        Ok(array)
    }

    /// Number of elements. Takes no lock.
    #[must_use]
    pub fn len(&self) -> usize {
        cells::len::<T>(&self.object)
    }

    /// Whether there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the lock; waits until it is free.
    ///
    /// # Errors
    /// [`Poisoned`](crate::Poisoned), with the guard: the last holder died or panicked, and the elements may be half changed.
    pub fn lock(&self) -> LockResult<ArrayGuard<'_, T>> {
        never_timed_out(wrap(Held::take(self.word(), None), |held| self.guard(held)))
    }

    /// Takes the lock; waits until it is free, at most so long.
    ///
    /// # Errors
    /// [`TryLockError::WouldBlock`](crate::TryLockError::WouldBlock) when the time is up, [`TryLockError::Poisoned`](crate::TryLockError::Poisoned) as for
    /// [`lock`](Array::lock).
    pub fn lock_timeout(&self, limit: Duration) -> TryLockResult<ArrayGuard<'_, T>> {
        wrap(Held::take(self.word(), Some(limit)), |held| self.guard(held))
    }

    /// Takes the lock if nobody alive holds it. Never blocks.
    ///
    /// # Errors
    /// As [`lock_timeout`](Array::lock_timeout).
    pub fn try_lock(&self) -> TryLockResult<ArrayGuard<'_, T>> {
        wrap(Held::try_take(self.word()), |held| self.guard(held))
    }

    /// A copy of an element. This and what follows take the lock for one operation, and do not care whether it is poisoned.
    ///
    /// # Panics
    /// If there is no such element.
    #[must_use]
    pub fn get(&self, index: usize) -> T {
        self.quietly()[index]
    }

    /// Sets an element.
    ///
    /// # Panics
    /// If there is no such element.
    pub fn set(&self, index: usize, value: T) {
        self.quietly()[index] = value;
    }

    /// Copies the elements from `from` on to `to`, as many as it has.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn read(&self, from: usize, to: &mut [T]) {
        to.copy_from_slice(&self.quietly()[from..][..to.len()]);
    }

    /// Replaces the elements from `from` on.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn write(&self, from: usize, values: &[T]) {
        self.quietly()[from..][..values.len()].copy_from_slice(values);
    }

    /// A copy of all elements.
    #[must_use]
    pub fn to_vec(&self) -> Vec<T> {
        self.quietly().to_vec()
    }

    /// Changes elements with the lock held, whether or not it is poisoned, and gives what `change` gives.
    ///
    /// ```
    /// let sums = pool_core::Array::from_slice(&[1, 2, 3])?;
    /// let total: i32 = sums.update(|sums| {
    ///     sums[0] += 10;
    ///     sums.iter().sum()
    /// });
    /// assert_eq!(total, 16);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn update<R>(&self, change: impl FnOnce(&mut [T]) -> R) -> R {
        change(&mut self.lock().unwrap_or_else(crate::Poisoned::into_inner))
    }

    fn word(&self) -> &LockWord {
        self.object.words(0)
    }

    fn guard<'a>(&'a self, held: Held<'a>) -> ArrayGuard<'a, T> {
        ArrayGuard { held, elements: elements(&self.object), _elements: PhantomData }
    }

    /// A poisoned lock stays so; a panic for an index that does not exist changes nothing.
    fn quietly(&self) -> ArrayGuard<'_, T> {
        let mut guard = self.lock().unwrap_or_else(crate::Poisoned::into_inner);
        guard.held.trust();
        guard
    }
}

/// All elements, to be accessed by who holds the lock of the object.
pub(super) fn elements<T>(object: &Object) -> NonNull<[T]> {
    let len = cells::len::<T>(object);
    let first = cells::at::<T>(object, 0, len).first();
    NonNull::slice_from_raw_parts(first, len)
}

impl<T> Deref for ArrayGuard<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: inside the mapping and aligned (the elements begin at 64, and no alignment is larger); all bytes are a `T`, which is plain old data. The lock of
        // the object is held, and what lies in an object with a lock is accessed in no other way, in no process; nor by a dead one: a lock is taken from a process
        // only after all its threads have ended.
        unsafe { self.elements.as_ref() }
    }
}

impl<T> DerefMut for ArrayGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; and this guard is borrowed alone.
        unsafe { self.elements.as_mut() }
    }
}

impl<T> Relock for ArrayGuard<'_, T> {}

impl<T> sealed::Held for ArrayGuard<'_, T> {
    fn unlocked(&mut self, work: &mut dyn FnMut()) -> bool {
        self.held.unlocked(work)
    }
}

impl<T> Recover for ArrayGuard<'_, T> {
    fn clear_poison(&mut self) {
        self.held.clear_poison();
    }
}

impl<T> Clone for Array<T> {
    fn clone(&self) -> Self {
        Array { object: Arc::clone(&self.object), _elements: PhantomData }
    }
}

impl<T> fmt::Debug for Array<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Array").field("len", &cells::len::<T>(&self.object)).finish()
    }
}

impl<T: fmt::Debug> fmt::Debug for ArrayGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

travels!([T: Pod] Array<T>, [kind::<T>()], |object| {
    Ok(Array { object: object.at_least(cells::START)?, _elements: PhantomData })
});
