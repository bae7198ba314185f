//! Positions are types, so that a place in the log cannot be taken for a place in a queue.

use std::fmt;

/// A position in a shard's CommitLog, in bytes from the start of the log (RocketMQ's physical offset).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PhysicalOffset(u64);

/// A position in one ConsumeQueue, in messages from the start of the queue (RocketMQ's queue offset).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueOffset(u64);

macro_rules! position {
    ($name:ident, $unit:literal) => {
        impl $name {
            pub const ZERO: Self = Self(0);

            #[doc = concat!("The position ", $unit, " after the start.")]
            pub const fn new(value: u64) -> Self {
                Self(value)
            }

            #[doc = concat!("How many ", $unit, " this position is after the start.")]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The signed form that RocketMQ stores and sends. Positions stay far below 2^63.
            pub const fn to_i64(self) -> i64 {
                assert!(self.0 <= i64::MAX as u64, "position beyond 2^63");
                self.0 as i64
            }

            /// Reads the signed form; `None` when it is negative, which no valid position is.
            pub const fn from_i64(value: i64) -> Option<Self> {
                if value < 0 { None } else { Some(Self(value as u64)) }
            }

            #[doc = concat!("The position `count` ", $unit, " further on.")]
            pub const fn plus(self, count: u64) -> Self {
                Self(self.0 + count)
            }

            #[doc = concat!("How many ", $unit, " lie between `earlier` and this position, which must not be before it.")]
            pub const fn since(self, earlier: Self) -> u64 {
                assert!(self.0 >= earlier.0, "positions in the wrong order");
                self.0 - earlier.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

position!(PhysicalOffset, "bytes");
position!(QueueOffset, "messages");
