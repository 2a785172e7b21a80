//! Arrays and values without a lock: each access is a copy, and for integers there are atomic operations.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU32, AtomicU64, Ordering::SeqCst};

use bytemuck::Pod;

use super::cells::{self, Place};
use super::object::{Kind, Object, What, travels};

/// An array in shared memory, without a lock: anybody may read and write any element at any time.
///
/// `T` is plain old data, as [`bytemuck::Pod`] says: numbers, arrays of them, and structs that derive it. Elements of up to 8 bytes (whose size is
/// a power of two) are read and written whole; larger ones may be seen half changed, as may a range of elements. Where that matters, use
/// [`Array`](crate::Array). Arrays of `u32`, `i32`, `u64` and `i64` have atomic operations.
///
/// The memory is freed when the last process that has the array drops it or ends. Cloning is cheap and gives another handle of the same array.
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// # pool_core::init();
/// use pool_core::RawArray;
/// let pool = pool_core::Pool::new(2)?;
/// let squares = RawArray::<u64>::zeroed(8)?;
/// pool.starmap(|a: RawArray<u64>, i: usize| a.set(i, (i * i) as u64), (0..8).map(|i| (squares.clone(), i)))?;
/// assert_eq!(squares.to_vec(), [0, 1, 4, 9, 16, 25, 36, 49]);
/// # Ok(())
/// # }
/// ```
pub struct RawArray<T> {
    object: Arc<Object>,
    _elements: PhantomData<fn(T) -> T>,
}

/// One element of plain old data in shared memory, without a lock: see [`RawArray`]. For integers, a counter that all may change at once.
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// # pool_core::init();
/// use pool_core::RawValue;
/// let pool = pool_core::Pool::new(2)?;
/// let done = RawValue::new(0_u64)?;
/// pool.map(|done: RawValue<u64>| drop(done.fetch_add(1)), (0..10).map(|_| done.clone()))?;
/// assert_eq!(done.get(), 10);
/// # Ok(())
/// # }
/// ```
pub struct RawValue<T> {
    object: Arc<Object>,
    _element: PhantomData<fn(T) -> T>,
}

const fn array_of<T>() -> Kind {
    Kind { what: What::RawArray, unit: size_of::<T>() as u32 }
}

const fn value_of<T>() -> Kind {
    Kind { what: What::RawValue, unit: size_of::<T>() as u32 }
}

impl<T: Pod> RawArray<T> {
    /// An array of zeros.
    ///
    /// # Errors
    /// There is no memory, or no descriptor is free.
    pub fn zeroed(len: usize) -> io::Result<RawArray<T>> {
        let object = Object::create(array_of::<T>(), cells::bytes::<T>(len)?)?;
        Ok(RawArray { object, _elements: PhantomData })
    }

    /// An array with these elements.
    ///
    /// # Errors
    /// There is no memory, or no descriptor is free.
    pub fn from_slice(elements: &[T]) -> io::Result<RawArray<T>> {
        let array = RawArray::zeroed(elements.len())?;
        array.write(0, elements);
        Ok(array)
    }

    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        cells::len::<T>(&self.object)
    }

    /// Whether there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An element.
    ///
    /// # Panics
    /// If there is no such element.
    #[must_use]
    pub fn get(&self, index: usize) -> T {
        let mut element = [T::zeroed()];
        self.read(index, &mut element);
        element[0]
    }

    /// Sets an element.
    ///
    /// # Panics
    /// If there is no such element.
    pub fn set(&self, index: usize, value: T) {
        self.write(index, &[value]);
    }

    /// Copies the elements from `from` on to `to`, as many as it has.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn read(&self, from: usize, to: &mut [T]) {
        cells::load(&self.object, from, to);
    }

    /// Replaces the elements from `from` on.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn write(&self, from: usize, values: &[T]) {
        cells::store(&self.object, from, values);
    }

    /// A copy of all elements.
    #[must_use]
    pub fn to_vec(&self) -> Vec<T> {
        let mut elements = vec![T::zeroed(); self.len()];
        self.read(0, &mut elements);
        elements
    }
}

impl<T: Pod> RawValue<T> {
    /// A value.
    ///
    /// # Errors
    /// There is no memory, or no descriptor is free.
    pub fn new(value: T) -> io::Result<RawValue<T>> {
        let object = Object::create(value_of::<T>(), cells::bytes::<T>(1)?)?;
        cells::store(&object, 0, &[value]);
        Ok(RawValue { object, _element: PhantomData })
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> T {
        let mut value = [T::zeroed()];
        cells::load(&self.object, 0, &mut value);
        value[0]
    }

    /// Sets the value.
    pub fn set(&self, value: T) {
        cells::store(&self.object, 0, &[value]);
    }
}

/// Integers that can be changed atomically in shared memory: `u32`, `i32`, `u64`, `i64`.
pub trait SharedInteger: Pod + sealed::Atomic {}

mod sealed {
    use crate::shm::cells::Place;

    /// What an integer can do in place.
    pub trait Atomic: Sized {
        fn add(place: &Place<'_>, value: Self) -> Self;
        fn swap(place: &Place<'_>, value: Self) -> Self;
        fn max(place: &Place<'_>, value: Self) -> Self;
        fn min(place: &Place<'_>, value: Self) -> Self;
        fn exchange(place: &Place<'_>, current: Self, new: Self) -> Result<Self, Self>;
    }
}

macro_rules! integers {
    ($($integer:ty, $atomic:ty;)*) => {$(
        impl SharedInteger for $integer {}

        impl sealed::Atomic for $integer {
            fn add(place: &Place<'_>, value: Self) -> Self {
                place.word::<$atomic>(0).fetch_add(value, SeqCst)
            }
            fn swap(place: &Place<'_>, value: Self) -> Self {
                place.word::<$atomic>(0).swap(value, SeqCst)
            }
            fn max(place: &Place<'_>, value: Self) -> Self {
                place.word::<$atomic>(0).fetch_max(value, SeqCst)
            }
            fn min(place: &Place<'_>, value: Self) -> Self {
                place.word::<$atomic>(0).fetch_min(value, SeqCst)
            }
            fn exchange(place: &Place<'_>, current: Self, new: Self) -> Result<Self, Self> {
                place.word::<$atomic>(0).compare_exchange(current, new, SeqCst, SeqCst)
            }
        }
    )*};
}

integers! {
    u32, AtomicU32;
    i32, AtomicI32;
    u64, AtomicU64;
    i64, AtomicI64;
}

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident => $operation:ident;)*) => {
        /// Atomic operations, sequentially consistent, of all processes. Sums wrap around.
        impl<T: SharedInteger> RawArray<T> {
            $(
                $(#[$doc])*
                ///
                /// # Panics
                /// If there is no such element.
                pub fn $name(&self, index: usize, value: T) -> T {
                    T::$operation(&cells::at::<T>(&self.object, index, 1), value)
                }
            )*

            /// Replaces an element if it is `current`. `Err`: what it is.
            ///
            /// # Errors
            /// The element, which is not `current`.
            ///
            /// # Panics
            /// If there is no such element.
            pub fn compare_exchange(&self, index: usize, current: T, new: T) -> Result<T, T> {
                T::exchange(&cells::at::<T>(&self.object, index, 1), current, new)
            }
        }

        /// Atomic operations, sequentially consistent, of all processes. Sums wrap around.
        impl<T: SharedInteger> RawValue<T> {
            $(
                $(#[$doc])*
                pub fn $name(&self, value: T) -> T {
                    T::$operation(&cells::at::<T>(&self.object, 0, 1), value)
                }
            )*

            /// Replaces the value if it is `current`.
            ///
            /// # Errors
            /// The value, which is not `current`.
            pub fn compare_exchange(&self, current: T, new: T) -> Result<T, T> {
                T::exchange(&cells::at::<T>(&self.object, 0, 1), current, new)
            }
        }
    };
}

operations! {
    /// Adds, and gives what was there before.
    fetch_add => add;
    /// Replaces, and gives what was there before.
    swap => swap;
    /// Takes the larger one, and gives what was there before.
    fetch_max => max;
    /// Takes the smaller one, and gives what was there before.
    fetch_min => min;
}

impl<T> Clone for RawArray<T> {
    fn clone(&self) -> Self {
        RawArray { object: Arc::clone(&self.object), _elements: PhantomData }
    }
}

impl<T> Clone for RawValue<T> {
    fn clone(&self) -> Self {
        RawValue { object: Arc::clone(&self.object), _element: PhantomData }
    }
}

impl<T> fmt::Debug for RawArray<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawArray").field("len", &cells::len::<T>(&self.object)).finish()
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for RawValue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RawValue").field(&self.get()).finish()
    }
}

travels!([T: Pod] RawArray<T>, [array_of::<T>()], |object| {
    Ok(RawArray { object: object.at_least(cells::START)?, _elements: PhantomData })
});
travels!([T: Pod] RawValue<T>, [value_of::<T>()], |object| {
    let object = object.at_least(cells::START + size_of::<T>())?;
    Ok(RawValue { object, _element: PhantomData })
});
