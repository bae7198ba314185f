//! The TopicTable of one broker.

#[derive(Debug, Default)]
pub struct TopicTable;
