//! The form of the small files that are ours alone: the store's manifest and the positions snapshots.
//!
//! ```text
//! 0   8 bytes  which file this is, e.g. "RINGMQMF"
//! 8   u32      format version
//! 12  u32      CRC-32 of everything from byte 16 on
//! 16  …        the value, as rkyv archives it
//! ```
//!
//! Integers are big-endian. Nothing of a file is believed before its CRC and then its structure were checked.

use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Error as ArchiveError;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};

const HEAD_BYTES: usize = 16;

/// Which file, and which version of its content, is expected.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seal {
    pub(crate) name: [u8; 8],
    pub(crate) version: u32,
}

/// Why the bytes of such a file are not usable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealedFileError {
    #[error("it has {bytes} bytes, too few for its head")]
    Short { bytes: usize },
    #[error("it is another kind of file")]
    OtherKind,
    #[error("it has format version {found}, this program knows {known}; use the program that wrote it")]
    OtherVersion { found: u32, known: u32 },
    #[error("its checksum is {found:#010x} instead of {expected:#010x}")]
    Checksum { found: u32, expected: u32 },
    #[error("its structure is damaged: {reason}")]
    Structure { reason: String },
}

impl Seal {
    /// The bytes of the file that holds `value`.
    pub(crate) fn encode<T>(&self, value: &T) -> Vec<u8>
    where
        T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, ArchiveError>>,
    {
        let archived = rkyv::to_bytes::<ArchiveError>(value)
            .expect("archiving plain values into memory has no way to fail");
        let mut file = Vec::with_capacity(HEAD_BYTES + archived.len());
        file.extend_from_slice(&self.name);
        file.extend_from_slice(&self.version.to_be_bytes());
        file.extend_from_slice(&crc32fast::hash(&archived).to_be_bytes());
        file.extend_from_slice(&archived);
        file
    }

    /// The value that the file holds.
    ///
    /// # Errors
    /// The bytes are not what [`Self::encode`] makes of a value.
    pub(crate) fn decode<T>(&self, file: &[u8]) -> Result<T, SealedFileError>
    where
        T: Archive,
        T::Archived: for<'a> CheckBytes<HighValidator<'a, ArchiveError>>
            + Deserialize<T, HighDeserializer<ArchiveError>>,
    {
        let Some((head, archived)) = file.split_at_checked(HEAD_BYTES) else {
            return Err(SealedFileError::Short { bytes: file.len() });
        };
        if head[..8] != self.name {
            return Err(SealedFileError::OtherKind);
        }
        let field = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().expect("four bytes"));
        if field(8) != self.version {
            return Err(SealedFileError::OtherVersion { found: field(8), known: self.version });
        }
        let expected = crc32fast::hash(archived);
        if field(12) != expected {
            return Err(SealedFileError::Checksum { found: field(12), expected });
        }
        // The archive is read in place, which needs it aligned in memory.
        let mut aligned = AlignedVec::<16>::with_capacity(archived.len());
        aligned.extend_from_slice(archived);
        rkyv::from_bytes::<T, ArchiveError>(&aligned)
            .map_err(|error| SealedFileError::Structure { reason: error.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEAL: Seal = Seal { name: *b"RINGMQ??", version: 1 };

    #[derive(Debug, PartialEq, Archive, Serialize, Deserialize)]
    struct Value {
        name: String,
        numbers: Vec<u64>,
    }

    #[test]
    fn every_damaged_byte_and_every_length_is_noticed() {
        let value = Value { name: "orders and more".to_owned(), numbers: vec![1, 2, 3] };
        let file = SEAL.encode(&value);
        assert_eq!(SEAL.decode::<Value>(&file).unwrap(), value);
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 0x10;
            assert!(SEAL.decode::<Value>(&damaged).is_err(), "byte {at}");
            assert!(SEAL.decode::<Value>(&file[..at]).is_err(), "length {at}");
        }
    }
}
