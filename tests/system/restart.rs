//! Stops and starts: what a clean stop promises, and stores that must not be opened.

use std::collections::HashSet;
use std::process::{Command, Stdio};
use std::time::Duration;

use ringmq::client::{Client, OutMessage, Pull, Queue, TopicSpec};

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

/// The story: delayed messages went on being delivered while the node drained, and a commit that came when its broker was closed
/// already ended the process.
#[test]
fn a_stop_while_delayed_messages_are_delivered_is_clean_and_delivers_each_once() {
    let _guard = alone();
    let settings = Settings::default().co_located();
    let mut server = Server::start(settings);
    let topic = Ledger::new(&server, "later", 1).topic;
    let mut acknowledged = 0;
    for round in 0..4 {
        let senders: Vec<_> = (0..8)
            .map(|sender| {
                let (client, queue) = (server.client(), topic[sender % topic.len()].clone());
                std::thread::spawn(move || send_delayed(client, &queue, &format!("{round}-{sender}")))
            })
            .collect();
        std::thread::sleep(Duration::from_millis(1500));
        let status = server.stop();
        assert!(status.success(), "SIGTERM: {status}");
        acknowledged += senders.into_iter().map(|sender| sender.join().expect("a sender")).sum::<usize>();
        server.start_again(settings);
    }
    assert!(acknowledged > 0, "nothing was acknowledged");
    let mut client = server.client();
    await_until("every delayed message", Duration::from_secs(30), || {
        let arrived = topic.iter().map(|queue| client.max_offset(queue).expect("ask for the end"));
        arrived.sum::<u64>() >= acknowledged as u64
    });
    let mut seen = HashSet::new();
    for queue in &topic {
        let mut next = 0;
        while next < client.max_offset(queue).expect("ask for the end") {
            let pull =
                Pull { group: "reader", offset: next, messages_max: 32, subscription: "*", hold: None };
            let pulled = client.pull(queue, &pull).expect("pull");
            for message in pulled.messages() {
                let body = message.expect("a message that can be read").body.to_vec();
                assert!(seen.insert(body), "{queue:?} at {next}: delivered twice");
                next += 1;
            }
        }
    }
    assert!(seen.len() >= acknowledged, "{acknowledged} were acknowledged, {} arrived", seen.len());
}

/// Sends messages that are delayed by a second until the server goes; returns how many it acknowledged.
fn send_delayed(mut client: Client, queue: &Queue, sender: &str) -> usize {
    let delay = [("DELAY".to_owned(), "1".to_owned())];
    for number in 0.. {
        let id = format!("{sender}-{number}");
        let message = OutMessage { properties: &delay, ..OutMessage::new(&id, id.as_bytes()) };
        if client.send(queue, "load", &message, 0).is_err() {
            return number;
        }
    }
    unreachable!("the server goes before the numbers end")
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
