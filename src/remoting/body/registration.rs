//! The body of REGISTER_BROKER, in both its forms.
//!
//! ```text
//! plain:      JSON of RegisterBrokerBody
//! compressed: one zlib stream of
//!             | n i32 | DataVersion JSON | count i32 | { n i32 | topic as text }* | n i32 | filter servers JSON | …
//! a topic:    name SP readQueues SP writeQueues SP perm SP filterType SP [attributes JSON]
//! ```

use std::collections::BTreeMap;
use std::io::Read;

use flate2::bufread::ZlibDecoder;
use serde::{Deserialize, Serialize};
use shards::limits::{REGISTRATION_BYTES_MAX, TOPICS_PER_REGISTRATION_MAX};

use super::topic::{DataVersion, TopicConfig};
use crate::remoting::fastjson::{self, null_is_default};
use crate::remoting::request::HeaderError;

const WHAT: &str = "RegisterBrokerBody";
const TOO_MANY_TOPICS: &str = "it has more topics than one broker may register";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RegisterBrokerBody {
    #[serde(deserialize_with = "null_is_default")]
    pub filter_server_list: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub topic_config_serialize_wrapper: TopicConfigTable,
}

/// All topics of a broker and their version; also the body of GET_ALL_TOPIC_CONFIG and the file `topics.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicConfigTable {
    #[serde(deserialize_with = "null_is_default")]
    pub data_version: DataVersion,
    #[serde(deserialize_with = "null_is_default")]
    pub topic_config_table: BTreeMap<String, TopicConfig>,
}

impl RegisterBrokerBody {
    /// Reads the body; `compressed` as its header says. A peer without topics sends no body at all.
    ///
    /// # Errors
    /// The body is not of its form, inflates to more than `REGISTRATION_BYTES_MAX`, or has more topics than
    /// `TOPICS_PER_REGISTRATION_MAX`.
    pub fn decode(body: &[u8], compressed: bool) -> Result<Self, HeaderError> {
        if body.is_empty() {
            Ok(Self::default())
        } else if compressed {
            Self::inflate(body)
        } else {
            // Every topic takes at least one brace; its attributes, the wrapper and its versions take the others.
            let braces = body.iter().filter(|&&byte| byte == b'{').count();
            if braces > 2 * TOPICS_PER_REGISTRATION_MAX + 64 {
                return Err(failed(body, TOO_MANY_TOPICS));
            }
            fastjson::read(WHAT, body)
        }
    }

    /// The plain form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        fastjson::write(self)
    }

    fn inflate(body: &[u8]) -> Result<Self, HeaderError> {
        let mut input = Parts { stream: ZlibDecoder::new(body).take(REGISTRATION_BYTES_MAX), body };
        let data_version = fastjson::read("DataVersion", &input.part()?)?;
        let mut topic_config_table = BTreeMap::new();
        for _ in 0..input.number()? {
            if topic_config_table.len() == TOPICS_PER_REGISTRATION_MAX {
                return Err(failed(body, TOO_MANY_TOPICS));
            }
            let text = input.part()?;
            let config = topic_of_text(&String::from_utf8_lossy(&text))
                .ok_or_else(|| input.failed("a topic is not of the form `name read write perm filter`"))?;
            topic_config_table.insert(config.topic_name.clone(), config);
        }
        let filter_server_list = fastjson::read("list of filter servers", &input.part()?)?;
        // What may follow belongs to static topics, which routes of ours do not have.
        Ok(Self {
            filter_server_list,
            topic_config_serialize_wrapper: TopicConfigTable { data_version, topic_config_table },
        })
    }
}

/// The length-prefixed parts of the compressed form.
struct Parts<'b> {
    stream: std::io::Take<ZlibDecoder<&'b [u8]>>,
    body: &'b [u8],
}

impl Parts<'_> {
    fn number(&mut self) -> Result<i32, HeaderError> {
        let mut bytes = [0; 4];
        self.stream.read_exact(&mut bytes).map_err(|error| self.failed(&error.to_string()))?;
        Ok(i32::from_be_bytes(bytes))
    }

    /// The next part; memory grows with what the stream yields, not with the length it claims.
    fn part(&mut self) -> Result<Vec<u8>, HeaderError> {
        let length = self.number()?;
        let wanted = u64::try_from(length).map_err(|_| self.failed("a part has a negative length"))?;
        let mut part = Vec::new();
        let read = (&mut self.stream).take(wanted).read_to_end(&mut part);
        read.map_err(|error| self.failed(&error.to_string()))?;
        if part.len() as u64 == wanted {
            Ok(part)
        } else {
            Err(self.failed("it ends early or inflates beyond the limit"))
        }
    }

    fn failed(&self, reason: &str) -> HeaderError {
        failed(self.body, reason)
    }
}

fn failed(body: &[u8], reason: &str) -> HeaderError {
    HeaderError::Body { what: WHAT, bytes: body.len(), reason: reason.to_owned() }
}

fn topic_of_text(text: &str) -> Option<TopicConfig> {
    let mut words = text.splitn(6, ' ');
    let topic_name = words.next()?.to_owned();
    let read_queue_nums = words.next()?.parse().ok()?;
    let write_queue_nums = words.next()?.parse().ok()?;
    let perm = words.next()?.parse().ok()?;
    let topic_filter_type = words.next()?.to_owned();
    // As in Java, attributes that cannot be read do not spoil the topic.
    let attributes = words.next().and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
    let defaults = TopicConfig::default();
    Some(TopicConfig {
        topic_name,
        read_queue_nums,
        write_queue_nums,
        perm,
        topic_filter_type,
        attributes,
        ..defaults
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn compressed(parts: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(parts).unwrap();
        encoder.finish().unwrap()
    }

    fn part(text: &str) -> Vec<u8> {
        let mut bytes = u32::try_from(text.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend_from_slice(text.as_bytes());
        bytes
    }

    #[test]
    fn both_forms_say_the_same() {
        let plain = br#"{"filterServerList":[],"topicConfigSerializeWrapper":{"dataVersion":{"counter":3,"stateVersion":0,
            "timestamp":5},"mappingDataVersion":{},"topicConfigTable":{"T":{"attributes":{"+a":"b c"},"order":false,
            "perm":6,"readQueueNums":4,"topicFilterType":"SINGLE_TAG","topicName":"T","topicSysFlag":0,"writeQueueNums":8}}}}"#;
        let mut parts = part(r#"{"counter":3,"stateVersion":0,"timestamp":5}"#);
        parts.extend_from_slice(&[0, 0, 0, 1]);
        parts.append(&mut part(r#"T 4 8 6 SINGLE_TAG {"+a":"b c"}"#));
        parts.append(&mut part("[]"));
        parts.extend_from_slice(&[0, 0, 0, 0]);
        let of_plain = RegisterBrokerBody::decode(plain, false).unwrap();
        let of_parts = RegisterBrokerBody::decode(&compressed(&parts), true).unwrap();
        assert_eq!(of_plain, of_parts);
        let topic = &of_plain.topic_config_serialize_wrapper.topic_config_table["T"];
        assert_eq!((topic.read_queue_nums, topic.write_queue_nums), (4, 8));
        assert_eq!(RegisterBrokerBody::decode(&of_plain.encode(), false).unwrap(), of_plain);
    }

    #[test]
    fn refuses_truncations_and_lying_lengths() {
        let mut parts = part("{}");
        parts.extend_from_slice(&[0, 0, 0, 0]);
        parts.append(&mut part("[]"));
        assert!(RegisterBrokerBody::decode(&compressed(&parts), true).is_ok());
        for length in 0..parts.len() {
            assert!(RegisterBrokerBody::decode(&compressed(&parts[..length]), true).is_err(), "{length}");
        }
        for lie in [i32::MAX, -1] {
            let mut parts = lie.to_be_bytes().to_vec();
            parts.extend_from_slice(b"{}");
            assert!(RegisterBrokerBody::decode(&compressed(&parts), true).is_err(), "{lie}");
        }
        assert!(RegisterBrokerBody::decode(b"not zlib", true).is_err());
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let limit = usize::try_from(REGISTRATION_BYTES_MAX).unwrap();
        let mut parts = i32::MAX.to_be_bytes().to_vec();
        parts.resize(limit + 1024, b' ');
        let body = compressed(&parts);
        assert!(body.len() < 1 << 20);
        assert!(RegisterBrokerBody::decode(&body, true).unwrap_err().to_string().contains("limit"));
    }
}
