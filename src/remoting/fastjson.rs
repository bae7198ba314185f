//! The dialect of JSON that RocketMQ's Java side (fastjson) writes, around serde_json.
//!
//! It differs from JSON in the keys of maps: integers stand there without quotes (`{0:"h:1"}`), and so do whole objects
//! (`{{"queueId":0,…}:9}`). Java reads integer keys either way, object keys only without quotes. Nulls stand where a peer had
//! no list. Reading is total and takes memory in proportion to the text.

use std::io::{self, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter};

use super::request::HeaderError;

/// Reads `text`, which may be standard JSON or the dialect; `what` names the body in the error.
///
/// # Errors
/// Neither of the two, or not a `T`.
pub fn read<T: DeserializeOwned>(what: &'static str, text: &[u8]) -> Result<T, HeaderError> {
    let failed =
        |error: serde_json::Error| HeaderError::Body { what, bytes: text.len(), reason: error.to_string() };
    match serde_json::from_slice(text) {
        Ok(value) => Ok(value),
        Err(error) => match quote_keys(text) {
            Some(standard) => serde_json::from_slice(&standard).map_err(failed),
            None => Err(failed(error)),
        },
    }
}

/// Writes the dialect: integer keys without quotes.
#[must_use]
pub fn write<T: Serialize>(value: &T) -> Vec<u8> {
    write_with(value, BareIntegerKeys::around(CompactFormatter))
}

/// The same over several lines, for files that people read.
#[must_use]
pub fn write_pretty<T: Serialize>(value: &T) -> Vec<u8> {
    write_with(value, BareIntegerKeys::around(PrettyFormatter::with_indent(b"\t")))
}

/// Writes standard JSON of ASCII only, for clients that ask for it.
#[must_use]
pub fn write_standard<T: Serialize>(value: &T) -> Vec<u8> {
    write_with(value, AsciiOnly)
}

fn write_with<T: Serialize>(value: &T, formatter: impl Formatter) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    value
        .serialize(&mut serializer)
        .expect("bodies are structs, maps with plain keys and lists, written into memory");
    out
}

/// For fields whose null means their default.
///
/// # Errors
/// Those of the value.
pub(super) fn null_is_default<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Deserialize<'de> + Default,
    D: Deserializer<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A map whose keys are objects, in the order of its entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectKeyed<K, V>(pub Vec<(K, V)>);

impl<K, V> Default for ObjectKeyed<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Serialize, V: Serialize> ObjectKeyed<K, V> {
    /// Appends `{key:value,…}` to `out`, keys without quotes.
    pub(super) fn write_into(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        for (index, (key, value)) in self.0.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.append(&mut write(key));
            out.push(b':');
            out.append(&mut write(value));
        }
        out.push(b'}');
    }
}

impl<'de, K: DeserializeOwned, V: Deserialize<'de>> Deserialize<'de> for ObjectKeyed<K, V> {
    /// Reads what [`read`] makes of the dialect: keys that are strings holding the object's text.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<K, V>(std::marker::PhantomData<(K, V)>);
        impl<'de, K: DeserializeOwned, V: Deserialize<'de>> serde::de::Visitor<'de> for Entries<K, V> {
            type Value = ObjectKeyed<K, V>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map with objects for keys")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, V>()? {
                    entries.push((serde_json::from_str(&key).map_err(serde::de::Error::custom)?, value));
                }
                Ok(ObjectKeyed(entries))
            }
        }
        deserializer.deserialize_map(Entries(std::marker::PhantomData))
    }
}

impl<K: Serialize, V: Serialize> Serialize for ObjectKeyed<K, V> {
    /// Standard JSON: keys are strings holding the object's text. For logs and tools of our own.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(
            self.0.iter().map(|(key, value)| (String::from_utf8(write(key)).expect("JSON is UTF-8"), value)),
        )
    }
}

/// `text` with quotes around bare keys: an integer becomes a string of its digits, an object a string of its text. `None`
/// when there is nothing to quote, or the text ends inside something.
fn quote_keys(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() + 64);
    let mut open = Vec::new();
    let mut at_key = false;
    let mut changed = false;
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        let mut end = at + 1;
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => out.push(byte),
            b'{' if at_key => {
                end = object_end(text, at)?;
                serde_json::to_writer(&mut out, std::str::from_utf8(&text[at..end]).ok()?).ok()?;
                (at_key, changed) = (false, true);
            }
            b'0'..=b'9' | b'-' if at_key => {
                end = at + 1 + text[at + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                out.push(b'"');
                out.extend_from_slice(&text[at..end]);
                out.push(b'"');
                (at_key, changed) = (false, true);
            }
            b'"' => {
                end = string_end(text, at)?;
                out.extend_from_slice(&text[at..end]);
                at_key = false;
            }
            b'{' | b'[' => {
                open.push(byte);
                out.push(byte);
                at_key = byte == b'{';
            }
            b'}' | b']' => {
                open.pop()?;
                out.push(byte);
                at_key = false;
            }
            b',' => {
                out.push(byte);
                at_key = open.last() == Some(&b'{');
            }
            _ => out.push(byte),
        }
        at = end;
    }
    changed.then_some(out)
}

/// Where the string that opens at `start` ends.
fn string_end(text: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        match text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// Where the object that opens at `start` ends.
fn object_end(text: &[u8], start: usize) -> Option<usize> {
    let mut depth = 0_usize;
    let mut at = start;
    loop {
        match text.get(at)? {
            b'"' => {
                at = string_end(text, at)?;
                continue;
            }
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        at += 1;
        if depth == 0 {
            return Some(at);
        }
    }
}

/// Where the writing of a key stands: its opening quote is held back until it is known whether an integer follows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Key {
    No,
    Begun,
    QuoteHeld,
    Integer,
}

/// Writes as `inner` does, but integer keys without quotes.
struct BareIntegerKeys<F> {
    inner: F,
    key: Key,
}

impl<F: Formatter> BareIntegerKeys<F> {
    fn around(inner: F) -> Self {
        Self { inner, key: Key::No }
    }

    fn release_quote<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        if self.key == Key::QuoteHeld {
            self.key = Key::No;
            self.inner.begin_string(writer)?;
        }
        Ok(())
    }
}

macro_rules! integers {
    ($($name:ident: $type:ty),*) => {$(
        fn $name<W: ?Sized + Write>(&mut self, writer: &mut W, value: $type) -> io::Result<()> {
            if self.key == Key::QuoteHeld {
                self.key = Key::Integer;
            }
            self.inner.$name(writer, value)
        }
    )*};
}

macro_rules! inner {
    ($($name:ident($($argument:ident: $type:ty),*)),*) => {$(
        fn $name<W: ?Sized + Write>(&mut self, writer: &mut W, $($argument: $type),*) -> io::Result<()> {
            self.inner.$name(writer, $($argument),*)
        }
    )*};
}

impl<F: Formatter> Formatter for BareIntegerKeys<F> {
    integers!(write_i8: i8, write_i16: i16, write_i32: i32, write_i64: i64);
    integers!(write_u8: u8, write_u16: u16, write_u32: u32, write_u64: u64);
    inner!(begin_array(), end_array(), begin_array_value(first: bool), end_array_value());
    inner!(begin_object(), end_object(), end_object_key(), begin_object_value(), end_object_value());

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.key = Key::Begun;
        self.inner.begin_object_key(writer, first)
    }

    fn begin_string<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        if self.key == Key::Begun {
            self.key = Key::QuoteHeld;
            return Ok(());
        }
        self.inner.begin_string(writer)
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        self.release_quote(writer)?;
        self.inner.write_string_fragment(writer, fragment)
    }

    fn write_char_escape<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        escape: serde_json::ser::CharEscape,
    ) -> io::Result<()> {
        self.release_quote(writer)?;
        self.inner.write_char_escape(writer, escape)
    }

    fn end_string<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        if self.key == Key::Integer {
            self.key = Key::No;
            return Ok(());
        }
        self.release_quote(writer)?;
        self.inner.end_string(writer)
    }
}

/// Writes compactly, characters beyond ASCII as escapes.
struct AsciiOnly;

impl Formatter for AsciiOnly {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        if fragment.is_ascii() {
            return writer.write_all(fragment.as_bytes());
        }
        for character in fragment.chars() {
            if character.is_ascii() {
                write!(writer, "{character}")?;
                continue;
            }
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn quoted(text: &str) -> Option<String> {
        quote_keys(text.as_bytes()).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn integer_keys_get_quotes() {
        assert_eq!(
            quoted(r#"{"a":{0:"x,{1:2}",-3 : [4,5,{6:7}]}}"#).as_deref(),
            Some(r#"{"a":{"0":"x,{1:2}","-3" : [4,5,{"6":7}]}}"#)
        );
        assert_eq!(quoted(r#"{"0":1,"b":[1,2,{"c":3}]}"#), None);
    }

    #[test]
    fn object_keys_become_strings() {
        let text = r#"{"t":{{"topic":"T\"}","queueId":0}:{"max":9},{"topic":"U","queueId":1}:{}}}"#;
        let value: serde_json::Value = serde_json::from_str(&quoted(text).unwrap()).unwrap();
        let keys: Vec<_> = value["t"].as_object().unwrap().keys().collect();
        assert_eq!(keys, [r#"{"topic":"T\"}","queueId":0}"#, r#"{"topic":"U","queueId":1}"#]);
    }

    #[test]
    fn truncated_texts_are_refused() {
        let text = br#"{"t":{{"topic":"T\"}","queueId":0}:{1:9}}}"#;
        for length in 0..text.len() {
            assert!(read::<serde_json::Value>("test", &text[..length]).is_err(), "{length}");
        }
        assert!(read::<serde_json::Value>("test", text).is_ok());
    }

    #[test]
    fn a_deep_text_is_refused() {
        for open in ["[", "{1:", "{{1:"] {
            assert!(read::<serde_json::Value>("test", open.repeat(300_000).as_bytes()).is_err());
        }
    }

    #[test]
    fn writes_integer_keys_bare_and_string_keys_quoted() {
        let mut integers = BTreeMap::from([(0_i64, "a"), (-7, "b")]);
        let table = BTreeMap::from([("x\"1", integers.clone()), ("", BTreeMap::new())]);
        assert_eq!(write(&table), br#"{"":{},"x\"1":{-7:"b",0:"a"}}"#);
        assert_eq!(write_standard(&table), br#"{"":{},"x\"1":{"-7":"b","0":"a"}}"#);
        integers.remove(&0);
        assert_eq!(write_pretty(&integers), b"{\n\t-7: \"b\"\n}");
        let back: BTreeMap<String, BTreeMap<i64, String>> = read("test", &write_pretty(&table)).unwrap();
        assert_eq!(back["x\"1"][&-7], "b");
    }

    #[test]
    fn standard_text_is_ascii() {
        assert_eq!(write_standard(&"é😀\n"), br#""\u00e9\ud83d\ude00\n""#);
        assert_eq!(write(&"é\n"), "\"é\\n\"".as_bytes());
    }
}
