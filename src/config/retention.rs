//! How long messages are kept, from RocketMQ's keys.

use std::collections::BTreeSet;
use std::time::Duration;

use shards::retention::{FORCED_ABOVE_PERCENT, RetentionRules};

use super::text::ConfigText;
use super::{ConfigError, in_range, value_error};

/// Longest time that messages can be kept, hours: a hundred years.
const RESERVED_HOURS_MAX: u64 = 100 * 366 * 24;

/// Resolves what was typed.
pub(super) fn resolve(text: &ConfigText) -> Result<RetentionRules, ConfigError> {
    let mut rules = RetentionRules::default();
    if let Some(hours) = text.file_reserved_time {
        in_range("fileReservedTime", hours, 1, RESERVED_HOURS_MAX)?;
        rules.reserved = Duration::from_secs(hours * 3600);
    }
    if let Some(hours) = &text.delete_when {
        rules.delete_hours = parse_hours(hours)?;
    }
    let percent = |key, typed: Option<u8>, default: f64| match typed {
        Some(percent) => in_range(key, percent, 1, 100).map(|()| f64::from(percent)),
        None => Ok(default),
    };
    rules.expired_above_percent =
        percent("diskMaxUsedSpaceRatio", text.disk_max_used_space_ratio, rules.expired_above_percent)?;
    let forced =
        percent("diskSpaceCleanForciblyRatio", text.disk_space_clean_forcibly_ratio, FORCED_ABOVE_PERCENT)?;
    rules.forced_above_percent = text.clean_file_forcibly_enable.unwrap_or(false).then_some(forced);
    rules.refuse_above_percent = percent(
        "diskSpaceWarningLevelRatio",
        text.disk_space_warning_level_ratio,
        rules.refuse_above_percent,
    )?;
    Ok(rules)
}

/// Hours of the day, as in `04` or `04;16`.
fn parse_hours(typed: &str) -> Result<BTreeSet<u8>, ConfigError> {
    let hour = |text: &str| text.trim().parse().ok().filter(|hour: &u8| *hour < 24);
    let hours: Option<BTreeSet<u8>> = typed.split(';').map(hour).collect();
    hours.ok_or_else(|| {
        let problem = "must be hours of the day from 00 to 23, as \"04\" or \"04;16\"";
        value_error("deleteWhen", typed, problem)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(toml: &str) -> Result<RetentionRules, String> {
        let text = ConfigText::parse(toml, "ringmq.toml").map_err(|error| error.to_string())?;
        resolve(&text).map_err(|error| error.to_string())
    }

    #[test]
    fn without_a_word_it_is_rocketmqs_but_that_nothing_goes_before_its_time() {
        let rules = resolved("").unwrap();
        assert_eq!(rules, RetentionRules::default());
        assert_eq!(rules.reserved, Duration::from_secs(72 * 3600));
        assert_eq!(rules.forced_above_percent, None);
        let forced = resolved("cleanFileForciblyEnable = true").unwrap();
        assert_eq!(forced.forced_above_percent, Some(85.0));
    }

    #[test]
    fn keys_have_rocketmqs_units() {
        let toml = "fileReservedTime = 5\ndeleteWhen = '04;16'\ndiskMaxUsedSpaceRatio = 60\ncleanFileForciblyEnable = true\n\
                    diskSpaceCleanForciblyRatio = 70\ndiskSpaceWarningLevelRatio = 80";
        let rules = resolved(toml).unwrap();
        assert_eq!(rules.reserved, Duration::from_secs(5 * 3600));
        assert_eq!(rules.delete_hours, BTreeSet::from([4, 16]));
        assert_eq!(rules.expired_above_percent, 60.0);
        assert_eq!(rules.forced_above_percent, Some(70.0));
        assert_eq!(rules.refuse_above_percent, 80.0);
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (toml, key) in [
            ("deleteWhen = '24'", "deleteWhen"),
            ("deleteWhen = 'night'", "deleteWhen"),
            ("fileReservedTime = 0", "fileReservedTime"),
            ("diskSpaceWarningLevelRatio = 101", "diskSpaceWarningLevelRatio"),
            ("diskMaxUsedSpaceRatio = 0", "diskMaxUsedSpaceRatio"),
        ] {
            let error = resolved(toml).unwrap_err();
            assert!(error.starts_with(key), "{toml}: {error}");
        }
    }
}
