//! Goes through one index file from its first item to its last, to compare it with what it should hold. Blocking.

use std::io;
use std::path::Path;

use super::{HEADER_BYTES, ITEM_BYTES, IndexLayout, REBUILD_BYTES, SLOT_BYTES, encode_header, i32_at};
use crate::io::disk::{Disk, DiskFile};
use crate::positions::IndexHeader;

/// Slots read at once.
const SLOTS_READ: usize = 64 * 1024;

/// One item of an index file, as it lies there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item {
    pub(crate) number: i32,
    pub(crate) at_byte: u64,
    pub(crate) hash: u32,
    pub(crate) physical: i64,
    /// Since [`Self::begin_timestamp_ms`].
    pub(crate) seconds: i32,
    /// When the file's first record was stored.
    pub(crate) begin_timestamp_ms: i64,
    /// Whether it leads to the item of its slot that came before it.
    pub(crate) is_linked: bool,
}

/// The items of one file, oldest first, and what its slots should be.
pub(crate) struct IndexWalk<F> {
    file: F,
    layout: IndexLayout,
    header: IndexHeader,
    next_item: i32,
    slots: Vec<i32>,
    buffer: Vec<u8>,
    buffered_from: i32,
}

impl<F: DiskFile> IndexWalk<F> {
    /// Opens a file whose header should be `header`.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(crate) fn open<D: Disk<File = F>>(
        disk: &D,
        path: &Path,
        layout: IndexLayout,
        header: IndexHeader,
    ) -> io::Result<Self> {
        let file = disk.open(path)?;
        let slots = vec![0; layout.slots as usize];
        Ok(Self { file, layout, header, next_item: 1, slots, buffer: Vec::new(), buffered_from: 1 })
    }

    /// The next item; `None` behind the last one that the header counts.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn next(&mut self) -> io::Result<Option<Item>> {
        let number = self.next_item;
        if number >= self.header.next_item || number.unsigned_abs() >= self.layout.items {
            return Ok(None);
        }
        let in_buffer =
            |from: i32| usize::try_from(number - from).expect("items are counted upwards") * ITEM_BYTES;
        if in_buffer(self.buffered_from) >= self.buffer.len() {
            let rest = usize::try_from(self.header.next_item - number).expect("counted upwards");
            self.buffer.clear();
            self.buffer.resize((rest * ITEM_BYTES).min(REBUILD_BYTES), 0);
            // What the file is too short for reads as zeros, which no item is.
            self.file.read_at(&mut self.buffer, self.layout.item_at(number))?;
            self.buffered_from = number;
        }
        let from = in_buffer(self.buffered_from);
        let bytes = &self.buffer[from..from + ITEM_BYTES];
        let hash = i32_at(bytes, 0).cast_unsigned();
        let physical = i64::from_be_bytes(bytes[4..12].try_into().expect("eight bytes"));
        let slot = &mut self.slots[(hash % self.layout.slots) as usize];
        let is_linked = i32_at(bytes, 16) == *slot;
        *slot = number;
        self.next_item += 1;
        Ok(Some(Item {
            number,
            at_byte: self.layout.item_at(number),
            hash,
            physical,
            seconds: i32_at(bytes, 12),
            begin_timestamp_ms: self.header.begin_timestamp_ms,
            is_linked,
        }))
    }

    /// What is wrong with header and slots, once all items were gone through.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn check_head(&self) -> io::Result<Option<String>> {
        let mut header = [0; HEADER_BYTES];
        self.file.read_at(&mut header, 0)?;
        if header != encode_header(&self.header) {
            return Ok(Some("its header is not what the positions snapshot says".to_owned()));
        }
        let mut before_the_first = [0; ITEM_BYTES];
        self.file.read_at(&mut before_the_first, self.layout.items_at() as u64)?;
        if before_the_first != [0; ITEM_BYTES] {
            return Ok(Some("there is something where item 0 would be, which is none".to_owned()));
        }
        for (part, slots) in self.slots.chunks(SLOTS_READ).enumerate() {
            let mut bytes = vec![0; slots.len() * SLOT_BYTES];
            let first = part * SLOTS_READ;
            self.file.read_at(&mut bytes, (HEADER_BYTES + first * SLOT_BYTES) as u64)?;
            let mut pairs = slots.iter().zip(bytes.chunks_exact(SLOT_BYTES));
            if let Some(wrong) = pairs.position(|(slot, bytes)| i32_at(bytes, 0) != *slot) {
                let slot = first + wrong;
                return Ok(Some(format!("slot {slot} does not lead to the newest item of its chain")));
            }
        }
        Ok(None)
    }
}
