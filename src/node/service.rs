//! What the listeners of a node serve: the broker of a shard, and the name server.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::watchdog::{Activity, Turns};
use crate::broker::BrokerCell;
use crate::metrics::observer::Observer;
use crate::namesrv::{self, NameServerCell};
use crate::processor::{self, Served};
use crate::remoting::code::response;
use crate::remoting::frame::Frame;
use crate::remoting::request::{HeaderError, Request};
use crate::transport::{Connection, Deferred, Service};

/// Clients newer than this understand GO_AWAY: they connect anew and try again.
const GO_AWAY_ABOVE_VERSION: i32 = 475;

/// Serves the clients of one shard.
pub struct BrokerService {
    broker: BrokerCell,
    stopping: Rc<Cell<bool>>,
    turns: Arc<Turns>,
    observer: Rc<Observer>,
}

impl BrokerService {
    /// `stopping` is raised when the node drains: from then on requests are refused.
    pub fn new(broker: BrokerCell, stopping: Rc<Cell<bool>>, turns: Arc<Turns>) -> Self {
        let observer = Rc::clone(&broker.borrow().observer);
        Self { broker, stopping, turns, observer }
    }

    fn appends_waiting(&self) -> usize {
        self.broker.borrow().appends.waiting()
    }
}

impl Service for BrokerService {
    fn serve(&self, connection: &Rc<Connection>, frame: &Frame) -> Result<Option<Deferred>, HeaderError> {
        if self.stopping.get() {
            refuse(connection, &Request::decode(frame)?);
            return Ok(None);
        }
        let clock = self.observer.has_stages().then(|| (Instant::now(), self.appends_waiting()));
        let served = self
            .turns
            .during(Activity::ServingRequests, || processor::serve(&self.broker, connection, frame))?;
        if let Some((began, waiting)) = clock
            && self.appends_waiting() > waiting
        {
            self.observer.decoded(began);
        }
        Ok(match served {
            Served::Now => None,
            Served::Later(rest) => Some(rest),
        })
    }

    fn closed(&self, connection: &Connection) {
        processor::connection_closed(&self.broker, connection.id());
    }
}

/// Tells a client that this broker is going.
fn refuse(connection: &Connection, request: &Request<'_>) {
    if request.is_response() {
        return;
    }
    let code = if request.version > GO_AWAY_ABOVE_VERSION {
        response::GO_AWAY
    } else {
        response::SERVICE_NOT_AVAILABLE
    };
    let to = request.reply_to();
    connection.reply(to, code, Some("the broker is stopping"), &[], &[]);
}

/// Serves whoever asks for routes.
pub struct NameServerService {
    name_server: NameServerCell,
}

impl NameServerService {
    pub fn new(name_server: NameServerCell) -> Self {
        Self { name_server }
    }
}

impl Service for NameServerService {
    fn serve(&self, connection: &Rc<Connection>, frame: &Frame) -> Result<Option<Deferred>, HeaderError> {
        namesrv::processor::serve(&self.name_server, connection, frame)
    }

    fn closed(&self, connection: &Connection) {
        self.name_server.borrow_mut().connection_closed(connection.id());
    }
}
