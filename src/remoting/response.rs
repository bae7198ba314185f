//! Responses, and requests of ours, written straight into a connection's output buffer: no tree, no string in between.
//!
//! `extFields` is always there, empty or not: Java's client reads it of every send result without asking. The language is
//! `JAVA`, as stock brokers say: clients older than the name `RUST` take an unknown one badly, and none acts on it.

use bytes::{BufMut, BytesMut};
use shards::limits::REMARK_BYTES_MAX;

use super::code::{language, response};
use super::field_text::{FieldText, FieldWriter, escape};
use super::frame::SerializeType;

/// The version we report: 5.3.3. From 401 on, tools and clients treat a broker as able of the standard JSON route form, and
/// mqadmin shows a 5.x broker.
pub const VERSION: i32 = 479;

const FLAG_RESPONSE: i32 = 1;
const FLAG_ONEWAY: i32 = 2;

/// What a response needs to know of its request; small, so that waiting requests keep it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    pub opaque: i32,
    pub serialize_type: SerializeType,
    pub oneway: bool,
}

/// Writes a whole response frame except for its body: the caller appends exactly `body_bytes` bytes next.
/// `ext` may be empty; it is then written as an empty object, which Java needs. A remark is cut at `REMARK_BYTES_MAX`.
///
/// Fields that do not fit a header, as only a hostile peer could make them, become an error instead.
///
/// # Panics
/// When the body is beyond what a frame can carry: whoever makes it keeps it bounded.
pub fn write_response_head(
    out: &mut BytesMut,
    to: ReplyTo,
    code: i32,
    remark: Option<&str>,
    ext: &[(&str, &dyn FieldText)],
    body_bytes: usize,
) {
    let head = Head { code, opaque: to.opaque, flag: FLAG_RESPONSE, remark, ext };
    if write_head(out, to.serialize_type, &head, body_bytes).is_err() {
        let remark = Some("the fields of the answer do not fit into a header");
        let head = Head { code: response::SYSTEM_ERROR, remark, ext: &[], ..head };
        write_head(out, to.serialize_type, &head, body_bytes).expect("a short header fits");
    }
}

/// Writes a whole request frame of ours.
///
/// # Panics
/// As [`write_response_head`].
pub fn write_request(
    out: &mut BytesMut,
    serialize_type: SerializeType,
    code: i32,
    opaque: i32,
    oneway: bool,
    ext: &[(&str, &dyn FieldText)],
    body: &[u8],
) {
    let flag = if oneway { FLAG_ONEWAY } else { 0 };
    write_head(out, serialize_type, &Head { code, opaque, flag, remark: None, ext }, body.len())
        .expect("header fields of our requests are bounded far below 16 MiB");
    out.extend_from_slice(body);
}

struct Head<'a> {
    code: i32,
    opaque: i32,
    flag: i32,
    remark: Option<&'a str>,
    ext: &'a [(&'a str, &'a dyn FieldText)],
}

/// The header does not fit into a frame; nothing was written.
#[derive(Debug)]
struct HeaderTooLong;

fn write_head(
    out: &mut BytesMut,
    serialize_type: SerializeType,
    head: &Head<'_>,
    body_bytes: usize,
) -> Result<(), HeaderTooLong> {
    let start = out.len();
    out.put_u64(0);
    let remark = head.remark.map(cut_remark);
    match serialize_type {
        SerializeType::Json => write_json(out, head, remark),
        SerializeType::RocketMq => write_binary(out, head, remark),
    }
    let header_bytes = out.len() - start - 8;
    if header_bytes >= 1 << 24 {
        out.truncate(start);
        return Err(HeaderTooLong);
    }
    let total =
        i32::try_from(4 + header_bytes + body_bytes).expect("bodies of ours are bounded far below 2 GiB");
    let header_bytes = u32::try_from(header_bytes).expect("judged above");
    let mark = header_bytes | u32::from(serialize_type.byte()) << 24;
    out[start..start + 4].copy_from_slice(&total.to_be_bytes());
    out[start + 4..start + 8].copy_from_slice(&mark.to_be_bytes());
    Ok(())
}

/// A remark may repeat what a peer sent; its length must not.
fn cut_remark(remark: &str) -> &str {
    let mut end = remark.len().min(REMARK_BYTES_MAX);
    while !remark.is_char_boundary(end) {
        end -= 1;
    }
    &remark[..end]
}

fn write_json(out: &mut BytesMut, head: &Head<'_>, remark: Option<&str>) {
    out.put_slice(b"{\"code\":");
    put_number(out, head.code);
    out.put_slice(b",\"extFields\":{");
    for (index, (key, value)) in head.ext.iter().enumerate() {
        out.put_slice(if index == 0 { b"\"" } else { b",\"" });
        escape(out, key);
        out.put_slice(b"\":\"");
        value.write(&mut FieldWriter::new(out, SerializeType::Json));
        out.put_u8(b'"');
    }
    out.put_slice(b"},\"flag\":");
    put_number(out, head.flag);
    out.put_slice(b",\"language\":\"JAVA\",\"opaque\":");
    put_number(out, head.opaque);
    if let Some(remark) = remark {
        out.put_slice(b",\"remark\":\"");
        escape(out, remark);
        out.put_u8(b'"');
    }
    out.put_slice(b",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":");
    put_number(out, VERSION);
    out.put_u8(b'}');
}

fn put_number(out: &mut BytesMut, number: i32) {
    out.put_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the form has 16 bits for the code; Java cuts the same way"
)]
fn write_binary(out: &mut BytesMut, head: &Head<'_>, remark: Option<&str>) {
    out.put_i16(head.code as i16);
    out.put_u8(language::JAVA);
    out.put_i16(const { VERSION as i16 });
    out.put_i32(head.opaque);
    out.put_i32(head.flag);
    put_counted(out, |out| out.put_slice(remark.unwrap_or_default().as_bytes()));
    put_counted(out, |out| {
        for (key, value) in head.ext {
            out.put_i16(i16::try_from(key.len()).expect("names of fields are short"));
            out.put_slice(key.as_bytes());
            put_counted(out, |out| value.write(&mut FieldWriter::new(out, SerializeType::RocketMq)));
        }
    });
}

/// What `write` appends, after its length as an `i32`.
fn put_counted(out: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_i32(0);
    write(out);
    let length =
        i32::try_from(out.len() - start - 4).expect("header fields of ours are bounded far below 2 GiB");
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remoting::frame::split_frame;
    use crate::remoting::request::Request;

    const FORMS: [SerializeType; 2] = [SerializeType::Json, SerializeType::RocketMq];

    #[test]
    fn a_response_reads_back_in_both_forms() {
        for serialize_type in FORMS {
            let mut out = BytesMut::from(&b"before"[..]);
            let to = ReplyTo { opaque: -3, serialize_type, oneway: false };
            let text = "q\"\\ \u{1}\u{2}\n é 消";
            write_response_head(&mut out, to, 17, Some(text), &[("k", &text), ("n", &-12_i64)], 3);
            out.extend_from_slice(b"abc");
            let mut input = out.split_off(6);
            let frame = split_frame(&mut input).unwrap().unwrap();
            assert!(input.is_empty());
            let response = Request::decode(&frame).unwrap();
            assert_eq!((response.code, response.opaque, response.flag), (17, -3, 1));
            assert_eq!((response.language, response.version), (language::JAVA, VERSION));
            assert_eq!(response.remark.as_deref(), Some(text));
            assert_eq!(response.ext.iter().collect::<Vec<_>>(), [("k", text), ("n", "-12")]);
            assert_eq!(&response.body[..], b"abc");
        }
    }

    #[test]
    fn extension_fields_are_written_even_when_empty() {
        let mut out = BytesMut::new();
        let to = ReplyTo { opaque: 1, serialize_type: SerializeType::Json, oneway: false };
        write_response_head(&mut out, to, 0, None, &[], 0);
        let text = String::from_utf8_lossy(&out[8..]).into_owned();
        assert!(text.contains("\"extFields\":{}"), "{text}");
        assert!(!text.contains("remark"), "{text}");
    }

    #[test]
    fn a_request_of_ours_reads_back() {
        for serialize_type in FORMS {
            let mut out = BytesMut::new();
            write_request(&mut out, serialize_type, 40, 9, true, &[("consumerGroup", &"g")], b"x");
            let frame = split_frame(&mut out).unwrap().unwrap();
            let request = Request::decode(&frame).unwrap();
            assert!(request.is_oneway() && !request.is_response());
            assert_eq!(request.reply_to(), ReplyTo { opaque: 9, serialize_type, oneway: true });
            assert_eq!(request.ext.required("consumerGroup"), Ok("g"));
        }
    }

    #[test]
    fn fields_that_fit_no_header_become_an_error() {
        let long = "x".repeat(1 << 24);
        for serialize_type in FORMS {
            let mut out = BytesMut::from(&b"before"[..]);
            let to = ReplyTo { opaque: 7, serialize_type, oneway: false };
            write_response_head(&mut out, to, 0, None, &[("k", &long)], 3);
            out.extend_from_slice(b"abc");
            let frame = split_frame(&mut out.split_off(6)).unwrap().unwrap();
            let response = Request::decode(&frame).unwrap();
            assert_eq!((response.code, response.opaque), (response::SYSTEM_ERROR, 7));
            assert_eq!((response.ext.len(), &response.body[..]), (0, &b"abc"[..]));
        }
    }

    #[test]
    fn a_remark_is_cut_at_a_character() {
        let mut out = BytesMut::new();
        let to = ReplyTo { opaque: 1, serialize_type: SerializeType::Json, oneway: false };
        let long = "é".repeat(REMARK_BYTES_MAX);
        write_response_head(&mut out, to, 1, Some(&long), &[], 0);
        let frame = split_frame(&mut out).unwrap().unwrap();
        assert_eq!(Request::decode(&frame).unwrap().remark.unwrap().len(), REMARK_BYTES_MAX);
    }
}
