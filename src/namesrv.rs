//! The name server: which broker has which queues of a topic, and where it is. A role of the node with a port of its own.
//!
//! Lives on one core. Brokers of this node register by value over the mesh; others, stock ones included, by request. All
//! state is plain and told the time; only `kv_config` is kept on the disk, by a thread of its own. Name servers do not talk to
//! each other: every broker registers with each.

pub mod kv_config;
pub mod processor;
pub mod route_table;

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use tracing::info;

use crate::broker::BrokerRegistration;
use crate::transport::ConnectionId;
use kv_config::{KvConfig, KvConfigError};
use route_table::{Gone, Origin, Registration, RouteTable};

/// All that a name server knows.
#[derive(Debug)]
pub struct NameServer {
    pub routes: RouteTable,
    pub kv_config: KvConfig,
}

/// Borrowed only synchronously, never across an await.
pub type NameServerCell = Rc<RefCell<NameServer>>;

impl NameServer {
    /// A name server without brokers, with the configuration that `kv_config_file` holds. Blocks: for start.
    ///
    /// # Errors
    /// The file, or its folder, cannot be read or is not understood.
    pub fn open(kv_config_file: PathBuf) -> Result<NameServerCell, KvConfigError> {
        let kv_config = KvConfig::open(kv_config_file)?;
        Ok(Rc::new(RefCell::new(Self { routes: RouteTable::default(), kv_config })))
    }

    /// Takes in what a broker of this node says of itself. It stays until [`Self::unregister_own`].
    pub fn register(&mut self, registration: BrokerRegistration) {
        let BrokerRegistration { identity, data_version, topics, complete } = registration;
        let registration = Registration {
            cluster: identity.cluster,
            broker_name: identity.broker_name,
            broker_id: identity.broker_id,
            broker_addr: identity.addr.to_string(),
            ha_server_addr: String::new(),
            zone_name: None,
            enable_acting_master: None,
            data_version,
            topics,
            complete,
            origin: Origin::ThisNode,
        };
        if let Err(refused) = self.routes.register(registration, Instant::now()) {
            tracing::warn!(%refused, "a broker of this node could not register");
        }
    }

    /// Forgets the brokers of this node: it stops.
    pub fn unregister_own(&mut self) {
        log_gone(self.routes.unregister_own(), "it stops");
    }

    /// Forgets the brokers that registered over a connection that has ended.
    pub fn connection_closed(&mut self, id: ConnectionId) {
        log_gone(self.routes.connection_closed(id), "its connection ended");
    }
}

fn log_gone(gone: Vec<Gone>, reason: &str) {
    for Gone { broker_name, broker_addr } in gone {
        info!(broker_name, broker_addr, reason, "broker left the routes");
    }
}
