//! The ConsumerTable of one broker.

#[derive(Debug, Default)]
pub struct ConsumerTable;
