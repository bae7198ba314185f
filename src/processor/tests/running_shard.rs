//! A whole shard on one core, with its real log, its files and its broker, that can be stopped and started again; clients without
//! sockets. Slower than [`super::shard`], and without power over what the log does.

use crate::remoting::field_text::FieldText;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use runtime::executor::{Backend, CoreSpec, start_core, write_probe_file};
use runtime::host;
use runtime::task::{self, Signal};
use shards::io::block::BlockPool;
use shards::io::disk::StdDisk;
use shards::limits::{SEGMENT_BYTES_MIN, TAIL_BLOCK_BYTES};
use shards::log_shard::{FlushMode, LogShard, LogShardConfig};
use shards::message_store::{MessageStore, MessageStoreConfig, StoreExit};
use shards::recovery::{ShardConfig, recover_shard};
use shards::side_writer::SideWriter;

use crate::broker::{self, Broker, BrokerCell, BrokerRegistration, Identity, Outside, Settings};
use crate::processor::{Served, commit, connection_closed, serve};
use crate::remoting::body::topic::TopicConfig;
use crate::remoting::frame::{SerializeType, split_frame};
use crate::remoting::request::Request;
use crate::remoting::response::write_request;
use crate::transport::{Connection, ConnectionId};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a broker told the outside.
#[derive(Default)]
pub(super) struct Recorder {
    pub(super) registered: RefCell<Vec<BrokerRegistration>>,
    pub(super) created_elsewhere: RefCell<Vec<TopicConfig>>,
}

impl Outside for Recorder {
    fn register(&self, registration: BrokerRegistration) {
        self.registered.borrow_mut().push(registration);
    }

    fn create_topic_elsewhere(&self, config: &TopicConfig) {
        self.created_elsewhere.borrow_mut().push(config.clone());
    }

    fn longest_stalls_ms(&self) -> Vec<u64> {
        vec![0, 7]
    }
}

/// An open shard.
pub(super) struct RunningShard {
    pub(super) broker: BrokerCell,
    pub(super) outside: Rc<Recorder>,
    log: Rc<LogShard>,
    log_ended: Rc<Signal>,
    clients: Cell<u64>,
}

/// Runs a test on a core of its own, in a folder of its own.
pub(super) fn on_core<F, T>(test: T)
where
    T: FnOnce(PathBuf) -> F + Send + 'static,
    F: Future<Output = ()> + 'static,
{
    let folder = tempfile::tempdir_in(".").unwrap();
    let spec = CoreSpec {
        backend: Backend::best(),
        name: "test".to_owned(),
        cpu: host::allowed_cpus().unwrap()[0],
        ring_depth: 64,
        spin: Duration::ZERO,
        locked_memory_bytes: 1 << 20,
        probe_file: write_probe_file(folder.path()).unwrap(),
    };
    let shard_dir = folder.path().join("shard-0");
    let core = start_core(spec, move || test(shard_dir)).unwrap();
    match core.join() {
        Ok(ended) => ended.unwrap(),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

impl RunningShard {
    pub(super) async fn open(dir: &Path) -> Self {
        Self::open_with(dir, Settings::default()).await
    }

    pub(super) async fn open_with(dir: &Path, settings: Settings) -> Self {
        let config = ShardConfig::new(SEGMENT_BYTES_MIN);
        let recovered = recover_shard(&StdDisk, dir, &config, &mut |_| {}).unwrap();
        let side_writer = SideWriter::start(StdDisk, recovered.side).unwrap();
        let store = MessageStore::open(recovered.serve, MessageStoreConfig::default(), side_writer.clone());
        let outside = Rc::new(Recorder::default());
        let recorder: Rc<dyn Outside> = outside.clone();
        let broker =
            Broker::open(Identity::for_tests(), settings, store, side_writer, dir.join("config"), recorder)
                .unwrap();

        let log_config = LogShardConfig {
            disk_reserve_bytes: 0,
            dir: dir.join("commitlog"),
            segment_bytes: SEGMENT_BYTES_MIN,
            flush: FlushMode::Sync,
        };
        let pool = BlockPool::new(TAIL_BLOCK_BYTES, 4);
        let log = LogShard::open(recovered.log, log_config, pool).await.unwrap();
        let log_ended = Rc::new(Signal::default());
        let (running, ended, cell) = (Rc::clone(&log), Rc::clone(&log_ended), Rc::clone(&broker));
        task::spawn(async move {
            running.run(async |committed| commit::committed(&cell, committed)).await;
            ended.raise();
        });
        let (placing, cell) = (Rc::clone(&log), Rc::clone(&broker));
        let ready = broker.borrow().appends.ready();
        task::spawn(async move {
            while !cell.borrow().is_closed() {
                ready.wait().await;
                while let Some(batch) = { cell.borrow_mut().appends.take_batch() } {
                    placing.append(batch);
                }
            }
        });
        Self { broker, outside, log, log_ended, clients: Cell::new(0) }
    }

    /// Stops as a node does.
    pub(super) async fn close(self) {
        let appends = |broker: &BrokerCell| broker.borrow().appends.waiting();
        until("nothing waits for the log", || appends(&self.broker) == 0).await;
        broker::close(&self.broker, StoreExit::Clean).await.unwrap();
        self.broker.borrow().appends.ready().raise();
        self.log.stop();
        self.log_ended.wait().await;
    }

    /// A client with a connection of its own.
    pub(super) fn client(&self) -> Client {
        let id = self.clients.get() + 1;
        self.clients.set(id);
        let peer = "127.0.0.1:40000".parse().unwrap();
        Client {
            broker: Rc::clone(&self.broker),
            connection: Connection::detached(ConnectionId(id), peer),
            input: RefCell::default(),
            answers: RefCell::default(),
            notices: RefCell::default(),
            opaque: Cell::new(0),
        }
    }
}

/// A client whose connection has no socket.
pub(super) struct Client {
    broker: BrokerCell,
    pub(super) connection: Rc<Connection>,
    input: RefCell<BytesMut>,
    answers: RefCell<BTreeMap<i32, Answer>>,
    notices: RefCell<Vec<Answer>>,
    opaque: Cell<i32>,
}

/// A decoded answer, or a request of the broker's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) code: i32,
    pub(super) remark: String,
    pub(super) ext: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn field(&self, name: &str) -> &str {
        self.ext.get(name).unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }

    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Client {
    /// Sends a request and waits for its answer.
    pub(super) async fn ask(&self, code: i32, ext: &[(&str, &dyn FieldText)], body: &[u8]) -> Answer {
        let opaque = self.send(code, ext, body, false).await;
        self.answer(opaque).await
    }

    /// Sends a request; what is deferred has been done when this returns. Gives the number that the answer will have.
    pub(super) async fn send(
        &self,
        code: i32,
        ext: &[(&str, &dyn FieldText)],
        body: &[u8],
        oneway: bool,
    ) -> i32 {
        let opaque = self.opaque.get() + 1;
        self.opaque.set(opaque);
        let mut bytes = BytesMut::new();
        write_request(&mut bytes, SerializeType::Json, code, opaque, oneway, ext, body);
        let frame = split_frame(&mut bytes).unwrap().unwrap();
        match serve(&self.broker, &self.connection, &frame).unwrap() {
            Served::Now => {}
            Served::Later(rest) => rest.await,
        }
        opaque
    }

    /// Waits for the answer to a request.
    pub(super) async fn answer(&self, opaque: i32) -> Answer {
        until("an answer comes", || {
            self.receive();
            self.answers.borrow().contains_key(&opaque)
        })
        .await;
        self.answers.borrow_mut().remove(&opaque).unwrap()
    }

    /// Whether an answer is there already.
    pub(super) fn is_answered(&self, opaque: i32) -> bool {
        self.receive();
        self.answers.borrow().contains_key(&opaque)
    }

    /// Takes the requests that the broker has sent to this client.
    pub(super) fn take_notices(&self) -> Vec<Answer> {
        self.receive();
        self.notices.take()
    }

    /// Ends the connection.
    pub(super) fn hang_up(&self) {
        self.connection.close();
        connection_closed(&self.broker, self.connection.id());
    }

    fn receive(&self) {
        let mut input = self.input.borrow_mut();
        for piece in self.connection.take_output() {
            input.extend_from_slice(&piece);
        }
        while let Some(frame) = split_frame(&mut input).unwrap() {
            let command = Request::decode(&frame).unwrap();
            let decoded = Answer {
                code: command.code,
                remark: command.remark.as_deref().unwrap_or_default().to_owned(),
                ext: command.ext.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
                body: command.body.to_vec(),
            };
            if command.is_response() {
                let before = self.answers.borrow_mut().insert(command.opaque, decoded);
                assert!(before.is_none(), "two answers to request {}", command.opaque);
            } else {
                self.notices.borrow_mut().push(decoded);
            }
        }
    }
}

/// Lets the core's other tasks run until `condition` holds.
pub(super) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?}: {what}");
        task::sleep(Duration::from_millis(1)).await;
    }
}
