//! What a broker does by the clock: writing its tables, forgetting silent clients, reminding name servers, handing to the side thread
//! what it had no room for.

use std::rc::Rc;
use std::time::{Duration, Instant};

use runtime::task;
use shards::message_store::scrub::{SCRUB_BYTES, ScrubStep};

use super::{client, delayed, pull, retention};
use crate::broker::{Broker, BrokerCell, wall_clock_ms};

/// How often changed tables are written: what a kill may take back of committed offsets.
const PERSIST_INTERVAL: Duration = Duration::from_secs(5);
/// How often the side thread is offered what it had no room for.
const HAND_OVER_INTERVAL: Duration = Duration::from_secs(1);
/// Rests of the check of what is stored: after a stretch at least and at most, while the log is written to, and when the disk refused.
const SCRUB_REST_MIN: Duration = Duration::from_millis(1);
const SCRUB_REST_MAX: Duration = Duration::from_secs(60);
const SCRUB_PAUSE: Duration = Duration::from_secs(1);
const SCRUB_RETRY: Duration = Duration::from_secs(5);
/// How often silent clients are looked for.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(10);
/// How often queues of topics that keep their messages for a shorter time than the log is kept are moved on.
const SHORTEN_INTERVAL: Duration = Duration::from_secs(60);
/// How often name servers hear of everything, changed or not.
const REGISTER_INTERVAL: Duration = Duration::from_secs(30);

/// Tells the name servers of the broker, and starts on this core what it does by the clock. What this starts ends by itself when
/// the broker closes, or with the core.
pub fn start(broker: &BrokerCell) {
    Broker::register_everything(broker);
    task::spawn(persist(Rc::clone(broker)));
    task::spawn(hand_over(Rc::clone(broker)));
    task::spawn(expire(Rc::clone(broker)));
    let scrub_interval = broker.borrow().settings.scrub_interval;
    if let Some(interval) = scrub_interval {
        task::spawn(scrub(Rc::clone(broker), interval));
    }
    task::spawn(retention::retain(Rc::clone(broker)));
    task::spawn(shorten(Rc::clone(broker)));
    task::spawn(register(Rc::clone(broker)));
    task::spawn(delayed::deliver_delayed(Rc::clone(broker)));
    task::spawn(pull::answer_overdue(Rc::clone(broker)));
}

/// Sleeps; false when the broker has closed meanwhile.
async fn next_turn(broker: &BrokerCell, interval: Duration) -> bool {
    task::sleep(interval).await;
    !broker.borrow().is_closed()
}

async fn shorten(broker: BrokerCell) {
    while next_turn(&broker, SHORTEN_INTERVAL).await {
        retention::move_queues_on(&broker).await;
    }
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
        store.take_rebuilt();
        store.remember_damage();
    }
}

/// Checks all that is stored, once in each interval.
async fn scrub(broker: BrokerCell, interval: Duration) {
    let mut scrub = broker.borrow().store.scrub();
    let mut begun = Instant::now();
    let mut rest = SCRUB_REST_MIN;
    while next_turn(&broker, rest).await {
        let (log_bytes, checked_bytes) = scrub.progress();
        let pace = Pace { interval, elapsed: begun.elapsed(), log_bytes, checked_bytes };
        if scrub.is_beside_writes() && !pace.is_behind() {
            rest = SCRUB_PAUSE;
            continue;
        }
        match scrub.step().await {
            Ok(ScrubStep::Checked(_)) => rest = pace.rest(),
            Ok(ScrubStep::PassEnded) => {
                // The next pass begins when its time comes.
                rest = interval.saturating_sub(begun.elapsed()).max(SCRUB_PAUSE);
                begun = Instant::now() + rest;
            }
            Err(error) => {
                tracing::error!(%error, "what is stored could not be checked; trying again");
                rest = SCRUB_RETRY;
            }
        }
    }
}

/// How far a check should be, and how far it is.
struct Pace {
    interval: Duration,
    elapsed: Duration,
    log_bytes: u64,
    checked_bytes: u64,
}

impl Pace {
    /// Whether it would not end in time if it went on as slowly.
    fn is_behind(&self) -> bool {
        let wanted = self.elapsed.as_secs_f64() / self.interval.as_secs_f64();
        (self.checked_bytes as f64) < wanted * self.log_bytes as f64
    }

    /// How long it rests after a stretch: half as long as it could, so that it has time left for what is more urgent, and shorter when it is
    /// behind.
    fn rest(&self) -> Duration {
        let stretches = self.log_bytes.div_ceil(SCRUB_BYTES).max(1);
        let share = self.interval.div_f64(stretches as f64) / if self.is_behind() { 4 } else { 2 };
        share.clamp(SCRUB_REST_MIN, SCRUB_REST_MAX)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_rests_so_that_it_ends_in_time() {
        let pace = |elapsed_s, checked_bytes| Pace {
            interval: Duration::from_secs(1000),
            elapsed: Duration::from_secs(elapsed_s),
            log_bytes: 100 * SCRUB_BYTES,
            checked_bytes,
        };
        assert_eq!(pace(0, 0).rest(), Duration::from_secs(5));
        assert!(!pace(500, 50 * SCRUB_BYTES).is_behind() && pace(510, 50 * SCRUB_BYTES).is_behind());
        assert_eq!(pace(510, 50 * SCRUB_BYTES).rest(), Duration::from_millis(2500));
        let nothing = Pace {
            interval: Duration::from_secs(1),
            elapsed: Duration::ZERO,
            log_bytes: 0,
            checked_bytes: 0,
        };
        assert!(nothing.rest() <= Duration::from_secs(1), "an empty log");
    }
}
