//! Blocks of the hot tail: append-only memory, written on the log core, read on every core without a copy.
//!
//! Invariant: the bytes of a block below its published length never change as long as anyone holds the block. Only its one
//! [`BlockWriter`] writes, and only above that length; it publishes with release ordering what readers load with acquire.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::position::PhysicalOffset;

const ALIGNMENT: usize = 4096;

/// Memory of blocks of the common size that nobody holds any more, kept for the next block. Shared by the cores of a node:
/// the last reader of a block may be on another core than its writer.
#[derive(Clone, Debug)]
pub struct BlockPool {
    free: Arc<Mutex<Vec<Memory>>>,
    block_bytes: usize,
    kept_blocks_max: usize,
}

impl BlockPool {
    /// A pool of blocks of `block_bytes` each, a multiple of 4096, that keeps at most `kept_blocks_max` unused ones; what is
    /// more goes back to the system.
    pub fn new(block_bytes: usize, kept_blocks_max: usize) -> Self {
        assert!(block_bytes > 0);
        assert!(block_bytes.is_multiple_of(ALIGNMENT));
        Self { free: Arc::default(), block_bytes, kept_blocks_max }
    }

    /// Takes the memory of every block that the pool keeps from the system now, every page of it. Otherwise each block costs the
    /// kernel's clearing of its pages, milliseconds on a virtual machine, at the moment in which records wait for it. Call it on the
    /// thread that will write the blocks, so that the memory is near its CPU.
    pub fn fill(&self) {
        let mut free = self.free.lock().expect("no holder of the block pool panics");
        while free.len() < self.kept_blocks_max {
            free.push(Memory::touched(self.block_bytes));
        }
    }

    /// A writer for a new block that starts at `start` in the log and holds at least `bytes_min`.
    pub fn writer(&self, start: PhysicalOffset, bytes_min: usize) -> BlockWriter {
        let memory = if bytes_min <= self.block_bytes {
            let reused = self.free.lock().expect("no holder of the block pool panics").pop();
            reused.unwrap_or_else(|| Memory::new(self.block_bytes))
        } else {
            Memory::new(bytes_min.next_multiple_of(ALIGNMENT))
        };
        let block =
            Arc::new(Block { memory: Some(memory), published: AtomicUsize::new(0), pool: self.clone() });
        BlockWriter { tail: TailBlock { start, block }, written: 0 }
    }
}

/// A block as everyone but its writer sees it, with its place in the log.
#[derive(Clone)]
pub struct TailBlock {
    start: PhysicalOffset,
    block: Arc<Block>,
}

impl TailBlock {
    /// The log position of the block's first byte.
    pub fn start(&self) -> PhysicalOffset {
        self.start
    }

    /// The log position after the last published byte.
    pub fn end(&self) -> PhysicalOffset {
        self.start.plus(self.block.published.load(Ordering::Acquire) as u64)
    }

    /// Bytes of memory that holding this block costs.
    pub fn capacity_bytes(&self) -> usize {
        self.block.memory().layout.size()
    }

    /// The published bytes `[from, from + len)` of the log.
    ///
    /// # Panics
    /// If they are not all in this block and published: the caller looked up the wrong block.
    pub fn bytes(&self, from: PhysicalOffset, len: usize) -> &[u8] {
        let skip = usize::try_from(from.since(self.start)).expect("a block fits in memory");
        &self.block.published_bytes()[skip..skip + len]
    }

    /// The same bytes, counted as a reference to the block instead of copied. Holding them keeps the whole block alive.
    pub fn shared_bytes(&self, from: PhysicalOffset, len: usize) -> Bytes {
        let skip = usize::try_from(from.since(self.start)).expect("a block fits in memory");
        assert!(skip + len <= self.block.published_bytes().len(), "bytes beyond the published length");
        Bytes::from_owner(BlockSlice { block: Arc::clone(&self.block), skip, len })
    }
}

impl fmt::Debug for TailBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TailBlock({}..{})", self.start, self.end())
    }
}

/// The one writer of a block.
#[derive(Debug)]
pub struct BlockWriter {
    tail: TailBlock,
    written: usize,
}

impl BlockWriter {
    /// The block for readers.
    pub fn block(&self) -> TailBlock {
        self.tail.clone()
    }

    /// Bytes that still fit.
    pub fn room_bytes(&self) -> usize {
        self.tail.capacity_bytes() - self.written
    }

    /// Copies `bytes` behind what was written, lets `finish` change the copy, then publishes it. Returns where it starts.
    ///
    /// # Panics
    /// If they do not fit: ask [`Self::room_bytes`] first.
    pub fn append(&mut self, bytes: &[u8], finish: impl FnOnce(&mut [u8])) -> PhysicalOffset {
        assert!(bytes.len() <= self.room_bytes(), "{} bytes into {} of room", bytes.len(), self.room_bytes());
        let start = self.tail.start.plus(self.written as u64);
        let memory = self.tail.block.memory();
        // SAFETY: the range is inside the allocation (asserted above) and above the published length, where only this
        // writer, of which there is one per block, ever looks.
        let room = unsafe {
            let target = memory.address.as_ptr().add(self.written);
            target.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            std::slice::from_raw_parts_mut(target, bytes.len())
        };
        finish(room);
        self.written += bytes.len();
        self.tail.block.published.store(self.written, Ordering::Release);
        start
    }
}

struct Block {
    /// `None` only while the block is dropped.
    memory: Option<Memory>,
    published: AtomicUsize,
    pool: BlockPool,
}

impl Block {
    fn memory(&self) -> &Memory {
        self.memory.as_ref().expect("a live block has its memory")
    }

    fn published_bytes(&self) -> &[u8] {
        let len = self.published.load(Ordering::Acquire);
        // SAFETY: bytes below the published length are initialised and never written again while the block lives.
        unsafe { std::slice::from_raw_parts(self.memory().address.as_ptr(), len) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let memory = self.memory.take().expect("a block is dropped once");
        if memory.layout.size() == self.pool.block_bytes {
            let mut free = self.pool.free.lock().expect("no holder of the block pool panics");
            if free.len() < self.pool.kept_blocks_max {
                free.push(memory);
            }
        }
    }
}

struct BlockSlice {
    block: Arc<Block>,
    skip: usize,
    len: usize,
}

impl AsRef<[u8]> for BlockSlice {
    fn as_ref(&self) -> &[u8] {
        &self.block.published_bytes()[self.skip..self.skip + self.len]
    }
}

/// An aligned allocation.
#[derive(Debug)]
struct Memory {
    address: NonNull<u8>,
    layout: Layout,
}

// SAFETY: `Memory` owns its allocation, which has no tie to a thread.
unsafe impl Send for Memory {}
// SAFETY: a shared `Memory` gives out only an address; `Block` says who may use which part of it.
unsafe impl Sync for Memory {}

impl Memory {
    fn new(bytes: usize) -> Self {
        let layout =
            Layout::from_size_align(bytes, ALIGNMENT).expect("a block's size is far below isize::MAX");
        // SAFETY: the layout is not empty: every block has at least one page.
        let address = unsafe { alloc(layout) };
        let Some(address) = NonNull::new(address) else { handle_alloc_error(layout) };
        Self { address, layout }
    }

    /// Memory that is there: without a page that the kernel would have to bring at the first write.
    fn touched(bytes: usize) -> Self {
        let memory = Self::new(bytes);
        for page in (0..bytes).step_by(ALIGNMENT) {
            // SAFETY: inside the allocation, which nobody else has seen yet. Volatile, as nobody reads the byte.
            unsafe { memory.address.add(page).write_volatile(0) }
        }
        memory
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the address came from `alloc` with this layout and is freed once, here.
        unsafe { dealloc(self.address.as_ptr(), self.layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::TAIL_BLOCK_BYTES;

    #[test]
    fn shared_bytes_outlive_the_writer_and_are_not_reused_while_held() {
        let pool = BlockPool::new(TAIL_BLOCK_BYTES, 4);
        let mut writer = pool.writer(PhysicalOffset::new(100), 10);
        let start = writer.append(b"hello", |copy| copy[0] = b'H');
        let held = writer.block().shared_bytes(start, 5);
        drop(writer);
        let mut other = pool.writer(PhysicalOffset::new(500), 10);
        other.append(b"other", |_| {});
        assert_eq!(&held[..], b"Hello");
        drop(held);
        assert_eq!(pool.free.lock().unwrap().len(), 1);
    }

    #[test]
    fn a_filled_pool_gives_blocks_that_are_there() {
        let pool = BlockPool::new(TAIL_BLOCK_BYTES, 3);
        pool.fill();
        let addresses = |pool: &BlockPool| {
            pool.free.lock().unwrap().iter().map(|memory| memory.address).collect::<Vec<_>>()
        };
        let filled = addresses(&pool);
        assert_eq!(filled.len(), 3);
        let writer = pool.writer(PhysicalOffset::ZERO, 10);
        assert!(filled.contains(&writer.tail.block.memory().address), "the block comes from the pool");
        let mut is_resident = [0_u8; TAIL_BLOCK_BYTES / 4096];
        // SAFETY: the range is the block's memory, and there is a byte of room for each of its pages.
        let told = unsafe {
            libc::mincore(
                writer.tail.block.memory().address.as_ptr().cast(),
                TAIL_BLOCK_BYTES,
                is_resident.as_mut_ptr(),
            )
        };
        assert_eq!(told, 0);
        assert!(is_resident.iter().all(|page| page & 1 == 1));
    }

    #[test]
    fn a_record_larger_than_a_block_gets_its_own() {
        let pool = BlockPool::new(TAIL_BLOCK_BYTES, 4);
        let writer = pool.writer(PhysicalOffset::ZERO, TAIL_BLOCK_BYTES + 1);
        assert_eq!(writer.room_bytes(), TAIL_BLOCK_BYTES + 4096);
        drop(writer);
        assert!(pool.free.lock().unwrap().is_empty(), "an odd size is not kept");
    }
}
