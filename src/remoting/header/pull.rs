//! PULL_MESSAGE (11) and LITE_PULL_MESSAGE (361).

use super::header;

/// Bits of [`PullHeader::sys_flag`].
pub mod pull_flag {
    /// `commit_offset` is to be stored.
    pub const COMMIT_OFFSET: i32 = 0x1;
    /// The request may be held until a message arrives.
    pub const SUSPEND: i32 = 0x2;
    /// `subscription` counts; otherwise the one of the heartbeat does.
    pub const SUBSCRIPTION: i32 = 0x4;
    pub const CLASS_FILTER: i32 = 0x8;
    pub const LITE_PULL: i32 = 0x10;
}

header! {
    /// Asks for messages of one queue.
    PullHeader<'r> {
        consumer_group: &'r str = text("consumerGroup"),
        topic: &'r str = text("topic"),
        queue_id: i32 = value("queueId"),
        /// The first queue offset wanted.
        queue_offset: i64 = value("queueOffset"),
        max_msg_nums: i32 = value("maxMsgNums"),
        /// Bits of [`pull_flag`].
        sys_flag: i32 = value("sysFlag"),
        commit_offset: i64 = value("commitOffset"),
        /// How long the request may be held, milliseconds.
        suspend_timeout_ms: i64 = value("suspendTimeoutMillis"),
        subscription: Option<&'r str> = text_or_none("subscription"),
        /// When the subscription last changed, milliseconds since the epoch.
        sub_version: i64 = value("subVersion"),
        /// `TAG` or `SQL92`; absent means `TAG`.
        expression_type: Option<&'r str> = text_or_none("expressionType"),
        max_msg_bytes: Option<i32> = value_or_none("maxMsgBytes"),
        /// -1 a client, 0 to 2 a proxy.
        request_source: Option<i32> = value_or_none("requestSource"),
    }
}

impl PullHeader<'_> {
    /// Whether a bit of [`pull_flag`] is set.
    #[must_use]
    pub fn has(&self, flag: i32) -> bool {
        self.sys_flag & flag != 0
    }
}
