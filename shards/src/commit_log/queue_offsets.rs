//! The next queue offset of every queue of a shard.

use hashbrown::{Equivalent, HashMap};

use crate::position::QueueOffset;

/// Queue → next offset. A queue that is not in it starts at 0. Nothing is ever taken out: a topic that is deleted and
/// made again goes on where it was, so that the log alone tells every queue's offsets without a gap.
#[derive(Debug, Default)]
pub(crate) struct QueueOffsets {
    next: HashMap<QueueKey, QueueOffset>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct QueueKey {
    topic: Box<str>,
    queue_id: u32,
}

/// The same key, borrowed: a look-up allocates nothing. Its hash must be that of `QueueKey`, so it has the same
/// fields in the same order.
#[derive(Hash)]
struct QueueRef<'a> {
    topic: &'a str,
    queue_id: u32,
}

impl Equivalent<QueueKey> for QueueRef<'_> {
    fn equivalent(&self, key: &QueueKey) -> bool {
        self.queue_id == key.queue_id && self.topic == &*key.topic
    }
}

impl QueueOffsets {
    pub(crate) fn new(recovered: Vec<(String, u32, QueueOffset)>) -> Self {
        let next = recovered
            .into_iter()
            .map(|(topic, queue_id, next)| (QueueKey { topic: topic.into(), queue_id }, next))
            .collect();
        Self { next }
    }

    /// Takes the next offset of the queue.
    pub(crate) fn take(&mut self, topic: &str, queue_id: u32) -> QueueOffset {
        if let Some(next) = self.next.get_mut(&QueueRef { topic, queue_id }) {
            let taken = *next;
            *next = taken.plus(1);
            return taken;
        }
        self.next.insert(QueueKey { topic: topic.into(), queue_id }, QueueOffset::new(1));
        QueueOffset::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_queue_counts_for_itself_and_goes_on_where_it_was() {
        let mut offsets = QueueOffsets::new(vec![("a".into(), 1, QueueOffset::new(7))]);
        let mut take = |topic, queue_id| offsets.take(topic, queue_id).get();
        assert_eq!((take("a", 0), take("a", 1), take("b", 1)), (0, 7, 0));
        assert_eq!((take("a", 0), take("a", 1), take("b", 1)), (1, 8, 1));
    }
}
