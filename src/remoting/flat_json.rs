//! The JSON form of a header as clients write it: one object without white space, whose members are strings, whole numbers and
//! booleans, and `extFields` with the same. Read in one pass, strings borrowed where nothing is escaped.
//!
//! It gives up at whatever else it meets, be it unusual or wrong: `json_header` then reads the text anew with the JSON library and
//! judges it. What is read here is what the library would have read; a test compares the two.

use std::borrow::Cow;

use super::code::language;
use super::request::{ExtFields, Head};

/// Longest whole number that is taken as it is written, digits: it fits 64 bits whatever they are.
const DIGITS_MAX: usize = 18;
/// Memory for a string with escapes that does not say how long it is, bytes.
const UNESCAPED_BYTES: usize = 256;

/// Reads a header into `head`, which is empty; `None`, and anything in `head`, when it is not in the plain form.
pub(super) fn read<'f>(text: &'f str, head: &mut Head<'f>) -> Option<()> {
    let mut cursor = Cursor { text, at: 0 };
    head.language = language::OTHER;
    cursor.members(|cursor, key| {
        match key {
            "code" => head.code = cursor.number()?,
            "language" => head.language = language::of_name(&cursor.scalar()?),
            "version" => head.version = cursor.number()?,
            "opaque" => head.opaque = cursor.number()?,
            "flag" => head.flag = cursor.number()?,
            "remark" => head.remark = Some(cursor.scalar()?).filter(|remark| !remark.is_empty()),
            "extFields" => {
                // Of several the last one counts.
                head.ext.clear();
                cursor.members(|cursor, key| cursor.field(key, &mut head.ext))?;
            }
            _ => drop(cursor.scalar()?),
        }
        Some(())
    })?;
    (cursor.at == text.len()).then_some(())
}

/// A place in the text; every step forward is `None` where the text does not go on as expected.
struct Cursor<'f> {
    text: &'f str,
    at: usize,
}

impl<'f> Cursor<'f> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// An object; `member` reads the value of each key, which has no escape in it.
    fn members(&mut self, mut member: impl FnMut(&mut Self, &'f str) -> Option<()>) -> Option<()> {
        self.expect(b'{')?;
        if self.peek()? == b'}' {
            self.at += 1;
            return Some(());
        }
        loop {
            self.expect(b'"')?;
            let key = self.plain();
            self.expect(b'"')?;
            self.expect(b':')?;
            member(self, key)?;
            let after = self.peek()?;
            self.at += 1;
            match after {
                b',' => {}
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    /// The value of a field.
    #[inline]
    fn field(&mut self, key: &'f str, ext: &mut ExtFields<'f>) -> Option<()> {
        if self.peek()? != b'"' {
            return ext.push(Cow::Borrowed(key), self.scalar()?).ok();
        }
        self.at += 1;
        let plain = self.plain();
        if self.peek()? == b'"' {
            self.at += 1;
            return ext.push_plain(key, plain).ok();
        }
        let mut is_read = None;
        let pushed = ext.push_unescaped(key, |unescaped| is_read = self.unescape(plain, unescaped));
        is_read.and(pushed.ok())
    }

    /// A string, a whole number or a boolean, as its text.
    fn scalar(&mut self) -> Option<Cow<'f, str>> {
        match self.peek()? {
            b'"' => self.string(),
            b't' => self.word("true"),
            b'f' => self.word("false"),
            _ => self.whole_number().map(Cow::Borrowed),
        }
    }

    fn word(&mut self, word: &'static str) -> Option<Cow<'f, str>> {
        self.text[self.at..].starts_with(word).then(|| {
            self.at += word.len();
            Cow::Borrowed(word)
        })
    }

    /// A number of the command itself, which may be quoted.
    fn number(&mut self) -> Option<i32> {
        self.scalar()?.parse().ok()
    }

    /// A whole number, whose text is the one that its value would be written as. What follows it ends it, or is not the plain form.
    fn whole_number(&mut self) -> Option<&'f str> {
        let rest = &self.text.as_bytes()[self.at..];
        let sign = usize::from(rest.first() == Some(&b'-'));
        let digits = rest[sign..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let starts_well = match rest.get(sign)? {
            b'0' => digits == 1 && sign == 0,
            _ => digits > 0,
        };
        let is_plain = starts_well && digits <= DIGITS_MAX && matches!(rest.get(sign + digits)?, b',' | b'}');
        is_plain.then(|| {
            let from = self.at;
            self.at += sign + digits;
            &self.text[from..self.at]
        })
    }

    /// A string with its quotes.
    fn string(&mut self) -> Option<Cow<'f, str>> {
        self.expect(b'"')?;
        let plain = self.plain();
        if self.peek()? == b'"' {
            self.at += 1;
            return Some(Cow::Borrowed(plain));
        }
        let mut unescaped = String::new();
        self.unescape(plain, &mut unescaped)?;
        Some(Cow::Owned(unescaped))
    }

    /// What comes before the next byte that a string may not hold as it is.
    #[inline]
    fn plain(&mut self) -> &'f str {
        let from = self.at;
        self.at += plain_bytes(&self.text.as_bytes()[from..]);
        &self.text[from..self.at]
    }

    /// The rest of a string that starts with `plain` and goes on with an escape, or is none. Put behind `unescaped`.
    fn unescape(&mut self, plain: &str, unescaped: &mut String) -> Option<()> {
        unescaped.reserve((plain.len() + self.text.len() - self.at).min(UNESCAPED_BYTES));
        unescaped.push_str(plain);
        loop {
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(());
                }
                b'\\' => unescaped.push(self.escaped()?),
                _ => return None,
            }
            let more = self.plain();
            unescaped.push_str(more);
        }
    }

    /// One escape; of those by number only ASCII.
    fn escaped(&mut self) -> Option<char> {
        let escape = self.text.as_bytes().get(self.at + 1..)?;
        let (character, length) = match escape.first()? {
            b'u' => (ascii_of_hex(escape.get(1..5)?)?, 6),
            b'n' => ('\n', 2),
            b'r' => ('\r', 2),
            b't' => ('\t', 2),
            b'b' => ('\u{8}', 2),
            b'f' => ('\u{c}', 2),
            byte @ (b'"' | b'\\' | b'/') => (char::from(*byte), 2),
            _ => return None,
        };
        self.at += length;
        Some(character)
    }
}

fn ascii_of_hex(digits: &[u8]) -> Option<char> {
    let [b'0', b'0', high @ b'0'..=b'7', low] = digits else { return None };
    let low = match low {
        b'0'..=b'9' => low - b'0',
        b'a'..=b'f' => low - b'a' + 10,
        b'A'..=b'F' => low - b'A' + 10,
        _ => return None,
    };
    Some(char::from((high - b'0') << 4 | low))
}

/// How many bytes stand before the first that a string may not hold as it is: a quote, a backslash, a control character. Eight
/// bytes are judged at once.
#[inline]
pub(super) fn plain_bytes(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const TOPS: u64 = ONES << 7;
    // Sets the top bit of every byte below `limit`, and perhaps of bytes behind the first such one.
    let below = |eight: u64, limit: u64| eight.wrapping_sub(ONES * limit) & !eight & TOPS;
    let mut chunks = bytes.chunks_exact(8);
    let mut at = 0;
    for chunk in chunks.by_ref() {
        let eight = u64::from_le_bytes(chunk.try_into().expect("chunks have eight bytes"));
        let (quotes, backslashes) = (eight ^ (ONES * u64::from(b'"')), eight ^ (ONES * u64::from(b'\\')));
        let found = below(eight, 0x20) | below(quotes, 1) | below(backslashes, 1);
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    let is_special = |byte: &u8| *byte < 0x20 || matches!(byte, b'"' | b'\\');
    at + chunks.remainder().iter().position(is_special).unwrap_or(chunks.remainder().len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::json_header::read_any;
    use super::*;

    fn read(text: &str) -> Option<Head<'_>> {
        let mut head = Head::default();
        super::read(text, &mut head).map(|()| head)
    }

    #[test]
    fn headers_of_clients_are_in_the_plain_form() {
        let of_java = r#"{"code":310,"extFields":{"a":"g","i":"KEYS\u0001k\u0002WAIT\u0001true\u0002","e":"0"},"flag":0,"language":"JAVA","opaque":12,"serializeTypeCurrentRPC":"JSON","version":479}"#;
        let of_go = r#"{"code":310,"language":"GO","version":317,"opaque":-5,"flag":2,"remark":"","extFields":{"a":"消息","d":4,"k":false}}"#;
        for text in [of_java, of_go] {
            let head = read(text).expect("the plain form");
            assert_eq!(head, read_any(text).expect("a command"));
        }
        assert_eq!(read(of_java).unwrap().ext.get("i"), Some("KEYS\u{1}k\u{2}WAIT\u{1}true\u{2}"));
    }

    #[test]
    fn what_is_unusual_is_left_to_the_library() {
        for text in [
            "",
            "{",
            "{}x",
            r#"{"code":1 }"#,
            r#"{"code":01}"#,
            r#"{"code":-0}"#,
            r#"{"code":1.0}"#,
            r#"{"code":1e3}"#,
            r#"{"code":3000000000}"#,
            r#"{"remark":null}"#,
            r#"{"x":{"y":1}}"#,
            r#"{"x":[1]}"#,
            r#"{"extFields":null}"#,
            r#"{"x":"\u00e9"}"#,
            r#"{"x":"\ud83d\ude00"}"#,
            r#"{"x":"\q"}"#,
            r#"{"x":truely}"#,
            r#"{"x":1234567890123456789}"#,
            "{\"x\":\"a\nb\"}",
            r#"{"a":1,}"#,
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn a_special_byte_is_found_at_every_place() {
        for length in 0..20 {
            let plain = vec![b'x'; length];
            assert_eq!(plain_bytes(&plain), length);
            for at in 0..length {
                for special in [b'"', b'\\', 0, 0x1F] {
                    let mut bytes = plain.clone();
                    bytes[at] = special;
                    bytes[length - 1] = b'"';
                    assert_eq!(plain_bytes(&bytes), at.min(length - 1));
                }
                for ordinary in [b'!', b'#', b' ', b'[', b']', 0x7F, 0x80, 0xFF] {
                    let mut bytes = plain.clone();
                    bytes[at] = ordinary;
                    assert_eq!(plain_bytes(&bytes), length);
                }
            }
        }
    }

    /// Pieces of which headers and things like headers are made.
    fn piece() -> impl Strategy<Value = String> {
        prop_oneof![
            Just("{".to_owned()),
            Just("}".to_owned()),
            Just(",".to_owned()),
            Just(":".to_owned()),
            Just(r#","extFields":{"#.to_owned()),
            "\"(a|i|code|opaque|extFields|remark|language|flag)\":",
            "(true|false|null|tru|-?[0-9]{1,20}|-?0|1\\.5|1e9| |\n|\\[\\]|\\{\\})",
            r#""(x|é|\\u000[12]|\\u00[0-9a-f]{2}|\\ud83d\\ude00|\\[nrtbf"/q]|\\\\|[ -~]){0,12}""#,
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn what_is_read_is_what_the_library_reads(
            fields in proptest::collection::vec((r#"("[a-p]"|"(x|\\u0001){1,3}")"#, piece()), 0..6),
            members in proptest::collection::vec((r#""(code|flag|opaque|version|language|remark|x)""#, piece()), 0..6),
        ) {
            let joined = |pairs: Vec<(String, String)>| {
                pairs.into_iter().map(|(key, value)| format!("{key}:{value}")).collect::<Vec<_>>().join(",")
            };
            let comma = if members.is_empty() { "" } else { "," };
            let text = format!("{{{}{comma}\"extFields\":{{{}}}}}", joined(members), joined(fields));
            if let Some(head) = read(&text) {
                prop_assert_eq!(Ok(head), read_any(&text), "{}", text);
            }
        }

        #[test]
        fn no_text_is_read_differently(pieces in proptest::collection::vec(piece(), 0..16)) {
            let text = format!("{{\"code\":1{}", pieces.concat());
            if let Some(head) = read(&text) {
                prop_assert_eq!(Ok(head), read_any(&text), "{}", text);
            }
        }
    }
}
