//! Histories from seeds, the mistakes that the oracle must catch, and the faults that are to strike at every place.
//!
//! `SEED=n` starts the histories at a seed, `SEEDS=n` says how many; a failure prints the whole schedule.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Instant;

use clap::ValueEnum;
use simulator::bug::Bug;
use simulator::corruption::{Outcome, PARTS, Part, study};
use simulator::disk::{DiskFault, FaultKind, Stop};
use simulator::history::{catching_panics, explain, run, run_seed, shrink};
use simulator::plan::{Act, Plan};
use simulator::trace::Trace;

/// Histories in each run of the tests.
const SEEDS: u64 = 500;
/// Every bug is caught within so many.
const SEEDS_TO_CATCH_MAX: u64 = 1000;
const FLIPS: usize = 1000;
/// Flips in one and the same shard.
const FLIPS_PER_SEED: usize = 50;
const FLUSHES: u64 = 500;
/// More than a start makes of a small log.
const READS: u64 = 16;
/// The table of bugs and seeds stands here.
const NOTE: &str = include_str!("../../docs/simulator.md");

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {value:?}")))
}

#[test]
fn histories_from_seeds_hold_what_a_broker_promises() {
    let first = number("SEED").unwrap_or(0);
    let count = number("SEEDS").unwrap_or(SEEDS);
    let (mut reads, mut recoveries) = (0, 0);
    for seed in first..first + count {
        let verdict = run_seed(seed, None);
        reads += verdict.reads;
        recoveries += verdict.recoveries;
        if let Some(failure) = verdict.failure {
            let shrunk = shrink(&Plan::draw(seed), None);
            panic!("seed {seed}: {failure}\n{}", explain(&shrunk, None));
        }
    }
    println!("{count} seeds from {first}: {reads} messages read, {recoveries} recoveries");
    // A few seeds may lack something.
    if count >= SEEDS {
        assert!(reads > 20 * count, "consumers read: {reads}");
        assert!(recoveries > 3 * count, "nodes recover: {recoveries}");
    }
}

#[test]
fn a_seed_has_one_history() {
    for seed in 0..20 {
        let (first, second) = (run_seed(seed, None), run_seed(seed, None));
        assert_eq!(first.trace_hash, second.trace_hash, "seed {seed}");
        let mut trace = Trace::new(true);
        let kept = run(&Plan::draw(seed), None, &mut trace);
        assert_eq!(kept.trace_hash, first.trace_hash, "seed {seed} with its text kept");
        assert!(!trace.into_lines().is_empty());
    }
    assert_ne!(run_seed(1, None).trace_hash, run_seed(2, None).trace_hash);
}

#[test]
fn a_history_that_fails_shrinks_and_tells_all() {
    let bug = Some(Bug::NeverSync);
    let seed = (0..SEEDS_TO_CATCH_MAX).find(|seed| run_seed(*seed, bug).failure.is_some());
    let plan = Plan::draw(seed.expect("a broker that never syncs is caught"));
    let shrunk = shrink(&plan, bug);
    assert!(shrunk.steps.len() < plan.steps.len(), "{} steps stay", shrunk.steps.len());
    let told = explain(&shrunk, bug);
    assert_eq!(told, explain(&shrunk, bug), "it is told the same each time");
    assert!(told.contains("step ") && told.contains("trace hash"), "{told}");
    assert!(run(&shrunk, bug, &mut Trace::new(false)).failure.is_some());
}

#[test]
fn every_deliberate_bug_is_caught() {
    let mut table = String::new();
    let mut uncaught = Vec::new();
    for bug in Bug::value_variants() {
        let started = Instant::now();
        let caught =
            (0..SEEDS_TO_CATCH_MAX).find_map(|seed| Some((seed + 1, run_seed(seed, Some(*bug)).failure?)));
        let seconds = started.elapsed().as_secs_f64();
        let what = bug.to_possible_value().and_then(|value| value.get_help().map(ToString::to_string));
        let what = what.expect("a bug says what it is");
        match caught {
            Some((seeds, failure)) => {
                let failure: String = failure.chars().take(100).collect();
                println!("{} after {seeds} seeds, {seconds:.1} s: {failure}", bug.name());
                writeln!(table, "| `{}` | {what} | {seeds} |", bug.name()).unwrap();
            }
            None => uncaught.push(bug.name()),
        }
    }
    println!("{table}");
    assert!(uncaught.is_empty(), "not caught within {SEEDS_TO_CATCH_MAX} seeds: {uncaught:?}");
}

#[test]
fn the_note_has_a_row_for_every_bug() {
    let names: Vec<_> = Bug::value_variants().iter().map(|bug| bug.name()).collect();
    assert!(names.len() >= 20);
    let rows = NOTE.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    assert_eq!(rows.collect::<Vec<_>>(), names, "the first column of the table in docs/simulator.md");
}

#[test]
fn a_bit_that_turns_over_is_seen_and_costs_no_neighbour() {
    let mut outcomes: BTreeMap<(Part, Outcome), usize> = BTreeMap::new();
    let (mut flips, mut seed) = (0, 0);
    while flips < FLIPS {
        let mut found = Vec::new();
        let result = catching_panics(|| {
            found = study(seed, FLIPS_PER_SEED, None)?;
            Ok(())
        });
        result.unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        flips += found.len();
        for outcome in found {
            *outcomes.entry(outcome).or_default() += 1;
        }
        seed += 1;
    }
    println!("{flips} flips in {seed} shards: {outcomes:?}");
    for part in PARTS {
        assert!(outcomes.keys().any(|(of, _)| *of == part), "no flip in {part:?}");
    }
    assert!(outcomes.contains_key(&(Part::Log, Outcome::PassedOver)), "flips in the log hit messages");
}

#[test]
fn a_sync_that_fails_costs_no_acknowledged_message_wherever_it_strikes() {
    let mut struck = 0;
    for after in 0..FLUSHES {
        let mut plan = Plan::steady(after, 560);
        let fault = DiskFault { kind: FaultKind::SyncError, path_part: "commitlog", after };
        plan.steps[0].act = Act::Disk(fault);
        let mut trace = Trace::new(true);
        let verdict = run(&plan, None, &mut trace);
        assert_eq!(verdict.failure, None, "a sync of the log that fails after {after} others");
        let failed = trace.into_lines().iter().any(|line| line.contains("EIO"));
        struck += u64::from(failed);
    }
    println!("{struck} of {FLUSHES} syncs failed as they should");
    assert_eq!(struck, FLUSHES, "each of the syncs was there to fail");
}

#[test]
fn reads_that_fail_while_a_log_is_opened_change_nothing_of_it_wherever_they_strike() {
    let mut refused = 0;
    for after in 0..READS {
        let mut plan = Plan::steady(after, 60);
        let acts = plan.steps.iter_mut().skip(30).map(|step| &mut step.act);
        // The read of a stretch, and both of one of its blocks.
        let fault = DiskFault { kind: FaultKind::ReadError, path_part: "commitlog", after };
        let faulty = [Act::Disk(fault), Act::Disk(fault), Act::Disk(fault), Act::CleanStop];
        acts.zip(faulty).for_each(|(act, faulty)| *act = faulty);
        plan.steps[50].act = Act::Stop(Stop::Kill);
        let mut trace = Trace::new(true);
        let verdict = run(&plan, None, &mut trace);
        assert_eq!(verdict.failure, None, "reads of the log that fail after {after} others");
        refused += u64::from(trace.into_lines().iter().any(|line| line.contains("does not start")));
    }
    assert!(refused > 0, "some of the reads were those of a start");
}
