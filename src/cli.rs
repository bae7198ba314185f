//! The command line: one file per command.

pub mod check;
pub mod cores;
mod machine;
pub mod receive;
pub mod send;
pub mod serve;
pub mod slow;
pub mod stages;
pub mod store;
pub mod topic;
pub mod tune;

use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::metrics;

/// RingMQ: a durable message broker that Apache RocketMQ clients talk to.
///
/// Start one with `ringmq serve`, then send a message with `ringmq send hello 'first message'` and read it with `ringmq receive
/// hello`. RocketMQ clients use the printed name server address.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
    Send(send::Args),
    Receive(receive::Args),
    Topic(topic::Args),
    Cores(cores::Args),
    Check(check::Args),
    Tune(tune::Args),
    Slow(slow::Args),
    Stages(stages::Args),
    Store(store::Args),
}

/// Where a running node serves its metrics.
#[derive(Debug, clap::Args)]
pub struct MetricsAddress {
    /// Address of a running node's metrics page.
    #[arg(long, value_name = "ADDR", default_value_t = SocketAddr::from(([127, 0, 0, 1], metrics::DEFAULT_PORT)))]
    metrics: SocketAddr,
}

/// How a command prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For scripts.
    Json,
}

impl Cli {
    /// Runs the command that was typed; a failure is printed, with what to do.
    pub fn run(self) -> ExitCode {
        let result: Result<(), Box<dyn Error>> = match self.command {
            Command::Serve(args) => serve::run(args).map_err(Into::into),
            Command::Send(args) => send::run(args).map_err(Into::into),
            Command::Receive(args) => receive::run(args).map_err(Into::into),
            Command::Topic(args) => topic::run(args).map_err(Into::into),
            Command::Cores(args) => cores::run(args),
            Command::Check(args) => check::run(args).map_err(Into::into),
            Command::Tune(args) => tune::run(args).map_err(Into::into),
            Command::Slow(args) => slow::run(args).map_err(Into::into),
            Command::Stages(args) => stages::run(args).map_err(Into::into),
            Command::Store(args) => store::run(args),
        };
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("ringmq: {error}");
                ExitCode::FAILURE
            }
        }
    }
}
