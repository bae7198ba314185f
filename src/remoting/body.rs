//! Bodies of requests and responses, as the JSON beans that RocketMQ's clients and tools write and read.

pub mod group;
pub mod heartbeat;
pub mod queue;
pub mod registration;
pub mod route;
pub mod stats;
pub mod subscription_group;
pub mod topic;
