//! Latencies: a histogram in nanoseconds with three significant digits, the percentiles that are reported, and its texts: the
//! compressed base64 of HdrHistogram's own logs, and the `.hgrm` table that its plotting tools read.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer, V2Serializer};
use serde::{Deserialize, Serialize};

/// Longest latency that is told apart, an hour. Longer ones count as an hour.
const LONGEST_NS: u64 = 3_600_000_000_000;
/// Steps of a percentile table between each halving of the distance to 100 %, as HdrHistogram's tools have it.
const TICKS_PER_HALF_DISTANCE: u32 = 5;

/// A histogram of latencies.
#[derive(Clone, Debug)]
pub struct Latency(Histogram<u64>);

/// Bytes that are not a histogram of latencies.
#[derive(Debug, thiserror::Error)]
#[error("not a histogram of latencies: {0}")]
pub struct NotAHistogram(String);

/// What is reported of a histogram, in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Percentiles {
    pub count: u64,
    pub mean: f64,
    pub min: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    #[serde(rename = "p99.9")]
    pub p99_9: f64,
    #[serde(rename = "p99.99")]
    pub p99_99: f64,
    pub max: f64,
}

impl Default for Latency {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("bounds and digits are valid"))
    }
}

impl Latency {
    /// Counts `count` messages that took `ns`.
    pub fn record(&mut self, ns: u64, count: u64) {
        self.0.saturating_record_n(ns.max(1), count);
    }

    /// Adds what another thread saw.
    pub fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all histograms have the same bounds");
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0.reset();
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// HdrHistogram's V2 encoding: small, as few of the histogram's places are in use.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        V2Serializer::new().serialize(&self.0, &mut bytes).expect("a vector takes all bytes");
        bytes
    }

    /// Adds a histogram in the V2 encoding, compressed or not.
    ///
    /// # Errors
    /// It is none, or one with wider bounds.
    pub fn add_encoded(&mut self, bytes: &[u8]) -> Result<(), NotAHistogram> {
        let wrong = |error: &dyn std::fmt::Display| NotAHistogram(error.to_string());
        let other: Histogram<u64> =
            Deserializer::new().deserialize(&mut &*bytes).map_err(|error| wrong(&error))?;
        self.0.add(&other).map_err(|error| wrong(&error))
    }

    /// The histogram in one word: V2 encoding, deflated, base64. Any HdrHistogram library reads it.
    pub fn to_base64(&self) -> String {
        let mut bytes = Vec::new();
        V2DeflateSerializer::new().serialize(&self.0, &mut bytes).expect("a vector takes all bytes");
        BASE64.encode(bytes)
    }

    /// Reads what [`Self::to_base64`] wrote.
    ///
    /// # Errors
    /// It is no such word.
    pub fn from_base64(text: &str) -> Result<Self, NotAHistogram> {
        let bytes = BASE64.decode(text).map_err(|error| NotAHistogram(error.to_string()))?;
        let mut latency = Self::default();
        latency.add_encoded(&bytes)?;
        Ok(latency)
    }

    /// The latency, microseconds, that this part (0 to 1) of the messages did not exceed.
    pub fn at_quantile_us(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1000.0
    }

    /// The table that HdrHistogram's tools write and plot (`.hgrm`), in milliseconds.
    pub fn hgrm(&self) -> String {
        let ms = |ns: f64| ns / 1e6;
        let mut out = format!(
            "{:>12} {:>14} {:>10} {:>14}\n\n",
            "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
        );
        let mut count = 0;
        for step in self.0.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
            count += step.count_since_last_iteration();
            let (value, quantile) = (ms(step.value_iterated_to() as f64), step.quantile_iterated_to());
            write!(out, "{value:>12.6} {quantile:>14.12} {count:>10}").expect("writing to a string");
            if quantile < 1.0 {
                write!(out, " {:>14.2}", 1.0 / (1.0 - quantile)).expect("writing to a string");
            }
            out.push('\n');
        }
        let (mean, deviation, max) = (ms(self.0.mean()), ms(self.0.stdev()), ms(self.0.max() as f64));
        writeln!(out, "#[Mean    = {mean:>12.6}, StdDeviation   = {deviation:>12.6}]")
            .expect("writing to a string");
        writeln!(out, "#[Max     = {max:>12.6}, Total count    = {:>12}]", self.0.len())
            .expect("writing to a string");
        writeln!(out, "#[Buckets = {:>12}, SubBuckets     = {:>12}]", self.0.buckets(), 2048)
            .expect("writing to a string");
        out
    }

    pub fn percentiles(&self) -> Percentiles {
        if self.0.is_empty() {
            return Percentiles::default();
        }
        let us = |ns: u64| ns as f64 / 1000.0;
        let at = |quantile: f64| us(self.0.value_at_quantile(quantile));
        Percentiles {
            count: self.0.len(),
            mean: self.0.mean() / 1000.0,
            min: us(self.0.min()),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            max: us(self.0.max()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Within the histogram's three significant digits.
    fn near(found: f64, wanted: f64) -> bool {
        (found - wanted).abs() <= wanted / 500.0
    }

    #[test]
    fn percentiles_of_a_known_distribution() {
        let mut all = Latency::default();
        for half in [1..=5_000_u64, 5_001..=10_000] {
            let mut part = Latency::default();
            half.for_each(|us| part.record(us * 1000, 1));
            all.merge(&part);
        }
        let found = all.percentiles();
        assert_eq!(found.count, 10_000);
        for (value, wanted) in [
            (found.p50, 5_000.0),
            (found.p90, 9_000.0),
            (found.p99, 9_900.0),
            (found.p99_9, 9_990.0),
            (found.p99_99, 9_999.0),
            (found.max, 10_000.0),
            (found.mean, 5_000.5),
        ] {
            assert!(near(value, wanted), "{value} is not near {wanted}");
        }
    }

    #[test]
    fn weights_and_extremes_count() {
        let mut latency = Latency::default();
        latency.record(0, 99);
        latency.record(u64::MAX, 1);
        let found = latency.percentiles();
        assert_eq!(found.count, 100);
        assert!(found.p99 < 0.01 && near(found.max, 3.6e9));
    }

    #[test]
    fn a_histogram_survives_its_encodings() {
        let mut latency = Latency::default();
        (1..=1_000_u64).for_each(|us| latency.record(us * 1000, us));
        let read = Latency::from_base64(&latency.to_base64()).unwrap();
        assert_eq!(read.percentiles(), latency.percentiles());
        let mut twice = read;
        twice.add_encoded(&latency.encode()).unwrap();
        assert_eq!(twice.percentiles().count, 2 * latency.percentiles().count);
        assert!(Latency::from_base64("no histogram").is_err());
        assert!(Latency::default().add_encoded(&[0; 40]).is_err());
    }

    #[test]
    fn the_hgrm_table_ends_with_everything_counted_and_the_longest() {
        let mut latency = Latency::default();
        (1..=100_u64).for_each(|ms| latency.record(ms * 1_000_000, 1));
        let table = latency.hgrm();
        let rows: Vec<Vec<&str>> = table
            .lines()
            .skip(2)
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.split_ascii_whitespace().collect())
            .collect();
        let last = rows.last().unwrap();
        assert_eq!(last[1..], ["1.000000000000", "100"], "{table}");
        assert!(near(last[0].parse().unwrap(), 100.0), "{table}");
        let median = rows.iter().find(|row| row[1] == "0.500000000000").unwrap();
        assert_eq!((median[2], median[3]), ("50", "2.00"), "{table}");
        assert!(table.contains("Total count    =          100]"), "{table}");
    }

    #[test]
    fn nothing_measured_is_all_zero() {
        assert_eq!(Latency::default().percentiles().count, 0);
    }
}
