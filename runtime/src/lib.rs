//! What a core runs on: one pinned thread with its ring, tasks that never leave it, time, files, sockets, and the mailboxes by
//! which other threads reach it. Nothing here knows what is stored or sent.
//!
//! Two backends do the work: [`ring`], our own over io_uring, and [`via_glommio`]. A core is started on one of them
//! ([`executor::Backend`]) and everything that is called on that core uses it. All `unsafe` code of the kernel's interface stands in
//! this crate.

pub mod allocation;
pub mod executor;
pub mod file;
pub mod host;
pub mod load;
pub mod mailbox;
pub mod meter;
mod ring;
pub mod socket;
pub mod task;
mod via_glommio;

#[cfg(test)]
mod tests;
