//! Requests through the whole name server, over a connection without a socket.

use std::io::Write;

use bytes::BytesMut;

use super::*;
use crate::broker::{BrokerRegistration, Identity};
use crate::remoting::body::route::ClusterInfo;
use crate::remoting::body::topic::TopicConfig;
use crate::remoting::field_text::FieldText;
use crate::remoting::frame::{SerializeType, split_frame};
use crate::remoting::response::write_request;
use crate::transport::ConnectionId;

struct Fixture {
    server: NameServerCell,
    connection: Rc<Connection>,
    _folder: tempfile::TempDir,
}

/// A decoded answer.
struct Answer {
    code: i32,
    remark: String,
    ext: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = NameServer::open(folder.path().join("kvConfig.json")).unwrap();
        let connection = Connection::detached(ConnectionId(1), "127.0.0.1:1".parse().unwrap());
        Self { server, connection, _folder: folder }
    }

    fn with_own_broker(topics: &[&str]) -> Self {
        let fixture = Self::new();
        fixture.server.borrow_mut().register(BrokerRegistration {
            identity: Identity {
                cluster: "DefaultCluster".to_owned(),
                broker_name: "ringmq-0".to_owned(),
                broker_id: 0,
                addr: "127.0.0.1:10911".parse().unwrap(),
            },
            data_version: DataVersion { counter: 1, state_version: 0, timestamp: 1 },
            topics: topics.iter().map(|name| TopicConfig::new(name, 4)).collect(),
            complete: true,
        });
        fixture
    }

    fn ask(&self, code: i32, fields: &[(&str, &str)], body: &[u8]) -> Answer {
        let ext: Vec<(&str, &dyn FieldText)> =
            fields.iter().map(|(key, value)| (*key, value as &dyn FieldText)).collect();
        let mut out = BytesMut::new();
        write_request(&mut out, SerializeType::Json, code, 7, false, &ext, body);
        let frame = split_frame(&mut out).unwrap().unwrap();
        if let Some(rest) = serve(&self.server, &self.connection, &frame).unwrap() {
            futures_lite::future::block_on(rest);
        }
        let mut output = BytesMut::new();
        for piece in self.connection.take_output() {
            output.extend_from_slice(&piece);
        }
        let frame = split_frame(&mut output).unwrap().expect("an answer");
        assert!(output.is_empty(), "one answer only");
        let answer = Request::decode(&frame).unwrap();
        assert_eq!((answer.opaque, answer.flag), (7, 1));
        Answer {
            code: answer.code,
            remark: answer.remark.as_deref().unwrap_or_default().to_owned(),
            ext: answer.ext.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            body: frame.body.to_vec(),
        }
    }
}

const BROKER: [(&str, &str); 5] = [
    ("brokerName", "b0"),
    ("brokerAddr", "10.0.0.5:10911"),
    ("clusterName", "c"),
    ("haServerAddr", "10.0.0.5:10912"),
    ("brokerId", "0"),
];

const REGISTRATION: &[u8] =
    br#"{"filterServerList":[],"topicConfigSerializeWrapper":{"dataVersion":{"counter":3,
    "stateVersion":0,"timestamp":5},"topicConfigTable":{"T":{"topicName":"T","perm":6,"readQueueNums":4,
    "writeQueueNums":4},"U":{"topicName":"U"}}}}"#;

#[test]
fn routes_come_in_the_form_that_the_client_reads() {
    let fixture = Fixture::with_own_broker(&["Orders"]);
    // The helper's own version is new, so the form is the standard one.
    let answer = fixture.ask(105, &[("topic", "Orders")], b"");
    assert_eq!(answer.code, 0);
    assert!(answer.text().contains(r#""brokerAddrs":{"0":"127.0.0.1:10911"}"#), "{}", answer.text());
    let route: TopicRouteData = fastjson::read("route", &answer.body).unwrap();
    assert_eq!(route.queue_datas[0].write_queue_nums, 4);

    let header = br#"{"code":105,"version":317,"opaque":7,"extFields":{"topic":"Orders"}}"#;
    let length = u32::try_from(header.len()).unwrap();
    let mut old = BytesMut::new();
    old.extend_from_slice(&(length + 4).to_be_bytes());
    old.extend_from_slice(&length.to_be_bytes());
    old.extend_from_slice(header);
    let frame = split_frame(&mut old).unwrap().unwrap();
    assert!(serve(&fixture.server, &fixture.connection, &frame).unwrap().is_none());
    let output = fixture.connection.take_output().concat();
    let text = String::from_utf8_lossy(&output);
    assert!(text.contains(r#""brokerAddrs":{0:"127.0.0.1:10911"}"#), "{text}");
}

#[test]
fn an_unknown_topic_is_not_found_and_an_unknown_code_not_supported() {
    let fixture = Fixture::with_own_broker(&["Orders"]);
    let answer = fixture.ask(105, &[("topic", "Nothing")], b"");
    assert_eq!(answer.code, response::TOPIC_NOT_EXIST);
    assert_eq!(answer.remark, "No topic route info in name server for the topic: Nothing");
    let answer = fixture.ask(310, &[], b"");
    assert_eq!((answer.code, &*answer.remark), (3, " request type 310 not supported"));
    assert_eq!(fixture.ask(105, &[], b"").code, response::SYSTEM_ERROR);
}

#[test]
fn a_stopping_node_leaves_the_routes() {
    let fixture = Fixture::with_own_broker(&["Orders"]);
    fixture.server.borrow_mut().unregister_own();
    assert_eq!(fixture.ask(105, &[("topic", "Orders")], b"").code, response::TOPIC_NOT_EXIST);
}

#[test]
fn a_foreign_broker_registers_is_listed_and_goes_with_its_connection() {
    let fixture = Fixture::with_own_broker(&["T"]);
    assert_eq!(fixture.ask(103, &BROKER, REGISTRATION).code, 0);
    let route: TopicRouteData =
        fastjson::read("route", &fixture.ask(105, &[("topic", "T")], b"").body).unwrap();
    assert_eq!(route.broker_datas.len(), 2);
    let cluster: ClusterInfo = fastjson::read("cluster", &fixture.ask(106, &[], b"").body).unwrap();
    assert_eq!(cluster.broker_addr_table["b0"].broker_addrs[&0], "10.0.0.5:10911");
    let topics: TopicList = fastjson::read("topics", &fixture.ask(206, &[], b"").body).unwrap();
    assert_eq!(topics.topic_list, ["T", "U"]);

    let version = br#"{"counter":3,"stateVersion":0,"timestamp":5}"#;
    let answer = fixture.ask(322, &BROKER, version);
    assert_eq!(answer.ext, [("changed".to_owned(), "false".to_owned())]);
    assert_eq!(answer.body, version);
    assert_eq!(fixture.ask(904, &BROKER, b"").code, 0);

    fixture.server.borrow_mut().connection_closed(ConnectionId(1));
    assert_eq!(fixture.ask(105, &[("topic", "U")], b"").code, response::TOPIC_NOT_EXIST);
    assert_eq!(fixture.ask(322, &BROKER, version).ext, [("changed".to_owned(), "true".to_owned())]);
    assert_eq!(fixture.ask(103, &BROKER, REGISTRATION).code, 0);
    assert_eq!(fixture.ask(104, &BROKER, b"").code, 0);
    assert_eq!(fixture.ask(105, &[("topic", "U")], b"").code, response::TOPIC_NOT_EXIST);
}

#[test]
fn a_registration_may_be_compressed_and_its_crc_is_checked() {
    let mut parts = Vec::new();
    for (count, text) in [
        (None, r#"{"counter":1}"#),
        (Some(2_u32), "T 4 4 6 SINGLE_TAG {}"),
        (None, "U 1 1 6 SINGLE_TAG"),
        (None, "[]"),
    ] {
        parts.extend(count.into_iter().flat_map(u32::to_be_bytes));
        parts.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
        parts.extend_from_slice(text.as_bytes());
    }
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&parts).unwrap();
    let body = encoder.finish().unwrap();
    let mut crc = flate2::Crc::new();
    crc.update(&body);
    let sum = crc.sum().cast_signed().to_string();

    let fixture = Fixture::new();
    let fields = [&BROKER[..], &[("compressed", "true"), ("bodyCrc32", &sum)]].concat();
    assert_eq!(fixture.ask(103, &fields, &body).code, 0);
    assert_eq!(fixture.ask(105, &[("topic", "T")], b"").code, 0);
    let fields = [&BROKER[..], &[("compressed", "true"), ("bodyCrc32", "12345")]].concat();
    assert_eq!(&*fixture.ask(103, &fields, &body).remark, "crc32 not match");
    let fields = [&BROKER[..], &[("compressed", "true")]].concat();
    assert_eq!(fixture.ask(103, &fields, b"garbage").code, response::SYSTEM_ERROR);
}

#[test]
fn write_permission_is_wiped_and_given_back() {
    let fixture = Fixture::with_own_broker(&["T", "U"]);
    let answer = fixture.ask(205, &[("brokerName", "ringmq-0")], b"");
    assert_eq!(answer.ext, [("wipeTopicCount".to_owned(), "2".to_owned())]);
    assert!(fixture.ask(105, &[("topic", "T")], b"").text().contains("\"perm\":4"));
    let answer = fixture.ask(327, &[("brokerName", "ringmq-0")], b"");
    assert_eq!(answer.ext, [("addTopicCount".to_owned(), "2".to_owned())]);
    assert!(fixture.ask(105, &[("topic", "T")], b"").text().contains("\"perm\":6"));
}

#[test]
fn configuration_is_put_read_and_deleted() {
    let fixture = Fixture::new();
    let key = [("namespace", "n"), ("key", "k")];
    assert_eq!(fixture.ask(101, &key, b"").code, response::QUERY_NOT_FOUND);
    assert_eq!(fixture.ask(100, &[key[0], key[1], ("value", "v")], b"").code, 0);
    assert_eq!(fixture.ask(101, &key, b"").ext, [("value".to_owned(), "v".to_owned())]);
    assert_eq!(fixture.ask(219, &key[..1], b"").text(), r#"{"table":{"k":"v"}}"#);
    assert_eq!(fixture.ask(102, &key, b"").code, 0);
    assert_eq!(fixture.ask(101, &key, b"").code, response::QUERY_NOT_FOUND);
}
