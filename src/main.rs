//! The `ringmq` program.

use std::process::ExitCode;

use clap::Parser;
use ringmq::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
