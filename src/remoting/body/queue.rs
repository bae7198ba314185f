//! One queue as bodies name it, and the bodies of LOCK_BATCH_MQ and UNLOCK_BATCH_MQ.

use serde::{Deserialize, Serialize};

use crate::remoting::fastjson::null_is_default;

/// A queue of a topic on a broker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MessageQueue {
    pub broker_name: String,
    pub queue_id: i32,
    pub topic: String,
}

/// The body of both requests: the queues that a client of a group wants locked, or unlocked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LockBatchRequestBody {
    pub client_id: String,
    pub consumer_group: String,
    #[serde(deserialize_with = "null_is_default")]
    pub mq_set: Vec<MessageQueue>,
    /// Not to be passed on to the other replicas.
    pub only_this_broker: bool,
}

/// The queues that the client now holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LockBatchResponseBody {
    #[serde(rename = "lockOKMQSet", deserialize_with = "null_is_default")]
    pub locked: Vec<MessageQueue>,
}
