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
        };
        held_pulls.arrived(message, &mut woken);
    });
    let mut log_times = LogTimes { times: &committed.times, outcomes: 0 };
    let answered = Instant::now();
    appends.complete(committed.outcomes, |waiting, completion, trip| match waiting {
        Waiting::Producer(producer) => {
            send::answer(identity, &producer, &completion);
            let at_log = log_times.of(trip.last_outcome);
            count_send(observer, &producer, &completion, trip, at_log.map(|times| (*times, came, answered)));
        }
        Waiting::SendBack { connection, reply_to } => send_back::answer(&connection, reply_to, &completion),
        Waiting::Delay { level, delivered } => {
            let is_stored = matches!(completion, Completion::Placed(_));
            delay.completed(level, delivered, is_stored, wall_clock_ms());
        }
    });
    observer.commit_ended(answered);
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

/// Counts a send that was answered. `times`: on the log core, when the commit came, and when it was answered.
fn count_send(
    observer: &Observer,
    producer: &WaitingProducer,
    completion: &Completion,
    trip: &Trip,
    times: Option<(AppendTimes, Instant, Instant)>,
) {
    let Completion::Placed(placements) = completion else { return };
    let records = u32::try_from(placements.len()).expect("a push has a bounded number of records");
    producer.traffic.stored(producer.message_type, records, trip.bytes);
    let Some((at_log, committed, answered)) = times else { return };
    let timeline = Timeline {
        arrived: trip.arrived,
        taken: trip.taken,
        at_log: at_log.arrived,
        placed: at_log.placed,
        flushed: at_log.flushed,
        committed,
        answered,
    };
    observer.appended(&timeline, || Subject {
        request: if records == 1 { "send" } else { "send_batch" },
        topic: Rc::clone(&producer.traffic),
        queue_id: producer.queue_id,
        peer: producer.connection.peer(),
        records,
        bytes: trip.bytes,
    });
}
