//! A disk that is full to its last byte, again and again, under load: sends are refused with what is missing, reads go on, nothing that
//! was acknowledged is lost, and when there is room again the node goes on by itself.

use std::time::{Duration, Instant};

use ringmq::client::{Client, OutMessage, Queue};

use crate::support::load::{Amount, Ledger, Load};
use crate::support::server::{Server, Settings};
use crate::support::small_disk::SmallDisk;
use crate::support::{alone, await_until};

const CYCLES: u32 = 20;
const SENDERS: u32 = 8;
/// Room for what all cycles write: in each, both shards fill at most the file at hand and the one that is ready.
const DISK_MIB: u64 = 2048;
/// From free space to the first acknowledged send.
const BACK_WITHIN: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends to each queue; `Err` with the text of the first refusal.
fn try_each(client: &mut Client, queues: &[Queue]) -> Result<(), String> {
    for queue in queues {
        let sent = client.send(queue, "probe", &OutMessage::new("probe", b"p"), 0);
        sent.map_err(|error| error.to_string())?;
    }
    Ok(())
}

#[test]
fn a_disk_that_is_full_twenty_times_loses_nothing_and_needs_no_restart() {
    let _guard = alone();
    let mut disk = match SmallDisk::mount(DISK_MIB) {
        Ok(disk) => disk,
        Err(reason) => return println!("skipped, no file system could be mounted: {reason}"),
    };
    let mut server = Server::start_in(&disk.root(), Settings::default().co_located());
    let mut ledger = Ledger::new(&server, "full", 2);
    let probes = Ledger::new(&server, "probe", 1).topic;
    let mut slowest = Duration::ZERO;
    for cycle in 0..CYCLES {
        let amount = Amount {
            senders: SENDERS,
            first_sender: cycle * SENDERS,
            messages: u32::MAX,
            body_bytes: &[60_000, 1024, 30_000],
        };
        let load = Load::start(&server.namesrv(), &ledger.topic, amount);
        disk.fill();
        // Each sender ends with its first refusal.
        let before = ledger.acknowledged;
        load.enter_into(&mut ledger);
        assert!(ledger.acknowledged > before, "nothing was acknowledged in cycle {cycle}");

        let mut client = server.client();
        let mut refusal = String::new();
        await_until("a refusal", PATIENCE, || {
            try_each(&mut client, &probes).map_err(|text| refusal = text).is_err()
        });
        assert!(
            refusal.contains("free") && refusal.contains("commitlog"),
            "it says what is missing: {refusal}"
        );
        ledger.verify(&server);

        disk.free();
        let freed = Instant::now();
        await_until("sends that are acknowledged", PATIENCE, || try_each(&mut client, &probes).is_ok());
        slowest = slowest.max(freed.elapsed());
        assert!(server.is_running());
    }
    println!("{} acknowledged; back {slowest:?} after space at the latest", ledger.acknowledged);
    assert!(slowest < BACK_WITHIN, "back only {slowest:?} after there was room again");
    server.kill();
    server.start_again(server.settings());
    ledger.rewind();
    ledger.verify(&server);
    assert!(server.stop().success(), "SIGTERM at the end");
}

#[test]
fn a_disk_that_is_fuller_than_it_may_be_takes_no_messages_until_there_is_room() {
    let _guard = alone();
    let mut disk = match SmallDisk::mount(512) {
        Ok(disk) => disk,
        Err(reason) => return println!("skipped, no file system could be mounted: {reason}"),
    };
    let settings = Settings { disk_limits: "diskSpaceWarningLevelRatio = 60", ..Settings::default() };
    let mut server = Server::start_in(&disk.root(), settings.co_located());
    let mut ledger = Ledger::new(&server, "limit", 2);
    let probes = Ledger::new(&server, "probe", 1).topic;
    let amount = Amount { senders: 4, first_sender: 0, messages: 20, body_bytes: &[20_000] };
    Load::start(&server.namesrv(), &ledger.topic, amount).enter_into(&mut ledger);
    let mut client = server.client();
    // Room for a file of the log or two is left: it is the limit that refuses.
    disk.take(300 << 20);
    let mut refusal = String::new();
    await_until("a refusal", PATIENCE, || {
        try_each(&mut client, &probes).map_err(|text| refusal = text).is_err()
    });
    assert!(refusal.contains("% full") && refusal.contains("diskSpaceWarningLevelRatio"), "{refusal}");
    ledger.verify(&server);
    disk.free();
    await_until("sends that are acknowledged", BACK_WITHIN, || try_each(&mut client, &probes).is_ok());
    assert!(server.stop().success(), "SIGTERM at the end");
}

#[test]
fn where_old_messages_may_go_before_their_time_a_small_disk_takes_more_than_it_holds() {
    let _guard = alone();
    const DISK_MIB: u64 = 512;
    let disk = match SmallDisk::mount(DISK_MIB) {
        Ok(disk) => disk,
        Err(reason) => return println!("skipped, no file system could be mounted: {reason}"),
    };
    let disk_limits =
        "cleanFileForciblyEnable = true\ndiskMaxUsedSpaceRatio = 40\ndiskSpaceCleanForciblyRatio = 50";
    let settings = Settings { shards: 1, disk_limits, ..Settings::default() };
    let mut server = Server::start_in(&disk.root(), settings);
    let mut ledger = Ledger::new(&server, "ring", 1);
    // Twice what the disk holds, in stretches that each fit beside what is kept.
    for stretch in 0..16 {
        let amount = Amount { senders: 4, first_sender: stretch * 4, messages: 270, body_bytes: &[60_000] };
        let before = ledger.acknowledged;
        Load::start(&server.namesrv(), &ledger.topic, amount).enter_into(&mut ledger);
        assert_eq!(ledger.acknowledged - before, 4 * 270, "all are taken");
        await_until("old files to go", PATIENCE, || disk.used_percent() <= 50.0);
    }
    assert!(server.client().min_offset(&ledger.topic[0]).expect("ask") > 0);
    ledger.begin_at_the_first(&server);
    ledger.verify(&server);
    assert!(server.stop().success(), "SIGTERM at the end");
}
