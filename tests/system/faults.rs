//! A disk that refuses, stores a part, is full or slow, under the real program (`shards/src/io/fault.rs`): a log whose flush fails takes
//! nothing any more and says so everywhere, the other shard goes on, and what was acknowledged is there after a restart. Needs a build
//! with debug assertions.

use std::time::{Duration, Instant};

use ringmq::client::{Client, OutMessage, Pull, Queue};

use crate::support::load::{Amount, Ledger, Load};
use crate::support::program;
use crate::support::server::{Server, Settings};
use crate::support::{alone, await_until, beside_others};

const PATIENCE: Duration = Duration::from_secs(30);
const SENDERS: u32 = 8;

/// Two shards on a disk that can be told to fail.
fn settings() -> Settings {
    Settings { disk_faults: true, ..Settings::default() }
}

/// More than there is time for, and not so much that a test in which nothing fails would fill the disk.
fn plenty(first_sender: u32) -> Amount {
    Amount { senders: SENDERS, first_sender, messages: 10_000, body_bytes: &[1024, 100, 20_000] }
}

/// The answer to one message to `queue`.
fn send(client: &mut Client, queue: &Queue) -> Result<(), String> {
    let sent = client.send(queue, "probe", &OutMessage::new("probe", b"probe"), 0);
    sent.map(drop).map_err(|error| error.to_string())
}

fn is_set(metric: f64) -> bool {
    metric > 0.5
}

/// The flush number `nth` of shard 0, all in its first file, ends in `effect`.
fn a_failed_flush_is_final(settings: Settings, operation: &str, nth: &str, effect: &str) {
    println!("{operation} {nth} {effect} with {settings:?}");
    let mut server = Server::start(settings);
    let mut ledger = Ledger::new(&server, "faults", 2);
    let probes = Ledger::new(&server, "probes", 1).topic;
    let of_shard = |shard: u32| {
        let addr = server.broker(shard);
        probes.iter().find(|queue| queue.addr == addr).expect("each shard has a queue").clone()
    };
    let (failing, well) = (of_shard(0), of_shard(1));
    // What is to be there afterwards whatever happens.
    let few = Amount { messages: 20, ..plenty(0) };
    Load::start(&server.namesrv(), &ledger.topic, few).enter_into(&mut ledger);
    assert_eq!(ledger.acknowledged, u64::from(SENDERS * 20), "all is well before");
    server.set_disk_faults(&format!("shard-0/commitlog/00000000000000000000 {operation} {nth} {effect}"));
    Load::start_with(&server.namesrv(), &ledger.topic, plenty(SENDERS), 4).enter_into(&mut ledger);

    // It stays so, although the disk is well again, and it says what there is to know.
    let mut client = server.client();
    let refusal = send(&mut client, &failing).expect_err("nothing is taken any more");
    let errno = if effect == "EIO" { "(os error 5)" } else { "bytes were written" };
    for part in ["shard-0/commitlog/", errno, "failed", "look after the disk, then restart"] {
        assert!(refusal.contains(part), "`{part}` is missing: {refusal}");
    }
    for _ in 0..20 {
        assert!(send(&mut client, &failing).is_err(), "a log that failed takes nothing");
        send(&mut client, &well).expect("the other shard goes on");
    }
    assert!((server.metric("ringmq_core_log_failed") - 1.0).abs() < 0.1, "one log failed");
    let health = server.http_body("GET /healthz");
    assert!(health.contains("a write failed"), "{health}");
    assert!(server.log_end().contains("takes and acknowledges nothing any more"), "{}", server.log_end());
    await_until("the check to tell", PATIENCE, || {
        let told = server.check();
        told.contains("one failed and takes no messages") && told.contains("shard-0/commitlog/")
    });
    ledger.verify(&server);

    server.kill();
    server.set_disk_faults("");
    server.start_again(settings);
    ledger.verify(&server);
    let load = Load::start(&server.namesrv(), &ledger.topic, Amount { messages: 20, ..plenty(2 * SENDERS) });
    let before = ledger.acknowledged;
    load.enter_into(&mut ledger);
    assert_eq!(ledger.acknowledged - before, u64::from(SENDERS * 20), "both shards take messages again");
    ledger.rewind();
    ledger.verify(&server);
    assert!(server.check().contains("none has failed"), "{}", server.check());
    println!("{} acknowledged, {} there", ledger.acknowledged, ledger.read());
}

#[test]
fn a_flush_error_ends_the_log_of_its_shard_alone_and_loses_nothing_acknowledged() {
    let _guard = alone();
    a_failed_flush_is_final(settings(), "write", "1", "EIO");
    a_failed_flush_is_final(settings().co_located(), "write", "40", "EIO");
    a_failed_flush_is_final(settings().on_glommio(), "write", "17", "EIO");
    a_failed_flush_is_final(Settings { flush: "async", ..settings() }, "sync", "1-", "EIO");
    a_failed_flush_is_final(Settings { flush: "async", ..settings().on_glommio() }, "sync", "1-", "EIO");
}

#[test]
fn a_write_that_stored_a_part_ends_the_log_of_its_shard() {
    let _guard = alone();
    a_failed_flush_is_final(settings(), "write", "23", "short");
    a_failed_flush_is_final(settings().co_located().on_glommio(), "write", "5", "short");
}

#[test]
fn a_write_that_finds_no_room_is_done_again_and_nobody_is_refused() {
    let _guard = alone();
    let mut server = Server::start(settings());
    let mut ledger = Ledger::new(&server, "room", 2);
    let amount = Amount { messages: 200, ..plenty(0) };
    server.set_disk_faults("shard-0/commitlog write 5-6 ENOSPC\nshard-1/commitlog zeros 1-2 ENOSPC");
    let load = Load::start_with(&server.namesrv(), &ledger.topic, amount, 4);
    await_until("the full disk to be told", PATIENCE, || is_set(server.metric("ringmq_core_log_disk_full")));
    load.enter_into(&mut ledger);
    assert_eq!(ledger.acknowledged, u64::from(SENDERS * 200));
    await_until("the disk to have room", PATIENCE, || !is_set(server.metric("ringmq_core_log_disk_full")));
    assert!(!is_set(server.metric("ringmq_core_log_failed")));
    assert!(server.log_end().contains("tried again every second"), "{}", server.log_end());
    ledger.verify(&server);
    server.kill();
    server.start_again(settings());
    ledger.rewind();
    ledger.verify(&server);
}

#[test]
fn a_full_disk_at_the_next_file_of_the_log_is_over_by_itself() {
    let _guard = alone();
    let mut server = Server::start(settings());
    let mut ledger = Ledger::new(&server, "room", 2);
    server.set_disk_faults("commitlog allocate 1- ENOSPC");
    // Until no file has room.
    let load = Load::start(&server.namesrv(), &ledger.topic, plenty(0));
    load.enter_into(&mut ledger);
    let mut client = server.client();
    let probes = Ledger::new(&server, "probes", 1).topic;
    let mut refusal = String::new();
    await_until("a refusal", PATIENCE, || {
        let large = OutMessage::new("large", &[b'x'; 60_000]);
        let refused = probes.iter().find_map(|queue| client.send(queue, "probe", &large, 0).err());
        refused.map(|error| refusal = error.to_string()).is_some()
    });
    assert!(refusal.contains("free") && refusal.contains("commitlog"), "it says what is missing: {refusal}");
    server.set_disk_faults("");
    await_until("sends that are acknowledged", PATIENCE, || {
        probes.iter().all(|queue| send(&mut client, queue).is_ok())
    });
    ledger.verify(&server);
    assert!(server.is_running());
}

#[test]
fn a_slow_flush_delays_its_messages_and_loses_none() {
    let _guard = beside_others();
    let mut server = Server::start(settings());
    let mut ledger = Ledger::new(&server, "slow", 2);
    server.set_disk_faults("shard-0/commitlog write 2- 300ms");
    let began = Instant::now();
    let amount = Amount { messages: 8, ..plenty(0) };
    Load::start(&server.namesrv(), &ledger.topic, amount).enter_into(&mut ledger);
    assert_eq!(ledger.acknowledged, u64::from(SENDERS * 8), "nothing is refused");
    assert!(began.elapsed() > Duration::from_millis(900), "each waited for its flush: {:?}", began.elapsed());
    ledger.verify(&server);
    let load = Load::start(&server.namesrv(), &ledger.topic, plenty(SENDERS));
    await_until("messages under way", PATIENCE, || {
        server.metric("rocketmq_storage_flush_behind_bytes") > 0.0
    });
    server.kill();
    load.enter_into(&mut ledger);
    server.set_disk_faults("");
    server.start_again(settings());
    ledger.rewind();
    ledger.verify(&server);
}

const MESSAGES: usize = 300;
/// How often a consumer is refused before it gets on past what the disk does not give back.
const REFUSALS_MAX: usize = 4;

fn text(number: usize) -> String {
    format!("message {number:06} {}", "and what it says ".repeat(30 + number % 7))
}

/// A queue of shard 0 with messages, none of which is in memory, and where in the log each begins and ends.
fn old_messages(settings: Settings) -> (Server, Queue, Vec<(u64, u64)>) {
    let mut server = Server::start(settings);
    let queues = server.create_topic("old", 1);
    let addr = server.broker(0);
    let queue = queues.into_iter().find(|queue| queue.addr == addr).expect("shard 0 has a queue");
    let mut client = server.client();
    let starts: Vec<u64> = (0..=MESSAGES)
        .map(|number| {
            let sent = client.send(&queue, "sender", &OutMessage::new("key", text(number).as_bytes()), 0);
            let id = sent.expect("send").offset_message_id;
            u64::from_str_radix(&id[16..], 16).expect("the id ends with the place in the log")
        })
        .collect();
    assert!(server.stop().success(), "SIGTERM");
    server.start_again(settings);
    (server, queue, starts.windows(2).map(|pair| (pair[0], pair[1])).collect())
}

/// The numbers of the messages that a consumer reads, which goes where it is sent, and comes back where it was refused.
fn consume(server: &Server, queue: &Queue) -> Vec<usize> {
    let mut client = server.client();
    let (mut numbers, mut offset) = (Vec::new(), 0);
    while offset < MESSAGES as u64 {
        let pull = Pull { group: "reader", offset, messages_max: 32, subscription: "*", hold: None };
        let pulled = (0..REFUSALS_MAX).find_map(|_| client.pull(queue, &pull).ok());
        let pulled = pulled.unwrap_or_else(|| panic!("refused {REFUSALS_MAX} times at {offset}"));
        for message in pulled.messages() {
            let message = message.expect("a whole message");
            let number = usize::try_from(message.queue_offset).expect("a small number");
            assert_eq!(message.body, text(number).as_bytes());
            numbers.push(number);
        }
        assert!(pulled.next_offset > offset, "a consumer gets on at {offset}");
        offset = pulled.next_offset;
    }
    numbers.retain(|number| *number < MESSAGES);
    numbers
}

#[test]
fn what_the_disk_does_not_give_back_is_passed_over_and_its_neighbours_are_served() {
    let _guard = beside_others();
    for settings in [settings(), settings().co_located().on_glommio()] {
        let (mut server, queue, places) = old_messages(settings);
        let (from, to) = (10 * 4096_u64, 11 * 4096_u64);
        server.set_disk_faults(&format!("shard-0/commitlog read @{from}-{to} EIO"));
        let is_lost = |number: &usize| places[*number].0 < to && from < places[*number].1;
        let lost = (0..MESSAGES).filter(is_lost).count();
        let expected: Vec<usize> = (0..MESSAGES).filter(|number| !is_lost(number)).collect();
        assert!(lost > 1, "{lost} messages are in the block");
        assert_eq!(consume(&server, &queue), expected);
        let skipped = server.metric("ringmq_damaged_messages_skipped_total");
        assert!((skipped - lost as f64).abs() < 0.1, "{skipped} skipped, {lost} lost");
        assert!((server.metric("ringmq_damaged_ranges") - 1.0).abs() < 0.1);
        let told = server.log_end();
        assert!(told.contains("a message is lost") && told.contains("(os error 5)"), "{told}");
        await_until("the check to tell", PATIENCE, || server.check().contains("1 damaged places are known"));

        // The check in the background comes past the block, too.
        assert!(server.stop().success(), "SIGTERM");
        server.start_again(Settings { scrub_interval_s: 1, ..settings });
        let found = || server.metric("ringmq_scrub_found_total") > 0.5;
        await_until("the check to come to the block, and past it", PATIENCE, found);
    }
}

#[test]
fn a_read_that_fails_once_or_everywhere_loses_nothing() {
    let _guard = beside_others();
    for settings in [settings(), settings().co_located().on_glommio()] {
        let (server, queue, _) = old_messages(settings);
        let all: Vec<usize> = (0..MESSAGES).collect();
        // The disk is away for all that is asked, so that nothing can be said of any place.
        server.set_disk_faults("shard-0/ read 1- EIO");
        let pull = Pull { group: "reader", offset: 0, messages_max: 32, subscription: "*", hold: None };
        for _ in 0..3 {
            let error = server.client().pull(&queue, &pull).expect_err("the disk is away").to_string();
            assert!(error.contains("(os error 5)") && error.contains("shard-0"), "{error}");
        }
        // The chunk, and then what was asked of it, once.
        server.set_disk_faults("shard-0/commitlog read 1-2 EIO");
        assert_eq!(consume(&server, &queue), all);
        assert!(server.metric("ringmq_damaged_messages_skipped_total") < 0.5);
        assert!(server.metric("ringmq_damaged_ranges") < 0.5);
    }
}

#[test]
fn entries_that_the_disk_does_not_give_back_are_made_up_for_by_the_log() {
    let _guard = beside_others();
    let (server, queue, _) = old_messages(settings());
    server.set_disk_faults("shard-0/consumequeue read @0-4096 EIO");
    assert_eq!(consume(&server, &queue), (0..MESSAGES).collect::<Vec<_>>());
    assert!(server.metric("ringmq_consume_queue_entries_healed_total") > 1.5);
    assert!(server.metric("ringmq_damaged_messages_skipped_total") < 0.5);
}

#[test]
fn a_start_passes_over_what_the_disk_does_not_give_back_and_leaves_an_end_alone_that_it_cannot_see() {
    let _guard = beside_others();
    let settings = settings();
    let (mut server, queue, places) = old_messages(settings);
    // So that a start goes through all of the log.
    let kill = |server: &mut Server| {
        server.kill();
        std::fs::remove_file(server.data().join("shard-0/positions")).expect("remove a file");
        std::fs::remove_dir_all(server.data().join("shard-0/consumequeue")).expect("remove a folder");
    };
    kill(&mut server);
    let last_block = places.last().expect("there are some").1 / 4096 * 4096;
    server.set_disk_faults(&format!("shard-0/commitlog read @{last_block}-{} EIO", last_block + 4096));
    let told = server.refused_start(settings);
    assert!(told.contains("shard-0/commitlog") && told.contains("(os error 5)"), "{told}");

    let (from, to) = (10 * 4096_u64, 11 * 4096_u64);
    let is_lost = |number: &usize| places[*number].0 < to && from < places[*number].1;
    let lost = (0..MESSAGES).filter(is_lost).count();
    let expected: Vec<usize> = (0..MESSAGES).filter(|number| !is_lost(number)).collect();
    server.set_disk_faults(&format!("shard-0/commitlog read @{from}-{to} EIO"));
    server.start_again(settings);
    let told = server.log_end();
    assert!(told.contains("the log is damaged") && told.contains("(os error 5)"), "{told}");
    assert_eq!(consume(&server, &queue), expected);
    assert_eq!(server.client().max_offset(&queue).expect("ask for the end"), MESSAGES as u64 + 1);
    assert!(server.stop().success(), "SIGTERM");
    let data = server.data();
    let verify = ["verify", "-o", "json", data.to_str().expect("text")];
    let (_, verified, _) = program::store(&verify, Some(&server.disk_faults()));
    let report: serde_json::Value = serde_json::from_str(&verified).expect("JSON");
    assert_eq!(report["shards"][0]["lost_messages"].as_u64(), Some(lost as u64), "{report}");

    // The disk gives everything back again: nothing was changed in the log.
    server.set_disk_faults("");
    server.start_again(settings);
    kill(&mut server);
    server.start_again(settings);
    assert_eq!(consume(&server, &queue), (0..MESSAGES).collect::<Vec<_>>());
}
