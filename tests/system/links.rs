//! Bad networks between clients and the server (`support/proxy.rs`): what was acknowledged over connections that are delayed, blocked one
//! way or both, or cut, is there, at its place; groups go on; and the server lets go of connections at whose other end nobody is.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::load::{Amount, Ledger, Load, Readers};
use crate::support::proxy::{Link, Network};
use crate::support::server::{Server, Settings};
use crate::support::{alone, number_from_env};

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
    let seed = number_from_env("SEED", 20_261_123);
    println!("SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
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
