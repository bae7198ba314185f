//! Frames: where one command ends and the next begins in a stream of bytes.
//!
//! ```text
//! 0        4       5               8           8 + h         4 + total
//! | total  | type  | header length | header    | body        |
//! | i32    | u8    | u24           | h bytes   | the rest    |      all big-endian, `total` counts what follows it
//! ```
//!
//! Promises: lengths are judged as soon as they have arrived, before anything is allocated for them; the buffer never grows
//! beyond twice what has arrived plus one step, whatever the lengths claim; a frame's header and body share the bytes they
//! arrived in. Reading the header is left to `request`.

use bytes::{Buf, Bytes, BytesMut};
use shards::limits::FRAME_BYTES_MAX;

/// Bytes of `total`, and of serialise type + header length.
const TOTAL_BYTES: usize = 4;
const MARK_BYTES: usize = 4;
/// Largest growth of the input buffer beyond what has already arrived, bytes. Large frames double from here.
const GROWTH_BYTES: usize = 64 * 1024;

/// How a header is written. An answer takes the form of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SerializeType {
    Json,
    RocketMq,
}

impl SerializeType {
    /// The byte that stands for it in a frame.
    #[must_use]
    pub fn byte(self) -> u8 {
        match self {
            Self::Json => 0,
            Self::RocketMq => 1,
        }
    }

    fn of_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Json),
            1 => Some(Self::RocketMq),
            _ => None,
        }
    }
}

/// One frame, its lengths checked, its header not yet read.
#[derive(Clone, Debug)]
pub struct Frame {
    pub serialize_type: SerializeType,
    pub header: Bytes,
    pub body: Bytes,
}

/// What is wrong with the bytes; each ends the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error(
        "frame length {total} is below the 4 bytes of its header mark; is the peer speaking RocketMQ's remoting protocol?"
    )]
    TooShort { total: i32 },
    #[error("frame of {total} bytes is over the limit of {limit} bytes; send smaller messages or batches")]
    TooLong { total: i32, limit: usize },
    #[error("header of {header_bytes} bytes does not fit its frame of {total} bytes")]
    HeaderBeyondFrame { header_bytes: usize, total: usize },
    #[error("serialise type {byte} is neither 0 (JSON) nor 1 (ROCKETMQ)")]
    UnknownSerializeType { byte: u8 },
}

/// Takes the next whole frame off the front of `input`; `None` when more bytes are needed, for which `input` then has room.
///
/// # Errors
/// The stream cannot be followed any further: close the connection.
pub fn split_frame(input: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    let Some(total) = read_i32(input, 0) else {
        return Ok(None);
    };
    let total_bytes = check_total(total)?;
    let Some(mark) = read_i32(input, TOTAL_BYTES) else {
        return Ok(None);
    };
    let [type_byte, high, middle, low] = mark.to_be_bytes();
    let serialize_type =
        SerializeType::of_byte(type_byte).ok_or(FrameError::UnknownSerializeType { byte: type_byte })?;
    let header_bytes = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
    if header_bytes > total_bytes - MARK_BYTES {
        return Err(FrameError::HeaderBeyondFrame { header_bytes, total: total_bytes });
    }

    let frame_bytes = TOTAL_BYTES + total_bytes;
    if input.len() < frame_bytes {
        make_room(input, frame_bytes);
        return Ok(None);
    }
    let mut header = input.split_to(frame_bytes).freeze();
    header.advance(TOTAL_BYTES + MARK_BYTES);
    let body = header.split_off(header_bytes);
    Ok(Some(Frame { serialize_type, header, body }))
}

/// Judges `total`; netty counts the length field itself against the limit, so we do too.
fn check_total(total: i32) -> Result<usize, FrameError> {
    let total_bytes = usize::try_from(total).map_err(|_| FrameError::TooShort { total })?;
    if total_bytes < MARK_BYTES {
        return Err(FrameError::TooShort { total });
    }
    if total_bytes > FRAME_BYTES_MAX - TOTAL_BYTES {
        return Err(FrameError::TooLong { total, limit: FRAME_BYTES_MAX });
    }
    Ok(total_bytes)
}

/// Room for the rest of the frame, but no more than what has arrived already plus one step: a peer that announces 16 MiB and
/// sends nothing holds one step, one that does send sees the buffer double.
fn make_room(input: &mut BytesMut, frame_bytes: usize) {
    let missing = frame_bytes - input.len();
    let spare = input.capacity() - input.len();
    if spare < missing.min(GROWTH_BYTES) {
        input.reserve(missing.min(input.len().max(GROWTH_BYTES)));
    }
}

fn read_i32(input: &BytesMut, at: usize) -> Option<i32> {
    let bytes = input.get(at..at + 4)?;
    Some(i32::from_be_bytes(bytes.try_into().expect("the slice has four bytes")))
}

const _: () = assert!(FRAME_BYTES_MAX > TOTAL_BYTES + MARK_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(total: i32, mark: u32, rest: &[u8]) -> BytesMut {
        let mut input = BytesMut::new();
        input.extend_from_slice(&total.to_be_bytes());
        input.extend_from_slice(&mark.to_be_bytes());
        input.extend_from_slice(rest);
        input
    }

    #[test]
    fn splits_header_and_body_and_leaves_the_next_frame() {
        let mut input = bytes_of(9, 2, b"{}abcNEXT");
        let frame = split_frame(&mut input).unwrap().unwrap();
        assert_eq!(frame.serialize_type, SerializeType::Json);
        assert_eq!(&frame.header[..], b"{}");
        assert_eq!(&frame.body[..], b"abc");
        assert_eq!(&input[..], b"NEXT");
    }

    #[test]
    fn waits_for_the_last_byte() {
        let whole = bytes_of(9, 0x0100_0002, b"{}abc");
        for length in 0..whole.len() {
            let mut input = BytesMut::from(&whole[..length]);
            assert!(split_frame(&mut input).unwrap().is_none());
            assert_eq!(input.len(), length);
        }
        let frame = split_frame(&mut whole.clone()).unwrap().unwrap();
        assert_eq!(frame.serialize_type, SerializeType::RocketMq);
    }

    #[test]
    fn refuses_lengths_before_their_bytes_arrive() {
        let limit = FRAME_BYTES_MAX;
        for total in [i32::MIN, -1, 0, 3] {
            let mut input = BytesMut::from(&total.to_be_bytes()[..]);
            assert_eq!(split_frame(&mut input).unwrap_err(), FrameError::TooShort { total });
        }
        for total in [i32::MAX, 16 * 1024 * 1024 - 3] {
            let mut input = BytesMut::from(&total.to_be_bytes()[..]);
            assert_eq!(split_frame(&mut input).unwrap_err(), FrameError::TooLong { total, limit });
        }
        let error = split_frame(&mut bytes_of(10, 7, b"")).unwrap_err();
        assert_eq!(error, FrameError::HeaderBeyondFrame { header_bytes: 7, total: 10 });
        let error = split_frame(&mut bytes_of(10, 0x4700_0001, b"")).unwrap_err();
        assert_eq!(error, FrameError::UnknownSerializeType { byte: 0x47 });
    }

    #[test]
    fn an_announced_frame_reserves_one_step_only() {
        let mut input = bytes_of(16 * 1024 * 1024 - 4, 2, b"{}");
        assert!(split_frame(&mut input).unwrap().is_none());
        assert!(input.capacity() <= 2 * GROWTH_BYTES, "{}", input.capacity());
    }

    #[test]
    fn a_large_frame_in_pieces_doubles_the_buffer() {
        let body = vec![7_u8; 4 * 1024 * 1024];
        let total = i32::try_from(4 + 2 + body.len()).unwrap();
        let mut input = bytes_of(total, 2, b"{}");
        let mut grown = 0;
        for piece in body.chunks(16 * 1024) {
            assert!(split_frame(&mut input).unwrap().is_none());
            assert!(input.capacity() <= 2 * input.len() + 2 * GROWTH_BYTES);
            let before = input.capacity();
            input.extend_from_slice(piece);
            grown += usize::from(input.capacity() != before);
        }
        assert!(grown <= 1, "the room was made beforehand, not while appending");
        assert_eq!(split_frame(&mut input).unwrap().unwrap().body.len(), body.len());
    }
}
