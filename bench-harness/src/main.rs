//! `ringmq-bench`: see the library's head.

use std::process::ExitCode;

use bench_harness::error::BenchError;
use bench_harness::{compare, consume, e2e, produce, profile, report_page, run, verify};
use clap::{Parser, Subcommand};

/// Measures brokers that speak RocketMQ's remoting protocol, RingMQ and the stock Java broker alike.
#[derive(Parser, Debug)]
#[command(
    name = "ringmq-bench",
    version,
    max_term_width = 110,
    after_help = "Start here, with a broker and its name server on this machine:
  ringmq-bench produce --duration 10s               throughput and latency, 64 requests under way
  ringmq-bench produce --rate 3000 --duration 60s   latency at a fixed rate, stalls included
  ringmq-bench consume                              read it all back
  ringmq-bench e2e --rate 1000                      from the send to the receipt
  ringmq-bench run in-flight ladder                 scenarios as files; `list` names them
Each command's --help has more examples."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Produce(produce::ProduceArgs),
    Consume(consume::ConsumeArgs),
    E2e(e2e::E2eArgs),
    Verify(verify::VerifyArgs),
    Run(run::RunArgs),
    /// Name the workloads that come with the program
    List,
    Compare(compare::CompareArgs),
    Report(report_page::PageArgs),
    Profile(profile::ProfileArgs),
}

fn main() -> ExitCode {
    let result: Result<(), BenchError> = match Cli::parse().command {
        Command::Produce(args) => produce::run(&args),
        Command::Consume(args) => consume::run(&args),
        Command::E2e(args) => e2e::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Run(args) => run::run(&args),
        Command::List => run::list(),
        Command::Compare(args) => compare::run(&args),
        Command::Report(args) => report_page::run(&args),
        Command::Profile(args) => profile::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringmq-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
