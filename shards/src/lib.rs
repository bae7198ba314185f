//! The storage engine of one shard: a CommitLog in RocketMQ's byte layout and everything derived from it.
//!
//! A shard has two halves. The *log half* ([`log_shard::LogShard`]) lives on the shard's log core: it gives every record
//! its queue offset and physical offset, writes it with direct I/O and says when it is durable. The *serve half*
//! ([`message_store::MessageStore`]) lives on the shard's serve core: it keeps the ConsumeQueues, answers reads and feeds
//! the side thread that writes what is derived. They exchange [`append::AppendBatch`] and [`append::Committed`], nothing else.
//!
//! This crate knows no socket and no request code. What decides is plain code ([`commit_log`], [`consume_queue`],
//! [`recovery`]); everything that touches the runtime or the disk is below [`io`].

pub mod append;
mod checkpoint;
mod cold_read;
pub mod commit_log;
pub mod consume_queue;
pub mod damage;
pub mod deliberate;
mod derived_files;
pub mod dispatch;
pub mod index_file;
pub mod io;
pub mod limits;
pub mod log_failure;
pub mod log_meter;
pub mod log_shard;
pub mod manifest;
pub mod message_store;
pub mod migration;
pub mod position;
mod positions;
pub mod record;
pub mod recovery;
pub mod repair;
pub mod retention;
pub mod sealed_file;
pub mod segment;
pub mod side_writer;
pub mod store_dir;
pub mod verify;
