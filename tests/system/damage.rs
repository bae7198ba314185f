//! Bits that flip in the store of a real broker: it starts, says so, and its clients get everything but what was hit.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use ringmq::client::{OutMessage, Pull, Queue};

use crate::support::java::Java;
use crate::support::load::{Amount, Ledger, Load};
use crate::support::program;
use crate::support::scenarios::Scenarios;
use crate::support::server::{Server, Settings};
use crate::support::{await_until, beside_others};

const MESSAGES: u64 = 400;
const PATIENCE: Duration = Duration::from_secs(20);

fn body(number: u64) -> String {
    format!("message number {number:06} {}", "and what it says ".repeat(30))
}

/// Messages `0..count` over all queues of a new topic.
fn send_all(server: &Server, count: u64) -> Vec<Queue> {
    let queues = server.create_topic("bits", 2);
    let mut client = server.client();
    for (number, queue) in (0..count).zip(queues.iter().cycle()) {
        let (key, text) = (format!("key-{number}"), body(number));
        client.send(queue, "sender", &OutMessage::new(&key, text.as_bytes()), 0).expect("send");
    }
    queues
}

/// The log files of all shards.
fn logs(server: &Server) -> Vec<PathBuf> {
    let shards = 0..server.settings().shards;
    shards.map(|shard| server.data().join(format!("shard-{shard}/commitlog/00000000000000000000"))).collect()
}

/// Flips a bit in the body of a message, wherever it is stored.
fn damage(server: &Server, number: u64) {
    let wanted = format!("number {number:06}").into_bytes();
    for path in logs(server) {
        let bytes = std::fs::read(&path).expect("read a log file");
        if let Some(at) = bytes.windows(wanted.len()).position(|window| window == wanted) {
            let file = File::options().write(true).open(&path).expect("open a log file");
            file.write_all_at(&[bytes[at + 3] ^ 0x10], at as u64 + 3).expect("flip a bit");
            return;
        }
    }
    panic!("message {number} is in no log");
}

/// The numbers of the messages that a consumer reads, which goes where it is sent until the end of each queue.
fn consume(server: &Server, queues: &[Queue]) -> BTreeSet<u64> {
    let mut client = server.client();
    let mut numbers = BTreeSet::new();
    for queue in queues {
        let mut offset = 0;
        loop {
            let pull = Pull { group: "reader", offset, messages_max: 32, subscription: "*", hold: None };
            let pulled =
                client.pull(queue, &pull).unwrap_or_else(|error| panic!("{queue:?} at {offset}: {error}"));
            for message in pulled.messages() {
                let message = message.expect("a whole message");
                let text = std::str::from_utf8(message.body).expect("text");
                let number = text.split(' ').nth(2).and_then(|word| word.parse().ok()).expect("a number");
                assert_eq!(text, body(number), "no damaged message arrives");
                assert!(numbers.insert(number), "message {number} arrives once");
            }
            if pulled.code == 19 {
                assert_eq!(offset, pulled.max_offset);
                break;
            }
            assert!(pulled.next_offset > offset, "a consumer gets on at {offset} of {queue:?}");
            offset = pulled.next_offset;
        }
    }
    numbers
}

#[test]
fn clients_get_everything_but_the_messages_that_were_hit_and_the_node_says_so() {
    let _guard = beside_others();
    let settings = Settings::default();
    let mut server = Server::start(settings);
    let queues = send_all(&server, MESSAGES);
    assert!(server.stop().success(), "SIGTERM");

    // Found by readers: a clean start scans nothing of it.
    let mut lost = BTreeSet::from([11, 50, 200]);
    lost.iter().for_each(|number| damage(&server, *number));
    server.start_again(settings);
    let expected =
        |lost: &BTreeSet<u64>| (0..MESSAGES).filter(|number| !lost.contains(number)).collect::<BTreeSet<_>>();
    assert_eq!(consume(&server, &queues), expected(&lost));
    assert!((server.metric("ringmq_damaged_messages_skipped_total") - 3.0).abs() < 0.1);
    assert!((server.metric("ringmq_damaged_ranges") - 3.0).abs() < 0.1);
    await_until("the damage to be remembered", PATIENCE, || {
        logs(&server).iter().any(|log| log.ancestors().nth(2).expect("a shard").join("damaged").exists())
    });
    server.kill();

    // Found by the start: nothing says where queues go on, so that it goes through all of the log.
    lost.insert(300);
    damage(&server, 300);
    for shard in 0..settings.shards {
        let folder = server.data().join(format!("shard-{shard}"));
        std::fs::remove_file(folder.join("positions")).expect("remove a file");
        std::fs::remove_dir_all(folder.join("consumequeue")).expect("remove a folder");
    }
    server.start_again(settings);
    assert!(server.log_end().contains("the log is damaged"), "{}", server.log_end());
    assert!((server.metric("ringmq_damaged_ranges") - 4.0).abs() < 0.1);
    assert_eq!(consume(&server, &queues), expected(&lost));
    for queue in &queues {
        assert_eq!(
            server.client().max_offset(queue).expect("ask for the end"),
            MESSAGES / 4,
            "lost messages keep their places"
        );
    }
    assert!(server.stop().success(), "SIGTERM");

    // Found by the check in the background: nobody reads.
    server.start_again(Settings { scrub_interval_s: 1, ..settings });
    damage(&server, 350);
    await_until("the background check to find it", PATIENCE, || {
        (server.metric("ringmq_damaged_ranges") - 5.0).abs() < 0.1
    });
    assert!(server.metric("ringmq_scrub_found_total") >= 1.0);
    await_until("the damage to be remembered", PATIENCE, || {
        server.check().contains("5 damaged places are known")
    });
}

/// A pass over the whole log was what a start began with when a ConsumeQueue was gone.
#[test]
fn files_that_are_gone_are_built_anew_beside_senders_and_readers() {
    let _guard = beside_others();
    let settings = Settings::default();
    let mut server = Server::start(settings);
    let mut ledger = Ledger::new(&server, "gone", 4);
    let amount = |round: u32, messages| Amount {
        senders: 4,
        first_sender: round * 4,
        messages,
        body_bytes: &[30_000, 1000, 60_000],
    };
    // Several steps' worth.
    Load::start(&server.namesrv(), &ledger.topic, amount(0, 800)).enter_into(&mut ledger);
    for round in 1..=2 {
        server.kill();
        for shard in 0..settings.shards {
            for derived in ["consumequeue", "index"] {
                std::fs::remove_dir_all(server.data().join(format!("shard-{shard}/{derived}")))
                    .expect("remove a folder");
            }
        }
        server.start_again(settings);
        Load::start(&server.namesrv(), &ledger.topic, amount(round, 50)).enter_into(&mut ledger);
        await_until("the files to be whole", PATIENCE, || server.metric("ringmq_rebuild_left_bytes") < 1.0);
        ledger.rewind();
        ledger.verify(&server);
    }
    assert!(
        server.log_end().contains("ConsumeQueue and index files are whole again"),
        "{}",
        server.log_end()
    );
    assert!(server.stop().success(), "SIGTERM");
}

#[test]
fn a_stock_push_consumer_gets_all_around_the_damage_and_goes_on() {
    let _guard = beside_others();
    let java = Java::with_client("5.5.0");
    let settings = Settings { shards: 1, ..Settings::default().co_located() };
    let mut server = Server::start(settings);
    let mut command = java.command(server.scratch());
    command.args(["clients.Driver", &server.namesrv(), "java"]);
    let mut clients = Scenarios::start("past damage", command, server.scratch());
    clients.play(&["damaged_write"]);
    assert!(server.stop().success(), "SIGTERM");
    // As `PastDamage.java` has them.
    [50, 120, 121, 199].iter().for_each(|number| damage(&server, *number));
    server.start_again(settings);
    clients.play(&["damaged_read"]);
    clients.finish();
    assert!((server.metric("ringmq_damaged_ranges") - 3.0).abs() < 0.1, "two of the four touch");
}

/// Runs a command on the server's store; its exit code, what it printed and what it told.
fn store(server: &Server, args: &[&str]) -> (i32, String, String) {
    let data = server.data();
    program::store(&[args, &[data.to_str().expect("text")]].concat(), None)
}

#[test]
fn a_stopped_store_is_checked_shown_and_repaired() {
    let _guard = beside_others();
    let settings = Settings::default();
    let mut server = Server::start(settings);
    let queues = send_all(&server, 40);
    for command in ["verify", "dump", "repair"] {
        let (code, _, error) = store(&server, &[command]);
        assert!(code == 1 && error.contains("in use by process"), "{command}: {code} {error}");
    }
    assert!(server.stop().success(), "SIGTERM");

    let (code, text, error) = store(&server, &["verify"]);
    assert!(code == 0 && text.contains("shard 1: good"), "{code} {text} {error}");
    let (code, text, _) = store(&server, &["dump", "--topic", "bits", "-o", "json"]);
    let records: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect();
    assert_eq!((code, records.len()), (0, 40));
    let (_, text, _) = store(&server, &["dump", "--key", "key-17", "--body-bytes", "21"]);
    assert!(text.lines().count() == 2 && text.contains("message number 000017"), "{text}");

    damage(&server, 8);
    let (code, text, _) = store(&server, &["verify", "-o", "json"]);
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(code, 1, "{text}");
    let shards = report["shards"].as_array().expect("shards");
    assert_eq!(shards.iter().filter_map(|shard| shard["lost_messages"].as_u64()).sum::<u64>(), 1);
    let (code, text, _) = store(&server, &["verify"]);
    assert!(code == 1 && text.contains("lost: one message") && text.contains("DAMAGED"), "{text}");
    let (_, text, _) = store(&server, &["dump"]);
    assert!(text.contains("DAMAGED: record CRC"), "{text}");

    // A file of the log is too short: a start refuses, until it is repaired.
    let log = logs(&server).remove(0);
    let length = log.metadata().expect("its length").len();
    File::options().write(true).open(&log).expect("open").set_len(length / 2).expect("cut");
    let aside = server.scratch().join("repaired");
    let (code, text, error) = store(&server, &["repair", "--to", aside.to_str().expect("text")]);
    assert!(code == 0 && text.contains("lengthened"), "{code} {text} {error}");
    assert_eq!(log.metadata().expect("its length").len(), length / 2, "the original stays as it is");
    let (code, text, error) = store(&server, &["repair"]);
    assert!(code == 0 && text.contains("the store as it was is in"), "{code} {text} {error}");
    let copies = std::fs::read_dir(server.scratch()).expect("list").filter(|entry| {
        entry.as_ref().expect("an entry").file_name().to_string_lossy().starts_with("data.before-repair-")
    });
    assert_eq!(copies.count(), 1);
    server.start_again(settings);
    let expected: BTreeSet<u64> = (0..40).filter(|number| *number != 8).collect();
    assert_eq!(consume(&server, &queues), expected);
}
