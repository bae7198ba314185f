//! Counts what each thread asks of the allocator, so that a core can tell how many allocations its messages cost.
//!
//! [`Counting`] stands around the allocator of a program. It adds to plain memory of the thread, without a lock and without an atomic;
//! what a thread has counted is read on that thread.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;

use serde::{Deserialize, Serialize};

/// What a thread has asked for since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocations {
    /// New memory, and memory that changed its size.
    pub count: u64,
    /// As asked for, not as rounded by the allocator.
    pub bytes: u64,
}

thread_local! {
    // Without a destructor and made by the compiler: reading it never allocates, and it is there until the thread is gone.
    static ALLOCATIONS: Cell<Allocations> = const { Cell::new(Allocations { count: 0, bytes: 0 }) };
}

/// What the calling thread has allocated. Zeros in a program whose allocator is not [`Counting`].
pub fn of_this_thread() -> Allocations {
    ALLOCATIONS.get()
}

fn count(bytes: usize) {
    let before = ALLOCATIONS.get();
    ALLOCATIONS.set(Allocations {
        count: before.count.wrapping_add(1),
        bytes: before.bytes.wrapping_add(bytes as u64),
    });
}

/// An allocator that counts what it is asked for.
#[derive(Debug, Default)]
pub struct Counting<A>(pub A);

// SAFETY: every call is passed on unchanged, and what is returned is what the allocator inside returned; counting neither allocates
// nor unwinds.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Counting<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps to the contract of this same method.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as above.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: as above.
        unsafe { self.0.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { self.0.dealloc(block, layout) }
    }
}

#[cfg(test)]
mod tests {
    use std::alloc::System;

    use super::*;

    #[test]
    fn each_thread_counts_its_own_allocations() {
        let allocator = Counting(System);
        let layout = Layout::from_size_align(64, 8).expect("a valid layout");
        let before = of_this_thread();
        // SAFETY: the layout is not empty, and the block is given back with the layout that it has then.
        unsafe {
            let block = allocator.alloc(layout);
            assert!(!block.is_null());
            let block = allocator.realloc(block, layout, 128);
            allocator.dealloc(block, Layout::from_size_align(128, 8).expect("a valid layout"));
        }
        let after = of_this_thread();
        assert_eq!((after.count - before.count, after.bytes - before.bytes), (2, 192));
        let elsewhere = std::thread::spawn(of_this_thread).join().expect("it does not panic");
        assert_eq!(elsewhere, Allocations::default(), "of a thread whose allocator does not count");
    }
}
