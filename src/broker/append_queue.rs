//! Records on their way to the log core, and the requests that wait for them.
//!
//! Lives on the serve core of one shard. A processor encodes a record straight into the batch of the current turn
//! ([`AppendQueue::push`]); the node's driver waits for [`AppendQueue::ready`] and carries whole batches to the log core
//! ([`AppendQueue::take_batch`]). Results come back one for each record, in the order of the pushes, so that whoever waits is
//! found by a plain queue ([`AppendQueue::complete`]): nothing is looked up.
//!
//! Bounded twice: a batch leaves only while less than [`APPEND_IN_FLIGHT_BYTES_MAX`] is with the log core, and what is kept
//! here for a later batch stays below [`APPEND_QUEUED_BYTES_MAX`]; beyond that a push is refused. What a connection has
//! waiting here counts against the bytes that it may have in flight, so that a fast sender is not read from meanwhile.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use runtime::task::Signal;
use shards::append::{AppendBatch, AppendOutcome, AppendRefusal, Placement};
use shards::limits::{
    APPEND_IN_FLIGHT_BYTES_MAX, APPEND_PATIENT_BYTES_MAX, APPEND_QUEUED_BYTES_MAX, APPEND_WAIT_MAX,
};
use shards::position::QueueOffset;
use shards::record::{RecordError, RecordFields};
use smallvec::SmallVec;

use crate::broker::delay_schedule::DelayLevel;
use crate::metrics::traffic::{MessageType, TopicTraffic};
use crate::remoting::response::ReplyTo;
use crate::transport::Connection;

/// Memory taken at once for encoding; several batches are cut from it one after the other.
const ENCODE_BUFFER_BYTES: usize = 256 * 1024;

/// Who waits for the records of one push.
#[derive(Debug)]
pub enum Waiting {
    /// A producer, for one message or for a batch.
    Producer(WaitingProducer),
    /// A consumer that gave a message back for a later retry (request code 36).
    SendBack { connection: Rc<Connection>, reply_to: ReplyTo },
    /// The delay schedule, which put a message that was due into its real topic.
    Delay { level: DelayLevel, delivered: QueueOffset },
}

impl Waiting {
    fn connection(&self) -> Option<&Connection> {
        match self {
            Self::Producer(producer) => Some(&producer.connection),
            Self::SendBack { connection, .. } => Some(connection),
            Self::Delay { .. } => None,
        }
    }
}

/// What the answer to a producer needs besides the placements.
#[derive(Debug)]
pub struct WaitingProducer {
    pub connection: Rc<Connection>,
    pub reply_to: ReplyTo,
    /// The queue that the producer will be told: of the real topic, also for a delayed message.
    pub queue_id: u32,
    /// The message's `UNIQ_KEY`, answered as `transactionId`; empty when there is none. It fits inline for IPv4 clients.
    pub unique_key: SmallVec<[u8; 32]>,
    /// Where the messages are counted when they are stored.
    pub traffic: Rc<TopicTraffic>,
    pub message_type: MessageType,
}

/// What is known of a push when its results are there.
#[derive(Clone, Copy, Debug)]
pub struct Trip {
    /// When its request was read; of the broker's own pushes, when they were made.
    pub arrived: Instant,
    /// When the batch of its last record left for the log core.
    pub taken: Instant,
    /// Of its encoded records.
    pub bytes: usize,
    /// The place of its last result among those that were given together.
    pub last_outcome: usize,
}

/// How the records of one push ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Completion {
    /// All are durable as the flush mode asks, at these places, in the order pushed.
    Placed(SmallVec<[Placement; 1]>),
    /// At least one was refused: none counts as stored.
    Refused(AppendRefusal),
}

/// Why a push was not taken. Nothing of it remains in the batch.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// Answered with MESSAGE_ILLEGAL.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Answered with SYSTEM_BUSY.
    #[error(
        "[OVERLOAD]system busy, start flow control for a while: {queued_bytes} bytes of messages wait for the log core, the \
         limit is {APPEND_QUEUED_BYTES_MAX}"
    )]
    Overload { queued_bytes: usize },
    /// The same: by now an answer would come too late for its client.
    #[error(
        "[OVERLOAD]system busy, start flow control for a while: {waiting_bytes} bytes of messages wait for the log's flush, the \
         first of them for {waited_ms} ms"
    )]
    Late { waiting_bytes: usize, waited_ms: u128 },
}

/// The records of the current turn and everything that waits for a result.
#[derive(Debug)]
pub struct AppendQueue {
    /// Records pushed and not yet taken, back to back.
    records: BytesMut,
    count: u32,
    /// Every push without a complete result, in order: first those with the log core, then those of the current batch.
    waiting: VecDeque<Entry>,
    /// Bytes taken by the driver and without a result.
    in_flight_bytes: usize,
    /// Batches with the log core that have records without a result, in order.
    batches: VecDeque<SentBatch>,
    ready: Rc<Signal>,
    /// [`APPEND_WAIT_MAX`].
    wait_max: Duration,
}

impl Default for AppendQueue {
    fn default() -> Self {
        Self {
            records: BytesMut::new(),
            count: 0,
            waiting: VecDeque::new(),
            in_flight_bytes: 0,
            batches: VecDeque::new(),
            ready: Rc::default(),
            wait_max: APPEND_WAIT_MAX,
        }
    }
}

#[derive(Debug)]
struct Entry {
    waiting: Waiting,
    /// Records whose result is still to come.
    outstanding: u32,
    arrived: Instant,
    bytes: usize,
    /// Of the results so far.
    completion: Completion,
}

#[derive(Debug)]
struct SentBatch {
    /// Records whose result is still to come.
    outstanding: u32,
    taken: Instant,
}

impl AppendQueue {
    /// Raised whenever [`Self::take_batch`] may have something. One driver waits for it.
    pub fn ready(&self) -> Rc<Signal> {
        Rc::clone(&self.ready)
    }

    /// Bytes encoded and not yet taken.
    pub fn queued_bytes(&self) -> usize {
        self.records.len()
    }

    /// Pushes that have no result yet. Zero when stopping may go on.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Encodes one record into the current batch; `waiting` hears of its result.
    ///
    /// # Errors
    /// See [`PushError`]; the caller answers, `waiting` is dropped.
    pub fn push(&mut self, record: RecordFields<'_>, waiting: Waiting) -> Result<(), PushError> {
        self.push_all(std::iter::once(record), waiting)
    }

    /// The same for several records that are placed one after the other and have one result.
    ///
    /// # Errors
    /// See [`PushError`]: either all are taken or none.
    ///
    /// # Panics
    /// When there is no record.
    pub fn push_all<'f>(
        &mut self,
        records: impl IntoIterator<Item = RecordFields<'f>>,
        waiting: Waiting,
    ) -> Result<(), PushError> {
        let start = self.records.len();
        self.check_room()?;
        let mut outstanding = 0;
        for record in records {
            let bytes_about = record.body.len() + record.properties.len() + record.topic.len() + 160;
            if self.records.capacity() - self.records.len() < bytes_about {
                self.records.reserve(bytes_about.max(ENCODE_BUFFER_BYTES));
            }
            if let Err(error) = record.encode(&mut self.records) {
                self.records.truncate(start);
                return Err(error.into());
            }
            outstanding += 1;
        }
        assert!(outstanding > 0, "a push has at least one record");
        let bytes = self.records.len() - start;
        let arrived = match waiting.connection() {
            Some(connection) => {
                connection.add_in_flight(bytes);
                connection.last_read()
            }
            None => Instant::now(),
        };
        self.waiting.push_back(Entry {
            waiting,
            outstanding,
            arrived,
            bytes,
            completion: Completion::Placed(SmallVec::with_capacity(outstanding as usize)),
        });
        self.count += outstanding;
        if start == 0 {
            self.ready.raise();
        }
        Ok(())
    }

    /// Refuses when too much waits, or much for too long. A pause of the disk alone refuses nobody who sends little.
    fn check_room(&self) -> Result<(), PushError> {
        let queued_bytes = self.records.len();
        if queued_bytes >= APPEND_QUEUED_BYTES_MAX {
            return Err(PushError::Overload { queued_bytes });
        }
        let waiting_bytes = self.in_flight_bytes + queued_bytes;
        if waiting_bytes >= APPEND_PATIENT_BYTES_MAX
            && let Some(first) = self.waiting.front()
        {
            let waited = first.arrived.elapsed();
            if waited > self.wait_max {
                return Err(PushError::Late { waiting_bytes, waited_ms: waited.as_millis() });
            }
        }
        Ok(())
    }

    /// Takes everything pushed so far; `None` when there is nothing, or when the log core has as much as it may.
    pub fn take_batch(&mut self) -> Option<AppendBatch> {
        if self.count == 0 || self.in_flight_bytes >= APPEND_IN_FLIGHT_BYTES_MAX {
            return None;
        }
        let records = self.records.split().freeze();
        self.in_flight_bytes += records.len();
        let count = std::mem::take(&mut self.count);
        self.batches.push_back(SentBatch { outstanding: count, taken: Instant::now() });
        Some(AppendBatch { records, count })
    }

    /// Pairs results with who waits for them. `done` is called for each push that has all its results now, in push order.
    ///
    /// # Panics
    /// When there are more results than records taken: the log core's and this core's counts have come apart, and every later
    /// acknowledgement would go to the wrong producer.
    pub fn complete(
        &mut self,
        outcomes: impl IntoIterator<Item = AppendOutcome>,
        mut done: impl FnMut(Waiting, Completion, &Trip),
    ) {
        let was_full = self.in_flight_bytes >= APPEND_IN_FLIGHT_BYTES_MAX;
        for (last_outcome, outcome) in outcomes.into_iter().enumerate() {
            let taken = self.batch_of_next_result();
            let entry = self.waiting.front_mut().expect("a result belongs to a push that still waits");
            match (&mut entry.completion, outcome) {
                (Completion::Placed(placements), AppendOutcome::Placed(placement)) => {
                    placements.push(placement)
                }
                (Completion::Refused(_), AppendOutcome::Placed(_)) => {}
                (completion, AppendOutcome::Refused(refusal)) => *completion = Completion::Refused(refusal),
            }
            entry.outstanding -= 1;
            if entry.outstanding > 0 {
                continue;
            }
            let Entry { waiting, arrived, bytes, completion, .. } =
                self.waiting.pop_front().expect("it was there just now");
            self.in_flight_bytes =
                self.in_flight_bytes.checked_sub(bytes).expect("a result comes only for bytes taken");
            if let Some(connection) = waiting.connection() {
                connection.sub_in_flight(bytes);
            }
            done(waiting, completion, &Trip { arrived, taken, bytes, last_outcome });
        }
        if was_full && self.count > 0 {
            self.ready.raise();
        }
    }

    /// When the batch left to which the next result belongs.
    fn batch_of_next_result(&mut self) -> Instant {
        let batch = self.batches.front_mut().expect("a result comes only for records taken");
        let taken = batch.taken;
        batch.outstanding -= 1;
        if batch.outstanding == 0 {
            self.batches.pop_front();
        }
        taken
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use shards::position::PhysicalOffset;
    use shards::record::RecordView;

    use super::*;
    use crate::metrics::traffic::Traffic;
    use crate::remoting::frame::SerializeType;
    use crate::transport::ConnectionId;

    pub(crate) fn record<'a>(body: &'a [u8], properties: &'a [u8]) -> RecordFields<'a> {
        let host = "127.0.0.1:10911".parse().expect("an address");
        RecordFields {
            topic: "t",
            queue_id: 0,
            flag: 0,
            sys_flag: 0,
            born_timestamp_ms: 1,
            born_host: host,
            store_host: host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body,
            properties,
        }
    }

    fn producer(opaque: i32) -> Waiting {
        let connection = Connection::detached(ConnectionId(1), "127.0.0.1:4000".parse().expect("an address"));
        let reply_to = ReplyTo { opaque, serialize_type: SerializeType::Json, oneway: false };
        let traffic = Traffic::default().topic("t", || false);
        let (unique_key, message_type) = (SmallVec::new(), MessageType::Normal);
        Waiting::Producer(WaitingProducer {
            connection,
            reply_to,
            queue_id: 0,
            unique_key,
            traffic,
            message_type,
        })
    }

    fn opaque(waiting: &Waiting) -> i32 {
        match waiting {
            Waiting::Producer(producer) => producer.reply_to.opaque,
            other => panic!("not a producer: {other:?}"),
        }
    }

    fn placed(at: u64) -> AppendOutcome {
        AppendOutcome::Placed(placement(at))
    }

    fn placement(at: u64) -> Placement {
        Placement {
            queue_offset: QueueOffset::new(at),
            physical_offset: PhysicalOffset::new(at * 100),
            store_timestamp_ms: 5,
        }
    }

    fn complete(queue: &mut AppendQueue, outcomes: Vec<AppendOutcome>) -> Vec<(i32, Completion)> {
        let mut done = Vec::new();
        queue.complete(outcomes, |waiting, completion, _| done.push((opaque(&waiting), completion)));
        done
    }

    #[test]
    fn a_batch_holds_what_was_pushed_in_order_and_results_find_who_waits() {
        let mut queue = AppendQueue::default();
        assert!(queue.take_batch().is_none());
        queue.push(record(b"one", b""), producer(1)).expect("room");
        queue.push_all([record(b"two", b""), record(b"three", b"")], producer(2)).expect("room");
        let batch = queue.take_batch().expect("three records");
        assert_eq!(batch.count, 3);
        let mut bodies = Vec::new();
        let mut rest = &batch.records[..];
        while !rest.is_empty() {
            let view = RecordView::parse(rest).expect("a record");
            bodies.push(view.body());
            rest = &rest[view.total_size()..];
        }
        assert_eq!(bodies, [&b"one"[..], b"two", b"three"]);
        queue.push(record(b"four", b""), producer(3)).expect("room");

        let done = complete(&mut queue, vec![placed(0), placed(1)]);
        assert_eq!(done, [(1, Completion::Placed(SmallVec::from_slice(&[placement(0)])))]);
        let done = complete(&mut queue, vec![placed(2)]);
        assert_eq!(done, [(2, Completion::Placed(SmallVec::from_slice(&[placement(1), placement(2)])))]);
        assert_eq!(queue.waiting(), 1);
        queue.take_batch().expect("the fourth");
        assert_eq!(complete(&mut queue, vec![placed(3)]).len(), 1);
    }

    #[test]
    fn one_refused_record_refuses_its_whole_push_and_nothing_else() {
        let mut queue = AppendQueue::default();
        queue.push_all([record(b"1", b""), record(b"2", b"")], producer(1)).expect("room");
        queue.push(record(b"3", b""), producer(2)).expect("room");
        queue.take_batch().expect("three records");
        let refused = AppendOutcome::Refused(AppendRefusal::Stopping);
        let done = complete(&mut queue, vec![refused, placed(0), placed(1)]);
        assert_eq!(done[0], (1, Completion::Refused(AppendRefusal::Stopping)));
        assert!(matches!(done[1], (2, Completion::Placed(_))));
    }

    #[test]
    fn a_push_that_cannot_be_encoded_leaves_nothing_behind() {
        let mut queue = AppendQueue::default();
        queue.push(record(b"1", b""), producer(1)).expect("room");
        let bytes = queue.queued_bytes();
        let too_long = vec![b'x'; 40_000];
        let pushed = queue.push_all([record(b"2", b""), record(b"3", &too_long)], producer(2));
        assert!(matches!(pushed, Err(PushError::Record(_))));
        assert_eq!((queue.queued_bytes(), queue.waiting()), (bytes, 1));
        assert_eq!(queue.take_batch().expect("one").count, 1);
    }

    #[test]
    fn much_that_waits_for_too_long_is_refused_and_little_never() {
        let mut queue = AppendQueue { wait_max: Duration::ZERO, ..AppendQueue::default() };
        let body = vec![0; 1 << 20];
        let mut pushed = 0;
        let error = loop {
            match queue.push(record(&body, b""), producer(pushed)) {
                Ok(()) => pushed += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, PushError::Late { .. }), "{error}");
        assert!(error.to_string().contains("bytes of messages wait for the log's flush"), "{error}");
        assert_eq!(pushed, 16, "as much as may wait, however long");
        queue.take_batch().expect("records");
        assert!(queue.push(record(b"1", b""), producer(0)).is_err(), "it waits with the log core as well");
        complete(&mut queue, (0..pushed.unsigned_abs().into()).map(placed).collect());
        queue.push(record(&body, b""), producer(0)).expect("room again");
    }

    #[test]
    fn the_log_core_gets_no_more_than_its_share_and_the_rest_is_bounded() {
        let patient = Duration::from_secs(3600);
        let mut queue = AppendQueue { wait_max: patient, ..AppendQueue::default() };
        let body = vec![0; 4 << 20];
        let fill = |queue: &mut AppendQueue| {
            let mut pushed = 0;
            while queue.push(record(&body, b""), producer(pushed)).is_ok() {
                pushed += 1;
            }
            pushed
        };
        let pushed = fill(&mut queue);
        let batch = queue.take_batch().expect("records");
        assert!(batch.records.len() >= APPEND_QUEUED_BYTES_MAX);
        assert!(batch.records.len() < APPEND_QUEUED_BYTES_MAX + (5 << 20));
        let pushed_later = fill(&mut queue);
        assert!(queue.take_batch().is_none(), "the log core has enough");
        let error = queue.push(record(&body, b""), producer(0)).expect_err("full");
        assert!(matches!(error, PushError::Overload { .. }), "{error}");
        complete(&mut queue, (0..pushed.unsigned_abs().into()).map(placed).collect());
        assert_eq!(queue.take_batch().expect("records").count, pushed_later.unsigned_abs());
    }

    #[test]
    #[should_panic(expected = "1 bytes answered of 0 in flight")]
    fn what_waits_counts_against_its_connection_until_it_is_answered() {
        let mut queue = AppendQueue::default();
        let waiting = producer(1);
        let connection = match &waiting {
            Waiting::Producer(producer) => Rc::clone(&producer.connection),
            _ => unreachable!("made as a producer"),
        };
        queue.push(record(b"1", b""), waiting).expect("room");
        queue.take_batch().expect("one");
        complete(&mut queue, vec![placed(0)]);
        connection.sub_in_flight(1);
    }
}
