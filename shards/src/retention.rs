//! Which CommitLog files may go, and when: RocketMQ's rules. Pure: told of the files, the disk and the time, it says up to where the
//! log is to be removed.
//!
//! - A file that was not written to for as long as messages are kept is **expired**. Expired files go in the hours that are set aside
//!   for it, or at any time when the disk is fuller than it should be, or when somebody asks for it.
//! - Where that is allowed, a disk that is fuller still loses its oldest files, **expired or not**.
//!
//! Files go from the oldest on, never the one that the end of the log is in, and at most [`FILES_PER_ROUND_MAX`] at once.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::deliberate::{Mistake, makes};
use crate::io::disk::DiskUsage;
use crate::position::PhysicalOffset;

/// Files that one round removes at most.
pub const FILES_PER_ROUND_MAX: usize = 10;

/// RocketMQ's `diskSpaceCleanForciblyRatio`, percent: where the oldest files go, if any may before their time.
pub const FORCED_ABOVE_PERCENT: f64 = 85.0;

/// How long messages are kept, and what a full disk changes about it.
#[derive(Clone, Debug, PartialEq)]
pub struct RetentionRules {
    /// How long a file is kept after its last write (RocketMQ's `fileReservedTime`).
    pub reserved: Duration,
    /// Expired files go at any time when the disk is fuller than this, percent (`diskMaxUsedSpaceRatio`).
    pub expired_above_percent: f64,
    /// The oldest files go, expired or not, when the disk is fuller than this, percent (`diskSpaceCleanForciblyRatio`); `None` when
    /// nothing goes before its time (`cleanFileForciblyEnable`).
    pub forced_above_percent: Option<f64>,
    /// Hours of the local day in which expired files go (`deleteWhen`).
    pub delete_hours: BTreeSet<u8>,
    /// No messages are taken while the disk is fuller than this, percent (`diskSpaceWarningLevelRatio`).
    pub refuse_above_percent: f64,
}

impl Default for RetentionRules {
    /// RocketMQ's, except that nothing goes before its time.
    fn default() -> Self {
        Self {
            reserved: Duration::from_secs(72 * 3600),
            expired_above_percent: 75.0,
            forced_above_percent: None,
            delete_hours: BTreeSet::from([4]),
            refuse_above_percent: 90.0,
        }
    }
}

/// One file of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentAge {
    pub start: PhysicalOffset,
    /// When it was last written to, milliseconds since the epoch.
    pub modified_ms: i64,
}

/// What is on the disk.
#[derive(Clone, Debug, Default)]
pub struct DiskSurvey {
    /// The files of the log, oldest first, those made ahead of its end too.
    pub segments: Vec<SegmentAge>,
    pub usage: DiskUsage,
    /// What files take that are out of the log and being removed, bytes.
    pub leaving_bytes: u64,
}

/// A topic that wants its messages kept longer than the others.
#[derive(Clone, Copy, Debug)]
pub struct LongerReserve {
    /// The first message of the topic that is still there.
    pub first_physical: PhysicalOffset,
    pub reserved: Duration,
}

/// The moment of a decision.
#[derive(Clone, Debug)]
pub struct Moment<'a> {
    pub now_ms: i64,
    /// It is an hour that is set aside for removing (`deleteWhen`), or somebody asks for it now.
    pub is_due: bool,
    /// Size of a file of the log, bytes.
    pub segment_bytes: u64,
    /// The end of what of the log is in the ConsumeQueues and index on the disk. The file that it is in is kept.
    pub written_end: PhysicalOffset,
    pub longer: &'a [LongerReserve],
}

/// Why files go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovalCause {
    /// They are expired, and it is time.
    Expired,
    /// They are expired, and the disk is fuller than it should be.
    DiskUsed,
    /// The disk is so full that they go before their time.
    Forced,
}

/// Files that are to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removal {
    /// The log begins here from now on.
    pub before: PhysicalOffset,
    pub files: usize,
    pub cause: RemovalCause,
}

/// What is to go now.
pub fn decide(rules: &RetentionRules, survey: &DiskSurvey, moment: &Moment<'_>) -> Option<Removal> {
    let mut usage = survey.usage.without(survey.leaving_bytes);
    let is_over = usage.used_percent() > rules.expired_above_percent;
    let kept = moment.written_end.get() / moment.segment_bytes * moment.segment_bytes;
    let mut removal: Option<Removal> = None;
    for segment in survey.segments.iter().take(FILES_PER_ROUND_MAX) {
        let end = segment.start.plus(moment.segment_bytes);
        if end.get() > kept {
            break;
        }
        let is_forced = rules.forced_above_percent.is_some_and(|percent| usage.used_percent() > percent);
        let cause = if is_forced {
            RemovalCause::Forced
        } else if (moment.is_due || is_over) && is_expired(rules, segment, end, moment) {
            if moment.is_due { RemovalCause::Expired } else { RemovalCause::DiskUsed }
        } else {
            break;
        };
        usage = usage.without(moment.segment_bytes);
        let files = removal.map_or(0, |removal| removal.files) + 1;
        removal = Some(Removal { before: end, files, cause });
    }
    removal
}

fn is_expired(
    rules: &RetentionRules,
    segment: &SegmentAge,
    end: PhysicalOffset,
    moment: &Moment<'_>,
) -> bool {
    let longest = moment
        .longer
        .iter()
        .filter(|longer| longer.first_physical < end)
        .map(|longer| longer.reserved)
        .fold(rules.reserved, Duration::max);
    let mut reserved_ms = i64::try_from(longest.as_millis()).unwrap_or(i64::MAX);
    if makes(Mistake::RemoveBeforeItsTime) {
        reserved_ms = reserved_ms / 10 * 9;
    }
    segment.modified_ms.saturating_add(reserved_ms) < moment.now_ms
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;
    const SEGMENT: u64 = 1 << 20;

    fn rules() -> RetentionRules {
        RetentionRules { forced_above_percent: Some(FORCED_ABOVE_PERCENT), ..RetentionRules::default() }
    }

    /// Files whose last writes are so many hours ago, oldest first, on a disk that is used so far.
    fn survey(hours_ago: &[i64], used_percent: u64) -> DiskSurvey {
        let segment = |(index, hours): (usize, &i64)| SegmentAge {
            start: PhysicalOffset::new(index as u64 * SEGMENT),
            modified_ms: 1000 * HOUR_MS - hours * HOUR_MS,
        };
        DiskSurvey {
            segments: hours_ago.iter().enumerate().map(segment).collect(),
            usage: DiskUsage {
                used_bytes: used_percent * SEGMENT,
                free_bytes: (100 - used_percent) * SEGMENT,
            },
            leaving_bytes: 0,
        }
    }

    fn moment(is_due: bool, written_segments: u64) -> Moment<'static> {
        Moment {
            now_ms: 1000 * HOUR_MS,
            is_due,
            segment_bytes: SEGMENT,
            written_end: PhysicalOffset::new(written_segments * SEGMENT + 1),
            longer: &[],
        }
    }

    fn decided(survey: &DiskSurvey, moment: &Moment<'_>) -> Option<(u64, RemovalCause)> {
        decide(&rules(), survey, moment).map(|removal| {
            assert_eq!(removal.before.get(), removal.files as u64 * SEGMENT);
            (removal.files as u64, removal.cause)
        })
    }

    #[test]
    fn expired_files_go_when_it_is_time_and_in_log_order() {
        let aged = survey(&[100, 80, 73, 71, 90, 0], 50);
        assert_eq!(
            decided(&aged, &moment(true, 5)),
            Some((3, RemovalCause::Expired)),
            "not past one that is younger"
        );
        assert_eq!(decided(&aged, &moment(false, 5)), None, "it is not the hour");
        let full = survey(&[100, 80, 73, 71, 90, 0], 76);
        assert_eq!(decided(&full, &moment(false, 5)), Some((3, RemovalCause::DiskUsed)));
    }

    #[test]
    fn a_disk_that_is_too_full_loses_its_oldest_files_until_it_is_not() {
        let full = survey(&[10, 9, 8, 7, 6, 0], 87);
        assert_eq!(decided(&full, &moment(false, 5)), Some((2, RemovalCause::Forced)), "85 % is left");
        let mut keeping = rules();
        let leaving = DiskSurvey { leaving_bytes: SEGMENT, ..full.clone() };
        assert_eq!(
            decided(&leaving, &moment(false, 5)),
            Some((1, RemovalCause::Forced)),
            "one is on its way"
        );
        keeping.forced_above_percent = None;
        assert_eq!(decide(&keeping, &full, &moment(true, 5)), None);
    }

    #[test]
    fn the_file_with_the_end_of_the_log_stays_and_a_round_is_bounded() {
        let old = survey(&[100; 30], 99);
        assert_eq!(decided(&old, &moment(true, 0)), None);
        assert_eq!(decided(&old, &moment(true, 1)).map(|(files, _)| files), Some(1));
        assert_eq!(decided(&old, &moment(true, 29)).map(|(files, _)| files), Some(10));
    }

    #[test]
    fn a_topic_that_wants_longer_keeps_its_files() {
        let aged = survey(&[100, 99, 98, 0], 50);
        let longer = |first, hours: u64| LongerReserve {
            first_physical: PhysicalOffset::new(first),
            reserved: Duration::from_secs(hours * 3600),
        };
        for (longer, files) in
            [(longer(SEGMENT, 200), 1), (longer(0, 99), 1), (longer(0, 200), 0), (longer(0, 1), 3)]
        {
            let moment = Moment { longer: &[longer], ..moment(true, 3) };
            assert_eq!(decided(&aged, &moment).map_or(0, |(files, _)| files), files, "{longer:?}");
        }
    }
}
