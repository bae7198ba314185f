//! The `ringmq` program.

use std::process::ExitCode;

use clap::Parser;
use ringmq::cli::Cli;
use runtime::allocation::Counting;

/// Requests allocate and free small memory on one core and sometimes free it on another; this allocator costs the least CPU
/// for that of those measured. Each thread counts its allocations, for the metrics of its core.
#[global_allocator]
static ALLOCATOR: Counting<mimalloc::MiMalloc> = Counting(mimalloc::MiMalloc);

fn main() -> ExitCode {
    Cli::parse().run()
}
