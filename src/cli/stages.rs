//! `ringmq stages`: where the time of requests goes, on a running node.

use crate::metrics::fetch::{self, FetchError};
use crate::metrics::http::CoreStages;

/// Shows how long each stage of requests takes on each core of a running node.
///
/// The node measures stages while they are on: `stages = true` in its configuration, or `ringmq stages on`, which also forgets what was
/// measured before. The stages of a send follow one another: queue (until its batch leaves the serve core), hop, place, flush, ack_hop,
/// reply; decode is a part of queue.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Switch the measuring on or off first.
    #[arg(value_enum)]
    switch: Option<Switch>,
    #[command(flatten)]
    node: super::MetricsAddress,
    /// `json` for scripts.
    #[arg(short, long, value_enum, default_value_t)]
    output: super::Output,
}

/// Whether stages are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Switch {
    On,
    Off,
}

/// Switches, if asked to, and prints.
///
/// # Errors
/// No node answers.
pub fn run(args: Args) -> Result<(), FetchError> {
    let address = args.node.metrics;
    let cores: Vec<CoreStages> = match args.switch {
        None => fetch::get(address, "/stages")?,
        Some(Switch::On) => fetch::put(address, "/stages/on")?,
        Some(Switch::Off) => fetch::put(address, "/stages/off")?,
    };
    if args.output == super::Output::Json {
        println!("{}", serde_json::json!(cores));
        return Ok(());
    }
    if !cores.iter().any(|core| core.enabled) {
        println!("stages are not measured now; `ringmq stages on` begins");
    }
    println!(
        "{:<4} {:<8} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "core", "stage", "requests", "mean us", "p50", "p90", "p99", "p99.9", "max"
    );
    for core in &cores {
        for stage in &core.stages {
            println!(
                "{:<4} {:<8} {:>10} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {:>9.1}",
                core.core,
                stage.stage,
                stage.requests,
                stage.mean_us,
                stage.p50_us,
                stage.p90_us,
                stage.p99_us,
                stage.p999_us,
                stage.max_us,
            );
        }
    }
    Ok(())
}
