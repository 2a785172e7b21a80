//! User value ↔ bytes. The only place that names `bincode`: fixed-width little-endian integers, which encode several times
//! faster than variable-width ones.

mod lent;
mod plain;

pub(crate) use lent::Lent;

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

/// Like [`encode`], for a value whose type may be known to be a vector of numbers.
#[inline]
pub(crate) fn encode_value<T: Serialize + 'static>(
    value: &T,
    out: &mut Vec<u8>,
    limit: u64,
) -> Result<(), Unencodable> {
    match plain::encode(value, out, limit) {
        Some(result) => result.map_err(Unencodable::TooLarge),
        None => encode(value, out, limit),
    }
}

/// Like [`decode`], for a value whose type may be known to be a vector of numbers.
#[inline]
pub(crate) fn decode_value<T: DeserializeOwned + 'static>(encoded: &[u8]) -> Result<T, String> {
    match plain::decode(encoded) {
        Some(value) => Ok(value),
        None => decode(encoded),
    }
}

/// A tuple of nothing but a vector of numbers, made of the bytes of these; `None` if it is something else.
#[inline]
pub(crate) fn decode_numbers<T: 'static>(bytes: Vec<u8>) -> Option<T> {
    plain::decode_owned(bytes)
}

/// Like [`decode`] of a vector, whose items are appended to `target`. On error `target` may have some of them.
#[inline]
pub(crate) fn decode_onto<T: DeserializeOwned + 'static>(
    encoded: &[u8],
    target: &mut Vec<T>,
) -> Result<(), String> {
    match plain::decode_onto(encoded, target) {
        Some([]) => Ok(()),
        Some(rest) => Err(left_over(rest.len())),
        None if target.is_empty() => decode(encoded).map(|items| *target = items),
        None => decode::<Vec<T>>(encoded).map(|items| target.extend(items)),
    }
}

/// Decodes a value that fills `bytes` exactly.
///
/// No encoded value claims more bytes than it has, so a limit of at least that many refuses only damaged ones, before memory is
/// taken for what they claim. The limit is a constant for the compiler: three sizes of it do, and
/// what is larger may claim anything.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let (value, used) = decode_first(bytes)?;
    if used == bytes.len() { Ok(value) } else { Err(left_over(bytes.len() - used)) }
}

/// Decodes the value at the beginning of `bytes`, and tells how many of them it takes. See [`decode`] for the limit.
pub(crate) fn decode_first<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize), String> {
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
    decoded.map_err(|error| decode_text(&error))
}

fn left_over(bytes: usize) -> String {
    format!("{bytes} bytes are left over after the value")
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

    /// Written and read in one piece as by serde.
    fn looks_the_same<T>(value: &T)
    where
        T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug + 'static,
    {
        let (mut quick, mut slow) = (vec![7], vec![7]);
        assert!(plain::encode(value, &mut quick, u64::MAX).is_some(), "the type is known");
        encode(value, &mut slow, u64::MAX).unwrap();
        assert_eq!(quick, slow);
        let size = quick.len() as u64;
        let refused = encode_value(value, &mut vec![7], size - 1);
        assert!(matches!(refused, Err(Unencodable::TooLarge(wanted)) if wanted == size));
        let mut encoded = quick.split_off(1);
        assert_eq!(decode_value::<T>(&encoded).as_ref(), Ok(value));
        assert_eq!(decode::<T>(&encoded).as_ref(), Ok(value));
        encoded.push(0);
        assert!(decode_value::<T>(&encoded).is_err());
        encoded.truncate(encoded.len().saturating_sub(2));
        assert!(decode_value::<T>(&encoded).is_err());
    }

    proptest! {
        #[test]
        fn vectors_of_numbers_look_the_same_either_way(bytes: Vec<u8>, words: Vec<u64>, singles: Vec<(i16,)>) {
            let floats: Vec<f64> = words.iter().map(|&word| word as f64 / 3.0).collect();
            looks_the_same(&bytes);
            looks_the_same(&(bytes,));
            looks_the_same(&(floats.clone(),));
            looks_the_same(&floats);
            looks_the_same(&words);
            looks_the_same(&singles);
        }

        #[test]
        fn vectors_are_decoded_onto_others(one: Vec<u32>, other: Vec<u32>, texts: Vec<String>) {
            let encoded = |bytes: &mut Vec<u8>| encode(&other, bytes, u64::MAX).map_err(|_| ());
            let (mut bytes, mut target) = (Vec::new(), one.clone());
            encoded(&mut bytes).unwrap();
            decode_onto(&bytes, &mut target).unwrap();
            prop_assert_eq!(target, [one.clone(), other].concat());
            bytes.push(0);
            prop_assert!(decode_onto(&bytes, &mut one.clone()).is_err());
            let (mut bytes, mut target) = (Vec::new(), texts.clone());
            encode(&texts, &mut bytes, u64::MAX).unwrap();
            decode_onto(&bytes, &mut target).unwrap();
            prop_assert_eq!(target, [texts.clone(), texts].concat());
        }
    }

    #[test]
    fn numbers_that_are_announced_and_not_there_are_refused() {
        let claim = |len: u64| [&len.to_le_bytes()[..], &[1; 16]].concat();
        for len in [3, 1 << 40, u64::MAX, u64::MAX / 8 + 1] {
            assert!(decode_value::<Vec<u64>>(&claim(len)).is_err());
            assert!(decode_onto::<u64>(&claim(len), &mut Vec::new()).is_err());
        }
        assert_eq!(decode_value::<Vec<u64>>(&claim(2)).unwrap().len(), 2);
    }

    #[test]
    fn bytes_of_numbers_are_such_numbers_or_nothing() {
        let bytes = vec![1, 0, 0, 0, 2, 0, 0, 0];
        assert_eq!(decode_numbers::<(Vec<u32>,)>(bytes.clone()), Some((vec![1, 2],)));
        assert_eq!(decode_numbers::<(Vec<u8>,)>(bytes.clone()), Some((bytes.clone(),)));
        assert_eq!(decode_numbers::<(Vec<u128>,)>(bytes.clone()), None, "half a number");
        assert_eq!(decode_numbers::<(String,)>(bytes), None);
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
