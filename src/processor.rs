//! What the broker does with a request: the table from request code to function. Serve core.
//!
//! A function gets a [`Call`], answers through the connection, now or later, and returns; refusing is returning a [`Refusal`],
//! which is answered here, so that a oneway request is never answered and no error path forgets its reply. Nothing here
//! holds a borrow of the broker across an `await`.

pub mod admin;
pub mod client;
pub mod commit;
pub mod delayed;
pub mod lock;
pub mod offset;
pub mod pull;
pub mod query;
pub mod retention;
pub mod send;
pub mod send_back;
#[cfg(test)]
mod tests;
pub mod topic;
pub mod upkeep;

use crate::remoting::field_text::FieldText;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use runtime::task;
use shards::limits::PULL_BYTES_MAX;

use crate::broker::{BrokerCell, wall_clock_ms};
use crate::remoting::code::{request, response};
use crate::remoting::frame::Frame;
use crate::remoting::request::{HeaderError, Request};
use crate::remoting::response::ReplyTo;
use crate::transport::{Connection, ConnectionId};

/// Whether the connection may read its next request already.
pub enum Served {
    /// All that has to happen in order has happened; the answer may still come later.
    Now,
    /// The connection awaits this before its next request, as what follows may rely on it (a topic being made).
    Later(Pin<Box<dyn Future<Output = ()>>>),
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Now => "Now",
            Self::Later(_) => "Later",
        })
    }
}

/// A request as its function gets it.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a, 'f> {
    pub broker: &'a BrokerCell,
    pub connection: &'a Rc<Connection>,
    /// What `request` was read from: whoever answers later keeps a clone, which costs two reference counts.
    pub frame: &'a Frame,
    pub request: &'a Request<'f>,
    pub reply_to: ReplyTo,
    /// When the request was read, milliseconds since the epoch.
    pub now_ms: i64,
}

impl Call<'_, '_> {
    /// Answers with success.
    ///
    /// # Errors
    /// Never: the type is what functions of the table return.
    pub fn ok(&self, ext: &[(&str, &dyn FieldText)], body: &[u8]) -> Result<Served, Refusal> {
        self.connection.reply(self.reply_to, response::SUCCESS, None, ext, body);
        Ok(Served::Now)
    }

    /// Lets `answer` go on by itself: requests that follow do not wait for it. It counts against the connection as much as a pull.
    ///
    /// # Errors
    /// Never: the type is what functions of the table return.
    pub fn answer_later(&self, answer: impl Future<Output = ()> + 'static) -> Result<Served, Refusal> {
        let connection = Rc::clone(self.connection);
        connection.add_in_flight(PULL_BYTES_MAX);
        task::spawn(async move {
            answer.await;
            connection.sub_in_flight(PULL_BYTES_MAX);
        });
        Ok(Served::Now)
    }
}

/// A negative answer: a response code and what is wrong, as the client will read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: i32,
    pub remark: String,
}

impl Refusal {
    pub fn new(code: i32, remark: impl Into<String>) -> Self {
        Self { code, remark: remark.into() }
    }

    /// Answers a request with it.
    pub fn send(&self, connection: &Connection, reply_to: ReplyTo) {
        connection.reply(reply_to, self.code, Some(&self.remark), &[], &[]);
    }
}

impl From<HeaderError> for Refusal {
    fn from(error: HeaderError) -> Self {
        Self::new(response::SYSTEM_ERROR, error.to_string())
    }
}

/// Serves one request of one connection.
///
/// # Errors
/// A header that cannot be read: the connection must end.
pub fn serve(broker: &BrokerCell, connection: &Rc<Connection>, frame: &Frame) -> Result<Served, HeaderError> {
    let request = Request::decode(frame)?;
    if request.is_response() {
        return Ok(Served::Now);
    }
    let reply_to = request.reply_to();
    let call = Call { broker, connection, frame, request: &request, reply_to, now_ms: wall_clock_ms() };
    match dispatch(&call) {
        Ok(served) => Ok(served),
        Err(refusal) => {
            refusal.send(connection, reply_to);
            if refusal.code == response::SYSTEM_BUSY {
                connection.rest();
            }
            Ok(Served::Now)
        }
    }
}

/// Request code → function.
fn dispatch(call: &Call<'_, '_>) -> Result<Served, Refusal> {
    match call.request.code {
        request::SEND_MESSAGE | request::SEND_MESSAGE_V2 | request::SEND_BATCH_MESSAGE => send::send(call),
        request::PULL_MESSAGE | request::LITE_PULL_MESSAGE => pull::pull(call),
        request::CONSUMER_SEND_MSG_BACK => send_back::send_back(call),
        request::QUERY_MESSAGE => query::query_message(call),
        request::VIEW_MESSAGE_BY_ID => query::view_message_by_id(call),

        request::HEART_BEAT => client::heartbeat(call),
        request::UNREGISTER_CLIENT => client::unregister(call),
        request::GET_CONSUMER_LIST_BY_GROUP => client::consumer_list(call),
        request::CHECK_CLIENT_CONFIG => client::check_config(call),

        request::QUERY_CONSUMER_OFFSET => offset::query(call),
        request::UPDATE_CONSUMER_OFFSET => offset::update(call),
        request::GET_MAX_OFFSET => offset::max(call),
        request::GET_MIN_OFFSET => offset::min(call),
        request::GET_EARLIEST_MSG_STORETIME => offset::earliest_store_time(call),
        request::SEARCH_OFFSET_BY_TIMESTAMP => offset::search(call),

        request::LOCK_BATCH_MQ => lock::lock(call),
        request::UNLOCK_BATCH_MQ => lock::unlock(call),

        request::UPDATE_AND_CREATE_TOPIC => topic::create(call),
        request::DELETE_TOPIC_IN_BROKER => topic::delete(call),
        request::GET_TOPIC_CONFIG => topic::config(call),
        request::GET_ALL_TOPIC_CONFIG => topic::all_configs(call),
        request::GET_SYSTEM_TOPIC_LIST_FROM_BROKER => topic::system_topics(call),

        request::GET_BROKER_RUNTIME_INFO => admin::runtime_info(call),
        request::DELETE_EXPIRED_COMMITLOG => retention::delete_expired(call),
        request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP => admin::put_group(call),
        request::GET_ALL_SUBSCRIPTIONGROUP_CONFIG => admin::all_groups(call),
        request::GET_SUBSCRIPTIONGROUP_CONFIG => admin::group(call),
        request::DELETE_SUBSCRIPTIONGROUP => admin::delete_group(call),
        request::GET_CONSUMER_CONNECTION_LIST => admin::consumer_connections(call),
        request::GET_PRODUCER_CONNECTION_LIST => admin::producer_connections(call),
        request::GET_TOPIC_STATS_INFO => admin::topic_stats(call),
        request::GET_CONSUME_STATS => admin::consume_stats(call),
        request::QUERY_TOPIC_CONSUME_BY_WHO => admin::groups_of_topic(call),

        code => {
            let remark = format!(" request type {code} not supported");
            Err(Refusal::new(response::REQUEST_CODE_NOT_SUPPORTED, remark))
        }
    }
}

/// Forgets what a connection that has ended stood for, and tells the groups that it was a member of.
pub fn connection_closed(broker: &BrokerCell, id: ConnectionId) {
    broker.borrow_mut().held_pulls.connection_closed(id);
    client::connection_closed(broker, id);
}
