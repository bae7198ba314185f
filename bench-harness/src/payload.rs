//! What the messages of a run look like, so that a reader can tell each of them: a key of run and sequence number, and a body
//! whose every byte but the send time follows from run, sequence and size.
//!
//! Body: `run:u64, sequence:u64, intended time in ns of the run:u64, filler`, big-endian. The filler is the same for all
//! messages of a run and does not compress.

/// Bytes of a body in front of the filler, and so the smallest body.
pub const BODY_HEAD_BYTES: usize = 24;
/// Hexadecimal digits of a key: run, then sequence.
pub const KEY_DIGITS: usize = 32;
/// Of which the last ones are the sequence.
pub const SEQUENCE_DIGITS: usize = 16;

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// The identity of one run of the generator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId(pub u64);

/// What a body says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyHead {
    pub run: RunId,
    pub sequence: u64,
    pub intended_ns: u64,
}

/// The bodies of one run.
#[derive(Clone, Debug)]
pub struct Payload {
    run: RunId,
    body: Vec<u8>,
}

impl RunId {
    /// A run id that no other run has (but for a chance of 2^-64).
    pub fn random() -> Self {
        use std::hash::{BuildHasher, Hasher};
        Self(std::hash::RandomState::new().build_hasher().finish())
    }
}

impl Payload {
    /// Bodies of `size` bytes, at least [`BODY_HEAD_BYTES`].
    pub fn new(run: RunId, size: usize) -> Self {
        assert!(size >= BODY_HEAD_BYTES, "the caller checks the size");
        let mut body = vec![0; size];
        body[..8].copy_from_slice(&run.0.to_be_bytes());
        let mut state = run.0 | 1;
        for byte in &mut body[BODY_HEAD_BYTES..] {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = state.to_be_bytes()[3];
        }
        Self { run, body }
    }

    pub fn run(&self) -> RunId {
        self.run
    }

    /// A body with the sequence and the time left 0, for [`patch_body`].
    pub fn template(&self) -> &[u8] {
        &self.body
    }

    /// The key of message `sequence`.
    pub fn key(&self, sequence: u64) -> [u8; KEY_DIGITS] {
        let mut key = [0; KEY_DIGITS];
        write_hex(&mut key[..SEQUENCE_DIGITS], self.run.0);
        write_hex(&mut key[SEQUENCE_DIGITS..], sequence);
        key
    }

    /// Whether `body` is the body of message `sequence`, to the last byte.
    pub fn is_body_of(&self, sequence: u64, body: &[u8]) -> bool {
        body.len() == self.body.len()
            && body[..8] == self.body[..8]
            && body[8..16] == sequence.to_be_bytes()
            && body[BODY_HEAD_BYTES..] == self.body[BODY_HEAD_BYTES..]
    }
}

/// Puts sequence and time into a copy of [`Payload::template`].
pub fn patch_body(body: &mut [u8], sequence: u64, intended_ns: u64) {
    body[8..16].copy_from_slice(&sequence.to_be_bytes());
    body[16..24].copy_from_slice(&intended_ns.to_be_bytes());
}

/// Reads the front of a body; `None` when it is too short to be of any run.
pub fn read_body_head(body: &[u8]) -> Option<BodyHead> {
    let field = |at: usize| Some(u64::from_be_bytes(body.get(at..at + 8)?.try_into().ok()?));
    Some(BodyHead { run: RunId(field(0)?), sequence: field(8)?, intended_ns: field(16)? })
}

/// Reads a key; `None` when it was not made by a generator.
pub fn parse_key(key: &[u8]) -> Option<(RunId, u64)> {
    if key.len() != KEY_DIGITS {
        return None;
    }
    let text = std::str::from_utf8(key).ok()?;
    let (run, sequence) = text.split_at_checked(SEQUENCE_DIGITS)?;
    Some((RunId(u64::from_str_radix(run, 16).ok()?), u64::from_str_radix(sequence, 16).ok()?))
}

/// Fills `out` with the last `out.len()` hexadecimal digits of `value`.
pub fn write_hex(out: &mut [u8], value: u64) {
    let mut left = value;
    for digit in out.iter_mut().rev() {
        *digit = HEX[(left & 15) as usize];
        left >>= 4;
    }
}

/// Fills `out` with the last `out.len()` decimal digits of `value`.
pub fn write_decimal(out: &mut [u8], value: u64) {
    let mut left = value;
    for digit in out.iter_mut().rev() {
        *digit = b'0' + u8::try_from(left % 10).expect("a digit");
        left /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_recognised_by_key_and_by_body() {
        let payload = Payload::new(RunId(0xABCD_EF01_2345_6789), 100);
        let mut body = payload.template().to_vec();
        patch_body(&mut body, 77, 5_000);
        assert_eq!(parse_key(&payload.key(77)), Some((payload.run(), 77)));
        assert!(payload.is_body_of(77, &body));
        assert!(!payload.is_body_of(78, &body));
        let head = read_body_head(&body).unwrap();
        assert_eq!(head, BodyHead { run: payload.run(), sequence: 77, intended_ns: 5_000 });
    }

    #[test]
    fn one_changed_byte_is_noticed() {
        let payload = Payload::new(RunId(3), 64);
        let mut body = payload.template().to_vec();
        patch_body(&mut body, 1, 0);
        body[63] ^= 1;
        assert!(!payload.is_body_of(1, &body));
        assert!(!payload.is_body_of(1, &body[..63]));
    }

    #[test]
    fn keys_of_others_are_not_ours() {
        assert_eq!(parse_key(b"7F0000010000000000000000"), None);
        assert_eq!(parse_key(&[0xFF; KEY_DIGITS]), None);
    }
}
