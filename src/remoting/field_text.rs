//! How the value of a header field becomes text: what `Display` would write, without the machinery of formatting, as every answer
//! to a send or a pull has half a dozen of them.

use bytes::{BufMut, BytesMut};

use super::flat_json::plain_bytes;
use super::frame::SerializeType;

/// A value that a header field can have.
pub trait FieldText {
    /// Writes the value's text.
    fn write(&self, out: &mut FieldWriter<'_>);
}

/// Takes the text of a field, piece by piece, and writes it as the header's form wants it.
#[derive(Debug)]
pub struct FieldWriter<'a> {
    out: &'a mut BytesMut,
    form: SerializeType,
}

impl<'a> FieldWriter<'a> {
    pub(super) fn new(out: &'a mut BytesMut, form: SerializeType) -> Self {
        Self { out, form }
    }

    /// Appends any text.
    pub fn text(&mut self, text: &str) {
        match self.form {
            SerializeType::Json => escape(self.out, text),
            SerializeType::RocketMq => self.out.put_slice(text.as_bytes()),
        }
    }

    /// Appends text in which nothing has to be escaped in any form, such as a number.
    pub fn plain(&mut self, text: &str) {
        debug_assert_eq!(plain_bytes(text.as_bytes()), text.len(), "{text:?} is not plain");
        self.out.put_slice(text.as_bytes());
    }
}

macro_rules! whole_numbers {
    ($($type:ty),*) => {$(
        impl FieldText for $type {
            fn write(&self, out: &mut FieldWriter<'_>) {
                out.plain(itoa::Buffer::new().format(*self));
            }
        }
    )*};
}
whole_numbers!(i32, i64, u32, u64, u128, usize);

impl FieldText for bool {
    fn write(&self, out: &mut FieldWriter<'_>) {
        out.plain(if *self { "true" } else { "false" });
    }
}

impl FieldText for str {
    fn write(&self, out: &mut FieldWriter<'_>) {
        out.text(self);
    }
}

impl FieldText for String {
    fn write(&self, out: &mut FieldWriter<'_>) {
        out.text(self);
    }
}

impl<T: FieldText + ?Sized> FieldText for &T {
    fn write(&self, out: &mut FieldWriter<'_>) {
        (**self).write(out);
    }
}

/// Appends `text` as the inside of a JSON string; runs without anything to escape go in one piece.
pub(super) fn escape(out: &mut BytesMut, text: &str) {
    let mut rest = text.as_bytes();
    loop {
        let (plain, special) = rest.split_at(plain_bytes(rest));
        out.put_slice(plain);
        let [byte, later @ ..] = special else { return };
        match byte {
            b'"' | b'\\' => out.put_slice(&[b'\\', *byte]),
            b'\n' => out.put_slice(b"\\n"),
            b'\r' => out.put_slice(b"\\r"),
            b'\t' => out.put_slice(b"\\t"),
            _ => {
                const DIGITS: &[u8; 16] = b"0123456789abcdef";
                let (high, low) = (DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]);
                out.put_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            }
        }
        rest = later;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: &dyn FieldText, form: SerializeType) -> String {
        let mut out = BytesMut::new();
        value.write(&mut FieldWriter::new(&mut out, form));
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn values_are_written_as_they_display() {
        for form in [SerializeType::Json, SerializeType::RocketMq] {
            assert_eq!(written(&i64::MIN, form), i64::MIN.to_string());
            assert_eq!(written(&u64::MAX, form), u64::MAX.to_string());
            assert_eq!(written(&0_i32, form), "0");
            assert_eq!(written(&true, form), "true");
            assert_eq!(written(&"é 消", form), "é 消");
        }
    }

    #[test]
    fn json_escapes_what_json_must() {
        let every: String = (0..=0x80_u8).map(char::from).collect();
        let json = written(&every, SerializeType::Json);
        let back: String = serde_json::from_str(&format!("\"{json}\"")).unwrap();
        assert_eq!(back, every);
        assert!(json.starts_with(r"\u0000\u0001") && json.contains(r"\u001f !\"), "{json}");
        assert_eq!(written(&every, SerializeType::RocketMq), every);
    }
}
