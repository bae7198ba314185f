//! Offsets: of groups (14, 15), of queues (30, 31, 32), by time (29).

use super::header;

header! {
    /// QUERY_CONSUMER_OFFSET (14).
    QueryConsumerOffsetHeader<'r> {
        consumer_group: &'r str = text("consumerGroup"),
        topic: &'r str = text("topic"),
        queue_id: i32 = value("queueId"),
        /// False: answer QUERY_NOT_FOUND for an unknown offset, also where 0 would do.
        set_zero_if_not_found: Option<bool> = value_or_none("setZeroIfNotFound"),
    }
}

header! {
    /// UPDATE_CONSUMER_OFFSET (15).
    UpdateConsumerOffsetHeader<'r> {
        consumer_group: &'r str = text("consumerGroup"),
        topic: &'r str = text("topic"),
        queue_id: i32 = value("queueId"),
        /// The next queue offset to consume.
        commit_offset: i64 = value("commitOffset"),
    }
}

header! {
    /// GET_MAX_OFFSET (30), GET_MIN_OFFSET (31), GET_EARLIEST_MSG_STORETIME (32).
    QueueHeader<'r> {
        topic: &'r str = text("topic"),
        queue_id: i32 = value("queueId"),
        /// Of 30 only. False: what is placed counts, readable or not.
        committed: bool = value_or("committed", true),
    }
}

header! {
    /// SEARCH_OFFSET_BY_TIMESTAMP (29).
    SearchOffsetHeader<'r> {
        topic: &'r str = text("topic"),
        queue_id: i32 = value("queueId"),
        /// Store time searched for, milliseconds since the epoch.
        timestamp_ms: i64 = value("timestamp"),
        /// `LOWER` (the first message at or after, the default) or `UPPER` (the last one at or before), in any case.
        boundary_type: Option<&'r str> = text_or_none("boundaryType"),
    }
}

impl SearchOffsetHeader<'_> {
    /// Whether the last message at or before the time is wanted, not the first at or after it.
    #[must_use]
    pub fn wants_upper(&self) -> bool {
        self.boundary_type.is_some_and(|boundary| boundary.eq_ignore_ascii_case("upper"))
    }
}
