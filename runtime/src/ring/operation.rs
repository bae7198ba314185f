//! Operations that the kernel works on, and what they own meanwhile. Memory that an operation reads or writes belongs to the operation
//! until the kernel is done with it, also when whoever waited for it has gone.

use std::ffi::CString;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use slab::Slab;

use super::core::Core;
use super::memory::Memory;
use super::socket::Receiving;

/// What an operation owns: its memory may not move or go before the kernel is done.
pub(super) enum Owned {
    Nothing,
    Memory(Memory),
    /// Read by several operations, one after the other.
    Shared(#[expect(dead_code, reason = "kept for the kernel")] Rc<Memory>),
    Names(#[expect(dead_code, reason = "kept for the kernel")] [CString; 2]),
    Message(Box<Message>),
}

/// Pieces that leave through a socket with one request, and what the kernel is told of them.
pub(super) struct Message {
    pub(super) pieces: Vec<Bytes>,
    pub(super) vectors: Vec<libc::iovec>,
    pub(super) header: libc::msghdr,
}

/// One entry of the table of operations.
pub(super) enum Entry {
    /// Under way.
    Waiting { waker: Option<Waker>, owned: Owned },
    /// Over, and not yet looked at.
    Done { result: i32, owned: Owned },
    /// Under way, and nobody waits for it any more.
    Abandoned(#[expect(dead_code, reason = "kept for the kernel")] Owned),
    /// A socket that receives again and again.
    Receiving(Rc<Receiving>),
}

/// Names an operation for good: the `user_data` of its request. Half of it is the place in the table, which is used again; the other
/// half is not, so that cancelling what is over cancels nothing else.
pub(super) type OperationKey = u64;

/// The operations of one core.
#[derive(Default)]
pub(super) struct Operations {
    table: Slab<Entry>,
    started: u64,
}

impl Operations {
    pub(super) fn insert(&mut self, entry: Entry) -> OperationKey {
        self.started += 1;
        // Below the two keys that are not of this table.
        ((self.started & 0x7fff_ffff) << 32) | self.table.insert(entry) as u64
    }

    /// What the kernel has not finished.
    pub(super) fn under_way(&self) -> usize {
        self.table.iter().filter(|(_, entry)| !matches!(entry, Entry::Done { .. })).count()
    }

    /// The socket behind a request to receive, if `key` is one.
    pub(super) fn receiving(&self, key: OperationKey) -> Option<Rc<Receiving>> {
        match self.table.get(index(key)) {
            Some(Entry::Receiving(socket)) => Some(Rc::clone(socket)),
            _ => None,
        }
    }

    pub(super) fn remove(&mut self, key: OperationKey) {
        self.table.remove(index(key));
    }

    /// The kernel is done with a single operation.
    pub(super) fn complete(&mut self, key: OperationKey, result: i32) {
        let entry = self.table.get_mut(index(key)).expect("the kernel finishes an operation once");
        match std::mem::replace(entry, Entry::Done { result, owned: Owned::Nothing }) {
            Entry::Waiting { waker, owned } => {
                *entry = Entry::Done { result, owned };
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            Entry::Abandoned(_) => self.remove(key),
            Entry::Done { .. } | Entry::Receiving(_) => unreachable!("not a single operation under way"),
        }
    }

    fn poll(&mut self, key: OperationKey, context: &Context<'_>) -> Poll<(i32, Owned)> {
        match &mut self.table[index(key)] {
            Entry::Waiting { waker, .. } => {
                match waker {
                    Some(waker) => waker.clone_from(context.waker()),
                    None => *waker = Some(context.waker().clone()),
                }
                Poll::Pending
            }
            Entry::Done { .. } => {
                let Entry::Done { result, owned } = self.table.remove(index(key)) else {
                    unreachable!("just looked at")
                };
                Poll::Ready((result, owned))
            }
            Entry::Abandoned(_) | Entry::Receiving(_) => unreachable!("nobody polls these"),
        }
    }

    fn abandon(&mut self, key: OperationKey) {
        let entry = &mut self.table[index(key)];
        match std::mem::replace(entry, Entry::Abandoned(Owned::Nothing)) {
            Entry::Waiting { owned, .. } => *entry = Entry::Abandoned(owned),
            _ => self.remove(key),
        }
    }
}

fn index(key: OperationKey) -> usize {
    usize::try_from(key & 0xffff_ffff).expect("32 bits")
}

/// A single operation, to be awaited: its result as the kernel gives it, and what it owned.
pub(super) struct Operation {
    core: Rc<Core>,
    key: Option<OperationKey>,
}

impl Operation {
    pub(super) fn new(core: Rc<Core>, key: OperationKey) -> Self {
        Self { core, key: Some(key) }
    }
}

impl Future for Operation {
    type Output = (i32, Owned);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<(i32, Owned)> {
        let key = self.key.expect("an operation is not polled after its end");
        let result = self.core.operations().poll(key, context);
        if result.is_ready() {
            self.key = None;
        }
        result
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.core.operations().abandon(key);
        }
    }
}
