//! More than a node can take: what it cannot store in time is refused at once, with the code that says so and what there is too much of;
//! what it has acknowledged is there, memory stays bounded, and when the load is gone it serves as before. Needs a build with debug
//! assertions, for a disk that is slow on demand.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ringmq::client::{ClientError, OutMessage, Pull};
use ringmq::remoting::code::response::SYSTEM_BUSY;

use crate::support::alone;
use crate::support::server::{Server, Settings};

const SENDERS: u32 = 32;
/// What each flush of a mebibyte takes: the disk is slower than any machine sends.
const SLOW_DISK: &str = "shard-0/commitlog write 1- 500ms";
/// How long there is too much, from the first refusal on.
const OVERLOADED: Duration = Duration::from_secs(10);
/// How long the first refusal may take, and an answer: 96 MiB may wait for the log, which takes 2 MiB a second.
const PATIENCE: Duration = Duration::from_secs(120);
/// Under way on each connection: together 128 MiB, more than may wait.
const UNDER_WAY: usize = 64;
const BODY_BYTES: usize = 64 << 10;
/// What waits for the log, what connections hold, and what memory is not given back at once.
const GROWTH_BYTES_MAX: u64 = 448 << 20;

/// What one sender saw.
#[derive(Default)]
struct Seen {
    /// Offsets and numbers of messages that were acknowledged.
    acknowledged: Vec<(u64, u64)>,
    refused: u64,
    longest: Duration,
}

fn body(sender: u32, number: u64) -> Vec<u8> {
    let mut body = vec![u8::try_from(sender).expect("few senders"); BODY_BYTES];
    body[..8].copy_from_slice(&number.to_be_bytes());
    body
}

#[test]
fn what_is_too_much_is_refused_by_name_and_what_is_acknowledged_is_there() {
    let _guard = alone();
    let server = Server::start(Settings { shards: 1, disk_faults: true, ..Settings::default() });
    let queues = server.create_topic("overload", SENDERS);
    let before = server.resident_bytes();
    server.set_disk_faults(SLOW_DISK);
    let (stop, is_refusing) = (AtomicBool::new(false), AtomicBool::new(false));
    let mut most = 0;
    let seen: Vec<Seen> = std::thread::scope(|scope| {
        let (stop, is_refusing, server) = (&stop, &is_refusing, &server);
        let senders: Vec<_> = (0..SENDERS)
            .zip(&queues)
            .map(|(sender, queue)| {
                scope.spawn(move || {
                    let mut client = server.client().with_timeout(PATIENCE);
                    let mut seen = Seen::default();
                    let mut number = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let begun: Vec<_> = (0..UNDER_WAY)
                            .map(|_| {
                                number += 1;
                                let body = body(sender, number);
                                let message = OutMessage::new("k", &body);
                                let sent = client
                                    .begin_send(queue, "p", &message, 0)
                                    .expect("the connection takes it");
                                (number, Instant::now(), sent)
                            })
                            .collect();
                        for (number, at, sent) in begun {
                            match client.finish_send(sent) {
                                Ok(receipt) => {
                                    seen.acknowledged.push((receipt.queue_offset, number));
                                    seen.longest = seen.longest.max(at.elapsed());
                                }
                                Err(ClientError::Refused { code, remark, .. }) => {
                                    assert_eq!(code, SYSTEM_BUSY, "{remark}");
                                    assert!(
                                        remark.contains("[OVERLOAD]")
                                            && remark.contains("bytes of messages wait"),
                                        "{remark}"
                                    );
                                    seen.refused += 1;
                                    is_refusing.store(true, Ordering::Relaxed);
                                }
                                Err(error) => panic!("neither stored nor refused: {error}"),
                            }
                        }
                    }
                    seen
                })
            })
            .collect();
        let (started, mut refusing_since) = (Instant::now(), None);
        while refusing_since.is_none_or(|since: Instant| since.elapsed() < OVERLOADED)
            && started.elapsed() < PATIENCE
        {
            most = most.max(server.resident_bytes().saturating_sub(before));
            std::thread::sleep(Duration::from_millis(50));
            if is_refusing.load(Ordering::Relaxed) {
                refusing_since.get_or_insert_with(Instant::now);
            }
        }
        stop.store(true, Ordering::Relaxed);
        senders.into_iter().map(|sender| sender.join().expect("a sender")).collect()
    });
    let acknowledged: usize = seen.iter().map(|seen| seen.acknowledged.len()).sum();
    let refused: u64 = seen.iter().map(|seen| seen.refused).sum();
    let longest = seen.iter().map(|seen| seen.longest).max().expect("senders");
    println!(
        "{acknowledged} acknowledged, the slowest after {longest:?}; {refused} refused; {} MiB more",
        most >> 20
    );
    assert!(acknowledged > 0 && refused > 0, "{acknowledged} acknowledged, {refused} refused");
    assert!(longest < PATIENCE, "an acknowledgement came after {longest:?}");
    assert!(most < GROWTH_BYTES_MAX, "{most} bytes");

    server.set_disk_faults("");
    let mut client = server.client();
    for ((sender, queue), seen) in (0..).zip(&queues).zip(&seen) {
        client.send(queue, "p", &OutMessage::new("k", b"after"), 0).expect("it serves as before");
        for (offset, number) in &seen.acknowledged {
            let pull = Pull { group: "g", offset: *offset, messages_max: 1, subscription: "*", hold: None };
            let pulled = client.pull(queue, &pull).expect("pull");
            let message = pulled.messages().next().expect("it was acknowledged").expect("whole");
            assert!(message.body == body(sender, *number), "message {number} of sender {sender} at {offset}");
        }
    }
}
