//! The offset message id: the address of the broker and the physical offset, as upper-case hex.

use std::net::{IpAddr, SocketAddr};

use crate::position::PhysicalOffset;

/// The id under which a client can ask this broker for the record at `physical_offset`: 32 digits, 56 for IPv6.
/// Its text is made where it is needed, so that an answer takes no memory for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetMessageId {
    pub store_host: SocketAddr,
    pub physical_offset: PhysicalOffset,
}

impl OffsetMessageId {
    /// Gives the id's text to `read`.
    pub fn with_text<T>(&self, read: impl FnOnce(&str) -> T) -> T {
        const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
        let mut id = [0_u8; 56];
        let mut length = 0;
        let mut push = |bytes: &[u8]| {
            for byte in bytes {
                id[length] = DIGITS[usize::from(byte >> 4)];
                id[length + 1] = DIGITS[usize::from(byte & 15)];
                length += 2;
            }
        };
        match self.store_host.ip() {
            IpAddr::V4(ip) => push(&ip.octets()),
            IpAddr::V6(ip) => push(&ip.octets()),
        }
        push(&u32::from(self.store_host.port()).to_be_bytes());
        push(&self.physical_offset.to_i64().to_be_bytes());
        read(std::str::from_utf8(&id[..length]).expect("hex digits are text"))
    }
}

/// The [`OffsetMessageId`] as a string of its own.
pub fn offset_message_id(store_host: SocketAddr, physical_offset: PhysicalOffset) -> String {
    OffsetMessageId { store_host, physical_offset }.with_text(str::to_owned)
}

/// Address and physical offset in an offset message id; `None` when `id` is not one.
pub fn parse_offset_message_id(id: &str) -> Option<(SocketAddr, PhysicalOffset)> {
    let mut bytes = [0_u8; 28];
    let length = match id.len() {
        32 => 16,
        56 => 28,
        _ => return None,
    };
    for (byte, digits) in bytes.iter_mut().zip(id.as_bytes().chunks_exact(2)) {
        let digits = std::str::from_utf8(digits).ok()?;
        if digits.starts_with('+') {
            return None;
        }
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    let (ip, rest) = bytes[..length].split_at(length - 12);
    let ip = match <[u8; 4]>::try_from(ip) {
        Ok(octets) => IpAddr::from(octets),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(ip).expect("28 bytes less 12 are 16")),
    };
    let port = u32::from_be_bytes(rest[..4].try_into().expect("4 bytes"));
    let offset = i64::from_be_bytes(rest[4..].try_into().expect("8 bytes"));
    Some((SocketAddr::new(ip, u16::try_from(port).ok()?), PhysicalOffset::from_i64(offset)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_rocketmqs_form_and_read_back() {
        let v4: SocketAddr = "192.168.1.20:10911".parse().unwrap();
        let id = offset_message_id(v4, PhysicalOffset::new(0x1234));
        assert_eq!(id, "C0A8011400002A9F0000000000001234");
        assert_eq!(parse_offset_message_id(&id), Some((v4, PhysicalOffset::new(0x1234))));
        let v6: SocketAddr = "[fe80::1]:1".parse().unwrap();
        let id = offset_message_id(v6, PhysicalOffset::ZERO);
        assert_eq!(id.len(), 56);
        assert_eq!(parse_offset_message_id(&id), Some((v6, PhysicalOffset::ZERO)));
    }

    #[test]
    fn odd_ids_are_refused() {
        assert_eq!(parse_offset_message_id(""), None);
        assert_eq!(parse_offset_message_id("C0A8011400002A9FFFFFFFFFFFFFFFFF"), None, "negative offset");
        assert_eq!(parse_offset_message_id("C0A80114FFFF2A9F0000000000000000"), None, "port beyond 65535");
        assert_eq!(parse_offset_message_id("C0A8011400002A9F000000000000123é"), None);
        assert_eq!(parse_offset_message_id(&"+1".repeat(16)), None);
    }
}
