//! What a running node tells of itself: the metrics page agrees with what was done, the commands that read it work, and nobody who
//! misuses it is noticed by clients.

use std::collections::{BTreeMap, HashSet};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use ringmq::client::{OutMessage, Pull};

use crate::support::load::Ledger;
use crate::support::program::run;
use crate::support::server::{Server, Settings};
use crate::support::{alone, await_until, beside_others, disk_dir};

const PATIENCE: Duration = Duration::from_secs(20);
const SINGLE: u64 = 120;
const BATCH: u64 = 10;
const FIFO: u64 = 7;
const DELAYED: u64 = 3;

/// One line of a page.
#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// A page that was read whole and found to be in order.
#[derive(Debug)]
struct Page(Vec<Sample>);

impl Page {
    fn get(server: &Server) -> Self {
        let (head, body) = http(server, "GET /metrics");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
        Self::parse(&body)
    }

    /// Reads OpenMetrics text as strictly as its standard is: each family once, its head before its samples, its samples of its kind, no
    /// series twice, buckets that add up, the end at the end.
    fn parse(text: &str) -> Self {
        let text = text.strip_suffix("# EOF\n").expect("a page ends with # EOF");
        let (mut families, mut series) = (HashSet::new(), HashSet::new());
        let (mut family, mut kind) = (String::new(), String::new());
        let mut samples = Vec::new();
        for line in text.lines() {
            if let Some(about) = line.strip_prefix("# ") {
                let mut words = about.splitn(3, ' ');
                let (what, name) = (words.next().expect("a keyword"), words.next().expect("a name"));
                if what == "HELP" {
                    assert!(families.insert(name.to_owned()), "{name} comes twice");
                    name.clone_into(&mut family);
                } else {
                    assert_eq!((what, name), ("TYPE", family.as_str()), "{line}");
                    words.next().expect("a kind").clone_into(&mut kind);
                }
                continue;
            }
            let sample = parse_sample(line);
            let suffix =
                sample.name.strip_prefix(&family).unwrap_or_else(|| panic!("{line} is not of {family}"));
            let fits = match kind.as_str() {
                "counter" => suffix == "_total",
                "gauge" => suffix.is_empty(),
                "histogram" => ["_bucket", "_sum", "_count"].contains(&suffix),
                other => panic!("{family} is of kind {other}"),
            };
            assert!(fits, "{line} is no {kind}");
            assert!(series.insert((sample.name.clone(), sample.labels.clone())), "{line} comes twice");
            samples.push(sample);
        }
        let page = Self(samples);
        page.check_histograms();
        page
    }

    fn check_histograms(&self) {
        let mut last: BTreeMap<(String, BTreeMap<String, String>), f64> = BTreeMap::new();
        for sample in &self.0 {
            let mut labels = sample.labels.clone();
            if let (Some(name), Some(_)) = (sample.name.strip_suffix("_bucket"), labels.remove("le")) {
                let before = last.insert((name.to_owned(), labels), sample.value);
                assert!(before.is_none_or(|before| before <= sample.value), "{sample:?} is below {before:?}");
            }
        }
        assert!(!last.is_empty(), "no histogram");
        for ((name, labels), all) in last {
            let count = self.0.iter().find(|one| one.name == format!("{name}_count") && one.labels == labels);
            assert_eq!(count.expect("a histogram has a count").value, all, "{name} {labels:?}");
        }
    }

    /// The sum of all samples of a name whose labels contain these.
    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |sample: &&Sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(key, value)| sample.labels.get(*key).is_some_and(|found| found == value))
        };
        self.0.iter().filter(has).map(|sample| sample.value).sum()
    }
}

fn parse_sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').expect("a value");
    let (name, mut rest) = match series.split_once('{') {
        Some((name, rest)) => (name, rest.strip_suffix('}').expect("labels end")),
        None => (series, ""),
    };
    let mut labels = BTreeMap::new();
    while !rest.is_empty() {
        let (key, after) = rest.split_once("=\"").expect("a label");
        let end = (0..after.len()).find(|&at| after[at..].starts_with('"') && !after[..at].ends_with('\\'));
        let end = end.expect("a label's end");
        assert!(labels.insert(key.to_owned(), after[..end].to_owned()).is_none(), "{line}: {key} twice");
        rest = after[end + 1..].trim_start_matches(',');
    }
    Sample { name: name.to_owned(), labels, value: value.parse().expect("a number") }
}

/// Head and body of an answer.
fn http(server: &Server, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(server.metrics()).expect("connect to the metrics page");
    stream.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
    let text = format!("{request} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", server.metrics());
    stream.write_all(text.as_bytes()).expect("write");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    (head.to_owned(), body.to_owned())
}

fn command(server: &Server, args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringmq"));
    command.args(args).args(["--metrics", &server.metrics()]);
    let output = run(&mut command, "It reads the metrics of a running node.");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn the_page_agrees_with_what_was_done() {
    let _guard = beside_others();
    let server = Server::start(Settings::default());
    let queues = Ledger::new(&server, "counted", 2).topic;
    let mut client = server.client();
    let body = [7; 1500];
    let keyed = [("__SHARDINGKEY".to_owned(), "a".to_owned())];
    let delayed = [("DELAY".to_owned(), "18".to_owned())];
    let mut send = |count: u64, properties: &[(String, String)]| {
        for i in 0..count {
            let queue = &queues[usize::try_from(i).expect("small") % queues.len()];
            let message = OutMessage { properties, ..OutMessage::new("", &body) };
            client.send(queue, "producers", &message, 0).expect("send");
        }
    };
    send(SINGLE, &[]);
    send(FIFO, &keyed);
    send(DELAYED, &delayed);
    let batch: Vec<_> = (0..BATCH).map(|_| OutMessage::new("", &body)).collect();
    client.send_batch(&queues[0], "producers", &batch, 0).expect("send a batch");

    let mut pulled = 0;
    for queue in &queues {
        let mut offset = 0;
        while offset < client.max_offset(queue).expect("ask for the end") {
            let pull = Pull { group: "readers", offset, messages_max: 32, subscription: "*", hold: None };
            let answer = client.pull(queue, &pull).expect("pull");
            pulled += answer.messages().count() as u64;
            offset = answer.next_offset;
        }
    }
    let in_real_queues = SINGLE + FIFO + BATCH;
    assert_eq!(pulled, in_real_queues);
    client.commit_offset(&queues[0], "readers", 5).expect("commit");
    let end = client.max_offset(&queues[0]).expect("ask for the end");

    let page = Page::get(&server);
    let of_type = |name: &str, message_type: &str| {
        page.sum(name, &[("topic", "counted"), ("message_type", message_type), ("node_type", "broker")])
    };
    assert_eq!(of_type("rocketmq_messages_in_total", "normal"), (SINGLE + BATCH) as f64);
    assert_eq!(of_type("rocketmq_messages_in_total", "fifo"), FIFO as f64);
    assert_eq!(of_type("rocketmq_messages_in_total", "delay"), DELAYED as f64);
    let topic = [("topic", "counted"), ("cluster", "DefaultCluster")];
    let all = (in_real_queues + DELAYED) as f64;
    let bytes = page.sum("rocketmq_throughput_in_total", &topic);
    assert!(bytes > all * 1500.0 && bytes < all * 1900.0, "{bytes} bytes of {all} messages");
    let at_most = |le: &str| page.sum("rocketmq_message_size_bucket", &[topic[0], ("le", le)]);
    assert_eq!((at_most("1024.0"), at_most("4096.0")), (0.0, all));

    let readers = [("topic", "counted"), ("consumer_group", "readers")];
    assert_eq!(page.sum("rocketmq_messages_out_total", &readers), pulled as f64);
    assert!(page.sum("rocketmq_throughput_out_total", &readers) > pulled as f64 * 1500.0);
    assert_eq!(page.sum("rocketmq_consumer_lag_messages", &readers), (end - 5) as f64);
    assert!(page.sum("rocketmq_consumer_lag_latency", &readers) < 600_000.0);
    assert_eq!(page.sum("ringmq_core_up", &[]), 2.0);
    let flushed = page.sum("ringmq_core_group_commit_records_sum", &[]);
    assert_eq!(flushed, all, "every record went out with one flush");
    assert!(page.sum("ringmq_core_flush_seconds_count", &[]) > 0.0);
    assert_eq!(page.sum("ringmq_core_send_seconds_count", &[]), (SINGLE + FIFO + DELAYED + 1) as f64);
    assert!(page.sum("ringmq_tail_hits_total", &[]) >= 4.0);
    assert_eq!(page.sum("ringmq_tail_misses_total", &[]), 0.0);
    assert!(page.sum("ringmq_core_cpu_seconds_total", &[("core", "0")]) > 0.0);
    assert_eq!(page.sum("rocketmq_storage_flush_behind_bytes", &[]), 0.0);
    assert!(page.sum("rocketmq_storage_size", &[]) >= bytes);
    let reserved: Vec<_> =
        page.0.iter().filter(|one| one.name == "rocketmq_storage_message_reserve_time").collect();
    assert!(reserved.len() == 2 && reserved.iter().all(|one| one.value < 600_000.0), "{reserved:?}");
    // Both halves of a shard lie on different cores here, so that messages hop.
    assert!(page.sum("ringmq_core_hop_seconds_count", &[]) > 0.0);
    assert!(page.sum("ringmq_core_connections", &[]) > 0.0);
    let (head, body) = http(&server, "GET /healthz");
    assert!(head.starts_with("HTTP/1.1 200") && body == "ok\n", "{head} {body}");
}

#[test]
fn reads_of_old_data_are_told_from_reads_of_the_hot_tail() {
    let _guard = beside_others();
    let settings = Settings { shards: 1, ..Settings::default() };
    let mut server = Server::start(settings);
    let queue = Ledger::new(&server, "old", 1).topic.remove(0);
    let send = |server: &Server, count: usize| {
        let mut client = server.client();
        for _ in 0..count {
            client.send(&queue, "producers", &OutMessage::new("", &[7; 100_000]), 0).expect("send");
        }
    };
    // A pull of one message; what it changed of: hits, misses, and of the cache's hits, its misses and the bytes that were read.
    let counted = |server: &Server| {
        let page = Page::get(server);
        ["hits", "misses", "cold_cache_hits", "cold_cache_misses", "cold_read_bytes"]
            .map(|name| page.sum(&format!("ringmq_tail_{name}_total"), &[]))
    };
    let pull = |server: &Server, offset: u64| {
        let before = counted(server);
        let pull = Pull { group: "readers", offset, messages_max: 1, subscription: "*", hold: None };
        assert_eq!(server.client().pull(&queue, &pull).expect("pull").messages().count(), 1);
        let after = counted(server);
        std::array::from_fn::<f64, 5, _>(|i| after[i] - before[i])
    };
    send(&server, 8);
    // After a start the hot tail is empty: what was there before is old.
    assert!(server.stop().success());
    server.start_again(settings);
    send(&server, 1);
    // The page itself reads the oldest message once.
    counted(&server);
    assert_eq!(pull(&server, 8), [1.0, 0.0, 0.0, 0.0, 0.0], "the hot tail");
    let [hits, misses, _, read, bytes] = pull(&server, 7);
    assert_eq!((hits, misses), (0.0, 1.0));
    assert!(read >= 1.0 && bytes >= read * 32.0 * 1024.0, "{read} chunks, {bytes} bytes");
    let [hits, misses, cached, read, bytes] = pull(&server, 7);
    assert_eq!((hits, misses, read, bytes), (0.0, 1.0, 0.0, 0.0), "from the cache");
    assert!(cached >= 2.0, "the entry and the record: {cached} chunks");
    let page = Page::get(&server);
    assert!(page.sum("ringmq_tail_cold_cache_bytes", &[]) >= 256.0 * 1024.0);
    for gauge in ["ringmq_tail_cold_reads_under_way", "ringmq_tail_cold_reads_waiting"] {
        assert_eq!(page.sum(gauge, &[]), 0.0, "{gauge}");
    }
}

#[test]
fn the_commands_show_slow_requests_stages_and_the_load_of_cores() {
    let _guard = beside_others();
    let server = Server::start(Settings::default().co_located());
    let queues = Ledger::new(&server, "slow", 1).topic;
    let mut client = server.client();
    let mut send = |count: usize| {
        for i in 0..count {
            client.send(&queues[i % 2], "producers", &OutMessage::new("", b"body"), 0).expect("send");
        }
    };
    send(10);
    let slow: Vec<serde_json::Value> =
        serde_json::from_str(&command(&server, &["slow", "-o", "json"])).expect("JSON");
    assert_eq!(slow.len(), 10);
    let total = |one: &serde_json::Value| one["total_us"].as_f64().expect("a number");
    assert!(slow.is_sorted_by(|one, next| total(one) >= total(next)), "{slow:?}");
    for one in &slow {
        let stages = one["stages_us"].as_object().expect("stages");
        let sum: f64 = stages.values().map(|us| us.as_f64().expect("a number")).sum();
        assert!((sum - total(one)).abs() < 0.01, "{one}");
        assert!(stages["flush"].as_f64().expect("a number") > 0.0, "{one}");
        assert_eq!(
            (&one["topic"], &one["request"], &one["records"]),
            (&"slow".into(), &"send".into(), &1.into())
        );
    }
    assert!(command(&server, &["slow", "-n", "1"]).lines().count() == 2);

    assert!(command(&server, &["stages"]).contains("not measured now"));
    command(&server, &["stages", "on"]);
    send(20);
    let cores: Vec<serde_json::Value> =
        serde_json::from_str(&command(&server, &["stages", "off", "-o", "json"])).expect("JSON");
    let requests = |name: &str| -> u64 {
        let stages = cores.iter().flat_map(|core| core["stages"].as_array().expect("stages"));
        stages
            .filter(|stage| stage["stage"] == name)
            .map(|stage| stage["requests"].as_u64().expect("a count"))
            .sum()
    };
    assert_eq!((requests("decode"), requests("flush"), requests("queue")), (20, 20, 20), "{cores:?}");
    send(5);
    assert!(command(&server, &["stages"]).contains("not measured now"));

    let live = command(&server, &["cores", "--live", "--count", "1", "--interval", "0.1", "-o", "json"]);
    let loads: Vec<serde_json::Value> = serde_json::from_str(&live).expect("JSON");
    assert!(loads.len() == 2 && loads.iter().all(|load| load["up"] == true), "{live}");
    let text = command(&server, &["cores", "--live", "--count", "2", "--interval", "0.1"]);
    assert!(text.lines().count() == 6 && !text.contains('\x1b'), "no colours in a pipe: {text}");
}

#[test]
fn hostile_http_harms_nobody() {
    let _guard = alone();
    let mut server = Server::start(Settings::default());
    let queue = Ledger::new(&server, "beside", 1).topic.remove(0);
    let mut client = server.client();
    let before = server.resident_bytes();
    let connect = || TcpStream::connect(server.metrics()).expect("connect to the metrics page");
    // None of them ever ends its request, and there are more than the page takes at once.
    let half_open: Vec<TcpStream> = (0..200)
        .map(|i| {
            let mut stream = connect();
            stream.write_all(&b"GET /metrics HTTP/1.1\r\nx: y"[..i % 27]).expect("write");
            stream
        })
        .collect();
    drop(half_open);
    let attacks: Vec<Vec<u8>> = vec![
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xFC\x03\x03".to_vec(),
        vec![0; 100_000],
        b"GET /metrics HTTP/9.9\r\n\r\n".to_vec(),
        b"GET /metrics HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999999999999\r\n\r\n".to_vec(),
        b"PUT /stages/on HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\nx".to_vec(),
        b"PUT /stages/%ff%00 HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
        b"POST /metrics HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n"
            .to_vec(),
        [b"GET /".to_vec(), vec![b'a'; 1 << 20], b" HTTP/1.1\r\n\r\n".to_vec()].concat(),
        [b"GET / HTTP/1.1\r\n".to_vec(), b"x: y\r\n".repeat(100_000), b"\r\n".to_vec()].concat(),
        b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n".repeat(30),
    ];
    for attack in &attacks {
        client.send(&queue, "producers", &OutMessage::new("", b"beside"), 0).expect("send");
        let mut stream = connect();
        stream.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
        // It may be refused before all of it is written, and its answer cut off.
        let _ = stream.write_all(attack);
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    let (head, _) = http(&server, "GET /nothing");
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
    let (head, _) = http(&server, "DELETE /metrics");
    assert!(head.starts_with("HTTP/1.1 405"), "{head}");
    await_until("the page answers again", PATIENCE, || http(&server, "GET /healthz").1 == "ok\n");
    let page = Page::get(&server);
    assert_eq!(page.sum("rocketmq_messages_in_total", &[("topic", "beside")]), attacks.len() as f64);
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "grew by {grown} bytes");
    assert!(server.is_running(), "the server has ended");
    assert!(server.stop().success(), "SIGTERM at the end");
}

#[test]
fn a_port_that_was_asked_for_and_is_taken_is_an_error_that_names_the_setting() {
    let _guard = beside_others();
    let taken = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = taken.local_addr().expect("an address").port().to_string();
    let dir = tempfile::tempdir_in(disk_dir()).expect("make a folder");
    let output = Command::new(env!("CARGO_BIN_EXE_ringmq"))
        .args(["serve", "--port", "11931", "--namesrv-port", "11930", "--metrics-port", &port, "--data"])
        .arg(dir.path().join("data"))
        .stdin(Stdio::null())
        .output()
        .expect("run ringmq");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains(&port) && text.contains("metrics_port"), "{text}");
}
