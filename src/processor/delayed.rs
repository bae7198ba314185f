//! The task that delivers delayed messages: it sleeps until the head of a level is due, reads what is due from the schedule topic,
//! and stores each message once more, in its real topic and queue, with its properties as they are. Serve core.

use std::time::Duration;

use runtime::task;
use shards::limits::{PULL_BYTES_MAX, PULL_MESSAGES_MAX};
use shards::message_store::{Get, GetRequest, GetResult, GetStatus, ReadError, TagFilter};
use shards::position::QueueOffset;
use shards::record::crc::CRC_PROPERTY_BYTES;
use shards::record::properties::{self, Properties};
use shards::record::{RecordError, RecordFields, RecordView};

use crate::broker::append_queue::{PushError, Waiting};
use crate::broker::delay_schedule::Due;
use crate::broker::name::SCHEDULE_TOPIC;
use crate::broker::{Broker, BrokerCell, wall_clock_ms};

/// How long a level rests when it cannot be read.
const UNREADABLE_PAUSE_MS: i64 = 1_000;
/// How long a level rests when the append queue is full.
const BUSY_PAUSE_MS: i64 = 100;

/// Delivers until the node drains or the broker closes.
pub async fn deliver_delayed(cell: BrokerCell) {
    let changed = cell.borrow().delay.changed();
    while cell.borrow().is_delivering() {
        let now_ms = wall_clock_ms();
        if deliver_due(&cell, now_ms).await {
            task::yield_if_needed().await;
            continue;
        }
        let wait_ms = cell.borrow().delay.wait_ms(now_ms);
        match wait_ms {
            None => changed.wait().await,
            Some(wait_ms) => {
                let wait_ms = u64::try_from(wait_ms).unwrap_or(0);
                changed.wait_at_most(Duration::from_millis(wait_ms)).await;
            }
        }
    }
}

/// Delivers some of what is due at `now_ms`; false when nothing is.
pub(super) async fn deliver_due(cell: &BrokerCell, now_ms: i64) -> bool {
    let due = cell.borrow().delay.due(now_ms);
    let Some(due) = due else { return false };
    let read = read(cell, &due).await;
    deliver(&mut cell.borrow_mut(), &due, read, now_ms);
    true
}

async fn read(cell: &BrokerCell, due: &Due) -> Result<GetResult, ReadError> {
    let get = cell.borrow().store.get(&GetRequest {
        topic: SCHEDULE_TOPIC,
        queue_id: due.level.queue_id(),
        offset: due.next,
        messages_max: due.messages_max.min(PULL_MESSAGES_MAX),
        bytes_max: PULL_BYTES_MAX,
        filter: &TagFilter::All,
    });
    match get {
        Get::Ready(result) => Ok(result),
        Get::Cold(cold) => cold.run().await,
    }
}

/// Delivers what was read as far as it is due, and says when the level is to be looked at again.
fn deliver(broker: &mut Broker, due: &Due, read: Result<GetResult, ReadError>, now_ms: i64) {
    let level = due.level;
    // The read may have taken a while.
    if !broker.is_delivering() || !broker.delay.is_current(due) {
        return;
    }
    let result = match read {
        Ok(result) => result,
        Err(error) => {
            tracing::error!(level = level.number(), offset = %due.next, %error, "delayed messages cannot be read");
            broker.delay.look_at(level, Some(now_ms + UNREADABLE_PAUSE_MS));
            return;
        }
    };
    if result.status != GetStatus::Found && result.next_begin_offset > due.next {
        tracing::error!(
            level = level.number(), from = %due.next, to = %result.next_begin_offset, status = result.status.name(),
            "delayed messages are gone from the log and will not be delivered"
        );
        broker.delay.skipped(level, result.next_begin_offset);
    }
    let mut next = due.next.max(result.next_begin_offset);
    if result.status == GetStatus::Found {
        next = due.next;
        for record in result.records.iter().flat_map(|records| each_record(records)) {
            match deliver_one(broker, due, record, now_ms) {
                Ok(after) => next = after,
                Err(look_at_ms) => {
                    broker.delay.look_at(level, Some(look_at_ms));
                    return;
                }
            }
        }
    }
    let end = broker.store.bounds(SCHEDULE_TOPIC, level.queue_id()).map_or(next, |bounds| bounds.max);
    broker.delay.look_at(level, (next < end).then_some(now_ms));
}

/// The records in `bytes`, which lie back to back.
fn each_record(bytes: &[u8]) -> impl Iterator<Item = Result<RecordView<'_>, RecordError>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let view = RecordView::parse(rest);
        rest = view.as_ref().map_or(&[], |view| &rest[view.total_size()..]);
        Some(view)
    })
}

/// Delivers one message; returns the offset after it.
///
/// # Errors
/// When the message is to be looked at again, milliseconds since the epoch: it is not due, or there is no room for it.
fn deliver_one(
    broker: &mut Broker,
    due: &Due,
    record: Result<RecordView<'_>, RecordError>,
    now_ms: i64,
) -> Result<QueueOffset, i64> {
    let level = due.level;
    let view = match record {
        Ok(view) => view,
        Err(error) => {
            tracing::error!(level = level.number(), %error, "a delayed message cannot be read");
            return Err(now_ms + UNREADABLE_PAUSE_MS);
        }
    };
    broker.delay.judge(level, view.store_timestamp_ms(), now_ms)?;
    let after = view.queue_offset().plus(1);
    let Some((topic, queue_id)) = real_place(&view) else {
        tracing::error!(level = level.number(), offset = %view.queue_offset(), "a delayed message has no real topic and queue");
        broker.delay.skipped(level, after);
        return Ok(after);
    };
    let record = RecordFields {
        topic,
        queue_id,
        flag: view.flag(),
        sys_flag: view.sys_flag(),
        born_timestamp_ms: view.born_timestamp_ms(),
        born_host: view.born_host(),
        store_host: broker.identity.addr,
        reconsume_times: view.reconsume_times(),
        prepared_transaction_offset: 0,
        body: view.body(),
        properties: without_crc(&view),
    };
    match broker.appends.push(record, Waiting::Delay { level, delivered: after }) {
        Ok(()) => {
            broker.delay.delivering(level, after);
            Ok(after)
        }
        Err(PushError::Overload { .. } | PushError::Late { .. }) => Err(now_ms + BUSY_PAUSE_MS),
        Err(PushError::Record(error)) => {
            tracing::error!(level = level.number(), offset = %view.queue_offset(), %error, "a delayed message cannot be stored");
            broker.delay.skipped(level, after);
            Ok(after)
        }
    }
}

fn real_place<'v>(view: &RecordView<'v>) -> Option<(&'v str, u32)> {
    let (mut topic, mut queue_id) = (None, None);
    for (name, value) in Properties::new(view.properties()) {
        match name {
            properties::REAL_TOPIC => topic = Some(value),
            properties::REAL_QUEUE_ID => queue_id = value.parse().ok(),
            _ => {}
        }
    }
    Some((topic?, queue_id?))
}

/// The properties without the checksum, which the new record gets anew.
fn without_crc<'v>(view: &RecordView<'v>) -> &'v [u8] {
    let properties = view.properties();
    if view.has_record_crc() { &properties[..properties.len() - CRC_PROPERTY_BYTES] } else { properties }
}
