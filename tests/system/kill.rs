//! SIGKILL under load, again and again on one store, in both placements and flush modes, on both runtimes: every acknowledged message is at its
//! queue offset afterwards.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::alone;
use crate::support::load::{Amount, Ledger, Load};
use crate::support::server::{Server, Settings};

const ROUNDS: u32 = 20;
const SENDERS: u32 = 16;

#[test]
fn every_acknowledged_message_survives_twenty_kills() {
    let _guard = alone();
    let seed = std::env::var("RINGMQ_SEED")
        .map_or(20_261_122, |seed| seed.parse().expect("RINGMQ_SEED is a number"));
    println!("RINGMQ_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut server = Server::start(Settings::default());
    let mut ledger = Ledger::new(&server, "kill", 3);
    for round in 0..ROUNDS {
        let amount = Amount {
            senders: SENDERS,
            first_sender: round * SENDERS,
            messages: u32::MAX,
            body_bytes: &[1024, 100, 4096, 1024, 20_000, 12],
        };
        let load = Load::start(&server.namesrv(), &ledger.topic, amount);
        std::thread::sleep(Duration::from_millis(random.random_range(50..1000)));
        server.kill();
        let before = ledger.acknowledged;
        load.enter_into(&mut ledger);
        let settings = Settings {
            placement: if random.random() { "spread" } else { "co-located" },
            flush: if random.random() { "sync" } else { "async" },
            runtime: if random.random() { "ring" } else { "glommio" },
            ..Settings::default()
        };
        println!("round {round}: {} acknowledged; next {settings:?}", ledger.acknowledged - before);
        assert!(ledger.acknowledged > before, "nothing was acknowledged in round {round}");
        server.start_again(settings);
        ledger.verify(&server);
    }
    ledger.rewind();
    ledger.verify(&server);
    println!("{} messages acknowledged, {} stored", ledger.acknowledged, ledger.read());
    assert!(server.stop().success(), "SIGTERM at the end");
}
