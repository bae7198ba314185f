//! Tables of figures: KVTable, TopicStatsTable, ConsumeStats. The latter two have queues for keys, without quotes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::queue::MessageQueue;
use crate::remoting::fastjson::{ObjectKeyed, null_is_default};

/// Names with values: the answers to GET_BROKER_RUNTIME_INFO and GET_KVLIST_BY_NAMESPACE.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KVTable {
    #[serde(deserialize_with = "null_is_default")]
    pub table: BTreeMap<String, String>,
}

/// What one queue holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicOffset {
    /// Store time of the last message, milliseconds since the epoch; 0 when there is none.
    pub last_update_timestamp: i64,
    pub max_offset: i64,
    pub min_offset: i64,
}

/// The answer to GET_TOPIC_STATS_INFO.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicStatsTable {
    pub offset_table: ObjectKeyed<MessageQueue, TopicOffset>,
    pub topic_put_tps: f64,
}

impl TopicStatsTable {
    /// The body as Java reads it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(&self.offset_table, "topicPutTps", self.topic_put_tps)
    }
}

/// How far a group is with one queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OffsetWrapper {
    pub broker_offset: i64,
    pub consumer_offset: i64,
    /// Store time of the last consumed message, milliseconds since the epoch.
    pub last_timestamp: i64,
    pub pull_offset: i64,
}

/// The answer to GET_CONSUME_STATS.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumeStats {
    pub consume_tps: f64,
    pub offset_table: ObjectKeyed<MessageQueue, OffsetWrapper>,
}

impl ConsumeStats {
    /// The body as Java reads it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(&self.offset_table, "consumeTps", self.consume_tps)
    }
}

fn encode<V: Serialize>(table: &ObjectKeyed<MessageQueue, V>, rate_name: &str, rate: f64) -> Vec<u8> {
    let mut out = b"{\"offsetTable\":".to_vec();
    table.write_into(&mut out);
    // JSON has no NaN; a rate that is none is no rate.
    let rate = if rate.is_finite() { rate } else { 0.0 };
    out.extend_from_slice(format!(",\"{rate_name}\":{rate:?}}}").as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remoting::fastjson;

    #[test]
    fn queues_are_keys_without_quotes() {
        let queue = MessageQueue { broker_name: "b0".to_owned(), queue_id: 1, topic: "T".to_owned() };
        let offset = TopicOffset { last_update_timestamp: 0, max_offset: 9, min_offset: 0 };
        let table = TopicStatsTable { offset_table: ObjectKeyed(vec![(queue, offset)]), topic_put_tps: 0.5 };
        let text = String::from_utf8(table.encode()).unwrap();
        let expected = concat!(
            r#"{"offsetTable":{{"brokerName":"b0","queueId":1,"topic":"T"}:"#,
            r#"{"lastUpdateTimestamp":0,"maxOffset":9,"minOffset":0}},"topicPutTps":0.5}"#
        );
        assert_eq!(text, expected);
        assert_eq!(fastjson::read::<TopicStatsTable>("TopicStatsTable", text.as_bytes()).unwrap(), table);
    }
}
