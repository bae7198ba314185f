//! Load with a memory: senders that note what was acknowledged, and a ledger that reads everything back.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ringmq::client::{Client, MessageView, OutMessage, Pull, Pulled, Queue, SendUnderWay};
use ringmq::remoting::code::response::PULL_NOT_FOUND;

use super::await_until;
use super::enduring::Placed;
use super::server::Server;

/// Shortest body: sender, number and length.
const BODY_BYTES_MIN: usize = 12;
/// How long a reader's request is held while nothing comes.
const READER_HOLD: Duration = Duration::from_secs(5);
/// How long the first message may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who sent a message, and as which of its messages. Its body follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Id {
    pub(crate) sender: u32,
    pub(crate) number: u32,
}

impl Id {
    /// The body of this message: its id and length, then bytes that differ from message to message.
    fn body(self, bytes: usize) -> Vec<u8> {
        let bytes = bytes.max(BODY_BYTES_MIN);
        let mut body = Vec::with_capacity(bytes + 8);
        body.extend(self.sender.to_be_bytes());
        body.extend(self.number.to_be_bytes());
        body.extend(u32::try_from(bytes).expect("a body is small").to_be_bytes());
        let mut state = (u64::from(self.sender) << 32 | u64::from(self.number)) * 2 + 1;
        while body.len() < bytes {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            body.extend((state ^ state >> 29).to_be_bytes());
        }
        body.truncate(bytes);
        body
    }

    /// The message that has this body, if it is one of ours, whole.
    fn of(body: &[u8]) -> Option<Self> {
        let word =
            |at: usize| Some(u32::from_be_bytes(body.get(at..at + 4)?.try_into().expect("four bytes")));
        let id = Self { sender: word(0)?, number: word(4)? };
        (word(8)? as usize == body.len() && id.body(body.len()) == body).then_some(id)
    }
}

/// An acknowledged message and the place that the answer named.
#[derive(Clone, Copy, Debug)]
struct Acked {
    id: Id,
    queue: usize,
    offset: u64,
}

/// How much to send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amount {
    pub(crate) senders: u32,
    /// Number of the first sender; ids are never used twice.
    pub(crate) first_sender: u32,
    /// Messages of each sender; it stops earlier at the first error.
    pub(crate) messages: u32,
    /// Sizes of the bodies, in turn.
    pub(crate) body_bytes: &'static [usize],
}

/// Senders at work.
pub(crate) struct Load {
    senders: Vec<JoinHandle<Sent>>,
    /// Messages that were acknowledged to any of them.
    acknowledged: Arc<AtomicU64>,
}

/// What a sender knows at its end.
struct Sent {
    acked: Vec<Acked>,
    /// Sent, and not answered or refused.
    in_flight: Vec<Id>,
}

impl Load {
    /// One message in flight each.
    pub(crate) fn start(namesrv: &str, queues: &[Queue], amount: Amount) -> Self {
        Self::start_with(namesrv, queues, amount, 1)
    }

    /// With so many messages of each sender in flight.
    pub(crate) fn start_with(namesrv: &str, queues: &[Queue], amount: Amount, in_flight_max: usize) -> Self {
        let acknowledged = Arc::new(AtomicU64::new(0));
        let senders = (amount.first_sender..amount.first_sender + amount.senders).map(|sender| {
            let (client, queues) = (Client::new(namesrv), queues.to_vec());
            let acknowledged = Arc::clone(&acknowledged);
            std::thread::spawn(move || send(client, &queues, sender, amount, in_flight_max, &acknowledged))
        });
        Self { senders: senders.collect(), acknowledged }
    }

    /// Waits until a message was acknowledged.
    pub(crate) fn await_first(&self) {
        await_until("the first acknowledgement", PATIENCE, || self.acknowledged.load(Ordering::Relaxed) > 0);
    }

    /// Waits for the senders and enters what they know.
    pub(crate) fn enter_into(self, ledger: &mut Ledger) {
        for sender in self.senders {
            let Sent { acked, in_flight } = sender.join().expect("a sender panicked");
            ledger.in_flight.extend(in_flight);
            ledger.acknowledged += acked.len() as u64;
            for acked in acked {
                let earlier = ledger.queues[acked.queue].expected.insert(acked.offset, acked.id);
                assert_eq!(earlier, None, "two messages were acknowledged at one place: {acked:?}");
            }
        }
    }
}

fn send(
    mut client: Client,
    queues: &[Queue],
    sender: u32,
    amount: Amount,
    in_flight_max: usize,
    acknowledged: &AtomicU64,
) -> Sent {
    let mut sent = Sent { acked: Vec::new(), in_flight: Vec::new() };
    let mut window = VecDeque::new();
    for number in 0..amount.messages {
        let id = Id { sender, number };
        let size = amount.body_bytes[number as usize % amount.body_bytes.len()];
        let queue = (sender as usize + number as usize) % queues.len();
        let key = format!("{sender:016X}{number:016X}");
        let body = id.body(size);
        let begun = client.begin_send(&queues[queue], "load", &OutMessage::new(&key, &body), now_ms());
        let has_failed = begun.is_err();
        match begun {
            Ok(under_way) => window.push_back((id, queue, under_way)),
            // A part of it may have arrived, or all.
            Err(_) => sent.in_flight.push(id),
        }
        let is_last = has_failed || number + 1 == amount.messages;
        // The server went away, or ends and says so.
        let before = sent.acked.len();
        let are_good =
            take_answers(&mut client, &mut window, if is_last { 0 } else { in_flight_max - 1 }, &mut sent);
        acknowledged.fetch_add((sent.acked.len() - before) as u64, Ordering::Relaxed);
        if !are_good || is_last {
            break;
        }
    }
    take_answers(&mut client, &mut window, 0, &mut sent);
    sent
}

/// Takes answers, those to the oldest first, until at most `left` are in flight; whether all were good.
fn take_answers(
    client: &mut Client,
    window: &mut VecDeque<(Id, usize, SendUnderWay)>,
    left: usize,
    sent: &mut Sent,
) -> bool {
    let mut are_good = true;
    while window.len() > left {
        let Some((id, queue, under_way)) = window.pop_front() else { break };
        match client.finish_send(under_way) {
            Ok(receipt) => sent.acked.push(Acked { id, queue, offset: receipt.queue_offset }),
            Err(_) => {
                sent.in_flight.push(id);
                are_good = false;
            }
        }
    }
    are_good
}

/// Consumers of all queues, one each, who read on as messages come until the server is gone.
pub(crate) struct Readers {
    queues: Vec<JoinHandle<Vec<(u64, Id)>>>,
    /// Messages that any of them has read.
    read: Arc<AtomicU64>,
}

impl Readers {
    /// They begin where the ledger has read to.
    pub(crate) fn start(namesrv: &str, queues: &[Queue], ledger: &Ledger) -> Self {
        let read = Arc::new(AtomicU64::new(0));
        let readers = queues.iter().zip(&ledger.queues).map(|(queue, known)| {
            let (client, queue, from) = (Client::new(namesrv), queue.clone(), known.read_to);
            let read = Arc::clone(&read);
            std::thread::spawn(move || read_until_gone(client, &queue, from, &read))
        });
        Self { queues: readers.collect(), read }
    }

    /// Waits until a message was read.
    pub(crate) fn await_first(&self) {
        await_until("the first message that is read", PATIENCE, || self.read.load(Ordering::Relaxed) > 0);
    }

    /// Waits for their end. What they saw must stay where they saw it, as if it were acknowledged. Returns how much that was.
    pub(crate) fn enter_into(self, ledger: &mut Ledger) -> u64 {
        let mut count = 0;
        for (reader, known) in self.queues.into_iter().zip(&mut ledger.queues) {
            let seen = reader.join().expect("a reader panicked");
            count += seen.len() as u64;
            for (offset, id) in seen {
                let acked = known.expected.insert(offset, id);
                assert!(
                    acked.is_none_or(|acked| acked == id),
                    "read at {offset}: {id:?}, acknowledged {acked:?}"
                );
            }
        }
        count
    }
}

fn read_until_gone(mut client: Client, queue: &Queue, from: u64, read: &AtomicU64) -> Vec<(u64, Id)> {
    let mut seen = Vec::new();
    let mut next = from;
    loop {
        let hold = Some(READER_HOLD);
        let pull = Pull { group: "watcher", offset: next, messages_max: 32, subscription: "*", hold };
        let Ok(pulled) = client.pull(queue, &pull) else { return seen };
        assert!(matches!(pulled.code, 0 | PULL_NOT_FOUND), "{queue:?} at {next}: {pulled:?}");
        for id in ids(&pulled, queue, next) {
            seen.push((next, id));
            next += 1;
            read.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[derive(Default)]
struct QueueLedger {
    expected: BTreeMap<u64, Id>,
    read_to: u64,
}

/// What the queues of a topic must hold.
pub(crate) struct Ledger {
    pub(crate) topic: Vec<Queue>,
    queues: Vec<QueueLedger>,
    /// Sent, but without an answer: may be there or not.
    in_flight: HashSet<Id>,
    seen: HashSet<Id>,
    pub(crate) acknowledged: u64,
}

impl Ledger {
    /// Creates the topic.
    pub(crate) fn new(server: &Server, topic: &str, queues: u32) -> Self {
        let topic_queues = server.create_topic(topic, queues);
        let queues = topic_queues.iter().map(|_| QueueLedger::default()).collect();
        Self { topic: topic_queues, queues, in_flight: HashSet::new(), seen: HashSet::new(), acknowledged: 0 }
    }

    /// Messages read so far.
    pub(crate) fn read(&self) -> u64 {
        self.queues.iter().map(|queue| queue.read_to).sum()
    }

    /// Forgets what was read, so that the next reading starts at the beginning.
    pub(crate) fn rewind(&mut self) {
        self.seen.clear();
        for queue in &mut self.queues {
            queue.read_to = 0;
        }
    }

    /// A message that may be there, once, or not.
    pub(crate) fn enter_in_flight(&mut self, ids: Vec<Id>) {
        self.in_flight.extend(ids);
    }

    /// A message whose place an answer named.
    pub(crate) fn enter_acknowledged(&mut self, placed: &Placed) {
        self.enter_read(placed);
        self.acknowledged += 1;
    }

    /// A message that was seen at its place, and must stay there.
    pub(crate) fn enter_read(&mut self, placed: &Placed) {
        let Placed { broker_name, queue_id, offset, id } = placed;
        let index = self
            .topic
            .iter()
            .position(|queue| queue.broker_name == *broker_name && queue.queue_id == *queue_id)
            .unwrap_or_else(|| panic!("{placed:?} is in no queue of the topic"));
        let known = *self.queues[index].expected.entry(*offset).or_insert(*id);
        assert_eq!(known, *id, "two messages at one place: {placed:?}");
    }

    /// Where the queues begin now: what was before need not be there any more. What comes after is read anew.
    pub(crate) fn begin_at_the_first(&mut self, server: &Server) {
        self.seen.clear();
        for (queue, known) in self.topic.iter().zip(&mut self.queues) {
            let min = server.client().min_offset(queue).expect("ask for the start of the queue");
            known.expected = known.expected.split_off(&min);
            known.read_to = min;
        }
    }

    /// Reads what was not read yet: queue offsets without a gap, every body whole, nothing twice, each acknowledged message at
    /// its place, and besides those at most what was in flight.
    pub(crate) fn verify(&mut self, server: &Server) {
        let Self { topic, queues, in_flight, seen, .. } = self;
        let read = std::thread::scope(|scope| {
            let readers: Vec<_> = topic
                .iter()
                .zip(&*queues)
                .map(|(queue, known)| scope.spawn(move || read_from(server.client(), queue, known.read_to)))
                .collect();
            readers.into_iter().map(|reader| reader.join().expect("a reader panicked")).collect::<Vec<_>>()
        });
        for ((queue, known), ids) in topic.iter().zip(queues).zip(read) {
            for id in ids {
                let offset = known.read_to;
                match known.expected.get(&offset) {
                    Some(&acked) => {
                        assert_eq!(acked, id, "{queue:?} at {offset}: not what was acknowledged there")
                    }
                    None => {
                        assert!(in_flight.contains(&id), "{queue:?} at {offset}: {id:?} was never sent so")
                    }
                }
                assert!(seen.insert(id), "{queue:?} at {offset}: {id:?} is there twice");
                known.read_to += 1;
            }
            if let Some((last, id)) = known.expected.last_key_value() {
                let end = known.read_to;
                assert!(
                    *last < end,
                    "{queue:?} ends at {end}; {id:?} was acknowledged at {last} and is lost"
                );
            }
        }
    }
}

/// The messages from `from` to the end of the queue, at offsets without a gap.
fn read_from(mut client: Client, queue: &Queue, from: u64) -> Vec<Id> {
    let end = client.max_offset(queue).expect("ask for the end of the queue");
    let mut all = Vec::new();
    let mut next = from;
    while next < end {
        let pull = Pull { group: "reader", offset: next, messages_max: 32, subscription: "*", hold: None };
        let pulled = client.pull(queue, &pull).expect("pull");
        assert_eq!(pulled.code, 0, "{queue:?} at {next} of {end}: {pulled:?}");
        let found = ids(&pulled, queue, next);
        next += found.len() as u64;
        all.extend(found);
    }
    all
}

/// The messages of an answer, which begin at `next` and leave no gap.
fn ids(pulled: &Pulled, queue: &Queue, next: u64) -> Vec<Id> {
    let messages = pulled.messages().map(|message| message.expect("a message that can be read"));
    let id = |(message, offset): (MessageView<'_>, u64)| {
        assert_eq!(message.queue_offset, offset, "{queue:?}: the offset that follows");
        Id::of(message.body).unwrap_or_else(|| panic!("{queue:?} at {offset}: not a body that was sent"))
    };
    messages.zip(next..).map(id).collect()
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    i64::try_from(since.as_millis()).expect("fits for a long time")
}
