//! The body of HEART_BEAT and what it says about groups.

use serde::{Deserialize, Deserializer, Serialize};

use crate::remoting::fastjson::null_is_default;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HeartbeatData {
    #[serde(rename = "clientID")]
    pub client_id: String,
    #[serde(rename = "producerDataSet", deserialize_with = "null_is_default")]
    pub producers: Vec<ProducerData>,
    #[serde(rename = "consumerDataSet", deserialize_with = "null_is_default")]
    pub consumers: Vec<ConsumerData>,
    /// Not 0: a heartbeat of the second version, which may leave the subscriptions out.
    #[serde(rename = "heartbeatFingerprint")]
    pub fingerprint: i32,
    #[serde(rename = "withoutSub", alias = "isWithoutSub")]
    pub without_sub: bool,
}

/// The body of CHECK_CLIENT_CONFIG.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CheckClientRequestBody {
    #[serde(deserialize_with = "null_is_default")]
    pub client_id: String,
    #[serde(deserialize_with = "null_is_default")]
    pub group: String,
    pub subscription_data: Option<SubscriptionData>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProducerData {
    pub group_name: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConsumeType {
    #[default]
    #[serde(rename = "CONSUME_PASSIVELY")]
    Passively,
    #[serde(rename = "CONSUME_ACTIVELY")]
    Actively,
    #[serde(rename = "CONSUME_POP")]
    Pop,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MessageModel {
    #[default]
    #[serde(rename = "CLUSTERING")]
    Clustering,
    #[serde(rename = "BROADCASTING")]
    Broadcasting,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumerData {
    pub group_name: String,
    pub consume_type: ConsumeType,
    pub message_model: MessageModel,
    /// Kept as the client named it: brokers only hand it on.
    #[serde(deserialize_with = "null_is_default")]
    pub consume_from_where: String,
    #[serde(deserialize_with = "null_is_default")]
    pub subscription_data_set: Vec<SubscriptionData>,
    pub unit_mode: bool,
}

/// What a group wants of one topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubscriptionData {
    pub class_filter_mode: bool,
    /// Java's hash of every tag in `tags_set`; empty with the expression `*`.
    #[serde(deserialize_with = "numbers_or_texts")]
    pub code_set: Vec<i32>,
    /// `TAG` or `SQL92`.
    #[serde(deserialize_with = "null_is_default")]
    pub expression_type: String,
    #[serde(deserialize_with = "null_is_default")]
    pub sub_string: String,
    /// Milliseconds since the epoch; grows with every change.
    pub sub_version: i64,
    #[serde(deserialize_with = "null_is_default")]
    pub tags_set: Vec<String>,
    pub topic: String,
}

impl Default for SubscriptionData {
    fn default() -> Self {
        Self {
            class_filter_mode: false,
            code_set: Vec::new(),
            expression_type: "TAG".to_owned(),
            sub_string: String::new(),
            sub_version: 0,
            tags_set: Vec::new(),
            topic: String::new(),
        }
    }
}

impl SubscriptionData {
    /// The kind of filters by an expression over properties.
    pub const SQL92: &'static str = "SQL92";

    /// Whether this is a filter by tags.
    pub fn is_by_tags(&self) -> bool {
        Self::are_tags(&self.expression_type)
    }

    /// Whether an expression of this kind is made of tags, which is the default when nothing is said.
    pub fn are_tags(expression_type: &str) -> bool {
        expression_type.is_empty() || expression_type == "TAG"
    }
}

/// The Go client writes hashes as strings, which fastjson takes for the numbers that they are.
fn numbers_or_texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<i32>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Code {
        Number(i32),
        Text(String),
    }
    let codes: Option<Vec<Code>> = Option::deserialize(deserializer)?;
    let number = |code| match code {
        Code::Number(number) => Ok(number),
        Code::Text(text) => text.trim().parse().map_err(serde::de::Error::custom),
    };
    codes.unwrap_or_default().into_iter().map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remoting::fastjson;

    /// Heartbeats of the Go client, version 2, with the tags of a subscription: hashes are strings.
    #[test]
    fn hashes_may_be_strings() {
        let body = br#"{"clientID":"10.0.0.1@7","producerDataSet":[],"consumerDataSet":[{"groupName":"g","consumeType":
            "CONSUME_PASSIVELY","messageModel":"CLUSTERING","consumeFromWhere":"CONSUME_FROM_LAST_OFFSET",
            "subscriptionDataSet":[{"ClassFilterMode":false,"topic":"T","subString":"a || b","tagsSet":["a","b"],
            "codeSet":["97","-98"],"subVersion":1700000000000000000,"expressionType":"TAG"}],"unitMode":false}]}"#;
        let data: HeartbeatData = fastjson::read("HeartbeatData", body).unwrap();
        let subscription = &data.consumers[0].subscription_data_set[0];
        assert_eq!(subscription.code_set, [97, -98]);
        assert_eq!(subscription.tags_set, ["a", "b"]);
        assert_eq!(data.consumers[0].consume_type, ConsumeType::Passively);
    }

    #[test]
    fn hashes_may_be_numbers_or_missing() {
        let read =
            |text: &[u8]| fastjson::read::<SubscriptionData>("SubscriptionData", text).map(|s| s.code_set);
        assert_eq!(read(br#"{"codeSet":[1,-2]}"#).unwrap(), [1, -2]);
        assert!(read(br#"{"codeSet":null}"#).unwrap().is_empty());
        assert!(read(br#"{"topic":"T"}"#).unwrap().is_empty());
        assert!(read(br#"{"codeSet":["x"]}"#).is_err());
    }
}
