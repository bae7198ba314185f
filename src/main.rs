//! The `ringmq` program.

use std::process::ExitCode;

use clap::Parser;
use ringmq::cli::Cli;

/// Requests allocate and free small memory on one core and sometimes free it on another; this allocator costs the least CPU
/// for that of those measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    Cli::parse().run()
}
