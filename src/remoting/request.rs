//! A request as it is read from a frame: borrowed from the frame's bytes, so that reading it allocates (nearly) nothing.
//!
//! The two written forms of a header are read by `json_header` and `binary_header`; typed headers per request code are built
//! from [`ExtFields`] by `header`. Everything here is total: any bytes give a value or a [`HeaderError`].

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use shards::limits::{HEADER_FIELDS_MAX, JSON_BODY_BYTES_MAX};
use smallvec::SmallVec;

use super::frame::{Frame, SerializeType};
use super::response::ReplyTo;
use super::{binary_header, fastjson, json_header};

/// Longest excerpt of a peer's value that an error repeats, bytes.
const EXCERPT_BYTES_MAX: usize = 128;

/// The header fields of one request, in the order sent. Looking one up is a scan: requests have few.
#[derive(Clone, Default)]
pub struct ExtFields<'f> {
    fields: SmallVec<[(Text<'f>, Text<'f>); FIELDS_INLINE]>,
    /// The texts that do not stand in the header as they are, one behind the other.
    unescaped: String,
}

/// Fields that take no memory of their own: as many as sends and pulls have.
const FIELDS_INLINE: usize = 14;

/// One text of a field. Small and without anything to drop: there are dozens in every request.
#[derive(Clone, Copy)]
enum Text<'f> {
    Borrowed(&'f str),
    /// Bytes of [`ExtFields::unescaped`].
    Unescaped {
        from: u32,
        to: u32,
    },
}

const _: () = assert!(size_of::<Text<'_>>() == size_of::<&str>());

/// A header that cannot be read (the connection ends), or a field that is missing or does not read as what it should be
/// (answered with SYSTEM_ERROR and this text).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("the custom field <{field}> is null")]
    Missing { field: &'static str },
    #[error("the field <{field}> = \"{value}\" is not {wanted}")]
    Malformed { field: &'static str, value: String, wanted: &'static str },
    #[error("the body of {bytes} bytes is not a {what}: {reason}")]
    Body { what: &'static str, bytes: usize, reason: String },
    #[error("the header of {bytes} bytes is not JSON of a command: {reason}")]
    Json { bytes: usize, reason: String },
    #[error("the ROCKETMQ header of {bytes} bytes ends inside <{part}> at byte {at}")]
    BinaryTruncated { part: &'static str, at: usize, bytes: usize },
    #[error("the ROCKETMQ header's <{part}> has the length {length} at byte {at}")]
    BinaryLength { part: &'static str, length: i32, at: usize },
    #[error("the header has more than {limit} fields")]
    TooManyFields { limit: usize },
}

impl HeaderError {
    /// A malformed field; repeats at most the front of `value`.
    #[must_use]
    pub fn malformed(field: &'static str, value: &str, wanted: &'static str) -> Self {
        let mut end = value.len().min(EXCERPT_BYTES_MAX);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        Self::Malformed { field, value: value[..end].to_owned(), wanted }
    }
}

/// What a field's text can be read as. Numbers as Java reads them; a boolean is true when it says `true` in any case, and
/// false otherwise, again as Java.
pub trait FieldValue: Sized {
    /// For the error's text, with its article.
    const WANTED: &'static str;
    /// `None` when the text is no such value.
    fn of_text(text: &str) -> Option<Self>;

    /// Reads the text of `field`.
    ///
    /// # Errors
    /// The text is no such value.
    fn read(field: &'static str, text: &str) -> Result<Self, HeaderError> {
        Self::of_text(text).ok_or_else(|| HeaderError::malformed(field, text, Self::WANTED))
    }
}

macro_rules! numbers {
    ($($type:ty = $wanted:literal),*) => {$(
        impl FieldValue for $type {
            const WANTED: &'static str = $wanted;
            fn of_text(text: &str) -> Option<Self> {
                text.parse().ok()
            }
        }
    )*};
}
numbers!(i32 = "a 32-bit number", i64 = "a 64-bit number", u32 = "a number from 0", u64 = "a number from 0");

impl FieldValue for bool {
    const WANTED: &'static str = "a boolean";
    fn of_text(text: &str) -> Option<Self> {
        Some(text.eq_ignore_ascii_case("true"))
    }
}

impl<'f> ExtFields<'f> {
    /// The text of a field; the last one where a peer sent it twice, as in Java's map.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().rev().find(|(key, _)| self.resolve(*key) == name);
        found.map(|(_, value)| self.resolve(*value))
    }

    fn resolve(&self, text: Text<'f>) -> &str {
        match text {
            Text::Borrowed(text) => text,
            Text::Unescaped { from, to } => &self.unescaped[from as usize..to as usize],
        }
    }

    /// The text of a field that must be there.
    ///
    /// # Errors
    /// The field is missing.
    pub fn required(&self, name: &'static str) -> Result<&str, HeaderError> {
        self.get(name).ok_or(HeaderError::Missing { field: name })
    }

    /// Reads a number or boolean (`i32`, `i64`, `bool` …).
    ///
    /// # Errors
    /// The field is missing or malformed.
    pub fn parse<T: FieldValue>(&self, name: &'static str) -> Result<T, HeaderError> {
        T::read(name, self.required(name)?)
    }

    /// The same for an optional field: `None` when missing or empty.
    ///
    /// # Errors
    /// The field is there and malformed.
    pub fn parse_optional<T: FieldValue>(&self, name: &'static str) -> Result<Option<T>, HeaderError> {
        match self.get(name) {
            None | Some("") => Ok(None),
            Some(text) => T::read(name, text).map(Some),
        }
    }

    /// The same for an optional field that stands for `default` when missing or empty.
    ///
    /// # Errors
    /// The field is there and malformed.
    pub fn parse_or<T: FieldValue>(&self, name: &'static str, default: T) -> Result<T, HeaderError> {
        Ok(self.parse_optional(name)?.unwrap_or(default))
    }

    /// All fields in the order sent.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(key, value)| (self.resolve(*key), self.resolve(*value)))
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.fields.clear();
        self.unescaped.clear();
    }

    /// Appends a field as it arrives.
    ///
    /// # Errors
    /// There are [`HEADER_FIELDS_MAX`] already.
    pub(super) fn push(&mut self, key: Cow<'f, str>, value: Cow<'f, str>) -> Result<(), HeaderError> {
        let mut keep = |text| match text {
            Cow::Borrowed(text) => Text::Borrowed(text),
            Cow::Owned(text) => self.keep(|unescaped| unescaped.push_str(&text)),
        };
        let field = (keep(key), keep(value));
        self.push_field(field)
    }

    /// Appends a field whose texts stand in the header as they are.
    ///
    /// # Errors
    /// As [`Self::push`].
    #[inline]
    pub(super) fn push_plain(&mut self, key: &'f str, value: &'f str) -> Result<(), HeaderError> {
        self.push_field((Text::Borrowed(key), Text::Borrowed(value)))
    }

    /// Appends a field whose value `unescape` puts behind the text that it is given.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub(super) fn push_unescaped(
        &mut self,
        key: &'f str,
        unescape: impl FnOnce(&mut String),
    ) -> Result<(), HeaderError> {
        let value = self.keep(unescape);
        self.push_field((Text::Borrowed(key), value))
    }

    fn keep(&mut self, unescape: impl FnOnce(&mut String)) -> Text<'f> {
        let length = |text: &str| u32::try_from(text.len()).expect("no longer than a frame");
        let from = length(&self.unescaped);
        unescape(&mut self.unescaped);
        Text::Unescaped { from, to: length(&self.unescaped) }
    }

    #[inline]
    fn push_field(&mut self, field: (Text<'f>, Text<'f>)) -> Result<(), HeaderError> {
        if self.fields.len() == HEADER_FIELDS_MAX {
            return Err(HeaderError::TooManyFields { limit: HEADER_FIELDS_MAX });
        }
        self.fields.push(field);
        Ok(())
    }
}

impl PartialEq for ExtFields<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for ExtFields<'_> {}

impl fmt::Debug for ExtFields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// A decoded command: a request, or a response when `is_response`.
#[derive(Clone, Debug)]
pub struct Request<'f> {
    pub serialize_type: SerializeType,
    /// Request code, or response code of a response.
    pub code: i32,
    /// Ordinal of the peer's language (0 JAVA, 1 CPP, 9 GO …); 7 OTHER for a name we do not know.
    pub language: u8,
    /// Ordinal of the peer's RocketMQ version (401 is 4.9.4, 479 is 5.3.3).
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
    pub fn decode(frame: &'f Frame) -> Result<Self, HeaderError> {
        // Filled in place: with its inline fields it is large to move.
        let mut head = Head::default();
        match frame.serialize_type {
            SerializeType::Json => json_header::read(&frame.header, &mut head)?,
            SerializeType::RocketMq => binary_header::read(&frame.header, &mut head)?,
        }
        Ok(Self {
            serialize_type: frame.serialize_type,
            code: head.code,
            language: head.language,
            version: head.version,
            opaque: head.opaque,
            flag: head.flag,
            remark: head.remark,
            ext: head.ext,
            body: &frame.body,
        })
    }

    /// True when the peer wants no answer, not even an error.
    #[must_use]
    pub fn is_oneway(&self) -> bool {
        self.flag & 2 != 0
    }

    #[must_use]
    pub fn is_response(&self) -> bool {
        self.flag & 1 != 0
    }

    /// Reads the body as the JSON of a `T`; `what` names it in the error.
    ///
    /// # Errors
    /// The body is longer than `JSON_BODY_BYTES_MAX`, or not a `T`.
    pub fn json_body<T: DeserializeOwned>(&self, what: &'static str) -> Result<T, HeaderError> {
        if self.body.len() > JSON_BODY_BYTES_MAX {
            let reason = format!("it is over the limit of {JSON_BODY_BYTES_MAX} bytes");
            return Err(HeaderError::Body { what, bytes: self.body.len(), reason });
        }
        fastjson::read(what, self.body)
    }

    /// What an answer needs to know of this request.
    #[must_use]
    pub fn reply_to(&self) -> ReplyTo {
        ReplyTo { opaque: self.opaque, serialize_type: self.serialize_type, oneway: self.is_oneway() }
    }
}

/// What both written forms of a header say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Head<'f> {
    pub(super) code: i32,
    pub(super) language: u8,
    pub(super) version: i32,
    pub(super) opaque: i32,
    pub(super) flag: i32,
    pub(super) remark: Option<Cow<'f, str>>,
    pub(super) ext: ExtFields<'f>,
}
