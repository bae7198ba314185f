//! Requests of clients about themselves and of tools, against a whole shard that is stopped and started again.

use crate::remoting::field_text::FieldText;

use super::running_shard::{Answer, Client, RunningShard, on_core};
use crate::broker::wall_clock_ms;
use crate::remoting::body::group::{ConsumerConnection, ConsumerList};
use crate::remoting::body::queue::{LockBatchRequestBody, LockBatchResponseBody, MessageQueue};
use crate::remoting::body::stats::{ConsumeStats, KVTable, TopicStatsTable};
use crate::remoting::code::{request, response};
use crate::remoting::fastjson;

const SEND_V2: i32 = request::SEND_MESSAGE_V2;

/// A heartbeat of one consumer group with a subscription to one topic.
fn heartbeat(client_id: &str, group: &str, topic: &str) -> Vec<u8> {
    format!(
        r#"{{"clientID":"{client_id}","producerDataSet":[{{"groupName":"p-{group}"}}],"consumerDataSet":[{{"groupName":"{group}",
        "consumeType":"CONSUME_PASSIVELY","messageModel":"CLUSTERING","consumeFromWhere":"CONSUME_FROM_LAST_OFFSET","unitMode":false,
        "subscriptionDataSet":[{{"topic":"{topic}","subString":"*","subVersion":5,"expressionType":"TAG","tagsSet":[],"codeSet":[]}}]}}]}}"#
    )
    .into_bytes()
}

async fn send(client: &Client, topic: &str, queue_id: i32, body: &[u8]) -> Answer {
    let fields: [(&str, &dyn FieldText); 8] = [
        ("a", &"p"),
        ("b", &topic),
        ("c", &"TBW102"),
        ("d", &4),
        ("e", &queue_id),
        ("f", &0),
        ("g", &1),
        ("h", &0),
    ];
    client.ask(SEND_V2, &fields, body).await
}

#[test]
fn what_is_not_known_or_not_whole_is_refused_and_oneway_is_never_answered() {
    on_core(async |dir| {
        let shard = RunningShard::open(&dir).await;
        let client = shard.client();
        let unknown = client.ask(99_999, &[], &[]).await;
        assert_eq!((unknown.code, unknown.remark.as_str()), (3, " request type 99999 not supported"));

        let incomplete = client.ask(request::GET_MAX_OFFSET, &[("topic", &"T")], &[]).await;
        assert_eq!(incomplete.code, 1);
        assert!(incomplete.remark.contains("queueId"), "{}", incomplete.remark);
        let no_number = client.ask(request::GET_MAX_OFFSET, &[("topic", &"T"), ("queueId", &"x")], &[]).await;
        assert_eq!(no_number.code, 1);
        let no_json = client.ask(request::HEART_BEAT, &[], b"{\"clientID\":").await;
        assert_eq!(no_json.code, 1);

        for code in [99_999, request::GET_MAX_OFFSET, request::HEART_BEAT, request::UNLOCK_BATCH_MQ] {
            let opaque = client.send(code, &[], b"{}", true).await;
            assert!(!client.is_answered(opaque), "{code}");
        }
        shard.close().await;
    });
}

#[test]
fn members_hear_of_each_other_and_the_retry_topic_is_there() {
    on_core(async |dir| {
        let shard = RunningShard::open(&dir).await;
        let (first, second) = (shard.client(), shard.client());
        let unknown = first.ask(request::GET_CONSUMER_LIST_BY_GROUP, &[("consumerGroup", &"g")], &[]).await;
        assert_eq!((unknown.code, unknown.remark.as_str()), (1, "no consumer for this group, g"));

        let answer = first.ask(request::HEART_BEAT, &[], &heartbeat("c1", "g", "T")).await;
        assert_eq!(answer.code, 0, "{}", answer.remark);
        assert_eq!(
            (answer.field("IS_SUPPORT_HEART_BEAT_V2"), answer.field("IS_SUB_CHANGE")),
            ("true", "true")
        );
        assert!(shard.broker.borrow().durable_topic("%RETRY%g").is_some(), "durable before the answer");
        let told = shard.outside.registered.borrow().last().expect("name servers were told").clone();
        assert_eq!((told.topics[0].topic_name.as_str(), told.complete), ("%RETRY%g", false));
        assert!(shard.outside.created_elsewhere.borrow().is_empty(), "members go to every shard themselves");

        assert_eq!(first.take_notices().len(), 1);
        second.ask(request::HEART_BEAT, &[], &heartbeat("c2", "g", "T")).await;
        for client in [&first, &second] {
            let notices = client.take_notices();
            assert_eq!(notices.len(), 1);
            assert_eq!(notices[0].code, request::NOTIFY_CONSUMER_IDS_CHANGED);
            assert_eq!(notices[0].field("consumerGroup"), "g");
        }
        let list = second.ask(request::GET_CONSUMER_LIST_BY_GROUP, &[("consumerGroup", &"g")], &[]).await;
        let list: ConsumerList = fastjson::read("ConsumerList", &list.body).unwrap();
        assert_eq!(list.consumer_id_list, ["c1", "c2"]);
        let who = second.ask(request::GET_CONSUMER_CONNECTION_LIST, &[("consumerGroup", &"g")], &[]).await;
        let who: ConsumerConnection = fastjson::read("ConsumerConnection", &who.body).unwrap();
        assert_eq!(who.connection_set.len(), 2);
        assert!(who.subscription_table.contains_key("T"));
        let producers =
            second.ask(request::GET_PRODUCER_CONNECTION_LIST, &[("producerGroup", &"p-g")], &[]).await;
        assert_eq!(producers.code, 0);

        first.hang_up();
        assert_eq!(second.take_notices().len(), 1, "a lost connection is a member gone");
        let fields: [(&str, &dyn FieldText); 2] = [("clientID", &"c2"), ("consumerGroup", &"g")];
        assert_eq!(second.ask(request::UNREGISTER_CLIENT, &fields, &[]).await.code, 0);
        let gone = second.ask(request::GET_CONSUMER_CONNECTION_LIST, &[("consumerGroup", &"g")], &[]).await;
        assert_eq!(gone.code, response::CONSUMER_NOT_ONLINE);
        shard.close().await;
    });
}

/// The old connection of a client whose network was cut lives on here until it is idle for two minutes.
#[test]
fn a_client_that_came_back_on_a_new_connection_is_listed_once() {
    on_core(async |dir| {
        let shard = RunningShard::open(&dir).await;
        let (before, after) = (shard.client(), shard.client());
        for client in [&before, &after] {
            client.ask(request::HEART_BEAT, &[], &heartbeat("c1", "g", "T")).await;
        }
        let list = after.ask(request::GET_CONSUMER_LIST_BY_GROUP, &[("consumerGroup", &"g")], &[]).await;
        assert_eq!(list.text(), r#"{"consumerIdList":["c1"]}"#);
        before.hang_up();
        let list = after.ask(request::GET_CONSUMER_LIST_BY_GROUP, &[("consumerGroup", &"g")], &[]).await;
        assert_eq!(list.text(), r#"{"consumerIdList":["c1"]}"#);
        shard.close().await;
    });
}

#[test]
fn a_heartbeat_names_a_group_that_may_not_be() {
    on_core(async |dir| {
        let shard = RunningShard::open(&dir).await;
        let client = shard.client();
        let answer = client.ask(request::HEART_BEAT, &[], &heartbeat("c1", "a b", "T")).await;
        assert_eq!(answer.code, 0, "as stock: the other groups count");
        assert!(shard.broker.borrow().consumers.is_empty());
        shard.close().await;
    });
}

/// C6
#[test]
fn a_filter_by_properties_is_checked_before_a_consumer_starts() {
    on_core(async |dir| {
        let shard = RunningShard::open(&dir).await;
        let client = shard.client();
        let check = async |kind: &str, expression: &str| {
            let body = format!(
                r#"{{"clientId":"c","group":"g","subscriptionData":{{"topic":"T","subString":"{expression}","expressionType":"{kind}"}}}}"#
            );
            let answer = client.ask(request::CHECK_CLIENT_CONFIG, &[], body.as_bytes()).await;
            (answer.code, answer.remark)
        };
        assert_eq!(check("TAG", "a || b").await.0, 0);
        assert_eq!(check("SQL92", "a > 1").await.0, 0);
        let found =
            "found the end at byte 3 of the expression, expected a property, a literal, NOT, a sign or (";
        assert_eq!(check("SQL92", "a >").await, (23, found.to_owned()));
        assert_eq!(check("SQL92", "").await.0, 23);
        let (code, remark) = check("SQL92", &"(".repeat(1000)).await;
        assert_eq!((code, remark.contains("nested deeper than 64")), (23, true), "{remark}");
        assert_eq!(check("XPATH", "a > 1").await.0, 23);
        shard.broker.borrow_mut().settings.enable_property_filter = false;
        let remark = "The broker does not support consumer to filter message by SQL92";
        assert_eq!(check("SQL92", "a > 1").await, (1, remark.to_owned()));
        assert_eq!(check("TAG", "a || b").await.0, 0);
        shard.close().await;
    });
}

#[test]
fn queues_are_locked_for_one_client_of_a_group() {
    on_core(async |dir| {
        let shard = RunningShard::open(&dir).await;
        let client = shard.client();
        let body = |client_id: &str, ids: &[i32]| {
            let queue =
                |id: &i32| MessageQueue { broker_name: "b".to_owned(), queue_id: *id, topic: "T".to_owned() };
            fastjson::write(&LockBatchRequestBody {
                client_id: client_id.to_owned(),
                consumer_group: "g".to_owned(),
                mq_set: ids.iter().map(queue).collect(),
                only_this_broker: false,
            })
        };
        let lock = async |client_id: &str, ids: &[i32]| -> Vec<i32> {
            let answer = client.ask(request::LOCK_BATCH_MQ, &[], &body(client_id, ids)).await;
            assert_eq!(answer.code, 0);
            let locked: LockBatchResponseBody =
                fastjson::read("LockBatchResponseBody", &answer.body).unwrap();
            locked.locked.iter().map(|queue| queue.queue_id).collect()
        };
        assert_eq!(lock("a", &[0, 1]).await, [0, 1]);
        assert_eq!(lock("b", &[1, 2]).await, [2]);
        assert_eq!(client.ask(request::UNLOCK_BATCH_MQ, &[], &body("a", &[0, 1, 2])).await.code, 0);
        assert_eq!(lock("b", &[0, 1]).await, [0, 1]);
        assert!(lock("c", &[2]).await.is_empty(), "only its owner unlocks");
        shard.close().await;
    });
}

#[test]
fn offsets_of_a_group_survive_a_restart() {
    on_core(async |dir| {
        let shard = RunningShard::open(&dir).await;
        let client = shard.client();
        assert_eq!(send(&client, "T", 0, b"one").await.code, 0);
        let update = async |group: &str, topic: &str, queue_id: i32, offset: i64| {
            let fields: [(&str, &dyn FieldText); 4] = [
                ("consumerGroup", &group),
                ("topic", &topic),
                ("queueId", &queue_id),
                ("commitOffset", &offset),
            ];
            client.ask(request::UPDATE_CONSUMER_OFFSET, &fields, &[]).await.code
        };
        assert_eq!(update("g", "T", 0, 7).await, 0);
        assert_eq!(update("g", "T", 0, 3).await, 0, "going back is allowed");
        assert_eq!(update("g", "Nope", 0, 1).await, response::TOPIC_NOT_EXIST);
        assert_eq!(update("a b", "T", 0, 1).await, response::SUBSCRIPTION_GROUP_NOT_EXIST);
        assert_eq!(update("g", "T", -1, 1).await, response::INVALID_PARAMETER);
        shard.close().await;

        let shard = RunningShard::open(&dir).await;
        let client = shard.client();
        let query = async |group: &str, queue_id: i32, zero: Option<bool>| {
            let zero_text = zero.map(|zero| zero.to_string()).unwrap_or_default();
            let mut fields: Vec<(&str, &dyn FieldText)> =
                vec![("consumerGroup", &group), ("topic", &"T"), ("queueId", &queue_id)];
            if zero.is_some() {
                fields.push(("setZeroIfNotFound", &zero_text));
            }
            client.ask(request::QUERY_CONSUMER_OFFSET, &fields, &[]).await
        };
        assert_eq!(query("g", 0, None).await.field("offset"), "3");
        assert_eq!(query("new", 0, None).await.field("offset"), "0", "its first message is recent");
        assert_eq!(query("new", 1, None).await.field("offset"), "0", "nothing can be missed");
        assert_eq!(query("new", 0, Some(false)).await.code, response::QUERY_NOT_FOUND);
        assert_eq!(query("new", 9, None).await.code, response::QUERY_NOT_FOUND, "no such queue");
        shard.close().await;
    });
}

#[test]
fn a_first_send_makes_a_durable_topic_on_all_shards() {
    on_core(async |dir| {
        let shard = RunningShard::open(&dir).await;
        let (first, second) = (shard.client(), shard.client());
        let one = first.send(
            SEND_V2,
            &[
                ("a", &"p"),
                ("b", &"T"),
                ("c", &"TBW102"),
                ("d", &4),
                ("e", &0),
                ("f", &0),
                ("g", &1),
                ("h", &0),
            ],
            b"one",
            false,
        );
        let (one, two) = (one.await, send(&second, "T", 1, b"two").await);
        assert_eq!((first.answer(one).await.code, two.code), (0, 0));
        let created = shard.outside.created_elsewhere.borrow().clone();
        assert_eq!(created.len(), 1, "once");
        assert_eq!((created[0].topic_name.as_str(), created[0].write_queue_nums), ("T", 4));
        let file = std::fs::read_to_string(dir.join("config/topics.json")).unwrap();
        assert!(file.contains("\"topicName\": \"T\"") || file.contains("\"topicName\":\"T\""), "{file}");
        assert_eq!(send(&first, "bad topic", 0, b"x").await.code, response::INVALID_PARAMETER);

        broker_gets_topic_from_elsewhere(&shard, &first).await;
        shard.close().await;
    });
}

async fn broker_gets_topic_from_elsewhere(shard: &RunningShard, client: &Client) {
    let config = crate::remoting::body::topic::TopicConfig::new("Other", 2);
    crate::broker::create_topic_from_elsewhere(&shard.broker, config);
    assert_eq!(send(client, "Other", 1, b"x").await.code, 0);
    assert!(
        shard.outside.created_elsewhere.borrow().iter().all(|config| config.topic_name != "Other"),
        "it goes no further"
    );
}

#[test]
fn no_topic_is_made_when_that_is_switched_off() {
    on_core(async |dir| {
        let settings = crate::broker::Settings { auto_create_topic: false, ..Default::default() };
        let shard = RunningShard::open_with(&dir, settings).await;
        let client = shard.client();
        assert_eq!(send(&client, "T", 0, b"x").await.code, response::TOPIC_NOT_EXIST);
        shard.close().await;
    });
}

#[test]
fn tools_make_change_and_delete_topics() {
    on_core(async |dir| {
        let shard = RunningShard::open(&dir).await;
        let client = shard.client();
        let create = async |topic: &str, queues: i32, attributes: &str| {
            let fields: [(&str, &dyn FieldText); 7] = [
                ("topic", &topic),
                ("defaultTopic", &"TBW102"),
                ("readQueueNums", &queues),
                ("writeQueueNums", &queues),
                ("perm", &6),
                ("topicFilterType", &"SINGLE_TAG"),
                ("attributes", &attributes),
            ];
            client.ask(request::UPDATE_AND_CREATE_TOPIC, &fields, &[]).await.code
        };
        assert_eq!(create("T", 3, "+a=1,+b=2").await, 0);
        assert_eq!(create("T", 5, "-a").await, 0);
        assert_eq!(create("T", 5, "nonsense").await, response::INVALID_PARAMETER);
        assert_eq!(create("T", -1, "").await, response::INVALID_PARAMETER);
        assert_eq!(create("TBW102", 1, "").await, response::INVALID_PARAMETER);
        assert_eq!(create("a b", 1, "").await, response::INVALID_PARAMETER);
        let config = client.ask(request::GET_TOPIC_CONFIG, &[("topic", &"T")], &[]).await;
        let config: crate::remoting::body::topic::TopicConfig =
            fastjson::read("TopicConfig", &config.body).unwrap();
        assert_eq!((config.read_queue_nums, config.attributes.len()), (5, 1));
        assert_eq!(config.attributes["b"], "2");

        for round in 0..3 {
            assert_eq!(send(&client, "T", 4, b"x").await.field("queueOffset"), round.to_string());
        }
        assert_eq!(client.ask(request::DELETE_TOPIC_IN_BROKER, &[("topic", &"T")], &[]).await.code, 0);
        assert!(shard.outside.registered.borrow().last().expect("told").complete);
        let gone = client.ask(request::GET_TOPIC_CONFIG, &[("topic", &"T")], &[]).await;
        assert_eq!(gone.code, response::TOPIC_NOT_EXIST);
        assert_eq!(create("T", 5, "").await, 0);
        assert_eq!(send(&client, "T", 4, b"x").await.code, 0);
        shard.close().await;

        let shard = RunningShard::open(&dir).await;
        assert!(shard.broker.borrow().topics.contains("T"));
        shard.close().await;
    });
}

#[test]
fn a_deleted_topic_stays_deleted_after_a_restart() {
    on_core(async |dir| {
        let shard = RunningShard::open(&dir).await;
        let client = shard.client();
        assert_eq!(send(&client, "T", 0, b"x").await.code, 0);
        assert_eq!(client.ask(request::DELETE_TOPIC_IN_BROKER, &[("topic", &"T")], &[]).await.code, 0);
        shard.close().await;
        let shard = RunningShard::open(&dir).await;
        assert!(!shard.broker.borrow().topics.contains("T"));
        shard.close().await;
    });
}

/// A topic's configuration is durable before its first message is; but a file can be lost or put back.
#[test]
fn a_topic_whose_configuration_is_lost_comes_back_from_the_log() {
    on_core(async |dir| {
        let shard = RunningShard::open(&dir).await;
        let client = shard.client();
        assert_eq!(send(&client, "T", 3, b"x").await.code, 0);
        shard.close().await;
        for file in ["topics.json", "topics.json.bak"] {
            let _ = std::fs::remove_file(dir.join("config").join(file));
        }
        let shard = RunningShard::open(&dir).await;
        let queues = shard.broker.borrow().topics.get("T").map(|config| config.read_queue_nums);
        assert_eq!(queues, Some(4));
        assert_eq!(send(&shard.client(), "T", 3, b"y").await.field("queueOffset"), "1");
        shard.close().await;
    });
}

#[test]
fn tools_see_queues_progress_and_the_broker() {
    on_core(async |dir| {
        let shard = RunningShard::open(&dir).await;
        let client = shard.client();
        for _ in 0..3 {
            assert_eq!(send(&client, "T", 1, b"x").await.code, 0);
        }
        let queue: [(&str, &dyn FieldText); 2] = [("topic", &"T"), ("queueId", &1)];
        assert_eq!(client.ask(request::GET_MAX_OFFSET, &queue, &[]).await.field("offset"), "3");
        assert_eq!(client.ask(request::GET_MIN_OFFSET, &queue, &[]).await.field("offset"), "0");
        let stored = client.ask(request::GET_EARLIEST_MSG_STORETIME, &queue, &[]).await;
        let stored_ms: i64 = stored.field("timestamp").parse().unwrap();
        assert!((0..60_000).contains(&(wall_clock_ms() - stored_ms)), "{stored_ms}");
        let empty: [(&str, &dyn FieldText); 2] = [("topic", &"T"), ("queueId", &0)];
        assert_eq!(
            client.ask(request::GET_EARLIEST_MSG_STORETIME, &empty, &[]).await.field("timestamp"),
            "-1"
        );
        assert_eq!(client.ask(request::GET_MAX_OFFSET, &empty, &[]).await.field("offset"), "0");
        for (timestamp, offset) in [(0, "0"), (i64::MAX, "3")] {
            let fields: [(&str, &dyn FieldText); 3] =
                [("topic", &"T"), ("queueId", &1), ("timestamp", &timestamp)];
            let found = client.ask(request::SEARCH_OFFSET_BY_TIMESTAMP, &fields, &[]).await;
            assert_eq!(found.field("offset"), offset, "{timestamp}");
        }

        let stats = client.ask(request::GET_TOPIC_STATS_INFO, &[("topic", &"T")], &[]).await;
        let stats: TopicStatsTable = fastjson::read("TopicStatsTable", &stats.body).unwrap();
        let rows: Vec<i64> = stats.offset_table.0.iter().map(|(_, row)| row.max_offset).collect();
        assert_eq!(rows, [0, 3, 0, 0]);
        assert!(stats.offset_table.0[1].1.last_update_timestamp >= stored_ms);

        let fields: [(&str, &dyn FieldText); 4] =
            [("consumerGroup", &"g"), ("topic", &"T"), ("queueId", &1), ("commitOffset", &2)];
        assert_eq!(client.ask(request::UPDATE_CONSUMER_OFFSET, &fields, &[]).await.code, 0);
        let progress = client.ask(request::GET_CONSUME_STATS, &[("consumerGroup", &"g")], &[]).await;
        let progress: ConsumeStats = fastjson::read("ConsumeStats", &progress.body).unwrap();
        let row = &progress.offset_table.0[1].1;
        assert_eq!((row.broker_offset, row.consumer_offset), (3, 2));
        let groups = client.ask(request::QUERY_TOPIC_CONSUME_BY_WHO, &[("topic", &"T")], &[]).await;
        assert_eq!(groups.text(), r#"{"groupList":["g"]}"#);

        let info = client.ask(request::GET_BROKER_RUNTIME_INFO, &[], &[]).await;
        let info: KVTable = fastjson::read("KVTable", &info.body).unwrap();
        for key in [
            "brokerVersionDesc",
            "bootTimestamp",
            "runtime",
            "commitLogMaxOffset",
            "ringmq.core.1.longestStallMs",
        ] {
            assert!(info.table.contains_key(key), "{key}");
        }
        shard.close().await;
    });
}

#[test]
fn group_settings_of_tools_are_durable() {
    on_core(async |dir| {
        let shard = RunningShard::open(&dir).await;
        let client = shard.client();
        let body = br#"{"groupName":"g","retryMaxTimes":3,"consumeEnable":true,"retryQueueNums":1}"#;
        assert_eq!(client.ask(request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, &[], body).await.code, 0);
        let bad =
            client.ask(request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, &[], br#"{"groupName":"a b"}"#).await;
        assert_eq!(bad.code, response::INVALID_PARAMETER);
        shard.close().await;

        let shard = RunningShard::open(&dir).await;
        let client = shard.client();
        let group = client.ask(request::GET_SUBSCRIPTIONGROUP_CONFIG, &[("group", &"g")], &[]).await;
        assert!(group.text().contains("\"retryMaxTimes\":3"), "{}", group.text());
        assert_eq!(client.ask(request::DELETE_SUBSCRIPTIONGROUP, &[("groupName", &"g")], &[]).await.code, 0);
        assert!(shard.broker.borrow().groups.get("g").is_none());
        let all = client.ask(request::GET_ALL_SUBSCRIPTIONGROUP_CONFIG, &[], &[]).await;
        assert!(all.text().contains("TOOLS_CONSUMER"));
        shard.close().await;
    });
}
