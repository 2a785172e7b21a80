//! One element with a lock.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use bytemuck::Pod;

use super::array::elements;
use super::cells;
use super::object::{Kind, Object, What, travels};
use crate::sync::condition::{Relock, sealed};
use crate::sync::lock::{Held, wrap};
use crate::sync::poison::{Recover, never_timed_out};
use crate::sync::word::LockWord;
use crate::sync::{LockResult, TryLockResult};

/// A value of plain old data in shared memory, with a lock: what [`Array`](crate::Array) is for many. Without a lock, see [`RawValue`](crate::RawValue).
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// # pool_core::init();
/// use pool_core::Value;
/// let pool = pool_core::Pool::new(2)?;
/// let counter = Value::new(0_u64)?;
/// pool.map(|counter: Value<u64>| counter.update(|count| *count += 1), vec![counter.clone(); 10])?;
/// assert_eq!(counter.get(), 10);
/// # Ok(())
/// # }
/// ```
pub struct Value<T> {
    object: Arc<Object>,
    _element: PhantomData<fn(T) -> T>,
}

/// Holds the lock of a [`Value`]. Dropping it lets the lock go.
#[must_use = "the lock is let go at once if the guard is dropped"]
pub struct ValueGuard<'a, T> {
    held: Held<'a>,
    /// No reference: see `ArrayGuard`.
    value: NonNull<T>,
    _value: PhantomData<&'a mut T>,
}

const fn kind<T>() -> Kind {
    Kind { what: What::Value, unit: size_of::<T>() as u32 }
}

impl<T: Pod> Value<T> {
    /// A value.
    ///
    /// # Errors
    /// There is no memory, or no descriptor is free.
    pub fn new(value: T) -> io::Result<Value<T>> {
        let object = Object::create(kind::<T>(), cells::bytes::<T>(1)?)?;
        let new = Value { object, _element: PhantomData };
        new.set(value);
        Ok(new)
    }

    /// Takes the lock; waits until it is free.
    ///
    /// # Errors
    /// [`Poisoned`](crate::Poisoned), with the guard: the last holder died or panicked, and the value may be half changed.
    pub fn lock(&self) -> LockResult<ValueGuard<'_, T>> {
        never_timed_out(wrap(Held::take(self.word(), None), |held| self.guard(held)))
    }

    /// Takes the lock; waits until it is free, at most so long.
    ///
    /// # Errors
    /// [`TryLockError::WouldBlock`](crate::TryLockError::WouldBlock) when the time is up, [`TryLockError::Poisoned`](crate::TryLockError::Poisoned) as for
    /// [`lock`](Value::lock).
    pub fn lock_timeout(&self, limit: Duration) -> TryLockResult<ValueGuard<'_, T>> {
        wrap(Held::take(self.word(), Some(limit)), |held| self.guard(held))
    }

    /// Takes the lock if nobody alive holds it. Never blocks.
    ///
    /// # Errors
    /// As [`lock_timeout`](Value::lock_timeout).
    pub fn try_lock(&self) -> TryLockResult<ValueGuard<'_, T>> {
        wrap(Held::try_take(self.word()), |held| self.guard(held))
    }

    /// A copy of the value. This and [`set`](Value::set) take the lock for one operation, and do not care whether it is poisoned.
    #[must_use]
    pub fn get(&self) -> T {
        *self.quietly()
    }

    /// Sets the value.
    pub fn set(&self, value: T) {
        *self.quietly() = value;
    }

    /// Changes the value with the lock held, whether or not it is poisoned, and gives what `change` gives.
    pub fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        change(&mut *self.lock().unwrap_or_else(crate::Poisoned::into_inner))
    }

    fn word(&self) -> &LockWord {
        self.object.words(0)
    }

    fn guard<'a>(&'a self, held: Held<'a>) -> ValueGuard<'a, T> {
        let value = elements::<T>(&self.object).cast();
        ValueGuard { held, value, _value: PhantomData }
    }

    fn quietly(&self) -> ValueGuard<'_, T> {
        self.lock().unwrap_or_else(crate::Poisoned::into_inner)
    }
}

impl<T> Deref for ValueGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: as for `ArrayGuard`: one element of an object whose lock is held.
        unsafe { self.value.as_ref() }
    }
}

impl<T> DerefMut for ValueGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`; and this guard is borrowed alone.
        unsafe { self.value.as_mut() }
    }
}

impl<T> Relock for ValueGuard<'_, T> {}

impl<T> sealed::Held for ValueGuard<'_, T> {
    fn unlocked(&mut self, work: &mut dyn FnMut()) -> bool {
        self.held.unlocked(work)
    }
}

impl<T> Recover for ValueGuard<'_, T> {
    fn clear_poison(&mut self) {
        self.held.clear_poison();
    }
}

impl<T> Clone for Value<T> {
    fn clone(&self) -> Self {
        Value { object: Arc::clone(&self.object), _element: PhantomData }
    }
}

impl<T> fmt::Debug for Value<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Value").finish_non_exhaustive()
    }
}

impl<T: fmt::Debug> fmt::Debug for ValueGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

travels!([T: Pod] Value<T>, [kind::<T>()], |object| {
    let object = object.at_least(cells::START + size_of::<T>())?;
    Ok(Value { object, _element: PhantomData })
});
