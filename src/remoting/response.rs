//! Responses, and requests of ours, written straight into a connection's output buffer.

use std::fmt::Display;

use bytes::BytesMut;

use super::frame::SerializeType;

/// What a response needs to know of its request; small, so that waiting requests keep it.
#[derive(Clone, Copy, Debug)]
pub struct ReplyTo {
    pub opaque: i32,
    pub serialize_type: SerializeType,
    pub oneway: bool,
}

/// Writes a whole response frame except for its body: the caller appends exactly `body_bytes` bytes next.
/// `ext` may be empty; it is then written as an empty object, which Java needs.
pub fn write_response_head(
    _out: &mut BytesMut,
    _to: ReplyTo,
    _code: i32,
    _remark: Option<&str>,
    _ext: &[(&str, &dyn Display)],
    _body_bytes: usize,
) {
    todo!()
}

/// Writes a whole request frame of ours (always JSON unless told otherwise).
pub fn write_request(
    _out: &mut BytesMut,
    _serialize_type: SerializeType,
    _code: i32,
    _opaque: i32,
    _oneway: bool,
    _ext: &[(&str, &dyn Display)],
    _body: &[u8],
) {
    todo!()
}
