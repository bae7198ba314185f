//! The time series of a run: counts and latencies interval by interval, so that a stall can be placed in time.
//!
//! A [`Recorder`] belongs to one thread, and a message costs it one histogram entry: the whole run's histogram is the sum of the
//! intervals', added up when an interval ends (some ten microseconds, once a second). An interval holds what was acknowledged
//! or received in it, whenever that was due.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::clock::duration_ns;
use crate::latency::{Latency, Percentiles};

/// What one thread records while it works.
#[derive(Debug)]
pub struct Recorder {
    interval_ns: u64,
    /// Index of the open interval, counted from the start of the run, and its end.
    index: u64,
    end_ns: u64,
    messages: u64,
    latency: Latency,
    recording: Recording,
}

/// What was recorded, by one thread or by all.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// All latencies.
    pub total: Latency,
    interval_ns: u64,
    slices: BTreeMap<u64, Slice>,
}

/// One interval that has ended.
#[derive(Clone, Debug, Default)]
struct Slice {
    messages: u64,
    /// The latencies, as each thread encoded them.
    histograms: Vec<Vec<u8>>,
}

/// One interval as it is stored in a result.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Interval {
    /// When it begins, seconds since the start of the run, warm-up included.
    pub at_seconds: f64,
    /// Acknowledged or received in it.
    pub messages: u64,
    /// Of those that are measured: none in the warm-up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<Percentiles>,
    /// The same as a histogram: see [`Latency::to_base64`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub histogram: Option<String>,
}

impl Recorder {
    /// A recorder with intervals of this length, which begins at time 0 of the run.
    pub fn new(interval: Duration) -> Self {
        let interval_ns = duration_ns(interval).max(1);
        Self {
            interval_ns,
            index: 0,
            end_ns: interval_ns,
            messages: 0,
            latency: Latency::default(),
            recording: Recording { interval_ns, ..Recording::default() },
        }
    }

    /// Counts messages that came at `at_ns` of the run, and their latency when it is measured. Times do not go back.
    pub fn record(&mut self, at_ns: u64, messages: u64, latency_ns: Option<u64>) {
        if at_ns >= self.end_ns {
            self.turn(at_ns);
        }
        self.messages += messages;
        if let Some(latency_ns) = latency_ns {
            self.latency.record(latency_ns, messages);
        }
    }

    /// Ends the open interval and opens the one that `at_ns` lies in.
    fn turn(&mut self, at_ns: u64) {
        self.close();
        self.index = at_ns / self.interval_ns;
        self.end_ns = (self.index + 1).saturating_mul(self.interval_ns);
    }

    fn close(&mut self) {
        if self.messages == 0 {
            return;
        }
        let slice = self.recording.slices.entry(self.index).or_default();
        slice.messages += std::mem::take(&mut self.messages);
        if !self.latency.is_empty() {
            slice.histograms.push(self.latency.encode());
            self.recording.total.merge(&self.latency);
            self.latency.clear();
        }
    }

    /// Ends the recording and hands it over.
    pub fn finish(&mut self) -> Recording {
        self.close();
        let empty = Recording { interval_ns: self.interval_ns, ..Recording::default() };
        std::mem::replace(&mut self.recording, empty)
    }
}

impl Recording {
    /// Adds what another thread recorded.
    pub fn merge(&mut self, other: Self) {
        assert!(self.interval_ns == other.interval_ns || self.slices.is_empty() || other.slices.is_empty());
        self.interval_ns = self.interval_ns.max(other.interval_ns);
        self.total.merge(&other.total);
        for (index, slice) in other.slices {
            let sum = self.slices.entry(index).or_default();
            sum.messages += slice.messages;
            sum.histograms.extend(slice.histograms);
        }
    }

    /// The intervals from the first with a message to the last, those without any included.
    pub fn intervals(&self) -> Vec<Interval> {
        let (Some((first, _)), Some((last, _))) =
            (self.slices.first_key_value(), self.slices.last_key_value())
        else {
            return Vec::new();
        };
        (*first..=*last).map(|index| self.interval(index)).collect()
    }

    fn interval(&self, index: u64) -> Interval {
        let at_seconds = (index * self.interval_ns) as f64 / 1e9;
        let Some(slice) = self.slices.get(&index) else {
            return Interval { at_seconds, ..Interval::default() };
        };
        let mut latency = Latency::default();
        for encoded in &slice.histograms {
            latency.add_encoded(encoded).expect("a recorder encoded it, with the same bounds");
        }
        let measured = (!latency.is_empty()).then_some(latency);
        Interval {
            at_seconds,
            messages: slice.messages,
            latency_us: measured.as_ref().map(Latency::percentiles),
            histogram: measured.as_ref().map(Latency::to_base64),
        }
    }
}

/// Writes a list with one element a line, however the document around it is laid out: a series is many lines as it is.
///
/// # Errors
/// Those of the serializer.
pub fn one_a_line<T: Serialize, S: Serializer>(list: &[T], serializer: S) -> Result<S::Ok, S::Error> {
    let lines: Result<Vec<String>, _> = list.iter().map(serde_json::to_string).collect();
    let lines = lines.map_err(serde::ser::Error::custom)?;
    let text = if lines.is_empty() { "[]".to_owned() } else { format!("[\n{}\n]", lines.join(",\n")) };
    RawValue::from_string(text).map_err(serde::ser::Error::custom)?.serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn recorder() -> Recorder {
        Recorder::new(Duration::from_millis(100))
    }

    #[test]
    fn messages_lie_in_the_interval_in_which_they_came() {
        let mut recorder = recorder();
        recorder.record(0, 1, None);
        recorder.record(99 * MS, 1, Some(MS));
        recorder.record(100 * MS, 3, Some(2 * MS));
        recorder.record(450 * MS, 1, Some(300 * MS));
        let recording = recorder.finish();
        let found: Vec<(f64, u64, u64)> = recording
            .intervals()
            .iter()
            .map(|one| {
                (one.at_seconds, one.messages, one.latency_us.as_ref().map_or(0, |latency| latency.count))
            })
            .collect();
        assert_eq!(found, [(0.0, 2, 1), (0.1, 3, 3), (0.2, 0, 0), (0.3, 0, 0), (0.4, 1, 1)]);
        assert_eq!(recording.total.percentiles().count, 5);
    }

    #[test]
    fn threads_add_up_interval_by_interval() {
        let mut sum = Recording::default();
        for thread in 1..=3_u64 {
            let mut recorder = recorder();
            recorder.record(150 * MS, thread, Some(thread * MS));
            recorder.record(200 * MS * thread, 1, None);
            sum.merge(recorder.finish());
        }
        let intervals = sum.intervals();
        assert_eq!(intervals.iter().map(|one| one.messages).collect::<Vec<_>>(), [6, 1, 0, 1, 0, 1]);
        let histogram = Latency::from_base64(intervals[0].histogram.as_deref().unwrap()).unwrap();
        assert_eq!(Some(histogram.percentiles()), intervals[0].latency_us);
        assert_eq!(histogram.percentiles().count, 6);
    }

    #[test]
    fn a_list_has_one_element_a_line_and_reads_back() {
        #[derive(Deserialize, Serialize)]
        struct Document {
            #[serde(serialize_with = "one_a_line")]
            series: Vec<Interval>,
        }
        let mut recorder = recorder();
        (0..5).for_each(|step| recorder.record(step * 100 * MS, 1, Some(MS)));
        let document = Document { series: recorder.finish().intervals() };
        let text = serde_json::to_string_pretty(&document).unwrap();
        assert_eq!(text.lines().filter(|line| line.contains("at_seconds")).count(), 5, "{text}");
        assert_eq!(serde_json::from_str::<Document>(&text).unwrap().series, document.series);
    }
}
