//! Files of acknowledgements: which message was acknowledged at which queue offset. `produce --record-acks` writes them, `verify`
//! compares a topic with them.
//!
//! ```text
//! one line of JSON (AcksHead), then for each acknowledged message 22 bytes, big-endian:
//! broker: u16 (index into the head's list) | queue id: u32 | queue offset: u64 | sequence: u64
//! ```
//! The sequence gives the key and the body (see [`crate::payload`]). A file that ends within a record ended with its writer;
//! the rest of it counts.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::error::BenchError;

/// Bytes of one acknowledgement.
const ACK_BYTES: usize = 22;

/// What all acknowledgements of a file have in common.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct AcksHead {
    pub topic: String,
    pub run: u64,
    /// Bytes of each body.
    pub size: usize,
    /// Broker names, as the acknowledgements number them.
    pub brokers: Vec<String>,
}

/// One acknowledged message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ack {
    pub broker: u16,
    pub queue_id: u32,
    pub queue_offset: u64,
    pub sequence: u64,
}

/// Writes a file of acknowledgements; shared by the generator's threads.
#[derive(Debug)]
pub struct AckWriter {
    path: PathBuf,
    out: Mutex<BufWriter<File>>,
}

impl AckWriter {
    /// Creates the file and writes its head.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn create(path: &Path, head: &AcksHead) -> Result<Self, BenchError> {
        let failed = |source| BenchError::File { doing: "create", path: path.to_owned(), source };
        let mut out = BufWriter::with_capacity(1 << 20, File::create(path).map_err(failed)?);
        let line = serde_json::to_string(head).expect("strings and numbers");
        writeln!(out, "{line}").map_err(failed)?;
        Ok(Self { path: path.to_owned(), out: Mutex::new(out) })
    }

    /// Appends acknowledgements.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn append(&self, acks: &[Ack]) -> Result<(), BenchError> {
        let mut bytes = Vec::with_capacity(acks.len() * ACK_BYTES);
        for ack in acks {
            bytes.extend_from_slice(&ack.broker.to_be_bytes());
            bytes.extend_from_slice(&ack.queue_id.to_be_bytes());
            bytes.extend_from_slice(&ack.queue_offset.to_be_bytes());
            bytes.extend_from_slice(&ack.sequence.to_be_bytes());
        }
        self.write(|out| out.write_all(&bytes))
    }

    /// Hands everything to the operating system.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn flush(&self) -> Result<(), BenchError> {
        self.write(Write::flush)
    }

    fn write(&self, act: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>) -> Result<(), BenchError> {
        let mut out = self.out.lock().expect("a thread that panics ends the run");
        act(&mut out).map_err(|source| BenchError::File { doing: "write", path: self.path.clone(), source })
    }
}

/// Reads a whole file of acknowledgements.
///
/// # Errors
/// The file cannot be read or is no such file.
pub fn read_acks(path: &Path) -> Result<(AcksHead, Vec<Ack>), BenchError> {
    let bytes =
        fs::read(path).map_err(|source| BenchError::File { doing: "read", path: path.to_owned(), source })?;
    let wrong = |problem: String| BenchError::Acks { path: path.to_owned(), problem };
    let line_end =
        bytes.iter().position(|byte| *byte == b'\n').ok_or_else(|| wrong("it has no first line".into()))?;
    let head: AcksHead = serde_json::from_slice(&bytes[..line_end])
        .map_err(|error| wrong(format!("its first line: {error}")))?;
    let mut acks = Vec::with_capacity((bytes.len() - line_end) / ACK_BYTES);
    for record in bytes[line_end + 1..].chunks_exact(ACK_BYTES) {
        let ack = parse_ack(record).ok_or_else(|| wrong("a record is cut".into()))?;
        if usize::from(ack.broker) >= head.brokers.len() {
            return Err(wrong(format!("it names broker {} of {}", ack.broker, head.brokers.len())));
        }
        acks.push(ack);
    }
    Ok((head, acks))
}

fn parse_ack(record: &[u8]) -> Option<Ack> {
    Some(Ack {
        broker: u16::from_be_bytes(record.get(..2)?.try_into().ok()?),
        queue_id: u32::from_be_bytes(record.get(2..6)?.try_into().ok()?),
        queue_offset: u64::from_be_bytes(record.get(6..14)?.try_into().ok()?),
        sequence: u64::from_be_bytes(record.get(14..22)?.try_into().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> AcksHead {
        AcksHead { topic: "t".into(), run: 9, size: 100, brokers: vec!["a".into(), "b".into()] }
    }

    #[test]
    fn reads_back_what_was_written_even_when_the_end_is_torn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("acks");
        let acks = [
            Ack { broker: 0, queue_id: 1, queue_offset: 2, sequence: 3 },
            Ack { broker: 1, queue_id: u32::MAX, queue_offset: u64::MAX, sequence: 0 },
        ];
        let writer = AckWriter::create(&path, &head()).unwrap();
        writer.append(&acks).unwrap();
        writer.flush().unwrap();
        assert_eq!(read_acks(&path).unwrap(), (head(), acks.to_vec()));

        let mut bytes = fs::read(&path).unwrap();
        bytes.truncate(bytes.len() - 5);
        fs::write(&path, bytes).unwrap();
        assert_eq!(read_acks(&path).unwrap().1, acks[..1]);
    }

    #[test]
    fn another_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("acks");
        for text in ["", "no line end", "{}\n"] {
            fs::write(&path, text).unwrap();
            assert!(read_acks(&path).is_err(), "{text:?}");
        }
    }
}
