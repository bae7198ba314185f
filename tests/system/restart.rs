//! Stops and starts: what a clean stop promises, and stores that must not be opened.

use std::process::{Command, Stdio};
use std::time::Duration;

use ringmq::client::TopicSpec;

use crate::support::load::{Amount, Ledger, Load};
use crate::support::server::{Server, Settings};
use crate::support::{alone, await_until, beside_others};

#[test]
fn a_stop_under_load_loses_nothing() {
    let _guard = alone();
    let mut server = Server::start(Settings::default());
    let mut ledger = Ledger::new(&server, "stop", 4);
    for round in 0..4 {
        let amount =
            Amount { senders: 16, first_sender: round * 16, messages: u32::MAX, body_bytes: &[1024, 100] };
        let load = Load::start(&server.namesrv(), &ledger.topic, amount);
        std::thread::sleep(Duration::from_millis(300));
        let status = server.stop();
        assert!(status.success(), "SIGTERM: {status}");
        load.enter_into(&mut ledger);
        let settings = Settings::default();
        server.start_again(if round % 2 == 0 { settings.co_located() } else { settings });
        ledger.verify(&server);
    }
    assert!(ledger.acknowledged > 0, "nothing was acknowledged");
}

#[test]
fn topics_and_offsets_survive_a_restart() {
    let _guard = beside_others();
    let settings = Settings::default();
    let mut server = Server::start(settings);
    let mut ledger = Ledger::new(&server, "kept", 3);
    let mut client = server.client();
    client.create_topic(TopicSpec { name: "other", queues: 5 }).expect("create a topic");
    let load = Load::start(
        &server.namesrv(),
        &ledger.topic,
        Amount { senders: 4, first_sender: 0, messages: 50, body_bytes: &[200] },
    );
    load.enter_into(&mut ledger);
    for (offset, queue) in ledger.topic.iter().enumerate() {
        client.commit_offset(queue, "readers", offset as u64 + 1).expect("commit an offset");
    }
    // Commits are one-way: the answer to a question on the same connection comes after them.
    for (offset, queue) in ledger.topic.iter().enumerate() {
        assert_eq!(client.committed_offset(queue, "readers").expect("ask"), Some(offset as u64 + 1));
    }
    assert!(server.stop().success(), "SIGTERM");
    server.start_again(settings);

    let mut client = server.client();
    let topics = client.topics().expect("list topics");
    assert!(topics.contains(&"kept".to_owned()) && topics.contains(&"other".to_owned()), "{topics:?}");
    await_until("routes of all shards", Duration::from_secs(30), || {
        client.publish_route("other").is_ok_and(|route| route.write_queues().len() == 5 * 2)
    });
    for (offset, queue) in ledger.topic.iter().enumerate() {
        assert_eq!(client.committed_offset(queue, "readers").expect("ask"), Some(offset as u64 + 1));
    }
    ledger.verify(&server);
    assert_eq!(ledger.read(), 200);
}

#[test]
fn a_second_process_on_the_store_refuses() {
    let _guard = beside_others();
    let server = Server::start(Settings::default());
    let error = refused(&server, &["--shards", "2"]);
    assert!(
        error.contains("lock") || error.contains("process"),
        "does not say that another process has it: {error}"
    );
}

#[test]
fn another_shard_count_is_a_clear_error() {
    let _guard = beside_others();
    let mut server = Server::start(Settings::default());
    assert!(server.stop().success(), "SIGTERM");
    let error = refused(&server, &["--shards", "3"]);
    assert!(
        error.contains("shard") && error.contains('2') && error.contains('3'),
        "does not name both: {error}"
    );
}

/// Starts another process on the server's store and returns why it ended.
fn refused(server: &Server, arguments: &[&str]) -> String {
    let mut second = Command::new(env!("CARGO_BIN_EXE_ringmq"))
        .args(["serve", "--host", "127.0.0.1", "--port", "11911", "--namesrv-port", "11900"])
        .arg("--data")
        .arg(server.data())
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start ringmq");
    await_until("the end of the second process", Duration::from_secs(30), || {
        second.try_wait().expect("ask for its state").is_some()
    });
    let output = second.wait_with_output().expect("it has ended");
    assert!(!output.status.success(), "it should have refused");
    String::from_utf8_lossy(&output.stderr).into_owned()
}
