//! `ringmq receive`: prints the messages of a topic, from all its queues, and commits what it has printed.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::Duration;

use clap::ValueEnum;
use serde_json::{Map, Value, json};

use super::Output;
use crate::client::{Client, ClientError, MessageView, Pull, Pulled, Queue};
use crate::remoting::code::response;

/// Messages asked for in one pull.
const PULL_MESSAGES: u32 = 32;
/// How long a broker may hold a pull of a queue that has nothing new.
const HOLD: Duration = Duration::from_secs(15);
/// Pull answers that may wait to be printed.
const WAITING_ANSWERS_MAX: usize = 8;

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum From {
    /// With the oldest message there is
    First,
    /// With what comes from now on
    Last,
    /// Where the group left off; with the oldest when it never committed
    Committed,
}

/// Print the messages of a topic.
///
/// Reads all queues, prints each message and commits the group's offsets, so that the next call goes on where this one ended. Ends
/// when everything there was is printed, unless told to follow. It does not share queues with other members of the group.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  ringmq receive hello                        all messages, then those that are new since the last call
  ringmq receive hello --from first           all messages, again
  ringmq receive hello --follow               go on with what comes (end with Ctrl-C)
  ringmq receive hello --count 1 -o json | jq .body")]
pub struct Args {
    /// Topic to read
    topic: String,
    /// Consumer group whose offsets are used and committed
    #[arg(long, default_value = "ringmq-cli", value_name = "GROUP")]
    group: String,
    /// Where to begin
    #[arg(long, value_enum, default_value = "committed")]
    from: From,
    /// End after this many messages
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Wait for further messages
    #[arg(long, short)]
    follow: bool,
    /// Only messages with these tags, as in `paid || shipped`
    #[arg(long, default_value = "*", value_name = "TAGS")]
    tags: String,
    /// Name server, HOST:PORT; several joined by `;`
    #[arg(long, default_value = "127.0.0.1:9876", env = "RINGMQ_NAMESRV", value_name = "ADDR")]
    namesrv: String,
    /// How to print messages; json is one object per line
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
}

/// Why the command ended early.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(
        "there is no topic {topic}: it comes with its first message (`ringmq send {topic} …`) or `ringmq topic create {topic}`"
    )]
    NoTopic { topic: String },
    #[error("topic {topic} has no queue that can be read: see `ringmq topic show {topic}`")]
    NoQueue { topic: String },
    #[error("{0}")]
    Output(io::Error),
}

/// One queue and how far it has been read.
struct Position {
    queue: Queue,
    offset: u64,
    /// What was there at the start ends here.
    end: u64,
}

/// Runs the command.
///
/// # Errors
/// A broker cannot be reached or refuses; what was printed is committed.
pub fn run(args: Args) -> Result<(), ReceiveError> {
    let mut client = Client::new(&args.namesrv);
    let route =
        client.route(&args.topic)?.ok_or_else(|| ReceiveError::NoTopic { topic: args.topic.clone() })?;
    let queues = route.read_queues();
    if queues.is_empty() {
        return Err(ReceiveError::NoQueue { topic: args.topic.clone() });
    }
    let mut positions = Vec::with_capacity(queues.len());
    for queue in queues {
        positions.push(starting_position(&mut client, queue, &args)?);
    }
    let mut printer = Printer { args: &args, left: args.count.unwrap_or(u64::MAX) };
    let result = if args.follow {
        follow(&mut client, positions, &mut printer)
    } else {
        read_to_the_end(&mut client, positions, &mut printer)
    };
    match result {
        // Whoever read the output has seen enough, as `head` does.
        Err(ReceiveError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

fn starting_position(client: &mut Client, queue: Queue, args: &Args) -> Result<Position, ReceiveError> {
    let end = client.max_offset(&queue)?;
    let first = client.min_offset(&queue)?;
    let offset = match args.from {
        From::First => first,
        From::Last => end,
        From::Committed => client.committed_offset(&queue, &args.group)?.unwrap_or(first).max(first),
    };
    Ok(Position { queue, offset, end })
}

/// Reads each queue to where it ended at the start.
fn read_to_the_end(
    client: &mut Client,
    positions: Vec<Position>,
    printer: &mut Printer<'_>,
) -> Result<(), ReceiveError> {
    for mut position in positions {
        while position.offset < position.end && printer.left > 0 {
            let pulled = pull(client, &position, printer.args, None)?;
            let before = position.offset;
            printer.print(&pulled, &mut position)?;
            client.commit_offset(&position.queue, &printer.args.group, position.offset)?;
            if position.offset <= before {
                break;
            }
        }
    }
    Ok(())
}

/// Reads all queues at once, each in a thread that waits at the broker, until enough has been printed.
fn follow(
    client: &mut Client,
    positions: Vec<Position>,
    printer: &mut Printer<'_>,
) -> Result<(), ReceiveError> {
    let (answers, arrived) = mpsc::sync_channel(WAITING_ANSWERS_MAX);
    for (index, position) in positions.iter().enumerate() {
        let reader = Position { queue: position.queue.clone(), ..*position };
        let (args, answers) = (printer.args.clone(), answers.clone());
        // These threads end with the process: each may be waiting at its broker.
        std::thread::spawn(move || wait_for_messages(index, reader, &args, &answers));
    }
    drop(answers);
    print_arriving(client, positions, printer, &arrived)
}

fn print_arriving(
    client: &mut Client,
    mut positions: Vec<Position>,
    printer: &mut Printer<'_>,
    arrived: &Receiver<(usize, Result<Pulled, ClientError>)>,
) -> Result<(), ReceiveError> {
    while printer.left > 0 {
        let Ok((index, pulled)) = arrived.recv() else { return Ok(()) };
        let position = &mut positions[index];
        printer.print(&pulled?, position)?;
        client.commit_offset(&position.queue, &printer.args.group, position.offset)?;
    }
    Ok(())
}

/// Pulls one queue for ever; ends with the first error, which it hands on, or when nobody listens any more.
fn wait_for_messages(
    index: usize,
    mut position: Position,
    args: &Args,
    answers: &SyncSender<(usize, Result<Pulled, ClientError>)>,
) {
    let mut client = Client::new(&args.namesrv);
    loop {
        let pulled = pull(&mut client, &position, args, Some(HOLD));
        if let Ok(pulled) = &pulled {
            position.offset = pulled.next_offset;
            if pulled.code == response::PULL_NOT_FOUND {
                continue;
            }
        }
        let failed = pulled.is_err();
        if answers.send((index, pulled)).is_err() || failed {
            return;
        }
    }
}

fn pull(
    client: &mut Client,
    position: &Position,
    args: &Args,
    hold: Option<Duration>,
) -> Result<Pulled, ClientError> {
    let pull = Pull {
        group: &args.group,
        offset: position.offset,
        messages_max: PULL_MESSAGES,
        subscription: &args.tags,
        hold,
    };
    client.pull(&position.queue, &pull)
}

/// Prints messages until enough have been.
struct Printer<'a> {
    args: &'a Args,
    left: u64,
}

impl Printer<'_> {
    /// Prints what a pull brought, as far as it is wanted, and moves the position behind it.
    fn print(&mut self, pulled: &Pulled, position: &mut Position) -> Result<(), ReceiveError> {
        let mut out = io::stdout().lock();
        for message in pulled.messages() {
            let message = message?;
            if self.left == 0 {
                return Ok(());
            }
            position.offset = message.queue_offset + 1;
            if !self.is_wanted(&message) {
                continue;
            }
            let line = match self.args.output {
                Output::Text => text_line(&position.queue, &message),
                Output::Json => json_line(&position.queue, &message).to_string(),
            };
            writeln!(out, "{line}").and_then(|()| out.flush()).map_err(ReceiveError::Output)?;
            self.left -= 1;
        }
        position.offset = position.offset.max(pulled.next_offset);
        Ok(())
    }

    /// Brokers filter tags by their hashes; whoever reads has to look at the tag itself.
    fn is_wanted(&self, message: &MessageView<'_>) -> bool {
        let tags = self.args.tags.trim();
        let tag = message.property("TAGS").unwrap_or_default();
        tags == "*" || tags.split("||").any(|wanted| wanted.trim().as_bytes() == tag)
    }
}

/// One message for people: where it is, its tag and keys, its text.
fn text_line(queue: &Queue, message: &MessageView<'_>) -> String {
    let mut line = format!("{} queue {} offset {}", queue.broker_name, queue.queue_id, message.queue_offset);
    for (title, name) in [("tag", "TAGS"), ("keys", "KEYS")] {
        if let Some(value) = message.property(name) {
            // Writing to a string cannot fail.
            let _ = write!(line, " {title} {}", String::from_utf8_lossy(value));
        }
    }
    let body = match std::str::from_utf8(message.body) {
        _ if message.is_compressed() => format!("({} bytes, compressed by its producer)", message.body.len()),
        Ok(text) => text.to_owned(),
        Err(_) => format!("({} bytes that are not text)", message.body.len()),
    };
    line + ": " + &body
}

/// One message for scripts. The body is text, or hexadecimal when it is not text.
fn json_line(queue: &Queue, message: &MessageView<'_>) -> Value {
    let properties: Map<String, Value> =
        message.properties().map(|(name, value)| (name, Value::String(value))).collect();
    let mut line = json!({
        "topic": message.topic,
        "brokerName": queue.broker_name,
        "queueId": message.queue_id,
        "queueOffset": message.queue_offset,
        "commitLogOffset": message.physical_offset,
        "msgId": properties.get("UNIQ_KEY"),
        "tags": properties.get("TAGS"),
        "keys": properties.get("KEYS"),
        "bornTimestamp": message.born_timestamp_ms,
        "storeTimestamp": message.store_timestamp_ms,
        "reconsumeTimes": message.reconsume_times,
        "flag": message.flag,
        "sysFlag": message.sys_flag,
        "properties": properties,
    });
    match std::str::from_utf8(message.body) {
        Ok(text) if !message.is_compressed() => line["body"] = text.into(),
        _ => line["bodyHex"] = hex(message.body).into(),
    }
    line
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        // Writing to a string cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}
