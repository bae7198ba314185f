//! `ringmq-simulate`: see the library's head.

use std::io::{IsTerminal, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use serde::Serialize;
use simulator::bug::Bug;
use simulator::history::{explain, run, run_seed, shrink};
use simulator::plan::Plan;
use simulator::trace::Trace;

/// Failures that are shrunk and shown; the search ends there.
const FAILURES_MAX: usize = 3;
/// A run that is over sooner shows no progress.
const QUIET: Duration = Duration::from_secs(2);

/// Runs the storage of a broker from seeds: sends, kills, power cuts, torn and failing writes, full disks, jumping clocks
#[derive(Parser, Debug)]
#[command(
    name = "ringmq-simulate",
    version,
    max_term_width = 110,
    after_help = "Each seed is a history of its own: the same on every machine, every time. A seed that fails is shrunk to the steps that
matter and printed with all that happened. Exit status: 0 without failures, 1 with one, 2 for a wrong call.

  ringmq-simulate                                    1000 seeds
  ringmq-simulate --seeds 50000 --first-seed 1000    more, and others
  ringmq-simulate --first-seed 7 --seeds 1 --trace   all that happens in seed 7
  ringmq-simulate --bug never-sync                   does the oracle see a broker that never syncs?
  ringmq-simulate -o json | jq .failures             for scripts"
)]
struct Cli {
    /// How many seeds to run
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first of them
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    first_seed: u64,
    /// Make this mistake, to see it caught. Those of the engine need a build with `--features deliberate-bugs` and debug assertions
    #[arg(long, value_name = "NAME")]
    bug: Option<Bug>,
    /// Print everything that happens, seed by seed
    #[arg(long)]
    trace: bool,
    /// How to print the result
    #[arg(short, long, value_name = "FORM", default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Text,
    /// One object
    Json,
}

/// What came of all seeds.
#[derive(Debug, Default, Serialize)]
struct Summary {
    first_seed: u64,
    /// Seeds run.
    seeds: u64,
    events: u64,
    /// Messages read and judged.
    reads: u64,
    /// Recoveries judged.
    recoveries: u64,
    /// Of all histories together.
    trace_hash: String,
    seconds: f64,
    failures: Vec<Failure>,
}

#[derive(Debug, Serialize)]
struct Failure {
    seed: u64,
    failure: String,
    /// Steps of the plan, and of the shortest one found that still fails.
    steps: usize,
    steps_shrunk: usize,
    /// What happens in the shortest one, line by line.
    history: Vec<String>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(bug) = cli.bug.filter(|bug| bug.mistake().is_some())
        && !shards::deliberate::ARE_POSSIBLE
    {
        eprintln!(
            "ringmq-simulate: `{name}` is a mistake of the engine, which this build cannot make; use\n  \
             cargo run --profile verify -p simulator --features deliberate-bugs -- --bug {name}",
            name = bug.name()
        );
        return ExitCode::from(2);
    }
    let summary = simulate(&cli);
    match cli.output {
        Output::Text => print_text(&summary),
        Output::Json => {
            println!("{}", serde_json::to_string_pretty(&summary).expect("a summary is plain data"));
        }
    }
    if summary.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn simulate(cli: &Cli) -> Summary {
    let started = Instant::now();
    let mut progress = Progress::new(started);
    let mut summary = Summary { first_seed: cli.first_seed, ..Summary::default() };
    let mut hash = 0_u64;
    for seed in cli.first_seed..cli.first_seed.saturating_add(cli.seeds) {
        let verdict = if cli.trace && cli.output == Output::Text {
            let mut trace = Trace::new(true);
            let verdict = run(&Plan::draw(seed), cli.bug, &mut trace);
            println!("seed {seed}, trace hash {:016x}", verdict.trace_hash);
            trace.into_lines().iter().for_each(|line| println!("{line}"));
            verdict
        } else {
            run_seed(seed, cli.bug)
        };
        summary.seeds += 1;
        summary.events += verdict.events;
        summary.reads += verdict.reads;
        summary.recoveries += verdict.recoveries;
        hash = hash.rotate_left(5) ^ verdict.trace_hash;
        if let Some(failure) = verdict.failure {
            progress.clear();
            summary.failures.push(shortest(seed, failure, cli.bug));
            if summary.failures.len() == FAILURES_MAX {
                break;
            }
        }
        progress.show(summary.seeds, cli.seeds, summary.failures.len());
    }
    progress.clear();
    summary.trace_hash = format!("{hash:016x}");
    summary.seconds = started.elapsed().as_secs_f64();
    summary
}

fn shortest(seed: u64, failure: String, bug: Option<Bug>) -> Failure {
    let plan = Plan::draw(seed);
    let shrunk = shrink(&plan, bug);
    let history = explain(&shrunk, bug).lines().map(str::to_owned).collect();
    Failure { seed, failure, steps: plan.steps.len(), steps_shrunk: shrunk.steps.len(), history }
}

fn print_text(summary: &Summary) {
    for failure in &summary.failures {
        println!("seed {} FAILS: {}", failure.seed, failure.failure);
        println!("shrunk from {} steps to {}:", failure.steps, failure.steps_shrunk);
        failure.history.iter().for_each(|line| println!("  {line}"));
        println!("again: ringmq-simulate --first-seed {} --seeds 1 --trace", failure.seed);
    }
    println!(
        "{} seeds from {}: {} events, {} messages read, {} recoveries, {} failures in {:.1} s (hash {})",
        summary.seeds,
        summary.first_seed,
        summary.events,
        summary.reads,
        summary.recoveries,
        summary.failures.len(),
        summary.seconds,
        summary.trace_hash,
    );
}

/// A line on standard error, when somebody looks at it.
struct Progress {
    is_shown: bool,
    started: Instant,
    next: Duration,
    width: usize,
}

impl Progress {
    fn new(started: Instant) -> Self {
        Self { is_shown: std::io::stderr().is_terminal(), started, next: QUIET, width: 0 }
    }

    fn show(&mut self, done: u64, all: u64, failures: usize) {
        let elapsed = self.started.elapsed();
        if !self.is_shown || elapsed < self.next {
            return;
        }
        self.next = elapsed + Duration::from_millis(200);
        let rest = elapsed.mul_f64((all - done) as f64 / done as f64).as_secs();
        let line = format!("{done} of {all} seeds, {failures} failures, {rest} s to go");
        self.clear();
        self.width = line.len();
        // Nobody misses a line of progress that could not be written.
        let _ = write!(std::io::stderr(), "\r{line}");
    }

    fn clear(&mut self) {
        if self.width > 0 {
            let _ = write!(std::io::stderr(), "\r{:1$}\r", "", self.width);
            self.width = 0;
        }
    }
}
