//! What a node tells of itself while it runs: a Prometheus page, the load of each core, the time of each stage, the slowest requests.
//!
//! Cores count in plain memory of their own ([`observer::Observer`], [`traffic::Traffic`], the engine's and the runtime's meters): no
//! lock, no atomic. Who wants to know sends every core an [`Ask`] through its mailbox and gets a [`snapshot::CoreSnapshot`]
//! back. That is done by one side thread, off the cores, which serves HTTP on loopback ([`http`]). A core that does not answer in
//! time is reported as such, and nothing on a core ever waits for the side thread.

pub mod fetch;
pub mod http;
pub mod observer;
pub mod page;
pub mod slow;
pub mod snapshot;
pub mod stage;
pub mod thread_time;
pub mod traffic;

use snapshot::CoreSnapshot;

/// Where the page is found unless configured: the port of RocketMQ's own Prometheus page.
pub const DEFAULT_PORT: u16 = 5557;

/// What is wanted of a core, and where its answer goes.
#[derive(Debug)]
pub struct Ask {
    pub want: Want,
    /// Takes one snapshot without waiting.
    pub answer: flume::Sender<CoreSnapshot>,
}

/// How much is wanted of a core beside its counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Want {
    /// What has a time series by topic, group or client.
    pub series: bool,
    /// The slowest requests.
    pub slow: bool,
    /// Switches the stages on or off before it looks.
    pub set_stages: Option<bool>,
}
