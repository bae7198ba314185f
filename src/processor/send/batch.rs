//! The body of a batch send: messages back to back, each
//! `total:i32, magic:i32, bodyCRC:i32, flag:i32, bodyLen:i32, body, propLen:i16, props`, where `total` counts itself and magic
//! and CRC say nothing. Clients of all languages write it so. Decoding is total.

use shards::limits::{BATCH_MESSAGES_MAX, PROPERTIES_BYTES_MAX};

/// What precedes the body of each message.
const HEAD_BYTES: usize = 20;

/// One message of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchMessage<'b> {
    pub flag: i32,
    pub body: &'b [u8],
    /// Encoded; the last separator may be missing.
    pub properties: &'b [u8],
}

/// Why a body is not a batch. Answered with MESSAGE_ILLEGAL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    #[error("the batch holds no message")]
    Empty,
    #[error("the batch holds more than {BATCH_MESSAGES_MAX} messages")]
    TooMany,
    #[error("message {index} of the batch ends inside its {part}: {have_bytes} bytes are left")]
    Truncated { index: usize, part: &'static str, have_bytes: usize },
    #[error("message {index} of the batch says its {part} has {bytes} bytes")]
    Length { index: usize, part: &'static str, bytes: i64 },
    #[error("message {index} of the batch says that it has {said_bytes} bytes, its parts have {parts_bytes}")]
    Total { index: usize, said_bytes: i64, parts_bytes: usize },
}

/// Judges the whole of `body`; then every message in it can be read by [`messages`]. Returns how many there are.
///
/// # Errors
/// What is wrong with the first message that cannot be read.
pub fn judge(body: &[u8]) -> Result<usize, BatchError> {
    let mut messages = Messages { rest: body, index: 0 };
    while let Some(message) = messages.read()? {
        // The CRC property takes 20 bytes, and a missing separator one, of what is allowed.
        if message.properties.len() + 21 > PROPERTIES_BYTES_MAX {
            let bytes = i64::try_from(message.properties.len()).unwrap_or(i64::MAX);
            return Err(BatchError::Length { index: messages.index - 1, part: "properties", bytes });
        }
        if messages.index > BATCH_MESSAGES_MAX {
            return Err(BatchError::TooMany);
        }
    }
    if messages.index == 0 { Err(BatchError::Empty) } else { Ok(messages.index) }
}

/// The messages of a body that [`judge`] accepted.
///
/// # Panics
/// When it did not.
pub fn messages(body: &[u8]) -> impl Iterator<Item = BatchMessage<'_>> {
    let mut messages = Messages { rest: body, index: 0 };
    std::iter::from_fn(move || messages.read().expect("the body was judged before"))
}

struct Messages<'b> {
    rest: &'b [u8],
    /// Of the next message.
    index: usize,
}

impl<'b> Messages<'b> {
    fn read(&mut self) -> Result<Option<BatchMessage<'b>>, BatchError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let before = self.rest.len();
        let head: &[u8; HEAD_BYTES] =
            self.take(HEAD_BYTES, "head")?.try_into().expect("as many as were asked for");
        let number = |at: usize| i32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let body = self.take_sized(i64::from(number(16)), "body")?;
        let size = self.take(2, "properties size")?;
        let size = i16::from_be_bytes([size[0], size[1]]);
        let properties = self.take_sized(i64::from(size), "properties")?;
        let parts_bytes = before - self.rest.len();
        if usize::try_from(number(0)) != Ok(parts_bytes) {
            let said_bytes = i64::from(number(0));
            return Err(BatchError::Total { index: self.index, said_bytes, parts_bytes });
        }
        self.index += 1;
        Ok(Some(BatchMessage { flag: number(12), body, properties }))
    }

    fn take_sized(&mut self, bytes: i64, part: &'static str) -> Result<&'b [u8], BatchError> {
        let index = self.index;
        let bytes = usize::try_from(bytes).map_err(|_| BatchError::Length { index, part, bytes })?;
        self.take(bytes, part)
    }

    fn take(&mut self, bytes: usize, part: &'static str) -> Result<&'b [u8], BatchError> {
        let error = BatchError::Truncated { index: self.index, part, have_bytes: self.rest.len() };
        let (taken, rest) = self.rest.split_at_checked(bytes).ok_or(error)?;
        self.rest = rest;
        Ok(taken)
    }
}

#[cfg(test)]
pub(crate) fn encode(messages: &[(i32, &[u8], &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (flag, body, properties) in messages {
        let total = i32::try_from(HEAD_BYTES + body.len() + 2 + properties.len()).expect("small");
        for number in [total, 0, 0, *flag, i32::try_from(body.len()).expect("small")] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out.extend_from_slice(body);
        out.extend_from_slice(&i16::try_from(properties.len()).expect("small").to_be_bytes());
        out.extend_from_slice(properties);
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_batch_reads_back() {
        let body = encode(&[(1, b"one", b"KEYS\x01k"), (-2, b"", b""), (3, b"three", b"TAGS\x01t\x02")]);
        assert_eq!(judge(&body), Ok(3));
        let read: Vec<_> = messages(&body).map(|m| (m.flag, m.body, m.properties)).collect();
        assert_eq!(read[0], (1, &b"one"[..], &b"KEYS\x01k"[..]));
        assert_eq!(read[1], (-2, &b""[..], &b""[..]));
        assert_eq!(read[2], (3, &b"three"[..], &b"TAGS\x01t\x02"[..]));
    }

    #[test]
    fn what_is_no_batch_says_why() {
        assert_eq!(judge(b""), Err(BatchError::Empty));
        let good = encode(&[(0, b"abc", b"")]);
        let cut = judge(&good[..good.len() - 1]).expect_err("cut");
        assert_eq!(cut, BatchError::Truncated { index: 0, part: "properties size", have_bytes: 1 });
        let mut negative = good.clone();
        negative[16..20].copy_from_slice(&(-1_i32).to_be_bytes());
        assert_eq!(judge(&negative), Err(BatchError::Length { index: 0, part: "body", bytes: -1 }));
        let mut total = encode(&[(0, b"", b""), (0, b"abc", b"")]);
        total[22..26].copy_from_slice(&7_i32.to_be_bytes());
        let error = BatchError::Total { index: 1, said_bytes: 7, parts_bytes: 25 };
        assert_eq!(judge(&total), Err(error));
    }

    #[test]
    fn too_many_messages_are_refused() {
        let one = encode(&[(0, b"", b"")]);
        assert_eq!(judge(&one.repeat(BATCH_MESSAGES_MAX)), Ok(BATCH_MESSAGES_MAX));
        assert_eq!(judge(&one.repeat(BATCH_MESSAGES_MAX + 1)), Err(BatchError::TooMany));
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_and_what_is_accepted_can_be_read(
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut body = encode(&[(1, b"one", b"A\x01b"), (2, b"two", b""), (3, b"", b"C\x01d\x02")]);
            for (at, byte) in flips {
                let at = at.index(body.len());
                body[at] = byte;
            }
            body.truncate(cut.index(body.len() + 1));
            if let Ok(count) = judge(&body) {
                prop_assert_eq!(messages(&body).count(), count);
            }
        }
    }
}
