//! Requests of producers and consumers against a whole broker over a real store.

mod pulling;
mod retrying;
mod sending;
mod shard;
