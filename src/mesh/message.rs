//! Everything that crosses cores.

use shards::append::{AppendBatch, Committed};

use crate::broker::BrokerRegistration;
use crate::metrics::Ask;
use crate::remoting::body::topic::TopicConfig;

/// A message from one core, or from the node's main thread, to a core. A full mailbox makes the sender's queue grow, never
/// drops; nothing is answered except as noted.
#[derive(Debug)]
pub enum Message {
    /// Serve core → log core of `shard`: place and make durable. Answered by exactly one outcome per record, in order, in
    /// later [`Message::Committed`]s.
    Append { shard: u32, batch: AppendBatch },
    /// Log core → serve core of `shard`: dispatch and acknowledgement in one.
    Committed { shard: u32, committed: Committed },
    /// Serve core → core of the name server.
    Register(Box<BrokerRegistration>),
    /// Serve core → serve core of `shard`: a topic was made by a first send on another shard of the set.
    CreateTopic { shard: u32, config: Box<TopicConfig> },
    /// Thread of the metrics page → every core: how it is. Answered through the channel in it, or not at all when that is gone.
    Observe(Box<Ask>),
    /// Main thread → every core: the next step of a clean stop. The core reports to the main thread when it is done.
    Stop(StopStep),
}

/// The steps of a clean stop, in order; every core ends one before any begins the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopStep {
    /// The name server forgets our shards; requests are refused; what was accepted is answered.
    Drain,
    /// Serve halves write what is derived and close.
    CloseServe,
    /// Log halves flush and close; the core ends.
    CloseLog,
}

const _: () = assert!(size_of::<Message>() <= 80, "messages are moved by value: box what is large and rare");
