//! The JSON form of a header, read without building a tree: in the form that clients write by `flat_json`, in any other by the JSON
//! library.
//!
//! Tolerant where clients differ: unknown keys are passed over, `extFields` may be null or absent, its values may be unquoted
//! numbers and booleans (taken as their text) or null (as absent), numbers of the command may be quoted. Bounded: the number
//! of fields by `limits::HEADER_FIELDS_MAX`, nesting by the JSON library (128 levels), memory by the header's own length.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use shards::limits::HEADER_FIELDS_MAX;

use super::code::language;
use super::flat_json;
use super::request::{ExtFields, Head, HeaderError};

/// Reads a header into `head`, which is empty.
///
/// # Errors
/// Not a JSON object of the expected members, or too many fields.
pub(super) fn read<'f>(header: &'f [u8], head: &mut Head<'f>) -> Result<(), HeaderError> {
    // One check of the whole text; after it, strings are borrowed without being checked one by one.
    let text = std::str::from_utf8(header)
        .map_err(|error| HeaderError::Json { bytes: header.len(), reason: error.to_string() })?;
    if flat_json::read(text, head).is_none() {
        *head = read_any(text)?;
    }
    Ok(())
}

/// Reads a header with the JSON library.
///
/// # Errors
/// As [`read`].
pub(super) fn read_any(header: &str) -> Result<Head<'_>, HeaderError> {
    let failed =
        |error: serde_json::Error| HeaderError::Json { bytes: header.len(), reason: error.to_string() };
    let mut deserializer = serde_json::Deserializer::from_str(header);
    let head = deserializer.deserialize_map(HeadVisitor).map_err(failed)?;
    deserializer.end().map_err(failed)?;
    Ok(head)
}

struct HeadVisitor;

impl<'f> Visitor<'f> for HeadVisitor {
    type Value = Head<'f>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the header of a command")
    }

    fn visit_map<A: MapAccess<'f>>(self, mut map: A) -> Result<Head<'f>, A::Error> {
        let mut head = Head { language: language::OTHER, ..Head::default() };
        while let Some(key) = map.next_key_seed(Text)? {
            match key.as_deref().unwrap_or_default() {
                "code" => head.code = number(map.next_value_seed(Text)?)?,
                "language" => {
                    let name = map.next_value_seed(Text)?;
                    head.language = language::of_name(name.as_deref().unwrap_or_default());
                }
                "version" => head.version = number(map.next_value_seed(Text)?)?,
                "opaque" => head.opaque = number(map.next_value_seed(Text)?)?,
                "flag" => head.flag = number(map.next_value_seed(Text)?)?,
                "remark" => head.remark = map.next_value_seed(Text)?.filter(|remark| !remark.is_empty()),
                "extFields" => head.ext = map.next_value_seed(Fields)?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(head)
    }
}

/// A number of the command itself; absent and null are 0, as in Java's object.
fn number<E: serde::de::Error>(text: Option<Cow<'_, str>>) -> Result<i32, E> {
    match text {
        None => Ok(0),
        Some(text) => text.parse().map_err(|_| E::custom("a member that must be a 32-bit number is not one")),
    }
}

/// Reads one scalar as its text: `None` for null, and for arrays and objects, which no header field can mean.
struct Text;

impl<'f> DeserializeSeed<'f> for Text {
    type Value = Option<Cow<'f, str>>;

    fn deserialize<D: Deserializer<'f>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'f> Visitor<'f> for Text {
    type Value = Option<Cow<'f, str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a number, a boolean or null")
    }

    fn visit_borrowed_str<E>(self, text: &'f str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Owned(text.to_owned())))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Some(Cow::Borrowed(if value { "true" } else { "false" })))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Some(Cow::Owned(value.to_string())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Some(Cow::Owned(value.to_string())))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Some(Cow::Owned(value.to_string())))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'f>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'f>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

/// Reads `extFields`.
struct Fields;

impl<'f> DeserializeSeed<'f> for Fields {
    type Value = ExtFields<'f>;

    fn deserialize<D: Deserializer<'f>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'f> Visitor<'f> for Fields {
    type Value = ExtFields<'f>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object of at most {HEADER_FIELDS_MAX} fields, or null")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(ExtFields::default())
    }

    fn visit_map<A: MapAccess<'f>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = ExtFields::default();
        while let Some(key) = map.next_key_seed(Text)? {
            let value = map.next_value_seed(Text)?;
            if let (Some(key), Some(value)) = (key, value) {
                fields.push(key, value).map_err(A::Error::custom)?;
            }
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(header: &[u8]) -> Result<Head<'_>, HeaderError> {
        let mut head = Head::default();
        super::read(header, &mut head).map(|()| head)
    }

    #[test]
    fn reads_a_command_and_borrows_its_plain_strings() {
        let text = br#"{"code":310,"language":"GO","version":317,"opaque":-5,"flag":2,"remark":"r",
            "extFields":{"a":"group","i":"KEYS\u0001k\u0002"},"serializeTypeCurrentRPC":"JSON"}"#;
        let head = read(text).unwrap();
        assert_eq!((head.code, head.language, head.version), (310, 9, 317));
        assert_eq!((head.opaque, head.flag, head.remark.as_deref()), (-5, 2, Some("r")));
        assert_eq!(head.ext.get("a"), Some("group"));
        assert_eq!(head.ext.get("i"), Some("KEYS\u{1}k\u{2}"));
    }

    #[test]
    fn tolerates_what_clients_do() {
        let head = read(
            br#"{"code":"34","language":"KLINGON","version":null,"type":{"x":[1,{"y":2}]},
                "extFields":{"n":12,"m":-7,"b":true,"z":null,"o":{"q":1},"l":[1],"d":1,"d":"two"}}"#,
        )
        .unwrap();
        assert_eq!((head.code, head.language, head.version), (34, language::OTHER, 0));
        assert_eq!(head.ext.get("n"), Some("12"));
        assert_eq!(head.ext.get("m"), Some("-7"));
        assert_eq!(head.ext.get("b"), Some("true"));
        assert_eq!(head.ext.get("d"), Some("two"));
        assert_eq!(head.ext.get("z"), None);
        assert_eq!(head.ext.get("o"), None);
        assert_eq!(read(br#"{"extFields":null}"#).unwrap().ext.len(), 0);
        assert_eq!(read(b"{}").unwrap().code, 0);
    }

    #[test]
    fn refuses_what_is_not_a_command() {
        for text in [
            &b""[..],
            b"[]",
            b"7",
            b"{",
            b"{} x",
            b"{\"code\":{}",
            b"{\"code\":\"ten\"}",
            b"{\"code\":3000000000}",
            b"{\"extFields\":[]}",
            b"\xff\xfe",
        ] {
            assert!(read(text).is_err(), "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn bounds_fields_and_nesting() {
        let fields: Vec<String> = (0..=HEADER_FIELDS_MAX).map(|n| format!("\"k{n}\":\"v\"")).collect();
        let text = format!("{{\"extFields\":{{{}}}}}", fields.join(","));
        assert!(read(text.as_bytes()).unwrap_err().to_string().contains("more than 128 fields"));
        let text = format!("{{\"extFields\":{{{}}}}}", fields[1..].join(","));
        assert_eq!(read(text.as_bytes()).unwrap().ext.len(), HEADER_FIELDS_MAX);
        let deep = format!("{{\"x\":{}", "[".repeat(1_000_000));
        assert!(read(deep.as_bytes()).is_err());
        let deep = format!("{{\"extFields\":{{\"x\":{}", "{\"a\":".repeat(1_000_000));
        assert!(read(deep.as_bytes()).is_err());
    }
}
