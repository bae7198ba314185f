//! Topics as tools make, change, list and remove them: UPDATE_AND_CREATE_TOPIC and its kin.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::{Call, Refusal, Served};
use crate::broker::topic_creation::{TopicReady, TopicUnavailable, put_topic, remove_topic};
use crate::broker::topic_table::TopicError;
use crate::remoting::body::topic::{TopicConfig, TopicList};
use crate::remoting::code::response;
use crate::remoting::fastjson;
use crate::remoting::header::admin::{CreateTopicHeader, TopicHeader};

impl From<TopicUnavailable> for Refusal {
    fn from(error: TopicUnavailable) -> Self {
        let code = match &error {
            TopicUnavailable::Refused(TopicError::Name(_) | TopicError::TooManyQueues { .. }) => {
                response::INVALID_PARAMETER
            }
            TopicUnavailable::Refused(
                TopicError::NoDefaultTopic { .. } | TopicError::NotInherited { .. },
            ) => response::TOPIC_NOT_EXIST,
            TopicUnavailable::Refused(TopicError::TooManyTopics { .. }) | TopicUnavailable::NotDurable(_) => {
                response::SYSTEM_ERROR
            }
        };
        Self::new(code, error.to_string())
    }
}

/// UPDATE_AND_CREATE_TOPIC (17): answered when durable.
pub fn create(call: &Call<'_, '_>) -> Result<Served, Refusal> {
    let header = CreateTopicHeader::parse(call.request)?;
    refuse_system_topic(call, header.topic)?;
    let queues = |count: i32, name: &str| {
        let refusal =
            || Refusal::new(response::INVALID_PARAMETER, format!("{name} is {count}, not 0 or more"));
        u32::try_from(count).map_err(|_| refusal())
    };
    let known = call.broker.borrow().topics.get(header.topic).map(Rc::clone);
    let mut attributes = known.map(|known| known.attributes.clone()).unwrap_or_default();
    change_attributes(&mut attributes, header.attributes.unwrap_or_default())?;
    let config = TopicConfig {
        attributes,
        order: header.order,
        perm: header.perm,
        read_queue_nums: queues(header.read_queue_nums, "readQueueNums")?,
        topic_filter_type: header.topic_filter_type.unwrap_or("SINGLE_TAG").to_owned(),
        topic_name: header.topic.to_owned(),
        topic_sys_flag: header.topic_sys_flag,
        write_queue_nums: queues(header.write_queue_nums, "writeQueueNums")?,
    };
    match put_topic(call.broker, config, call.now_ms)? {
        TopicReady::Now(_) => call.ok(&[], &[]),
        TopicReady::Later(topic) => {
            let (connection, reply_to) = (Rc::clone(call.connection), call.reply_to);
            Ok(Served::Later(Box::pin(async move {
                match topic.await {
                    Ok(_) => connection.reply(reply_to, response::SUCCESS, None, &[], &[]),
                    Err(error) => Refusal::from(error).send(&connection, reply_to),
                }
            })))
        }
    }
}

/// Applies `+key=value,-key`; anything else is refused, as the tool's user meant something by it.
fn change_attributes(attributes: &mut BTreeMap<String, String>, changes: &str) -> Result<(), Refusal> {
    for change in changes.split(',').map(str::trim).filter(|change| !change.is_empty()) {
        match (change.strip_prefix('+').and_then(|add| add.split_once('=')), change.strip_prefix('-')) {
            (Some((key, value)), _) => drop(attributes.insert(key.to_owned(), value.to_owned())),
            (None, Some(key)) => drop(attributes.remove(key)),
            (None, None) => {
                let remark = format!("the attribute \"{change}\" is neither +key=value nor -key");
                return Err(Refusal::new(response::INVALID_PARAMETER, remark));
            }
        }
    }
    Ok(())
}

/// DELETE_TOPIC_IN_BROKER (215): answered when durable.
pub fn delete(call: &Call<'_, '_>) -> Result<Served, Refusal> {
    let header = TopicHeader::parse(call.request)?;
    if header.topic.trim().is_empty() {
        return Err(Refusal::new(response::INVALID_PARAMETER, "The specified topic is blank."));
    }
    refuse_system_topic(call, header.topic)?;
    let removed = remove_topic(Rc::clone(call.broker), header.topic.to_owned(), call.now_ms);
    let (connection, reply_to) = (Rc::clone(call.connection), call.reply_to);
    Ok(Served::Later(Box::pin(async move {
        match removed.await {
            Ok(_) => connection.reply(reply_to, response::SUCCESS, None, &[], &[]),
            Err(error) => {
                Refusal::new(response::SYSTEM_ERROR, error.to_string()).send(&connection, reply_to);
            }
        }
    })))
}

fn refuse_system_topic(call: &Call<'_, '_>, topic: &str) -> Result<(), Refusal> {
    if call.broker.borrow().topics.is_system(topic) {
        let remark = format!("The topic[{topic}] is conflict with system topic.");
        return Err(Refusal::new(response::INVALID_PARAMETER, remark));
    }
    Ok(())
}

/// GET_TOPIC_CONFIG (351): the configuration of one topic.
pub fn config(call: &Call<'_, '_>) -> Result<Served, Refusal> {
    let header = TopicHeader::parse(call.request)?;
    let broker = call.broker.borrow();
    let Some(config) = broker.topics.get(header.topic) else {
        let remark = format!("No topic in this broker. topic: {}", header.topic);
        return Err(Refusal::new(response::TOPIC_NOT_EXIST, remark));
    };
    call.ok(&[], &fastjson::write(&**config))
}

/// GET_ALL_TOPIC_CONFIG (21): the table as `topics.json` has it.
pub fn all_configs(call: &Call<'_, '_>) -> Result<Served, Refusal> {
    let broker = call.broker.borrow();
    call.ok(&[("totalTopicNum", &broker.topics.len())], &broker.topics.to_file())
}

/// GET_SYSTEM_TOPIC_LIST_FROM_BROKER (305).
pub fn system_topics(call: &Call<'_, '_>) -> Result<Served, Refusal> {
    let broker = call.broker.borrow();
    let names = broker.topics.iter().map(|config| config.topic_name.as_str());
    let topic_list = names.filter(|name| broker.topics.is_system(name)).map(str::to_owned).collect();
    call.ok(&[], &fastjson::write(&TopicList { broker_addr: None, topic_list }))
}
