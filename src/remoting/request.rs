//! A request as it is read from a frame: borrowed from the frame's bytes, so that reading it allocates (nearly) nothing.

use std::borrow::Cow;

use bytes::Bytes;
use smallvec::SmallVec;

use super::frame::{Frame, SerializeType};

/// The header fields of one request, in the order sent. Looking one up is a scan: requests have few.
#[derive(Clone, Debug, Default)]
pub struct ExtFields<'f>(SmallVec<[(Cow<'f, str>, Cow<'f, str>); 16]>);

/// A field that is missing or does not read as what it should be; answered with SYSTEM_ERROR and this text.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {}

impl<'f> ExtFields<'f> {
    pub fn get(&self, _name: &str) -> Option<&str> {
        todo!()
    }
    pub fn required(&self, _name: &'static str) -> Result<&str, HeaderError> {
        todo!()
    }
    /// Parses a number or boolean (`i32`, `i64`, `bool` …): error when missing or malformed.
    pub fn parse<T: std::str::FromStr>(&self, _name: &'static str) -> Result<T, HeaderError> {
        todo!()
    }
    /// The same for an optional field: `None` when missing, an error when malformed.
    pub fn parse_optional<T: std::str::FromStr>(
        &self,
        _name: &'static str,
    ) -> Result<Option<T>, HeaderError> {
        todo!()
    }
}

/// A decoded command: a request, or a response when `is_response`.
#[derive(Clone, Debug)]
pub struct Request<'f> {
    pub serialize_type: SerializeType,
    pub code: i32,
    pub language: u8,
    pub version: i32,
    pub opaque: i32,
    pub flag: i32,
    pub remark: Option<Cow<'f, str>>,
    pub ext: ExtFields<'f>,
    pub body: &'f Bytes,
}

impl<'f> Request<'f> {
    /// Reads a frame's header.
    ///
    /// # Errors
    /// A header that is not of its declared form; the connection must end.
    pub fn decode(_frame: &'f Frame) -> Result<Self, HeaderError> {
        todo!()
    }
    pub fn is_oneway(&self) -> bool {
        self.flag & 2 != 0
    }
    pub fn is_response(&self) -> bool {
        self.flag & 1 != 0
    }
}
