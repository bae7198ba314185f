//! What can go wrong for the blocking client; every text names the address and what to do.

use std::io;
use std::time::Duration;

/// Why a call of [`super::Client`] gave no result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no name server given: pass --namesrv HOST:PORT")]
    NoNamesrv,
    #[error("the name server lists no broker: is one running, and registered with this name server?")]
    NoBroker,
    #[error(
        "topic {topic} has no route and no broker creates topics by itself: create it with \
         `ringmq topic create {topic}`"
    )]
    NoRoute { topic: String },
    #[error("cannot connect to {addr}: {source}; is it running, and is this the right address?")]
    Connect { addr: String, source: io::Error },
    #[error("the connection to {addr} broke during request code {code}: {source}")]
    Broken { addr: String, code: i32, source: io::Error },
    #[error("{addr} gave no answer to request code {code} within {} ms: it may be overloaded or stuck", .after.as_millis())]
    TimedOut { addr: String, code: i32, after: Duration },
    #[error(
        "{addr} sent something that is not the remoting protocol ({what}): is it a broker or name server?"
    )]
    NotRemoting { addr: String, what: String },
    #[error("{addr} answered without a readable field {field}")]
    MissingField { addr: String, field: &'static str },
    #[error("{addr} sent a body that cannot be read as {what}: {reason}")]
    BadBody { addr: String, what: &'static str, reason: String },
    #[error("{addr} refused {doing}: code {code}{}{remark}", if .remark.is_empty() { "" } else { ", " })]
    Refused { addr: String, doing: &'static str, code: i32, remark: String },
    #[error("a message cannot be read: {what} at byte {at} of {bytes}")]
    BadMessage { what: &'static str, at: usize, bytes: usize },
}
