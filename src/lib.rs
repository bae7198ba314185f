//! RingMQ: a durable, thread-per-core message broker that unmodified Apache RocketMQ clients talk to.
//!
//! `docs/ARCHITECTURE.md` tells the life of a send and of a pull, file by file.

pub mod broker;
pub mod cli;
pub mod client;
pub mod config;
pub mod filter;
pub mod mesh;
pub mod metrics;
pub mod namesrv;
pub mod node;
pub mod processor;
pub mod remoting;
pub mod transport;
