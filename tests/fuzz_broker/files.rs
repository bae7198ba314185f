//! The files of a broker and its configuration: what is damaged is refused with its name, or reads as what was written.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use ringmq::broker::config_file::load_file;
use ringmq::broker::consumer_offset::ConsumerOffsetTable;
use ringmq::broker::subscription_group::SubscriptionGroupTable;
use ringmq::broker::topic_table::TopicTable;
use ringmq::broker::{Identity, Settings, delay_offset};
use ringmq::config::Config;
use ringmq::config::text::ConfigText;
use ringmq::namesrv::NameServer;
use ringmq::remoting::body::subscription_group::SubscriptionGroupConfig;
use ringmq::remoting::body::topic::TopicConfig;
use shards::limits::{GROUPS_MAX, QUEUES_PER_TOPIC_MAX, TOPICS_MAX};
use shards::position::QueueOffset;

use crate::fuzzing::{mutate, text};

/// Memory for reading a file: values are larger than their text.
fn bound(bytes: usize) -> u64 {
    (256 * bytes + 64 * 1024) as u64
}

/// Every offset of the table.
fn offsets_of(table: &ConsumerOffsetTable) -> BTreeMap<(String, String), BTreeMap<i32, i64>> {
    let of_pair = |(topic, group): (&str, &str)| {
        let queues = table.queues(group, topic).cloned().unwrap_or_default();
        ((topic.to_owned(), group.to_owned()), queues)
    };
    table.pairs().map(of_pair).collect()
}

fn offset_table(random: &mut StdRng) -> ConsumerOffsetTable {
    let mut table = ConsumerOffsetTable::default();
    for _ in 0..random.random_range(1..12) {
        let topic = ["Orders", "%RETRY%g", "é"].choose(random).expect("not empty");
        let group = format!("g{}", random.random_range(0..3));
        table.commit(&group, topic, random.random_range(0..8), random.random_range(-1..1 << 40), 7);
    }
    table
}

/// A file with its checksum never gives offsets that were not written.
pub(crate) fn consumer_offsets(random: &mut StdRng) {
    let before = offset_table(random);
    let mut file = before.to_file();
    let mut after = ConsumerOffsetTable::default();
    after.load(&file).expect("our own file");
    assert_eq!(offsets_of(&after), offsets_of(&before));

    mutate(random, &mut file);
    let mut loaded = Ok(());
    let used = allocation_counter::measure(|| loaded = after.load(&file));
    assert!(used.bytes_max <= bound(file.len()), "{} bytes took {}", file.len(), used.bytes_max);
    let has_check = || {
        let standard: Option<serde_json::Value> = ringmq::remoting::fastjson::read("fuzz", &file).ok();
        standard.is_some_and(|value| value.get("offsetCheck").is_some_and(|check| !check.is_null()))
    };
    match loaded {
        // Without the checksum it is a file as RocketMQ writes it.
        Ok(()) if has_check() => assert_eq!(offsets_of(&after), offsets_of(&before)),
        Ok(()) => {}
        Err(error) => {
            assert_eq!(offsets_of(&after), offsets_of(&before), "a file that is refused changes nothing");
            let text = error.to_string();
            assert!(text.contains("consumerOffset.json") || text.contains("offsetCheck"), "{text}");
        }
    }
}

pub(crate) fn delay_offsets(random: &mut StdRng) {
    let before: BTreeMap<u32, QueueOffset> = (0..random.random_range(0..18))
        .map(|_| (random.random_range(1..19), QueueOffset::new(random.random_range(0..1 << 40))))
        .collect();
    let rows: Vec<_> = before.iter().map(|(level, offset)| (*level, *offset)).collect();
    let mut file = delay_offset::to_file(&rows, 7);
    assert_eq!(delay_offset::from_file(&file).expect("our own file"), before);
    mutate(random, &mut file);
    let is_checked = String::from_utf8_lossy(&file).matches("\"offsetCheck\"").count() == 1;
    match delay_offset::from_file(&file) {
        Ok(after) if is_checked => assert_eq!(after, before, "{}", String::from_utf8_lossy(&file)),
        Ok(_) => {}
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains("delayOffset.json") || text.contains("offsetCheck"), "{text}");
        }
    }
}

fn identity() -> Identity {
    Identity {
        cluster: "C".to_owned(),
        broker_name: "b-0".to_owned(),
        broker_id: 0,
        addr: SocketAddr::from(([127, 0, 0, 1], 10911)),
    }
}

fn listed_groups(table: &SubscriptionGroupTable) -> BTreeMap<String, SubscriptionGroupConfig> {
    table.iter().map(|config| (config.group_name.clone(), (**config).clone())).collect()
}

/// Tables of topics and groups: written and read back; changed, they are refused with the file's name, or hold nothing that a broker
/// would not make itself.
pub(crate) fn tables(random: &mut StdRng) {
    let empty = || TopicTable::new(&identity(), &Settings::default());
    let mut topics = empty();
    for number in 0..random.random_range(1..6) {
        let mut config = TopicConfig::new(&format!("Orders-{number}"), random.random_range(1..100));
        config.attributes.insert(text(random, 5), text(random, 5));
        config.order = random.random();
        topics.put(config, 7).expect("a good topic");
    }
    let listed = |table: &TopicTable| -> BTreeMap<String, TopicConfig> {
        table.iter().map(|config| (config.topic_name.clone(), (**config).clone())).collect()
    };
    let mut file = topics.to_file();
    let mut after = empty();
    after.load(&file).expect("our own file");
    assert_eq!(listed(&after), listed(&topics));
    mutate(random, &mut file);
    if random.random_bool(0.2) {
        let text = String::from_utf8_lossy(&file).replacen("QueueNums\": ", "QueueNums\": 99999", 1);
        file = text.into_bytes();
    }
    let mut after = empty();
    let own = listed(&after);
    let mut loaded = Ok(());
    let used = allocation_counter::measure(|| loaded = after.load(&file));
    assert!(used.bytes_max <= bound(file.len()), "{} bytes took {}", file.len(), used.bytes_max);
    match loaded {
        Ok(()) => {
            assert!(after.len() <= TOPICS_MAX);
            for config in after.iter() {
                assert!(config.read_queue_nums <= QUEUES_PER_TOPIC_MAX, "{config:?}");
                assert!(config.write_queue_nums <= QUEUES_PER_TOPIC_MAX, "{config:?}");
                let name = &config.topic_name;
                assert!(!name.is_empty() && !name.contains(['/', '\0']), "{name:?} is no folder's name");
            }
        }
        Err(error) => {
            assert!(error.to_string().contains("topics.json"), "{error}");
            assert_eq!(listed(&after), own, "a file that is refused changes nothing");
        }
    }

    let mut groups = SubscriptionGroupTable::new(true);
    for number in 0..random.random_range(1..4) {
        let config = SubscriptionGroupConfig {
            group_name: format!("g{number}"),
            retry_max_times: random.random(),
            consume_enable: random.random(),
            ..Default::default()
        };
        groups.put(config, 7).expect("a good group");
    }
    let mut file = groups.to_file();
    let mut after = SubscriptionGroupTable::new(true);
    after.load(&file).expect("our own file");
    assert!(groups.iter().all(|config| after.get(&config.group_name) == Some(config)));
    mutate(random, &mut file);
    let mut after = SubscriptionGroupTable::new(true);
    let own = listed_groups(&after);
    let mut loaded = Ok(());
    let used = allocation_counter::measure(|| loaded = after.load(&file));
    assert!(used.bytes_max <= bound(file.len()), "{} bytes took {}", file.len(), used.bytes_max);
    match loaded {
        Ok(()) => {
            assert!(after.len() <= GROUPS_MAX);
            for config in after.iter() {
                let name = &config.group_name;
                assert!(after.get(name) == Some(config), "{name:?} is not found by its name");
            }
            assert!(own.keys().all(|name| after.get(name).is_some()), "the system's groups are gone");
        }
        Err(error) => {
            assert!(error.to_string().contains("subscriptionGroup.json"), "{error}");
            assert_eq!(listed_groups(&after), own, "a file that is refused changes nothing");
        }
    }
}

/// A damaged file with a good version before it, with a damaged one, and without any.
pub(crate) fn versions_before(random: &mut StdRng) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("consumerOffset.json");
    let backup = folder.path().join("consumerOffset.json.bak");
    let (older, newer) = (offset_table(random), offset_table(random));
    let damage = |file: Vec<u8>, random: &mut StdRng| {
        let mut file = file;
        let at = random.random_range(1..file.len());
        file.truncate(at);
        file
    };
    let load = |table: &mut ConsumerOffsetTable| load_file(&path, |contents| table.load(contents));
    let mut table = ConsumerOffsetTable::default();
    std::fs::write(&path, damage(newer.to_file(), random)).expect("written");
    let error = load(&mut table).expect_err("damaged, and nothing before it").to_string();
    assert!(error.contains(&path.display().to_string()), "{error}");
    std::fs::write(&backup, damage(older.to_file(), random)).expect("written");
    assert!(load(&mut table).is_err(), "both are damaged");
    std::fs::write(&backup, older.to_file()).expect("written");
    load(&mut table).expect("the version before is good");
    assert_eq!(offsets_of(&table), offsets_of(&older));
    std::fs::write(&path, newer.to_file()).expect("written");
    load(&mut table).expect("the file is good");
    assert_eq!(offsets_of(&table), offsets_of(&newer));

    // The name server's file is refused in the same way.
    let path = folder.path().join("kvConfig.json");
    let mut contents = br#"{"configTable":{"ORDER_TOPIC_CONFIG":{"Orders":"b-0:4"}}}"#.to_vec();
    mutate(random, &mut contents);
    std::fs::write(&path, &contents).expect("written");
    if let Err(error) = NameServer::open(path.clone()) {
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
}

/// `ringmq.toml`: good keys are taken as typed; what is wrong is told with file and line, or with its key.
pub(crate) fn configuration(random: &mut StdRng) {
    let port: u16 = random.random_range(1..60_000);
    let (queues, scrub) = (random.random_range(0..100_000_u32), random.random_range(0..100_000_u64));
    let size = random.random_range(0..5000_u64);
    let unit = *["", "KiB", "MiB", "GiB"].choose(random).expect("not empty");
    let mut lines = vec![
        format!("port = {port}"),
        format!("node_name = {}", toml::Value::String(text(random, 8))),
        format!("defaultTopicQueueNums = {queues}"),
        format!("hot_tail = \"{size}{unit}\""),
        format!("scrub_interval_s = {scrub}"),
        format!("flushDiskType = \"{}\"", ["SYNC_FLUSH", "ASYNC_FLUSH"].choose(random).expect("not empty")),
        "# a remark".to_owned(),
        String::new(),
    ];
    for _ in 0..lines.len() {
        let (a, b) = (random.random_range(0..lines.len()), random.random_range(0..lines.len()));
        lines.swap(a, b);
    }
    lines.push(
        "[[core]]\ncpu = 0\nlog = [0]\nserve = [0]\nwrite_buffers = { size = \"1MiB\", count = 8 }"
            .to_owned(),
    );
    let whole = lines.join("\n");
    let typed =
        ConfigText::parse(&whole, "ringmq.toml").unwrap_or_else(|error| panic!("{error} in\n{whole}"));
    assert_eq!((typed.port, typed.default_topic_queue_nums), (Some(port), Some(queues)));
    assert_eq!((typed.scrub_interval_s, typed.core.len()), (Some(scrub), 1));
    let factor = match unit {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => 1,
    };
    assert_eq!(typed.hot_tail.map(|size| size.0), Some(size * factor));
    resolve(typed);

    let mut changed = whole.into_bytes();
    mutate(random, &mut changed);
    let changed = String::from_utf8_lossy(&changed);
    match ConfigText::parse(&changed, "ringmq.toml") {
        Ok(typed) => resolve(typed),
        Err(error) => {
            let text = error.to_string();
            let line = text
                .strip_prefix("ringmq.toml:")
                .and_then(|rest| rest.split(':').next()?.parse::<usize>().ok());
            let lines = changed.bytes().filter(|byte| *byte == b'\n').count() + 1;
            assert!(line.is_some_and(|line| (1..=lines).contains(&line)), "{text}");
        }
    }
}

/// Keys of the file that [`configuration`] writes, and what decides about them.
const KEYS: [&str; 14] = [
    "port",
    "node_name",
    "defaultTopicQueueNums",
    "hot_tail",
    "scrub_interval_s",
    "flushDiskType",
    "shards",
    "cores",
    "CPU",
    "log",
    "serve",
    "write_buffers",
    "ring_depth",
    "spin",
];

/// What was typed is resolved, or refused with its key and its value.
fn resolve(typed: ConfigText) {
    let shards = typed.wanted_shards().unwrap_or(1).min(4096);
    match Config::resolve(typed, shards, &[0, 1]) {
        Ok(config) => {
            assert!((1..=QUEUES_PER_TOPIC_MAX).contains(&config.default_topic_queues));
            assert!(config.cores.iter().all(|core| core.cpu < 2));
        }
        Err(error) => {
            let text = error.to_string();
            assert!(KEYS.iter().any(|key| text.contains(key)), "no key is named: {text}");
        }
    }
}
