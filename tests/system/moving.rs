//! One store under changing brokers: written by a stock Java broker, taken over by RingMQ, given back, and taken again; after clean stops
//! and after kills. Unmodified Java clients write and read all the time, and say what is not as it was.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::support::beside_others;
use crate::support::disk_dir;
use crate::support::java::Java;
use crate::support::program::store;
use crate::support::scenarios::Scenarios;
use crate::support::server::{Server, Settings};
use crate::support::stock_broker::{StockBroker, StockSettings};

/// One shard: no other store can change hands.
fn settings() -> Settings {
    Settings { shards: 1, ..Settings::default().co_located() }
}

/// Runs `ringmq store`, which has to succeed; what it printed.
fn must(args: &[&str]) -> String {
    let (code, text, told) = store(args, None);
    assert!(code == 0, "ringmq store {args:?}: {code} {text}{told}");
    println!("{text}{told}");
    text + &told
}

/// Runs `ringmq store`, which has reason to refuse; what it says.
fn refused(args: &[&str]) -> String {
    let (code, text, told) = store(args, None);
    assert!(code != 0, "ringmq store {args:?}: {text}{told}");
    text + &told
}

fn text_of(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

#[test]
fn a_store_moves_from_a_stock_broker_to_ringmq_and_back_with_all_that_is_in_it() {
    let _guard = beside_others();
    let java = Java::with_client("5.5.0");
    let mut server = Server::not_started(disk_dir(), settings());
    let stock_store = server.scratch().join("store");
    let data = server.data();
    // Made by the stock broker.
    let broker = stock(&java, &server, &stock_store, "broker-a");
    let mut command = java.command(server.scratch());
    command.args(["clients.Driver", &server.namesrv(), "java"]);
    let mut clients = Scenarios::start("moving", command, server.scratch());
    clients.play(&["moving_write"]);
    clients.play(&["moving_half"]);
    clients.play(&["moving_remember"]);
    let text = refused(&["adopt", text_of(&stock_store), "--data", text_of(&data)]);
    assert!(text.contains("a RocketMQ broker is running on"), "{text}");
    broker.stop();
    let text = must(&["adopt", text_of(&stock_store), "--data", text_of(&data)]);
    assert!(text.contains("half messages: kept"), "{text}");
    assert!(!stock_store.exists(), "moved, not copied");
    must(&["verify", text_of(&data)]);

    // Served by RingMQ.
    server.start_again(settings());
    clients.play(&["moving_read"]);
    clients.play(&["moving_write"]);
    clients.play(&["moving_remember"]);
    let text = refused(&["release", text_of(&data)]);
    assert!(text.contains("in use by process"), "{text}");
    assert!(server.stop().success(), "SIGTERM");

    // And by the stock broker again, which has not forgotten the transaction that was left open.
    let text = must(&["release", text_of(&data)]);
    assert!(text.contains("brokerName=ringmq-0"), "{text}");
    let broker = stock(&java, &server, &data.join("shard-0"), "ringmq-0");
    clients.play(&["moving_read"]);
    clients.play(&["moving_half_checked"]);
    clients.play(&["moving_write"]);
    clients.play(&["moving_half"]);
    clients.play(&["moving_remember"]);
    let text = refused(&["verify", text_of(&data)]);
    assert!(text.contains("a RocketMQ broker is running on"), "{text}");
    broker.kill();

    // Taken back after the kill, without a word to RingMQ.
    server.start_again(settings());
    clients.play(&["moving_read_after_kill"]);
    clients.play(&["moving_write"]);
    clients.play(&["moving_remember"]);
    server.kill();
    tear(&data.join("shard-0/commitlog"));
    must(&["verify", text_of(&data)]);

    // Given away after the kill, to another place.
    let text = must(&["release", text_of(&data), "--to", text_of(&stock_store), "-o", "json"]);
    let torn_bytes = serde_json::from_str::<serde_json::Value>(&text).expect("JSON")["torn_bytes"].clone();
    assert!(torn_bytes.as_u64().is_some_and(|bytes| bytes > 0), "{text}");
    let broker = stock(&java, &server, &stock_store, "ringmq-0");
    clients.play(&["moving_read_after_kill"]);
    broker.kill();
    clients.finish();
}

#[test]
fn a_store_that_ringmq_made_goes_to_a_stock_broker_also_after_a_kill() {
    let _guard = beside_others();
    let java = Java::with_client("5.5.0");
    let mut server = Server::start(settings());
    let mut command = java.command(server.scratch());
    command.args(["clients.Driver", &server.namesrv(), "java"]);
    let mut clients = Scenarios::start("moving out", command, server.scratch());
    clients.play(&["moving_write"]);
    clients.play(&["moving_remember"]);
    server.kill();
    tear(&server.data().join("shard-0/commitlog"));
    must(&["release", text_of(&server.data())]);
    let broker = stock(&java, &server, &server.data().join("shard-0"), "ringmq-0");
    clients.play(&["moving_read_after_kill"]);
    broker.kill();
    clients.finish();
}

/// Starts the stock broker on a store, known to the clients by the server's name server address.
fn stock(java: &Java, server: &Server, store: &Path, broker_name: &str) -> StockBroker {
    let (namesrv_port, segment_mib) = (server.namesrv_port(), settings().segment_mib);
    let settings = StockSettings { broker_name, namesrv_port, store, segment_mib };
    StockBroker::start(java, server.scratch(), &settings)
}

/// Leaves the beginning of a record at the end of the log, as a power cut does.
fn tear(log_dir: &Path) {
    let mut files: Vec<_> =
        std::fs::read_dir(log_dir).expect("list").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    let end_of = |path: &Path| {
        let bytes = std::fs::read(path).expect("read a file of the log");
        bytes.iter().rposition(|byte| *byte != 0).map(|last| last as u64 + 1)
    };
    let (last, end) =
        files.iter().rev().find_map(|path| Some((path, end_of(path)?))).expect("the log is not empty");
    let file = File::options().read(true).write(true).open(last).expect("open a file of the log");
    let mut head = [0; 80];
    file.read_exact_at(&mut head, 0).expect("read the first record");
    file.write_all_at(&head, end).expect("write behind the end");
}
