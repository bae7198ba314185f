//! SIGKILL under load, again and again on one store, in both placements and flush modes, on both runtimes: every acknowledged message is at its
//! queue offset afterwards, and so is every message that a consumer has read, acknowledged or not.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::load::{Amount, Ledger, Load, Readers};
use crate::support::server::{Server, Settings};
use crate::support::{alone, number_from_env};

/// Unless the environment has another number in `ROUNDS`.
const ROUNDS: u32 = 20;
const SENDERS: u32 = 16;

#[test]
fn what_was_acknowledged_or_read_survives_kills() {
    let _guard = alone();
    let seed = number_from_env("SEED", 20_261_122);
    println!("SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut server = Server::start(Settings::default());
    let mut ledger = Ledger::new(&server, "kill", 3);
    for round in 0..number_from_env("ROUNDS", ROUNDS) {
        let amount = Amount {
            senders: SENDERS,
            first_sender: round * SENDERS,
            messages: u32::MAX,
            body_bytes: &[1024, 100, 4096, 1024, 20_000, 12],
        };
        let readers = Readers::start(&server.namesrv(), &ledger);
        let load = Load::start(&server.namesrv(), &ledger.topic, amount);
        std::thread::sleep(Duration::from_millis(random.random_range(50..1000)));
        server.kill();
        let before = ledger.acknowledged;
        load.enter_into(&mut ledger);
        let read = readers.enter_into(&mut ledger);
        let settings = Settings {
            placement: if random.random() { "spread" } else { "co-located" },
            flush: if random.random() { "sync" } else { "async" },
            runtime: if random.random() { "ring" } else { "glommio" },
            ..Settings::default()
        };
        let acknowledged = ledger.acknowledged - before;
        println!("round {round}: {acknowledged} acknowledged, {read} read; next {settings:?}");
        assert!(acknowledged > 0 && read > 0, "{acknowledged} acknowledged, {read} read in round {round}");
        server.start_again(settings);
        ledger.verify(&server);
    }
    ledger.rewind();
    ledger.verify(&server);
    println!("{} messages acknowledged, {} stored", ledger.acknowledged, ledger.read());
    assert!(server.stop().success(), "SIGTERM at the end");
}
