//! What a broker knows of its disk, and how long topics want their messages kept. Told by the clock ([`crate::processor::retention`]), asked by sends.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use shards::io::disk::DiskUsage;

/// The topic attribute that says how long a topic's messages are kept, hours; anything but a positive number leaves it to the broker.
const RESERVE_ATTRIBUTE: &str = "reserve.time";
/// Rounds in which expired files go after somebody has asked for it, as in RocketMQ.
const ASKED_ROUNDS: u32 = 20;

/// The disk as it was found last.
#[derive(Debug, Default)]
pub struct DiskWatch {
    usage: DiskUsage,
    refusal: Option<String>,
    asked_rounds: u32,
}

impl DiskWatch {
    /// The disk that holds `dir` is this full; `above_percent` is where sends are refused. True when that has changed.
    pub fn found(&mut self, dir: &Path, usage: DiskUsage, above_percent: f64) -> bool {
        self.usage = usage;
        let used_percent = usage.used_percent();
        let refusal = (used_percent > above_percent).then(|| {
            format!(
                "the disk of {} is {used_percent:.1} % full, {} MiB are free, and messages are taken up to {above_percent} % \
                 (diskSpaceWarningLevelRatio); free some space",
                dir.display(),
                usage.free_bytes >> 20,
            )
        });
        let has_changed = self.refusal.is_some() != refusal.is_some();
        self.refusal = refusal;
        has_changed
    }

    /// How full the disk is.
    pub fn usage(&self) -> DiskUsage {
        self.usage
    }

    /// Why no message is taken now, if so.
    pub fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }

    /// Somebody wants expired files to go now.
    pub fn ask(&mut self) {
        self.asked_rounds = ASKED_ROUNDS;
    }

    /// Whether somebody has asked for this round.
    pub fn take_asked(&mut self) -> bool {
        let is_asked = self.asked_rounds > 0;
        self.asked_rounds = self.asked_rounds.saturating_sub(1);
        is_asked
    }

    /// Whether a round is wanted soon; the disk should not be fuller than `expired_above_percent`.
    pub fn is_urgent(&self, expired_above_percent: f64) -> bool {
        self.asked_rounds > 0 || self.refusal.is_some() || self.usage.used_percent() > expired_above_percent
    }
}

/// How long a topic with these attributes wants its messages to be kept, if it says so.
pub fn reserve_of(attributes: &BTreeMap<String, String>) -> Option<Duration> {
    let hours: u64 = attributes.get(RESERVE_ATTRIBUTE)?.parse().ok().filter(|hours| *hours > 0)?;
    Some(Duration::from_secs(hours.saturating_mul(3600)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_too_full_is_told_with_its_numbers() {
        let mut watch = DiskWatch::default();
        let usage = |used_percent: u64| DiskUsage {
            used_bytes: used_percent << 30,
            free_bytes: (100 - used_percent) << 30,
        };
        assert!(!watch.found(Path::new("/d"), usage(90), 90.0));
        assert_eq!(watch.refusal(), None);
        assert!(watch.found(Path::new("/d"), usage(91), 90.0) && watch.is_urgent(95.0));
        let text = watch.refusal().unwrap();
        assert!(
            text.contains("/d is 91.0 % full, 9216 MiB are free") && text.contains("up to 90 %"),
            "{text}"
        );
        assert!(!watch.found(Path::new("/d"), usage(92), 90.0), "it was so before");
        assert!(watch.found(Path::new("/d"), usage(80), 90.0) && !watch.is_urgent(95.0));
    }

    #[test]
    fn who_asks_gets_twenty_rounds() {
        let mut watch = DiskWatch::default();
        watch.ask();
        assert_eq!((0..30).filter(|_| watch.take_asked()).count(), 20);
    }

    #[test]
    fn a_topic_may_say_how_long_it_keeps_its_messages() {
        let reserve = |value: &str| reserve_of(&[(RESERVE_ATTRIBUTE.to_owned(), value.to_owned())].into());
        assert_eq!(reserve("3"), Some(Duration::from_secs(3 * 3600)));
        for other in ["-1", "0", "", "soon"] {
            assert_eq!(reserve(other), None, "{other:?}");
        }
        assert_eq!(reserve_of(&[].into()), None);
    }
}
