//! The real `ringmq serve`, on free ports with a store of its own, and what must hold for its users: unmodified Java and Go
//! clients, restarts, kills, hostile peers, a million messages.
//!
//! Tests with clients run side by side; tests that load the machine or count memory run alone (see `support`).

mod crowd;
mod damage;
mod denied;
mod faults;
mod full_disk;
mod go_clients;
mod hostile;
mod java_clients;
mod kill;
mod links;
mod metrics;
mod million;
mod moving;
mod overload;
mod readme;
mod restart;
mod retention;
mod support;
mod tune;
