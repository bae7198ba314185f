//! `ringmq-bench verify`: reads a topic back from its start and compares it with what was acknowledged.
//!
//! What must hold: queue offsets are dense; every acknowledged message is at the offset that its acknowledgement named, with its
//! key and its whole body; no key is there twice (the generator never sends a message again). Messages that were sent and not
//! acknowledged may be there or not when that is allowed, as after a kill.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use ringmq::client::{Client, MessageView, Pull, Queue};
use ringmq::remoting::code::response;

use crate::acks::{Ack, AcksHead, read_acks};
use crate::error::BenchError;
use crate::payload::{Payload, RunId, parse_key};
use crate::report::{grouped, print};

/// Problems that are printed one by one; the rest are only counted.
const SHOWN_PROBLEMS: usize = 20;

/// Read a topic back and compare it with recorded acknowledgements.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  ringmq-bench produce --topic million --messages 1000000 --record-acks acks
  ringmq-bench verify --acks acks
  After a kill -9, with the files of all rounds so far:
    ringmq-bench verify --acks round1 --acks round2 --allow-unacknowledged

Exit status: 0 when the topic is exactly as acknowledged, 1 otherwise.")]
pub struct VerifyArgs {
    /// Name server, HOST:PORT; several joined by `;`
    #[arg(long, short, default_value = "127.0.0.1:9876", env = "RINGMQ_NAMESRV", value_name = "ADDR")]
    pub namesrv: String,
    /// Files that `produce --record-acks` wrote; all of one topic
    #[arg(long, required = true, value_name = "FILE")]
    pub acks: Vec<PathBuf>,
    /// Messages of these runs may be there though no acknowledgement came (after a kill)
    #[arg(long)]
    pub allow_unacknowledged: bool,
    /// Messages that no run of these files sent may be there
    #[arg(long)]
    pub allow_foreign: bool,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    pub read: u64,
    pub acknowledged: u64,
    pub unacknowledged: u64,
    pub foreign: u64,
    pub problems: u64,
    first_problems: Vec<String>,
}

impl Findings {
    fn summary(&self, topic: &str, queues: usize) -> String {
        let mut out = format!(
            "{topic}: {} messages read from {queues} queues: {} acknowledged, {} sent without acknowledgement, {} foreign; {} problems\n",
            grouped(self.read),
            grouped(self.acknowledged),
            grouped(self.unacknowledged),
            grouped(self.foreign),
            grouped(self.problems),
        );
        for problem in &self.first_problems {
            out += &format!("  {problem}\n");
        }
        if self.problems == 0 {
            out += "  every acknowledged message is in its place, none twice, queue offsets dense\n";
        }
        out
    }
}

/// The acknowledgements of all files, and what has been seen of them.
#[derive(Debug, Default)]
pub struct Expected {
    runs: HashMap<RunId, Payload>,
    /// By broker name and queue: what must be at which offset.
    queues: HashMap<(String, u32), HashMap<u64, (RunId, u64)>>,
    seen: HashSet<(RunId, u64)>,
    findings: Findings,
}

/// Runs the command; prints what was found.
///
/// # Errors
/// The files or the topic cannot be read, or the topic is not as acknowledged.
pub fn run(args: &VerifyArgs) -> Result<(), BenchError> {
    let mut expected = Expected::default();
    let mut topic: Option<String> = None;
    for path in &args.acks {
        let (head, acks) = read_acks(path)?;
        if topic.as_ref().is_some_and(|topic| *topic != head.topic) {
            let problem = format!("it is of topic {}, the others are not", head.topic);
            return Err(BenchError::Acks { path: path.clone(), problem });
        }
        topic = Some(head.topic.clone());
        expected.add(&head, &acks);
    }
    let topic = topic.unwrap_or_default();
    let mut client = Client::new(&args.namesrv).with_timeout(Duration::from_secs(30));
    let queues = client.route(&topic)?.map(|route| route.read_queues()).unwrap_or_default();
    for queue in &queues {
        read_queue(&mut client, queue, &mut expected)?;
    }
    let findings = expected.finish(args.allow_unacknowledged, args.allow_foreign);
    print(&findings.summary(&topic, queues.len()));
    if findings.problems == 0 {
        return Ok(());
    }
    Err(BenchError::NotAsAcknowledged(format!("{} problems", findings.problems)))
}

/// Reads one queue from its start to its end.
fn read_queue(client: &mut Client, queue: &Queue, expected: &mut Expected) -> Result<(), BenchError> {
    let end = client.max_offset(queue)?;
    let mut offset = client.min_offset(queue)?;
    if offset > 0 {
        expected.problem(format!("{}: its first {offset} messages are gone", name_of(queue)));
    }
    while offset < end {
        let pull =
            Pull { group: "ringmq-bench-verify", offset, messages_max: 32, subscription: "*", hold: None };
        let pulled = client.pull(queue, &pull)?;
        if pulled.code != response::SUCCESS {
            expected.problem(format!(
                "{}: at offset {offset} of {end} the broker answers code {}, next offset {}",
                name_of(queue),
                pulled.code,
                pulled.next_offset
            ));
            if pulled.next_offset <= offset {
                break;
            }
            offset = pulled.next_offset;
            continue;
        }
        for message in pulled.messages() {
            let message = message?;
            if message.queue_offset != offset {
                expected.problem(format!(
                    "{}: offset {} where {offset} was next",
                    name_of(queue),
                    message.queue_offset
                ));
            }
            offset = message.queue_offset + 1;
            expected.see(queue, &message);
        }
    }
    Ok(())
}

fn name_of(queue: &Queue) -> String {
    format!("{} queue {}", queue.broker_name, queue.queue_id)
}

impl Expected {
    /// Adds what a file says.
    pub fn add(&mut self, head: &AcksHead, acks: &[Ack]) {
        let run = RunId(head.run);
        self.runs.insert(run, Payload::new(run, head.size));
        for ack in acks {
            let broker = head.brokers[usize::from(ack.broker)].clone();
            let queue = self.queues.entry((broker, ack.queue_id)).or_default();
            if let Some((_, other)) = queue.insert(ack.queue_offset, (run, ack.sequence)) {
                let text = format!(
                    "{} queue {}: messages {other} and {} were both acknowledged at offset {}",
                    head.brokers[usize::from(ack.broker)],
                    ack.queue_id,
                    ack.sequence,
                    ack.queue_offset
                );
                self.problem(text);
            }
        }
    }

    /// Judges one message that was read.
    pub fn see(&mut self, queue: &Queue, message: &MessageView<'_>) {
        self.findings.read += 1;
        let place = format!("{} offset {}", name_of(queue), message.queue_offset);
        let wanted = self
            .queues
            .get_mut(&(queue.broker_name.clone(), queue.queue_id))
            .and_then(|offsets| offsets.remove(&message.queue_offset));
        let key = message.property("UNIQ_KEY").and_then(parse_key);
        let Some((run, sequence)) = key.filter(|(run, _)| self.runs.contains_key(run)) else {
            self.findings.foreign += 1;
            if let Some((_, sequence)) = wanted {
                self.problem(format!(
                    "{place}: message {sequence} was acknowledged here, a foreign one is there"
                ));
            }
            return;
        };
        if !self.seen.insert((run, sequence)) {
            self.problem(format!("{place}: message {sequence} is there a second time"));
        }
        let crc = crc32fast::hash(message.body) & 0x7FFF_FFFF;
        if message.body_crc != crc {
            self.problem(format!(
                "{place}: the body's checksum is {crc:08X}, the record says {:08X}",
                message.body_crc
            ));
        }
        if !self.runs[&run].is_body_of(sequence, message.body) {
            self.problem(format!("{place}: the body is not that of message {sequence}"));
        }
        match wanted {
            Some(acknowledged) if acknowledged == (run, sequence) => self.findings.acknowledged += 1,
            Some((_, other)) => {
                self.problem(format!("{place}: message {other} was acknowledged here, {sequence} is there"));
            }
            None => self.findings.unacknowledged += 1,
        }
    }

    fn problem(&mut self, text: String) {
        self.findings.problems += 1;
        if self.findings.first_problems.len() < SHOWN_PROBLEMS {
            self.findings.first_problems.push(text);
        }
    }

    /// What is left is missing.
    pub fn finish(mut self, allow_unacknowledged: bool, allow_foreign: bool) -> Findings {
        for ((broker, queue_id), offsets) in std::mem::take(&mut self.queues) {
            let mut missing: Vec<_> = offsets.into_iter().collect();
            missing.sort_unstable();
            for (offset, (_, sequence)) in missing {
                self.problem(format!(
                    "{broker} queue {queue_id}: message {sequence}, acknowledged at offset {offset}, is missing"
                ));
            }
        }
        if self.findings.unacknowledged > 0 && !allow_unacknowledged {
            let text = format!("{} messages are there without acknowledgement", self.findings.unacknowledged);
            self.problem(text);
        }
        if self.findings.foreign > 0 && !allow_foreign {
            let text = format!("{} messages are of no run given", self.findings.foreign);
            self.problem(text);
        }
        self.findings
    }
}

#[cfg(test)]
mod tests;
