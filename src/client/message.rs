//! Messages as a client sees them: what it sends, and a borrowed view of the records that a pull answer carries.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, BufMut, BytesMut};

use super::error::ClientError;
use super::put_property;

/// Magic of a record whose topic length is one byte, and of one where it is two.
const MAGIC_V1: u32 = 0xDAA3_20A7;
const MAGIC_V2: u32 = 0xDAA3_20AB;
/// `sysFlag` bits: compressed body; 16-byte hosts.
const SYS_COMPRESSED: i32 = 1;
const SYS_BORN_HOST_V6: i32 = 1 << 4;
const SYS_STORE_HOST_V6: i32 = 1 << 5;

/// A message to send.
#[derive(Clone, Copy, Debug)]
pub struct OutMessage<'a> {
    pub unique_key: &'a str,
    pub body: &'a [u8],
    pub tags: Option<&'a str>,
    /// Keys for lookup, separated by spaces.
    pub keys: Option<&'a str>,
    /// Further properties; neither names nor values may hold the bytes 1 and 2.
    pub properties: &'a [(String, String)],
}

impl<'a> OutMessage<'a> {
    /// A message with nothing but a body and its key.
    pub fn new(unique_key: &'a str, body: &'a [u8]) -> Self {
        Self { unique_key, body, tags: None, keys: None, properties: &[] }
    }

    /// The property string, with everything a stock client puts in.
    pub fn encoded_properties(&self) -> String {
        let mut out = Vec::new();
        put_property(&mut out, "UNIQ_KEY", self.unique_key);
        put_property(&mut out, "WAIT", "true");
        if let Some(tags) = self.tags {
            put_property(&mut out, "TAGS", tags);
        }
        if let Some(keys) = self.keys {
            put_property(&mut out, "KEYS", keys);
        }
        for (name, value) in self.properties {
            put_property(&mut out, name, value);
        }
        String::from_utf8(out).expect("made of strings and two ASCII bytes")
    }

    /// Appends the message in the form it has in the body of a batch.
    pub(super) fn encode_in_batch(&self, out: &mut BytesMut) {
        let properties = self.encoded_properties();
        let length = |bytes: usize| u32::try_from(bytes).expect("a message is far smaller than 4 GiB");
        out.put_u32(length(22 + self.body.len() + properties.len()));
        out.put_bytes(0, 12);
        out.put_u32(length(self.body.len()));
        out.put_slice(self.body);
        out.put_u16(u16::try_from(properties.len()).unwrap_or(u16::MAX));
        out.put_slice(properties.as_bytes());
    }
}

/// Makes unique message keys: 32 hexadecimal digits, random per process, then counted.
#[derive(Debug)]
pub struct UniqueKeys {
    prefix: u64,
    next: AtomicU64,
}

impl Default for UniqueKeys {
    fn default() -> Self {
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u32(std::process::id());
        Self { prefix: hasher.finish(), next: AtomicU64::new(0) }
    }
}

impl UniqueKeys {
    /// A number below `count` that differs from process to process: which of several queues is to be the first.
    pub fn first_choice(&self, count: usize) -> usize {
        usize::try_from(self.prefix % count.max(1) as u64).expect("smaller than a usize")
    }

    /// A key that no other call returns, here or (but for a chance of 2^-64) elsewhere.
    pub fn next_key(&self) -> String {
        format!("{:016X}{:016X}", self.prefix, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// One record of a pull answer, borrowed from it.
#[derive(Clone, Copy, Debug)]
pub struct MessageView<'a> {
    pub queue_id: u32,
    pub queue_offset: u64,
    pub physical_offset: u64,
    pub flag: i32,
    pub sys_flag: i32,
    pub born_timestamp_ms: i64,
    pub store_timestamp_ms: i64,
    pub reconsume_times: i32,
    /// CRC-32 of the body with its highest bit cleared, as the record says.
    pub body_crc: u32,
    pub body: &'a [u8],
    pub topic: &'a str,
    properties: &'a [u8],
}

impl<'a> MessageView<'a> {
    /// Reads the record at the front of `bytes`; also returns what follows it.
    ///
    /// # Errors
    /// Lengths that do not fit, an unknown magic, a topic that is not text.
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), ClientError> {
        let whole = bytes.len();
        let bad = |what, at| ClientError::BadMessage { what, at, bytes: whole };
        let mut size_field = bytes;
        let size = size_field.try_get_u32().map_err(|_| bad("a record's size is cut off", 0))? as usize;
        if size > whole {
            return Err(bad("a record is longer than the answer", 0));
        }
        let (record, rest) = bytes.split_at(size);
        let mut input = record.get(4..).ok_or_else(|| bad("a record's size is too small", 0))?;
        let cut = |_| bad("a record's fields are longer than the record", size);

        let magic = input.try_get_u32().map_err(cut)?;
        if magic != MAGIC_V1 && magic != MAGIC_V2 {
            return Err(bad("a record's magic is unknown", 4));
        }
        let body_crc = input.try_get_u32().map_err(cut)?;
        let queue_id = input.try_get_u32().map_err(cut)?;
        let flag = input.try_get_i32().map_err(cut)?;
        let queue_offset = input.try_get_u64().map_err(cut)?;
        let physical_offset = input.try_get_u64().map_err(cut)?;
        let sys_flag = input.try_get_i32().map_err(cut)?;
        let born_timestamp_ms = input.try_get_i64().map_err(cut)?;
        let skip = |input: &mut &'a [u8], count: usize| -> Result<&'a [u8], ClientError> {
            let (taken, left) = input
                .split_at_checked(count)
                .ok_or_else(|| bad("a record's fields are longer than the record", size))?;
            *input = left;
            Ok(taken)
        };
        skip(&mut input, host_bytes(sys_flag, SYS_BORN_HOST_V6))?;
        let store_timestamp_ms = input.try_get_i64().map_err(cut)?;
        skip(&mut input, host_bytes(sys_flag, SYS_STORE_HOST_V6))?;
        let reconsume_times = input.try_get_i32().map_err(cut)?;
        skip(&mut input, 8)?;
        let body_length = input.try_get_u32().map_err(cut)? as usize;
        let body = skip(&mut input, body_length)?;
        let topic_length = if magic == MAGIC_V1 {
            usize::from(input.try_get_u8().map_err(cut)?)
        } else {
            usize::from(input.try_get_u16().map_err(cut)?)
        };
        let topic = std::str::from_utf8(skip(&mut input, topic_length)?)
            .map_err(|_| bad("a record's topic is not UTF-8", size))?;
        let properties_length = usize::from(input.try_get_u16().map_err(cut)?);
        let properties = skip(&mut input, properties_length)?;
        let view = Self {
            queue_id,
            queue_offset,
            physical_offset,
            flag,
            sys_flag,
            born_timestamp_ms,
            store_timestamp_ms,
            reconsume_times,
            body_crc,
            body,
            topic,
            properties,
        };
        Ok((view, rest))
    }

    /// Whether the body is compressed by its producer.
    pub fn is_compressed(&self) -> bool {
        self.sys_flag & SYS_COMPRESSED != 0
    }

    /// The properties, in stored order; bytes that are not UTF-8 are replaced.
    pub fn properties(&self) -> impl Iterator<Item = (String, String)> + 'a {
        self.raw_properties().map(|(name, value)| (text(name), text(value)))
    }

    /// One property's value.
    pub fn property(&self, name: &str) -> Option<&'a [u8]> {
        self.raw_properties().find(|(found, _)| *found == name.as_bytes()).map(|(_, value)| value)
    }

    fn raw_properties(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        self.properties.split(|byte| *byte == 2).filter_map(|pair| {
            let middle = pair.iter().position(|byte| *byte == 1)?;
            Some((&pair[..middle], &pair[middle + 1..]))
        })
    }
}

/// The records of a pull answer, one after the other; ends after the first that cannot be read.
#[derive(Clone, Debug)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    /// The records in `bytes`, which lie back to back.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<MessageView<'a>, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        Some(match MessageView::parse(self.rest) {
            Ok((view, rest)) => {
                self.rest = rest;
                Ok(view)
            }
            Err(error) => {
                self.rest = &[];
                Err(error)
            }
        })
    }
}

/// An address with its 4-byte port.
fn host_bytes(sys_flag: i32, v6: i32) -> usize {
    if sys_flag & v6 == 0 { 8 } else { 20 }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record written out by hand, field by field, as the format says.
    fn record(magic: u32, sys_flag: i32, topic: &str, body: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        out.put_u32(0);
        out.put_u32(magic);
        out.put_u32(77);
        out.put_u32(3);
        out.put_i32(-5);
        out.put_u64(41);
        out.put_u64(9000);
        out.put_i32(sys_flag);
        out.put_i64(1_700_000_000_001);
        out.put_bytes(7, host_bytes(sys_flag, SYS_BORN_HOST_V6));
        out.put_i64(1_700_000_000_002);
        out.put_bytes(8, host_bytes(sys_flag, SYS_STORE_HOST_V6));
        out.put_i32(2);
        out.put_i64(0);
        out.put_u32(u32::try_from(body.len()).unwrap());
        out.put_slice(body);
        if magic == MAGIC_V1 {
            out.put_u8(u8::try_from(topic.len()).unwrap());
        } else {
            out.put_u16(u16::try_from(topic.len()).unwrap());
        }
        out.put_slice(topic.as_bytes());
        let properties = OutMessage { tags: Some("red"), ..OutMessage::new("K1", b"") }.encoded_properties();
        out.put_u16(u16::try_from(properties.len()).unwrap());
        out.put_slice(properties.as_bytes());
        let size = u32::try_from(out.len()).unwrap();
        out[..4].copy_from_slice(&size.to_be_bytes());
        out.to_vec()
    }

    #[test]
    fn reads_records_of_both_forms_back_to_back() {
        let long_topic = "t".repeat(200);
        let mut bytes = record(MAGIC_V1, 0, "orders", b"hello");
        bytes.extend(record(MAGIC_V2, SYS_BORN_HOST_V6 | SYS_STORE_HOST_V6, &long_topic, b""));
        let views: Vec<_> = Messages::new(&bytes).collect::<Result<_, _>>().unwrap();
        assert_eq!(views.len(), 2);
        assert_eq!((views[0].queue_id, views[0].queue_offset, views[0].physical_offset), (3, 41, 9000));
        assert_eq!((views[0].topic, views[0].body, views[0].reconsume_times), ("orders", &b"hello"[..], 2));
        assert_eq!(views[0].property("TAGS"), Some(&b"red"[..]));
        assert_eq!(views[0].property("UNIQ_KEY"), Some(&b"K1"[..]));
        assert_eq!(views[1].topic, long_topic);
    }

    #[test]
    fn every_cut_of_a_record_is_an_error_and_not_a_panic() {
        let bytes = record(MAGIC_V1, 0, "orders", b"hello");
        for length in 1..bytes.len() {
            assert!(MessageView::parse(&bytes[..length]).is_err(), "cut at {length}");
            let mut shorter = bytes.clone();
            shorter[..4].copy_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
            assert!(MessageView::parse(&shorter).is_err(), "size field {length}");
        }
    }

    #[test]
    fn a_batch_holds_each_message_with_its_own_length() {
        let mut out = BytesMut::new();
        OutMessage::new("K1", b"one").encode_in_batch(&mut out);
        let first = out.len();
        OutMessage::new("K2", b"three").encode_in_batch(&mut out);
        assert_eq!(u32::from_be_bytes(out[..4].try_into().unwrap()) as usize, first);
        assert_eq!(&out[20..23], b"one");
    }

    #[test]
    fn unique_keys_differ() {
        let keys = UniqueKeys::default();
        assert_ne!(keys.next_key(), keys.next_key());
        assert_eq!(keys.next_key().len(), 32);
    }
}
