//! Looks at the ages of the log's files and at the disk by the clock, lets go what is old, and stops sends while the disk is too full.
//! Serve core; what touches the disk is done on the side thread.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use runtime::task;
use shards::message_store::TimeBoundary;
use shards::retention::{DiskSurvey, LongerReserve, Moment, Removal, decide};

use super::{Call, Refusal, Served};
use crate::broker::disk_watch::reserve_of;
use crate::broker::{Broker, BrokerCell, wall_clock_ms};
use crate::remoting::code::response;

/// Time between two looks, as in RocketMQ, and while somebody waits for the next one or the disk is too full.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
const URGENT_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often the looks ask whether somebody waits.
const TURN_INTERVAL: Duration = Duration::from_millis(250);

/// DELETE_EXPIRED_COMMITLOG (329): expired files go now, whatever the hour.
pub fn delete_expired(call: &Call<'_, '_>) -> Result<Served, Refusal> {
    call.broker.borrow_mut().disk.ask();
    call.ok(&[], &[])
}

/// Refuses what would be stored while the disk is too full.
///
/// # Errors
/// It is.
pub(super) fn check_room(broker: &Broker) -> Result<(), Refusal> {
    match broker.disk.refusal() {
        Some(reason) => {
            let remark = format!("service not available now, {reason}");
            Err(Refusal::new(response::SERVICE_NOT_AVAILABLE, remark))
        }
        None => Ok(()),
    }
}

/// Looks until the broker closes.
pub async fn retain(cell: BrokerCell) {
    let mut looked: Option<Instant> = None;
    let is_removing = Rc::new(Cell::new(false));
    while !cell.borrow().is_closed() {
        let interval = {
            let broker = cell.borrow();
            let is_urgent = broker.disk.is_urgent(broker.settings.retention.expired_above_percent);
            if is_urgent { URGENT_LOOK_INTERVAL } else { LOOK_INTERVAL }
        };
        if looked.is_none_or(|at| at.elapsed() >= interval) {
            looked = Some(Instant::now());
            look(&cell, &is_removing).await;
        }
        task::sleep(TURN_INTERVAL).await;
    }
}

/// Looks at the disk, and starts a removal when one is due and none is under way.
async fn look(cell: &BrokerCell, is_removing: &Rc<Cell<bool>>) {
    let survey = cell.borrow().store.survey();
    let survey = match survey.await {
        Ok(survey) => survey,
        Err(error) => return complain(cell, "looked at", &error),
    };
    watch(&mut cell.borrow_mut(), &survey);
    if is_removing.get() {
        return;
    }
    let Some(removal) = due(&mut cell.borrow_mut(), &survey) else { return };
    let name = cell.borrow().identity.broker_name.clone();
    let Removal { before, files, cause } = &removal;
    let used_percent = survey.usage.used_percent();
    tracing::info!(broker = name, files, log_start = %before, ?cause, used_percent, "old CommitLog files are removed");
    is_removing.set(true);
    let (cell, is_removing) = (Rc::clone(cell), Rc::clone(is_removing));
    // A task of its own: however long the disk takes for it, the looks go on.
    task::spawn(async move {
        let removed = {
            let broker = &mut *cell.borrow_mut();
            broker.store.remove_before(removal.before, broker.settings.retention.expired_above_percent)
        };
        match removed.await {
            Ok(starts) => cell.borrow_mut().store.removed(starts),
            Err(error) => complain(&cell, "removed", &error),
        }
        is_removing.set(false);
    });
}

fn complain(cell: &BrokerCell, what: &str, error: &std::io::Error) {
    let broker = cell.borrow();
    // The side thread of a closed store answers nobody.
    if !broker.is_closed() {
        let dir = broker.store.dir();
        tracing::error!(dir = %dir.display(), %error, "old CommitLog files could not be {what}; trying again");
    }
}

/// Sends are refused, or taken again, as the disk is.
fn watch(broker: &mut Broker, survey: &DiskSurvey) {
    let above_percent = broker.settings.retention.refuse_above_percent;
    let dir = broker.store.dir();
    if !broker.disk.found(&dir, survey.usage, above_percent) {
        return;
    }
    let name = &broker.identity.broker_name;
    match broker.disk.refusal() {
        Some(reason) => tracing::warn!(broker = name, reason, "no messages are taken"),
        None => tracing::info!(broker = name, "there is room on the disk, messages are taken again"),
    }
}

fn due(broker: &mut Broker, survey: &DiskSurvey) -> Option<Removal> {
    let rules = &broker.settings.retention;
    let is_hour =
        u8::try_from(jiff::Zoned::now().hour()).is_ok_and(|hour| rules.delete_hours.contains(&hour));
    let is_due = broker.disk.take_asked() || is_hour;
    let reserved = rules.reserved;
    let longer: Vec<_> = broker
        .topics
        .iter()
        .filter_map(|topic| Some((topic, reserve_of(&topic.attributes).filter(|wanted| *wanted > reserved)?)))
        .filter_map(|(topic, reserved)| {
            let first_physical = broker.store.first_physical(&topic.topic_name)?;
            Some(LongerReserve { first_physical, reserved })
        })
        .collect();
    let moment = Moment {
        now_ms: wall_clock_ms(),
        is_due,
        segment_bytes: broker.store.segment_bytes(),
        written_end: broker.store.written_end(),
        longer: &longer,
    };
    decide(rules, survey, &moment)
}

/// Queues of topics that keep their messages for a shorter time than the log is kept begin where that time does.
pub(super) async fn move_queues_on(cell: &BrokerCell) {
    let shorter: Vec<_> = {
        let broker = cell.borrow();
        let reserved = broker.settings.retention.reserved;
        let wanted = broker.topics.iter().filter_map(|topic| {
            let wanted = reserve_of(&topic.attributes).filter(|wanted| *wanted < reserved)?;
            Some((Rc::clone(topic), i64::try_from(wanted.as_millis()).ok()?))
        });
        wanted.collect()
    };
    for (topic, reserved_ms) in shorter {
        for queue_id in 0..topic.read_queue_nums.max(topic.write_queue_nums) {
            let (name, since_ms) = (&topic.topic_name, wall_clock_ms().saturating_sub(reserved_ms));
            let first = cell.borrow().store.offset_by_time(name, queue_id, since_ms, TimeBoundary::Lower);
            match first.await {
                Ok(first) => cell.borrow_mut().store.start_queue_at(name, queue_id, first),
                Err(error) => {
                    tracing::error!(topic = name, queue_id, %error, "old messages are kept, as their times cannot be read");
                }
            }
        }
    }
}
