//! What a commit sets off on the serve core, in this order: its messages become readable, producers get their answers, and
//! held pulls get their messages. Everything of one commit in one turn, under one borrow of the broker, so that each connection's
//! answers leave together.

use shards::append::Committed;

use crate::broker::append_queue::{Completion, Waiting};
use crate::broker::held_pulls::NewMessage;
use crate::broker::name::SCHEDULE_TOPIC;
use crate::broker::{Broker, BrokerCell, wall_clock_ms};
use crate::processor::{pull, send, send_back};

/// Takes a commit from the log core.
pub fn committed(cell: &BrokerCell, committed: Committed) {
    let broker = &mut *cell.borrow_mut();
    let Broker { identity, store, appends, held_pulls, delay, .. } = broker;
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
    appends.complete(committed.outcomes, |waiting, completion| match waiting {
        Waiting::Producer(producer) => send::answer(identity, &producer, &completion),
        Waiting::SendBack { connection, reply_to } => send_back::answer(&connection, reply_to, &completion),
        Waiting::Delay { level, delivered } => {
            let is_stored = matches!(completion, Completion::Placed(_));
            delay.completed(level, delivered, is_stored, wall_clock_ms());
        }
    });
    for pull in woken {
        pull::read_again(broker, pull);
    }
}
