//! What the threads of a run count: live counters that the main thread reads while they work, and errors by kind.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ringmq::remoting::code::response;
use serde::{Deserialize, Serialize};

/// Live counters of one thread. Only that thread writes; anyone may read.
#[derive(Debug, Default)]
pub struct Tally {
    messages: AtomicU64,
    errors: AtomicU64,
    finished: AtomicBool,
}

/// A reading of [`Tally`], or the sum of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub messages: u64,
    pub errors: u64,
}

impl Tally {
    /// Counts messages that were acknowledged or received.
    pub fn add_messages(&self, count: u64) {
        self.messages.store(self.messages.load(Ordering::Relaxed) + count, Ordering::Relaxed);
    }

    pub fn add_error(&self) {
        self.errors.store(self.errors.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    pub fn counts(&self) -> Counts {
        Counts {
            messages: self.messages.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
        }
    }

    pub fn set_finished(&self) {
        self.finished.store(true, Ordering::Release);
    }

    pub fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }
}

impl Counts {
    /// The sum over threads.
    pub fn of<'a>(tallies: impl IntoIterator<Item = &'a Tally>) -> Self {
        tallies.into_iter().map(Tally::counts).fold(Self::default(), |sum, one| Self {
            messages: sum.messages + one.messages,
            errors: sum.errors + one.errors,
        })
    }
}

/// Errors by kind, each with the text of its first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Errors(BTreeMap<String, ErrorCount>);

/// How often one kind of error happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct ErrorCount {
    pub count: u64,
    pub first: String,
}

impl Errors {
    /// Counts a refusal: an answer with a code that is not success.
    pub fn add_refusal(&mut self, code: i32, remark: &str) {
        let name = response::name(code).unwrap_or("unknown");
        self.add(&format!("code {code} {name}"), remark, 1);
    }

    /// Counts `count` errors of one kind.
    pub fn add(&mut self, kind: &str, first: &str, count: u64) {
        if let Some(known) = self.0.get_mut(kind) {
            known.count += count;
        } else if count > 0 {
            self.0.insert(kind.to_owned(), ErrorCount { count, first: first.to_owned() });
        }
    }

    pub fn merge(&mut self, other: &Self) {
        for (kind, counted) in &other.0 {
            self.add(kind, &counted.first, counted.count);
        }
    }

    pub fn total(&self) -> u64 {
        self.0.values().map(|counted| counted.count).sum()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &ErrorCount)> {
        self.0.iter().map(|(kind, counted)| (kind.as_str(), counted))
    }
}
