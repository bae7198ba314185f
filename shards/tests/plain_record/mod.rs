//! A record of an ordinary message, for tests to which only its queue, its body and its properties matter.

use bytes::BytesMut;
use shards::record::RecordFields;

/// Appends the record to `records`, placement fields still empty; its size, bytes.
pub(crate) fn encode_plain(
    records: &mut BytesMut,
    topic: &str,
    queue_id: u32,
    properties: &[u8],
    body: &[u8],
) -> usize {
    let host = "127.0.0.1:10911".parse().unwrap();
    let fields = RecordFields {
        topic,
        queue_id,
        flag: 0,
        sys_flag: 0,
        born_timestamp_ms: 1,
        born_host: host,
        store_host: host,
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body,
        properties,
    };
    fields.encode(records).unwrap()
}
