//! Workloads: scenarios as files. A file describes one run, or several that differ in one thing or more: where a list of values may
//! stand, each value makes a step, and several lists make every combination.
//!
//! The files in `workloads/` are part of the program and known by their names; any other is named by its path. Each key is
//! known: an unknown one is an error with its line and the key that was probably meant.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ringmq::config::ConfigError;
use ringmq::config::text::{check_keys, line_of};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use toml::de::{DeTable, DeValue};

use crate::cold::ColdOptions;
use crate::error::BenchError;
use crate::options::{LoadOptions, TargetOptions, parse_duration};
use crate::report::qualified_step;
use crate::scenario::{ReceiveOptions, Scenario};

/// The workloads that come with the program: name and text, sorted.
pub const BUILT_IN: [(&str, &str); 16] = [
    ("batch", include_str!("../workloads/batch.toml")),
    ("cold-reader", include_str!("../workloads/cold-reader.toml")),
    ("connections", include_str!("../workloads/connections.toml")),
    ("delay", include_str!("../workloads/delay.toml")),
    ("durable", include_str!("../workloads/durable.toml")),
    ("end-to-end", include_str!("../workloads/end-to-end.toml")),
    ("fan-out", include_str!("../workloads/fan-out.toml")),
    ("flush-modes", include_str!("../workloads/flush-modes.toml")),
    ("in-flight", include_str!("../workloads/in-flight.toml")),
    ("java-client", include_str!("../workloads/java-client.toml")),
    ("ladder", include_str!("../workloads/ladder.toml")),
    ("many-queues", include_str!("../workloads/many-queues.toml")),
    ("one-hot-queue", include_str!("../workloads/one-hot-queue.toml")),
    ("one-sender", include_str!("../workloads/one-sender.toml")),
    ("sizes", include_str!("../workloads/sizes.toml")),
    ("steady", include_str!("../workloads/steady.toml")),
];

const KEYS: [&str; 9] =
    ["about", "flush", "duration", "warmup", "queues", "send", "receive", "cold", "ladder"];
const SEND_KEYS: [&str; 7] = ["client", "connections", "in_flight", "size", "rate", "batch", "delay_level"];
const RECEIVE_KEYS: [&str; 3] = ["groups", "connections", "pull_messages"];
const COLD_KEYS: [&str; 3] = ["mebibytes", "readers", "queues"];
const LADDER_KEYS: [&str; 1] = ["p99_max"];

/// When a broker acknowledges, by its name in RocketMQ's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum FlushMode {
    #[serde(rename = "SYNC_FLUSH")]
    Sync,
    #[serde(rename = "ASYNC_FLUSH")]
    Async,
}

impl FlushMode {
    /// As brokers' configurations and results have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sync => "SYNC_FLUSH",
            Self::Async => "ASYNC_FLUSH",
        }
    }

    /// As it stands in names of files.
    pub fn short_name(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Async => "async",
        }
    }
}

/// One value, or a list of them.
#[derive(Clone, Debug, PartialEq)]
struct Values<T>(Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Values<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a value, or a list of values that each make a step")]
        enum Written<T> {
            One(T),
            Many(Vec<T>),
        }
        match Written::deserialize(deserializer)? {
            Written::One(value) => Ok(Self(vec![value])),
            Written::Many(values) if values.is_empty() => {
                Err(D::Error::custom("an empty list makes no step"))
            }
            Written::Many(values) => Ok(Self(values)),
        }
    }
}

impl<T> Values<T> {
    fn of(value: T) -> Self {
        Self(vec![value])
    }
}

/// A time such as `"10s"`.
fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse_duration(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// A file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WorkloadText {
    about: String,
    #[serde(default = "sync_flush")]
    flush: Values<FlushMode>,
    #[serde(deserialize_with = "time")]
    duration: Duration,
    #[serde(deserialize_with = "time")]
    warmup: Duration,
    #[serde(default = "eight_queues")]
    queues: Values<u32>,
    send: SendText,
    receive: Option<ReceiveText>,
    cold: Option<ColdText>,
    ladder: Option<Ladder>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SendText {
    client: Option<PathBuf>,
    #[serde(default = "one")]
    connections: Values<usize>,
    in_flight: Option<Values<usize>>,
    #[serde(default = "one_kibibyte")]
    size: Values<usize>,
    rate: Option<Values<f64>>,
    #[serde(default = "one")]
    batch: Values<usize>,
    #[serde(default)]
    delay_level: u8,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReceiveText {
    #[serde(default = "one")]
    groups: Values<usize>,
    #[serde(default = "one_connection")]
    connections: usize,
    #[serde(default = "pull_messages")]
    pull_messages: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ColdText {
    mebibytes: u64,
    readers: Values<usize>,
    #[serde(default = "queues_of_old_data")]
    queues: u32,
}

/// How the steps of a rate ladder are judged.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Ladder {
    /// The broker holds a rate while p99 stays below this …
    #[serde(deserialize_with = "time")]
    pub p99_max: Duration,
}

fn sync_flush() -> Values<FlushMode> {
    Values::of(FlushMode::Sync)
}
fn eight_queues() -> Values<u32> {
    Values::of(8)
}
fn one() -> Values<usize> {
    Values::of(1)
}
fn one_connection() -> usize {
    1
}
fn one_kibibyte() -> Values<usize> {
    Values::of(1024)
}
fn pull_messages() -> u32 {
    32
}
fn queues_of_old_data() -> u32 {
    2
}

/// A scenario, ready to run.
#[derive(Clone, Debug)]
pub struct Workload {
    pub name: String,
    /// One line for people.
    pub about: String,
    /// The modes that the brokers are to be compared in.
    pub flush: Vec<FlushMode>,
    pub steps: Vec<Step>,
    pub ladder: Option<Ladder>,
}

/// One run of a workload.
#[derive(Clone, Debug)]
pub struct Step {
    /// What tells it from the other steps, `in-flight-64`; empty when it is the only one.
    pub name: String,
    pub load: LoadOptions,
    pub receive: Option<ReceiveOptions>,
    pub cold: Option<ColdOptions>,
}

impl Workload {
    /// Finds a workload by its name, or reads it from a file.
    ///
    /// # Errors
    /// There is none, or the file is not a workload: with its line.
    pub fn load(name: &str) -> Result<Self, BenchError> {
        if let Some((_, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
            return Self::parse(name, &format!("{name}.toml"), text);
        }
        let path = Path::new(name);
        if path.extension().is_none() && !path.exists() {
            return Err(BenchError::NoWorkload { name: name.to_owned() });
        }
        let text = std::fs::read_to_string(path).map_err(|source| BenchError::File {
            doing: "read",
            path: path.to_owned(),
            source,
        })?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Self::parse(&stem, name, &text)
    }

    /// Reads a workload; `place` names its text in errors.
    ///
    /// # Errors
    /// With the line of what is wrong.
    pub fn parse(name: &str, place: &str, toml: &str) -> Result<Self, BenchError> {
        let malformed = |error: toml::de::Error| {
            let line = error.span().map_or(1, |span| line_of(toml, span.start));
            ConfigError::Malformed { place: format!("{place}:{line}"), error: error.message().to_owned() }
        };
        let table = DeTable::parse(toml).map_err(malformed)?;
        check_keys(toml, place, table.get_ref(), &KEYS)?;
        for (key, known) in [
            ("send", &SEND_KEYS[..]),
            ("receive", &RECEIVE_KEYS),
            ("cold", &COLD_KEYS),
            ("ladder", &LADDER_KEYS),
        ] {
            if let Some(DeValue::Table(inner)) = table.get_ref().get(key).map(toml::Spanned::get_ref) {
                check_keys(toml, place, inner, known)?;
            }
        }
        let text: WorkloadText = toml::from_str(toml).map_err(malformed)?;
        let workload = Self {
            name: name.to_owned(),
            steps: text.steps(),
            about: text.about,
            flush: text.flush.0,
            ladder: text.ladder,
        };
        for step in &workload.steps {
            step.load.check().map_err(|error| ConfigError::Malformed {
                place: place.to_owned(),
                error: error.to_string(),
            })?;
        }
        Ok(workload)
    }

    /// The file's name for a step, its topic too: `sizes-size-128`.
    pub fn step_name(&self, step: &Step) -> String {
        qualified_step(&self.name, &step.name)
    }

    /// The run of a step against the brokers of a name server.
    pub fn scenario(&self, step: &Step, namesrv: &str, broker_pids: &[u32]) -> Scenario {
        Scenario {
            target: TargetOptions {
                namesrv: namesrv.to_owned(),
                topic: format!("bench-{}", self.step_name(step)),
                broker_pid: broker_pids.to_vec(),
            },
            load: step.load.clone(),
            receive: step.receive.clone(),
            cold: step.cold.clone(),
            record_acks: None,
        }
    }
}

/// One choice of a value for each key that may be a list.
#[derive(Clone, Copy)]
struct Choice {
    queues: u32,
    connections: usize,
    in_flight: Option<usize>,
    size: usize,
    rate: Option<f64>,
    batch: usize,
    groups: usize,
    readers: usize,
}

impl WorkloadText {
    /// Every combination of the lists' values.
    fn steps(&self) -> Vec<Step> {
        let first = Choice {
            queues: 0,
            connections: 0,
            in_flight: None,
            size: 0,
            rate: None,
            batch: 0,
            groups: 0,
            readers: 0,
        };
        let groups = self.receive.as_ref().map_or_else(one, |receive| receive.groups.clone());
        let readers = self.cold.as_ref().map_or_else(one, |cold| cold.readers.clone());
        let mut steps = vec![(String::new(), first)];
        choose(&mut steps, "queues", &self.queues, |choice, value| choice.queues = value);
        choose(&mut steps, "connections", &self.send.connections, |choice, value| choice.connections = value);
        if let Some(in_flight) = &self.send.in_flight {
            choose(&mut steps, "in-flight", in_flight, |choice, value| choice.in_flight = Some(value));
        }
        choose(&mut steps, "size", &self.send.size, |choice, value| choice.size = value);
        choose(&mut steps, "batch", &self.send.batch, |choice, value| choice.batch = value);
        choose(&mut steps, "groups", &groups, |choice, value| choice.groups = value);
        choose(&mut steps, "readers", &readers, |choice, value| choice.readers = value);
        if let Some(rate) = &self.send.rate {
            choose(&mut steps, "rate", rate, |choice, value| choice.rate = Some(value));
        }
        steps.into_iter().map(|(name, choice)| self.step(name, choice)).collect()
    }

    fn step(&self, name: String, choice: Choice) -> Step {
        let load = LoadOptions {
            connections: choice.connections,
            in_flight: choice.in_flight,
            size: choice.size,
            rate: choice.rate,
            duration: Some(self.duration),
            messages: None,
            warmup: self.warmup,
            batch: choice.batch,
            delay_level: self.send.delay_level,
            queues: Some(choice.queues),
            threads: 1,
            client: self.send.client.clone(),
            patience: Duration::from_secs(30),
            until_disconnect: false,
        };
        let receive = self.receive.as_ref().map(|receive| ReceiveOptions {
            group: "ringmq-bench".to_owned(),
            groups: choice.groups,
            consumer_connections: receive.connections,
            consumer_threads: 1,
            pull_messages: receive.pull_messages,
        });
        let cold = self.cold.as_ref().map(|cold| ColdOptions {
            mebibytes: cold.mebibytes,
            readers: choice.readers,
            queues: cold.queues,
        });
        Step { name, load, receive, cold }
    }
}

/// Splits every step into one for each value; the values' key is part of the name when there are several.
fn choose<T: Copy + std::fmt::Display>(
    steps: &mut Vec<(String, Choice)>,
    key: &str,
    values: &Values<T>,
    set: impl Fn(&mut Choice, T),
) {
    let split = |(name, choice): &(String, Choice)| {
        let (name, choice) = (name.clone(), *choice);
        let with = |value: &T| {
            let mut choice = choice;
            set(&mut choice, *value);
            let name = match (values.0.len(), name.as_str()) {
                (1, name) => name.to_owned(),
                (_, "") => format!("{key}-{value}"),
                (_, name) => format!("{name}-{key}-{value}"),
            };
            (name, choice)
        };
        values.0.iter().map(with).collect::<Vec<_>>()
    };
    *steps = steps.iter().flat_map(split).collect();
}

#[cfg(test)]
mod tests;
