//! `delayOffset.json`: before which offset of its queue each delay level has delivered everything. RocketMQ's form.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shards::position::QueueOffset;

use crate::remoting::body::topic::DataVersion;
use crate::remoting::fastjson;
use crate::remoting::request::HeaderError;

use super::consumer_offset::{OffsetsFileError, check_of, is_ours};

#[derive(Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct DelayOffsetsFile {
    data_version: DataVersion,
    offset_table: BTreeMap<u32, i64>,
    /// As in `consumerOffset.json`; none in a file that RocketMQ wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset_check: Option<u32>,
    /// None in a file from before there was one, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    version_check: Option<u32>,
}

/// Reads the file: offsets by the number of their level.
///
/// # Errors
/// A file that is not in RocketMQ's form, or whose offsets have changed since it was written.
pub fn from_file(file: &[u8]) -> Result<BTreeMap<u32, QueueOffset>, OffsetsFileError> {
    let file: DelayOffsetsFile = fastjson::read("delayOffset.json", file)?;
    let found = check_of(&file.offset_table);
    if let Some(stored) = file.offset_check.filter(|stored| *stored != found) {
        return Err(OffsetsFileError::Changed { stored, found });
    }
    let offset = |offset| QueueOffset::from_i64(offset).unwrap_or_default();
    Ok(file.offset_table.into_iter().map(|(level, at)| (level, offset(at))).collect())
}

/// Whether a file that we wrote is what we wrote, to the byte. Of one that RocketMQ wrote nobody can tell.
pub fn is_as_written(file: &[u8]) -> bool {
    let encoded_again = || {
        let mut read: DelayOffsetsFile = fastjson::read("delayOffset.json", file)?;
        read.offset_check = Some(check_of(&read.offset_table));
        read.version_check = read.version_check.map(|_| check_of(&read.data_version));
        Ok::<_, HeaderError>(fastjson::write_pretty(&read))
    };
    !is_ours(file) || encoded_again().is_ok_and(|again| again == file)
}

/// Writes the file.
pub fn to_file(offsets: &[(u32, QueueOffset)], now_ms: i64) -> Vec<u8> {
    let offset_table = offsets.iter().map(|(level, offset)| (*level, offset.to_i64())).collect();
    let data_version = DataVersion { counter: 1, state_version: 0, timestamp: now_ms };
    fastjson::write_pretty(&DelayOffsetsFile {
        data_version,
        version_check: Some(check_of(&data_version)),
        offset_check: Some(check_of(&offset_table)),
        offset_table,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_brings_the_offsets_back() {
        let offsets = [(3, QueueOffset::new(41)), (4, QueueOffset::new(7))];
        let file = to_file(&offsets, 1);
        assert!(String::from_utf8_lossy(&file).contains("3: 41"), "integer keys stand without quotes");
        assert_eq!(from_file(&file).expect("our own file"), offsets.into());
        assert!(from_file(&to_file(&[], 1)).expect("our own file").is_empty());
    }

    #[test]
    fn every_bit_that_flips_in_the_file_is_seen() {
        let file = to_file(&[(3, QueueOffset::new(41))], 1);
        assert!(is_as_written(&file));
        for bit in 0..file.len() * 8 {
            let mut flipped = file.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_as_written(&flipped), "bit {bit}: {}", String::from_utf8_lossy(&flipped));
        }
    }

    #[test]
    fn a_file_from_before_there_was_a_checksum_of_the_version_is_as_it_was_written() {
        let file = String::from_utf8(to_file(&[(3, QueueOffset::new(41))], 1)).expect("JSON is text");
        let version_check = file.find(",\n\t\"versionCheck\"").expect("the last field");
        let file = format!("{}\n}}", &file[..version_check]);
        assert!(from_file(file.as_bytes()).is_ok() && is_as_written(file.as_bytes()), "{file}");
        assert!(!is_as_written(file.replace("3: 41", "3: 40").as_bytes()));
    }

    #[test]
    fn a_stock_file_is_read() {
        let stock = b"{\n\t\"dataVersion\":{\"counter\":1,\"stateVersion\":0,\"timestamp\":5},\n\t\"offsetTable\":{3:41,4:7\n\t}\n}";
        assert_eq!(from_file(stock).expect("RocketMQ wrote it")[&3], QueueOffset::new(41));
        assert!(from_file(b"{\"offsetTable\":[]}").is_err());
    }
}
