//! The JSON files of a shard's configuration: whether a start can use them, and what takes the place of one that it cannot. Only files of
//! offsets have a checksum: in the others a wrong letter inside a value is not seen.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;
use shards::verify::{Finding, Part};

use crate::broker::consumer_offset::{self, ConsumerOffsetTable};
use crate::broker::delay_offset;
use crate::broker::topic_table;
use crate::remoting::fastjson;

const NAMES: [&str; 4] = ["topics.json", "subscriptionGroup.json", "consumerOffset.json", "delayOffset.json"];

/// How a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Good,
    /// There is none, or an empty one: the version before is used.
    Missing,
    /// A start does not use it, for this reason.
    Damaged(String),
}

/// Checks the files of the shard in the folder `shard_dir`.
///
/// # Errors
/// A file is there and cannot be read.
pub(super) fn check(shard_dir: &Path) -> io::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for path in paths(shard_dir) {
        let (file, before) = (ReadFile::read(path.clone())?, ReadFile::read(backup(&path))?);
        findings.extend(file.changed_elsewhere());
        match &before.state {
            State::Damaged(what) => findings.push(before.finding(
                what,
                "nothing, as long as the file that came after it is good",
                "none needed: it is replaced with the next change",
            )),
            State::Good | State::Missing => findings.extend(before.changed_elsewhere()),
        }
        let State::Damaged(what) = &file.state else { continue };
        let (lost, cure) = match before.state {
            State::Good => (
                "what was changed since the version before, which is beside it",
                "none needed: a start uses the version before",
            ),
            State::Missing | State::Damaged(_) => {
                ("all that it held", "restore it from a copy, or ringmq store repair, which moves it away")
            }
        };
        findings.push(file.finding(what, lost, cure));
    }
    Ok(findings)
}

/// Puts the version before in the place of each damaged file, or moves that away; says what was done.
///
/// # Errors
/// A file cannot be read or written.
pub(super) fn repair(shard_dir: &Path) -> io::Result<Vec<String>> {
    let mut done = Vec::new();
    for path in paths(shard_dir) {
        let State::Damaged(_) = ReadFile::read(path.clone())?.state else { continue };
        let mut damaged = path.clone().into_os_string();
        damaged.push(".damaged");
        fs::rename(&path, &damaged)?;
        let backup = backup(&path);
        if ReadFile::read(backup.clone())?.state == State::Good {
            fs::copy(&backup, &path)?;
            done.push(format!("put the version before in the place of {}", path.display()));
        } else {
            done.push(format!("moved {} away: what it held is lost", path.display()));
        }
    }
    Ok(done)
}

fn paths(shard_dir: &Path) -> impl Iterator<Item = PathBuf> {
    let dir = shard_dir.join("config");
    NAMES.into_iter().map(move |name| dir.join(name))
}

fn backup(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".bak");
    PathBuf::from(name)
}

/// A file, or its version before, as it was read.
struct ReadFile {
    path: PathBuf,
    contents: Vec<u8>,
    state: State,
}

impl ReadFile {
    fn read(path: PathBuf) -> io::Result<Self> {
        let contents = match fs::read(&path) {
            Ok(contents) => contents,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let state = if contents.is_empty() {
            State::Missing
        } else {
            try_to_use(&path, &contents).map_or_else(State::Damaged, |()| State::Good)
        };
        Ok(Self { path, contents, state })
    }

    /// When a start uses it, but not as it was written: the offsets are right, another byte is not.
    fn changed_elsewhere(&self) -> Option<Finding> {
        if self.state != State::Good {
            return None;
        }
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let is_as_written = match name.trim_end_matches(".bak") {
            "consumerOffset.json" => consumer_offset::is_as_written(&self.contents),
            "delayOffset.json" => delay_offset::is_as_written(&self.contents),
            _ => true,
        };
        (!is_as_written).then(|| {
            self.finding(
                "it is not as it was written, though none of its offsets has changed",
                "nothing",
                "none needed: it is written anew when an offset changes",
            )
        })
    }

    fn finding(&self, what: &str, lost: &str, cure: &str) -> Finding {
        Finding {
            part: Part::Config,
            file: self.path.clone(),
            offset: 0,
            bytes: self.contents.len() as u64,
            what: what.to_owned(),
            lost: lost.to_owned(),
            cure: cure.to_owned(),
        }
    }
}

/// Reads a file, or its version before, as a start does; the reason why that is not possible.
fn try_to_use(path: &Path, contents: &[u8]) -> Result<(), String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match name.trim_end_matches(".bak") {
        "consumerOffset.json" => {
            ConsumerOffsetTable::default().load(contents).map_err(|error| error.to_string())
        }
        "delayOffset.json" => delay_offset::from_file(contents).map(drop).map_err(|error| error.to_string()),
        "topics.json" => topic_table::read_file(contents).map(drop).map_err(|error| error.to_string()),
        _ => fastjson::read::<Value>("configuration", contents).map(drop).map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_is_told_and_replaced_by_the_version_before() {
        let shard = tempfile::tempdir().unwrap();
        let dir = shard.path().join("config");
        fs::create_dir(&dir).unwrap();
        let offsets = dir.join("consumerOffset.json");
        fs::write(&offsets, br#"{"offsetTable":{"t@g":{0:7}}}"#).unwrap();
        assert_eq!(check(shard.path()).unwrap(), []);
        fs::copy(&offsets, backup(&offsets)).unwrap();
        fs::write(&offsets, br#"{"offsetTable":{"t@g":{0:7}"#).unwrap();
        fs::write(dir.join("topics.json"), b"\0\0\0").unwrap();
        let findings = check(shard.path()).unwrap();
        assert_eq!(findings.len(), 2);
        assert!(findings[0].lost.contains("all"), "{findings:?}");
        assert!(findings[1].cure.contains("none needed"), "{findings:?}");
        assert_eq!(repair(shard.path()).unwrap().len(), 2);
        assert_eq!(fs::read(&offsets).unwrap(), fs::read(backup(&offsets)).unwrap());
        assert!(!dir.join("topics.json").exists() && dir.join("topics.json.damaged").exists());
        assert_eq!(check(shard.path()).unwrap(), []);

        // A digit that has changed.
        let mut table = ConsumerOffsetTable::default();
        table.commit("g", "t", 0, 7, 1);
        let changed =
            String::from_utf8(table.to_file()).unwrap().replace("0: 7", "0: 9").replace("0:7", "0:9");
        assert!(changed.contains('9'), "{changed}");
        fs::write(&offsets, changed).unwrap();
        let findings = check(shard.path()).unwrap();
        assert!(findings.len() == 1 && findings[0].what.contains("checksum"), "{findings:?}");
    }
}
