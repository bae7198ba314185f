//! Unique keys for messages whose producer gave none, in the form of RocketMQ's clients.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

/// Makes unique keys: address and port of the broker, a count over all keys of it, and milliseconds, as upper-case hex.
#[derive(Debug)]
pub struct UniqueKeys {
    /// Hex of what does not change.
    prefix: String,
    count: u32,
}

impl UniqueKeys {
    /// Keys of the broker at `addr`.
    pub fn new(addr: SocketAddr) -> Self {
        let ip = match addr.ip() {
            IpAddr::V4(ip) => ip.octets(),
            // Four bytes of it are enough: the port tells the brokers of a host apart, and time those of different hosts.
            IpAddr::V6(ip) => {
                let octets = ip.octets();
                [octets[12], octets[13], octets[14], octets[15]]
            }
        };
        Self { prefix: format!("{:08X}{:04X}", u32::from_be_bytes(ip), addr.port()), count: 0 }
    }

    /// A key that no other message of this broker has: 32 digits. The time keeps it apart from those before a restart.
    pub fn next(&mut self, now_ms: i64) -> String {
        self.count = self.count.wrapping_add(1);
        let mut key = String::with_capacity(32);
        let milliseconds = now_ms & 0xFFFF_FFFF_FFFF;
        write!(key, "{}{milliseconds:012X}{:08X}", self.prefix, self.count).expect("writing into memory");
        key
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn keys_have_the_clients_length_and_do_not_repeat() {
        for addr in ["10.0.0.1:10911", "[fe80::1]:10911"] {
            let mut keys = UniqueKeys::new(addr.parse().expect("an address"));
            let made: HashSet<String> = (0..1000).map(|at| keys.next(1_700_000_000_000 + at / 100)).collect();
            assert_eq!(made.len(), 1000);
            assert!(made.iter().all(|key| key.len() == 32 && key.bytes().all(|b| b.is_ascii_hexdigit())));
        }
    }
}
