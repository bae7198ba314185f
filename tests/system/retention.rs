//! Old messages go when their time is over, whole files of the log at a time, and nothing else goes with them: not under load, not when
//! the process is killed in the middle of it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rand::Rng;
use ringmq::client::{Pull, Queue};
use ringmq::remoting::code::request::DELETE_EXPIRED_COMMITLOG;
use ringmq::remoting::code::response::PULL_OFFSET_MOVED;

use crate::support::load::{Amount, Ledger, Load, Readers};
use crate::support::server::{Server, Settings};
use crate::support::{alone, await_until, seeded};

const PATIENCE: Duration = Duration::from_secs(60);
/// Longer ago than messages are kept.
const LONG_AGO: Duration = Duration::from_secs(100 * 3600);
const ROUNDS: u32 = 4;

/// The files of the log, oldest first, those on their way out at last.
fn log_files(server: &Server) -> Vec<PathBuf> {
    let dir = server.data().join("shard-0/commitlog");
    let entries = std::fs::read_dir(dir).expect("list the log");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("list the log").path()).collect();
    files.sort_by_key(|path| (path.extension().is_some(), path.clone()));
    files
}

/// The files of the log begin with `first`, and nothing is left of those before.
fn begins_with(server: &Server, first: &Path) -> bool {
    let files = log_files(server);
    files[0] == first && files.iter().all(|path| path.file_stem() >= first.file_stem())
}

/// Waits until the queues begin where the log does, each with the first of its messages that the log still holds.
fn wait_until_queues_follow(server: &Server, topic: &[Queue]) {
    let file = &log_files(server)[0];
    let log_start: u64 = file.file_name().and_then(|name| name.to_str()?.parse().ok()).expect("an offset");
    let min = |queue| server.client().min_offset(queue).expect("ask");
    for queue in topic {
        await_until("the queue to begin later", PATIENCE, || {
            place_of(server, queue, min(queue)) >= log_start
        });
        let min = min(queue);
        assert!(min > 0, "messages of {queue:?} went");
        let last_gone = place_of(server, queue, min - 1);
        assert!(last_gone < log_start, "{queue:?} begins at {min}: {last_gone} is behind {log_start}");
    }
}

/// Where in the log a message is, as its entry in the queue's only ConsumeQueue file says: 20 bytes, the place first.
fn place_of(server: &Server, queue: &Queue, offset: u64) -> u64 {
    let dir = server.data().join(format!("shard-0/consumequeue/{}/{}", queue.topic, queue.queue_id));
    let entries = File::open(dir.join("00000000000000000000")).expect("open a ConsumeQueue");
    let mut place = [0; 8];
    entries.read_exact_at(&mut place, offset * 20).expect("read a ConsumeQueue");
    u64::from_be_bytes(place)
}

/// Lets the oldest `count` files of the log be old, and asks the broker to look.
fn let_expire(server: &Server, count: usize) {
    for path in log_files(server).iter().take(count) {
        let file = File::options().write(true).open(path).expect("open a file of the log");
        file.set_modified(SystemTime::now() - LONG_AGO).expect("set its time");
    }
    let answer = server.client().call(&server.broker(0), DELETE_EXPIRED_COMMITLOG, &[], &[]).expect("ask");
    assert_eq!(answer.code(), 0, "{}", answer.remark());
}

#[test]
fn what_is_old_goes_and_nothing_else_whatever_happens_meanwhile() {
    let _guard = alone();
    let mut random = seeded(11);
    let settings = Settings { shards: 1, ..Settings::default() };
    let mut server = Server::start(settings);
    let mut ledger = Ledger::new(&server, "old", 2);
    let fill = |round: u32, messages| Amount {
        senders: 8,
        first_sender: round * 8,
        messages,
        body_bytes: &[30_000, 1000, 60_000],
    };
    // Six files or so.
    Load::start(&server.namesrv(), &ledger.topic, fill(0, 400)).enter_into(&mut ledger);
    ledger.verify(&server);
    let before = log_files(&server);
    assert!(before.len() > 5, "{before:?}");
    let_expire(&server, 3);
    await_until("the old files to go", PATIENCE, || begins_with(&server, &before[3]));
    wait_until_queues_follow(&server, &ledger.topic);
    for queue in &ledger.topic {
        let pull = Pull { group: "late", offset: 0, messages_max: 1, subscription: "*", hold: None };
        let pulled = server.client().pull(queue, &pull).expect("pull");
        let min = server.client().min_offset(queue).expect("ask");
        assert_eq!((pulled.code, pulled.next_offset), (PULL_OFFSET_MOVED, min));
    }
    ledger.begin_at_the_first(&server);
    ledger.verify(&server);

    // Again and again under load, with a kill at any moment.
    for round in 1..=ROUNDS {
        let load = Load::start(&server.namesrv(), &ledger.topic, fill(round, u32::MAX));
        let readers = Readers::start(&server.namesrv(), &ledger.topic, &ledger);
        let files = log_files(&server).len();
        await_until("more files", PATIENCE, || log_files(&server).len() > files + 3);
        let before = log_files(&server);
        let_expire(&server, 4);
        std::thread::sleep(Duration::from_millis(random.random_range(0..1500)));
        server.kill();
        load.enter_into(&mut ledger);
        readers.enter_into(&mut ledger);
        server.start_again(settings);
        // What the kill has left of it; a start looks into the files of the end, which makes them young.
        let left = log_files(&server).iter().filter(|path| **path < before[4]).count();
        let_expire(&server, left);
        await_until("the old files to go", PATIENCE, || begins_with(&server, &before[4]));
        wait_until_queues_follow(&server, &ledger.topic);
        ledger.begin_at_the_first(&server);
        ledger.verify(&server);
    }
    println!("{} acknowledged, {} still there", ledger.acknowledged, ledger.read());
    assert!(server.stop().success(), "SIGTERM at the end");
}
