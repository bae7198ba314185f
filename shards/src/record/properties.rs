//! The property string of a message: `name 0x01 value 0x02`, repeated.
//!
//! Reading is as tolerant as RocketMQ's: a missing last 0x02 is accepted, and what is no pair is skipped.

use memchr::{memchr, memchr2};

use crate::record::crc::CRC_PROPERTY_NAME;

/// Stands between a name and its value.
pub const NAME_VALUE_SEPARATOR: u8 = 1;
/// Ends a property.
pub const PROPERTY_SEPARATOR: u8 = 2;

pub const KEYS: &str = "KEYS";
pub const TAGS: &str = "TAGS";
/// `false`: the producer does not want to wait for the disk (RocketMQ's `waitStoreMsgOK`).
pub const WAIT: &str = "WAIT";
pub const DELAY: &str = "DELAY";
pub const RETRY_TOPIC: &str = "RETRY_TOPIC";
pub const REAL_TOPIC: &str = "REAL_TOPIC";
pub const REAL_QUEUE_ID: &str = "REAL_QID";
pub const TRANSACTION_PREPARED: &str = "TRAN_MSG";
pub const PRODUCER_GROUP: &str = "PGROUP";
pub const MIN_OFFSET: &str = "MIN_OFFSET";
pub const MAX_OFFSET: &str = "MAX_OFFSET";
pub const ORIGIN_MESSAGE_ID: &str = "ORIGIN_MESSAGE_ID";
pub const RECONSUME_TIME: &str = "RECONSUME_TIME";
pub const MSG_REGION: &str = "MSG_REGION";
pub const TRACE_ON: &str = "TRACE_ON";
pub const UNIQ_KEY: &str = "UNIQ_KEY";
pub const MAX_RECONSUME_TIMES: &str = "MAX_RECONSUME_TIMES";
pub const CONSUME_START_TIME: &str = "CONSUME_START_TIME";
pub const INNER_NUM: &str = "INNER_NUM";
pub const INNER_BASE: &str = "INNER_BASE";
pub const CLUSTER: &str = "CLUSTER";
pub const MSG_TYPE: &str = "MSG_TYPE";
pub const SHARDING_KEY: &str = "__SHARDINGKEY";
pub const TIMER_DELAY_SEC: &str = "TIMER_DELAY_SEC";
pub const TIMER_DELAY_MS: &str = "TIMER_DELAY_MS";
pub const TIMER_DELIVER_MS: &str = "TIMER_DELIVER_MS";
pub const CRC32: &str = CRC_PROPERTY_NAME;
pub const DLQ_ORIGIN_TOPIC: &str = "DLQ_ORIGIN_TOPIC";
pub const DLQ_ORIGIN_MESSAGE_ID: &str = "DLQ_ORIGIN_MESSAGE_ID";

/// The pairs of an encoded property string, in its order. Pairs that are not UTF-8 are skipped.
#[derive(Clone, Debug)]
pub struct Properties<'a> {
    rest: Rest<'a>,
}

/// What is not read yet. Mostly all of it is text, which is then not judged pair by pair.
#[derive(Clone, Copy, Debug)]
enum Rest<'a> {
    Text(&'a str),
    Bytes(&'a [u8]),
}

impl<'a> Properties<'a> {
    pub fn new(encoded: &'a [u8]) -> Self {
        Self { rest: std::str::from_utf8(encoded).map_or(Rest::Bytes(encoded), Rest::Text) }
    }

    /// The same of what is known to be text.
    pub fn of_text(encoded: &'a str) -> Self {
        Self { rest: Rest::Text(encoded) }
    }

    /// The value of `name`. Of several the last one counts, as for a Java client that fills a map.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.clone().filter(|(found, _)| *found == name).last().map(|(_, value)| value)
    }
}

impl<'a> Iterator for Properties<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.rest {
                Rest::Text("") | Rest::Bytes([]) => return None,
                Rest::Text(text) => {
                    let segment = Segment::first(text.as_bytes());
                    self.rest = Rest::Text(text.get(segment.end + 1..).unwrap_or_default());
                    if let Some(separator) = segment.separator {
                        return Some((&text[..separator], &text[separator + 1..segment.end]));
                    }
                }
                Rest::Bytes(bytes) => {
                    let segment = Segment::first(bytes);
                    self.rest = Rest::Bytes(bytes.get(segment.end + 1..).unwrap_or_default());
                    if let Some(separator) = segment.separator
                        && let Ok(name) = std::str::from_utf8(&bytes[..separator])
                        && let Ok(value) = std::str::from_utf8(&bytes[separator + 1..segment.end])
                    {
                        return Some((name, value));
                    }
                }
            }
        }
    }
}

/// Where the first segment of a property string is divided and ends.
struct Segment {
    /// Between a name and a value, neither of them empty; otherwise the segment is no pair.
    separator: Option<usize>,
    end: usize,
}

impl Segment {
    fn first(bytes: &[u8]) -> Self {
        let at = memchr2(NAME_VALUE_SEPARATOR, PROPERTY_SEPARATOR, bytes).unwrap_or(bytes.len());
        if bytes.get(at) != Some(&NAME_VALUE_SEPARATOR) {
            return Self { separator: None, end: at };
        }
        let value = &bytes[at + 1..];
        let value_bytes = memchr(PROPERTY_SEPARATOR, value).unwrap_or(value.len());
        Self { separator: (at > 0 && value_bytes > 0).then_some(at), end: at + 1 + value_bytes }
    }
}

/// A name or value holds 0x01 or 0x02, or a name is empty: it cannot be encoded. Status MESSAGE_ILLEGAL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("property {name:?} cannot be stored: its name is empty, or name or value contains 0x01 or 0x02")]
pub struct PropertyError {
    pub name: String,
}

/// A property string that can be changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PropertyString {
    encoded: Vec<u8>,
}

impl PropertyString {
    /// Takes over what a client or a record encoded, with the last separator added if it is missing.
    pub fn from_encoded(encoded: &[u8]) -> Self {
        let mut owned = Vec::with_capacity(encoded.len() + 64);
        owned.extend_from_slice(encoded);
        if owned.last().is_some_and(|last| *last != PROPERTY_SEPARATOR) {
            owned.push(PROPERTY_SEPARATOR);
        }
        Self { encoded: owned }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.encoded
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        Properties::new(&self.encoded).get(name)
    }

    /// Sets `name` to `value`; any earlier value is gone.
    ///
    /// # Errors
    /// When the pair cannot be encoded. Nothing is changed then.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), PropertyError> {
        let holds_separator = |text: &str| text.bytes().any(|byte| matches!(byte, 1 | 2));
        if name.is_empty() || holds_separator(name) || holds_separator(value) {
            return Err(PropertyError { name: name.to_owned() });
        }
        self.remove(name);
        self.encoded.extend_from_slice(name.as_bytes());
        self.encoded.push(NAME_VALUE_SEPARATOR);
        self.encoded.extend_from_slice(value.as_bytes());
        self.encoded.push(PROPERTY_SEPARATOR);
        Ok(())
    }

    /// Removes every value of `name`; the rest keeps its bytes and order.
    pub fn remove(&mut self, name: &str) {
        let mut at = 0;
        while at < self.encoded.len() {
            let length = memchr(PROPERTY_SEPARATOR, &self.encoded[at..])
                .map_or(self.encoded.len() - at, |separator| separator + 1);
            let segment = &self.encoded[at..at + length];
            let is_it = segment.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&1));
            if is_it {
                self.encoded.drain(at..at + length);
            } else {
                at += length;
            }
        }
    }
}

/// Java's `String.hashCode()`: over UTF-16 units, wrapping at 32 bits. What tag codes and index hashes are made of.
pub fn java_string_hash(text: &str) -> i32 {
    extended_java_hash(0, text)
}

/// The hash of a text with `hash`, continued by `text`.
pub(crate) fn extended_java_hash(hash: i32, text: &str) -> i32 {
    let extend = |hash: i32, unit: i32| hash.wrapping_mul(31).wrapping_add(unit);
    if text.is_ascii() {
        // Four at once: each step of the hash waits for the one before.
        let mut fours = text.as_bytes().chunks_exact(4);
        let hash = fours.by_ref().fold(hash, |hash, four| {
            let four = four.iter().fold(0, |hash, byte| extend(hash, i32::from(*byte)));
            hash.wrapping_mul(31 * 31 * 31 * 31).wrapping_add(four)
        });
        return fours.remainder().iter().fold(hash, |hash, byte| extend(hash, i32::from(*byte)));
    }
    text.encode_utf16().fold(hash, |hash, unit| extend(hash, i32::from(unit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_java_client_reads() {
        let encoded = b"KEYS\x01a b\x02\x01novalue\x02empty\x01\x02odd\x02TAGS\x01first\x02TAGS\x01second";
        let pairs: Vec<_> = Properties::new(encoded).collect();
        assert_eq!(pairs, [("KEYS", "a b"), ("TAGS", "first"), ("TAGS", "second")]);
        let text = std::str::from_utf8(encoded).unwrap();
        assert_eq!(Properties::of_text(text).collect::<Vec<_>>(), pairs);
        assert_eq!(Properties::new(encoded).get(TAGS), Some("second"));
        assert_eq!(Properties::new(encoded).get("nothing"), None);
    }

    #[test]
    fn a_pair_that_is_not_text_is_skipped() {
        let pairs: Vec<_> = Properties::new(b"A\x011\x02B\x01\xFF\x02\xFE\x011\x02C\x012\x01x\x02").collect();
        assert_eq!(pairs, [("A", "1"), ("C", "2\u{1}x")]);
    }

    #[test]
    fn set_replaces_and_remove_keeps_the_rest() {
        let mut properties = PropertyString::from_encoded(b"A\x011\x02AB\x012\x02A\x013");
        properties.set("A", "new").unwrap();
        assert_eq!(properties.as_bytes(), b"AB\x012\x02A\x01new\x02");
        properties.remove("AB");
        assert_eq!(properties.as_bytes(), b"A\x01new\x02");
        assert!(properties.set("B", "x\x02y").is_err());
        assert_eq!(properties.as_bytes(), b"A\x01new\x02");
    }

    #[test]
    fn hash_is_javas() {
        assert_eq!(java_string_hash(""), 0);
        assert_eq!(java_string_hash("TagA"), 2_598_919);
        assert_eq!(java_string_hash("polygenelubricants"), i32::MIN);
        assert_eq!(java_string_hash("\u{10437}"), 55_297 * 31 + 56_375);
        let by_units = |text: &str| {
            text.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(unit.into()))
        };
        for length in 0..20 {
            let text: String = ('k'..='~').take(length).collect();
            assert_eq!(java_string_hash(&text), by_units(&text), "{text}");
        }
    }
}
