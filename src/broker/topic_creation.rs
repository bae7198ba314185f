//! Making a topic so that it stays: in the table, then on the disk, then known to name servers and, if a send made it, on the
//! other shards of the set.
//!
//! A topic that is in the table but not on the disk yet is waited for by everyone who wants to use it, so that nothing is
//! acknowledged to a topic that a kill could take back.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use runtime::task;
use shards::side_writer::ConfigWriteError;

use super::topic_table::{NewTopic, TopicError};
use super::{Broker, BrokerCell, wall_clock_ms};
use crate::remoting::body::topic::TopicConfig;

/// Why a topic is not to be had.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TopicUnavailable {
    /// It may not be made. Status TOPIC_NOT_EXIST for a send.
    #[error(transparent)]
    Refused(#[from] TopicError),
    /// It could not be made durable. Status SYSTEM_ERROR; goes away when the disk takes the file again.
    #[error("topic configuration is not durable: {0}")]
    NotDurable(#[from] ConfigWriteError),
}

/// A topic, at once or when it is durable.
pub enum TopicReady {
    Now(Rc<TopicConfig>),
    Later(Pin<Box<dyn Future<Output = Result<Rc<TopicConfig>, TopicUnavailable>>>>),
}

impl std::fmt::Debug for TopicReady {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Now(config) => f.debug_tuple("Now").field(config).finish(),
            Self::Later(_) => f.write_str("Later"),
        }
    }
}

/// The topic that a send names; made from the default topic if it is missing.
///
/// # Errors
/// It is missing and may not be made.
pub fn topic_for_send(
    broker: &BrokerCell,
    new: &NewTopic<'_>,
    now_ms: i64,
) -> Result<TopicReady, TopicUnavailable> {
    if let Some(config) = broker.borrow().durable_topic(new.topic) {
        return Ok(TopicReady::Now(Rc::clone(config)));
    }
    let made = !broker.borrow().topics.contains(new.topic);
    let config = broker.borrow_mut().topics.create_for_send(new, now_ms)?;
    Ok(ready(broker, config, made.then_some(Spread::AllShards)))
}

/// A group's `%RETRY%` or `%DLQ%` topic; made if it is missing. Each shard makes its own when a member or a message comes to it.
///
/// # Errors
/// It is missing and its name cannot be.
pub fn topic_for_group(
    broker: &BrokerCell,
    topic: &str,
    queues: u32,
    topic_sys_flag: i32,
    now_ms: i64,
) -> Result<TopicReady, TopicUnavailable> {
    let made = !broker.borrow().topics.contains(topic);
    let config = broker.borrow_mut().topics.create_for_group(topic, queues, topic_sys_flag, now_ms)?;
    Ok(ready(broker, config, made.then_some(Spread::ThisShard)))
}

/// Makes or changes a topic as a tool asks for it, which speaks to every broker itself.
///
/// # Errors
/// Its name or number of queues cannot be.
pub fn put_topic(
    broker: &BrokerCell,
    config: TopicConfig,
    now_ms: i64,
) -> Result<TopicReady, TopicUnavailable> {
    let before = broker.borrow().topics.generation();
    let config = broker.borrow_mut().topics.put(config, now_ms)?;
    let made = broker.borrow().topics.generation() != before;
    Ok(ready(broker, config, made.then_some(Spread::ThisShard)))
}

/// Makes a topic here that a first send made on another shard of the set; keeps the one that there is. Goes on by itself.
pub fn create_topic_from_elsewhere(broker: &BrokerCell, config: TopicConfig) {
    if broker.borrow().topics.contains(&config.topic_name) {
        return;
    }
    let topic = config.topic_name.clone();
    let unavailable =
        move |error| tracing::warn!(topic, %error, "a topic of the other shards is missing here");
    match put_topic(broker, config, wall_clock_ms()) {
        Ok(TopicReady::Now(_)) => {}
        Ok(TopicReady::Later(later)) => task::spawn(async move {
            if let Err(error) = later.await {
                unavailable(error);
            }
        }),
        Err(error) => unavailable(error),
    }
}

/// Removes a topic with its queues and offsets; durable when the future is done. Returns whether there was one.
pub async fn remove_topic(broker: BrokerCell, topic: String, now_ms: i64) -> Result<bool, ConfigWriteError> {
    let (was_there, generation) = {
        let broker = &mut *broker.borrow_mut();
        let was_there = broker.topics.remove(&topic, now_ms);
        broker.offsets.remove_topic(&topic, now_ms);
        if was_there {
            broker.store.delete_topic(&topic);
            broker.traffic.forget_topic(&topic);
        }
        (was_there, broker.topics.generation())
    };
    Broker::hold_topics(&broker, generation).await?;
    if was_there {
        Broker::register_everything(&broker);
    }
    Ok(was_there)
}

/// Who else has to have a topic that was just made.
#[derive(Clone, Copy)]
enum Spread {
    ThisShard,
    AllShards,
}

fn ready(broker: &BrokerCell, config: Rc<TopicConfig>, made: Option<Spread>) -> TopicReady {
    let generation = {
        let broker = broker.borrow();
        let generation = broker.topics.generation_of(&config.topic_name).unwrap_or_default();
        if made.is_none() && broker.files.topics.holds(generation) {
            return TopicReady::Now(config);
        }
        generation
    };
    let broker = Rc::clone(broker);
    TopicReady::Later(Box::pin(async move {
        Broker::hold_topics(&broker, generation).await?;
        if let Some(spread) = made {
            // Nothing is borrowed while the outside is told: it may lead back here.
            let (outside, registration) = {
                let broker = broker.borrow();
                tracing::info!(broker = broker.identity.broker_name, ?config, "topic made or changed");
                (Rc::clone(&broker.outside), broker.registration_of((*config).clone()))
            };
            outside.register(registration);
            if matches!(spread, Spread::AllShards) {
                outside.create_topic_elsewhere(&config);
            }
        }
        Ok(config)
    }))
}
