//! `ringmq store`: looks into the store of a node that is stopped, repairs it, and takes stores from stock brokers or gives them one. Each command holds the store's lock while it works.

mod adopt;
mod config_files;
mod dump;
mod progress;
mod release;
mod repair;
mod verify;

use std::error::Error;

use clap::Subcommand;

/// Checks, shows and repairs the store of a stopped node; takes one over from a RocketMQ broker, or gives it to one.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Verify(verify::Args),
    Dump(dump::Args),
    Repair(repair::Args),
    Adopt(adopt::Args),
    Release(release::Args),
}

/// Runs the command.
///
/// # Errors
/// The store is in use or cannot be read; or damage was found or could not be repaired.
pub fn run(args: Args) -> Result<(), Box<dyn Error>> {
    match args.command {
        Command::Verify(args) => verify::run(&args),
        Command::Dump(args) => dump::run(&args),
        Command::Repair(args) => repair::run(&args),
        Command::Adopt(args) => adopt::run(&args),
        Command::Release(args) => release::run(&args),
    }
}
