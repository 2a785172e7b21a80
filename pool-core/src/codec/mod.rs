//! User value ↔ bytes. The only place that names `bincode`: fixed-width little-endian integers, which encode several times
//! faster than variable-width ones.

mod bytes;

use bincode::config::{Configuration, Fixint, LittleEndian};
use bincode::enc::write::Writer;
use bincode::error::{DecodeError, EncodeError};
use serde::Serialize;
use serde::de::DeserializeOwned;

const CONFIG: Configuration<LittleEndian, Fixint> =
    bincode::config::standard().with_little_endian().with_fixed_int_encoding();

/// Why a value could not be encoded.
#[derive(Debug)]
pub(crate) enum Unencodable {
    /// It grew beyond the limit; the size at which that was noticed.
    TooLarge(u64),
    /// Its `Serialize` refused.
    Refused(String),
}

/// Appends the encoded value to `out`, which then has at most `limit` bytes. On error `out` is as before.
pub(crate) fn encode<T: Serialize + ?Sized>(
    value: &T,
    out: &mut Vec<u8>,
    limit: u64,
) -> Result<(), Unencodable> {
    let start = out.len();
    let mut writer = Bounded { out, limit, wanted: 0 };
    let result = bincode::serde::encode_into_writer(value, &mut writer, CONFIG);
    let wanted = writer.wanted;
    result.map_err(|error| {
        out.truncate(start);
        if wanted > limit {
            Unencodable::TooLarge(wanted)
        } else {
            Unencodable::Refused(text(&error))
        }
    })
}

/// Like [`encode`], for a value whose type may be known to be bytes.
pub(crate) fn encode_value<T: Serialize + 'static>(
    value: &T,
    out: &mut Vec<u8>,
    limit: u64,
) -> Result<(), Unencodable> {
    let Some(bytes) = bytes::of(value) else { return encode(value, out, limit) };
    let size = (out.len() + 8 + bytes.len()) as u64;
    if size > limit {
        return Err(Unencodable::TooLarge(size));
    }
    out.reserve_exact(8 + bytes.len());
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

/// Like [`decode`], for a value whose type may be known to be bytes.
pub(crate) fn decode_value<T: DeserializeOwned + 'static>(encoded: &[u8]) -> Result<T, String> {
    match bytes::to(encoded) {
        Some(value) => Ok(value),
        None => decode(encoded),
    }
}

/// Decodes a value that fills `bytes` exactly.
///
/// No encoded value claims more bytes than it has, so a limit of at least that many refuses only damaged ones, before memory is
/// taken for what they claim. The limit is a constant for the compiler: three sizes of it do, and
/// what is larger may claim anything.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    const SMALL: usize = 64 << 10;
    const MEDIUM: usize = 16 << 20;
    const LARGE: usize = 1 << 30;
    let decoded = if bytes.len() <= SMALL {
        bincode::serde::decode_from_slice(bytes, CONFIG.with_limit::<SMALL>())
    } else if bytes.len() <= MEDIUM {
        bincode::serde::decode_from_slice(bytes, CONFIG.with_limit::<MEDIUM>())
    } else if bytes.len() <= LARGE {
        bincode::serde::decode_from_slice(bytes, CONFIG.with_limit::<LARGE>())
    } else {
        bincode::serde::decode_from_slice(bytes, CONFIG)
    };
    let (value, used) = decoded.map_err(|error| decode_text(&error))?;
    if used == bytes.len() {
        Ok(value)
    } else {
        Err(format!("{} bytes are left over after the value", bytes.len() - used))
    }
}

/// A vector with a limit: what would go beyond it is refused before memory is taken.
struct Bounded<'a> {
    out: &'a mut Vec<u8>,
    limit: u64,
    wanted: u64,
}

impl Writer for Bounded<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        let wanted = (self.out.len() + bytes.len()) as u64;
        if wanted > self.limit {
            self.wanted = wanted;
            return Err(EncodeError::UnexpectedEnd);
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }
}

fn text(error: &EncodeError) -> String {
    match error {
        EncodeError::OtherString(text) => text.clone(),
        other => other.to_string(),
    }
}

fn decode_text(error: &DecodeError) -> String {
    match error {
        DecodeError::OtherString(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(value: (u8, i64, String, Vec<Option<u32>>, Result<bool, String>)) {
            let mut bytes = Vec::new();
            encode(&value, &mut bytes, u64::MAX).unwrap();
            prop_assert_eq!(decode::<(u8, i64, String, Vec<Option<u32>>, Result<bool, String>)>(&bytes).unwrap(), value);
        }

        #[test]
        fn cut_short_is_an_error(value: (u32, String), cut in 1usize..8) {
            let mut bytes = Vec::new();
            encode(&value, &mut bytes, u64::MAX).unwrap();
            bytes.truncate(bytes.len() - cut);
            prop_assert!(decode::<(u32, String)>(&bytes).is_err());
        }
    }

    proptest! {
        #[test]
        fn byte_vectors_look_the_same_either_way(value: Vec<u8>) {
            let (mut quick, mut slow) = (Vec::new(), Vec::new());
            let value = (value,);
            encode_value(&value, &mut quick, u64::MAX).unwrap();
            encode(&value, &mut slow, u64::MAX).unwrap();
            prop_assert_eq!(&quick, &slow);
            prop_assert_eq!(decode_value::<(Vec<u8>,)>(&quick).unwrap(), value.clone());
            prop_assert_eq!(decode::<(Vec<u8>,)>(&quick).unwrap(), value);
            quick.push(0);
            prop_assert!(decode_value::<(Vec<u8>,)>(&quick).is_err());
        }
    }

    #[test]
    fn limit_leaves_the_buffer_as_it_was() {
        let mut bytes = vec![1, 2, 3];
        let error = encode(&[0u64; 100].as_slice(), &mut bytes, 64).unwrap_err();
        assert!(matches!(error, Unencodable::TooLarge(size) if size > 64));
        assert_eq!(bytes, [1, 2, 3]);
    }

    #[test]
    fn a_claimed_length_takes_no_memory() {
        let claim = (1u64 << 40).to_le_bytes();
        assert!(decode::<String>(&claim).is_err());
        assert!(decode::<Vec<u64>>(&claim).is_err());
        assert!(decode::<Vec<()>>(&[0; 8]).unwrap().is_empty());
    }

    #[test]
    fn trailing_bytes_are_an_error() {
        assert!(decode::<u8>(&[1, 2]).unwrap_err().contains("left over"));
    }
}
