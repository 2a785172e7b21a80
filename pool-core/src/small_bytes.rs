//! Bytes that lie in their owner if they are few: most arguments and results are, and memory of their own would cost more than they do.

use std::fmt;
use std::ops::Deref;

/// What lies in the owner at most: with the length and the tag, three words.
const ROOM: usize = 22;

/// See the module's documentation.
#[derive(Clone)]
pub(crate) enum SmallBytes {
    Few { len: u8, bytes: [u8; ROOM] },
    Many(Box<[u8]>),
}

impl SmallBytes {
    pub(crate) const NONE: SmallBytes = SmallBytes::Few { len: 0, bytes: [0; ROOM] };

    /// Takes what is in the buffer: many as they are, few as a copy, which leaves the buffer its memory.
    #[inline]
    pub(crate) fn take(buffer: &mut Vec<u8>) -> SmallBytes {
        if buffer.len() <= ROOM {
            let few = SmallBytes::from(&buffer[..]);
            buffer.clear();
            few
        } else {
            SmallBytes::from(std::mem::take(buffer))
        }
    }

    /// So few bytes, written by the function over zeros; `None` if they are too many.
    #[inline]
    pub(crate) fn few(len: usize, fill: impl FnOnce(&mut [u8])) -> Option<SmallBytes> {
        let mut bytes = [0; ROOM];
        fill(bytes.get_mut(..len)?);
        Some(SmallBytes::Few { len: len as u8, bytes })
    }

    /// Whether they have memory of their own.
    #[inline]
    pub(crate) fn is_many(&self) -> bool {
        matches!(self, SmallBytes::Many(_))
    }

    pub(crate) fn into_vec(self) -> Vec<u8> {
        match self {
            SmallBytes::Few { .. } => self.to_vec(),
            SmallBytes::Many(bytes) => bytes.into_vec(),
        }
    }
}

impl From<&[u8]> for SmallBytes {
    #[inline]
    fn from(source: &[u8]) -> SmallBytes {
        SmallBytes::few(source.len(), |bytes| bytes.copy_from_slice(source))
            .unwrap_or_else(|| SmallBytes::Many(source.into()))
    }
}

impl From<Vec<u8>> for SmallBytes {
    #[inline]
    fn from(bytes: Vec<u8>) -> SmallBytes {
        SmallBytes::Many(bytes.into_boxed_slice())
    }
}

impl Deref for SmallBytes {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            SmallBytes::Few { len, bytes } => &bytes[..usize::from(*len)],
            SmallBytes::Many(bytes) => bytes,
        }
    }
}

impl fmt::Debug for SmallBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SmallBytes({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_and_many_are_the_bytes_that_they_were() {
        for len in [0, 1, ROOM, ROOM + 1, 1000] {
            let source: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let mut buffer = source.clone();
            let taken = SmallBytes::take(&mut buffer);
            assert_eq!(taken.is_many(), len > ROOM);
            assert!(buffer.is_empty(), "what was taken is not there any more");
            assert_eq!(*taken, source[..]);
            assert_eq!(*SmallBytes::from(&source[..]), source[..]);
            let few = SmallBytes::few(len, |bytes| bytes.copy_from_slice(&source));
            assert!(few.map_or(len > ROOM, |few| *few == source[..]));
            assert_eq!(taken.into_vec(), source);
        }
    }

    #[test]
    fn they_take_three_words() {
        assert_eq!(size_of::<SmallBytes>(), 24);
    }
}
