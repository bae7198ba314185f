//! The memory into which the sockets of a core receive: a ring of buffers that the kernel picks from as data arrives, so that an
//! idle connection holds none.

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

use super::memory::Memory;

/// The group that receive requests name.
pub(super) const GROUP: u16 = 0;
const COUNT: u16 = 32;
const BUFFER_BYTES: usize = 64 << 10;

const _: () = assert!(COUNT.is_power_of_two());

/// The buffers, registered with one ring.
pub(super) struct ReceiveBuffers {
    /// What the kernel reads: an array of `COUNT` entries, whose first also holds the tail.
    entries: Memory,
    buffers: Memory,
    tail: Cell<u16>,
}

impl ReceiveBuffers {
    /// Registers all buffers with `ring`.
    ///
    /// # Errors
    /// The kernel is older than 5.19, or refuses the memory.
    pub(super) fn register(ring: &IoUring) -> io::Result<Self> {
        let entries = Memory::zeroed(usize::from(COUNT) * size_of::<BufRingEntry>());
        let buffers = Memory::zeroed(usize::from(COUNT) * BUFFER_BYTES);
        let registered = Self { entries, buffers, tail: Cell::new(0) };
        let address = registered.entries.address() as u64;
        // SAFETY: the entries are aligned to a page, as long as asked for, and live until after the ring is closed: the core drops
        // its ring first, and leaks this when an operation is still under way.
        unsafe { ring.submitter().register_buf_ring_with_flags(address, COUNT, GROUP, 0)? };
        for buffer in 0..COUNT {
            registered.give_back(buffer);
        }
        Ok(registered)
    }

    /// What arrived in `buffer`.
    ///
    /// # Panics
    /// If the kernel names a buffer that there is not, or more bytes than it has.
    pub(super) fn received(&self, buffer: u16, bytes: usize) -> &[u8] {
        assert!(buffer < COUNT);
        assert!(bytes <= BUFFER_BYTES);
        let start = usize::from(buffer) * BUFFER_BYTES;
        &self.buffers.as_slice(start + bytes)[start..]
    }

    /// Lets the kernel use `buffer` again; nobody may look at it any more.
    pub(super) fn give_back(&self, buffer: u16) {
        let tail = self.tail.get();
        let index = usize::from(tail & (COUNT - 1));
        let first = self.entries.address().cast::<BufRingEntry>();
        // SAFETY: `index` is below the number of entries, all of which lie in `entries`. The kernel reads an entry only after the
        // tail has moved past it, which happens below.
        let entry = unsafe { &mut *first.add(index) };
        entry.set_addr(self.buffers.address() as u64 + u64::from(buffer) * BUFFER_BYTES as u64);
        entry.set_len(u32::try_from(BUFFER_BYTES).expect("64 KiB"));
        entry.set_bid(buffer);
        let tail = tail.wrapping_add(1);
        self.tail.set(tail);
        // SAFETY: `first` is the first entry of the registered ring, which holds the tail; it is aligned for a u16, lives as long as
        // `self`, and is changed by nobody else: the kernel only reads it.
        unsafe { AtomicU16::from_ptr(BufRingEntry::tail(first).cast_mut()) }.store(tail, Ordering::Release);
    }
}
