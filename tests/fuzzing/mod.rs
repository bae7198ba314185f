//! The driver of all fuzz targets, whatever they read: a target is a row, a round is one seed. A failure prints target and seed;
//! `RINGMQ_FUZZ_SEED=n` runs that seed alone, `RINGMQ_FUZZ_ROUNDS=n` so many of each target. Every program of targets also
//! runs the canary, which fails on purpose: were it to pass, the driver would see nothing.

#![allow(dead_code, reason = "each test program uses its part")]

use std::panic::{AssertUnwindSafe, catch_unwind};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore, SeedableRng};

/// Rounds of a target that costs microseconds, in an ordinary run.
pub(crate) const ROUNDS: u64 = 1_000;

/// What is fed with one seed after the other.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) round: fn(&mut StdRng),
}

/// Fails in about one round of a hundred.
const CANARY: Target =
    Target { name: "canary", round: |random| assert!(random.random_range(0..100) != 42, "the canary sings") };

/// The seeds to run, of which an ordinary run has `ordinary`.
pub(crate) fn seeds(ordinary: u64) -> std::ops::Range<u64> {
    let number = |name: &str| Some(std::env::var(name).ok()?.parse::<u64>().expect("a number"));
    match number("RINGMQ_FUZZ_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("RINGMQ_FUZZ_ROUNDS").unwrap_or(ordinary),
    }
}

/// Runs a target's rounds; the first seed that fails, with its message.
fn run(target: &Target, seeds: std::ops::Range<u64>) -> Result<(), (u64, String)> {
    for seed in seeds {
        let round = || (target.round)(&mut StdRng::seed_from_u64(seed));
        if let Err(panic) = catch_unwind(AssertUnwindSafe(round)) {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            return Err((seed, text.unwrap_or_default()));
        }
    }
    Ok(())
}

/// Runs every target, `ordinary` rounds of each unless the environment says otherwise.
pub(crate) fn run_all(targets: &[Target], ordinary: u64) {
    for target in targets {
        if let Err((seed, text)) = run(target, seeds(ordinary)) {
            panic!("{} failed with RINGMQ_FUZZ_SEED={seed}: {text}", target.name);
        }
    }
}

/// Whether a failure would be seen, and seen again.
pub(crate) fn assert_the_canary_is_seen_to_fail() {
    let (seed, text) = run(&CANARY, 0..ROUNDS).expect_err("the canary must fail");
    assert_eq!(text, "the canary sings");
    let again = catch_unwind(|| (CANARY.round)(&mut StdRng::seed_from_u64(seed)));
    assert!(again.is_err(), "a seed gives the same round again");
}

/// A few changes of the kinds that break decoders.
pub(crate) fn mutate(random: &mut StdRng, bytes: &mut Vec<u8>) {
    const JSON: [&[u8]; 12] = [
        b"{",
        b"}",
        b"[",
        b"]",
        b"\"",
        b"\\",
        b":",
        b",",
        b"null",
        b"-1",
        b"{{\"a\":1}:2}",
        b"99999999999999999999",
    ];
    for _ in 0..random.random_range(0..6) {
        let at = random.random_range(0..=bytes.len());
        let end = random.random_range(at..=bytes.len().min(at + 16));
        match random.random_range(0..6) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => drop(bytes.splice(at..at, JSON.choose(random).expect("not empty").iter().copied())),
            3 => drop(bytes.splice(at..end, random.next_u64().to_le_bytes())),
            4 => {
                let again = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, again));
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.random_range(0..8);
                }
            }
        }
    }
}

/// A text of at most so many characters, of those that writers and readers trip over.
pub(crate) fn text(random: &mut StdRng, length_max: usize) -> String {
    const CHARACTERS: [char; 16] =
        ['a', 'Z', '0', ' ', '"', '\\', '\n', '\u{0}', '\u{1}', '\u{2}', '\u{7f}', 'é', '消', '😀', '{', '}'];
    (0..random.random_range(0..=length_max)).map(|_| *CHARACTERS.choose(random).expect("not empty")).collect()
}
