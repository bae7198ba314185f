//! What the broker does with a request: the table from request code to function. Serve core.
//!
//! A function gets a [`Call`], answers through the connection, now or later, and returns; refusing is returning a [`Refusal`],
//! which is answered here, so that a oneway request is never answered and no error path forgets its reply. Nothing here
//! holds a borrow of the broker across an `await`.

pub mod admin;
pub mod client;
pub mod lock;
pub mod offset;
pub mod topic;

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use crate::broker::{BrokerCell, wall_clock_ms};
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
}

impl From<HeaderError> for Refusal {
    fn from(error: HeaderError) -> Self {
        Self::new(1, error.to_string())
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
    let reply_to = ReplyTo {
        opaque: request.opaque,
        serialize_type: request.serialize_type,
        oneway: request.is_oneway(),
    };
    let call = Call { broker, connection, frame, request: &request, reply_to, now_ms: wall_clock_ms() };
    match dispatch(&call) {
        Ok(served) => Ok(served),
        Err(refusal) => {
            connection.reply(reply_to, refusal.code, Some(&refusal.remark), &[], &[]);
            Ok(Served::Now)
        }
    }
}

/// Request code → function.
fn dispatch(call: &Call<'_, '_>) -> Result<Served, Refusal> {
    let code = call.request.code;
    Err(Refusal::new(3, format!(" request type {code} not supported")))
}

/// Forgets what a connection that has ended stood for, and tells the groups that it was a member of.
pub fn connection_closed(_broker: &BrokerCell, _id: ConnectionId) {}
