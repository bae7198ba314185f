//! Requests by which clients say who they are and ask who else is there: HEART_BEAT, UNREGISTER_CLIENT,
//! GET_CONSUMER_LIST_BY_GROUP, CHECK_CLIENT_CONFIG; and what follows when one is gone.

use crate::remoting::field_text::FieldText;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;

use shards::limits::{GROUPS_PER_CLIENT_MAX, SUBSCRIPTIONS_PER_GROUP_MAX};

use super::pull::property_filter;
use super::{Call, Refusal, Served};
use crate::broker::BrokerCell;
use crate::broker::consumer_table::{HeartbeatForm, Member};
use crate::broker::name::retry_topic;
use crate::broker::topic_creation::{TopicReady, topic_for_group};
use crate::remoting::body::group::ConsumerList;
use crate::remoting::body::heartbeat::{CheckClientRequestBody, ConsumerData, HeartbeatData};
use crate::remoting::code::{request, response};
use crate::remoting::fastjson;
use crate::remoting::header::client::{ConsumerGroupHeader, UnregisterClientHeader};
use crate::transport::{Connection, ConnectionId};

/// Bit of a topic's system flag that says that the group of a retry topic is a unit's own.
const SYS_FLAG_UNIT_SUB: i32 = 2;

/// HEART_BEAT (34): registers the client with its groups, and makes the retry topics that they need.
pub fn heartbeat(call: &Call<'_, '_>) -> Result<Served, Refusal> {
    let data: HeartbeatData = call.request.json_body("HeartbeatData")?;
    check_size(&data)?;
    let member = Rc::new(Member {
        connection: Rc::clone(call.connection),
        client_id: data.client_id,
        language: call.request.language,
        version: call.request.version,
        last_heartbeat_ms: Cell::new(call.now_ms),
    });
    let form = match (data.fingerprint, data.without_sub) {
        (0, _) => HeartbeatForm::Plain,
        (fingerprint, false) => HeartbeatForm::Full { fingerprint },
        (fingerprint, true) => HeartbeatForm::WithoutSubscriptions { fingerprint },
    };
    let mut subscriptions_wanted = form == HeartbeatForm::Plain;
    let mut topics_to_come = Vec::new();
    for consumer in &data.consumers {
        match register_consumer(call, consumer, &member, form)? {
            None => {}
            Some((wanted, topic)) => {
                subscriptions_wanted |= wanted;
                if let TopicReady::Later(topic) = topic {
                    topics_to_come.push(topic);
                }
            }
        }
    }
    {
        let broker = &mut *call.broker.borrow_mut();
        for producer in &data.producers {
            broker.producers.register(&producer.group_name, &member, call.now_ms);
        }
    }

    let (connection, reply_to) = (Rc::clone(call.connection), call.reply_to);
    let answer = move || {
        let ext: [(&str, &dyn FieldText); 2] =
            [("IS_SUPPORT_HEART_BEAT_V2", &true), ("IS_SUB_CHANGE", &subscriptions_wanted)];
        connection.reply(reply_to, response::SUCCESS, None, &ext, &[]);
    };
    if topics_to_come.is_empty() {
        answer();
        return Ok(Served::Now);
    }
    Ok(Served::Later(Box::pin(async move {
        for topic in topics_to_come {
            // The client's next heartbeat tries again.
            if let Err(error) = topic.await {
                tracing::warn!(%error, "a group has no retry topic yet");
            }
        }
        answer();
    })))
}

fn check_size(data: &HeartbeatData) -> Result<(), Refusal> {
    let groups = data.consumers.len().max(data.producers.len());
    if groups > GROUPS_PER_CLIENT_MAX {
        let remark = format!("{groups} groups in one heartbeat, the most is {GROUPS_PER_CLIENT_MAX}");
        return Err(Refusal::new(response::SYSTEM_ERROR, remark));
    }
    for consumer in &data.consumers {
        let (name, subscriptions) = (&consumer.group_name, consumer.subscription_data_set.len());
        if subscriptions > SUBSCRIPTIONS_PER_GROUP_MAX {
            let remark = format!(
                "group {name} has {subscriptions} subscriptions, the most is {SUBSCRIPTIONS_PER_GROUP_MAX}"
            );
            return Err(Refusal::new(response::SYSTEM_ERROR, remark));
        }
    }
    Ok(())
}

/// Registers one group of a heartbeat; `None` for a group that may not be. Returns whether its subscriptions are wanted.
fn register_consumer(
    call: &Call<'_, '_>,
    consumer: &ConsumerData,
    member: &Rc<Member>,
    form: HeartbeatForm,
) -> Result<Option<(bool, TopicReady)>, Refusal> {
    let Some(group) = call.broker.borrow_mut().groups.find_or_create(&consumer.group_name, call.now_ms)
    else {
        return Ok(None);
    };
    let sys_flag = if consumer.unit_mode { SYS_FLAG_UNIT_SUB } else { 0 };
    let queues = u32::try_from(group.retry_queue_nums).unwrap_or(0);
    let topic =
        topic_for_group(call.broker, &retry_topic(&consumer.group_name), queues, sys_flag, call.now_ms)
            .map_err(|error| Refusal::new(response::SYSTEM_ERROR, error.to_string()))?;
    let notify_enabled = group.notify_consumer_ids_changed_enable;
    let registered =
        call.broker.borrow_mut().consumers.register(consumer, member, form, notify_enabled, call.now_ms);
    notify_members_changed(&consumer.group_name, &registered.notify);
    Ok(Some((registered.subscriptions_wanted, topic)))
}

/// UNREGISTER_CLIENT (35).
pub fn unregister(call: &Call<'_, '_>) -> Result<Served, Refusal> {
    let header = UnregisterClientHeader::parse(call.request)?;
    let id = call.connection.id();
    let notify = {
        let broker = &mut *call.broker.borrow_mut();
        if let Some(group) = header.producer_group {
            broker.producers.unregister(group, id);
        }
        header.consumer_group.map(|group| {
            let enabled =
                broker.groups.get(group).is_none_or(|config| config.notify_consumer_ids_changed_enable);
            let members = broker.consumers.unregister(group, id);
            let notify: Vec<Rc<Connection>> = if enabled { members } else { Vec::new() };
            (group, notify)
        })
    };
    if let Some((group, notify)) = notify {
        notify_members_changed(group, &notify);
    }
    call.ok(&[], &[])
}

/// GET_CONSUMER_LIST_BY_GROUP (38). An unknown group is an error, upon which clients keep the queues that they have.
pub fn consumer_list(call: &Call<'_, '_>) -> Result<Served, Refusal> {
    let header = ConsumerGroupHeader::parse(call.request)?;
    let broker = call.broker.borrow();
    let Some(group) = broker.consumers.group(header.consumer_group) else {
        let remark = format!("no consumer for this group, {}", header.consumer_group);
        return Err(Refusal::new(response::SYSTEM_ERROR, remark));
    };
    // A client that has come back while its old connection is not known to be dead counts once: otherwise the others would
    // leave it two shares of the queues, of which it takes one.
    let client_ids: BTreeSet<&str> = group.members().map(|member| member.client_id.as_str()).collect();
    let consumer_id_list = client_ids.into_iter().map(str::to_owned).collect();
    call.ok(&[], &fastjson::write(&ConsumerList { consumer_id_list }))
}

/// CHECK_CLIENT_CONFIG (46): consumers ask whether their filter works here.
pub fn check_config(call: &Call<'_, '_>) -> Result<Served, Refusal> {
    let body: CheckClientRequestBody = call.request.json_body("CheckClientRequestBody")?;
    if let Some(subscription) = body.subscription_data.filter(|subscription| !subscription.is_by_tags()) {
        let broker = &mut *call.broker.borrow_mut();
        property_filter(broker, &subscription.expression_type, &subscription.sub_string)?;
    }
    call.ok(&[], &[])
}

/// Forgets the client of a connection that has ended.
pub(super) fn connection_closed(broker: &BrokerCell, id: ConnectionId) {
    let notify = {
        let broker = &mut *broker.borrow_mut();
        broker.producers.connection_closed(id);
        broker.consumers.connection_closed(id)
    };
    for (group, members) in notify {
        notify_members_changed(&group, &members);
    }
}

/// Forgets clients that have been silent for too long, and queue locks that nobody renewed.
pub fn expire(broker: &BrokerCell, now_ms: i64) {
    let notify = {
        let broker = &mut *broker.borrow_mut();
        broker.producers.expire(now_ms);
        broker.queue_locks.expire(now_ms);
        broker.consumers.expire(now_ms)
    };
    for (group, members) in notify {
        tracing::info!(group, "a silent client was forgotten");
        notify_members_changed(&group, &members);
    }
}

/// Tells members to share the queues anew.
fn notify_members_changed(group: &str, members: &[Rc<Connection>]) {
    for member in members {
        member.notify(request::NOTIFY_CONSUMER_IDS_CHANGED, &[("consumerGroup", &group)], &[]);
    }
}
