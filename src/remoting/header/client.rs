//! Clients and groups: UNREGISTER_CLIENT (35), GET_CONSUMER_LIST_BY_GROUP (38) and what names just a group.

use super::header;

header! {
    /// UNREGISTER_CLIENT (35).
    UnregisterClientHeader<'r> {
        client_id: &'r str = text("clientID"),
        producer_group: Option<&'r str> = text_or_none("producerGroup"),
        consumer_group: Option<&'r str> = text_or_none("consumerGroup"),
    }
}

header! {
    /// GET_CONSUMER_LIST_BY_GROUP (38), GET_CONSUMER_CONNECTION_LIST (203).
    ConsumerGroupHeader<'r> {
        consumer_group: &'r str = text("consumerGroup"),
    }
}

header! {
    /// GET_PRODUCER_CONNECTION_LIST (204).
    ProducerGroupHeader<'r> {
        producer_group: &'r str = text("producerGroup"),
    }
}

header! {
    /// GET_CONSUME_STATS (208).
    ConsumeStatsHeader<'r> {
        consumer_group: &'r str = text("consumerGroup"),
        /// Absent or empty: all topics of the group.
        topic: Option<&'r str> = text_or_none("topic"),
        /// Topics with `;` between them; goes before `topic`.
        topic_list: Option<&'r str> = text_or_none("topicList"),
    }
}
