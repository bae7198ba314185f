//! Topics and groups as tools administer them.

use super::header;

header! {
    /// UPDATE_AND_CREATE_TOPIC (17).
    CreateTopicHeader<'r> {
        topic: &'r str = text("topic"),
        /// What the permissions are taken from; tools send `TBW102`.
        default_topic: Option<&'r str> = text_or_none("defaultTopic"),
        read_queue_nums: i32 = value("readQueueNums"),
        write_queue_nums: i32 = value("writeQueueNums"),
        /// Bits 2 write, 4 read.
        perm: i32 = value("perm"),
        /// `SINGLE_TAG` or `MULTI_TAG`; clients of other languages leave it out.
        topic_filter_type: Option<&'r str> = text_or_none("topicFilterType"),
        topic_sys_flag: i32 = value_or("topicSysFlag", 0),
        order: bool = value_or("order", false),
        /// Changes, as `+key=value,-key`.
        attributes: Option<&'r str> = text_or_none("attributes"),
    }
}

header! {
    /// DELETE_TOPIC_IN_BROKER (215), GET_TOPIC_STATS_INFO (202), QUERY_TOPIC_CONSUME_BY_WHO (300), GET_TOPIC_CONFIG (351).
    TopicHeader<'r> {
        topic: &'r str = text("topic"),
    }
}

header! {
    /// DELETE_SUBSCRIPTIONGROUP (207).
    DeleteGroupHeader<'r> {
        group_name: &'r str = text("groupName"),
        clean_offset: bool = value_or("cleanOffset", false),
    }
}

header! {
    /// GET_SUBSCRIPTIONGROUP_CONFIG (352), QUERY_TOPICS_BY_CONSUMER (343), QUERY_CONSUME_TIME_SPAN (303).
    GroupHeader<'r> {
        group: &'r str = text("group"),
        topic: Option<&'r str> = text_or_none("topic"),
    }
}
