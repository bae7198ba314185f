//! What a file holds, and changes of it that may be torn at the boundaries of sectors.

#![expect(
    clippy::cast_possible_truncation,
    reason = "offsets in a model that is held in memory fit in usize"
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use rand::Rng;
use rand::rngs::StdRng;

pub(super) const PAGE_BYTES: usize = 4096;
pub(super) const SECTOR_BYTES: usize = 512;

#[derive(Clone, Debug)]
pub(super) enum Change {
    Bytes { offset: u64, bytes: Bytes },
    Len(u64),
}

/// Sparse content of a file.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    pages: BTreeMap<u64, Arc<[u8; PAGE_BYTES]>>,
    pub(super) len: u64,
}

impl Image {
    pub(super) fn change(&mut self, change: &Change) {
        match change {
            Change::Bytes { offset, bytes } => self.write(*offset, bytes),
            Change::Len(len) => self.set_len(*len),
        }
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            let first_gone = len.div_ceil(PAGE_BYTES as u64);
            self.pages.split_off(&first_gone);
            if let Some(last) = self.pages.get_mut(&(len / PAGE_BYTES as u64)) {
                Arc::make_mut(last)[(len % PAGE_BYTES as u64) as usize..].fill(0);
            }
        }
        self.len = len;
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.len = self.len.max(offset + bytes.len() as u64);
        let mut done = 0;
        while done < bytes.len() {
            let (page, skip) = place(offset + done as u64);
            let part = (PAGE_BYTES - skip).min(bytes.len() - done);
            let target = self.pages.entry(page).or_insert_with(|| Arc::new([0; PAGE_BYTES]));
            Arc::make_mut(target)[skip..skip + part].copy_from_slice(&bytes[done..done + part]);
            done += part;
        }
    }

    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let wanted = (self.len.saturating_sub(offset)).min(buffer.len() as u64) as usize;
        buffer[..wanted].fill(0);
        let first = offset / PAGE_BYTES as u64;
        for (page, bytes) in self.pages.range(first..) {
            let page_start = page * PAGE_BYTES as u64;
            let from = page_start.max(offset);
            let to = (page_start + PAGE_BYTES as u64).min(offset + wanted as u64);
            if from >= to {
                break;
            }
            let skip = (from - page_start) as usize;
            let length = (to - from) as usize;
            let at = (from - offset) as usize;
            buffer[at..at + length].copy_from_slice(&bytes[skip..skip + length]);
        }
        wanted
    }
}

fn place(offset: u64) -> (u64, usize) {
    (offset / PAGE_BYTES as u64, (offset % PAGE_BYTES as u64) as usize)
}

/// What is kept of `change` when each sector is by a chance of so many in four.
pub(super) fn parts(change: Change, kept_of_four: u32, random: &mut StdRng) -> Vec<Change> {
    let mut is_kept = || random.random_range(0..4) < kept_of_four;
    let Change::Bytes { offset, bytes } = change else {
        return if is_kept() { vec![change] } else { Vec::new() };
    };
    let mut kept = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let to_boundary = SECTOR_BYTES - (offset as usize + at) % SECTOR_BYTES;
        let end = bytes.len().min(at + to_boundary);
        if is_kept() {
            kept.push(Change::Bytes { offset: offset + at as u64, bytes: bytes.slice(at..end) });
        }
        at = end;
    }
    kept
}
