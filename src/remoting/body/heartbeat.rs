//! The body of HEART_BEAT and what it says about groups.

use serde::{Deserialize, Serialize};

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
    #[serde(deserialize_with = "null_is_default")]
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
    /// Whether this is a filter by tags, which is the default when nothing is said.
    pub fn is_by_tags(&self) -> bool {
        self.expression_type.is_empty() || self.expression_type == "TAG"
    }
}
