//! The SubscriptionGroupTable of one broker.

#[derive(Debug, Default)]
pub struct SubscriptionGroupTable;
