//! SIGKILL under load, again and again on one store, in both placements and flush modes, on both runtimes, sometimes after SIGSTOP, with and
//! without SIGCONT: every acknowledged message is at its queue offset afterwards, and so is every message that a consumer has read,
//! acknowledged or not.

use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;

use crate::support::enduring::{Crew, Enduring};
use crate::support::java::Java;
use crate::support::load::{Amount, Ledger, Load, Readers};
use crate::support::server::{Server, Settings};
use crate::support::{alone, await_until, number_from_env, seeded};

/// Unless the environment has another number in `ROUNDS`.
const ROUNDS: u32 = 20;
const SENDERS: u32 = 8;
const PATIENCE: Duration = Duration::from_secs(60);
/// Messages of each sender that are under way.
const IN_FLIGHT: usize = 32;
/// Mostly small, so that many are cut off; some take several pages.
const BODY_BYTES: [usize; 24] = [
    256, 100, 1024, 12, 512, 300, 2048, 64, 700, 128, 20_000, 1500, 200, 400, 4096, 32, 150, 90, 333, 1024,
    77, 600, 250, 16,
];

/// How a round ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Killed,
    /// It goes on for a while in between.
    PausedThenKilled,
    KilledWhilePaused,
}

impl Stop {
    const ALL: [Self; 3] = [Self::Killed, Self::PausedThenKilled, Self::KilledWhilePaused];

    /// Ends the server so; how long it went on meanwhile.
    fn end(self, server: &mut Server, random: &mut StdRng) -> Duration {
        let mut went_on = Duration::ZERO;
        if self != Self::Killed {
            server.pause();
            sleep_for(random.random_range(1..500));
        }
        if self == Self::PausedThenKilled {
            server.resume();
            went_on = sleep_for(random.random_range(50..1000));
        }
        server.kill();
        went_on
    }
}

fn random_settings(random: &mut StdRng) -> Settings {
    Settings {
        placement: if random.random() { "spread" } else { "co-located" },
        flush: if random.random() { "sync" } else { "async" },
        runtime: if random.random() { "ring" } else { "glommio" },
        ..Settings::default()
    }
}

/// Ends a round: kills the server in one of the ways and starts it with other settings. `seen` is asked in between what clients saw. How
/// long the server went on before it was killed.
fn kill_and_restart(
    server: &mut Server,
    random: &mut StdRng,
    round: u32,
    seen: impl FnOnce() -> String,
) -> Duration {
    let stop = Stop::ALL[random.random_range(0..Stop::ALL.len())];
    let went_on = stop.end(server, random);
    let seen = seen();
    let settings = random_settings(random);
    println!("round {round}: {stop:?}, {seen}; next {settings:?}");
    server.start_again(settings);
    went_on
}

/// What came together in so much time under load; then the server's regular end.
fn tell_and_stop(server: &mut Server, ledger: &Ledger, under_load: Duration) {
    let rate = ledger.acknowledged as f64 / under_load.as_secs_f64();
    println!(
        "{} messages acknowledged in {under_load:.1?} of load, {rate:.0} a second; {} stored",
        ledger.acknowledged,
        ledger.read()
    );
    assert!(server.stop().success(), "SIGTERM at the end");
}

/// How long it really was.
fn sleep_for(ms: u64) -> Duration {
    let began = Instant::now();
    std::thread::sleep(Duration::from_millis(ms));
    began.elapsed()
}

#[test]
fn what_was_acknowledged_or_read_survives_kills() {
    let _guard = alone();
    let mut random = seeded(20_261_122);
    let mut server = Server::start(Settings::default());
    let mut ledger = Ledger::new(&server, "kill", 3);
    let mut under_load = Duration::ZERO;
    for round in 0..number_from_env("ROUNDS", ROUNDS) {
        let amount = Amount {
            senders: SENDERS,
            first_sender: round * SENDERS,
            messages: u32::MAX,
            body_bytes: &BODY_BYTES,
        };
        let readers = Readers::start(&server.namesrv(), &ledger.topic, &ledger);
        let load = Load::start_with(&server.namesrv(), &ledger.topic, amount, IN_FLIGHT);
        let began = Instant::now();
        load.await_first();
        readers.await_first();
        under_load += began.elapsed() + sleep_for(random.random_range(50..1000));
        under_load += kill_and_restart(&mut server, &mut random, round, || {
            let before = ledger.acknowledged;
            load.enter_into(&mut ledger);
            let read = readers.enter_into(&mut ledger);
            let acknowledged = ledger.acknowledged - before;
            assert!(
                acknowledged > 0 && read > 0,
                "{acknowledged} acknowledged, {read} read in round {round}"
            );
            format!("{acknowledged} acknowledged, {read} read")
        });
        ledger.verify(&server);
    }
    ledger.rewind();
    ledger.verify(&server);
    tell_and_stop(&mut server, &ledger, under_load);
}

/// Of the test with Java clients, which take their time to come back.
const JAVA_ROUNDS: u32 = 5;
const JAVA_CREW: Crew = Crew { senders: 8, members: 2 };
/// Messages that are acknowledged and consumed before a round may end: the clients are back.
const BACK_AT_WORK: u64 = 200;

#[test]
fn stock_java_clients_go_on_over_kills_and_pauses_and_lose_nothing() {
    let _guard = alone();
    let mut random = seeded(20_261_123);
    let java = Java::with_client("5.5.0");
    let mut server = Server::start(Settings::default());
    let mut ledger = Ledger::new(&server, "java-kill", 3);
    let crew = Enduring::start(&java, &server.namesrv(), &ledger, JAVA_CREW, server.scratch());
    let mut under_load = Duration::ZERO;
    for round in 0..number_from_env("ROUNDS", JAVA_ROUNDS) {
        let (acknowledged, consumed) = (crew.acknowledged(), crew.consumed());
        let began = Instant::now();
        await_until("the clients at work", PATIENCE, || {
            crew.acknowledged() > acknowledged + BACK_AT_WORK && crew.consumed() > consumed + BACK_AT_WORK
        });
        under_load += began.elapsed() + sleep_for(random.random_range(1..1000));
        if random.random() {
            // It goes on where it was.
            server.pause();
            sleep_for(random.random_range(1..4000));
            server.resume();
            under_load += sleep_for(random.random_range(1..1000));
        }
        under_load += kill_and_restart(&mut server, &mut random, round, || {
            let (acknowledged, consumed) = (crew.acknowledged() - acknowledged, crew.consumed() - consumed);
            format!("{acknowledged} acknowledged, {consumed} consumed")
        });
    }
    crew.enter_into(&mut ledger);
    ledger.verify(&server);
    tell_and_stop(&mut server, &ledger, under_load);
}
