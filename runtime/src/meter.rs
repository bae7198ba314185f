//! Distributions that a core counts for itself: an addition to plain memory each, no lock, no atomic, no allocation.
//!
//! A [`Meter`] lives on its core. What it has counted leaves the core as a [`Distribution`], which can be subtracted from a later
//! one, merged over cores, and asked for quantiles. Values lie in buckets of a quarter of a power of two: a quantile is at most a
//! quarter too high and never too low.

use std::cell::Cell;

use serde::{Deserialize, Serialize};

/// Buckets of each power of two, as a power of two.
const SUB_BITS: u32 = 2;
const SUBS: u64 = 1 << SUB_BITS;
/// Largest power of two that has buckets of its own: 2^37 ns are more than two minutes. Larger values count as the largest.
const POWER_MAX: u32 = 37;
const BUCKETS: usize = (POWER_MAX as usize) << SUB_BITS;

/// Counts values of one kind, in whatever unit its owner says.
#[derive(Debug)]
pub struct Meter {
    counts: [Cell<u64>; BUCKETS],
    sum: Cell<u64>,
    max: Cell<u64>,
}

impl Default for Meter {
    fn default() -> Self {
        Self { counts: [const { Cell::new(0) }; BUCKETS], sum: Cell::new(0), max: Cell::new(0) }
    }
}

impl Meter {
    /// Counts `value` once.
    pub fn record(&self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts `value` `times` times.
    pub fn record_n(&self, value: u64, times: u64) {
        let count = &self.counts[bucket(value)];
        count.set(count.get() + times);
        self.sum.set(self.sum.get().wrapping_add(value.wrapping_mul(times)));
        if value > self.max.get() {
            self.max.set(value);
        }
    }

    /// Counts a time in nanoseconds.
    pub fn record_time(&self, time: std::time::Duration) {
        self.record(nanos(time));
    }

    /// What was counted since the start.
    pub fn distribution(&self) -> Distribution {
        let used = self.counts.iter().rposition(|count| count.get() > 0).map_or(0, |last| last + 1);
        Distribution {
            counts: self.counts[..used].iter().map(Cell::get).collect(),
            sum: self.sum.get(),
            max: self.max.get(),
        }
    }
}

/// A time in whole nanoseconds; centuries count as the largest number.
pub fn nanos(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What a [`Meter`] has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Distribution {
    /// By bucket, up to the last that is not empty.
    counts: Vec<u64>,
    pub sum: u64,
    /// The largest value since the start.
    pub max: u64,
}

impl Distribution {
    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The mean of the values; 0 when there are none.
    pub fn mean(&self) -> f64 {
        let count = self.count();
        if count == 0 { 0.0 } else { self.sum as f64 / count as f64 }
    }

    /// The value that at least the share `quantile` of all values does not exceed, rounded up to the end of its bucket; 0 when
    /// nothing was counted.
    pub fn quantile(&self, quantile: f64) -> u64 {
        let wanted = (self.count() as f64 * quantile.clamp(0.0, 1.0)).ceil();
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if *count > 0 && seen as f64 >= wanted {
                return bucket_end(index).min(self.max);
            }
        }
        self.max
    }

    /// How many values are below 2 to the power of `power`.
    pub fn count_below(&self, power: u32) -> u64 {
        let end = bucket(1u64.checked_shl(power).unwrap_or(u64::MAX)).min(self.counts.len());
        self.counts[..end].iter().sum()
    }

    /// What was counted since `earlier`. The maximum stays that of all time.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = earlier.counts.iter().chain(std::iter::repeat(&0));
        Self {
            counts: self.counts.iter().zip(before).map(|(now, before)| now.saturating_sub(*before)).collect(),
            sum: self.sum.wrapping_sub(earlier.sum),
            max: self.max,
        }
    }

    /// Adds what another core has counted.
    pub fn add(&mut self, other: &Self) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.sum = self.sum.wrapping_add(other.sum);
        self.max = self.max.max(other.max);
    }
}

/// The bucket of a value: its power of two and the two bits behind its first.
fn bucket(value: u64) -> usize {
    if value < SUBS {
        return usize::try_from(value).expect("below the number of buckets");
    }
    let power = value.ilog2();
    let sub = (value >> (power - SUB_BITS)) & (SUBS - 1);
    let index = (u64::from(power - SUB_BITS + 1) << SUB_BITS) + sub;
    usize::try_from(index).expect("a few hundred").min(BUCKETS - 1)
}

/// The largest value of a bucket.
fn bucket_end(index: usize) -> u64 {
    let index = index as u64;
    if index < SUBS {
        return index;
    }
    let (power, sub) = ((index >> SUB_BITS) - 1, index & (SUBS - 1));
    ((SUBS + sub + 1) << power) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_without_gaps_and_no_wider_than_a_quarter() {
        let mut start = 0;
        for index in 0..BUCKETS - 1 {
            let end = bucket_end(index);
            assert_eq!((bucket(start), bucket(end), bucket(end + 1)), (index, index, index + 1));
            assert!(end - start <= start / 4, "bucket {index} goes from {start} to {end}");
            start = end + 1;
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_never_too_low_and_at_most_a_quarter_too_high() {
        let meter = Meter::default();
        (1..=1000).for_each(|value| meter.record(value * 1000));
        let all = meter.distribution();
        assert_eq!((all.count(), all.sum, all.max), (1000, 500_500_000, 1_000_000));
        for (quantile, exact) in [(0.5, 500_000), (0.99, 990_000), (1.0, 1_000_000)] {
            let found = all.quantile(quantile);
            assert!(found >= exact && found <= exact * 5 / 4, "{quantile}: {found} for {exact}");
        }
        assert_eq!(Distribution::default().quantile(0.5), 0);
    }

    #[test]
    fn a_difference_and_a_sum_count_what_was_counted_between_and_elsewhere() {
        let meter = Meter::default();
        meter.record(5);
        let earlier = meter.distribution();
        meter.record_n(100_000, 3);
        let between = meter.distribution().since(&earlier);
        assert_eq!((between.count(), between.sum), (3, 300_000));
        assert_eq!((between.count_below(16), between.count_below(17)), (0, 3));
        let mut both = earlier.clone();
        both.add(&between);
        assert_eq!(both, meter.distribution());
    }
}
