//! `ringmq send`: sends messages from the command line, each acknowledged before the next.

use std::io::{self, BufRead, IsTerminal, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::Output;
use crate::client::{Client, ClientError, OutMessage, Queue, SendReceipt, UniqueKeys};

/// The group that the command sends as.
const PRODUCER_GROUP: &str = "ringmq-cli";

/// Send messages to a topic.
///
/// Prints a line for each message when the broker has acknowledged it. A topic that is missing is created by its first message where
/// the broker allows it (as by default).
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  ringmq send hello 'first message'
  ringmq send orders '{\"id\":7}' --tag paid --key order-7 --property region=eu
  ringmq send load 'same text' --count 1000
  tail -f app.log | ringmq send logs -        one message per line")]
pub struct Args {
    /// Topic to send to
    topic: String,
    /// Text of the message; `-` (or nothing) reads standard input, one message per line
    body: Option<String>,
    /// Tag, by which consumers filter
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// Key to find the message by; may be given several times
    #[arg(long, value_name = "KEY")]
    key: Vec<String>,
    /// Further property; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_property)]
    property: Vec<(String, String)>,
    /// Send the message this many times
    #[arg(long, default_value_t = 1, value_name = "N")]
    count: u64,
    /// Name server, HOST:PORT; several joined by `;`
    #[arg(long, default_value = "127.0.0.1:9876", env = "RINGMQ_NAMESRV", value_name = "ADDR")]
    namesrv: String,
    /// How to print acknowledgements
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
}

/// Why the command ended early.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("topic {topic} has no queue that can be written to: see `ringmq topic show {topic}`")]
    NoQueue { topic: String },
    #[error("no message: say what to send, as in `ringmq send TOPIC 'some text'`, or pipe lines into it")]
    NoBody,
    #[error("reading messages from standard input: {0}")]
    Input(io::Error),
    #[error("{0}")]
    Output(io::Error),
}

/// Runs the command.
///
/// # Errors
/// The first message that is not acknowledged ends it; those printed are stored.
pub fn run(args: Args) -> Result<(), SendError> {
    let mut sender = Sender::new(&args)?;
    match args.body.as_deref().filter(|body| *body != "-") {
        Some(body) => (0..args.count).try_for_each(|_| sender.send(body.as_bytes())),
        None if args.body.is_none() && io::stdin().is_terminal() => Err(SendError::NoBody),
        None => io::stdin().lock().split(b'\n').try_for_each(|line| {
            let line = line.map_err(SendError::Input)?;
            (0..args.count).try_for_each(|_| sender.send(&line))
        }),
    }
}

/// Sends one message after the other, over the topic's queues in turn.
struct Sender<'a> {
    args: &'a Args,
    client: Client,
    queues: Vec<Queue>,
    next_queue: usize,
    keys: UniqueKeys,
    message_keys: Option<String>,
}

impl<'a> Sender<'a> {
    fn new(args: &'a Args) -> Result<Self, SendError> {
        let mut client = Client::new(&args.namesrv);
        let queues = client.publish_route(&args.topic)?.write_queues();
        if queues.is_empty() {
            return Err(SendError::NoQueue { topic: args.topic.clone() });
        }
        let keys = UniqueKeys::default();
        let next_queue = keys.first_choice(queues.len());
        let message_keys = (!args.key.is_empty()).then(|| args.key.join(" "));
        Ok(Self { args, client, queues, next_queue, keys, message_keys })
    }

    fn send(&mut self, body: &[u8]) -> Result<(), SendError> {
        let unique_key = self.keys.next_key();
        let message = OutMessage {
            unique_key: &unique_key,
            body,
            tags: self.args.tag.as_deref(),
            keys: self.message_keys.as_deref(),
            properties: &self.args.property,
        };
        let queue = &self.queues[self.next_queue];
        self.next_queue = (self.next_queue + 1) % self.queues.len();
        let receipt = self.client.send(queue, PRODUCER_GROUP, &message, now_ms())?;
        self.print(&receipt).map_err(SendError::Output)
    }

    fn print(&self, receipt: &SendReceipt) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match self.args.output {
            Output::Text => writeln!(
                out,
                "stored {} in {} queue {} at offset {}",
                receipt.unique_key, receipt.broker_name, receipt.queue_id, receipt.queue_offset
            ),
            Output::Json => {
                let line = json!({
                    "msgId": receipt.unique_key,
                    "offsetMsgId": receipt.offset_message_id,
                    "topic": self.args.topic,
                    "brokerName": receipt.broker_name,
                    "queueId": receipt.queue_id,
                    "queueOffset": receipt.queue_offset,
                    "code": receipt.code,
                });
                writeln!(out, "{line}")
            }
        }
    }
}

pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Reads `NAME=VALUE`.
fn parse_property(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=VALUE"))?;
    if name.is_empty() || value.is_empty() {
        return Err(format!("{text:?}: neither the name nor the value of a property may be empty"));
    }
    if text.contains(['\u{1}', '\u{2}']) {
        return Err(format!("{text:?}: the characters 1 and 2 separate properties and cannot be in one"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_need_a_name_and_a_value() {
        assert_eq!(parse_property("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        for text in ["a", "=b", "a=", "a=\u{1}"] {
            assert!(parse_property(text).is_err(), "{text:?}");
        }
    }
}
