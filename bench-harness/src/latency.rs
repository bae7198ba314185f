//! Latencies: a histogram in nanoseconds with three significant digits, and the percentiles that are reported.

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest latency that is told apart, an hour. Longer ones count as an hour.
const LONGEST_NS: u64 = 3_600_000_000_000;

/// A histogram of latencies.
#[derive(Clone, Debug)]
pub struct Latency(Histogram<u64>);

/// What is reported of a histogram, in microseconds.
#[derive(Clone, Debug, Default, Serialize)]
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
    fn nothing_measured_is_all_zero() {
        assert_eq!(Latency::default().percentiles().count, 0);
    }
}
