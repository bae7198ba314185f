//! Bad networks between clients and the server (`support/proxy.rs`): what was acknowledged over connections that are delayed, blocked one
//! way or both, or cut, is there, at its place; groups go on; and the server lets go of connections at whose other end nobody is.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use ringmq::client::{Connection, OutMessage, Queue};
use ringmq::remoting::code::request;

use crate::support::enduring::{Crew, Enduring};
use crate::support::java::Java;
use crate::support::load::{Amount, Ledger, Load, Readers};
use crate::support::proxy::{Link, Network};
use crate::support::server::{Server, Settings};
use crate::support::{alone, await_until, number_from_env, seeded};

const PATIENCE: Duration = Duration::from_secs(60);
const ROUNDS: u32 = 12;
const SENDERS: u32 = 8;
const IN_FLIGHT: usize = 16;

/// What a link comes to for a while.
fn bad_link(random: &mut StdRng) -> Link {
    match random.random_range(0..5) {
        0 => Link::Delayed(Duration::from_millis(random.random_range(1..60))),
        1 => Link::ToServerBlocked,
        2 => Link::ToClientBlocked,
        3 => Link::HalfOpen,
        _ => Link::Open,
    }
}

fn sleep_up_to(random: &mut StdRng, ms: u64) {
    std::thread::sleep(Duration::from_millis(random.random_range(10..ms)));
}

#[test]
fn what_was_acknowledged_or_read_over_bad_links_is_there() {
    let _guard = alone();
    let mut random = seeded(20_261_123);
    let mut server = Server::start(Settings::default());
    let network = Network::before(&server);
    let mut ledger = Ledger::new(&server, "links", 3);
    let queues = network.queues(&ledger.topic);
    for round in 0..number_from_env("ROUNDS", ROUNDS) {
        let amount = Amount {
            senders: SENDERS,
            first_sender: round * SENDERS,
            messages: u32::MAX,
            body_bytes: &[1024, 100, 4096, 12, 30_000, 300],
        };
        let before = ledger.acknowledged;
        let readers = Readers::start(&network.namesrv(), &queues, &ledger);
        let load = Load::start_with(&network.namesrv(), &queues, amount, IN_FLIGHT);
        load.await_first();
        sleep_up_to(&mut random, 300);
        let mut links = Vec::new();
        for _ in 0..4 {
            let (shard, link) = (random.random_range(0..2), bad_link(&mut random));
            network.set_shard(shard, link);
            links.push((shard, link));
            sleep_up_to(&mut random, 250);
        }
        // What is held up is lost, or arrives first.
        if random.random() {
            network.set(Link::Open);
            sleep_up_to(&mut random, 100);
        }
        network.set(Link::Down);
        network.cut();
        load.enter_into(&mut ledger);
        let read = readers.enter_into(&mut ledger);
        network.set(Link::Open);
        let acknowledged = ledger.acknowledged - before;
        println!("round {round}: {acknowledged} acknowledged, {read} read; {links:?}");
        assert!(acknowledged > 0, "nothing was acknowledged in round {round}");
        ledger.verify(&server);
    }
    ledger.rewind();
    ledger.verify(&server);
    assert!(server.is_running());
    assert!(server.stop().success(), "SIGTERM at the end");
}

/// Longer than a loaded machine keeps a client that says something now and then from saying it.
const IDLE_CLOSE_S: u64 = 10;
const JAVA_ROUNDS: u32 = 4;
/// Longer than a call of the client may take: it gives up, and the connection with it.
const CLIENT_GIVES_UP: Duration = Duration::from_millis(3500);

#[test]
fn a_stock_java_group_and_its_producers_go_on_over_bad_links_and_lose_nothing() {
    let _guard = alone();
    let mut random = seeded(20_261_124);
    let java = Java::with_client("5.5.0");
    let mut server = Server::start(Settings::default());
    let network = Network::before(&server);
    let mut ledger = Ledger::new(&server, "java-links", 3);
    let crew = Crew { senders: 4, members: 2 };
    let crew = Enduring::start(&java, &network.namesrv(), &ledger, crew, server.scratch());
    for round in 0..number_from_env("ROUNDS", JAVA_ROUNDS) {
        let (acknowledged, consumed) = (crew.acknowledged(), crew.consumed());
        await_until("the clients at work", PATIENCE, || {
            crew.acknowledged() > acknowledged + 100 && crew.consumed() > consumed + 100
        });
        let mut links = Vec::new();
        for _ in 0..3 {
            let (shard, link) = (random.random_range(0..2), bad_link(&mut random));
            network.set_shard(shard, link);
            links.push((shard, link));
            sleep_up_to(&mut random, 800);
        }
        if round % 2 == 0 {
            let link = if random.random() { Link::HalfOpen } else { Link::ToClientBlocked };
            network.set(link);
            links.extend([(0, link), (1, link)]);
            std::thread::sleep(CLIENT_GIVES_UP);
        }
        if random.random() {
            network.cut();
        }
        network.set(Link::Open);
        println!(
            "round {round}: {} acknowledged, {} consumed; {links:?}",
            crew.acknowledged() - acknowledged,
            crew.consumed() - consumed
        );
    }
    crew.enter_into(&mut ledger);
    ledger.verify(&server);
    println!("{} messages acknowledged, {} stored", ledger.acknowledged, ledger.read());
    assert!(server.is_running());
    assert!(server.stop().success(), "SIGTERM at the end");
}

#[test]
fn connections_at_whose_other_end_nobody_is_are_let_go_and_others_stay() {
    let _guard = alone();
    let mut server = Server::start(Settings { idle_close_s: IDLE_CLOSE_S, ..Settings::default() });
    let network = Network::before(&server);
    let ledger = Ledger::new(&server, "gone", 1);
    let mut alive = server.client();
    let filler = [b'x'; 30_000];
    for _ in 0..64 {
        alive.send(&ledger.topic[0], "alive", &OutMessage::new("filler", &filler), 0).expect("send");
    }
    let mut goes_on = || {
        let stored = alive.send(&ledger.topic[0], "alive", &OutMessage::new("alive", b"alive"), 0);
        stored.expect("who says something now and then is not cut off");
    };
    goes_on();

    // Pulls that are held, whose clients then go without a word that arrives.
    let [full, empty] = <[Queue; 2]>::try_from(network.queues(&ledger.topic)).expect("a queue on each shard");
    let held: Vec<_> = (0..20).map(|_| begin_pull(&empty, 1)).collect();
    // Answers that nobody reads: more than the buffers of the way take.
    let deaf: Vec<_> = (0..20).map(|_| begin_pull(&full, 100)).collect();
    let connections = || server.metric("ringmq_core_connections");
    await_until("their connections", PATIENCE, || {
        goes_on();
        connections() > 40.0
    });
    network.set(Link::HalfOpen);
    drop(held);
    await_until("the server to let them go", PATIENCE, || {
        goes_on();
        connections() < 10.0
    });
    drop(deaf);
    goes_on();
    assert!(server.is_running());
}

/// A connection with so many pulls under way, whose answers nobody takes.
fn begin_pull(queue: &Queue, pulls: u32) -> Connection {
    let mut connection = Connection::open(&queue.addr, PATIENCE).expect("connect");
    for _ in 0..pulls {
        connection
            .begin(
                request::PULL_MESSAGE,
                &[
                    ("consumerGroup", &"gone"),
                    ("topic", &queue.topic),
                    ("queueId", &0),
                    ("queueOffset", &0),
                    ("maxMsgNums", &32),
                    ("sysFlag", &6),
                    ("commitOffset", &0),
                    ("suspendTimeoutMillis", &30_000),
                    ("subscription", &"*"),
                    ("subVersion", &0),
                    ("expressionType", &"TAG"),
                ],
                &[],
                PATIENCE,
            )
            .expect("ask");
    }
    connection
}
