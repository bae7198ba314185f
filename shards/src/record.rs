//! One message in the CommitLog, in RocketMQ's byte layout.
//!
//! ```text
//!  0 total size    4 magic        8 body CRC     12 queue id     16 flag
//! 20 queue offset (8)            28 physical offset (8)          36 sys flag
//! 40 born timestamp (8)          48 born host: IP (4 or 16) + port (4)
//!    store timestamp (8)            store host: IP (4 or 16) + port (4)
//!    reconsume times (4)            prepared transaction offset (8)
//!    body size (4), body            topic size (1, or 2 with the second magic), topic
//!    properties size (2), properties; their last 20 bytes are the CRC of everything before them
//! ```
//! All numbers are big-endian. The serve core encodes ([`RecordFields::encode`]), the log core fills in where and when
//! ([`place`]), everyone reads with [`RecordView`]. Reading judges every byte: what comes from a disk may be anything.

use std::net::{IpAddr, SocketAddr};

use bytes::{BufMut, BytesMut};

use crate::append::Placement;
use crate::deliberate::{Mistake, makes};
use crate::limits::{PROPERTIES_BYTES_MAX, RECORD_BYTES_MAX};
use crate::position::{PhysicalOffset, QueueOffset};
use crate::record::crc::{CRC_PROPERTY_BYTES, crc31};
use crate::record::properties::PROPERTY_SEPARATOR;

pub mod crc;
pub mod message_id;
pub mod properties;

/// Magic of a record whose topic size takes one byte.
pub const MAGIC_V1: u32 = 0xDAA3_20A7;
/// Magic of a record whose topic size takes two bytes: the topic is longer than 127 bytes.
pub const MAGIC_V2: u32 = 0xDAA3_20AB;
/// Magic of the filler at the end of a file: go on with the next file.
pub const MAGIC_BLANK: u32 = 0xCBD4_3194;
/// Bytes of the filler that have a meaning: size and magic.
pub const BLANK_BYTES: usize = 8;

/// The body is compressed.
pub const SYS_FLAG_COMPRESSED: i32 = 1;
/// TAGS holds several tags.
pub const SYS_FLAG_MULTI_TAGS: i32 = 1 << 1;
/// The two bits of the transaction type.
pub const SYS_FLAG_TRANSACTION_MASK: i32 = 0b11 << 2;
pub const SYS_FLAG_TRANSACTION_PREPARED: i32 = 0b01 << 2;
pub const SYS_FLAG_TRANSACTION_COMMIT: i32 = 0b10 << 2;
pub const SYS_FLAG_TRANSACTION_ROLLBACK: i32 = 0b11 << 2;
/// The born host is an IPv6 address.
pub const SYS_FLAG_BORN_HOST_V6: i32 = 1 << 4;
/// The store host is an IPv6 address.
pub const SYS_FLAG_STORE_HOST_V6: i32 = 1 << 5;

const MAGIC_AT: usize = 4;
const BODY_CRC_AT: usize = 8;
const QUEUE_ID_AT: usize = 12;
const FLAG_AT: usize = 16;
const QUEUE_OFFSET_AT: usize = 20;
const PHYSICAL_OFFSET_AT: usize = 28;
const SYS_FLAG_AT: usize = 36;
const BORN_TIMESTAMP_AT: usize = 40;
const BORN_HOST_AT: usize = 48;
/// Smallest record: IPv4 hosts, no body, no topic, no properties.
pub(crate) const RECORD_BYTES_MIN: usize = 91;
/// As much of a record as says where it belongs: size, magic, own physical offset.
pub(crate) const IDENTITY_BYTES: usize = PHYSICAL_OFFSET_AT + 8;
const TOPIC_BYTES_V1_MAX: usize = 127;
/// Bytes before the body when both hosts are IPv6.
const FIXED_BYTES_MAX: usize = 112;

const _: () = assert!(FIXED_BYTES_MAX == RECORD_BYTES_MIN - 16 - 3 + 40);

/// Why bytes are not a record, or fields cannot become one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// More bytes are needed to tell.
    #[error("{have_bytes} bytes are too few for a record, {needed_bytes} are needed")]
    TooShort { have_bytes: usize, needed_bytes: usize },
    #[error("magic {magic:#010x} is not a record's")]
    Magic { magic: u32 },
    /// The BLANK at the end of a file: not a record, and nothing wrong.
    #[error("end of the file: {size_bytes} bytes of filler")]
    Blank { size_bytes: u64 },
    #[error("record size {size_bytes} is outside {RECORD_BYTES_MIN}..={RECORD_BYTES_MAX}")]
    Size { size_bytes: i64 },
    #[error("field {field} is {value}, which no record has")]
    Field { field: &'static str, value: i64 },
    /// The parts do not add up to the size that the record says.
    #[error("the parts of the record make {parts_bytes} bytes, its size field says {size_bytes}")]
    PartsMismatch { parts_bytes: usize, size_bytes: usize },
    #[error("the topic is not UTF-8")]
    TopicText,
    #[error("body CRC is {found:#x}, the record says {stored:#x}")]
    BodyCrc { stored: u32, found: u32 },
    #[error("record CRC is {found:#x}, the record says {stored:#x}")]
    RecordCrc { stored: u32, found: u32 },
    #[error("the property that holds the record's CRC is damaged")]
    CrcProperty,
    /// The record has no CRC of its own, and its properties cannot be right.
    #[error("the properties hold a NUL byte and no record CRC: the end of the record was not written")]
    PropertiesTorn,
    /// Encoding only: properties with the CRC property exceed their limit. Status MESSAGE_ILLEGAL.
    #[error("properties take {bytes} bytes with the CRC property, at most {PROPERTIES_BYTES_MAX} fit")]
    PropertiesTooLong { bytes: usize },
    /// Encoding only. Status MESSAGE_ILLEGAL.
    #[error("the record would take {bytes} bytes, at most {RECORD_BYTES_MAX} fit")]
    TooLong { bytes: usize },
}

/// What the serve core knows of a message before it has a place in the log.
#[derive(Clone, Debug)]
pub struct RecordFields<'a> {
    pub topic: &'a str,
    pub queue_id: u32,
    /// The user's flag.
    pub flag: i32,
    /// Without the two bits for IPv6 hosts: encoding sets them as the addresses are.
    pub sys_flag: i32,
    pub born_timestamp_ms: i64,
    pub born_host: SocketAddr,
    pub store_host: SocketAddr,
    pub reconsume_times: i32,
    pub prepared_transaction_offset: i64,
    pub body: &'a [u8],
    /// Encoded, without the CRC property. A missing last separator is added.
    pub properties: &'a [u8],
}

impl RecordFields<'_> {
    /// Appends the record to `out`, placement still empty; returns its size in bytes.
    ///
    /// # Errors
    /// When the message is larger than a record may be, or a number does not fit its field. `out` is unchanged then.
    pub fn encode(&self, out: &mut BytesMut) -> Result<usize, RecordError> {
        let separator_bytes =
            usize::from(self.properties.last().is_some_and(|last| *last != PROPERTY_SEPARATOR));
        let properties_bytes = self.properties.len() + separator_bytes + CRC_PROPERTY_BYTES;
        let properties_size = i16::try_from(properties_bytes)
            .map_err(|_| RecordError::PropertiesTooLong { bytes: properties_bytes })?;
        let topic_size = u16::try_from(self.topic.len())
            .map_err(|_| RecordError::Field { field: "topic size", value: saturated(self.topic.len()) })?;
        let queue_id = i32::try_from(self.queue_id)
            .map_err(|_| RecordError::Field { field: "queue id", value: i64::from(self.queue_id) })?;
        let is_v2 = self.topic.len() > TOPIC_BYTES_V1_MAX;
        let sys_flag = self.sys_flag_with_hosts();
        let total = fixed_bytes(sys_flag, is_v2) + self.body.len() + self.topic.len() + properties_bytes;
        let (Ok(total_size), Ok(body_size), true) =
            (i32::try_from(total), i32::try_from(self.body.len()), total <= RECORD_BYTES_MAX)
        else {
            return Err(RecordError::TooLong { bytes: total });
        };

        let mut fixed = Fixed::default();
        fixed.put(&total_size.to_be_bytes());
        fixed.put(&(if is_v2 { MAGIC_V2 } else { MAGIC_V1 }).to_be_bytes());
        fixed.put(&crc31(self.body).to_be_bytes());
        fixed.put(&queue_id.to_be_bytes());
        fixed.put(&self.flag.to_be_bytes());
        fixed.put(&[0; 16]);
        fixed.put(&sys_flag.to_be_bytes());
        fixed.put(&self.born_timestamp_ms.to_be_bytes());
        fixed.put_host(self.born_host);
        fixed.put(&[0; 8]);
        fixed.put_host(self.store_host);
        fixed.put(&self.reconsume_times.to_be_bytes());
        fixed.put(&self.prepared_transaction_offset.to_be_bytes());
        fixed.put(&body_size.to_be_bytes());

        let start = out.len();
        out.reserve(total);
        out.put_slice(&fixed.bytes[..fixed.length]);
        out.put_slice(self.body);
        if is_v2 {
            out.put_u16(topic_size);
        } else {
            out.put_u8(u8::try_from(topic_size).expect("a topic of the first form has at most 127 bytes"));
        }
        out.put_slice(self.topic.as_bytes());
        out.put_i16(properties_size);
        out.put_slice(self.properties);
        out.put_bytes(PROPERTY_SEPARATOR, separator_bytes);
        out.put_slice(&crc::NO_CRC_PROPERTY);
        assert_eq!(out.len() - start, total, "the size computed is the size written");
        Ok(total)
    }

    fn sys_flag_with_hosts(&self) -> i32 {
        let mut sys_flag = self.sys_flag & !(SYS_FLAG_BORN_HOST_V6 | SYS_FLAG_STORE_HOST_V6);
        if self.born_host.is_ipv6() {
            sys_flag |= SYS_FLAG_BORN_HOST_V6;
        }
        if self.store_host.is_ipv6() {
            sys_flag |= SYS_FLAG_STORE_HOST_V6;
        }
        sys_flag
    }
}

/// Fills in where and when an encoded record was placed, and then its CRC. The log core does this on its own copy.
///
/// # Panics
/// If `record` is not exactly one record as [`RecordFields::encode`] makes it.
pub fn place(record: &mut [u8], placement: &Placement) {
    let sys_flag = i32_at(record, SYS_FLAG_AT).expect("an encoded record has its fixed part");
    let store_timestamp_at = BORN_HOST_AT + host_bytes(sys_flag, SYS_FLAG_BORN_HOST_V6);
    let mut put = |at: usize, value: i64| record[at..at + 8].copy_from_slice(&value.to_be_bytes());
    put(QUEUE_OFFSET_AT, placement.queue_offset.to_i64());
    put(PHYSICAL_OFFSET_AT, placement.physical_offset.to_i64());
    put(store_timestamp_at, placement.store_timestamp_ms);
    let (covered, property) = record.split_at_mut(record.len() - CRC_PROPERTY_BYTES);
    assert_eq!(property, crc::NO_CRC_PROPERTY, "an encoded record ends with an empty CRC property");
    property.copy_from_slice(&crc::encode_property(crc31(covered)));
}

/// Size of the record that starts `bytes`: reads its first 8 bytes and nothing else, to step through records that are
/// known to be good.
///
/// # Errors
/// When there are fewer than 8 bytes, the magic is not a record's (BLANK has its own variant), or the size is
/// impossible.
pub fn peek_size(bytes: &[u8]) -> Result<usize, RecordError> {
    let too_short = RecordError::TooShort { have_bytes: bytes.len(), needed_bytes: BLANK_BYTES };
    let (Some(size), Some(magic)) = (i32_at(bytes, 0), u32_at(bytes, MAGIC_AT)) else {
        return Err(too_short);
    };
    match magic {
        MAGIC_V1 | MAGIC_V2 => {}
        MAGIC_BLANK => {
            let size_bytes =
                u64::try_from(size).map_err(|_| RecordError::Size { size_bytes: i64::from(size) })?;
            return Err(RecordError::Blank { size_bytes });
        }
        _ => return Err(RecordError::Magic { magic }),
    }
    usize::try_from(size)
        .ok()
        .filter(|size| (RECORD_BYTES_MIN..=RECORD_BYTES_MAX).contains(size))
        .ok_or(RecordError::Size { size_bytes: i64::from(size) })
}

/// Whether a record with this `sysFlag` takes a queue offset and gets a ConsumeQueue entry: half messages and
/// rollbacks do not.
pub fn takes_queue_offset(sys_flag: i32) -> bool {
    if makes(Mistake::HalfMessageDelivered) {
        return true;
    }
    !matches!(
        sys_flag & SYS_FLAG_TRANSACTION_MASK,
        SYS_FLAG_TRANSACTION_PREPARED | SYS_FLAG_TRANSACTION_ROLLBACK
    )
}

/// A record in place: its structure has been checked, its CRCs only by [`Self::verify_crc`].
#[derive(Clone, Copy, Debug)]
pub struct RecordView<'a> {
    raw: &'a [u8],
    queue_id: u32,
    queue_offset: QueueOffset,
    physical_offset: PhysicalOffset,
    sys_flag: i32,
    store_timestamp_at: usize,
    reconsume_times_at: usize,
    body: &'a [u8],
    topic: &'a str,
    properties: &'a [u8],
}

impl<'a> RecordView<'a> {
    /// The record that starts `bytes`, which may hold more behind it.
    ///
    /// # Errors
    /// When it is not a whole record: wrong magic, impossible sizes, parts that do not add up.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let size = peek_size(bytes)?;
        let raw =
            bytes.get(..size).ok_or(RecordError::TooShort { have_bytes: bytes.len(), needed_bytes: size })?;
        let is_v2 = u32_at(raw, MAGIC_AT) == Some(MAGIC_V2);
        let mut parts = Parts { raw, at: SYS_FLAG_AT };
        let sys_flag = parts.i32()?;
        parts.take(8 + host_bytes(sys_flag, SYS_FLAG_BORN_HOST_V6))?;
        let store_timestamp_at = parts.at;
        parts.take(8 + host_bytes(sys_flag, SYS_FLAG_STORE_HOST_V6))?;
        let reconsume_times_at = parts.at;
        parts.take(12)?;
        let body_bytes = parts.i32()?;
        let body = parts.sized("body size", i64::from(body_bytes))?;
        let topic_bytes = if is_v2 { parts.u16()? } else { u16::from(parts.u8()?) };
        let topic =
            std::str::from_utf8(parts.take(usize::from(topic_bytes))?).map_err(|_| RecordError::TopicText)?;
        let properties_bytes = parts.u16()?.cast_signed();
        let properties = parts.sized("properties size", i64::from(properties_bytes))?;
        if parts.at != size {
            return Err(RecordError::PartsMismatch { parts_bytes: parts.at, size_bytes: size });
        }
        let queue_id = fixed_i32(raw, QUEUE_ID_AT);
        let queue_offset = fixed_i64(raw, QUEUE_OFFSET_AT);
        let physical_offset = fixed_i64(raw, PHYSICAL_OFFSET_AT);
        Ok(Self {
            raw,
            queue_id: u32::try_from(queue_id)
                .map_err(|_| RecordError::Field { field: "queue id", value: i64::from(queue_id) })?,
            queue_offset: QueueOffset::from_i64(queue_offset)
                .ok_or(RecordError::Field { field: "queue offset", value: queue_offset })?,
            physical_offset: PhysicalOffset::from_i64(physical_offset)
                .ok_or(RecordError::Field { field: "physical offset", value: physical_offset })?,
            sys_flag,
            store_timestamp_at,
            reconsume_times_at,
            body,
            topic,
            properties,
        })
    }

    /// Checks the CRC of the body and, if the record has it, of the whole record. A record without (from a RocketMQ
    /// that did not write it) must at least have properties without NUL bytes, which is what an unwritten part of a
    /// file reads as.
    ///
    /// # Errors
    /// When a CRC does not agree.
    pub fn verify_crc(&self) -> Result<(), RecordError> {
        let (covered, property) = self.raw.split_at(self.raw.len() - CRC_PROPERTY_BYTES);
        match crc::decode_property(property) {
            Some(stored) => {
                let found = crc31(covered);
                if stored != found {
                    return Err(RecordError::RecordCrc { stored, found });
                }
            }
            None if crc::was_property(property) => return Err(RecordError::CrcProperty),
            None if self.properties.contains(&0) => return Err(RecordError::PropertiesTorn),
            None => {}
        }
        let stored = fixed_i32(self.raw, BODY_CRC_AT).cast_unsigned();
        let found = crc31(self.body);
        // As RocketMQ, which writes whatever it likes as the CRC of no body.
        if stored != found && !self.body.is_empty() {
            return Err(RecordError::BodyCrc { stored, found });
        }
        Ok(())
    }

    /// Whether the record ends with a CRC of its own.
    pub fn has_record_crc(&self) -> bool {
        crc::decode_property(&self.raw[self.raw.len() - CRC_PROPERTY_BYTES..]).is_some()
    }

    /// The bytes of the record, and nothing else.
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// Bytes of the whole record.
    pub fn total_size(&self) -> usize {
        self.raw.len()
    }

    pub fn queue_id(&self) -> u32 {
        self.queue_id
    }

    pub fn flag(&self) -> i32 {
        fixed_i32(self.raw, FLAG_AT)
    }

    pub fn queue_offset(&self) -> QueueOffset {
        self.queue_offset
    }

    pub fn physical_offset(&self) -> PhysicalOffset {
        self.physical_offset
    }

    pub fn sys_flag(&self) -> i32 {
        self.sys_flag
    }

    pub fn born_timestamp_ms(&self) -> i64 {
        fixed_i64(self.raw, BORN_TIMESTAMP_AT)
    }

    pub fn born_host(&self) -> SocketAddr {
        host_at(self.raw, BORN_HOST_AT, self.sys_flag & SYS_FLAG_BORN_HOST_V6 != 0)
    }

    pub fn store_timestamp_ms(&self) -> i64 {
        fixed_i64(self.raw, self.store_timestamp_at)
    }

    pub fn store_host(&self) -> SocketAddr {
        host_at(self.raw, self.store_timestamp_at + 8, self.sys_flag & SYS_FLAG_STORE_HOST_V6 != 0)
    }

    pub fn reconsume_times(&self) -> i32 {
        fixed_i32(self.raw, self.reconsume_times_at)
    }

    pub fn prepared_transaction_offset(&self) -> i64 {
        fixed_i64(self.raw, self.reconsume_times_at + 4)
    }

    /// The body as the producer sent it, compressed or not.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    pub fn topic(&self) -> &'a str {
        self.topic
    }

    /// The encoded properties, with the CRC property. Read them with [`properties::Properties`].
    pub fn properties(&self) -> &'a [u8] {
        self.properties
    }
}

/// Takes a record apart from front to back, never beyond its end.
struct Parts<'a> {
    raw: &'a [u8],
    at: usize,
}

impl<'a> Parts<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], RecordError> {
        let end = self.at.saturating_add(bytes);
        let part = self
            .raw
            .get(self.at..end)
            .ok_or(RecordError::PartsMismatch { parts_bytes: end, size_bytes: self.raw.len() })?;
        self.at = end;
        Ok(part)
    }

    fn sized(&mut self, field: &'static str, bytes: i64) -> Result<&'a [u8], RecordError> {
        self.take(usize::try_from(bytes).map_err(|_| RecordError::Field { field, value: bytes })?)
    }

    fn u8(&mut self) -> Result<u8, RecordError> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, RecordError> {
        Ok(u16::from_be_bytes(self.take(2)?.try_into().expect("2 bytes were taken")))
    }

    fn i32(&mut self) -> Result<i32, RecordError> {
        Ok(i32::from_be_bytes(self.take(4)?.try_into().expect("4 bytes were taken")))
    }
}

fn fixed_bytes(sys_flag: i32, is_v2: bool) -> usize {
    let hosts = host_bytes(sys_flag, SYS_FLAG_BORN_HOST_V6) + host_bytes(sys_flag, SYS_FLAG_STORE_HOST_V6);
    RECORD_BYTES_MIN - 16 + hosts + usize::from(is_v2)
}

fn host_bytes(sys_flag: i32, v6_bit: i32) -> usize {
    if sys_flag & v6_bit == 0 { 8 } else { 20 }
}

/// The part of a record before its body, made on the stack and copied once.
struct Fixed {
    bytes: [u8; FIXED_BYTES_MAX],
    length: usize,
}

impl Default for Fixed {
    fn default() -> Self {
        Self { bytes: [0; FIXED_BYTES_MAX], length: 0 }
    }
}

impl Fixed {
    fn put(&mut self, part: &[u8]) {
        self.bytes[self.length..self.length + part.len()].copy_from_slice(part);
        self.length += part.len();
    }

    fn put_host(&mut self, host: SocketAddr) {
        match host.ip() {
            IpAddr::V4(ip) => self.put(&ip.octets()),
            IpAddr::V6(ip) => self.put(&ip.octets()),
        }
        self.put(&i32::from(host.port()).to_be_bytes());
    }
}

/// The host at `at`. A port beyond 65535 cannot be told as an address and reads as 0.
fn host_at(raw: &[u8], at: usize, is_v6: bool) -> SocketAddr {
    let ip_bytes = if is_v6 { 16 } else { 4 };
    let ip = &raw[at..at + ip_bytes];
    let ip = match <[u8; 4]>::try_from(ip) {
        Ok(octets) => IpAddr::from(octets),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(ip).expect("16 bytes were cut out")),
    };
    SocketAddr::new(ip, u16::try_from(fixed_i32(raw, at + ip_bytes)).unwrap_or(0))
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    bytes.get(at..at + 4).map(|four| i32::from_be_bytes(four.try_into().expect("4 bytes were cut out")))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    i32_at(bytes, at).map(i32::cast_unsigned)
}

fn fixed_i32(raw: &[u8], at: usize) -> i32 {
    i32_at(raw, at).expect("the fixed part of a record was checked when it was parsed")
}

fn fixed_i64(raw: &[u8], at: usize) -> i64 {
    let eight = raw[at..at + 8].try_into().expect("8 bytes were cut out");
    i64::from_be_bytes(eight)
}

fn saturated(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
