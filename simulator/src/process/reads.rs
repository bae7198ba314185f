//! Reads of a simulated process: from memory and from the disk, each judged by the oracle before it leaves.

use std::pin::pin;

use bytes::Bytes;
use shards::limits::{PULL_BYTES_MAX, PULL_MESSAGES_MAX};
use shards::message_store::{Get, GetRequest, GetResult, GetStatus, ReadError, TagFilter};
use shards::position::QueueOffset;
use shards::record::RecordView;

use super::{Host, MachineOff, Process, at_once};
use crate::message;
use crate::network::Pulled;
use crate::oracle::Oracle;
use crate::plan::QueueKey;

/// More turns than building all files of a simulated shard anew takes.
const REBUILD_TURNS_MAX: u64 = 100_000;

impl Process {
    pub(super) fn get(
        &self,
        topic: &str,
        queue_id: u32,
        offset: u64,
        messages_max: u32,
    ) -> Result<GetResult, ReadError> {
        let request = GetRequest {
            topic,
            queue_id,
            offset: QueueOffset::new(offset),
            messages_max,
            bytes_max: PULL_BYTES_MAX,
            filter: &TagFilter::All,
        };
        match self.store.get(&request) {
            Get::Ready(result) => Ok(result),
            Get::Cold(cold) => at_once(pin!(cold.run())).expect("the model's disk answers at once"),
        }
    }

    pub(super) fn pull(
        &self,
        queue: QueueKey,
        offset: u64,
        host: &mut Host<'_>,
    ) -> Result<Pulled, MachineOff> {
        let result = self.get(queue.topic, queue.queue_id, offset, PULL_MESSAGES_MAX);
        if self.disk.is_off() {
            return Err(MachineOff);
        }
        Ok(judge_pull(queue, offset, &result, host.oracle))
    }

    /// Whether ConsumeQueue and index files are being built anew.
    pub fn is_rebuilding(&self) -> bool {
        self.store.load().rebuild_left_bytes > 0
    }

    /// Does what is left of that, which must come to an end.
    pub fn build_all_anew(&mut self) {
        for turn in 0.. {
            if !self.is_rebuilding() {
                return;
            }
            assert!(turn < REBUILD_TURNS_MAX, "the files are not whole after {turn} turns");
            self.side.turn(false);
            self.store.take_rebuilt();
        }
    }

    /// Everything of a queue from its start on, judged by the oracle; the first error ends it.
    ///
    /// # Errors
    /// What cannot be read, and from which offset on.
    pub fn read_queue(&self, queue: QueueKey, oracle: &mut Oracle) -> Result<(), (u64, ReadError)> {
        let mut offset = 0;
        loop {
            let result = self.get(queue.topic, queue.queue_id, offset, PULL_MESSAGES_MAX);
            if let Err(error) = result {
                return Err((offset, error));
            }
            match judge_pull(queue, offset, &result, oracle) {
                Pulled::UpTo(next) if next > offset => offset = next,
                Pulled::UpTo(_) | Pulled::Nothing | Pulled::Failed => return Ok(()),
            }
        }
    }

    /// The numbers of the messages that are found under a key.
    ///
    /// # Errors
    /// A record cannot be read.
    pub fn find(&mut self, topic: &str, id: u64) -> Result<Vec<u64>, ReadError> {
        let mut query = Box::pin(self.store.query_by_key(topic, &message::key(id), 64, i64::MIN, i64::MAX));
        let records = match at_once(query.as_mut()) {
            Some(records) => records,
            None => {
                self.side.turn(false);
                at_once(query.as_mut()).expect("the side thread has answered")
            }
        }?;
        let id_of = |record: &Bytes| message::body_id(RecordView::parse(record).ok()?.body());
        Ok(records.iter().filter_map(id_of).collect())
    }
}

/// The records in an answer, in its order.
pub(super) fn records_of(result: &GetResult) -> Vec<RecordView<'_>> {
    let mut views = Vec::new();
    for piece in &result.records {
        let mut rest = &piece[..];
        while let Ok(view) = RecordView::parse(rest) {
            rest = &rest[view.total_size()..];
            views.push(view);
        }
    }
    views
}

/// What an answer to a pull says, after the oracle has judged it.
fn judge_pull(
    queue: QueueKey,
    offset: u64,
    result: &Result<GetResult, ReadError>,
    oracle: &mut Oracle,
) -> Pulled {
    let Ok(result) = result else { return Pulled::Failed };
    let of = (queue.topic, queue.queue_id);
    let next = result.next_begin_offset.get();
    match result.status {
        GetStatus::Found | GetStatus::MessageWasRemoving => {
            let records = records_of(result);
            let mut expected = offset;
            for record in &records {
                let at = record.queue_offset().get();
                oracle.skipped(of, expected..at);
                oracle.read(of, at, record);
                expected = at + 1;
            }
            oracle.skipped(of, expected..next);
            if records.len() as u64 != u64::from(result.messages) || expected > next || next <= offset {
                oracle.violate(format!(
                    "{} messages of {queue} are read at {offset}, said to be {} up to {next}",
                    records.len(),
                    result.messages
                ));
            }
            Pulled::UpTo(next)
        }
        GetStatus::OffsetTooSmall => {
            oracle.skipped(of, offset..next);
            if next <= offset {
                oracle.violate(format!("{queue} begins behind {offset}, yet goes on at {next}"));
            }
            Pulled::UpTo(next)
        }
        GetStatus::OffsetOverflowBadly => {
            oracle.ends_before(of, offset);
            Pulled::UpTo(next)
        }
        _ => {
            oracle.nothing_at(of, offset);
            Pulled::Nothing
        }
    }
}
