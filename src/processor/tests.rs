//! Requests of producers, consumers and tools against a whole broker over a real store.

mod clients_and_tools;
mod hostile;
mod pulling;
mod retention;
mod retrying;
mod running_shard;
mod sending;
mod shard;
