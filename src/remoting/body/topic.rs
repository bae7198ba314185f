//! Topics as brokers keep them, name servers hear of them and tools read them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::remoting::fastjson::null_is_default;

/// Permission bits of a topic or a broker.
pub mod perm {
    /// Topics made from this one inherit its permissions; never set on an ordinary topic.
    pub const INHERIT: i32 = 1;
    pub const WRITE: i32 = 2;
    pub const READ: i32 = 4;
}

/// One topic on one broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicConfig {
    #[serde(deserialize_with = "null_is_default")]
    pub attributes: BTreeMap<String, String>,
    pub order: bool,
    /// Bits of [`perm`].
    pub perm: i32,
    pub read_queue_nums: u32,
    /// `SINGLE_TAG` or `MULTI_TAG`; the broker only hands it on.
    pub topic_filter_type: String,
    pub topic_name: String,
    pub topic_sys_flag: i32,
    pub write_queue_nums: u32,
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self {
            attributes: BTreeMap::new(),
            order: false,
            perm: perm::READ | perm::WRITE,
            read_queue_nums: 16,
            topic_filter_type: "SINGLE_TAG".to_owned(),
            topic_name: String::new(),
            topic_sys_flag: 0,
            write_queue_nums: 16,
        }
    }
}

impl TopicConfig {
    /// A topic that may be read and written, with `queues` queues.
    pub fn new(name: &str, queues: u32) -> Self {
        Self {
            topic_name: name.to_owned(),
            read_queue_nums: queues,
            write_queue_nums: queues,
            ..Self::default()
        }
    }

    pub fn is_readable(&self) -> bool {
        self.perm & perm::READ != 0
    }

    pub fn is_writable(&self) -> bool {
        self.perm & perm::WRITE != 0
    }
}

/// The version of a table of configurations. Name servers and tools compare it to see whether anything changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DataVersion {
    pub counter: i64,
    pub state_version: i64,
    /// When it changed last, milliseconds since the epoch.
    pub timestamp: i64,
}

impl DataVersion {
    /// The version after a change at `now_ms`.
    pub fn advance(&mut self, now_ms: i64) {
        self.counter += 1;
        self.timestamp = now_ms;
    }
}

/// The answer to GET_ALL_TOPIC_LIST_FROM_NAMESERVER and other lists of topics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicList {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broker_addr: Option<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub topic_list: Vec<String>,
}
