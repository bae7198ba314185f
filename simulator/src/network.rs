//! Messages between nodes and clients, as events: late, in order on each way, or not at all.
//!
//! One node is all that runs now; a message of one node to another takes the same way.

use std::collections::BTreeMap;
use std::fmt;

use rand::Rng;
use rand::rngs::StdRng;
use shards::append::{AppendRefusal, Placement};

use crate::plan::QueueKey;

/// Who takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    Node(usize),
    Producer,
    Consumer(usize),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(index) => write!(f, "node {index}"),
            Self::Producer => f.write_str("producer"),
            Self::Consumer(index) => write!(f, "consumer {index}"),
        }
    }
}

/// A message under way.
#[derive(Clone, Debug)]
pub struct Letter {
    pub from: Address,
    pub to: Address,
    /// The life of the node that the connection belongs to: with the process, its connections end.
    pub life: u64,
    pub message: Message,
}

/// What is said.
#[derive(Clone, Debug)]
pub enum Message {
    /// Producer to node: store the records of this step of the plan.
    Send { step: usize },
    /// Its answer: one result for each record.
    Stored { step: usize, results: Vec<Result<Placement, AppendRefusal>> },
    /// Consumer to node: the messages of a queue from an offset on.
    Pull { queue: QueueKey, offset: u64 },
    /// Its answer.
    Pulled { queue: QueueKey, offset: u64, found: Pulled },
    /// Consumer to node: it will read `offset` next. Nobody waits for an answer.
    Commit { queue: QueueKey, offset: u64 },
    /// Consumer to node: where does my group stand?
    AskOffset { queue: QueueKey },
    /// Its answer; `None` when the group never committed.
    Offset { queue: QueueKey, offset: Option<u64> },
}

/// How a pull went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulled {
    /// Messages, which the oracle has seen, and here the consumer goes on.
    UpTo(u64),
    /// None there yet.
    Nothing,
    /// The node cannot read them.
    Failed,
}

/// How the ways between two are now.
#[derive(Debug)]
pub struct Network {
    /// Shortest and longest time of a message, microseconds.
    pub delay_us: (u64, u64),
    /// Of a thousand messages, so many get lost.
    pub lost_of_thousand: u32,
    /// Nothing arrives on these ways before that time, microseconds.
    blocked_until_us: BTreeMap<(Address, Address), u64>,
    last_arrival_us: BTreeMap<(Address, Address), u64>,
}

impl Network {
    pub fn new(delay_us: (u64, u64), lost_of_thousand: u32) -> Self {
        Self {
            delay_us,
            lost_of_thousand,
            blocked_until_us: BTreeMap::new(),
            last_arrival_us: BTreeMap::new(),
        }
    }

    /// Nothing gets from `from` to `to` before `until_us`; the other way stays open.
    pub fn block(&mut self, from: Address, to: Address, until_us: u64) {
        self.blocked_until_us.insert((from, to), until_us);
    }

    /// No message gets lost any more, and all ways are open.
    pub fn heal(&mut self) {
        self.lost_of_thousand = 0;
        self.blocked_until_us.clear();
    }

    /// When a message that is sent now arrives; `None` when it never does.
    pub fn arrival_us(
        &mut self,
        now_us: u64,
        from: Address,
        to: Address,
        random: &mut StdRng,
    ) -> Option<u64> {
        let delay_us = random.random_range(self.delay_us.0..=self.delay_us.1);
        if random.random_range(0..1000) < self.lost_of_thousand {
            return None;
        }
        let blocked_us = self.blocked_until_us.get(&(from, to)).copied().unwrap_or(0);
        let last_us = self.last_arrival_us.entry((from, to)).or_default();
        // A connection keeps the order of its bytes.
        *last_us = (now_us + delay_us).max(blocked_us).max(*last_us);
        Some(*last_us)
    }
}
