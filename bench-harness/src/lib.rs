//! The measuring side of RingMQ: a load generator that speaks the remoting protocol as a stock client does, so that it drives RingMQ
//! and the stock Java broker alike, and a checker that reads back what was acknowledged.
//!
//! A run with senders is a [`scenario`]: [`target`] finds (or creates) the topic's queues, [`generator`] sends on [`lane`]s at the times of
//! [`schedule`], [`puller`] receives, [`monitor`] watches from the main thread, [`series`] keeps what happened when, [`report`] prints and stores the
//! result. In the place of the generator somebody else's client may send ([`stock_client`]). The messages
//! ([`payload`]) tell a reader which run and which send they belong to; [`acks`] keeps what was acknowledged and [`verify`] compares
//! the topic with it.
//!
//! A [`workload`] is a file that describes one scenario or several; [`run`] runs it, [`compare`] runs it against several brokers in turn
//! that it starts through a script each ([`peer`]), beside a [`disk_probe`]; [`comparison`] takes the ratios and [`report_page`]
//! draws it all. [`profile`] looks at one broker more closely: what a message costs it, and where.

pub mod acks;
pub mod clock;
pub mod cold;
pub mod compare;
pub mod comparison;
pub mod consume;
pub mod disk_probe;
pub mod e2e;
pub mod error;
pub mod generator;
pub mod knee;
pub mod lane;
pub mod latency;
pub mod machine;
pub mod monitor;
pub mod options;
pub mod payload;
pub mod peer;
pub mod precise_timer;
pub mod process_cpu;
pub mod produce;
pub mod profile;
pub mod puller;
pub mod report;
pub mod report_page;
pub mod run;
pub mod scenario;
pub mod schedule;
pub mod send_frame;
pub mod series;
pub mod stock_client;
pub mod tally;
pub mod target;
pub mod verify;
pub mod workload;

#[cfg(test)]
mod fake_broker;
