//! A million messages of 1 KiB by 64 senders, each acknowledged from the disk: none lost, none twice, offsets dense.

use std::time::Instant;

use crate::support::alone;
use crate::support::load::{Amount, Ledger, Load};
use crate::support::server::{Server, Settings};

const MESSAGES: u32 = 1_000_000;
const SENDERS: u32 = 64;

#[test]
fn a_million_messages_are_stored_once_each() {
    let _guard = alone();
    let server = Server::start(Settings { segment_mib: 256, ..Settings::default() });
    let mut ledger = Ledger::new(&server, "million", 8);
    let amount =
        Amount { senders: SENDERS, first_sender: 0, messages: MESSAGES / SENDERS, body_bytes: &[1024] };
    let start = Instant::now();
    let load = Load::start(&server.namesrv(), &ledger.topic, amount);
    load.enter_into(&mut ledger);
    let sent = start.elapsed();
    assert_eq!(ledger.acknowledged, u64::from(MESSAGES));
    ledger.verify(&server);
    assert_eq!(ledger.read(), u64::from(MESSAGES));
    println!("sent in {sent:?}, read and compared in {:?}", start.elapsed().saturating_sub(sent));
}
