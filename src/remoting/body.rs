//! Bodies of requests and responses, as the JSON beans that RocketMQ's clients and tools write and read.

pub mod heartbeat;
pub mod subscription_group;
pub mod topic;
