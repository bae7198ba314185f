//! The two checksums of a record: RocketMQ's 31-bit CRC-32 and the property that holds the one of the whole record.

/// Name of the property that holds the checksum of the whole record.
pub(crate) const CRC_PROPERTY_NAME: &str = "__CRC32#";
/// Bytes of the encoded property: name, 0x01, ten digits, 0x02. It is the last of the record.
pub const CRC_PROPERTY_BYTES: usize = CRC_PROPERTY_NAME.len() + 1 + CRC_DIGITS + 1;
const CRC_DIGITS: usize = 10;
const DIGITS_AT: usize = CRC_PROPERTY_NAME.len() + 1;

const _: () = assert!(CRC_PROPERTY_BYTES == 20);

/// The property before there is a CRC.
pub(crate) const NO_CRC_PROPERTY: [u8; CRC_PROPERTY_BYTES] = *b"__CRC32#\x010000000000\x02";

/// CRC-32 (IEEE) of `bytes` without its top bit, as RocketMQ stores it in a signed integer.
pub fn crc31(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes) & 0x7FFF_FFFF
}

/// The encoded property for `crc`. The digits go from the least significant to the most significant one.
pub(crate) fn encode_property(crc: u32) -> [u8; CRC_PROPERTY_BYTES] {
    let mut encoded = NO_CRC_PROPERTY;
    let mut rest = crc;
    for digit in &mut encoded[DIGITS_AT..DIGITS_AT + CRC_DIGITS] {
        *digit = b'0' + u8::try_from(rest % 10).expect("a remainder of 10 is one digit");
        rest /= 10;
    }
    encoded
}

/// The checksum in an encoded property; `None` when `encoded` is not exactly such a property.
pub(crate) fn decode_property(encoded: &[u8]) -> Option<u32> {
    let digits =
        encoded.strip_prefix(CRC_PROPERTY_NAME.as_bytes())?.strip_prefix(&[1])?.strip_suffix(&[2])?;
    if digits.len() != CRC_DIGITS {
        return None;
    }
    digits.iter().rev().try_fold(0_u32, |value, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        value.checked_mul(10)?.checked_add(u32::from(digit))
    })
}

/// Whether `encoded` is not the property, but was it before something happened to it.
pub(crate) fn was_property(encoded: &[u8]) -> bool {
    const SIMILAR: usize = CRC_PROPERTY_NAME.len() - 2;
    let same = encoded.iter().zip(CRC_PROPERTY_NAME.as_bytes()).filter(|(found, wanted)| found == wanted);
    decode_property(encoded).is_none() && same.count() >= SIMILAR
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_go_from_the_least_significant() {
        assert_eq!(&encode_property(2_147_483_647), b"__CRC32#\x017463847412\x02");
        assert_eq!(encode_property(0), NO_CRC_PROPERTY);
        assert_eq!(&encode_property(7), b"__CRC32#\x017000000000\x02");
        for crc in [0, 9, 10, 123_456_789, 0x7FFF_FFFF] {
            assert_eq!(decode_property(&encode_property(crc)), Some(crc));
        }
    }

    #[test]
    fn what_is_not_the_property_is_refused() {
        assert_eq!(decode_property(b"__CRC32#\x01999999999a\x02"), None);
        assert_eq!(decode_property(b"__CRC32#\x019999999999\x02"), None, "does not fit in 32 bits");
        assert_eq!(decode_property(b"__CRC32#\x0112345\x02"), None);
        assert_eq!(decode_property(&[0; 20]), None);
    }

    #[test]
    fn a_damaged_property_is_not_taken_for_none() {
        let whole = encode_property(123_456_789);
        assert!(!was_property(&whole));
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut damaged = whole;
                damaged[at] ^= 1 << bit;
                let is_seen = decode_property(&damaged).is_none_or(|crc| crc != 123_456_789);
                assert!(
                    is_seen && (decode_property(&damaged).is_some() || was_property(&damaged)),
                    "{at} {bit}"
                );
            }
        }
        assert!(!was_property(b"\x02KEYS\x01order-000012\x02"));
    }
}
