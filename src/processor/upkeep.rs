//! What a broker does by the clock: writing its tables, forgetting silent clients, reminding name servers, handing to the side thread
//! what it had no room for.

use std::rc::Rc;
use std::time::Duration;

use runtime::task;

use super::{client, delayed, pull};
use crate::broker::{Broker, BrokerCell, wall_clock_ms};

/// How often changed tables are written: what a kill may take back of committed offsets.
const PERSIST_INTERVAL: Duration = Duration::from_secs(5);
/// How often the side thread is offered what it had no room for.
const HAND_OVER_INTERVAL: Duration = Duration::from_secs(1);
/// How often silent clients are looked for.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(10);
/// How often name servers hear of everything, changed or not.
const REGISTER_INTERVAL: Duration = Duration::from_secs(30);

/// Tells the name servers of the broker, and starts on this core what it does by the clock. What this starts ends by itself when
/// the broker closes, or with the core.
pub fn start(broker: &BrokerCell) {
    Broker::register_everything(broker);
    task::spawn(persist(Rc::clone(broker)));
    task::spawn(hand_over(Rc::clone(broker)));
    task::spawn(expire(Rc::clone(broker)));
    task::spawn(register(Rc::clone(broker)));
    task::spawn(delayed::deliver_delayed(Rc::clone(broker)));
    task::spawn(pull::answer_overdue(Rc::clone(broker)));
}

/// Sleeps; false when the broker has closed meanwhile.
async fn next_turn(broker: &BrokerCell, interval: Duration) -> bool {
    task::sleep(interval).await;
    !broker.borrow().is_closed()
}

async fn persist(broker: BrokerCell) {
    while next_turn(&broker, PERSIST_INTERVAL).await {
        if let Err(error) = Broker::persist(&broker).await {
            tracing::error!(%error, "offsets and configuration are not durable; trying again in 5 s");
        }
    }
}

async fn hand_over(broker: BrokerCell) {
    while next_turn(&broker, HAND_OVER_INTERVAL).await {
        let store = &mut broker.borrow_mut().store;
        store.hand_over_unsent();
        store.remember_damage();
    }
}

async fn expire(broker: BrokerCell) {
    while next_turn(&broker, EXPIRY_INTERVAL).await {
        client::expire(&broker, wall_clock_ms());
    }
}

async fn register(broker: BrokerCell) {
    while next_turn(&broker, REGISTER_INTERVAL).await {
        Broker::register_everything(&broker);
    }
}
