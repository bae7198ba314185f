//! Seeded fuzzing of everything that reads what a peer sends: frames, headers, bodies, and the name server behind them.
//!
//! Every target is one row of [`TARGETS`], driven by [`fuzzing`]. No round may panic, nor use memory beyond its bound.

mod fuzzing;
mod golden;

use fuzzing::{ROUNDS, Target, assert_the_canary_is_seen_to_fail, mutate, run_all, text};

use ringmq::remoting::field_text::FieldText;
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::BytesMut;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore};
use ringmq::namesrv::{NameServer, NameServerCell, processor};
use ringmq::remoting::body::heartbeat::HeartbeatData;
use ringmq::remoting::body::queue::{LockBatchRequestBody, MessageQueue};
use ringmq::remoting::body::registration::{RegisterBrokerBody, TopicConfigTable};
use ringmq::remoting::body::route::{BrokerData, ClusterInfo, TopicRouteData};
use ringmq::remoting::body::stats::{ConsumeStats, KVTable, TopicOffset, TopicStatsTable};
use ringmq::remoting::body::subscription_group::SubscriptionGroupConfig;
use ringmq::remoting::body::topic::TopicList;
use ringmq::remoting::fastjson::{self, ObjectKeyed};
use ringmq::remoting::frame::{Frame, SerializeType, split_frame};
use ringmq::remoting::header::admin::CreateTopicHeader;
use ringmq::remoting::header::name_server::RegisterBrokerHeader;
use ringmq::remoting::header::offset::SearchOffsetHeader;
use ringmq::remoting::header::pull::PullHeader;
use ringmq::remoting::header::query::QueryMessageHeader;
use ringmq::remoting::header::send::{SendBackHeader, SendHeader};
use ringmq::remoting::request::Request;
use ringmq::remoting::response::{ReplyTo, write_request, write_response_head};
use ringmq::transport::{Connection, ConnectionId};
use shards::limits::HEADER_FIELDS_MAX;

const TARGETS: [Target; 7] = [
    Target { name: "random_bytes", round: random_bytes },
    Target { name: "mutated_golden_frames", round: mutated_golden_frames },
    Target { name: "mutated_golden_bodies", round: mutated_golden_bodies },
    Target { name: "header_bombs", round: header_bombs },
    Target { name: "commands_round_trip", round: commands_round_trip },
    Target { name: "bodies_round_trip", round: bodies_round_trip },
    Target { name: "name_server", round: name_server },
];

#[test]
fn no_input_panics_or_takes_more_memory_than_it_may() {
    run_all(&TARGETS, ROUNDS);
}

#[test]
fn the_canary_is_seen_to_fail() {
    assert_the_canary_is_seen_to_fail();
}

// ---- what is done with bytes --------------------------------------------------------------------------------------------

/// Feeds a stream in random pieces, reads all that comes out of it.
fn feed(random: &mut StdRng, stream: &[u8]) {
    let mut input = BytesMut::new();
    let mut rest = stream;
    loop {
        // The reader's own room is one step; the frame's header adds what it borrowed not.
        let bound = 2 * input.len() + 256 * 1024;
        let mut split = Ok(None);
        let used = allocation_counter::measure(|| split = split_frame(&mut input));
        assert!(used.bytes_max <= bound as u64, "splitting {} bytes took {}", stream.len(), used.bytes_max);
        match split {
            Err(_) => return,
            Ok(Some(frame)) => {
                assert!(frame.header.len() + frame.body.len() <= stream.len());
                read_frame(&frame);
            }
            Ok(None) if rest.is_empty() => return,
            Ok(None) => {
                let (piece, later) = rest.split_at(random.random_range(1..=rest.len()));
                input.extend_from_slice(piece);
                rest = later;
            }
        }
    }
}

/// Reads a frame in every way that a processor might.
fn read_frame(frame: &Frame) {
    let mut decoded = None;
    let used = allocation_counter::measure(|| decoded = Request::decode(frame).ok());
    // Fields beyond the inline ones have a table of their own; a number's text may be longer than the number.
    let bound = 4 * frame.header.len() + HEADER_FIELDS_MAX * 1024;
    assert!(
        used.bytes_max <= bound as u64,
        "a header of {} bytes took {}",
        frame.header.len(),
        used.bytes_max
    );
    if let Some(request) = decoded {
        let _ = SendHeader::parse(&request);
        let _ = PullHeader::parse(&request);
        let _ = SendBackHeader::parse(&request);
        let _ = CreateTopicHeader::parse(&request);
        let _ = QueryMessageHeader::parse(&request);
        let _ = SearchOffsetHeader::parse(&request);
        let compressed = RegisterBrokerHeader::parse(&request).is_ok_and(|header| header.compressed);
        assert!(request.ext.len() <= HEADER_FIELDS_MAX);
        read_body(request.body, compressed);
    }
}

/// Reads a body as everything that it might be.
fn read_body(body: &[u8], compressed: bool) {
    fn as_json<T: serde::de::DeserializeOwned>(body: &[u8]) {
        let used = allocation_counter::measure(|| drop(fastjson::read::<T>("fuzz", body)));
        let bound = 256 * body.len() + 64 * 1024;
        assert!(
            used.bytes_max <= bound as u64,
            "{} of {} bytes took {}",
            std::any::type_name::<T>(),
            body.len(),
            used.bytes_max
        );
    }
    as_json::<HeartbeatData>(body);
    as_json::<LockBatchRequestBody>(body);
    as_json::<TopicRouteData>(body);
    as_json::<ClusterInfo>(body);
    as_json::<TopicConfigTable>(body);
    as_json::<TopicStatsTable>(body);
    as_json::<ConsumeStats>(body);
    as_json::<SubscriptionGroupConfig>(body);
    as_json::<TopicList>(body);
    as_json::<KVTable>(body);
    as_json::<serde_json::Value>(body);
    let _ = RegisterBrokerBody::decode(body, compressed);
    let _ = RegisterBrokerBody::decode(body, !compressed);
}

// ---- inputs -------------------------------------------------------------------------------------------------------------

thread_local! {
    static FRAMES: Vec<Vec<u8>> = golden_bytes("frame.");
    static BODIES: Vec<Vec<u8>> = golden_bytes("body.");
}

fn golden_bytes(prefix: &str) -> Vec<Vec<u8>> {
    let folders = golden::JAVA_RELEASES.iter().chain([&golden::OURS]);
    folders.flat_map(|folder| golden::read_all(folder, prefix)).map(|(_, bytes)| bytes).collect()
}

fn random_bytes(random: &mut StdRng) {
    let mut bytes = vec![0; random.random_range(0..512)];
    random.fill_bytes(&mut bytes);
    if random.random_bool(0.7) && bytes.len() > 8 {
        // Lengths that make sense, so that something is read beyond them.
        let total = u32::try_from(bytes.len() - 4).expect("small");
        bytes[..4].copy_from_slice(&total.to_be_bytes());
        let header = random.random_range(0..=total - 4);
        bytes[4..8].copy_from_slice(&(header | random.random_range(0..2) << 24).to_be_bytes());
    }
    feed(random, &bytes);
}

fn mutated_golden_frames(random: &mut StdRng) {
    let mut stream = Vec::new();
    for _ in 0..random.random_range(1..4) {
        let mut frame = FRAMES.with(|frames| frames.choose(random).expect("there are golden frames").clone());
        let keep_lengths = random.random_bool(0.8);
        let mut tail = frame.split_off(if keep_lengths { 8 } else { 0 });
        mutate(random, &mut tail);
        frame.append(&mut tail);
        if keep_lengths {
            let total = u32::try_from(frame.len() - 4).expect("small");
            frame[..4].copy_from_slice(&total.to_be_bytes());
        }
        stream.append(&mut frame);
    }
    feed(random, &stream);
}

fn mutated_golden_bodies(random: &mut StdRng) {
    let mut body = BODIES.with(|bodies| bodies.choose(random).expect("there are golden bodies").clone());
    mutate(random, &mut body);
    read_body(&body, false);
}

fn header_bombs(random: &mut StdRng) {
    let count = random.random_range(1..4_000);
    let header = match random.random_range(0..7) {
        0 => format!("{{\"extFields\":{{{}}}}}", fields(count)),
        1 => format!("{{\"extFields\":{{\"a\":\"{}\"}}}}", "\\u0001".repeat(count)),
        2 => format!("{{\"x\":{}", "[".repeat(count * 16)),
        3 => format!("{{\"extFields\":{}", "{\"a\":".repeat(count)),
        4 => format!("{{\"extFields\":{{{}}}}}", "\"n\":1e300,".repeat(count)),
        5 => format!("{{{}\"code\":1}}", "\"opaque\":1,".repeat(count)),
        _ => format!("{{{}:1}}", "{{".repeat(count)),
    };
    let mut bytes = header.into_bytes();
    let mut mark = u32::try_from(bytes.len()).expect("small");
    if random.random_bool(0.2) {
        // The other form, with as many fields as fit.
        bytes = vec![0; 17];
        let field = [0, 1, b'a', 0, 0, 0, 1, b'b'];
        bytes.extend_from_slice(&u32::try_from(field.len() * count).expect("small").to_be_bytes());
        bytes.extend(field.repeat(count));
        mark = u32::try_from(bytes.len()).expect("small") | 1 << 24;
    }
    let mut stream = u32::try_from(bytes.len() + 4).expect("small").to_be_bytes().to_vec();
    stream.extend_from_slice(&mark.to_be_bytes());
    stream.append(&mut bytes);
    feed(random, &stream);
    read_body(&stream[8..], false);
}

fn fields(count: usize) -> String {
    (0..count).map(|n| format!("\"k{n}\":{n}")).collect::<Vec<_>>().join(",")
}

fn commands_round_trip(random: &mut StdRng) {
    let serialize_type = if random.random() { SerializeType::Json } else { SerializeType::RocketMq };
    let mut fields: BTreeMap<String, String> = BTreeMap::new();
    for _ in 0..random.random_range(0..20) {
        fields.insert(text(random, 12), text(random, 200));
    }
    let ext: Vec<(&str, &dyn FieldText)> =
        fields.iter().map(|(key, value)| (&**key, value as &dyn FieldText)).collect();
    let mut body = vec![0; random.random_range(0..100)];
    random.fill_bytes(&mut body);
    let opaque: i32 = random.random();
    let mut out = BytesMut::new();
    // The ROCKETMQ form has 16 bits for the code and no empty texts.
    let code = i32::from(random.random::<i16>());
    let is_request: bool = random.random();
    let remark = text(random, 50);
    if is_request {
        write_request(&mut out, serialize_type, code, opaque, true, &ext, &body);
    } else {
        let to = ReplyTo { opaque, serialize_type, oneway: false };
        write_response_head(&mut out, to, code, Some(&remark), &ext, body.len());
        out.extend_from_slice(&body);
    }
    let frame = split_frame(&mut out).expect("our own").expect("whole");
    let command = Request::decode(&frame).expect("our own");
    assert!(out.is_empty());
    assert_eq!((command.serialize_type, command.code, command.opaque), (serialize_type, code, opaque));
    assert_eq!((command.is_oneway(), command.is_response()), (is_request, !is_request));
    assert_eq!(&command.body[..], body);
    if !is_request {
        assert_eq!(command.remark.as_deref().unwrap_or_default(), remark);
    }
    if serialize_type == SerializeType::RocketMq {
        fields.retain(|key, value| !key.is_empty() && !value.is_empty());
    }
    let read: BTreeMap<String, String> =
        command.ext.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    assert_eq!(read, fields);
}

fn bodies_round_trip(random: &mut StdRng) {
    let mut cluster = ClusterInfo::default();
    for _ in 0..random.random_range(0..5) {
        let broker = BrokerData {
            broker_addrs: (0..random.random_range(0..4))
                .map(|_| (random.random(), text(random, 20)))
                .collect(),
            broker_name: text(random, 10),
            cluster: text(random, 10),
            enable_acting_master: random.random(),
            zone_name: random.random_bool(0.5).then(|| text(random, 5)),
        };
        cluster
            .cluster_addr_table
            .entry(broker.cluster.clone())
            .or_default()
            .insert(broker.broker_name.clone());
        cluster.broker_addr_table.insert(broker.broker_name.clone(), broker);
    }
    for text in
        [fastjson::write(&cluster), fastjson::write_pretty(&cluster), fastjson::write_standard(&cluster)]
    {
        assert_eq!(fastjson::read::<ClusterInfo>("fuzz", &text).expect("our own"), cluster);
    }

    let mut stats =
        TopicStatsTable { topic_put_tps: f64::from(random.random::<i16>()) / 8.0, ..Default::default() };
    for _ in 0..random.random_range(0..5) {
        let queue = MessageQueue {
            broker_name: text(random, 10),
            queue_id: random.random(),
            topic: text(random, 10),
        };
        let offset = TopicOffset {
            last_update_timestamp: random.random(),
            max_offset: random.random(),
            min_offset: random.random(),
        };
        stats.offset_table.0.push((queue, offset));
    }
    assert_eq!(fastjson::read::<TopicStatsTable>("fuzz", &stats.encode()).expect("our own"), stats);
    let standard = serde_json::to_vec(&stats.offset_table).expect("our own");
    let table: ObjectKeyed<MessageQueue, TopicOffset> = serde_json::from_slice(&standard).expect("our own");
    assert_eq!(table, stats.offset_table);
}

thread_local! {
    /// One for all rounds: its tables fill up with what was sent before.
    static NAME_SERVER: (NameServerCell, Rc<Connection>, tempfile::TempDir) = {
        let folder = tempfile::tempdir().expect("a folder");
        let server = NameServer::open(folder.path().join("kvConfig.json")).expect("an empty folder");
        (server, Connection::detached(ConnectionId(1), "127.0.0.1:1".parse().expect("a literal")), folder)
    };
}

/// Requests that are nearly right, to the whole name server; every one that is not oneway is answered once.
fn name_server(random: &mut StdRng) {
    const CODES: [i32; 17] =
        [100, 101, 102, 103, 104, 105, 106, 205, 206, 216, 217, 219, 224, 322, 327, 901, 904];
    const NAMES: [&str; 14] = [
        "topic",
        "namespace",
        "key",
        "value",
        "brokerName",
        "brokerAddr",
        "clusterName",
        "cluster",
        "haServerAddr",
        "brokerId",
        "compressed",
        "bodyCrc32",
        "heartbeatTimeoutMillis",
        "acceptStandardJsonOnly",
    ];
    const VALUES: [&str; 8] = ["0", "1", "-1", "true", "Orders", "b0", "DefaultCluster", ""];
    let mut ext: Vec<(&str, &dyn FieldText)> = Vec::new();
    for name in NAMES {
        if random.random_bool(0.95) {
            ext.push((name, VALUES.choose(random).expect("not empty")));
        }
    }
    let mut body = BODIES.with(|bodies| bodies.choose(random).expect("there are golden bodies").clone());
    if random.random_bool(0.5) {
        mutate(random, &mut body);
    }
    let code = *CODES.choose(random).expect("not empty");
    let oneway = random.random_bool(0.1);
    let mut out = BytesMut::new();
    write_request(&mut out, SerializeType::Json, code, 1, oneway, &ext, &body);
    let frame = split_frame(&mut out).expect("our own").expect("whole");
    NAME_SERVER.with(|(server, connection, _folder)| {
        if let Some(rest) = processor::serve(server, connection, &frame).expect("our own header") {
            futures_lite::future::block_on(rest);
        }
        let mut answers = BytesMut::from(&*connection.take_output().concat());
        let answer = split_frame(&mut answers).expect("our own");
        assert_eq!(answer.is_some(), !oneway, "request {code}");
        assert!(answers.is_empty(), "request {code} is answered once");
        if random.random_bool(0.05) {
            server.borrow_mut().connection_closed(ConnectionId(1));
        }
    });
}
