//! All queues of a shard, on its serve core, with the recent entries of each in memory.
//!
//! An entry stays in memory as long as its record is in the hot tail or the side thread has not written it: one position in the
//! log bounds what is kept of all queues together.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::consume_queue::{Entry, QueueHandle, QueueName};
use crate::position::{PhysicalOffset, QueueOffset};

/// One queue. `max` is the last of its positions; `min` may be before [`Self::memory_start`] or after it.
#[derive(Debug)]
pub(crate) struct ConsumeQueue {
    pub(crate) name: QueueName,
    pub(crate) min: QueueOffset,
    /// The offset that the next message gets.
    pub(crate) max: QueueOffset,
    /// Where the message at `min` is; says without a read how old it is.
    pub(crate) first_physical: PhysicalOffset,
    /// The topic was deleted. The queue keeps its place: should it come back, its offsets go on.
    pub(crate) is_deleted: bool,
    /// The files lack the entries before this: they are being built anew. 0 when they lack none.
    missing_before: QueueOffset,
    memory: VecDeque<Entry>,
}

impl ConsumeQueue {
    pub(crate) fn new(
        name: QueueName,
        min: QueueOffset,
        max: QueueOffset,
        first_physical: PhysicalOffset,
    ) -> Self {
        assert!(min <= max);
        let (missing_before, memory) = (QueueOffset::ZERO, VecDeque::new());
        Self { name, min, max, first_physical, is_deleted: false, missing_before, memory }
    }

    /// Whether the entry at `offset` is in no file yet, and not in memory either.
    pub(crate) fn is_missing(&self, offset: QueueOffset) -> bool {
        offset < self.missing_before
    }

    /// The first offset whose entry is in memory; all before are in the files.
    pub(crate) fn memory_start(&self) -> QueueOffset {
        QueueOffset::new(self.max.get() - self.memory.len() as u64)
    }

    /// The entry at `offset`, if it is in memory.
    pub(crate) fn entry(&self, offset: QueueOffset) -> Option<&Entry> {
        let index = offset.get().checked_sub(self.memory_start().get())?;
        self.memory.get(usize::try_from(index).ok()?)
    }

    /// The entries from `offset` on, which must not be before [`Self::memory_start`] nor beyond `max`.
    pub(crate) fn entries_from(&self, offset: QueueOffset) -> impl Iterator<Item = Entry> {
        let skip = offset.since(self.memory_start());
        self.memory.range(usize::try_from(skip).expect("an index in memory")..).copied()
    }

    /// Starts the queue at `min`, unless it starts there or later anyway; whether that moved it. What is before is no longer given to
    /// anybody. `first_physical` is where the message at `min` is, or a position before it, if that is known better than before.
    fn start_at(&mut self, min: QueueOffset, first_physical: Option<PhysicalOffset>) -> bool {
        if self.is_deleted || min <= self.min {
            return false;
        }
        assert!(min <= self.max, "{:?} does not start behind its end", self.name);
        self.min = min;
        let in_memory = self.entry(min).map(|entry| entry.physical_offset);
        self.first_physical = in_memory.or(first_physical).unwrap_or(self.first_physical);
        true
    }

    fn push(&mut self, offset: QueueOffset, entry: Entry) {
        if self.is_deleted || self.min == self.max && self.max < offset {
            self.is_deleted = false;
            self.min = offset;
            self.max = offset;
        }
        assert_eq!(offset, self.max, "queue offsets of {:?} are dense", self.name);
        if self.min == self.max {
            self.first_physical = entry.physical_offset;
        }
        self.memory.push_back(entry);
        self.max = self.max.plus(1);
    }
}

/// The queues of a shard.
#[derive(Debug, Default)]
pub(crate) struct QueueTable {
    queues: Vec<ConsumeQueue>,
    by_topic: HashMap<Arc<str>, HashMap<u32, QueueHandle>>,
    /// The queues of the entries in memory, in log order.
    in_memory: VecDeque<QueueHandle>,
}

impl QueueTable {
    /// Adds a queue that is not there yet.
    pub(crate) fn add(&mut self, queue: ConsumeQueue) -> QueueHandle {
        let handle = QueueHandle::at(self.queues.len());
        let ids = self.by_topic.entry(Arc::clone(&queue.name.topic)).or_default();
        let before = ids.insert(queue.name.queue_id, handle);
        assert_eq!(before, None, "{:?} is added once", queue.name);
        self.queues.push(queue);
        handle
    }

    pub(crate) fn handle(&self, topic: &str, queue_id: u32) -> Option<QueueHandle> {
        self.by_topic.get(topic)?.get(&queue_id).copied()
    }

    /// The name that the table holds for a topic, to share it.
    pub(crate) fn topic_name(&self, topic: &str) -> Arc<str> {
        self.by_topic.get_key_value(topic).map_or_else(|| topic.into(), |(name, _)| Arc::clone(name))
    }

    /// A queue that was not deleted.
    pub(crate) fn queue(&self, topic: &str, queue_id: u32) -> Option<&ConsumeQueue> {
        let queue = &self.queues[self.handle(topic, queue_id)?.index()];
        (!queue.is_deleted).then_some(queue)
    }

    /// The queues that were not deleted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &QueueName> {
        self.queues.iter().filter(|queue| !queue.is_deleted).map(|queue| &queue.name)
    }

    /// Adds the entry of the next message of a queue.
    pub(crate) fn push(&mut self, handle: QueueHandle, offset: QueueOffset, entry: Entry) {
        self.queues[handle.index()].push(offset, entry);
        self.in_memory.push_back(handle);
    }

    /// Moves the start of a queue on: see [`ConsumeQueue::start_at`].
    pub(crate) fn start_at(
        &mut self,
        handle: QueueHandle,
        min: QueueOffset,
        first_physical: Option<PhysicalOffset>,
    ) -> bool {
        self.queues[handle.index()].start_at(min, first_physical)
    }

    /// The queues of a topic that was not deleted.
    pub(crate) fn of_topic(&self, topic: &str) -> impl Iterator<Item = &ConsumeQueue> {
        let handles = self.by_topic.get(topic).into_iter().flat_map(HashMap::values);
        handles.map(|handle| &self.queues[handle.index()]).filter(|queue| !queue.is_deleted)
    }

    /// Entries in memory.
    #[cfg(test)]
    fn in_memory_entries(&self) -> usize {
        self.in_memory.len()
    }

    /// The files of these queues are being built anew.
    pub(crate) fn miss(&mut self, queues: &[QueueHandle]) {
        for queue in queues {
            let queue = &mut self.queues[queue.index()];
            queue.missing_before = queue.max;
        }
    }

    /// All files are whole.
    pub(crate) fn miss_none(&mut self) {
        self.queues.iter_mut().for_each(|queue| queue.missing_before = QueueOffset::ZERO);
    }

    /// Forgets the entries of records before `bound`, all of which must be in the files.
    pub(crate) fn trim(&mut self, bound: PhysicalOffset) {
        while let Some(handle) = self.in_memory.front() {
            let memory = &mut self.queues[handle.index()].memory;
            match memory.front() {
                Some(entry) if entry.physical_offset >= bound => return,
                // A deleted queue left more handles than it has entries.
                _ => memory.pop_front(),
            };
            self.in_memory.pop_front();
        }
    }

    /// Deletes the queues of a topic; returns which they were.
    pub(crate) fn delete_topic(&mut self, topic: &str) -> Vec<QueueHandle> {
        let mut deleted = Vec::new();
        for handle in self.by_topic.get(topic).into_iter().flat_map(HashMap::values) {
            let queue = &mut self.queues[handle.index()];
            if !queue.is_deleted {
                queue.memory.clear();
                queue.min = queue.max;
                queue.is_deleted = true;
                deleted.push(*handle);
            }
        }
        deleted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(at: u64) -> Entry {
        Entry { physical_offset: PhysicalOffset::new(at), size_bytes: 100, tags_code: 0 }
    }

    fn table() -> (QueueTable, QueueHandle, QueueHandle) {
        let mut table = QueueTable::default();
        let mut add = |queue_id| {
            let name = QueueName { topic: "T".into(), queue_id };
            table.add(ConsumeQueue::new(name, QueueOffset::ZERO, QueueOffset::ZERO, PhysicalOffset::ZERO))
        };
        let (first, second) = (add(0), add(1));
        (table, first, second)
    }

    #[test]
    fn one_bound_trims_all_queues() {
        let (mut table, first, second) = table();
        for at in 0..10_u64 {
            let handle = if at % 3 == 0 { second } else { first };
            let offset = table.queues[handle.index()].max;
            table.push(handle, offset, entry(at * 100));
        }
        table.trim(PhysicalOffset::new(400));
        let (first, second) = (table.queue("T", 0).unwrap(), table.queue("T", 1).unwrap());
        assert_eq!((first.memory_start().get(), first.max.get()), (2, 6));
        assert_eq!((second.memory_start().get(), second.max.get()), (2, 4));
        assert_eq!(first.entry(QueueOffset::new(2)), Some(&entry(400)));
        assert_eq!(first.entry(QueueOffset::new(1)), None);
        assert_eq!(table.in_memory_entries(), 6);
    }

    #[test]
    fn a_deleted_topic_goes_on_where_it_was_when_it_comes_back() {
        let (mut table, first, _) = table();
        table.push(first, QueueOffset::new(0), entry(0));
        table.push(first, QueueOffset::new(1), entry(100));
        assert_eq!(table.delete_topic("T").len(), 2);
        assert!(table.queue("T", 0).is_none());
        table.push(first, QueueOffset::new(2), entry(200));
        let queue = table.queue("T", 0).unwrap();
        assert_eq!((queue.min.get(), queue.max.get(), queue.first_physical.get()), (2, 3, 200));
        table.trim(PhysicalOffset::new(300));
        assert_eq!(table.in_memory_entries(), 0);
        assert_eq!(table.queue("T", 0).unwrap().memory_start().get(), 3);
    }
}
