//! `ringmq topic`: creates, lists, shows and deletes topics, on every broker of the cluster.

use std::io::{self, Write};

use serde_json::json;

use super::Output;
use crate::client::{Client, ClientError, TopicSpec};

/// Queues that a new topic gets on each broker unless told otherwise.
const QUEUES: u32 = 8;
/// Topics that brokers keep for themselves begin like this, or are one of [`SYSTEM_TOPICS`].
const SYSTEM_PREFIXES: [&str; 4] = ["%RETRY%", "%DLQ%", "rmq_sys_", "RMQ_SYS_"];
const SYSTEM_TOPICS: [&str; 6] = [
    "TBW102",
    "SELF_TEST_TOPIC",
    "OFFSET_MOVED_EVENT",
    "SCHEDULE_TOPIC_XXXX",
    "BenchmarkTest",
    "TRANS_CHECK_MAX_TIME_TOPIC",
];

/// Create, list, show and delete topics.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  ringmq topic create orders --queues 16
  ringmq topic list
  ringmq topic show orders -o json")]
pub struct Args {
    #[command(subcommand)]
    command: TopicCommand,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum TopicCommand {
    /// Create a topic on every broker, or change its number of queues
    Create {
        /// Name: letters, digits, `-`, `_`, `%`, `|`; at most 127 characters
        name: String,
        /// Queues on each broker
        #[arg(long, default_value_t = QUEUES, value_name = "N")]
        queues: u32,
        #[command(flatten)]
        common: Common,
    },
    /// List the topics
    List {
        /// Also those that brokers keep for themselves, for retries and for dead letters
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Show a topic's queues and the messages in each
    Show {
        name: String,
        #[command(flatten)]
        common: Common,
    },
    /// Delete a topic with its messages, on every broker and name server
    Delete {
        name: String,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Clone, Debug, clap::Args)]
struct Common {
    /// Name server, HOST:PORT; several joined by `;`
    #[arg(long, default_value = "127.0.0.1:9876", env = "RINGMQ_NAMESRV", value_name = "ADDR")]
    namesrv: String,
    /// How to print
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("there is no topic {name}: `ringmq topic list` names those there are")]
    NoTopic { name: String },
    #[error("{0}")]
    Output(io::Error),
}

/// Runs the command.
///
/// # Errors
/// There is no such topic, or a broker or name server cannot be reached or refuses.
pub fn run(args: Args) -> Result<(), TopicError> {
    match args.command {
        TopicCommand::Create { name, queues, common } => create(&name, queues, &common),
        TopicCommand::List { all, common } => list(all, &common),
        TopicCommand::Show { name, common } => show(&name, &common),
        TopicCommand::Delete { name, common } => delete(&name, &common),
    }
}

fn create(name: &str, queues: u32, common: &Common) -> Result<(), TopicError> {
    let brokers = Client::new(&common.namesrv).create_topic(TopicSpec { name, queues })?;
    print(match common.output {
        Output::Text => format!("topic {name} has {queues} queues on each of: {}", brokers.join(", ")),
        Output::Json => json!({ "topic": name, "queues": queues, "brokers": brokers }).to_string(),
    })
}

fn list(all: bool, common: &Common) -> Result<(), TopicError> {
    let mut client = Client::new(&common.namesrv);
    let mut topics = client.topics()?;
    if !all {
        let cluster = client.cluster()?;
        let own_names = |topic: &str| {
            cluster.broker_addr_table.contains_key(topic)
                || cluster.broker_addr_table.values().any(|broker| {
                    topic == broker.cluster || topic.strip_suffix("_REPLY_TOPIC") == Some(&broker.cluster)
                })
        };
        topics.retain(|topic| !is_system_topic(topic) && !own_names(topic));
    }
    match common.output {
        Output::Text if topics.is_empty() => {
            eprintln!("no topics yet: `ringmq topic create NAME`, or send a message to one");
            Ok(())
        }
        Output::Text => print(topics.join("\n")),
        Output::Json => print(json!({ "topics": topics }).to_string()),
    }
}

fn is_system_topic(topic: &str) -> bool {
    SYSTEM_TOPICS.contains(&topic) || SYSTEM_PREFIXES.iter().any(|prefix| topic.starts_with(prefix))
}

fn show(name: &str, common: &Common) -> Result<(), TopicError> {
    let mut client = Client::new(&common.namesrv);
    let route = client.route(name)?.ok_or_else(|| TopicError::NoTopic { name: name.to_owned() })?;
    let mut queues = Vec::new();
    for queue in route.read_queues() {
        let (min, max) = (client.min_offset(&queue)?, client.max_offset(&queue)?);
        queues.push((queue, min, max));
    }
    match common.output {
        Output::Text => {
            let stored: u64 = queues.iter().map(|(_, min, max)| max.saturating_sub(*min)).sum();
            print(format!("topic {name}: {} queues, {stored} messages", queues.len()))?;
            for (queue, min, max) in queues {
                print(format!(
                    "  {} ({}) queue {}: offsets {min} to {max}",
                    queue.broker_name, queue.addr, queue.queue_id
                ))?;
            }
            Ok(())
        }
        Output::Json => {
            let queues: Vec<_> = queues
                .iter()
                .map(|(queue, min, max)| {
                    json!({
                        "brokerName": queue.broker_name, "addr": queue.addr, "queueId": queue.queue_id,
                        "minOffset": min, "maxOffset": max,
                    })
                })
                .collect();
            print(json!({ "topic": name, "brokers": route.queues, "queues": queues }).to_string())
        }
    }
}

fn delete(name: &str, common: &Common) -> Result<(), TopicError> {
    if !Client::new(&common.namesrv).delete_topic(name)? {
        return Err(TopicError::NoTopic { name: name.to_owned() });
    }
    print(match common.output {
        Output::Text => format!("topic {name} is deleted"),
        Output::Json => json!({ "topic": name, "deleted": true }).to_string(),
    })
}

fn print(line: impl AsRef<str>) -> Result<(), TopicError> {
    writeln!(io::stdout().lock(), "{}", line.as_ref()).map_err(TopicError::Output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_of_the_brokers_own_are_told_apart() {
        for topic in [
            "%RETRY%g",
            "%DLQ%g",
            "TBW102",
            "SCHEDULE_TOPIC_XXXX",
            "rmq_sys_wheel_timer",
            "RMQ_SYS_TRACE_TOPIC",
        ] {
            assert!(is_system_topic(topic), "{topic}");
        }
        assert!(!is_system_topic("orders"));
    }
}
