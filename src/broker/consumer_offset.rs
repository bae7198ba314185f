//! The ConsumerOffsetTable of one broker.

#[derive(Debug, Default)]
pub struct ConsumerOffsetTable;
