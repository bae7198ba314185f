//! Frames: `total:i32, serialise type:u8 + header length:u24, header, body`, all big-endian.

use bytes::{Bytes, BytesMut};

/// How a header is written. An answer takes the form of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SerializeType {
    Json,
    RocketMq,
}

/// One frame, its lengths checked, its header not yet read.
#[derive(Clone, Debug)]
pub struct Frame {
    pub serialize_type: SerializeType,
    pub header: Bytes,
    pub body: Bytes,
}

/// What is wrong with the bytes; each ends the connection.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {}

/// Takes the next whole frame off the front of `input`; `None` when more bytes are needed.
pub fn split_frame(_input: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    todo!()
}
