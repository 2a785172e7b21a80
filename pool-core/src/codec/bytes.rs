//! Byte vectors at the speed of a copy. serde sees a `Vec<u8>` as a sequence of numbers, which is 30 times slower; where the type of a
//! value is known to be one (alone, or as the only argument), the same bytes are written and read in one piece.

use std::any::Any;

/// The bytes of a value that is nothing but a byte vector.
pub(super) fn of<T: 'static>(value: &T) -> Option<&[u8]> {
    let value: &dyn Any = value;
    let alone = value.downcast_ref::<Vec<u8>>();
    alone.or_else(|| value.downcast_ref::<(Vec<u8>,)>().map(|(bytes,)| bytes)).map(Vec::as_slice)
}

/// Makes such a value of its encoded form; `None` for other types, and for bytes that are not exactly that form.
pub(super) fn to<T: 'static>(encoded: &[u8]) -> Option<T> {
    let mut value: Option<T> = None;
    let target: &mut dyn Any = &mut value;
    if let Some(alone) = target.downcast_mut::<Option<Vec<u8>>>() {
        *alone = content(encoded).map(<[u8]>::to_vec);
    } else if let Some(single) = target.downcast_mut::<Option<(Vec<u8>,)>>() {
        *single = content(encoded).map(|bytes| (bytes.to_vec(),));
    }
    value
}

fn content(encoded: &[u8]) -> Option<&[u8]> {
    let (len, bytes) = encoded.split_first_chunk::<8>()?;
    (u64::from_le_bytes(*len) == bytes.len() as u64).then_some(bytes)
}
