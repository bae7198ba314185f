//! Why a benchmark command gives no result.

use std::io;
use std::path::PathBuf;

use ringmq::client::ClientError;
use ringmq::config::ConfigError;

/// Each variant says what was being done and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("cannot connect to broker {broker} at {addr}: {source}; is it running, and reachable from here?")]
    Connect { broker: String, addr: String, source: io::Error },
    #[error("the runtime of a generator thread did not start: {0}")]
    Runtime(io::Error),
    #[error("a generator thread panicked: this is a bug of ringmq-bench")]
    ThreadPanicked,
    #[error("{option}: {problem}")]
    Option { option: &'static str, problem: String },
    #[error("topic {topic} still has no queue to {purpose} 10 s after it was created")]
    NoQueues { topic: String, purpose: &'static str },
    #[error(
        "topic {topic} was to be filled with {messages} old messages, {acknowledged} were acknowledged; {problem}"
    )]
    Fill { topic: String, messages: u64, acknowledged: u64, problem: String },
    #[error("cannot {doing} {path}: {source}", path = .path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{path} is not a file of acknowledgements: {problem}", path = .path.display())]
    Acks { path: PathBuf, problem: String },
    #[error("{path} is not a result of ringmq-bench: {problem}", path = .path.display())]
    NoResult { path: PathBuf, problem: String },
    #[error(
        "there is no workload {name}: `ringmq-bench list` names them; one of your own is a file, {name}.toml"
    )]
    NoWorkload { name: String },
    #[error(transparent)]
    Workload(#[from] ConfigError),
    #[error("peer {peer}: `{verb}` failed: {problem}")]
    Peer { peer: String, verb: &'static str, problem: String },
    #[error("client {script}: {problem}")]
    StockClient { script: String, problem: String },
    #[error("{count} runs failed or had errors, listed above")]
    RunsFailed { count: usize },
    #[error("the run had {errors} errors, listed above: its figures do not count")]
    RunHadErrors { errors: u64 },
    #[error("the topic is not as acknowledged: {0}")]
    NotAsAcknowledged(String),
}
