//! Looking messages up: QUERY_MESSAGE (12), VIEW_MESSAGE_BY_ID (33).

use super::header;

header! {
    /// QUERY_MESSAGE (12): messages with a key.
    QueryMessageHeader<'r> {
        topic: &'r str = text("topic"),
        key: &'r str = text("key"),
        max_num: i32 = value("maxNum"),
        /// Store times, milliseconds since the epoch.
        begin_timestamp_ms: i64 = value("beginTimestamp"),
        end_timestamp_ms: i64 = value("endTimestamp"),
        /// The key is the client's unique id of one message.
        unique_key: bool = value_or("_UNIQUE_KEY_QUERY", false),
    }
}

header! {
    /// VIEW_MESSAGE_BY_ID (33).
    ViewMessageHeader<'r> {
        topic: Option<&'r str> = text_or_none("topic"),
        /// Physical offset of the record.
        offset: i64 = value("offset"),
    }
}
