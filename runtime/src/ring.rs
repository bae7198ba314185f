//! The backend of our own: one io_uring per core, entered once per turn with everything that the turn asked for.
//!
//! A turn runs every ready task, then enters the kernel once: what the tasks submitted is submitted, and if no task is ready it
//! waits there. What has completed wakes tasks, and the next turn begins. Sockets receive by one multishot request into buffers
//! that all connections of the core share, so that a turn that serves many connections still is one system call.

pub(crate) mod core;
pub(crate) mod file;
mod memory;
mod operation;
mod receive_buffers;
pub(crate) mod socket;
mod timers;
mod waking;

pub(crate) use memory::Memory;
