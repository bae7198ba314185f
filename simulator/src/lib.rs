//! Runs the production logic of a shard from one seed, on one thread, on a disk that forgets, tears, refuses and lies, with a clock that
//! jumps and clients behind a network. `docs/simulator.md` says what it covers and how to read a failure.
//!
//! - [`plan`] draws from a seed what happens; [`world`] lets it happen, event by event ([`events`], [`network`], [`trace`]);
//! - [`process`] drives the broker's own code on a [`disk`]; [`bug`] names the mistakes that it makes on request;
//! - [`oracle`] judges; [`corruption`] tampers with a shard at rest; [`history`] runs a seed and shrinks one that fails.

pub mod bug;
pub mod corruption;
pub mod disk;
pub mod events;
pub mod history;
pub mod message;
pub mod network;
pub mod oracle;
pub mod plan;
pub mod process;
pub mod trace;
pub mod world;
