//! Routes: where a topic's queues are and how to reach their brokers; and the whole cluster.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::remoting::fastjson::null_is_default;

/// The first version (4.9.4) whose clients read standard JSON for sure.
const VERSION_STANDARD_JSON: i32 = 401;

/// The queues of one topic on one broker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueueData {
    pub broker_name: String,
    /// Bits of [`super::topic::perm`].
    pub perm: i32,
    pub read_queue_nums: u32,
    pub topic_sys_flag: i32,
    pub write_queue_nums: u32,
}

/// One broker name and the addresses behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BrokerData {
    /// Broker id to `host:port`; 0 is the leader.
    #[serde(deserialize_with = "null_is_default")]
    pub broker_addrs: BTreeMap<i64, String>,
    pub broker_name: String,
    pub cluster: String,
    pub enable_acting_master: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone_name: Option<String>,
}

/// The answer to GET_ROUTEINFO_BY_TOPIC, as a client reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicRouteData {
    #[serde(deserialize_with = "null_is_default")]
    pub broker_datas: Vec<BrokerData>,
    #[serde(deserialize_with = "null_is_default")]
    pub filter_server_table: BTreeMap<String, Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_topic_conf: Option<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub queue_datas: Vec<QueueData>,
}

/// The same as a name server writes it: borrowed from its tables.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TopicRoute<'t> {
    pub broker_datas: Vec<&'t BrokerData>,
    pub filter_server_table: BTreeMap<&'t str, &'t [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_topic_conf: Option<&'t str>,
    pub queue_datas: Vec<&'t QueueData>,
}

/// Which of the two JSON forms a client of `version` wants for its route.
#[must_use]
pub fn wants_standard_json(version: i32, accept_standard_json_only: bool) -> bool {
    version >= VERSION_STANDARD_JSON || accept_standard_json_only
}

/// The answer to GET_BROKER_CLUSTER_INFO.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterInfo {
    pub broker_addr_table: BTreeMap<String, BrokerData>,
    pub cluster_addr_table: BTreeMap<String, BTreeSet<String>>,
}

/// The answer to GET_BROKER_MEMBER_GROUP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BrokerMemberGroup {
    pub broker_addrs: BTreeMap<i64, String>,
    pub broker_name: String,
    pub cluster: String,
}
