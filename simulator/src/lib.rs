//! Runs the production logic of a shard against a disk that forgets, from one seed.
//!
//! [`disk`] is the model of the disk. The tests that stop the log and the recovery at every change that they make run on it.

pub mod disk;
