//! Bits that flip in the store of a real broker: it starts, says so, and its clients get everything but what was hit.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use ringmq::client::{OutMessage, Pull, Queue, TopicSpec};

use crate::support::server::{Server, Settings};
use crate::support::{await_until, beside_others};

const MESSAGES: u64 = 400;
const PATIENCE: Duration = Duration::from_secs(20);

fn body(number: u64) -> String {
    format!("message number {number:06} {}", "and what it says ".repeat(30))
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

fn metric(server: &Server, name: &str) -> f64 {
    let text = server.http_body("GET /metrics");
    let of_name = text.lines().filter(|line| line.starts_with(&format!("{name}{{")));
    of_name.map(|line| line.rsplit_once(' ').expect("a value").1.parse::<f64>().expect("a number")).sum()
}

#[test]
fn clients_get_everything_but_the_messages_that_were_hit_and_the_node_says_so() {
    let _guard = beside_others();
    let settings = Settings::default();
    let mut server = Server::start(settings);
    let mut client = server.client();
    client.create_topic(TopicSpec { name: "bits", queues: 2 }).expect("create a topic");
    await_until("routes of all shards", PATIENCE, || {
        client.publish_route("bits").is_ok_and(|route| route.write_queues().len() == 4)
    });
    let queues = client.publish_route("bits").expect("a route").write_queues();
    for number in 0..MESSAGES {
        let key = format!("key-{number}");
        let text = body(number);
        let queue = &queues[usize::try_from(number).expect("small") % queues.len()];
        client.send(queue, "sender", &OutMessage::new(&key, text.as_bytes()), 0).expect("send");
    }
    assert!(server.stop().success(), "SIGTERM");

    // Found by readers: a clean start scans nothing of it.
    let mut lost = BTreeSet::from([11, 50, 200]);
    lost.iter().for_each(|number| damage(&server, *number));
    server.start_again(settings);
    let expected =
        |lost: &BTreeSet<u64>| (0..MESSAGES).filter(|number| !lost.contains(number)).collect::<BTreeSet<_>>();
    assert_eq!(consume(&server, &queues), expected(&lost));
    assert!((metric(&server, "ringmq_damaged_messages_skipped_total") - 3.0).abs() < 0.1);
    assert!((metric(&server, "ringmq_damaged_ranges") - 3.0).abs() < 0.1);
    await_until("the damage to be remembered", PATIENCE, || {
        logs(&server).iter().any(|log| log.ancestors().nth(2).expect("a shard").join("damaged").exists())
    });
    server.kill();

    // Found by the start: everything derived is gone, so that it goes through all of the log.
    lost.insert(300);
    damage(&server, 300);
    for shard in 0..settings.shards {
        std::fs::remove_dir_all(server.data().join(format!("shard-{shard}/consumequeue")))
            .expect("remove a folder");
    }
    server.start_again(settings);
    assert!(server.log_end().contains("the log is damaged"), "{}", server.log_end());
    assert!((metric(&server, "ringmq_damaged_ranges") - 4.0).abs() < 0.1);
    assert_eq!(consume(&server, &queues), expected(&lost));
    for queue in &queues {
        assert_eq!(
            server.client().max_offset(queue).expect("ask for the end"),
            MESSAGES / 4,
            "lost messages keep their places"
        );
    }
    let check = Command::new(env!("CARGO_BIN_EXE_ringmq"))
        .args(["check", "--data"])
        .arg(server.data())
        .output()
        .expect("run ringmq check");
    let check = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(check.contains("4 damaged places are known"), "{check}");
}
