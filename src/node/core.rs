//! One core of a node: the shard halves that live here, the messages it serves, and the steps of its stop.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use runtime::mailbox::{MailSender, Mailbox};
use runtime::task::{self, Signal};
use shards::commit_log::RecoveredLog;
use shards::io::block::BlockPool;
use shards::log_shard::{LogShard, LogShardConfig};
use shards::message_store::RecoveredServe;
use shards::message_store::{MessageStore, MessageStoreConfig, StoreExit};
use shards::side_writer::SideWriter;
use tracing::{error, warn};

use super::service::{BrokerService, NameServerService};
use super::watchdog::{Activity, Turns};
use crate::broker::topic_creation::create_topic_from_elsewhere;
use crate::broker::{
    self, Broker, BrokerCell, BrokerRegistration, Identity, Outside, Settings, observation, wall_clock_ms,
};
use crate::mesh::Mesh;
use crate::mesh::message::{Message, StopStep};
use crate::metrics::observer::Observer;
use crate::metrics::snapshot::{CoreSnapshot, LogSnapshot};
use crate::metrics::{Ask, thread_time};
use crate::namesrv::{NameServer, NameServerCell};
use crate::processor;
use crate::remoting::body::topic::TopicConfig;
use crate::transport::{Accepted, Server};

/// The longest that a stop waits for appends to end and for answers to leave.
const DRAIN_MAX: Duration = Duration::from_secs(5);
const DRAIN_LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// Where everything is, the same on every core.
#[derive(Clone, Debug)]
pub struct Places {
    /// By shard.
    pub log_core: Vec<usize>,
    /// By shard.
    pub serve_core: Vec<usize>,
    pub name_server_core: usize,
    /// The broker names, by shard.
    pub broker_names: Vec<String>,
    /// The marks of every core.
    pub turns: Vec<Arc<Turns>>,
}

/// The log half of a shard, on its way to its core.
#[derive(Debug)]
pub struct LogStart {
    pub shard: u32,
    pub recovered: RecoveredLog,
    pub config: LogShardConfig,
}

/// The serve half of a shard, on its way to its core.
#[derive(Debug)]
pub struct ServeStart {
    pub shard: u32,
    pub recovered: RecoveredServe,
    pub store_config: MessageStoreConfig,
    pub side_writer: SideWriter,
    pub identity: Identity,
    pub settings: Settings,
    /// The shard's `config` folder.
    pub config_dir: PathBuf,
    pub accepted: Accepted,
}

/// The name server, on its way to its core.
#[derive(Debug)]
pub struct NameServerStart {
    pub kv_config_file: PathBuf,
    pub accepted: Accepted,
}

/// Everything that a core starts from.
#[derive(Debug)]
pub struct CoreStart {
    pub index: usize,
    /// The CPU that the core is pinned to.
    pub cpu: usize,
    /// Measure the time of every stage from the start.
    pub stages: bool,
    pub places: Arc<Places>,
    pub senders: Vec<MailSender<Message>>,
    pub mailbox: Mailbox<Message>,
    pub block_pool: BlockPool,
    pub logs: Vec<LogStart>,
    pub serves: Vec<ServeStart>,
    pub name_server: Option<NameServerStart>,
    pub reports: flume::Sender<CoreReport>,
}

/// What a core tells the main thread.
#[derive(Debug, PartialEq, Eq)]
pub enum CoreReport {
    /// It serves.
    Ready,
    /// It cannot start, and why.
    Failed(String),
    /// It has ended a step of the stop.
    Stopped(StopStep),
}

/// A running core.
struct Core {
    index: usize,
    cpu: usize,
    /// The core's thread, below `/proc`.
    thread: String,
    places: Arc<Places>,
    mailbox: Mailbox<Message>,
    observer: Rc<Observer>,
    mesh: Mesh,
    logs: RefCell<HashMap<u32, RunningLog>>,
    brokers: RefCell<HashMap<u32, BrokerCell>>,
    name_server: RefCell<Option<NameServerCell>>,
    servers: RefCell<Vec<Rc<Server>>>,
    stopping: Rc<Cell<bool>>,
    ended: Signal,
    turns: Arc<Turns>,
    reports: flume::Sender<CoreReport>,
}

struct RunningLog {
    log: Rc<LogShard>,
    ended: Rc<Signal>,
}

/// Runs a core until it is stopped.
pub async fn run(start: CoreStart) {
    let CoreStart { index, cpu, stages, places, senders, mailbox, .. } = start;
    let CoreStart { block_pool, logs, serves, name_server, reports, .. } = start;
    let turns = Arc::clone(&places.turns[index]);
    task::spawn(Arc::clone(&turns).mark());
    let core = Rc::new_cyclic(|core: &Weak<Core>| {
        let core = core.clone();
        let handler = move |message| core.upgrade().expect("a core outlives its mesh").handle(message);
        Core {
            index,
            cpu,
            thread: thread_time::this_thread(),
            places: Arc::clone(&places),
            mailbox,
            observer: Rc::default(),
            mesh: Mesh::bind(index, senders, Rc::new(handler)),
            logs: RefCell::default(),
            brokers: RefCell::default(),
            name_server: RefCell::default(),
            servers: RefCell::default(),
            stopping: Rc::default(),
            ended: Signal::default(),
            turns,
            reports,
        }
    });
    core.observer.set_stages(stages);
    let report = match core.open(&places, block_pool, logs, serves, name_server).await {
        Ok(()) => CoreReport::Ready,
        Err(error) => CoreReport::Failed(error),
    };
    core.report(report);
    task::spawn(Rc::clone(&core).serve_mailbox());
    core.ended.wait().await;
}

impl Core {
    async fn open(
        self: &Rc<Self>,
        places: &Arc<Places>,
        block_pool: BlockPool,
        logs: Vec<LogStart>,
        serves: Vec<ServeStart>,
        name_server: Option<NameServerStart>,
    ) -> Result<(), String> {
        if !logs.is_empty() {
            block_pool.fill();
        }
        for start in logs {
            self.open_log(start, places, block_pool.clone()).await?;
        }
        if let Some(start) = name_server {
            let name_server = NameServer::open(start.kv_config_file).map_err(|error| error.to_string())?;
            let service = NameServerService::new(Rc::clone(&name_server));
            self.servers.borrow_mut().push(Server::start(start.accepted, Rc::new(service)));
            self.name_server.replace(Some(name_server));
        }
        for start in serves {
            self.open_broker(start, places)?;
        }
        Ok(())
    }

    async fn open_log(&self, start: LogStart, places: &Places, pool: BlockPool) -> Result<(), String> {
        let shard = start.shard;
        let log = LogShard::open(start.recovered, start.config, pool)
            .await
            .map_err(|error| format!("shard {shard}: {error}"))?;
        let ended = Rc::new(Signal::default());
        self.logs.borrow_mut().insert(shard, RunningLog { log: Rc::clone(&log), ended: Rc::clone(&ended) });
        let mesh = self.mesh.clone();
        let serve_core = places.serve_core[shard as usize];
        task::spawn(async move {
            log.run(async |committed| mesh.post(serve_core, Message::Committed { shard, committed })).await;
            ended.raise();
        });
        Ok(())
    }

    fn open_broker(&self, start: ServeStart, places: &Arc<Places>) -> Result<(), String> {
        let shard = start.shard;
        let store = MessageStore::open(start.recovered, start.store_config, start.side_writer.clone());
        let outside = Rc::new(NodeOutside { shard, mesh: self.mesh.clone(), places: Arc::clone(places) });
        let broker = Broker::open(
            start.identity,
            start.settings,
            store,
            start.side_writer,
            &start.config_dir,
            outside,
        )
        .map_err(|error| format!("shard {shard}: {error}"))?;
        broker.borrow_mut().observer = Rc::clone(&self.observer);
        self.brokers.borrow_mut().insert(shard, Rc::clone(&broker));
        processor::upkeep::start(&broker);
        let log_core = places.log_core[shard as usize];
        task::spawn(send_batches(Rc::clone(&broker), self.mesh.clone(), log_core, shard));
        let service = BrokerService::new(broker, Rc::clone(&self.stopping), Arc::clone(&self.turns));
        self.servers.borrow_mut().push(Server::start(start.accepted, Rc::new(service)));
        Ok(())
    }

    async fn serve_mailbox(self: Rc<Self>) {
        while let Some(message) = self.mailbox.receive().await {
            self.handle(message);
            while let Some(message) = self.mailbox.receive_ready() {
                self.handle(message);
            }
            task::yield_if_needed().await;
        }
    }

    fn handle(self: &Rc<Self>, message: Message) {
        match message {
            Message::Append { shard, batch } => {
                let logs = self.logs.borrow();
                let Some(running) = logs.get(&shard) else { return self.came_too_late(shard, "records") };
                self.turns.during(Activity::PlacingRecords, || running.log.append(batch));
            }
            Message::Committed { shard, committed } => {
                let Some(broker) = self.broker(shard) else { return self.came_too_late(shard, "a commit") };
                self.turns.during(Activity::Committing, || processor::commit::committed(&broker, committed));
            }
            // The name server has forgotten our shards for good.
            Message::Register(_) if self.stopping.get() => {}
            Message::Register(registration) => {
                let name_server = self.name_server.borrow();
                let name_server =
                    name_server.as_ref().expect("registrations are sent to the name server's core");
                name_server.borrow_mut().register(*registration);
            }
            Message::CreateTopic { shard, config } => match self.broker(shard) {
                Some(broker) => create_topic_from_elsewhere(&broker, *config),
                None => self.came_too_late(shard, "a topic"),
            },
            Message::Observe(ask) => task::spawn(Rc::clone(self).observe(*ask)),
            Message::Stop(step) => task::spawn(Rc::clone(self).stop(step)),
        }
    }

    /// Tells how this core is. Other tasks go on between the parts of it that take long.
    async fn observe(self: Rc<Self>, ask: Ask) {
        if let Some(on) = ask.want.set_stages {
            self.observer.set_stages(on);
        }
        let mut snapshot = self.counters();
        let brokers: Vec<_> =
            self.brokers.borrow().iter().map(|(shard, broker)| (*shard, Rc::clone(broker))).collect();
        for (shard, broker) in brokers {
            snapshot.shards.push(observation::observe(&broker, shard, ask.want.series).await);
            task::yield_if_needed().await;
        }
        if ask.want.slow {
            let (now, wall_ms) = (Instant::now(), wall_clock_ms());
            for slow in self.observer.slowest() {
                snapshot.slow.push(slow.describe(self.index, now, wall_ms));
                task::yield_if_needed().await;
            }
        }
        // Whoever asked may have given up; nobody waits for it then.
        let _ = ask.answer.try_send(snapshot);
    }

    fn counters(&self) -> CoreSnapshot {
        let of_servers = |count: fn(&Server) -> usize| -> usize {
            self.servers.borrow().iter().map(|server| count(server)).sum()
        };
        let logs = self.logs.borrow();
        let log = |(&shard, running): (&u32, &RunningLog)| {
            let status = running.log.status();
            LogSnapshot {
                shard,
                broker: self.places.broker_names[shard as usize].clone(),
                failed: status.failed.is_some(),
                disk_full: status.disk_full.is_some(),
                load: running.log.load(),
                prewrite_waits: status.prewrite_waits,
            }
        };
        CoreSnapshot {
            core: self.index,
            cpu: self.cpu,
            thread: self.thread.clone(),
            load: runtime::load::of_this_core(),
            allocations: runtime::allocation::of_this_thread(),
            mailbox_messages: self.mailbox.waiting(),
            outgoing_messages: self.mesh.waiting(),
            hops: self.mailbox.hops(),
            connections: of_servers(Server::connection_count),
            in_flight_bytes: of_servers(Server::in_flight_bytes),
            unsent_bytes: of_servers(Server::unsent_bytes),
            sends: self.observer.sends(),
            stages_on: self.observer.has_stages(),
            stages: self.observer.stages(),
            logs: logs.iter().map(log).collect(),
            shards: Vec::new(),
            slow: Vec::new(),
        }
    }

    fn broker(&self, shard: u32) -> Option<BrokerCell> {
        self.brokers.borrow().get(&shard).map(Rc::clone)
    }

    /// A message for a half that a stop has closed, as happens when draining took too long. Nobody was told of what it is about;
    /// what of it is in the log, the next start finds there.
    fn came_too_late(&self, shard: u32, what: &str) {
        assert!(self.stopping.get(), "{what} for shard {shard}, which is not on this core");
        warn!(shard, "{what} came after the shard was closed");
    }

    async fn stop(self: Rc<Self>, step: StopStep) {
        match step {
            StopStep::Drain => self.drain().await,
            StopStep::CloseServe => self.close_brokers().await,
            StopStep::CloseLog => {
                let logs = std::mem::take(&mut *self.logs.borrow_mut());
                for running in logs.into_values() {
                    running.log.stop();
                    running.ended.wait().await;
                }
            }
        }
        self.report(CoreReport::Stopped(step));
        if step == StopStep::CloseLog {
            self.ended.raise();
        }
    }

    /// Refuses what comes, and waits until what was accepted is durable and answered.
    async fn drain(&self) {
        if let Some(name_server) = self.name_server.borrow().as_ref() {
            name_server.borrow_mut().unregister_own();
        }
        self.stopping.set(true);
        for broker in self.brokers.borrow().values() {
            broker.borrow_mut().stop_delivering();
        }
        let deadline = Instant::now() + DRAIN_MAX;
        loop {
            let waiting: usize =
                self.brokers.borrow().values().map(|broker| broker.borrow().appends.waiting()).sum();
            let of_servers = |count: fn(&Server) -> usize| -> usize {
                self.servers.borrow().iter().map(|server| count(server)).sum()
            };
            let deferred = of_servers(Server::deferred_requests);
            let unsent = of_servers(Server::unsent_bytes);
            if waiting == 0 && deferred == 0 && unsent == 0 {
                return;
            }
            if Instant::now() > deadline {
                warn!(
                    waiting,
                    deferred,
                    unsent_bytes = unsent,
                    "stopping with requests unanswered after {DRAIN_MAX:?}"
                );
                return;
            }
            task::sleep(DRAIN_LOOK_INTERVAL).await;
        }
    }

    async fn close_brokers(&self) {
        let brokers = std::mem::take(&mut *self.brokers.borrow_mut());
        for (shard, broker) in brokers {
            if let Err(error) = broker::close(&broker, StoreExit::Clean).await {
                error!(shard, %error, "not everything could be written; the next start recovers it from the log");
            }
        }
    }

    fn report(&self, report: CoreReport) {
        // Without its main thread the process is ending already.
        if self.reports.send(report).is_err() {
            self.ended.raise();
        }
    }
}

/// Sends each turn's appends of one broker to its log core as one batch.
async fn send_batches(broker: BrokerCell, mesh: Mesh, log_core: usize, shard: u32) {
    let ready = broker.borrow().appends.ready();
    loop {
        ready.wait().await;
        while let Some(batch) = { broker.borrow_mut().appends.take_batch() } {
            mesh.post(log_core, Message::Append { shard, batch });
        }
    }
}

/// What a broker reaches of the node.
struct NodeOutside {
    shard: u32,
    mesh: Mesh,
    places: Arc<Places>,
}

impl Outside for NodeOutside {
    fn register(&self, registration: BrokerRegistration) {
        self.mesh.post(self.places.name_server_core, Message::Register(Box::new(registration)));
    }

    fn create_topic_elsewhere(&self, config: &TopicConfig) {
        for (shard, &core) in (0u32..).zip(&self.places.serve_core) {
            if shard != self.shard {
                self.mesh.post(core, Message::CreateTopic { shard, config: Box::new(config.clone()) });
            }
        }
    }

    fn longest_stalls_ms(&self) -> Vec<u64> {
        self.places.turns.iter().map(|turns| turns.longest_stall_ms()).collect()
    }
}
