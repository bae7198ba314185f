//! `ringmq slow`: the slowest requests of a running node.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::metrics::fetch::{self, FetchError};
use crate::metrics::snapshot::SlowRequest;
use crate::metrics::stage::Stage;

/// Shows the slowest requests of a running node, with the time of each of their stages.
///
/// Each core keeps the slowest 1,000 of the last ten to twenty minutes: sends from the read of their last bytes until their answer is
/// made, and pulls that had to read the disk.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    node: super::MetricsAddress,
    /// How many to show.
    #[arg(short = 'n', long, default_value_t = 20)]
    count: usize,
    /// `json` for scripts.
    #[arg(short, long, value_enum, default_value_t)]
    output: super::Output,
}

/// Prints them, slowest first.
///
/// # Errors
/// No node answers.
pub fn run(args: Args) -> Result<(), FetchError> {
    let address: SocketAddr = args.node.metrics;
    let mut slow: Vec<SlowRequest> = fetch::get(address, "/slow")?;
    slow.truncate(args.count);
    if args.output == super::Output::Json {
        println!("{}", serde_json::json!(slow));
        return Ok(());
    }
    if slow.is_empty() {
        println!("no request yet");
        return Ok(());
    }
    print!("{}", table(&slow));
    Ok(())
}

/// Times in microseconds, a column for each stage that at least one of the requests has.
fn table(slow: &[SlowRequest]) -> String {
    let stages: Vec<&str> = Stage::ALL
        .into_iter()
        .map(Stage::name)
        .filter(|stage| slow.iter().any(|slow| slow.stages_us.contains_key(*stage)))
        .collect();
    let mut text = format!("{:<23} {:<4} {:<10} {:>10}", "answered (UTC)", "core", "request", "total us");
    for stage in &stages {
        text += &format!(" {stage:>9}");
    }
    text += &format!(" {:>8} {:>8}  topic, queue, from\n", "records", "bytes");
    for one in slow {
        let SlowRequest { core, request, total_us, .. } = one;
        text += &format!("{:<23} {core:<4} {request:<10} {total_us:>10.0}", time_of_day(one.at_ms));
        for stage in &stages {
            text += &of_stage(&one.stages_us, stage);
        }
        let SlowRequest { records, bytes, topic, queue_id, peer, .. } = one;
        text += &format!(" {records:>8} {bytes:>8}  {topic}, {queue_id}, {peer}\n");
    }
    text
}

fn of_stage(stages: &BTreeMap<String, f64>, stage: &str) -> String {
    stages.get(stage).map_or_else(|| format!(" {:>9}", "-"), |us| format!(" {us:>9.0}"))
}

/// The date and time of milliseconds since the epoch, in UTC.
pub(super) fn time_of_day(at_ms: i64) -> String {
    let (days, in_day) = (at_ms.div_euclid(86_400_000), at_ms.rem_euclid(86_400_000));
    // Days are counted from 1 March of year 0, so that leap days come last.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (seconds, millis) = (in_day / 1000, in_day % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{millis:03}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_dates() {
        let dates = [
            (0, "1970-01-01 00:00:00.000"),
            (951_782_399_999, "2000-02-28 23:59:59.999"),
            (951_782_400_000, "2000-02-29 00:00:00.000"),
            (1_767_225_599_123, "2025-12-31 23:59:59.123"),
        ];
        for (at_ms, expected) in dates {
            assert_eq!(time_of_day(at_ms), expected);
        }
    }

    #[test]
    fn a_table_has_the_stages_that_somebody_has() {
        let slow = SlowRequest {
            at_ms: 0,
            core: 1,
            request: "send".to_owned(),
            topic: "orders".to_owned(),
            queue_id: 3,
            peer: "127.0.0.1:4000".to_owned(),
            records: 1,
            bytes: 1234,
            total_us: 900.4,
            stages_us: BTreeMap::from([("flush".to_owned(), 800.0), ("queue".to_owned(), 100.4)]),
        };
        let pull = SlowRequest { stages_us: BTreeMap::from([("disk".to_owned(), 70.0)]), ..slow.clone() };
        let table = table(&[slow, pull]);
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let lines: Vec<_> = table.lines().map(words).collect();
        assert_eq!(lines[0][6..9], ["queue", "flush", "disk"], "{table}");
        assert_eq!(lines[1][4..], ["900", "100", "800", "-", "1", "1234", "orders,", "3,", "127.0.0.1:4000"]);
        assert_eq!(lines[2][5..8], ["-", "-", "70"]);
    }
}
