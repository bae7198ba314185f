//! Offsets: of groups, and the bounds of queues.
