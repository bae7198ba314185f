//! What a broker does by the clock: writing its tables, forgetting silent clients, reminding name servers.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use shards::io::task;

use super::client;
use crate::broker::{Broker, BrokerCell, wall_clock_ms};

/// How often changed tables are written: what a kill may take back of committed offsets.
const PERSIST_INTERVAL: Duration = Duration::from_secs(5);
/// How often silent clients are looked for.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(10);
/// How often name servers hear of everything, changed or not.
const REGISTER_INTERVAL: Duration = Duration::from_secs(30);

/// A task that ends by itself when the broker closes.
pub type Task = Pin<Box<dyn Future<Output = ()>>>;

/// The tasks to start on the broker's core once it is open.
pub fn tasks(broker: &BrokerCell) -> Vec<Task> {
    let broker = || Rc::clone(broker);
    vec![Box::pin(persist(broker())), Box::pin(expire(broker())), Box::pin(register(broker()))]
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
