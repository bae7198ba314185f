//! The ProducerTable of one broker.

#[derive(Debug, Default)]
pub struct ProducerTable;
