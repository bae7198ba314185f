//! The remoting protocol of RocketMQ: frames, headers, bodies and codes. Pure: bytes in, values out; imports nothing of ours
//! but limits.

pub mod body;
pub mod code;
pub mod frame;
pub mod request;
pub mod response;
