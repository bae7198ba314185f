//! The ROCKETMQ form of a header.
//!
//! ```text
//! | code i16 | language u8 | version i16 | opaque i32 | flag i32 | n i32 | remark n | m i32 | fields m |
//! a field:   | k i16 | key k | v i32 | value v |                                       all big-endian, strings UTF-8
//! ```
//!
//! A string of length 0 stands for null; a field with a null key or value counts as absent. The code has 16 bits: it is read
//! with its sign, as Java does. Strings are borrowed; bytes that are not UTF-8 are replaced, as Java does.

use std::borrow::Cow;

use super::request::{ExtFields, Head, HeaderError};

/// Reads a header into `head`, which is empty.
///
/// # Errors
/// It ends early, a length is negative, or it has too many fields.
pub(super) fn read<'f>(header: &'f [u8], head: &mut Head<'f>) -> Result<(), HeaderError> {
    let mut input = Input { header, at: 0, end: header.len() };
    head.code = i32::from(input.i16("code")?);
    [head.language] = input.array("language")?;
    head.version = i32::from(input.i16("version")?);
    head.opaque = input.i32("opaque")?;
    head.flag = input.i32("flag")?;
    let remark_length = input.i32("remark length")?;
    head.remark = input.text("remark", remark_length)?;
    let fields_length = input.i32("extFields length")?;
    read_fields(&mut input, fields_length, &mut head.ext)
}

fn read_fields<'f>(input: &mut Input<'f>, length: i32, ext: &mut ExtFields<'f>) -> Result<(), HeaderError> {
    let start = input.at;
    input.bytes("extFields", length)?;
    input.end = input.at;
    input.at = start;
    while input.at < input.end {
        let key_length = i32::from(input.i16("key length")?);
        let key = input.text("key", key_length)?;
        let value_length = input.i32("value length")?;
        let value = input.text("value", value_length)?;
        if let (Some(key), Some(value)) = (key, value) {
            ext.push(key, value)?;
        }
    }
    Ok(())
}

/// What is left of the header: bytes `at..end`.
struct Input<'f> {
    header: &'f [u8],
    at: usize,
    end: usize,
}

impl<'f> Input<'f> {
    fn bytes(&mut self, part: &'static str, length: i32) -> Result<&'f [u8], HeaderError> {
        let bytes =
            usize::try_from(length).map_err(|_| HeaderError::BinaryLength { part, length, at: self.at })?;
        let truncated = HeaderError::BinaryTruncated { part, at: self.at, bytes: self.header.len() };
        let after = self.at.checked_add(bytes).filter(|&after| after <= self.end).ok_or(truncated)?;
        let found = &self.header[self.at..after];
        self.at = after;
        Ok(found)
    }

    fn array<const N: usize>(&mut self, part: &'static str) -> Result<[u8; N], HeaderError> {
        let length = i32::try_from(N).expect("N is a few bytes");
        Ok(self.bytes(part, length)?.try_into().expect("asked for N bytes"))
    }

    fn i16(&mut self, part: &'static str) -> Result<i16, HeaderError> {
        Ok(i16::from_be_bytes(self.array(part)?))
    }

    fn i32(&mut self, part: &'static str) -> Result<i32, HeaderError> {
        Ok(i32::from_be_bytes(self.array(part)?))
    }

    fn text(&mut self, part: &'static str, length: i32) -> Result<Option<Cow<'f, str>>, HeaderError> {
        let bytes = self.bytes(part, length)?;
        Ok((!bytes.is_empty()).then(|| String::from_utf8_lossy(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(header: &[u8]) -> Result<Head<'_>, HeaderError> {
        let mut head = Head::default();
        super::read(header, &mut head).map(|()| head)
    }

    fn sample() -> Vec<u8> {
        let mut bytes = vec![0x01, 0x36, 9, 0x01, 0x3d];
        bytes.extend_from_slice(&7_i32.to_be_bytes());
        bytes.extend_from_slice(&2_i32.to_be_bytes());
        bytes.extend_from_slice(&1_i32.to_be_bytes());
        bytes.push(b'r');
        let mut fields = Vec::new();
        for (key, value) in [("a", "group"), ("empty", ""), ("b", "topic")] {
            fields.extend_from_slice(&u16::try_from(key.len()).unwrap().to_be_bytes());
            fields.extend_from_slice(key.as_bytes());
            fields.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
            fields.extend_from_slice(value.as_bytes());
        }
        bytes.extend_from_slice(&u32::try_from(fields.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(&fields);
        bytes
    }

    #[test]
    fn reads_a_command() {
        let bytes = sample();
        let head = read(&bytes).unwrap();
        assert_eq!((head.code, head.language, head.version), (310, 9, 317));
        assert_eq!((head.opaque, head.flag, head.remark.as_deref()), (7, 2, Some("r")));
        let fields: Vec<_> = head.ext.iter().collect();
        assert_eq!(fields, [("a", "group"), ("b", "topic")]);
    }

    #[test]
    fn refuses_every_truncation() {
        let bytes = sample();
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn refuses_negative_and_huge_lengths() {
        for length in [-1, i32::MIN, i32::MAX] {
            let mut bytes = sample();
            bytes[13..17].copy_from_slice(&i32::to_be_bytes(length));
            assert!(read(&bytes).is_err(), "remark {length}");
            let mut bytes = sample();
            bytes[18..22].copy_from_slice(&i32::to_be_bytes(length));
            assert!(read(&bytes).is_err(), "fields {length}");
        }
    }
}
