//! Where this crate touches raw memory and the disk.

pub mod block;
pub mod cold_file;
pub mod disk;
mod fault;
pub mod log_file;
