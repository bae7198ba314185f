//! The QueueLockTable of one broker.

#[derive(Debug, Default)]
pub struct QueueLockTable;
