//! The only place of this crate that touches the runtime, raw memory or the kernel. No other file names glommio.

pub mod block;
pub mod cold_file;
pub mod disk;
pub mod executor;
pub mod host;
pub mod log_file;
pub mod mailbox;
pub mod task;
