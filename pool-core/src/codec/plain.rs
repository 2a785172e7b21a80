//! Vectors of numbers at the speed of a copy. serde sees a `Vec<u8>` as a sequence of numbers, which is 30 times slower; where the type of a
//! value is known to be such a vector (alone, or as the only argument), or one of single arguments, as chunks of a map are, the same bytes are
//! written and read in one piece.

use std::any::Any;

use bytemuck::Pod;

use crate::sys::memory;

/// Calls the macro for each type that is encoded as it lies in memory. All comparisons of types are made by the compiler.
macro_rules! for_numbers {
    ($one:ident) => {
        $one!(u8);
        $one!(i8);
        $one!(u16);
        $one!(i16);
        $one!(u32);
        $one!(i32);
        $one!(f32);
        $one!(u64);
        $one!(i64);
        $one!(f64);
        $one!(u128);
        $one!(i128);
    };
}
pub(super) use for_numbers;

/// Appends a value that is nothing but numbers to `out`, which then has at most `limit` bytes; else gives the size that it would have. `None`: it is of
/// another type.
#[inline]
pub(super) fn encode<T: 'static>(
    value: &T,
    out: &mut Vec<u8>,
    limit: u64,
) -> Option<Result<(), u64>> {
    if cfg!(target_endian = "big") {
        return None;
    }
    let value: &dyn Any = value;
    macro_rules! one {
        ($number:ty) => {
            if let Some(items) = value.downcast_ref::<Vec<$number>>() {
                return Some(put(items, out, limit));
            }
            if let Some((items,)) = value.downcast_ref::<(Vec<$number>,)>() {
                return Some(put(items, out, limit));
            }
            if let Some(items) = value.downcast_ref::<Vec<($number,)>>() {
                return Some(put_singles(items, out, limit));
            }
        };
    }
    for_numbers!(one);
    None
}

/// Makes such a value of its encoded form; `None` for other types, and for bytes that are not exactly that form.
#[inline]
pub(super) fn decode<T: 'static>(encoded: &[u8]) -> Option<T> {
    if cfg!(target_endian = "big") {
        return None;
    }
    let mut value: Option<T> = None;
    let target: &mut dyn Any = &mut value;
    macro_rules! one {
        ($number:ty) => {
            if let Some(items) = target.downcast_mut::<Option<Vec<$number>>>() {
                *items = take(encoded);
                return value;
            }
            if let Some(single) = target.downcast_mut::<Option<(Vec<$number>,)>>() {
                *single = take(encoded).map(|items| (items,));
                return value;
            }
            if let Some(singles) = target.downcast_mut::<Option<Vec<($number,)>>>() {
                *singles = take_singles(encoded);
                return value;
            }
        };
    }
    for_numbers!(one);
    None
}

/// Makes a value that is nothing but a vector of numbers, as the only field of a tuple, of the bytes of these; `None` for others, and if they are none.
#[inline]
pub(super) fn decode_owned<T: 'static>(bytes: Vec<u8>) -> Option<T> {
    let mut value: Option<T> = None;
    let target: &mut dyn Any = &mut value;
    if let Some(single) = target.downcast_mut::<Option<(Vec<u8>,)>>() {
        *single = Some((bytes,));
        return value;
    }
    macro_rules! one {
        ($number:ty) => {
            if let Some(single) = target.downcast_mut::<Option<(Vec<$number>,)>>() {
                *single =
                    bytes.len().is_multiple_of(size_of::<$number>()).then(|| (numbers(&bytes),));
                return value;
            }
        };
    }
    for_numbers!(one);
    None
}

/// Appends the numbers that are encoded at the beginning of `encoded` to `target`, and gives what is left; `None` for other types, and if there are less.
#[expect(clippy::ptr_arg, reason = "the vector grows, behind its type's back")]
#[inline]
pub(super) fn decode_onto<'a, T: 'static>(
    encoded: &'a [u8],
    target: &mut Vec<T>,
) -> Option<&'a [u8]> {
    if cfg!(target_endian = "big") {
        return None;
    }
    macro_rules! one {
        ($number:ty) => {
            if let Some(numbers) = (target as &mut dyn Any).downcast_mut::<Vec<$number>>() {
                let (bytes, rest) = content::<$number>(encoded)?;
                append(bytes, numbers);
                return Some(rest);
            }
        };
    }
    for_numbers!(one);
    None
}

fn begin<T>(len: usize, out: &mut Vec<u8>, limit: u64) -> Result<(), u64> {
    let size = out.len() + 8 + len * size_of::<T>();
    if size as u64 > limit {
        return Err(size as u64);
    }
    out.reserve_exact(size - out.len());
    out.extend_from_slice(&(len as u64).to_le_bytes());
    Ok(())
}

fn put<T: Pod>(items: &[T], out: &mut Vec<u8>, limit: u64) -> Result<(), u64> {
    begin::<T>(items.len(), out, limit)?;
    out.extend_from_slice(bytemuck::cast_slice(items));
    Ok(())
}

fn put_singles<T: Pod>(items: &[(T,)], out: &mut Vec<u8>, limit: u64) -> Result<(), u64> {
    begin::<T>(items.len(), out, limit)?;
    let start = out.len();
    out.resize(start + items.len() * size_of::<T>(), 0);
    let places = out[start..].chunks_exact_mut(size_of::<T>());
    for (place, (item,)) in places.zip(items) {
        place.copy_from_slice(bytemuck::bytes_of(item));
    }
    Ok(())
}

/// The bytes of so many numbers as are announced, and what follows.
fn content<T>(encoded: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, bytes) = encoded.split_first_chunk::<8>()?;
    let size = usize::try_from(u64::from_le_bytes(*len)).ok()?.checked_mul(size_of::<T>())?;
    bytes.split_at_checked(size)
}

fn take<T: Pod>(encoded: &[u8]) -> Option<Vec<T>> {
    let (bytes, rest) = content::<T>(encoded)?;
    rest.is_empty().then(|| numbers(bytes))
}

fn numbers<T: Pod>(bytes: &[u8]) -> Vec<T> {
    let mut numbers = memory::vec_with_huge_pages(bytes.len() / size_of::<T>());
    append(bytes, &mut numbers);
    numbers
}

fn append<T: Pod>(bytes: &[u8], numbers: &mut Vec<T>) {
    match bytemuck::try_cast_slice(bytes) {
        Ok(items) => numbers.extend_from_slice(items),
        // they lie at an odd address
        Err(_) => numbers.extend(bytes.chunks_exact(size_of::<T>()).map(read::<T>)),
    }
}

fn take_singles<T: Pod>(encoded: &[u8]) -> Option<Vec<(T,)>> {
    let (bytes, rest) = content::<T>(encoded)?;
    let singles = bytes.chunks_exact(size_of::<T>()).map(|bytes| (read(bytes),));
    rest.is_empty().then(|| singles.collect())
}

fn read<T: Pod>(bytes: &[u8]) -> T {
    bytemuck::pod_read_unaligned(bytes)
}
