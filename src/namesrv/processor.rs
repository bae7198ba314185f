//! What the name server does with a request: the table from request code to function. The name server's core.
//!
//! Everything is answered at once, from memory, except for changes of the key-value configuration, which are answered when
//! they are durable. Refusing is returning a [`Refusal`], answered in one place.

use crate::remoting::field_text::FieldText;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tracing::{debug, info};

use super::kv_config::{KvConfigError, NAMESPACE_ORDER_TOPIC};
use super::route_table::{Origin, RegisterError, Registration};
use super::{NameServer, NameServerCell, log_gone};
use crate::remoting::body::registration::RegisterBrokerBody;
use crate::remoting::body::route::{TopicRouteData, wants_standard_json};
use crate::remoting::body::topic::{DataVersion, TopicList};
use crate::remoting::code::{request, response};
use crate::remoting::fastjson;
use crate::remoting::frame::Frame;
use crate::remoting::header::name_server::{
    BrokerHeader, BrokerHeartbeatHeader, BrokerNameHeader, ClusterHeader, KvKeyHeader, KvNamespaceHeader,
    MemberGroupHeader, NameServerTopicHeader, PutKvHeader, RegisterBrokerHeader, RouteHeader,
};
use crate::remoting::request::{HeaderError, Request};
use crate::remoting::response::ReplyTo;
use crate::transport::{Connection, Deferred};

/// A negative answer.
struct Refusal {
    code: i32,
    remark: String,
}

impl Refusal {
    fn new(code: i32, remark: impl Into<String>) -> Self {
        Self { code, remark: remark.into() }
    }
}

macro_rules! system_errors {
    ($($error:ty),*) => {$(
        impl From<$error> for Refusal {
            fn from(error: $error) -> Self {
                Self::new(response::SYSTEM_ERROR, error.to_string())
            }
        }
    )*};
}
system_errors!(HeaderError, RegisterError, KvConfigError);

/// A request as its function gets it.
struct Call<'a, 'f> {
    server: &'a mut NameServer,
    connection: &'a Rc<Connection>,
    request: &'a Request<'f>,
    reply_to: ReplyTo,
    now: Instant,
}

/// How a function ends: the rest of serving, if it must wait for something.
type Outcome = Result<Option<Deferred>, Refusal>;

/// Serves one request of one connection. A returned future answers when it ends.
///
/// # Errors
/// A header that cannot be read: the connection must end.
pub fn serve(
    server: &NameServerCell,
    connection: &Rc<Connection>,
    frame: &Frame,
) -> Result<Option<Deferred>, HeaderError> {
    let request = Request::decode(frame)?;
    if request.is_response() {
        return Ok(None);
    }
    let (reply_to, now) = (request.reply_to(), Instant::now());
    let mut server = server.borrow_mut();
    // Whoever reads the routes next must not see who has been silent for too long.
    log_gone(server.routes.evict_silent(now), "it was silent for too long");
    let call = Call { server: &mut server, connection, request: &request, reply_to, now };
    Ok(dispatch(call).unwrap_or_else(|refusal| {
        debug!(code = request.code, refusal.code, refusal.remark, "refused");
        connection.reply(reply_to, refusal.code, Some(&refusal.remark), &[], &[]);
        None
    }))
}

/// Request code → function.
fn dispatch(call: Call<'_, '_>) -> Outcome {
    match call.request.code {
        request::GET_ROUTEINFO_BY_TOPIC => route(&call),
        request::REGISTER_BROKER => register_broker(call),
        request::UNREGISTER_BROKER => unregister_broker(call),
        request::QUERY_DATA_VERSION => query_data_version(call),
        request::BROKER_HEARTBEAT => broker_heartbeat(call),
        request::GET_BROKER_CLUSTER_INFO => call.answer_json(&call.server.routes.cluster_info()),
        request::GET_BROKER_MEMBER_GROUP => member_group(&call),
        request::WIPE_WRITE_PERM_OF_BROKER => set_writable(call, false, "wipeTopicCount"),
        request::ADD_WRITE_PERM_OF_BROKER => set_writable(call, true, "addTopicCount"),
        request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER => topics(&call),
        request::GET_TOPICS_BY_CLUSTER => topics_of_cluster(&call),
        request::REGISTER_TOPIC_IN_NAMESRV => register_topic(call),
        request::DELETE_TOPIC_IN_NAMESRV => delete_topic(call),
        request::PUT_KV_CONFIG => put_kv(call),
        request::GET_KV_CONFIG => get_kv(&call),
        request::DELETE_KV_CONFIG => delete_kv(call),
        request::GET_KVLIST_BY_NAMESPACE => kv_namespace(&call),
        code => Err(Refusal::new(
            response::REQUEST_CODE_NOT_SUPPORTED,
            format!(" request type {code} not supported"),
        )),
    }
}

impl Call<'_, '_> {
    fn answer(&self, ext: &[(&str, &dyn FieldText)], body: &[u8]) -> Outcome {
        self.connection.reply(self.reply_to, response::SUCCESS, None, ext, body);
        Ok(None)
    }

    fn answer_json(&self, body: &impl Serialize) -> Outcome {
        self.answer(&[], &fastjson::write(body))
    }

    /// Answers when `durable` ends.
    fn answer_after(&self, durable: impl Future<Output = Result<(), KvConfigError>> + 'static) -> Outcome {
        let (connection, reply_to) = (Rc::clone(self.connection), self.reply_to);
        Ok(Some(Box::pin(async move {
            match durable.await {
                Ok(()) => connection.reply(reply_to, response::SUCCESS, None, &[], &[]),
                Err(error) => {
                    connection.reply(reply_to, response::SYSTEM_ERROR, Some(&error.to_string()), &[], &[]);
                }
            }
        })))
    }
}

fn route(call: &Call<'_, '_>) -> Outcome {
    let header = RouteHeader::parse(call.request)?;
    let Some(route) = call.server.routes.route(header.topic) else {
        let remark = format!("No topic route info in name server for the topic: {}", header.topic);
        return Err(Refusal::new(response::TOPIC_NOT_EXIST, remark));
    };
    let body = if wants_standard_json(call.request.version, header.accept_standard_json_only) {
        fastjson::write_standard(&route)
    } else {
        fastjson::write(&route)
    };
    call.answer(&[], &body)
}

fn register_broker(call: Call<'_, '_>) -> Outcome {
    let header = RegisterBrokerHeader::parse(call.request)?;
    check_crc(call.request.body, header.body_crc32)?;
    let body = RegisterBrokerBody::decode(call.request.body, header.compressed)?;
    let topics = body.topic_config_serialize_wrapper;
    // A time of 0 or below would take the broker out at once.
    let silence_max = header.heartbeat_timeout_ms.and_then(|ms| u64::try_from(ms).ok()).filter(|&ms| ms > 0);
    let registration = Registration {
        cluster: header.cluster_name.to_owned(),
        broker_name: header.broker_name.to_owned(),
        broker_id: header.broker_id,
        broker_addr: header.broker_addr.to_owned(),
        ha_server_addr: header.ha_server_addr.to_owned(),
        zone_name: header.zone_name.map(str::to_owned),
        enable_acting_master: header.enable_acting_master,
        data_version: topics.data_version,
        topics: topics.topic_config_table.into_values().collect(),
        complete: false,
        origin: Origin::Connection {
            id: call.connection.id(),
            silence_max: silence_max.map(Duration::from_millis),
        },
    };
    let told = call.server.routes.register(registration, call.now)?;
    let mut ext: Vec<(&str, &dyn FieldText)> = Vec::new();
    if let Some(addr) = &told.ha_server_addr {
        ext.push(("haServerAddr", addr));
    }
    if let Some(addr) = &told.master_addr {
        ext.push(("masterAddr", addr));
    }
    let order_topics = call.server.kv_config.namespace(NAMESPACE_ORDER_TOPIC);
    call.answer(&ext, &order_topics.map(|table| fastjson::write(&table)).unwrap_or_default())
}

/// 0 stands for not checked, as old brokers send it.
fn check_crc(body: &[u8], expected: i32) -> Result<(), Refusal> {
    let mut crc = flate2::Crc::new();
    crc.update(body);
    if expected != 0 && crc.sum() != expected.cast_unsigned() {
        return Err(Refusal::new(response::SYSTEM_ERROR, "crc32 not match"));
    }
    Ok(())
}

fn unregister_broker(call: Call<'_, '_>) -> Outcome {
    let header = BrokerHeader::parse(call.request)?;
    let gone = call.server.routes.unregister(header.cluster_name, header.broker_addr, header.broker_name);
    log_gone(gone.into_iter().collect(), "it unregistered");
    call.answer(&[], &[])
}

fn query_data_version(call: Call<'_, '_>) -> Outcome {
    let header = BrokerHeader::parse(call.request)?;
    let theirs: DataVersion = call.request.json_body("DataVersion")?;
    let known = call.server.routes.heard(header.cluster_name, header.broker_addr, call.now);
    let body = known.map(|known| fastjson::write(&known)).unwrap_or_default();
    call.answer(&[("changed", &(known != Some(theirs)))], &body)
}

fn broker_heartbeat(call: Call<'_, '_>) -> Outcome {
    let header = BrokerHeartbeatHeader::parse(call.request)?;
    call.server.routes.heard(header.cluster_name, header.broker_addr, call.now);
    call.answer(&[], &[])
}

fn member_group(call: &Call<'_, '_>) -> Outcome {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Body<T> {
        broker_member_group: T,
    }
    let header = MemberGroupHeader::parse(call.request)?;
    let broker_member_group = call.server.routes.member_group(header.cluster_name, header.broker_name);
    call.answer_json(&Body { broker_member_group })
}

fn set_writable(call: Call<'_, '_>, writable: bool, count_name: &str) -> Outcome {
    let header = BrokerNameHeader::parse(call.request)?;
    let count = call.server.routes.set_writable(header.broker_name, writable);
    info!(header.broker_name, writable, topics = count, peer = %call.connection.peer(), "write permission changed");
    call.answer(&[(count_name, &count)], &[])
}

fn topics(call: &Call<'_, '_>) -> Outcome {
    call.answer_json(&TopicList { broker_addr: None, topic_list: call.server.routes.topics() })
}

fn topics_of_cluster(call: &Call<'_, '_>) -> Outcome {
    let header = ClusterHeader::parse(call.request)?;
    let topic_list = call.server.routes.topics_of_cluster(header.cluster);
    call.answer_json(&TopicList { broker_addr: None, topic_list })
}

fn register_topic(call: Call<'_, '_>) -> Outcome {
    let header = NameServerTopicHeader::parse(call.request)?;
    let route: TopicRouteData = call.request.json_body("TopicRouteData")?;
    call.server.routes.add_topic(header.topic, route.queue_datas);
    call.answer(&[], &[])
}

fn delete_topic(call: Call<'_, '_>) -> Outcome {
    let header = NameServerTopicHeader::parse(call.request)?;
    call.server.routes.delete_topic(header.topic, header.cluster_name.filter(|name| !name.is_empty()));
    call.answer(&[], &[])
}

fn put_kv(call: Call<'_, '_>) -> Outcome {
    let header = PutKvHeader::parse(call.request)?;
    let durable = call.server.kv_config.put(header.namespace, header.key, header.value)?;
    call.answer_after(durable)
}

fn get_kv(call: &Call<'_, '_>) -> Outcome {
    let header = KvKeyHeader::parse(call.request)?;
    match call.server.kv_config.get(header.namespace, header.key) {
        Some(value) => call.answer(&[("value", &value)], &[]),
        None => Err(Refusal::new(
            response::QUERY_NOT_FOUND,
            format!("No config item, Namespace: {} Key: {}", header.namespace, header.key),
        )),
    }
}

fn delete_kv(call: Call<'_, '_>) -> Outcome {
    let header = KvKeyHeader::parse(call.request)?;
    let durable = call.server.kv_config.delete(header.namespace, header.key);
    call.answer_after(durable)
}

fn kv_namespace(call: &Call<'_, '_>) -> Outcome {
    let header = KvNamespaceHeader::parse(call.request)?;
    match call.server.kv_config.namespace(header.namespace) {
        Some(table) => call.answer_json(&table),
        None => Err(Refusal::new(
            response::QUERY_NOT_FOUND,
            format!("No config item, Namespace: {}", header.namespace),
        )),
    }
}

#[cfg(test)]
mod tests;
