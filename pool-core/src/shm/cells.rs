//! Elements of shared memory that anybody may write at any time: they are only ever copied, in atomic units.
//!
//! Rust knows two ways to look at memory that others change at the same time: atomics and raw copies that are a data race. So the elements are read and
//! written as atomic words, always of the same size for the same type, relaxed: as cheap as plain ones, and never undefined. An element of up to 8 bytes whose
//! size is a power of two is one word, and is never seen half written; a larger one may be.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

use bytemuck::Pod;

use super::object::{Object, Words};

/// Where the elements begin; before them lies the lock, if there is one.
pub(super) const START: usize = 64;

/// Size of the words that an element is made of.
const fn unit<T>() -> usize {
    assert!(size_of::<T>() > 0, "elements of no bytes can't be shared");
    assert!(align_of::<T>() <= START, "elements are aligned to at most 64 bytes");
    let largest = 1 << size_of::<T>().trailing_zeros();
    if largest < 8 { largest } else { 8 }
}

/// Length of an object with so many elements.
pub(super) fn bytes<T>(len: usize) -> std::io::Result<usize> {
    const { unit::<T>() };
    len.checked_mul(size_of::<T>())
        .and_then(|bytes| bytes.checked_add(START))
        .filter(|bytes| isize::try_from(*bytes).is_ok())
        .ok_or_else(|| std::io::ErrorKind::OutOfMemory.into())
}

/// How many elements an object has.
pub(super) fn len<T>(object: &Object) -> usize {
    (object.memory().len() - START) / size_of::<T>()
}

/// Elements of an object, as words.
#[derive(Debug)]
pub struct Place<'a> {
    start: NonNull<u8>,
    bytes: usize,
    unit: usize,
    _object: PhantomData<&'a Object>,
}

/// So many elements from `index` on.
///
/// # Panics
/// If there are not so many.
pub(super) fn at<T>(object: &Object, index: usize, count: usize) -> Place<'_> {
    let len = len::<T>(object);
    assert!(index <= len && count <= len - index, "{count} from {index} on, of {len} elements");
    // SAFETY: inside the mapping, or at its end, by the assertion.
    let start = unsafe { object.memory().start().add(START + index * size_of::<T>()) };
    Place {
        start,
        bytes: count * size_of::<T>(),
        unit: const { unit::<T>() },
        _object: PhantomData,
    }
}

impl<'a> Place<'a> {
    /// The first element.
    pub(super) fn first<T>(&self) -> NonNull<T> {
        self.start.cast()
    }

    /// The word `i`, of the size of the unit.
    #[inline]
    pub(super) fn word<A: Words>(&self, i: usize) -> &'a A {
        assert!(size_of::<A>() == self.unit && (i + 1) * self.unit <= self.bytes, "inside");
        // SAFETY: inside the mapping, which the object keeps for 'a; aligned, because the unit divides the size of an element and 64, where they begin; and all
        // accesses to an object without a lock are atomics of this size.
        unsafe { self.start.add(i * size_of::<A>()).cast::<A>().as_ref() }
    }
}

/// Copies elements out.
pub(super) fn load<T: Pod>(object: &Object, from: usize, to: &mut [T]) {
    let place = at::<T>(object, from, to.len());
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(to);
    macro_rules! copy {
        ($atomic:ty) => {
            for (i, part) in bytes.chunks_exact_mut(size_of::<$atomic>()).enumerate() {
                part.copy_from_slice(&place.word::<$atomic>(i).load(Relaxed).to_ne_bytes());
            }
        };
    }
    match place.unit {
        1 => copy!(AtomicU8),
        2 => copy!(AtomicU16),
        4 => copy!(AtomicU32),
        _ => copy!(AtomicU64),
    }
}

/// Copies elements in.
pub(super) fn store<T: Pod>(object: &Object, from: usize, values: &[T]) {
    let place = at::<T>(object, from, values.len());
    let bytes: &[u8] = bytemuck::cast_slice(values);
    macro_rules! copy {
        ($atomic:ty) => {
            for (i, part) in bytes.chunks_exact(size_of::<$atomic>()).enumerate() {
                place.word::<$atomic>(i).store(bytemuck::pod_read_unaligned(part), Relaxed);
            }
        };
    }
    match place.unit {
        1 => copy!(AtomicU8),
        2 => copy!(AtomicU16),
        4 => copy!(AtomicU32),
        _ => copy!(AtomicU64),
    }
}
