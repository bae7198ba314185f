//! Send requests, built once for each queue and then only patched: opaque, birth time, key, sequence and send time have a fixed
//! width and a known place, so that a message costs the generator one copy and a few stores.
//!
//! The request is what a stock client sends: code 310 with the short header names (320 for a batch), JSON header, properties
//! with the message's unique key.

use ringmq::remoting::field_text::FieldText;

use bytes::{BufMut, BytesMut};
use ringmq::remoting::code::request;
use ringmq::remoting::frame::SerializeType;
use ringmq::remoting::response::write_request;

use crate::payload::{
    BODY_HEAD_BYTES, KEY_DIGITS, Payload, SEQUENCE_DIGITS, patch_body, write_decimal, write_hex,
};

/// Opaques count from here, so that they all have ten digits.
pub const OPAQUE_BASE: u32 = 1_000_000_000;
/// There are this many of them.
pub const OPAQUE_COUNT: u32 = 1_000_000_000;

/// Placeholders: values of the right width that occur nowhere else in a header.
const OPAQUE_PLACEHOLDER: i32 = 1_987_654_321;
const BORN_PLACEHOLDER: u64 = 9_192_939_495_969;
const BORN_DIGITS: usize = 13;
const OPAQUE_DIGITS: usize = 10;
const SEQUENCE_PLACEHOLDER: u64 = 0xFEDC_BA98_7654_3210;

/// The group that the generator sends as.
const PRODUCER_GROUP: &str = "ringmq-bench";

/// What the requests for one queue have in common.
#[derive(Clone, Copy, Debug)]
pub struct FrameSpec<'a> {
    pub topic: &'a str,
    pub broker_name: &'a str,
    pub queue_id: u32,
    /// Messages in one request; 1 is an ordinary send.
    pub batch: usize,
    /// Delay level of the messages; 0 is none.
    pub delay_level: u8,
}

/// A send request for one queue.
#[derive(Debug)]
pub struct SendFrame {
    bytes: Vec<u8>,
    opaque_at: usize,
    born_at: usize,
    /// Places of the sequence digits of the key, and of the body, of each message.
    messages: Vec<(usize, usize)>,
}

impl SendFrame {
    /// The request that `spec` describes.
    pub fn new(spec: &FrameSpec<'_>, payload: &Payload) -> Self {
        let FrameSpec { topic, broker_name, queue_id, batch, delay_level } = *spec;
        assert!(batch >= 1);
        let key = payload.key(SEQUENCE_PLACEHOLDER);
        let key = std::str::from_utf8(&key).expect("hexadecimal digits");
        let mut properties = format!("UNIQ_KEY\u{1}{key}\u{2}WAIT\u{1}true\u{2}");
        if delay_level > 0 {
            properties += &format!("DELAY\u{1}{delay_level}\u{2}");
        }
        let is_batch = batch > 1;

        let mut body = BytesMut::new();
        let mut places = Vec::with_capacity(batch);
        if is_batch {
            for _ in 0..batch {
                places.push(put_in_batch(&mut body, &properties, payload.template()));
            }
        } else {
            body.put_slice(payload.template());
        }

        let mut ext: Vec<(&str, &dyn FieldText)> = vec![
            ("a", &PRODUCER_GROUP),
            ("b", &topic),
            ("c", &"TBW102"),
            ("d", &4),
            ("e", &queue_id),
            ("f", &0),
            ("g", &BORN_PLACEHOLDER),
            ("h", &0),
        ];
        if !is_batch {
            ext.push(("i", &properties));
        }
        ext.extend_from_slice(&[("j", &0), ("k", &false), ("m", &is_batch), ("n", &broker_name)]);
        let code = if is_batch { request::SEND_BATCH_MESSAGE } else { request::SEND_MESSAGE_V2 };
        let mut out = BytesMut::new();
        write_request(&mut out, SerializeType::Json, code, OPAQUE_PLACEHOLDER, false, &ext, &body);

        let header = &out[..out.len() - body.len()];
        let body_at = header.len();
        let opaque_at = place_of(header, OPAQUE_PLACEHOLDER.to_string().as_bytes());
        let born_at = place_of(header, BORN_PLACEHOLDER.to_string().as_bytes());
        let messages = if is_batch {
            places.iter().map(|(key_at, inner_at)| (body_at + key_at, body_at + inner_at)).collect()
        } else {
            let sequence = &key.as_bytes()[KEY_DIGITS - SEQUENCE_DIGITS..];
            vec![(place_of(header, sequence), body_at)]
        };
        Self { bytes: out.to_vec(), opaque_at, born_at, messages }
    }

    /// Messages in one request.
    pub fn batch(&self) -> usize {
        self.messages.len()
    }

    /// Appends the request for the messages `first_sequence..first_sequence + batch` to `out`.
    pub fn append_to(
        &self,
        out: &mut Vec<u8>,
        opaque: u32,
        born_ms: u64,
        first_sequence: u64,
        intended_ns: u64,
    ) {
        debug_assert!((OPAQUE_BASE..OPAQUE_BASE + OPAQUE_COUNT).contains(&opaque));
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        let frame = &mut out[start..];
        write_decimal(&mut frame[self.opaque_at..self.opaque_at + OPAQUE_DIGITS], opaque.into());
        write_decimal(&mut frame[self.born_at..self.born_at + BORN_DIGITS], born_ms);
        for (sequence, (key_at, body_at)) in (first_sequence..).zip(&self.messages) {
            write_hex(&mut frame[*key_at..key_at + SEQUENCE_DIGITS], sequence);
            patch_body(&mut frame[*body_at..body_at + BODY_HEAD_BYTES], sequence, intended_ns);
        }
    }
}

/// Appends one message of a batch; returns the places of its key's sequence and of its body.
fn put_in_batch(out: &mut BytesMut, properties: &str, body: &[u8]) -> (usize, usize) {
    let length =
        |bytes: usize| u32::try_from(bytes).expect("the size of a message is checked to be at most 4 MiB");
    out.put_u32(length(22 + body.len() + properties.len()));
    out.put_bytes(0, 12);
    out.put_u32(length(body.len()));
    let body_at = out.len();
    out.put_slice(body);
    out.put_u16(u16::try_from(properties.len()).expect("a key and a flag"));
    let properties_at = out.len();
    out.put_slice(properties.as_bytes());
    (properties_at + "UNIQ_KEY\u{1}".len() + KEY_DIGITS - SEQUENCE_DIGITS, body_at)
}

/// Where `wanted` lies in the header; it must be there once.
fn place_of(header: &[u8], wanted: &[u8]) -> usize {
    let mut places = header.windows(wanted.len()).enumerate().filter(|(_, window)| *window == wanted);
    let (at, _) = places.next().expect("the placeholder was written into the header");
    assert!(places.next().is_none(), "a placeholder occurs twice: {}", String::from_utf8_lossy(wanted));
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{RunId, parse_key};
    use ringmq::client::MessageView;
    use ringmq::remoting::frame::split_frame;
    use ringmq::remoting::request::Request;

    fn frame(queue_id: u32, batch: usize, delay_level: u8) -> SendFrame {
        let spec = FrameSpec { topic: "orders", broker_name: "broker-a", queue_id, batch, delay_level };
        SendFrame::new(&spec, &payload())
    }

    fn payload() -> Payload {
        Payload::new(RunId(0x0123_4567_89AB_CDEF), 300)
    }

    #[test]
    fn a_patched_frame_decodes_to_what_was_put_in() {
        let payload = payload();
        let frame = frame(5, 1, 0);
        let mut out = Vec::new();
        frame.append_to(&mut out, OPAQUE_BASE + 42, 1_764_000_000_123, 9_999, 555);
        frame.append_to(&mut out, OPAQUE_BASE + 43, 1_764_000_000_124, 10_000, 556);

        let mut input = BytesMut::from(&out[..]);
        for (opaque, born, sequence) in [(42, "1764000000123", 9_999), (43, "1764000000124", 10_000)] {
            let split = split_frame(&mut input).unwrap().unwrap();
            let command = Request::decode(&split).unwrap();
            assert_eq!((command.code, command.flag), (request::SEND_MESSAGE_V2, 0));
            assert_eq!(command.opaque, i32::try_from(OPAQUE_BASE).unwrap() + opaque);
            assert_eq!(command.ext.get("b"), Some("orders"));
            assert_eq!(command.ext.get("e"), Some("5"));
            assert_eq!(command.ext.get("g"), Some(born));
            assert_eq!(command.ext.get("m"), Some("false"));
            let key = String::from_utf8(payload.key(sequence).to_vec()).unwrap();
            assert_eq!(
                command.ext.get("i"),
                Some(format!("UNIQ_KEY\u{1}{key}\u{2}WAIT\u{1}true\u{2}").as_str())
            );
            assert!(payload.is_body_of(sequence, &split.body));
        }
        assert!(input.is_empty());
    }

    #[test]
    fn a_batch_carries_consecutive_sequences() {
        let payload = payload();
        let frame = frame(0, 3, 0);
        let mut out = Vec::new();
        frame.append_to(&mut out, OPAQUE_BASE, 1_764_000_000_123, 70, 0);
        let split = split_frame(&mut BytesMut::from(&out[..])).unwrap().unwrap();
        let command = Request::decode(&split).unwrap();
        assert_eq!((command.code, command.ext.get("m")), (request::SEND_BATCH_MESSAGE, Some("true")));
        let mut rest = &split.body[..];
        for sequence in 70..73 {
            let size = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
            let (inner, left) = rest.split_at(size);
            rest = left;
            assert!(payload.is_body_of(sequence, &inner[20..320]));
            assert_eq!(parse_key(&inner[331..363]), Some((payload.run(), sequence)));
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn a_delayed_message_names_its_level() {
        let mut out = Vec::new();
        frame(0, 1, 3).append_to(&mut out, OPAQUE_BASE, 1_764_000_000_123, 70, 0);
        let split = split_frame(&mut BytesMut::from(&out[..])).unwrap().unwrap();
        let command = Request::decode(&split).unwrap();
        assert!(command.ext.get("i").is_some_and(|properties| properties.ends_with("\u{2}DELAY\u{1}3\u{2}")));
    }

    /// The reader that `verify` uses is not the one that the frames were built with: keep it honest.
    #[test]
    fn a_request_is_not_a_record() {
        let mut out = Vec::new();
        frame(0, 1, 0).append_to(&mut out, OPAQUE_BASE, 0, 0, 0);
        assert!(MessageView::parse(&out).is_err());
    }
}
