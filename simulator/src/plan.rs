//! What happens to a shard from outside, drawn from a seed before anything runs: sends, stops, jumps of the clock, faults.
//!
//! A step keeps its number when others are left out, and draws its details from seed and number: so a history can shrink to the steps
//! that matter.

use std::fmt;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use shards::log_shard::FlushMode;

use crate::disk::{DiskFault, FaultKind, Stop};

/// The topic of ordinary messages, and how many queues it has.
pub const PLAIN_TOPIC: &str = "plain";
pub const PLAIN_QUEUES: u32 = 3;
/// The topic in which delayed messages arrive in the end, in its one queue.
pub const LATE_TOPIC: &str = "late";
/// All queues that consumers read.
pub const QUEUES: [QueueKey; 4] = [
    QueueKey { topic: PLAIN_TOPIC, queue_id: 0 },
    QueueKey { topic: PLAIN_TOPIC, queue_id: 1 },
    QueueKey { topic: PLAIN_TOPIC, queue_id: 2 },
    QueueKey { topic: LATE_TOPIC, queue_id: 0 },
];
/// Consumers, each a group of its own.
pub const CONSUMERS: usize = 2;

const DAY_MS: i64 = 24 * 3_600_000;

/// A queue of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueKey {
    pub topic: &'static str,
    pub queue_id: u32,
}

impl fmt::Display for QueueKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.queue_id)
    }
}

/// How a shard is set up and how its surroundings are.
#[derive(Clone, Debug)]
pub struct Shape {
    pub flush: FlushMode,
    /// At least twice the largest record, as the broker has it.
    pub segment_bytes: u64,
    pub flush_bytes_max: usize,
    /// Largest body of an ordinary and of a large message, bytes.
    pub body_bytes_max: (usize, usize),
    /// Shortest and longest time of a write or sync, microseconds.
    pub disk_us: (u64, u64),
    pub network_us: (u64, u64),
    pub lost_of_thousand: u32,
    /// How often the side thread takes a snapshot, in its turns of 100 ms.
    pub snapshot_turns: u64,
    /// How often offsets are persisted, milliseconds.
    pub persist_ms: u64,
    /// How long files of the log are kept after their last write, milliseconds; `None` for ever.
    pub reserved_ms: Option<u64>,
}

/// All that is done to a shard.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub shape: Shape,
    pub steps: Vec<Step>,
    /// When the last step is over, microseconds.
    pub end_us: u64,
}

/// Something that happens from outside.
#[derive(Clone, Debug)]
pub struct Step {
    pub number: usize,
    pub at_us: u64,
    pub act: Act,
}

/// What happens.
#[derive(Clone, Debug)]
pub enum Act {
    /// The producer sends these, as one batch.
    Send(Vec<Outgoing>),
    /// The machine stops here and now.
    Stop(Stop),
    /// The machine stops at its so many-th change of the disk from now on.
    StopAtChange { changes: u64, stop: Stop },
    /// The process stops as it should.
    CleanStop,
    /// The process is killed, and somebody removes files that it derived from the log.
    LoseDerived(Derived),
    /// The node's clock jumps.
    ClockJump { ms: i64 },
    /// The disk fails, once.
    Disk(DiskFault),
    /// The disk is full for a while.
    DiskFull { for_us: u64 },
    /// Writes take so many times as long for a while.
    DiskSlow { factor: u64, for_us: u64 },
    /// Nothing gets from the clients to the node for a while, or nothing back.
    Blocked { to_node: bool, for_us: u64 },
}

/// Files that are derived from the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Derived {
    /// The ConsumeQueue of one queue.
    Queue(QueueKey),
    /// All ConsumeQueues.
    Queues,
    Index,
}

impl Derived {
    /// Their folder in the shard's.
    pub fn folder(self) -> String {
        match self {
            Self::Queue(QueueKey { topic, queue_id }) => format!("consumequeue/{topic}/{queue_id}"),
            Self::Queues => "consumequeue".to_owned(),
            Self::Index => "index".to_owned(),
        }
    }
}

/// A message to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing {
    pub kind: Kind,
    pub body_bytes: usize,
}

/// What a message is to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Plain {
        queue_id: u32,
    },
    /// Delivered after the time of its level.
    Delayed {
        level: u32,
    },
    /// A half message, which no consumer ever gets.
    Half {
        queue_id: u32,
    },
}

impl Plan {
    /// Draws a plan.
    pub fn draw(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let random = &mut random;
        let shape = Shape {
            flush: if random.random_bool(0.35) { FlushMode::Async } else { FlushMode::Sync },
            segment_bytes: [48 << 10, 64 << 10, 96 << 10][random.random_range(0..3)],
            flush_bytes_max: [8 << 10, 16 << 10][random.random_range(0..2)],
            body_bytes_max: (random.random_range(50..2500), 20_000),
            disk_us: [(50, 400), (200, 3000), (1000, 60_000)][random.random_range(0..3)],
            network_us: [(20, 200), (500, 30_000)][random.random_range(0..2)],
            lost_of_thousand: [0, 0, 20][random.random_range(0..3)],
            snapshot_turns: random.random_range(2..40),
            persist_ms: random.random_range(200..4000),
            reserved_ms: random.random_bool(0.4).then(|| random.random_range(300..3000)),
        };
        let mut steps = Vec::new();
        let count = random.random_range(10..90);
        let pace_us = [20_000, 150_000][random.random_range(0..2)];
        // Some histories are calm but for their sends, some are rough.
        let rough = [0.08, 0.2, 0.4][random.random_range(0..3)];
        let mut at_us = 0;
        for number in 0..count {
            at_us += random.random_range(0..pace_us);
            let act = if random.random_bool(rough) {
                disturbance(random)
            } else {
                Act::Send(outgoing(&shape, random))
            };
            steps.push(Step { number, at_us, act });
        }
        Self { seed, shape, steps, end_us: at_us + 100_000 }
    }

    /// A calm history of `sends` messages, one after the other, with a flush for each.
    pub fn steady(seed: u64, sends: usize) -> Self {
        let shape = Shape {
            flush: FlushMode::Sync,
            segment_bytes: 48 << 10,
            flush_bytes_max: 8 << 10,
            body_bytes_max: (100, 100),
            disk_us: (50, 400),
            network_us: (20, 200),
            lost_of_thousand: 0,
            snapshot_turns: 20,
            persist_ms: 2_000,
            reserved_ms: None,
        };
        let mut random = StdRng::seed_from_u64(seed);
        let step = |number: usize| {
            let kind = Kind::Plain { queue_id: random.random_range(0..PLAIN_QUEUES) };
            let message = Outgoing { kind, body_bytes: random.random_range(16..100) };
            Step { number, at_us: 1_000 * number as u64, act: Act::Send(vec![message]) }
        };
        let steps = (0..sends).map(step).collect();
        Self { seed, shape, steps, end_us: 1_000 * sends as u64 + 100_000 }
    }

    /// The same without some steps.
    pub fn without(&self, left_out: &dyn Fn(usize) -> bool) -> Self {
        let steps = self.steps.iter().filter(|step| !left_out(step.number)).cloned().collect();
        Self { steps, ..self.clone() }
    }
}

fn outgoing(shape: &Shape, random: &mut StdRng) -> Vec<Outgoing> {
    let count = random.random_range(1..6);
    (0..count)
        .map(|_| {
            let large = random.random_bool(0.06);
            let body_bytes_max = if large { shape.body_bytes_max.1 } else { shape.body_bytes_max.0 };
            let kind = match random.random_range(0..10) {
                0..7 => Kind::Plain { queue_id: random.random_range(0..PLAIN_QUEUES) },
                7..9 => Kind::Delayed { level: random.random_range(1..4) },
                _ => Kind::Half { queue_id: random.random_range(0..PLAIN_QUEUES) },
            };
            Outgoing { kind, body_bytes: random.random_range(16..=body_bytes_max) }
        })
        .collect()
}

fn draw_stop(random: &mut StdRng) -> Stop {
    if random.random_bool(0.6) { Stop::PowerCut } else { Stop::Kill }
}

fn disturbance(random: &mut StdRng) -> Act {
    match random.random_range(0..22) {
        0..3 => Act::Stop(draw_stop(random)),
        3..8 => Act::StopAtChange { changes: random.random_range(1..80), stop: draw_stop(random) },
        8 => Act::CleanStop,
        9..11 => Act::ClockJump { ms: clock_jump_ms(random) },
        11..16 => Act::Disk(disk_fault(random)),
        16..18 => Act::DiskFull { for_us: random.random_range(1_000..4_000_000) },
        18 => Act::DiskSlow {
            factor: random.random_range(2..200),
            for_us: random.random_range(10_000..1_000_000),
        },
        19..21 => Act::LoseDerived(match random.random_range(0..4) {
            0..2 => Derived::Queue(QUEUES[random.random_range(0..QUEUES.len())]),
            2 => Derived::Queues,
            _ => Derived::Index,
        }),
        _ => {
            Act::Blocked { to_node: random.random_bool(0.5), for_us: random.random_range(10_000..2_000_000) }
        }
    }
}

/// Seconds to 30 days, both ways.
fn clock_jump_ms(random: &mut StdRng) -> i64 {
    let ms = match random.random_range(0..3) {
        0 => random.random_range(1_000..60_000),
        1 => random.random_range(60_000..DAY_MS),
        _ => random.random_range(DAY_MS..=30 * DAY_MS),
    };
    if random.random_bool(0.5) { ms } else { -ms }
}

fn disk_fault(random: &mut StdRng) -> DiskFault {
    let kind = match random.random_range(0..8) {
        0..2 => FaultKind::WriteError,
        2 => FaultKind::ShortWrite,
        3..6 => FaultKind::SyncError,
        _ => FaultKind::ReadError,
    };
    // Mostly the log, as it matters most.
    let path_part = if random.random_bool(0.7) { "commitlog" } else { "" };
    DiskFault { kind, path_part, after: random.random_range(0..12) }
}
