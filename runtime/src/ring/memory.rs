//! Page-aligned memory that the kernel reads and writes directly, and the core's stock of it.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::ptr::NonNull;

/// What direct I/O asks of addresses.
const ALIGNMENT: usize = 4096;
/// Unused memory that a core keeps, bytes.
const KEPT_BYTES_MAX: usize = 16 << 20;

thread_local! {
    static KEPT: RefCell<Kept> = RefCell::default();
}

/// Unused memory of this thread, by size class: class `c` has `4096 << c` bytes.
#[derive(Default)]
struct Kept {
    classes: Vec<Vec<Memory>>,
    bytes: usize,
}

/// An allocation aligned to a page, initialised.
#[derive(Debug)]
pub(crate) struct Memory {
    address: NonNull<u8>,
    layout: Layout,
}

impl Memory {
    /// At least `bytes`, a power of two, zeroed.
    pub(crate) fn zeroed(bytes: usize) -> Self {
        let size = bytes.next_power_of_two().max(ALIGNMENT);
        let layout =
            Layout::from_size_align(size, ALIGNMENT).expect("a buffer's size is far below isize::MAX");
        // SAFETY: the layout is not empty: its size is at least a page.
        let address = unsafe { alloc_zeroed(layout) };
        let Some(address) = NonNull::new(address) else { handle_alloc_error(layout) };
        Self { address, layout }
    }

    /// At least `bytes` of whatever was in it before, from this core's stock if there is some.
    pub(crate) fn take(bytes: usize) -> Self {
        let class = class_of(bytes);
        KEPT.with_borrow_mut(|kept| {
            let memory = kept.classes.get_mut(class)?.pop()?;
            kept.bytes -= memory.bytes();
            Some(memory)
        })
        .unwrap_or_else(|| Self::zeroed(bytes))
    }

    /// Puts memory back into the stock; frees it when the stock is full.
    pub(crate) fn keep(self) {
        KEPT.with_borrow_mut(|kept| {
            if kept.bytes + self.bytes() > KEPT_BYTES_MAX {
                return;
            }
            let class = class_of(self.bytes());
            if kept.classes.len() <= class {
                kept.classes.resize_with(class + 1, Vec::new);
            }
            kept.bytes += self.bytes();
            kept.classes[class].push(self);
        });
    }

    pub(crate) fn bytes(&self) -> usize {
        self.layout.size()
    }

    /// Where it lies, for the kernel.
    pub(crate) fn address(&self) -> *mut u8 {
        self.address.as_ptr()
    }

    pub(crate) fn as_slice(&self, bytes: usize) -> &[u8] {
        assert!(bytes <= self.bytes());
        // SAFETY: the range is inside the allocation, which is initialised and which `self` borrows.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr(), bytes) }
    }

    pub(crate) fn as_mut_slice(&mut self, bytes: usize) -> &mut [u8] {
        assert!(bytes <= self.bytes());
        // SAFETY: the range is inside the allocation, which is initialised and which `self` borrows alone.
        unsafe { std::slice::from_raw_parts_mut(self.address.as_ptr(), bytes) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the address came from `alloc_zeroed` with this layout and is freed once, here.
        unsafe { dealloc(self.address.as_ptr(), self.layout) }
    }
}

fn class_of(bytes: usize) -> usize {
    let pages = bytes.next_power_of_two().max(ALIGNMENT) / ALIGNMENT;
    pages.trailing_zeros() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_memory_is_used_again_for_the_same_size() {
        let mut memory = Memory::take(5000);
        assert_eq!(memory.bytes(), 8192);
        assert_eq!(memory.address() as usize % ALIGNMENT, 0);
        memory.as_mut_slice(1)[0] = 7;
        let address = memory.address();
        memory.keep();
        assert_ne!(Memory::take(9000).address(), address, "another size");
        assert_eq!(Memory::take(8192).address(), address);
    }

    #[test]
    fn no_more_is_kept_than_the_limit() {
        Memory::take(2 * KEPT_BYTES_MAX).keep();
        assert_eq!(KEPT.with_borrow(|kept| kept.bytes), 0);
    }
}
