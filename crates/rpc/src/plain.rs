//! Bytes and wide integers as JSON spells them: `0x` and lower-case hex, decimal strings.
//!
//! One value, one spelling: upper-case digits, leading zeros and signs are refused.

use std::fmt::Display;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Exactly `N` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hex<const N: usize>(pub(crate) [u8; N]);

/// Any number of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HexBytes(pub(crate) Vec<u8>);

/// An unsigned integer of 64 bits or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decimal<T>(pub(crate) T);

/// `0x` and lower-case hex.
pub(crate) fn spell(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}

/// The bytes of `0x` and lower-case hex; `None` for any other spelling.
pub(crate) fn bytes_of(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("0x")?;
    if digits.bytes().any(|digit| digit.is_ascii_uppercase()) {
        return None;
    }
    hex::decode(digits).ok()
}

/// The same with a length that is known.
pub(crate) fn array_of<const N: usize>(text: &str) -> Option<[u8; N]> {
    bytes_of(text)?.try_into().ok()
}

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&spell(&self.0))
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wanted =
            || D::Error::custom(format!("`{text}` is not 0x and {} lower-case hex digits", 2 * N));
        array_of(&text).map(Self).ok_or_else(wanted)
    }
}

impl Serialize for HexBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&spell(&self.0))
    }
}

impl<'de> Deserialize<'de> for HexBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        bytes_of(&text).map(Self).ok_or_else(|| {
            D::Error::custom("bytes are 0x and an even number of lower-case hex digits")
        })
    }
}

impl<T: Display> Serialize for Decimal<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de, T: std::str::FromStr + Display> Deserialize<'de> for Decimal<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        decimal_of(&text).map(Self).ok_or_else(|| {
            D::Error::custom(format!("`{text}` is not a decimal number of the field's width"))
        })
    }
}

/// The integer of a decimal string in its one spelling.
pub(crate) fn decimal_of<T: std::str::FromStr + Display>(text: &str) -> Option<T> {
    let digits = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    let value: T = digits.then(|| text.parse().ok())??;
    (value.to_string() == text).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_one_spelling() {
        assert_eq!(array_of::<2>("0x0aff"), Some([0x0a, 0xff]));
        for text in ["0aff", "0x0aFF", "0X0aff", "0x0af", "0x0aff00", "0x", "0xzz00", "0x+1ff"] {
            assert_eq!(array_of::<2>(text), None, "{text}");
        }
        assert_eq!(bytes_of("0x"), Some(vec![]));
    }

    #[test]
    fn integers_have_one_spelling() {
        assert_eq!(decimal_of::<u64>("18446744073709551615"), Some(u64::MAX));
        assert_eq!(decimal_of::<u64>("0"), Some(0));
        for text in ["", "00", "01", "+1", "-1", " 1", "1 ", "0x1", "18446744073709551616", "1e3"] {
            assert_eq!(decimal_of::<u64>(text), None, "{text}");
        }
    }
}
