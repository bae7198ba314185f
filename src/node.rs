//! A node: one process with its cores, shards and name server. Lives on the main thread; everything else it starts and stops.
//!
//! Start: look at the host, open the store, bind every address, recover every shard, start the cores. Stop: drain, close the serve
//! halves, close the log halves, each step on all cores before the next. A core that ends unasked ends the process: a half-dead
//! node is worse than none.

pub mod core;
pub mod service;
pub mod watchdog;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use runtime::executor::{Backend, CoreSpec, start_core, write_probe_file};
use runtime::host::{self, IoUringDenied, Resource};
use runtime::mailbox::{MailSender, Mailbox, mailbox};
use shards::io::block::BlockPool;
use shards::io::disk::StdDisk;
use shards::limits::MAILBOX_MESSAGES_MAX;
use shards::log_shard::{FlushMode, LogShardConfig};
use shards::message_store::MessageStoreConfig;
use shards::recovery::{
    Rebuild, RecoveredShard, RecoveryError, RecoveryProgress, ShardConfig, recover_shard,
};
use shards::side_writer::SideWriter;
use shards::store_dir::{StoreDir, StoreDirError};
use tracing::{info, warn};

use self::core::{CoreReport, CoreStart, LogStart, NameServerStart, Places, ServeStart};
use crate::broker::{Identity, Settings};
use crate::config::{Config, FlushDiskType};
use crate::mesh::message::{Message, StopStep};
use crate::metrics::{self, Ask};
use crate::transport::Listener;
use watchdog::Turns;

/// The longest that one step of a clean stop may take.
const STOP_STEP_MAX: Duration = Duration::from_secs(30);
/// Recovery tells how far it is when it takes longer than this, and then each such time again.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);
const NAME_SERVER_CORE: usize = 0;

/// Why a node does not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    IoUring(#[from] IoUringDenied),
    #[error(transparent)]
    Store(#[from] StoreDirError),
    #[error("shard {shard}: {error}")]
    Recovery { shard: u32, error: RecoveryError },
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("core {core} ended: {reason}")]
    CoreEnded { core: usize, reason: String },
    #[error(
        "core {core} did not end step {step:?} of the stop within {STOP_STEP_MAX:?}; killed, the next start recovers"
    )]
    StopTimeout { core: usize, step: StopStep },
}

/// A running node.
pub struct Node {
    config: Config,
    cores: Vec<RunningCore>,
    /// Keeps the store locked.
    _store: StoreDir,
}

struct RunningCore {
    sender: MailSender<Message>,
    reports: flume::Receiver<CoreReport>,
    thread: JoinHandle<io::Result<()>>,
}

/// A bound listener per shard, and the name server's.
struct Listeners {
    shards: Vec<Listener>,
    name_server: Listener,
}

impl Node {
    /// Starts a node on an opened store; returns when every core serves.
    ///
    /// # Errors
    /// See [`NodeError`]; what was started is gone with the process.
    pub fn start(config: Config, store: StoreDir) -> Result<Self, NodeError> {
        host::try_io_uring()?;
        let locked_memory = host::raise_limit(Resource::LockedMemory)?;
        host::raise_limit(Resource::OpenFiles)?;
        let listeners = bind(&config)?;
        let probe_file = write_probe_file(&config.data)?;
        let recovered = recover(&config, &store)?;
        let turns: Vec<_> = config.cores.iter().map(|_| Turns::start()).collect();
        watchdog::start(turns.clone())?;
        let (senders, starts) = lay_out(&config, &store, listeners, recovered, &turns)?;
        if let Some(listener) = bind_metrics(&config)? {
            let cores = ObservedCores { senders: senders.clone(), turns: turns.clone() };
            metrics::http::start(listener, Arc::new(cores))?;
        }
        let backend = config.runtime.unwrap_or_else(Backend::best);
        info!(%backend, cores = config.cores.len(), "starting");
        let mut cores = Vec::new();
        for ((start, reports), (core, sender)) in starts.into_iter().zip(config.cores.iter().zip(senders)) {
            let spec = CoreSpec {
                backend,
                name: format!("core-{}", start.index),
                cpu: core.cpu,
                ring_depth: core.ring_depth,
                spin: core.spin,
                locked_memory_bytes: locked_memory.soft / config.cores.len() as u64,
                probe_file: probe_file.clone(),
            };
            let thread = start_core(spec, move || self::core::run(start))?;
            cores.push(RunningCore { sender, reports, thread });
        }
        let mut node = Self { config, cores, _store: store };
        node.expect_reports(&CoreReport::Ready, None)?;
        Ok(node)
    }

    /// What listens where: `(name, address)`, brokers first, the name server last.
    pub fn addresses(&self) -> Vec<(String, SocketAddr)> {
        let config = &self.config;
        let shard = |shard| (config.broker_name(shard), config.shard_address(shard));
        let name_server = ("namesrv".to_owned(), SocketAddr::new(config.host, config.namesrv_port));
        (0..config.shards).map(shard).chain([name_server]).collect()
    }

    /// Whether every core runs still.
    ///
    /// # Errors
    /// A core has ended.
    pub fn check(&mut self) -> Result<(), NodeError> {
        match self.cores.iter().position(|core| core.thread.is_finished()) {
            Some(core) => Err(self.ended(core)),
            None => Ok(()),
        }
    }

    /// Stops cleanly: nothing acknowledged is lost, clients are told, the store is closed.
    ///
    /// # Errors
    /// A core ended on the way, or took too long.
    pub fn stop(mut self) -> Result<(), NodeError> {
        for step in [StopStep::Drain, StopStep::CloseServe, StopStep::CloseLog] {
            for core in &self.cores {
                if core.sender.send_blocking(Message::Stop(step)).is_err() {
                    // Told below, with its reason.
                    info!("a core has ended before step {step:?}");
                }
            }
            self.expect_reports(&CoreReport::Stopped(step), Some(step))?;
        }
        for (index, core) in self.cores.into_iter().enumerate() {
            join(index, core.thread)?;
        }
        Ok(())
    }

    /// Waits for the same report from every core.
    fn expect_reports(&mut self, expected: &CoreReport, step: Option<StopStep>) -> Result<(), NodeError> {
        let deadline = step.map(|_| Instant::now() + STOP_STEP_MAX);
        for core in 0..self.cores.len() {
            let reports = &self.cores[core].reports;
            let report = match deadline {
                None => reports.recv().map_err(|_| flume::RecvTimeoutError::Disconnected),
                Some(deadline) => reports.recv_deadline(deadline),
            };
            match (report, step) {
                (Ok(report), _) if report == *expected => {}
                (Ok(CoreReport::Failed(reason)), _) => return Err(NodeError::CoreEnded { core, reason }),
                (Err(flume::RecvTimeoutError::Timeout), Some(step)) => {
                    return Err(NodeError::StopTimeout { core, step });
                }
                (Ok(other), _) => {
                    return Err(NodeError::CoreEnded {
                        core,
                        reason: format!("it reported {other:?}, not {expected:?}"),
                    });
                }
                (Err(_), _) => return Err(self.ended(core)),
            }
        }
        Ok(())
    }

    fn ended(&mut self, core: usize) -> NodeError {
        let thread = self.cores.remove(core).thread;
        match join(core, thread) {
            Ok(()) => NodeError::CoreEnded { core, reason: "it returned unasked".to_owned() },
            Err(error) => error,
        }
    }
}

fn join(core: usize, thread: JoinHandle<io::Result<()>>) -> Result<(), NodeError> {
    match thread.join() {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(NodeError::CoreEnded { core, reason: error.to_string() }),
        Err(_) => Err(NodeError::CoreEnded { core, reason: "it panicked; its message is above".to_owned() }),
    }
}

fn bind(config: &Config) -> io::Result<Listeners> {
    let bind = |address| Ok::<_, io::Error>(Listener::bind(address)?.closing_idle_after(config.idle_close));
    let shards = (0..config.shards).map(|shard| bind(config.shard_address(shard)));
    Ok(Listeners {
        shards: shards.collect::<io::Result<_>>()?,
        name_server: bind(SocketAddr::new(config.host, config.namesrv_port))?,
    })
}

/// The address of the metrics page, unless it is switched off. That its port is taken is no reason not to start, unless it was asked for.
fn bind_metrics(config: &Config) -> io::Result<Option<TcpListener>> {
    let Some(port) = config.metrics_port else { return Ok(None) };
    let address = SocketAddr::from(([127, 0, 0, 1], port.number));
    match TcpListener::bind(address) {
        Ok(listener) => {
            info!("metrics on http://{address}/metrics");
            Ok(Some(listener))
        }
        Err(error) if port.was_asked_for => {
            let text = format!(
                "cannot serve metrics on {address}: {error}; choose another metrics_port, or 0 for none"
            );
            Err(io::Error::new(error.kind(), text))
        }
        Err(error) => {
            warn!(%error, "no metrics: {address} cannot be listened on; set metrics_port");
            Ok(None)
        }
    }
}

/// The cores, as the metrics page reaches them.
struct ObservedCores {
    senders: Vec<MailSender<Message>>,
    turns: Vec<Arc<Turns>>,
}

impl metrics::http::Cores for ObservedCores {
    fn count(&self) -> usize {
        self.senders.len()
    }

    fn ask(&self, core: usize, ask: Ask) -> bool {
        self.senders[core].try_send(Message::Observe(Box::new(ask))).is_ok()
    }

    fn longest_stall_ms(&self, core: usize) -> u64 {
        self.turns[core].longest_stall_ms()
    }
}

/// Recovers every shard, all at the same time: each has its own files.
fn recover(config: &Config, store: &StoreDir) -> Result<Vec<RecoveredShard>, NodeError> {
    let shard_config =
        ShardConfig { rebuild: Rebuild::BesideServing, ..ShardConfig::new(store.segment_bytes()) };
    let recover_one = |shard: u32| {
        let mut last_told = Instant::now();
        let mut tell = |progress: RecoveryProgress| {
            if last_told.elapsed() >= PROGRESS_INTERVAL {
                last_told = Instant::now();
                let RecoveryProgress { scanned_bytes, total_bytes } = progress;
                info!(shard, "recovering: {} of {} MiB scanned", scanned_bytes >> 20, total_bytes >> 20);
            }
        };
        let recovered = recover_shard(&StdDisk, &store.shard_dir(shard), &shard_config, &mut tell)
            .map_err(|error| NodeError::Recovery { shard, error })?;
        info!(shard, report = ?recovered.report, "recovered");
        Ok(recovered)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..config.shards).map(|shard| scope.spawn(move || recover_one(shard))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("recovery returns errors, it does not panic"))
            .collect()
    })
}

type Starts = Vec<(CoreStart, flume::Receiver<CoreReport>)>;

/// Deals everything out to the cores.
fn lay_out(
    config: &Config,
    store: &StoreDir,
    listeners: Listeners,
    recovered: Vec<RecoveredShard>,
    turns: &[Arc<Turns>],
) -> Result<(Vec<MailSender<Message>>, Starts), NodeError> {
    let places = Arc::new(Places {
        log_core: (0..config.shards).map(|shard| config.log_core(shard)).collect(),
        serve_core: (0..config.shards).map(|shard| config.serve_core(shard)).collect(),
        name_server_core: NAME_SERVER_CORE,
        broker_names: (0..config.shards).map(|shard| config.broker_name(shard)).collect(),
        turns: turns.to_vec(),
    });
    let (senders, mailboxes): (Vec<_>, Vec<Mailbox<Message>>) =
        config.cores.iter().map(|_| mailbox(MAILBOX_MESSAGES_MAX)).unzip();
    let mut starts: Starts = Vec::new();
    for (index, (mailbox, core)) in mailboxes.into_iter().zip(&config.cores).enumerate() {
        let (reports, received) = flume::unbounded();
        let start = CoreStart {
            index,
            cpu: core.cpu,
            stages: config.stages,
            places: Arc::clone(&places),
            senders: senders.clone(),
            mailbox,
            block_pool: BlockPool::new(core.write_buffers.block_bytes, core.write_buffers.count),
            logs: Vec::new(),
            serves: Vec::new(),
            name_server: None,
            reports,
        };
        starts.push((start, received));
    }
    starts[NAME_SERVER_CORE].0.name_server = Some(NameServerStart {
        kv_config_file: config.data.join("kvConfig.json"),
        accepted: listeners.name_server.start()?,
    });
    for ((shard, recovered), listener) in (0u32..).zip(recovered).zip(listeners.shards) {
        let RecoveredShard { log, serve, side, .. } = recovered;
        let log_start = LogStart { shard, recovered: log, config: log_config(config, store, shard) };
        starts[config.log_core(shard)].0.logs.push(log_start);
        let serve_core = config.serve_core(shard);
        let served_there = config.cores[serve_core].serve.len();
        starts[serve_core].0.serves.push(ServeStart {
            shard,
            recovered: serve,
            store_config: MessageStoreConfig {
                hot_tail_bytes: config.cores[serve_core].hot_tail_bytes / served_there,
                cold_cache_bytes: config.cold_cache_bytes,
                ..MessageStoreConfig::default()
            },
            side_writer: SideWriter::start(StdDisk, side)?,
            identity: Identity {
                cluster: config.cluster.clone(),
                broker_name: config.broker_name(shard),
                broker_id: 0,
                addr: config.shard_address(shard),
            },
            settings: settings(config),
            config_dir: config_dir(store, shard),
            accepted: listener.start()?,
        });
    }
    Ok((senders, starts))
}

fn log_config(config: &Config, store: &StoreDir, shard: u32) -> LogShardConfig {
    LogShardConfig {
        dir: store.shard_dir(shard).join("commitlog"),
        segment_bytes: store.segment_bytes(),
        disk_reserve_bytes: config.disk_reserve_bytes,
        flush: match config.flush {
            FlushDiskType::SyncFlush => FlushMode::Sync,
            FlushDiskType::AsyncFlush => FlushMode::Async,
        },
    }
}

fn settings(config: &Config) -> Settings {
    Settings {
        auto_create_topic: config.auto_create_topic,
        auto_create_subscription_group: config.auto_create_subscription_group,
        enable_property_filter: config.enable_property_filter,
        default_topic_queues: config.default_topic_queues,
        scrub_interval: config.scrub_interval,
        retention: config.retention.clone(),
    }
}

fn config_dir(store: &StoreDir, shard: u32) -> PathBuf {
    store.shard_dir(shard).join("config")
}
