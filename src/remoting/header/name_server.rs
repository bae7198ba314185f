//! What clients, brokers and tools ask of a name server.

use super::header;

header! {
    /// GET_ROUTEINFO_BY_TOPIC (105).
    RouteHeader<'r> {
        topic: &'r str = text("topic"),
        /// The client reads only standard JSON, whatever its version.
        accept_standard_json_only: bool = value_or("acceptStandardJsonOnly", false),
    }
}

header! {
    /// REGISTER_BROKER (103).
    RegisterBrokerHeader<'r> {
        broker_name: &'r str = text("brokerName"),
        broker_addr: &'r str = text("brokerAddr"),
        cluster_name: &'r str = text("clusterName"),
        ha_server_addr: &'r str = text("haServerAddr"),
        broker_id: i64 = value("brokerId"),
        /// How long the broker is taken to live without another word, milliseconds.
        heartbeat_timeout_ms: Option<i64> = value_or_none("heartbeatTimeoutMillis"),
        enable_acting_master: Option<bool> = value_or_none("enableActingMaster"),
        /// The body is a zlib stream of the length-prefixed form.
        compressed: bool = value_or("compressed", false),
        /// CRC-32 of the body as it came, its bits as a signed number; 0 when not to be checked.
        body_crc32: i32 = value_or("bodyCrc32", 0),
        zone_name: Option<&'r str> = text_or_none("__ZONE_NAME"),
    }
}

header! {
    /// UNREGISTER_BROKER (104), QUERY_DATA_VERSION (322).
    BrokerHeader<'r> {
        broker_name: &'r str = text("brokerName"),
        broker_addr: &'r str = text("brokerAddr"),
        cluster_name: &'r str = text("clusterName"),
        broker_id: i64 = value("brokerId"),
    }
}

header! {
    /// BROKER_HEARTBEAT (904), as far as a name server cares.
    BrokerHeartbeatHeader<'r> {
        cluster_name: &'r str = text("clusterName"),
        broker_addr: &'r str = text("brokerAddr"),
    }
}

header! {
    /// GET_BROKER_MEMBER_GROUP (901).
    MemberGroupHeader<'r> {
        cluster_name: &'r str = text("clusterName"),
        broker_name: &'r str = text("brokerName"),
    }
}

header! {
    /// WIPE_WRITE_PERM_OF_BROKER (205), ADD_WRITE_PERM_OF_BROKER (327).
    BrokerNameHeader<'r> {
        broker_name: &'r str = text("brokerName"),
    }
}

header! {
    /// PUT_KV_CONFIG (100).
    PutKvHeader<'r> {
        namespace: &'r str = text("namespace"),
        key: &'r str = text("key"),
        value: &'r str = text("value"),
    }
}

header! {
    /// GET_KV_CONFIG (101), DELETE_KV_CONFIG (102).
    KvKeyHeader<'r> {
        namespace: &'r str = text("namespace"),
        key: &'r str = text("key"),
    }
}

header! {
    /// GET_KVLIST_BY_NAMESPACE (219).
    KvNamespaceHeader<'r> {
        namespace: &'r str = text("namespace"),
    }
}

header! {
    /// DELETE_TOPIC_IN_NAMESRV (216), REGISTER_TOPIC_IN_NAMESRV (217).
    NameServerTopicHeader<'r> {
        topic: &'r str = text("topic"),
        /// Only the brokers of this cluster are meant.
        cluster_name: Option<&'r str> = text_or_none("clusterName"),
    }
}

header! {
    /// GET_TOPICS_BY_CLUSTER (224).
    ClusterHeader<'r> {
        cluster: &'r str = text("cluster"),
    }
}
