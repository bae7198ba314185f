//! How far every group has come in every queue: the next offset to consume. Kept in `consumerOffset.json`, in RocketMQ's form.
//!
//! The file has two fields more than RocketMQ's, which RocketMQ passes over: checksums of the offsets and of the version. An offset that
//! has changed would make a group skip messages; so such a file is refused, and the one before it is used. The other is for checks.
//!
//! Clients commit what they like, also going back. The file is written every 5 s when something has changed, and at the end:
//! after a kill a group may get the messages of the last 5 s again, as RocketMQ promises it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::remoting::body::topic::DataVersion;
use crate::remoting::fastjson;
use crate::remoting::request::HeaderError;

/// How many commits move the table's version on, as tools that copy the table look at it.
const COMMITS_PER_VERSION: u64 = 500;

/// Offsets by group and topic, then by queue.
#[derive(Debug, Default)]
pub struct ConsumerOffsetTable {
    /// Key: `topic@group`.
    offsets: BTreeMap<String, BTreeMap<i32, i64>>,
    data_version: DataVersion,
    generation: u64,
    /// Where a commit puts its key together.
    key: String,
}

/// `consumerOffset.json`.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct OffsetsFile {
    data_version: DataVersion,
    offset_table: BTreeMap<String, BTreeMap<i32, i64>>,
    /// None in a file that RocketMQ wrote.
    offset_check: Option<u32>,
    /// None in a file from before there was one, too.
    version_check: Option<u32>,
}

/// The same, borrowed for writing.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OffsetsFileRef<'t> {
    data_version: DataVersion,
    offset_table: &'t BTreeMap<String, BTreeMap<i32, i64>>,
    offset_check: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    version_check: Option<u32>,
}

/// Why a file of offsets is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OffsetsFileError {
    #[error(transparent)]
    Form(#[from] HeaderError),
    #[error(
        "the offsets have the checksum {found}, the file says {stored}: it is damaged, or was changed by hand; remove its line \
         `offsetCheck` to use it all the same"
    )]
    Changed { stored: u32, found: u32 },
}

/// The checksum of offsets or a version, whatever form the file has.
pub(super) fn check_of(part: &impl Serialize) -> u32 {
    crc32fast::hash(&serde_json::to_vec(part).expect("numbers and names can be written"))
}

/// Whether a file of offsets has our checksum, or had it before one of its bytes changed.
pub(super) fn is_ours(file: &[u8]) -> bool {
    const FIELD: &[u8] = b"\"offsetCheck\"";
    let differences =
        |found: &[u8]| found.iter().zip(FIELD).filter(|(found, wanted)| found != wanted).count();
    file.windows(FIELD.len()).any(|found| differences(found) <= 1)
}

/// Whether a `consumerOffset.json` that we wrote is what we wrote, to the byte. Of one that RocketMQ wrote nobody can tell.
pub fn is_as_written(file: &[u8]) -> bool {
    // The checksums are computed anew: one is wrong when what it is of has changed.
    let encoded_again = || {
        let read: OffsetsFile = fastjson::read("consumerOffset.json", file)?;
        Ok::<_, HeaderError>(encode(&read.offset_table, read.data_version, read.version_check.is_some()))
    };
    !is_ours(file) || encoded_again().is_ok_and(|again| again == file)
}

fn encode(
    offset_table: &BTreeMap<String, BTreeMap<i32, i64>>,
    data_version: DataVersion,
    has_version_check: bool,
) -> Vec<u8> {
    fastjson::write_pretty(&OffsetsFileRef {
        data_version,
        offset_table,
        offset_check: check_of(offset_table),
        version_check: has_version_check.then(|| check_of(&data_version)),
    })
}

impl ConsumerOffsetTable {
    /// Takes over a `consumerOffset.json`.
    ///
    /// # Errors
    /// A file that is not in RocketMQ's form, or whose offsets have changed since it was written.
    pub fn load(&mut self, file: &[u8]) -> Result<(), OffsetsFileError> {
        let file: OffsetsFile = fastjson::read("consumerOffset.json", file)?;
        let found = check_of(&file.offset_table);
        if let Some(stored) = file.offset_check.filter(|stored| *stored != found) {
            return Err(OffsetsFileError::Changed { stored, found });
        }
        self.offsets = file.offset_table;
        self.data_version = file.data_version;
        Ok(())
    }

    /// The table as `consumerOffset.json`: integer keys stand without quotes.
    pub fn to_file(&self) -> Vec<u8> {
        encode(&self.offsets, self.data_version, true)
    }

    /// Counts the changes of this table since the start.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Takes note that `group` will consume `offset` next.
    pub fn commit(&mut self, group: &str, topic: &str, queue_id: i32, offset: i64, now_ms: i64) {
        self.key.clear();
        push_key(&mut self.key, topic, group);
        let queues = match self.offsets.get_mut(&self.key) {
            Some(queues) => queues,
            None => self.offsets.entry(self.key.clone()).or_default(),
        };
        if queues.insert(queue_id, offset) == Some(offset) {
            return;
        }
        self.changed(now_ms);
    }

    /// The next offset that `group` will consume; `None` when it never said.
    pub fn get(&self, group: &str, topic: &str, queue_id: i32) -> Option<i64> {
        self.offsets.get(&key(topic, group))?.get(&queue_id).copied()
    }

    /// All that `group` said of a topic, by queue.
    pub fn queues(&self, group: &str, topic: &str) -> Option<&BTreeMap<i32, i64>> {
        self.offsets.get(&key(topic, group))
    }

    /// Topics of which a group has offsets.
    pub fn topics_of<'a>(&'a self, group: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs().filter_map(move |(topic, of)| (of == group).then_some(topic))
    }

    /// Groups that have offsets of a topic.
    pub fn groups_of<'a>(&'a self, topic: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs().filter_map(move |(of, group)| (of == topic).then_some(group))
    }

    /// Every topic with a group that has offsets of it.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.offsets.keys().filter_map(|key| key.split_once('@'))
    }

    pub fn remove_topic(&mut self, topic: &str, now_ms: i64) {
        self.remove(|of, _| of == topic, now_ms);
    }

    pub fn remove_group(&mut self, group: &str, now_ms: i64) {
        self.remove(|_, of| of == group, now_ms);
    }

    fn remove(&mut self, gone: impl Fn(&str, &str) -> bool, now_ms: i64) {
        let before = self.offsets.len();
        self.offsets.retain(|key, _| !key.split_once('@').is_some_and(|(topic, group)| gone(topic, group)));
        if self.offsets.len() < before {
            self.changed(now_ms);
        }
    }

    fn changed(&mut self, now_ms: i64) {
        self.generation += 1;
        if self.generation.is_multiple_of(COMMITS_PER_VERSION) {
            self.data_version.advance(now_ms);
        }
    }
}

fn key(topic: &str, group: &str) -> String {
    let mut key = String::with_capacity(topic.len() + 1 + group.len());
    push_key(&mut key, topic, group);
    key
}

fn push_key(key: &mut String, topic: &str, group: &str) {
    key.push_str(topic);
    key.push('@');
    key.push_str(group);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_kept_by_group_topic_and_queue_and_may_go_back() {
        let mut table = ConsumerOffsetTable::default();
        assert_eq!(table.get("g", "T", 0), None);
        table.commit("g", "T", 0, 10, 1);
        table.commit("g", "T", 1, 20, 1);
        table.commit("h", "T", 0, 30, 1);
        table.commit("g", "T", 0, 5, 1);
        assert_eq!(table.get("g", "T", 0), Some(5));
        assert_eq!(table.get("h", "T", 0), Some(30));
        assert_eq!(table.get("g", "U", 0), None);
        assert_eq!(table.generation(), 4);
        table.commit("g", "T", 0, 5, 1);
        assert_eq!(table.generation(), 4, "nothing to write");
    }

    #[test]
    fn the_file_has_integer_keys_without_quotes_and_brings_everything_back() {
        let mut before = ConsumerOffsetTable::default();
        before.commit("g1", "Orders", 1, 9, 1);
        before.commit("g1", "Orders", 0, 12, 1);
        before.commit("g1", "%RETRY%g1", 0, 2, 1);
        let file = before.to_file();
        let text = String::from_utf8(file.clone()).expect("JSON is text");
        let text: String = text.split_whitespace().collect();
        assert!(text.contains("\"%RETRY%g1@g1\":{0:2},\"Orders@g1\":{0:12,1:9}"), "{text}");
        let mut after = ConsumerOffsetTable::default();
        after.load(&file).expect("our own file");
        assert_eq!(after.offsets, before.offsets);
    }

    #[test]
    fn a_stock_file_is_read() {
        let stock =
            b"{\n\t\"dataVersion\":{\"counter\":1,\"stateVersion\":0,\"timestamp\":5},\n\t\"offsetTable\":{\
            \"Orders@g1\":{0:12,1:9\n\t\t},\"%RETRY%g1@g1\":{0:2},\"Q@h\":{\"3\":4}}}";
        let mut table = ConsumerOffsetTable::default();
        table.load(stock).expect("RocketMQ wrote it");
        assert_eq!(table.get("g1", "Orders", 1), Some(9));
        assert_eq!(table.get("g1", "%RETRY%g1", 0), Some(2));
        assert_eq!(table.get("h", "Q", 3), Some(4), "quoted keys are as good");
        assert!(table.load(b"{\"offsetTable\":{").is_err());
    }

    /// One bit of a digit made a group skip messages.
    #[test]
    fn an_offset_that_changed_on_the_disk_is_refused() {
        let mut table = ConsumerOffsetTable::default();
        table.commit("g1", "Orders", 1, 9, 1);
        let file = String::from_utf8(table.to_file()).expect("JSON is text");
        let changed = file.replace("1: 9", "1: 8").replace("1:9", "1:8");
        assert_ne!(changed, file);
        let error = table.load(changed.as_bytes()).unwrap_err();
        assert!(matches!(error, OffsetsFileError::Changed { .. }), "{error}");
        assert_eq!(table.get("g1", "Orders", 1), Some(9), "the table is as it was");
    }

    #[test]
    fn every_bit_that_flips_in_the_file_is_seen() {
        let mut table = ConsumerOffsetTable::default();
        table.commit("g1", "Orders", 1, 9, 1);
        let file = table.to_file();
        assert!(is_as_written(&file));
        for bit in 0..file.len() * 8 {
            let mut flipped = file.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_as_written(&flipped), "bit {bit}: {}", String::from_utf8_lossy(&flipped));
        }
        assert!(is_as_written(b"{\"offsetTable\":{\"T@g\":{0:1}}}"), "RocketMQ wrote it");
    }

    #[test]
    fn a_file_from_before_there_was_a_checksum_of_the_version_is_as_it_was_written() {
        let mut table = ConsumerOffsetTable::default();
        table.commit("g1", "Orders", 1, 9, 1);
        let file = encode(&table.offsets, table.data_version, false);
        assert!(!String::from_utf8_lossy(&file).contains("versionCheck"));
        assert!(is_as_written(&file));
        let changed = String::from_utf8_lossy(&file).replace("1: 9", "1: 8");
        assert!(!is_as_written(changed.as_bytes()));
    }

    #[test]
    fn an_empty_table_is_a_file_too() {
        let mut table = ConsumerOffsetTable::default();
        table.load(&ConsumerOffsetTable::default().to_file()).expect("our own file");
        assert_eq!(table.pairs().count(), 0);
    }

    #[test]
    fn topics_and_groups_can_be_forgotten() {
        let mut table = ConsumerOffsetTable::default();
        table.commit("g", "T", 0, 1, 1);
        table.commit("h", "T", 0, 1, 1);
        table.commit("g", "U", 0, 1, 1);
        assert_eq!(table.topics_of("g").collect::<Vec<_>>(), ["T", "U"]);
        assert_eq!(table.groups_of("T").collect::<Vec<_>>(), ["g", "h"]);
        table.remove_topic("T", 2);
        assert_eq!((table.get("g", "T", 0), table.get("g", "U", 0)), (None, Some(1)));
        table.remove_group("g", 2);
        assert_eq!(table.pairs().count(), 0);
    }
}
