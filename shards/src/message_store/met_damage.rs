//! What readers meet that is damaged: told once, counted each time, remembered for the next start and for people.

use std::cell::{Cell, RefCell};

use crate::consume_queue::QueueName;
use crate::consume_queue::selection::Selected;
use crate::damage::{DamagedRange, KnownDamage};
use crate::message_store::ReadError;
use crate::position::PhysicalOffset;

#[derive(Debug)]
pub(crate) struct MetDamage {
    known: RefCell<KnownDamage>,
    /// What is before is being removed, or is gone: whatever was read there is no damage.
    log_start: Cell<PhysicalOffset>,
    /// Something was met that the file does not have.
    is_unsaved: Cell<bool>,
    skipped_messages: Cell<u64>,
    healed_entries: Cell<u64>,
    wrong_index_items: Cell<u64>,
    /// The next start does not know of them yet.
    is_index_unsaved: Cell<bool>,
}

impl MetDamage {
    /// Goes on from what the start knows.
    pub(crate) fn new(known: KnownDamage) -> Self {
        Self {
            known: RefCell::new(known),
            log_start: Cell::new(PhysicalOffset::ZERO),
            is_unsaved: Cell::new(false),
            skipped_messages: Cell::new(0),
            healed_entries: Cell::new(0),
            wrong_index_items: Cell::new(0),
            is_index_unsaved: Cell::new(false),
        }
    }

    /// A message cannot be read, and its reader goes on past it.
    pub(crate) fn skipped(&self, queue: &QueueName, message: &Selected, error: &ReadError) {
        self.skipped_messages.set(self.skipped_messages.get() + 1);
        if self.is_new(message.entry.physical_offset, u64::from(message.entry.size_bytes)) {
            tracing::error!(
                topic = %queue.topic, queue_id = queue.queue_id, offset = %message.queue_offset, %error,
                "a message is lost; readers go on past it"
            );
        }
    }

    /// A message is neither where its entry leads nor between its neighbours, and its reader goes on past it.
    pub(crate) fn lost(&self, queue: &QueueName, message: &Selected, error: &ReadError) {
        self.skipped_messages.set(self.skipped_messages.get() + 1);
        tracing::error!(
            topic = %queue.topic, queue_id = queue.queue_id, offset = %message.queue_offset, %error,
            "a message is not in the log; readers go on past it"
        );
    }

    /// A record that was asked for by its place cannot be read.
    pub(crate) fn met(&self, at: PhysicalOffset, bytes: u64, error: &ReadError) {
        if self.is_new(at, bytes) {
            tracing::error!(%error, "a message is lost");
        }
    }

    /// A ConsumeQueue entry is wrong, and its message was found in the log all the same.
    pub(crate) fn healed(&self, error: &ReadError) {
        let before = self.healed_entries.replace(self.healed_entries.get() + 1);
        if before == 0 {
            tracing::error!(%error, "a ConsumeQueue is damaged; its messages are looked for in the log");
        }
    }

    /// An index item leads to a place where no record with its key is.
    pub(crate) fn wrong_index_item(&self, topic: &str, at: PhysicalOffset) {
        let before = self.wrong_index_items.replace(self.wrong_index_items.get() + 1);
        if before == 0 {
            self.is_index_unsaved.set(true);
            tracing::error!(
                topic, %at,
                "the index is damaged: it leads to a place where no record with the key is; the next start builds it anew from the log"
            );
        }
    }

    /// The log before `log_start` is gone, with what is wrong with it.
    pub(crate) fn forget_before(&self, log_start: PhysicalOffset) {
        self.log_start.set(log_start);
        if self.known.borrow_mut().forget_before(log_start) {
            self.is_unsaved.set(true);
        }
    }

    /// Whether the byte at `at` is known to be damaged.
    pub(crate) fn knows(&self, at: PhysicalOffset) -> bool {
        self.known.borrow().contains(at)
    }

    fn is_new(&self, at: PhysicalOffset, bytes: u64) -> bool {
        if at < self.log_start.get() {
            return false;
        }
        let is_new = self.known.borrow_mut().add(DamagedRange { from: at, to: at.plus(bytes) });
        if is_new {
            self.is_unsaved.set(true);
        }
        is_new
    }

    /// The bytes of the file, when something was met that it does not have.
    pub(crate) fn take_unsaved(&self) -> Option<Vec<u8>> {
        self.is_unsaved.take().then(|| self.known.borrow().encode())
    }

    /// Whether the next start has to be told that the index is damaged.
    pub(crate) fn take_index_unsaved(&self) -> bool {
        self.is_index_unsaved.take()
    }

    /// Damaged stretches of the log that are known.
    pub(crate) fn ranges(&self) -> u64 {
        self.known.borrow().ranges().len() as u64
    }

    /// Messages that were passed over since the start, once for each time that somebody wanted one.
    pub(crate) fn skipped_messages(&self) -> u64 {
        self.skipped_messages.get()
    }

    /// Index items that led astray since the start, once for each lookup.
    pub(crate) fn wrong_index_items(&self) -> u64 {
        self.wrong_index_items.get()
    }

    /// Wrong ConsumeQueue entries whose messages were found since the start.
    pub(crate) fn healed_entries(&self) -> u64 {
        self.healed_entries.get()
    }
}
