//! Configuration as typed: a TOML file, then environment variables, then flags; each overrides the one before. Nothing is
//! resolved here, but every key is known and every error says where.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use runtime::executor::Backend;
use serde::{Deserialize, Deserializer};
use toml::de::{DeTable, DeValue};

use super::placement::Placement;
use super::{ConfigError, FlushDiskType};

/// Prefix of environment variables: `RINGMQ_` and the key in capitals, `flushDiskType` as `RINGMQ_FLUSH_DISK_TYPE`.
const ENVIRONMENT_PREFIX: &str = "RINGMQ_";

/// The keys of a configuration file, all optional.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigText {
    pub node_name: Option<String>,
    #[serde(rename = "brokerClusterName")]
    pub broker_cluster_name: Option<String>,
    pub host: Option<IpAddr>,
    pub port: Option<u16>,
    pub namesrv_port: Option<u16>,
    pub data: Option<PathBuf>,
    pub cores: Option<usize>,
    pub shards: Option<u32>,
    pub placement: Option<Placement>,
    pub runtime: Option<Backend>,
    pub metrics_port: Option<u16>,
    pub stages: Option<bool>,
    #[serde(rename = "flushDiskType")]
    pub flush_disk_type: Option<FlushDiskType>,
    #[serde(rename = "mappedFileSizeCommitLog")]
    pub mapped_file_size_commit_log: Option<Size>,
    #[serde(rename = "autoCreateTopicEnable")]
    pub auto_create_topic_enable: Option<bool>,
    #[serde(rename = "autoCreateSubscriptionGroup")]
    pub auto_create_subscription_group: Option<bool>,
    #[serde(rename = "enablePropertyFilter")]
    pub enable_property_filter: Option<bool>,
    #[serde(rename = "defaultTopicQueueNums")]
    pub default_topic_queue_nums: Option<u32>,
    pub hot_tail: Option<Size>,
    pub cold_cache: Option<Size>,
    pub spin: Option<Span>,
    pub scrub_interval_s: Option<u64>,
    #[serde(rename = "serverChannelMaxIdleTimeSeconds")]
    pub server_channel_max_idle_time_seconds: Option<u64>,
    #[serde(rename = "fileReservedTime")]
    pub file_reserved_time: Option<u64>,
    #[serde(rename = "deleteWhen")]
    pub delete_when: Option<String>,
    #[serde(rename = "diskMaxUsedSpaceRatio")]
    pub disk_max_used_space_ratio: Option<u8>,
    #[serde(rename = "cleanFileForciblyEnable")]
    pub clean_file_forcibly_enable: Option<bool>,
    #[serde(rename = "diskSpaceCleanForciblyRatio")]
    pub disk_space_clean_forcibly_ratio: Option<u8>,
    #[serde(rename = "diskSpaceWarningLevelRatio")]
    pub disk_space_warning_level_ratio: Option<u8>,
    pub disk_reserve: Option<Size>,
    #[serde(default)]
    pub core: Vec<CoreText>,
}

/// The keys of a `[[core]]` table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoreText {
    pub cpu: usize,
    #[serde(default)]
    pub log: Vec<u32>,
    #[serde(default)]
    pub serve: Vec<u32>,
    pub ring_depth: Option<usize>,
    pub write_buffers: Option<WriteBuffersText>,
    pub hot_tail: Option<Size>,
    pub spin: Option<Span>,
}

/// `write_buffers = { size = "1MiB", count = 64 }`
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriteBuffersText {
    pub size: Option<Size>,
    pub count: Option<usize>,
}

/// The keys of a configuration file.
pub(crate) const KEYS: [&str; 31] = [
    "node_name",
    "brokerClusterName",
    "host",
    "port",
    "namesrv_port",
    "data",
    "cores",
    "shards",
    "placement",
    "runtime",
    "metrics_port",
    "stages",
    "flushDiskType",
    "mappedFileSizeCommitLog",
    "autoCreateTopicEnable",
    "autoCreateSubscriptionGroup",
    "enablePropertyFilter",
    "defaultTopicQueueNums",
    "hot_tail",
    "cold_cache",
    "spin",
    "scrub_interval_s",
    "serverChannelMaxIdleTimeSeconds",
    "fileReservedTime",
    "deleteWhen",
    "diskMaxUsedSpaceRatio",
    "cleanFileForciblyEnable",
    "diskSpaceCleanForciblyRatio",
    "diskSpaceWarningLevelRatio",
    "disk_reserve",
    "core",
];
const CORE_KEYS: [&str; 7] = ["cpu", "log", "serve", "ring_depth", "write_buffers", "hot_tail", "spin"];

impl ConfigText {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, is not TOML, or has an unknown key or a value of the wrong kind: with path and line.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let place = path.display().to_string();
        let toml = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::Unreadable { path: place.clone(), error })?;
        Self::parse(&toml, &place)
    }

    /// Reads TOML; `place` names it in errors.
    ///
    /// # Errors
    /// As [`Self::from_file`].
    pub fn parse(toml: &str, place: &str) -> Result<Self, ConfigError> {
        let malformed = |error: toml::de::Error| {
            let line = error.span().map_or(1, |span| line_of(toml, span.start));
            ConfigError::Malformed { place: format!("{place}:{line}"), error: error.message().to_owned() }
        };
        let table = DeTable::parse(toml).map_err(malformed)?;
        check_keys(toml, place, table.get_ref(), &KEYS)?;
        if let Some(cores) = table.get_ref().get("core").and_then(|cores| cores.get_ref().as_array()) {
            for core in cores.iter() {
                if let DeValue::Table(core) = core.get_ref() {
                    check_keys(toml, place, core, &CORE_KEYS)?;
                }
            }
        }
        toml::from_str(toml).map_err(malformed)
    }

    /// The shards asked for, in so many words or as the highest one that a `[[core]]` table places.
    pub fn wanted_shards(&self) -> Option<u32> {
        let placed = self.core.iter().flat_map(|core| core.log.iter().chain(&core.serve)).max();
        self.shards.or_else(|| placed.map(|highest| highest.saturating_add(1)))
    }

    /// The shards of a new store when none are asked for: one per core.
    pub fn default_shards(&self, allowed_cpus: &[usize]) -> u32 {
        u32::try_from(self.cores.unwrap_or(allowed_cpus.len())).unwrap_or(u32::MAX)
    }

    /// The folder of the store.
    pub fn data_or_default(&self) -> PathBuf {
        self.data.clone().unwrap_or_else(|| PathBuf::from("data"))
    }

    /// The name of the node.
    pub fn node_name_or_default(&self) -> String {
        self.node_name.clone().unwrap_or_else(|| "ringmq".to_owned())
    }

    /// Overrides with environment variables, as `(name, value)`. Variables without our prefix are not looked at.
    ///
    /// # Errors
    /// One with our prefix that is no key, or whose value is of the wrong kind.
    pub fn override_by_environment(
        self,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut text = self;
        for (name, value) in variables {
            let Some(tail) = name.strip_prefix(ENVIRONMENT_PREFIX) else { continue };
            // The program's own switches, not configuration keys.
            if matches!(tail, "CONFIG" | "LOG") {
                continue;
            }
            let Some(key) = KEYS.iter().find(|key| **key != "core" && environment_name(key) == tail) else {
                let names: Vec<_> = KEYS.iter().map(|key| environment_name(key)).collect();
                let nearest = nearest(tail, names.iter().map(String::as_str));
                let nearest = nearest.map(|nearest| format!("{ENVIRONMENT_PREFIX}{nearest}"));
                return Err(ConfigError::UnknownKey { place: "environment".to_owned(), key: name, nearest });
            };
            let quoted = toml::Value::String(value.clone());
            let one = Self::parse(&format!("{key} = {value}"), &name)
                .or_else(|_| Self::parse(&format!("{key} = {quoted}"), &name))?;
            text = text.override_by(one);
        }
        Ok(text)
    }

    /// Overrides with whatever `other` sets.
    #[must_use]
    pub fn override_by(self, other: Self) -> Self {
        Self {
            node_name: other.node_name.or(self.node_name),
            broker_cluster_name: other.broker_cluster_name.or(self.broker_cluster_name),
            host: other.host.or(self.host),
            port: other.port.or(self.port),
            namesrv_port: other.namesrv_port.or(self.namesrv_port),
            data: other.data.or(self.data),
            cores: other.cores.or(self.cores),
            shards: other.shards.or(self.shards),
            placement: other.placement.or(self.placement),
            runtime: other.runtime.or(self.runtime),
            metrics_port: other.metrics_port.or(self.metrics_port),
            stages: other.stages.or(self.stages),
            flush_disk_type: other.flush_disk_type.or(self.flush_disk_type),
            mapped_file_size_commit_log: other
                .mapped_file_size_commit_log
                .or(self.mapped_file_size_commit_log),
            auto_create_topic_enable: other.auto_create_topic_enable.or(self.auto_create_topic_enable),
            auto_create_subscription_group: other
                .auto_create_subscription_group
                .or(self.auto_create_subscription_group),
            enable_property_filter: other.enable_property_filter.or(self.enable_property_filter),
            default_topic_queue_nums: other.default_topic_queue_nums.or(self.default_topic_queue_nums),
            hot_tail: other.hot_tail.or(self.hot_tail),
            cold_cache: other.cold_cache.or(self.cold_cache),
            spin: other.spin.or(self.spin),
            scrub_interval_s: other.scrub_interval_s.or(self.scrub_interval_s),
            server_channel_max_idle_time_seconds: other
                .server_channel_max_idle_time_seconds
                .or(self.server_channel_max_idle_time_seconds),
            file_reserved_time: other.file_reserved_time.or(self.file_reserved_time),
            delete_when: other.delete_when.or(self.delete_when),
            disk_max_used_space_ratio: other.disk_max_used_space_ratio.or(self.disk_max_used_space_ratio),
            clean_file_forcibly_enable: other.clean_file_forcibly_enable.or(self.clean_file_forcibly_enable),
            disk_space_clean_forcibly_ratio: other
                .disk_space_clean_forcibly_ratio
                .or(self.disk_space_clean_forcibly_ratio),
            disk_space_warning_level_ratio: other
                .disk_space_warning_level_ratio
                .or(self.disk_space_warning_level_ratio),
            disk_reserve: other.disk_reserve.or(self.disk_reserve),
            core: if other.core.is_empty() { self.core } else { other.core },
        }
    }
}

/// `flushDiskType` → `FLUSH_DISK_TYPE`.
fn environment_name(key: &str) -> String {
    let mut name = String::with_capacity(key.len() + 4);
    for character in key.chars() {
        if character.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(character.to_ascii_uppercase());
    }
    name
}

/// Checks that a table of the document `toml` has only known keys.
///
/// # Errors
/// The first that is not, with `place`, its line, and the known key that is most like it.
pub fn check_keys(toml: &str, place: &str, table: &DeTable<'_>, known: &[&str]) -> Result<(), ConfigError> {
    for key in table.keys() {
        let name: &str = key.get_ref();
        if !known.contains(&name) {
            return Err(ConfigError::UnknownKey {
                place: format!("{place}:{}", line_of(toml, key.span().start)),
                key: name.to_owned(),
                nearest: nearest(name, known.iter().copied()).map(str::to_owned),
            });
        }
    }
    Ok(())
}

/// The known word that is most like `typed`, if any is like it at all.
fn nearest<'k>(typed: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let likeness = |word: &str| strsim::jaro_winkler(&typed.to_lowercase(), &word.to_lowercase());
    known
        .map(|word| (likeness(word), word))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, word)| word)
}

/// The line, counted from 1, that a byte of a text lies in.
pub fn line_of(text: &str, position: usize) -> usize {
    text.as_bytes()[..position.min(text.len())].iter().filter(|&&byte| byte == b'\n').count() + 1
}

/// A number of bytes: `4096`, `"64KiB"`, `"256MiB"`, `"1GiB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1), ("", 1)];
        with_unit(text, &units)
            .map(Self)
            .ok_or_else(|| format!("`{text}` is not a size such as 4096, 64KiB, 256MiB, 1GiB"))
    }
}

/// A length of time: `"0us"`, `"10us"`, `"5ms"`, `"1s"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let units = [("us", 1), ("ms", 1_000), ("s", 1_000_000)];
        let micros = with_unit(text, &units);
        micros
            .map(|micros| Self(Duration::from_micros(micros)))
            .ok_or_else(|| format!("`{text}` is not a time such as 10us, 5ms, 1s"))
    }
}

fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (digits, factor) =
        units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    digits.trim().parse::<u64>().ok()?.checked_mul(*factor)
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a size such as 4096, \"64KiB\", \"256MiB\", \"1GiB\"")]
        enum Typed {
            Bytes(u64),
            Text(String),
        }
        match Typed::deserialize(deserializer)? {
            Typed::Bytes(bytes) => Ok(Self(bytes)),
            Typed::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl FromStr for FlushDiskType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "SYNC_FLUSH" | "sync" => Ok(Self::SyncFlush),
            "ASYNC_FLUSH" | "async" => Ok(Self::AsyncFlush),
            _ => Err(format!("`{text}` is neither SYNC_FLUSH (sync) nor ASYNC_FLUSH (async)")),
        }
    }
}

impl<'de> Deserialize<'de> for FlushDiskType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_nearest_key() {
        let error = |toml: &str| ConfigText::parse(toml, "ringmq.toml").unwrap_err().to_string();
        assert_eq!(
            error("port = 1\n\nflushDiskTyp = 'SYNC_FLUSH'"),
            "ringmq.toml:3: unknown key `flushDiskTyp`; did you mean `flushDiskType`?"
        );
        assert_eq!(
            error("[[core]]\ncpu = 0\nhottail = '1MiB'"),
            "ringmq.toml:3: unknown key `hottail`; did you mean `hot_tail`?"
        );
        assert_eq!(error("zzz = 1"), "ringmq.toml:1: unknown key `zzz`");
    }

    #[test]
    fn a_wrong_value_is_named_with_its_line() {
        let error = |toml: &str| ConfigText::parse(toml, "ringmq.toml").unwrap_err().to_string();
        assert!(error("\nport = 70000").starts_with("ringmq.toml:2: "), "{}", error("\nport = 70000"));
        assert!(error("flushDiskType = 'SOMETIMES'").contains("neither SYNC_FLUSH"));
        assert!(error("hot_tail = '3 bananas'").contains("not a size"));
        assert!(error("port = ").starts_with("ringmq.toml:1: "));
    }

    #[test]
    fn environment_overrides_the_file_and_flags_override_both() {
        let file =
            ConfigText::parse("port = 1\nnamesrv_port = 2\nflushDiskType = 'SYNC_FLUSH'", "f").unwrap();
        let variables = [
            ("RINGMQ_PORT", "10"),
            ("RINGMQ_FLUSH_DISK_TYPE", "ASYNC_FLUSH"),
            ("HOME", "/"),
            ("RINGMQ_LOG", "debug"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let text = file.override_by_environment(variables.into_iter()).unwrap();
        let flags = ConfigText { port: Some(100), ..ConfigText::default() };
        let text = text.override_by(flags);
        assert_eq!((text.port, text.namesrv_port), (Some(100), Some(2)));
        assert_eq!(text.flush_disk_type, Some(FlushDiskType::AsyncFlush));
    }

    #[test]
    fn an_unknown_variable_of_ours_is_an_error() {
        let variables = [("RINGMQ_PROT".to_owned(), "1".to_owned())];
        let error =
            ConfigText::default().override_by_environment(variables.into_iter()).unwrap_err().to_string();
        assert_eq!(error, "environment: unknown key `RINGMQ_PROT`; did you mean `RINGMQ_PORT`?");
    }

    #[test]
    fn sizes_and_times_have_units() {
        assert_eq!("64KiB".parse(), Ok(Size(65536)));
        assert_eq!("4096".parse(), Ok(Size(4096)));
        assert_eq!("10us".parse(), Ok(Span(Duration::from_micros(10))));
        assert!("99999999999GiB".parse::<Size>().is_err());
        assert!("10".parse::<Span>().is_err());
    }
}
