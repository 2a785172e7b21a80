//! Text, or bytes that are not text, in JSON.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

/// Bytes that are text nearly always: a command's output, an argument, a path.
///
/// In JSON they are a plain string where they are UTF-8, and `{"base64": "..."}` where they are not, so nothing is lost and
/// nothing is guessed.
///
/// ```
/// use pool_worker::Data;
/// assert_eq!(serde_json::to_string(&Data::from("a b")).unwrap(), r#""a b""#);
/// assert_eq!(serde_json::to_string(&Data::from(vec![0xff, 0x00])).unwrap(), r#"{"base64":"/wA="}"#);
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Data(Vec<u8>);

impl Data {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as text, with `\u{fffd}` for what is no UTF-8.
    pub fn to_text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }

    /// The bytes as an argument or a path.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }

    /// The bytes as a path.
    pub fn as_path(&self) -> &Path {
        Path::new(self.as_os_str())
    }

    /// Appends bytes.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The bytes as a path, without a copy.
    pub fn into_path(self) -> PathBuf {
        PathBuf::from(OsString::from_vec(self.0))
    }
}

impl From<Vec<u8>> for Data {
    fn from(bytes: Vec<u8>) -> Self {
        Data(bytes)
    }
}

impl From<String> for Data {
    fn from(text: String) -> Self {
        Data(text.into_bytes())
    }
}

impl From<&str> for Data {
    fn from(text: &str) -> Self {
        Data(text.into())
    }
}

impl From<OsString> for Data {
    fn from(text: OsString) -> Self {
        Data(text.into_vec())
    }
}

impl From<PathBuf> for Data {
    fn from(path: PathBuf) -> Self {
        Data(path.into_os_string().into_vec())
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_os_str())
    }
}

impl Serialize for Data {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("base64", &base64::encode(&self.0))?;
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DataVisitor)
    }
}

struct DataVisitor;

impl<'de> Visitor<'de> for DataVisitor {
    type Value = Data;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#"a string or {"base64": "..."}"#)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Data, E> {
        Ok(Data::from(text))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Data, E> {
        Ok(Data::from(text))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Data, A::Error> {
        let Some((key, text)) = map.next_entry::<String, String>()? else {
            return Err(de::Error::missing_field("base64"));
        };
        if key != "base64" {
            return Err(de::Error::unknown_field(&key, &["base64"]));
        }
        if let Some(more) = map.next_key::<String>()? {
            return Err(de::Error::unknown_field(&more, &["base64"]));
        }
        base64::decode(&text).map(Data).ok_or_else(|| de::Error::custom("this is not base64 text"))
    }
}

/// The standard base64 alphabet with padding (RFC 4648, section 4).
mod base64 {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    pub(super) fn encode(bytes: &[u8]) -> String {
        let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
        for group in bytes.chunks(3) {
            let mut word = [0; 3];
            word[..group.len()].copy_from_slice(group);
            let word = u32::from_be_bytes([0, word[0], word[1], word[2]]);
            for digit in 0..4 {
                if digit <= group.len() {
                    text.push(char::from(ALPHABET[(word >> (18 - 6 * digit) & 63) as usize]));
                } else {
                    text.push('=');
                }
            }
        }
        text
    }

    pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
        if !text.len().is_multiple_of(4) {
            return None;
        }
        let digits = text.trim_end_matches('=');
        if text.len() - digits.len() > 2 {
            return None;
        }
        let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
        for group in digits.as_bytes().chunks(4) {
            let mut word = 0;
            for (place, digit) in group.iter().enumerate() {
                let value = ALPHABET.iter().position(|letter| letter == digit)?;
                word |= (value as u32) << (18 - 6 * place);
            }
            bytes.extend_from_slice(&word.to_be_bytes()[1..group.len()]);
        }
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(bytes: &[u8]) -> String {
        let json = serde_json::to_string(&Data::from(bytes.to_vec())).unwrap();
        let back: Data = serde_json::from_str(&json).unwrap();
        assert_eq!(back.as_bytes(), bytes);
        json
    }

    #[test]
    fn text_is_a_plain_string() {
        assert_eq!(round_trip("grün\n\u{0}".as_bytes()), r#""grün\n\u0000""#);
        assert_eq!(round_trip(b""), r#""""#);
    }

    #[test]
    fn other_bytes_are_base64_of_every_length() {
        assert_eq!(round_trip(b"\xff"), r#"{"base64":"/w=="}"#);
        assert_eq!(round_trip(b"\xff\xfe"), r#"{"base64":"//4="}"#);
        assert_eq!(round_trip(b"\xff\xfe\xfd"), r#"{"base64":"//79"}"#);
        round_trip(&(0..=255).collect::<Vec<u8>>());
    }

    #[test]
    fn what_is_neither_is_refused() {
        for wrong in [r#"{"base64":"/w="}"#, r#"{"base64":"!!!!"}"#, r#"{"hex":"ff"}"#, "{}", "3"] {
            assert!(serde_json::from_str::<Data>(wrong).is_err(), "{wrong}");
        }
    }
}
