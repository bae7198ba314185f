//! Brokers that come, change, move and go.

use super::*;

fn registration(broker_name: &str, id: i64, addr: &str, topics: &[&str]) -> Registration {
    Registration {
        cluster: "c".to_owned(),
        broker_name: broker_name.to_owned(),
        broker_id: id,
        broker_addr: addr.to_owned(),
        ha_server_addr: format!("{addr}-ha"),
        zone_name: None,
        enable_acting_master: Some(false),
        data_version: DataVersion { counter: 1, state_version: 0, timestamp: 1 },
        topics: topics.iter().map(|name| TopicConfig::new(name, 4)).collect(),
        complete: false,
        origin: Origin::Connection { id: ConnectionId(1), silence_max: None },
    }
}

fn own(broker_name: &str, addr: &str, topics: &[&str]) -> Registration {
    Registration { origin: Origin::ThisNode, complete: true, ..registration(broker_name, 0, addr, topics) }
}

fn brokers_of(table: &RouteTable, topic: &str) -> Vec<String> {
    table.route(topic).map_or_else(Vec::new, |route| {
        assert_eq!(route.queue_datas.len(), route.broker_datas.len());
        route.broker_datas.iter().map(|broker| broker.broker_name.clone()).collect()
    })
}

#[test]
fn a_route_lists_every_broker_of_the_topic() {
    let now = Instant::now();
    let mut table = RouteTable::default();
    table.register(own("b0", "h:1", &["T", "U"]), now).unwrap();
    table.register(own("b1", "h:2", &["T"]), now).unwrap();
    assert_eq!(brokers_of(&table, "T"), ["b0", "b1"]);
    assert_eq!(brokers_of(&table, "U"), ["b0"]);
    assert!(table.route("V").is_none());
    assert_eq!(table.topics(), ["T", "U"]);
    assert_eq!(table.cluster_info().cluster_addr_table["c"].len(), 2);
}

#[test]
fn a_complete_registration_forgets_what_it_leaves_out() {
    let now = Instant::now();
    let mut table = RouteTable::default();
    table.register(own("b0", "h:1", &["T", "U"]), now).unwrap();
    let mut partial = own("b0", "h:1", &["V"]);
    partial.complete = false;
    partial.data_version.counter = 2;
    table.register(partial, now).unwrap();
    assert_eq!(table.topics(), ["T", "U", "V"]);
    let mut complete = own("b0", "h:1", &["V"]);
    complete.data_version.counter = 3;
    table.register(complete, now).unwrap();
    assert_eq!(table.topics(), ["V"]);
    assert_eq!(table.entries, 1);
}

#[test]
fn unregistering_the_last_address_forgets_the_broker_and_its_topics() {
    let now = Instant::now();
    let mut table = RouteTable::default();
    table.register(registration("b0", 0, "h:1", &["T", "U"]), now).unwrap();
    table.register(registration("b0", 1, "h:2", &["T", "U"]), now).unwrap();
    assert!(table.unregister("c", "h:1", "b0").is_some());
    assert_eq!(brokers_of(&table, "T"), ["b0"]);
    assert!(table.unregister("c", "h:2", "b0").is_some());
    assert!(table.unregister("c", "h:2", "b0").is_none());
    assert!(table.topics().is_empty() && table.live.is_empty());
    assert_eq!(table.entries, 0);
}

#[test]
fn a_closed_connection_takes_its_brokers_and_no_others() {
    let now = Instant::now();
    let mut table = RouteTable::default();
    table.register(registration("b0", 0, "h:1", &["T", "U"]), now).unwrap();
    let mut other = registration("b1", 0, "h:2", &["T", "U"]);
    other.origin = Origin::Connection { id: ConnectionId(2), silence_max: None };
    table.register(other, now).unwrap();
    table.register(own("b2", "h:3", &["T"]), now).unwrap();
    assert_eq!(table.connection_closed(ConnectionId(1)).len(), 1);
    assert_eq!(brokers_of(&table, "T"), ["b1", "b2"]);
    assert_eq!(table.unregister_own().len(), 1);
    assert_eq!(brokers_of(&table, "T"), ["b1"]);
}

#[test]
fn silence_evicts_and_a_sign_of_life_does_not() {
    let start = Instant::now();
    let mut table = RouteTable::default();
    table.register(registration("b0", 0, "h:1", &["T", "U"]), start).unwrap();
    let mut brief = registration("b1", 0, "h:2", &["T", "U"]);
    brief.origin = Origin::Connection { id: ConnectionId(1), silence_max: Some(Duration::from_secs(10)) };
    table.register(brief, start).unwrap();
    table.register(own("b2", "h:3", &["T"]), start).unwrap();
    assert!(table.evict_silent(start + Duration::from_secs(10)).is_empty());
    let gone = table.evict_silent(start + Duration::from_secs(16));
    assert_eq!(gone, [Gone { broker_name: "b1".to_owned(), broker_addr: "h:2".to_owned() }]);
    assert!(table.heard("c", "h:1", start + Duration::from_secs(100)).is_some());
    assert!(table.evict_silent(start + Duration::from_secs(200)).is_empty());
    assert_eq!(table.evict_silent(start + Duration::from_secs(230)).len(), 1);
    assert_eq!(brokers_of(&table, "T"), ["b2"], "our own need no heartbeat");
}

#[test]
fn a_wiped_permission_stays_until_the_version_changes() {
    let now = Instant::now();
    let mut table = RouteTable::default();
    let perm_of = |table: &RouteTable| table.route("T").unwrap().queue_datas[0].perm;
    table.register(own("b0", "h:1", &["T"]), now).unwrap();
    assert_eq!(table.set_writable("b0", false), 1);
    table.register(own("b0", "h:1", &["T"]), now).unwrap();
    assert_eq!(perm_of(&table), perm::READ);
    let mut changed = own("b0", "h:1", &["T"]);
    changed.data_version.counter = 2;
    table.register(changed, now).unwrap();
    assert_eq!(perm_of(&table), perm::READ | perm::WRITE);
}

#[test]
fn a_broker_moves_between_ids_and_addresses() {
    let now = Instant::now();
    let mut table = RouteTable::default();
    table.register(registration("b0", 1, "h:1", &["T", "U"]), now).unwrap();
    table.register(registration("b0", 0, "h:1", &["T", "U"]), now).unwrap();
    assert_eq!(table.member_group("c", "b0").broker_addrs, BTreeMap::from([(0, "h:1".to_owned())]));
    table.register(registration("b0", 0, "h:2", &["T", "U"]), now).unwrap();
    assert_eq!(table.member_group("c", "b0").broker_addrs, BTreeMap::from([(0, "h:2".to_owned())]));
    assert_eq!(table.live.len(), 1);
}

#[test]
fn an_older_state_version_does_not_take_an_id() {
    let now = Instant::now();
    let mut table = RouteTable::default();
    let mut newer = registration("b0", 0, "h:1", &["T", "U"]);
    newer.data_version.state_version = 2;
    table.register(newer, now).unwrap();
    let told = table.register(registration("b0", 0, "h:2", &["T", "U"]), now).unwrap();
    assert_eq!(told, Registered::default());
    assert_eq!(table.member_group("c", "b0").broker_addrs[&0], "h:1");
}

#[test]
fn a_single_topic_does_not_introduce_a_broker() {
    let now = Instant::now();
    let mut table = RouteTable::default();
    let error = table.register(registration("b0", 0, "h:1", &["T"]), now).unwrap_err();
    assert!(matches!(error, RegisterError::SingleTopicFirst { .. }));
    assert!(table.cluster_info().broker_addr_table.is_empty());
    table.register(registration("b0", 0, "h:1", &["T", "U"]), now).unwrap();
    let mut single = registration("b0", 0, "h:1", &["V"]);
    single.data_version.counter = 2;
    table.register(single, now).unwrap();
    assert_eq!(table.topics(), ["T", "U", "V"]);
}

#[test]
fn a_follower_is_told_its_leader_and_does_not_speak_for_topics() {
    let now = Instant::now();
    let mut table = RouteTable::default();
    table.register(registration("b0", 0, "h:1", &["T", "U"]), now).unwrap();
    let told = table.register(registration("b0", 1, "h:2", &["V", "W"]), now).unwrap();
    assert_eq!(told.master_addr.as_deref(), Some("h:1"));
    assert_eq!(told.ha_server_addr.as_deref(), Some("h:1-ha"));
    assert!(table.route("V").is_none());
}

#[test]
fn topics_are_deleted_in_one_cluster_or_everywhere() {
    let now = Instant::now();
    let mut table = RouteTable::default();
    table.register(own("b0", "h:1", &["T", "U"]), now).unwrap();
    let mut other = own("b1", "h:2", &["T", "U"]);
    other.cluster = "d".to_owned();
    table.register(other, now).unwrap();
    table.delete_topic("T", Some("c"));
    assert_eq!(brokers_of(&table, "T"), ["b1"]);
    assert_eq!(table.topics_of_cluster("c"), ["U"]);
    table.delete_topic("T", None);
    assert!(table.route("T").is_none());
    table.delete_topic("unknown", None);
    assert_eq!(table.entries, 2);
}

#[test]
fn topics_may_be_added_on_listed_brokers_only() {
    let mut table = RouteTable::default();
    table.register(own("b0", "h:1", &["T"]), Instant::now()).unwrap();
    let queue = |name: &str| QueueData { broker_name: name.to_owned(), perm: 6, ..QueueData::default() };
    table.add_topic("N", vec![queue("b0"), queue("stranger")]);
    assert!(table.route("N").is_none());
    table.add_topic("N", vec![queue("b0")]);
    assert_eq!(brokers_of(&table, "N"), ["b0"]);
}
