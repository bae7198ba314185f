//! Bytes of real peers read as they were meant, and ours are those that real peers were seen to read.

mod golden;

use std::collections::{BTreeMap, BTreeSet};

use bytes::BytesMut;
use golden::{JAVA_RELEASES, assert_is_golden};
use ringmq::remoting::body::heartbeat::{
    ConsumeType, ConsumerData, HeartbeatData, MessageModel, ProducerData, SubscriptionData,
};
use ringmq::remoting::body::queue::{LockBatchRequestBody, LockBatchResponseBody, MessageQueue};
use ringmq::remoting::body::registration::{RegisterBrokerBody, TopicConfigTable};
use ringmq::remoting::body::route::{BrokerData, ClusterInfo, QueueData, TopicRoute, TopicRouteData};
use ringmq::remoting::body::stats::{KVTable, TopicOffset, TopicStatsTable};
use ringmq::remoting::body::subscription_group::SubscriptionGroupConfig;
use ringmq::remoting::body::topic::{DataVersion, TopicConfig, TopicList};
use ringmq::remoting::fastjson::{self, ObjectKeyed};
use ringmq::remoting::frame::{Frame, SerializeType, split_frame};
use ringmq::remoting::header::name_server::{RegisterBrokerHeader, RouteHeader};
use ringmq::remoting::header::offset::{QueryConsumerOffsetHeader, UpdateConsumerOffsetHeader};
use ringmq::remoting::header::pull::{PullHeader, pull_flag};
use ringmq::remoting::header::send::{SendBackHeader, SendHeader};
use ringmq::remoting::request::Request;
use ringmq::remoting::response::{ReplyTo, write_response_head};

/// The properties of the captured sends, as clients encode them.
const PROPERTIES: [&str; 3] = [
    "KEYS\u{1}key \"1\" \\ 键\u{2}",
    "TAGS\u{1}TagA\u{2}",
    "UNIQ_KEY\u{1}7F0000010000000000000000000000\u{2}",
];

fn frame_of(folder: &str, name: &str) -> Frame {
    let mut input = BytesMut::from(&*golden::read(folder, &format!("frame.{name}")));
    let frame = split_frame(&mut input).unwrap().unwrap();
    assert!(input.is_empty(), "{folder}/{name} is one frame");
    frame
}

fn body<T: serde::de::DeserializeOwned>(folder: &str, name: &str) -> T {
    fastjson::read("golden", &golden::read(folder, &format!("body.{name}"))).unwrap()
}

/// Calls `check` with every capture of a request, in both forms where there are both.
fn for_each(names: &[&str], code: i32, check: impl Fn(&Request<'_>)) {
    for folder in JAVA_RELEASES {
        for name in names {
            let frame = frame_of(folder, name);
            let request = Request::decode(&frame).unwrap();
            assert_eq!((request.code, request.opaque, request.language), (code, 77, 0), "{folder}/{name}");
            assert!(request.version >= 401 && !request.is_response(), "{folder}/{name}");
            check(&request);
        }
    }
}

fn assert_send(header: &SendHeader<'_>) {
    assert_eq!((header.producer_group, header.topic, header.default_topic), ("group-1", "Orders", "TBW102"));
    assert_eq!((header.default_topic_queue_nums, header.queue_id, header.sys_flag), (4, 3, 0));
    assert_eq!((header.born_timestamp_ms, header.flag), (1_700_000_000_000, 0));
    assert_eq!((header.reconsume_times, header.max_reconsume_times), (0, Some(16)));
    // 4.x leaves out the last separator.
    assert_eq!(header.properties.trim_end_matches('\u{2}'), PROPERTIES.concat().trim_end_matches('\u{2}'));
}

#[test]
fn sends_of_java_clients() {
    for_each(&["send-v2.json", "send-v2.rocketmq"], 310, |request| {
        let header = SendHeader::parse(request).unwrap();
        assert_send(&header);
        assert!(!header.batch);
        assert_eq!(&request.body[..], "hello, 消息".as_bytes());
    });
    for_each(&["send-long.json", "send-long.rocketmq"], 10, |request| {
        assert_send(&SendHeader::parse(request).unwrap());
    });
    for_each(&["send-batch.json", "send-batch.rocketmq"], 320, |request| {
        let header = SendHeader::parse(request).unwrap();
        assert!(header.batch);
        assert_send(&header);
        let first = i32::from_be_bytes(request.body[..4].try_into().unwrap());
        assert_eq!(usize::try_from(first).unwrap() * 3, request.body.len());
    });
}

#[test]
fn requests_of_java_consumers() {
    for_each(&["pull.json", "pull.rocketmq"], 11, |request| {
        let header = PullHeader::parse(request).unwrap();
        assert_eq!((header.consumer_group, header.topic, header.queue_id), ("group-1", "Orders", 3));
        assert_eq!((header.queue_offset, header.max_msg_nums, header.commit_offset), (100, 32, 99));
        assert!(header.has(pull_flag::COMMIT_OFFSET | pull_flag::SUSPEND | pull_flag::SUBSCRIPTION));
        assert_eq!((header.suspend_timeout_ms, header.sub_version), (15_000, 1_700_000_000_000));
        assert_eq!((header.subscription, header.expression_type), (Some("TagA || TagB"), Some("TAG")));
    });
    for_each(&["update-offset.json", "update-offset.rocketmq"], 15, |request| {
        assert!(request.is_oneway());
        let header = UpdateConsumerOffsetHeader::parse(request).unwrap();
        assert_eq!((header.topic, header.queue_id, header.commit_offset), ("Orders", 3, 99));
    });
    for_each(&["query-offset"], 14, |request| {
        let header = QueryConsumerOffsetHeader::parse(request).unwrap();
        assert_eq!((header.consumer_group, header.set_zero_if_not_found), ("group-1", None));
    });
    for_each(&["send-back"], 36, |request| {
        let header = SendBackHeader::parse(request).unwrap();
        assert_eq!((header.offset, header.group, header.delay_level), (4096, "group-1", 3));
        assert_eq!((header.origin_topic, header.max_reconsume_times), (Some("Orders"), Some(16)));
    });
    for_each(&["heartbeat.json", "heartbeat.rocketmq"], 34, |request| {
        let data: HeartbeatData = fastjson::read("HeartbeatData", request.body).unwrap();
        assert_heartbeat(&data);
    });
}

fn assert_heartbeat(data: &HeartbeatData) {
    assert_eq!((&*data.client_id, &*data.producers[0].group_name), ("10.0.0.1@1#2", "producers"));
    let consumer = &data.consumers[0];
    assert_eq!(
        (consumer.consume_type, consumer.message_model),
        (ConsumeType::Passively, MessageModel::Clustering)
    );
    let subscription = &consumer.subscription_data_set[0];
    assert_eq!((&*subscription.topic, &*subscription.sub_string), ("Orders", "TagA || TagB"));
    assert_eq!(subscription.code_set.len(), 2);
    assert!(subscription.is_by_tags());
}

#[test]
fn registrations_of_java_brokers() {
    for name in ["register-plain", "register-compressed"] {
        for_each(&[name], 103, |request| {
            let header = RegisterBrokerHeader::parse(request).unwrap();
            assert_eq!(
                (header.broker_name, header.broker_addr, header.broker_id),
                ("b0", "10.0.0.5:10911", 0)
            );
            assert_eq!(header.compressed, name == "register-compressed");
            let body = RegisterBrokerBody::decode(request.body, header.compressed).unwrap();
            assert_topics(&body.topic_config_serialize_wrapper);
        });
    }
    for folder in JAVA_RELEASES {
        assert_topics(&body(folder, "topic-configs"));
    }
    for_each(&["route"], 105, |request| {
        let header = RouteHeader::parse(request).unwrap();
        assert_eq!((header.topic, header.accept_standard_json_only), ("Orders", false));
    });
}

fn assert_topics(table: &TopicConfigTable) {
    assert_eq!(
        table.data_version,
        DataVersion { counter: 3, state_version: 0, timestamp: 1_700_000_000_000 }
    );
    let orders = &table.topic_config_table["Orders"];
    assert_eq!((orders.read_queue_nums, orders.write_queue_nums, orders.perm), (4, 8, 6));
    assert_eq!(table.topic_config_table["TBW102"].perm, 7);
}

#[test]
fn answers_of_java_servers() {
    for folder in JAVA_RELEASES {
        let frame = frame_of(folder, "send-response");
        let response = Request::decode(&frame).unwrap();
        assert!(response.is_response());
        assert_eq!(response.ext.get("msgId"), Some("7F00000100002A9F0000000000001000"));
        assert_eq!(response.ext.parse("queueOffset"), Ok(42_i64));

        for form in ["route-legacy", "route-standard"] {
            assert_eq!(body::<TopicRouteData>(folder, form), route_data(), "{folder}/{form}");
        }
        let cluster: ClusterInfo = body(folder, "cluster");
        assert_eq!(cluster.broker_addr_table["b0"].broker_addrs[&1], "10.0.0.6:10911");
        assert_eq!(body::<TopicStatsTable>(folder, "topic-stats"), topic_stats());
        assert_eq!(body::<LockBatchResponseBody>(folder, "lock-response").locked, [queue()]);
        let lock: LockBatchRequestBody = body(folder, "lock-request");
        assert_eq!((&*lock.client_id, &lock.mq_set[..]), ("10.0.0.1@1", &[queue()][..]));
        let group: SubscriptionGroupConfig = body(folder, "subscription-group");
        assert_eq!((&*group.group_name, group.retry_max_times, group.retry_queue_nums), ("group-1", 16, 1));
        assert!(group.consume_enable && group.consume_broadcast_enable);
        assert_eq!(body::<TopicList>(folder, "topic-list").topic_list, ["Orders"]);
        assert_eq!(body::<KVTable>(folder, "kv-table").table["brokerVersion"], "479");
    }
}

fn queue() -> MessageQueue {
    MessageQueue { broker_name: "b0".to_owned(), queue_id: 1, topic: "Orders".to_owned() }
}

fn topic_stats() -> TopicStatsTable {
    let offset = TopicOffset { last_update_timestamp: 1_700_000_000_000, max_offset: 9, min_offset: 1 };
    TopicStatsTable { offset_table: ObjectKeyed(vec![(queue(), offset)]), topic_put_tps: 0.0 }
}

fn route_data() -> TopicRouteData {
    TopicRouteData {
        broker_datas: vec![BrokerData {
            broker_addrs: BTreeMap::from([
                (0, "10.0.0.5:10911".to_owned()),
                (1, "10.0.0.6:10911".to_owned()),
            ]),
            broker_name: "b0".to_owned(),
            cluster: "DefaultCluster".to_owned(),
            enable_acting_master: false,
            zone_name: None,
        }],
        filter_server_table: BTreeMap::new(),
        order_topic_conf: Some("b0:4;消息".to_owned()),
        queue_datas: vec![QueueData {
            broker_name: "b0".to_owned(),
            perm: 6,
            read_queue_nums: 4,
            topic_sys_flag: 0,
            write_queue_nums: 4,
        }],
    }
}

#[test]
fn our_answers_are_those_that_java_reads() {
    for serialize_type in [SerializeType::Json, SerializeType::RocketMq] {
        let mut out = BytesMut::new();
        let to = ReplyTo { opaque: 77, serialize_type, oneway: false };
        write_response_head(
            &mut out,
            to,
            0,
            Some("quote \" and 消息\n"),
            &[
                ("msgId", &"7F00000100002A9F0000000000001000"),
                ("queueId", &3),
                ("queueOffset", &42_i64),
                ("MSG_REGION", &"DefaultRegion"),
                ("TRACE_ON", &true),
            ],
            4,
        );
        out.extend_from_slice(b"body");
        let form = if serialize_type == SerializeType::Json { "json" } else { "rocketmq" };
        assert_is_golden(&format!("frame.send-response.{form}"), &out);
    }
}

#[test]
fn our_bodies_are_those_that_java_reads() {
    let data = route_data();
    let route = TopicRoute {
        broker_datas: data.broker_datas.iter().collect(),
        filter_server_table: BTreeMap::new(),
        order_topic_conf: data.order_topic_conf.as_deref(),
        queue_datas: data.queue_datas.iter().collect(),
    };
    assert_is_golden("body.route-legacy", &fastjson::write(&route));
    assert_is_golden("body.route-standard", &fastjson::write_standard(&route));
    assert_is_golden("body.topic-stats", &topic_stats().encode());
    let cluster = ClusterInfo {
        broker_addr_table: BTreeMap::from([("b0".to_owned(), data.broker_datas[0].clone())]),
        cluster_addr_table: BTreeMap::from([(
            "DefaultCluster".to_owned(),
            BTreeSet::from(["b0".to_owned()]),
        )]),
    };
    assert_is_golden("body.cluster", &fastjson::write(&cluster));
    assert_is_golden(
        "body.lock-response",
        &fastjson::write(&LockBatchResponseBody { locked: vec![queue()] }),
    );
    let group =
        SubscriptionGroupConfig { group_name: "group-1".to_owned(), ..SubscriptionGroupConfig::default() };
    assert_is_golden("body.subscription-group", &fastjson::write(&group));
    let mut orders = TopicConfig::new("Orders", 4);
    orders.write_queue_nums = 8;
    let registration = RegisterBrokerBody {
        filter_server_list: Vec::new(),
        topic_config_serialize_wrapper: TopicConfigTable {
            data_version: DataVersion { counter: 3, state_version: 0, timestamp: 1_700_000_000_000 },
            topic_config_table: BTreeMap::from([("Orders".to_owned(), orders)]),
        },
    };
    assert_is_golden("body.registration", &registration.encode());
    assert_is_golden("body.heartbeat", &fastjson::write(&heartbeat()));
}

fn heartbeat() -> HeartbeatData {
    let subscription = SubscriptionData {
        code_set: vec![2_598_919, 2_598_920],
        sub_string: "TagA || TagB".to_owned(),
        sub_version: 1_700_000_000_000,
        tags_set: vec!["TagA".to_owned(), "TagB".to_owned()],
        topic: "Orders".to_owned(),
        ..SubscriptionData::default()
    };
    HeartbeatData {
        client_id: "10.0.0.1@1#2".to_owned(),
        producers: vec![ProducerData { group_name: "producers".to_owned() }],
        consumers: vec![ConsumerData {
            group_name: "group-1".to_owned(),
            subscription_data_set: vec![subscription],
            consume_from_where: "CONSUME_FROM_LAST_OFFSET".to_owned(),
            ..ConsumerData::default()
        }],
        ..HeartbeatData::default()
    }
}
