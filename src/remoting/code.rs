//! Request codes and response codes, by RocketMQ's names.
