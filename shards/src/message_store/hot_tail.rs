//! The blocks of the log's end that are still in memory, in log order, up to a budget.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::io::block::TailBlock;
use crate::position::PhysicalOffset;

#[derive(Debug)]
pub(crate) struct HotTail {
    blocks: VecDeque<TailBlock>,
    bytes: usize,
    bytes_max: usize,
}

impl HotTail {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { blocks: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Adds the next block of the log.
    pub(crate) fn push(&mut self, block: TailBlock) {
        if let Some(last) = self.blocks.back() {
            assert!(block.start() >= last.end(), "blocks come in log order");
        }
        self.bytes += block.capacity_bytes();
        self.blocks.push_back(block);
    }

    /// Memory of the blocks, bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.bytes
    }

    /// Where the tail starts; `None` when it is empty.
    pub(crate) fn start(&self) -> Option<PhysicalOffset> {
        self.blocks.front().map(TailBlock::start)
    }

    /// The block that holds the byte at `at`.
    pub(crate) fn block_at(&self, at: PhysicalOffset) -> Option<&TailBlock> {
        let after = self.blocks.partition_point(|block| block.start() <= at);
        self.blocks.get(after.checked_sub(1)?).filter(|block| at < block.end())
    }

    /// Where the first block behind `at` starts: the place to go on when `at` is in no block.
    pub(crate) fn next_start(&self, at: PhysicalOffset) -> Option<PhysicalOffset> {
        let after = self.blocks.partition_point(|block| block.start() <= at);
        self.blocks.get(after).map(TailBlock::start)
    }

    /// The bytes `[at, at + len)` if they are in memory; they keep their block alive.
    pub(crate) fn bytes(&self, at: PhysicalOffset, len: usize) -> Option<Bytes> {
        Some(self.block_of(at, len)?.shared_bytes(at, len))
    }

    /// The same bytes where they lie, for as long as the tail is not changed.
    pub(crate) fn bytes_in_place(&self, at: PhysicalOffset, len: usize) -> Option<&[u8]> {
        Some(self.block_of(at, len)?.bytes(at, len))
    }

    fn block_of(&self, at: PhysicalOffset, len: usize) -> Option<&TailBlock> {
        self.block_at(at).filter(|block| at.plus(len as u64) <= block.end())
    }

    /// Drops the oldest blocks while the budget is exceeded, but none that reaches beyond `keep_from`.
    pub(crate) fn trim(&mut self, keep_from: PhysicalOffset) {
        while self.bytes > self.bytes_max
            && let Some(oldest) = self.blocks.front()
            && oldest.end() <= keep_from
            && self.blocks.len() > 1
        {
            self.bytes -= oldest.capacity_bytes();
            self.blocks.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::block::BlockPool;

    #[test]
    fn blocks_are_found_by_position_and_leave_when_the_budget_is_exceeded() {
        let pool = BlockPool::new(4096, 0);
        let mut tail = HotTail::new(3 * 4096);
        for start in [0, 100, 300, 400] {
            let mut writer = pool.writer(PhysicalOffset::new(start), 1);
            writer.append(&[u8::try_from(start % 251).unwrap(); 100], |_| {});
            tail.push(writer.block());
        }
        let at = PhysicalOffset::new;
        assert_eq!(tail.block_at(at(199)).unwrap().start(), at(100));
        assert!(tail.block_at(at(200)).is_none(), "a gap");
        assert_eq!(tail.next_start(at(200)), Some(at(300)));
        assert!(tail.block_at(at(500)).is_none());
        assert_eq!(tail.bytes(at(110), 90).unwrap(), [100; 90][..]);
        assert!(tail.bytes(at(110), 91).is_none(), "not beyond what is published");
        tail.trim(at(99));
        assert_eq!(tail.start(), Some(at(0)), "still needed");
        tail.trim(at(500));
        assert_eq!(tail.start(), Some(at(100)));
    }
}
