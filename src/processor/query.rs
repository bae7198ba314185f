//! Looking messages up: QUERY_MESSAGE (12) by key, VIEW_MESSAGE_BY_ID (33) by physical offset. Tools and the `viewMessage` of
//! clients ask; what needs the disk runs as a task of its own.

use crate::remoting::field_text::FieldText;
use std::rc::Rc;

use bytes::Bytes;
use shards::message_store::{ReadError, RecordLookup};
use shards::position::PhysicalOffset;

use crate::processor::{Call, Refusal, Served};
use crate::remoting::code::response;
use crate::remoting::header::query::{QueryMessageHeader, ViewMessageHeader};
use crate::remoting::response::ReplyTo;
use crate::transport::Connection;

/// Most messages in an answer by key (RocketMQ's `maxMsgsNumBatch`).
const MESSAGES_MAX: i32 = 64;
/// Messages looked for by a unique key (RocketMQ's `defaultQueryMaxNum`): one, and its retries.
const MESSAGES_BY_UNIQUE_KEY: usize = 32;

/// Answers with the messages of a topic that have a key or unique key.
///
/// # Errors
/// A malformed header.
pub fn query_message(call: &Call<'_, '_>) -> Result<Served, Refusal> {
    let header = QueryMessageHeader::parse(call.request)?;
    let messages_max = if header.unique_key {
        MESSAGES_BY_UNIQUE_KEY
    } else {
        usize::try_from(header.max_num.clamp(1, MESSAGES_MAX)).expect("between 1 and 64")
    };
    let broker = call.broker.borrow();
    let (begin_ms, end_ms) = (header.begin_timestamp_ms, header.end_timestamp_ms);
    let found = broker.store.query_by_key(header.topic, header.key, messages_max, begin_ms, end_ms);
    // The index has everything that may be read.
    let indexed_to = broker.store.confirm_offset();
    let (connection, reply_to, now_ms) = (Rc::clone(call.connection), call.reply_to, call.now_ms);
    call.answer_later(async move {
        let found = found.await;
        let ext: [(&str, &dyn FieldText); 2] =
            [("indexLastUpdateTimestamp", &now_ms), ("indexLastUpdatePhyoffset", &indexed_to.get())];
        match found {
            Ok(records) if records.is_empty() => {
                let remark = "can not find message, maybe time range not correct";
                connection.reply(reply_to, response::QUERY_NOT_FOUND, Some(remark), &ext, &[]);
            }
            Ok(records) => connection.reply_pieces(reply_to, response::SUCCESS, None, &ext, records),
            Err(error) => unreadable(&connection, reply_to, &error),
        }
    })
}

/// Answers with the record at a physical offset.
///
/// # Errors
/// A malformed header, or no record at that place.
pub fn view_message_by_id(call: &Call<'_, '_>) -> Result<Served, Refusal> {
    let offset = ViewMessageHeader::parse(call.request)?.offset;
    let lookup = PhysicalOffset::from_i64(offset)
        .map_or(RecordLookup::None, |at| call.broker.borrow().store.record(at));
    let (connection, reply_to) = (Rc::clone(call.connection), call.reply_to);
    match lookup {
        RecordLookup::Ready(record) => {
            one(&connection, reply_to, record);
            Ok(Served::Now)
        }
        RecordLookup::None => Err(no_message(offset)),
        RecordLookup::Cold(cold) => call.answer_later(async move {
            match cold.run().await {
                Ok(Some(record)) => one(&connection, reply_to, record),
                Ok(None) => no_message(offset).send(&connection, reply_to),
                Err(error) => unreadable(&connection, reply_to, &error),
            }
        }),
    }
}

fn one(connection: &Connection, reply_to: ReplyTo, record: Bytes) {
    connection.reply_pieces(reply_to, response::SUCCESS, None, &[], vec![record]);
}

fn no_message(offset: i64) -> Refusal {
    let remark = format!("can not find message by the offset, {offset}");
    Refusal::new(response::SYSTEM_ERROR, remark)
}

fn unreadable(connection: &Connection, reply_to: ReplyTo, error: &ReadError) {
    tracing::error!(%error, "a message that was looked up could not be read");
    Refusal::new(response::SYSTEM_ERROR, error.to_string()).send(connection, reply_to);
}
