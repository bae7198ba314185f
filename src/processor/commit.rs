//! What a commit sets off on the serve core, in this order: its messages become readable, producers get their answers, and
//! held pulls get their messages. Everything of one commit in one turn, under one borrow of the broker, so that each connection's
//! answers leave together.

use std::rc::Rc;
use std::time::Instant;

use shards::append::{AppendTimes, Committed};

use crate::broker::append_queue::{Completion, Trip, Waiting, WaitingProducer};
use crate::broker::held_pulls::NewMessage;
use crate::broker::name::SCHEDULE_TOPIC;
use crate::broker::{Broker, BrokerCell, wall_clock_ms};
use crate::metrics::observer::Observer;
use crate::metrics::slow::Subject;
use crate::metrics::stage::Timeline;
use crate::processor::{pull, send, send_back};

/// Takes a commit from the log core.
pub fn committed(cell: &BrokerCell, committed: Committed) {
    let broker = &mut *cell.borrow_mut();
    let Broker { identity, store, appends, held_pulls, delay, observer, .. } = broker;
    let came = Instant::now();
    let mut woken = Vec::new();
    store.dispatch(&committed, &mut |arrival| {
        if arrival.topic == SCHEDULE_TOPIC {
            delay.arrived(arrival.queue_id, arrival.store_timestamp_ms);
        }
        let message = NewMessage {
            topic: arrival.topic,
            queue_id: arrival.queue_id,
            queue_offset: arrival.queue_offset,
            tags_code: arrival.tags_code,
            properties: arrival.properties,
        };
        held_pulls.arrived(message, &mut woken);
    });
    let answered = Instant::now();
    let mut sends = SendCounter::new(observer, &committed.times, came, answered);
    appends.complete(committed.outcomes, |waiting, completion, trip| match waiting {
        Waiting::Producer(producer) => {
            send::answer(identity, &producer, &completion);
            sends.count(&producer, &completion, trip);
        }
        Waiting::SendBack { connection, reply_to } => send_back::answer(&connection, reply_to, &completion),
        Waiting::Delay { level, delivered } => {
            let is_stored = matches!(completion, Completion::Placed(_));
            delay.completed(level, delivered, is_stored, wall_clock_ms());
        }
    });
    sends.end();
    for pull in woken {
        pull::read_again(broker, pull);
    }
}

/// The times of a commit's batches, found by the place of a result.
struct LogTimes<'a> {
    /// The batch of the last result asked for, and those behind it.
    times: &'a [AppendTimes],
    /// Results before them.
    outcomes: usize,
}

impl<'a> LogTimes<'a> {
    /// Of the batch of this result. Results are asked for in order.
    fn of(&mut self, outcome: usize) -> Option<&'a AppendTimes> {
        while let Some((first, rest)) = self.times.split_first() {
            if outcome < self.outcomes + first.records as usize {
                return Some(first);
            }
            self.outcomes += first.records as usize;
            self.times = rest;
        }
        None
    }
}

/// Counts the sends that one commit answers. Neighbours that were read together and went to the log core together took equally long:
/// the clock is not asked about each, and they are counted at once.
struct SendCounter<'a> {
    observer: &'a Observer,
    log_times: LogTimes<'a>,
    /// When the commit came.
    came: Instant,
    /// When its sends are answered: the same moment for all, as their answers leave together.
    answered: Instant,
    row: Option<Row<'a>>,
}

/// Sends one after the other that took equally long.
struct Row<'a> {
    at_log: &'a AppendTimes,
    timeline: Timeline,
    total_ns: u64,
    sends: u64,
}

impl<'a> SendCounter<'a> {
    fn new(observer: &'a Observer, times: &'a [AppendTimes], came: Instant, answered: Instant) -> Self {
        Self { observer, log_times: LogTimes { times, outcomes: 0 }, came, answered, row: None }
    }

    fn count(&mut self, producer: &WaitingProducer, completion: &Completion, trip: &Trip) {
        let Completion::Placed(placements) = completion else { return };
        let records = u32::try_from(placements.len()).expect("a push has a bounded number of records");
        producer.traffic.stored(producer.message_type, records, trip.bytes);
        let Some(at_log) = self.log_times.of(trip.last_outcome) else { return };
        let is_alike =
            |row: &Row<'_>| std::ptr::eq(row.at_log, at_log) && row.timeline.arrived == trip.arrived;
        if !self.row.as_ref().is_some_and(is_alike) {
            self.begin_row(at_log, trip);
        }
        let row = self.row.as_mut().expect("there is one that is alike, or it was begun just now");
        row.sends += 1;
        let (timeline, total_ns) = (&row.timeline, row.total_ns);
        self.observer.look_at(timeline, total_ns, || Subject {
            request: if records == 1 { "send" } else { "send_batch" },
            topic: Rc::clone(&producer.traffic),
            queue_id: producer.queue_id,
            peer: producer.connection.peer(),
            records,
            bytes: trip.bytes,
        });
    }

    fn begin_row(&mut self, at_log: &'a AppendTimes, trip: &Trip) {
        self.end_row();
        let timeline = Timeline {
            arrived: trip.arrived,
            taken: trip.taken,
            at_log: at_log.arrived,
            placed: at_log.placed,
            flushed: at_log.flushed,
            committed: self.came,
            answered: self.answered,
        };
        let total_ns = timeline.total_ns();
        self.row = Some(Row { at_log, timeline, total_ns, sends: 0 });
    }

    fn end_row(&mut self) {
        if let Some(row) = self.row.take() {
            self.observer.appended(&row.timeline, row.sends);
        }
    }

    /// All of the commit are counted.
    fn end(mut self) {
        self.end_row();
        self.observer.commit_ended(self.answered);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shards::append::{AppendOutcome, Placement};
    use shards::position::{PhysicalOffset, QueueOffset};
    use smallvec::SmallVec;

    use super::*;
    use crate::broker::append_queue::AppendQueue;
    use crate::broker::append_queue::tests::record;
    use crate::metrics::traffic::{MessageType, Traffic};
    use crate::remoting::frame::SerializeType;
    use crate::remoting::response::ReplyTo;
    use crate::transport::{Connection, ConnectionId};

    fn push(queue: &mut AppendQueue, traffic: &mut Traffic, connection: &Rc<Connection>, records: usize) {
        let waiting = Waiting::Producer(WaitingProducer {
            connection: Rc::clone(connection),
            reply_to: ReplyTo { opaque: 1, serialize_type: SerializeType::Json, oneway: false },
            queue_id: 0,
            unique_key: SmallVec::new(),
            traffic: traffic.topic("t", || false),
            message_type: MessageType::Normal,
        });
        queue.push_all(vec![record(b"x", b""); records], waiting).expect("room");
    }

    /// Neighbours are counted together only if they were read together and went together.
    #[test]
    fn every_send_counts_with_its_own_time() {
        let start = Instant::now();
        let after = |us| start + Duration::from_micros(us);
        let (mut queue, mut traffic, observer) =
            (AppendQueue::default(), Traffic::default(), Observer::default());
        let connection = Connection::detached(ConnectionId(1), "127.0.0.1:4000".parse().expect("an address"));
        for (read_at, records) in [(0, 1), (0, 1), (30, 3), (30, 1)] {
            connection.note_read(after(read_at));
            push(&mut queue, &mut traffic, &connection, records);
        }
        assert_eq!(queue.take_batch().expect("four pushes").count, 6);
        push(&mut queue, &mut traffic, &connection, 1);
        assert_eq!(queue.take_batch().expect("one push").count, 1);

        let at_log = |records, flushed| AppendTimes {
            records,
            arrived: after(40),
            placed: after(50),
            flushed: after(flushed),
        };
        let times = [at_log(6, 100), at_log(1, 200)];
        let mut sends = SendCounter::new(&observer, &times, after(210), after(230));
        let placement = Placement {
            queue_offset: QueueOffset::ZERO,
            physical_offset: PhysicalOffset::ZERO,
            store_timestamp_ms: 0,
        };
        let outcomes = vec![AppendOutcome::Placed(placement); 7];
        queue.complete(outcomes, |waiting, completion, trip| {
            let Waiting::Producer(producer) = waiting else { unreachable!("all are producers") };
            sends.count(&producer, &completion, trip);
        });
        sends.end();

        let counted = observer.sends();
        assert_eq!((counted.count(), counted.sum, counted.max), (5, 2 * 230_000 + 3 * 200_000, 230_000));
        let slowest = observer.slowest();
        let told: Vec<_> = slowest.iter().map(|slow| slow.describe(0, after(230), 0)).collect();
        assert_eq!(
            told.iter().map(|slow| slow.total_us).collect::<Vec<_>>(),
            [230.0, 230.0, 200.0, 200.0, 200.0]
        );
        assert_eq!(told.iter().map(|slow| slow.records).sum::<u32>(), 7);
        let flushes: f64 = told.iter().map(|slow| slow.stages_us["flush"]).sum();
        assert_eq!(flushes, 4.0 * 50.0 + 150.0, "the last one was in the later batch");
        assert_eq!(traffic.totals().0, 7);
    }
}
