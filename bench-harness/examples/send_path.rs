//! What one send costs in user code: frames as the generator writes them go through reading, serving, placing, filling of the write
//! buffer and answering, on one thread, without a socket and without a disk under the log. Prints nanoseconds per message and stage.
//!
//! `cargo run --release -p bench-harness --example send_path -- [body bytes] [rounds] [messages per commit] [1 to measure the stages of
//! every message, as `ringmq stages on` does]`
//!
//! Times are the thread's wall clock: run it alone, compare the lowest rounds, and alternate the programs compared.

use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bench_harness::payload::{Payload, RunId};
use bench_harness::send_frame::{FrameSpec, OPAQUE_BASE, SendFrame};
use bytes::BytesMut;
use ringmq::broker::topic_creation::{TopicReady, put_topic};
use ringmq::broker::{Broker, BrokerCell, BrokerRegistration, Identity, Outside, Settings};
use ringmq::processor::{Served, commit, serve};
use ringmq::remoting::body::topic::TopicConfig;
use ringmq::remoting::frame::split_frame;
use ringmq::transport::{Connection, ConnectionId};
use shards::append::AppendTimes;
use shards::commit_log::{CommitLog, CommitLogConfig, RecoveredLog};
use shards::index_file::IndexLayout;
use shards::io::block::BlockPool;
use shards::io::disk::StdDisk;
use shards::limits::{FLUSH_BYTES_MAX, TAIL_BLOCK_BYTES};
use shards::message_store::{MessageStore, MessageStoreConfig};
use shards::recovery::{ShardConfig, recover_shard};
use shards::side_writer::SideWriter;

/// As the broker itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TOPIC: &str = "BenchTopic";
const QUEUES: u32 = 8;
const CONNECTIONS: u64 = 8;
/// Fewer than the side thread has room for: what it has no room for it would get with a later commit only.
const COMMITS_PER_ROUND: u64 = 1000;
const SEGMENT_BYTES: u64 = 1 << 30;
const NOW_MS: i64 = 1_764_000_000_123;
const STAGES: [&str; 4] =
    ["read, check, encode", "place in the log", "fill the write buffer", "dispatch, answer"];

struct Nobody;

impl Outside for Nobody {
    fn register(&self, _: BrokerRegistration) {}
    fn create_topic_elsewhere(&self, _: &TopicConfig) {}
    fn longest_stalls_ms(&self) -> Vec<u64> {
        Vec::new()
    }
}

fn main() {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse().expect("a number"));
    let body_bytes = numbers.next().unwrap_or(1024);
    let rounds = numbers.next().unwrap_or(30);
    let messages_per_commit = numbers.next().unwrap_or(32);
    let has_stages = numbers.next() == Some(1);
    let folder = tempfile::tempdir().expect("a folder");
    let mut shard = BenchShard::open(folder.path(), body_bytes);
    shard.broker.borrow().observer.set_stages(has_stages);
    let messages_per_commit = u64::try_from(messages_per_commit).expect("a count");
    let mut costs: Vec<[Duration; STAGES.len()]> =
        (0..rounds).map(|_| shard.round(messages_per_commit)).collect();
    let per_message = |cost: Duration| cost.as_nanos() / u128::from(COMMITS_PER_ROUND * messages_per_commit);
    costs.sort_by_key(|round| round.iter().sum::<Duration>());
    for (name, round) in [("lowest", &costs[0]), ("median", &costs[costs.len() / 2])] {
        println!("{name}: {} ns per message of {body_bytes} bytes", per_message(round.iter().sum()));
        for (stage, cost) in STAGES.iter().zip(round) {
            println!("    {:>5} ns  {stage}", per_message(*cost));
        }
    }
}

struct BenchShard {
    broker: BrokerCell,
    log: CommitLog,
    connections: Vec<(Rc<Connection>, BytesMut)>,
    frames: Vec<SendFrame>,
    buffer: Vec<u8>,
    sent: u64,
}

impl BenchShard {
    fn open(folder: &Path, body_bytes: usize) -> Self {
        for name in ["commitlog", "config"] {
            std::fs::create_dir_all(folder.join(name)).expect("a folder");
        }
        let config = ShardConfig { index: IndexLayout::default(), ..ShardConfig::new(SEGMENT_BYTES) };
        let recovered = recover_shard(&StdDisk, folder, &config, &mut |_| {}).expect("a new shard");
        let writer = SideWriter::start(StdDisk, recovered.side).expect("a thread");
        let store = MessageStore::open(recovered.serve, MessageStoreConfig::default(), writer.clone());
        let identity = Identity {
            cluster: "DefaultCluster".to_owned(),
            broker_name: "ringmq-0".to_owned(),
            broker_id: 0,
            addr: "127.0.0.1:10911".parse().expect("an address"),
        };
        let settings = Settings::default();
        let broker = Broker::open(identity, settings, store, writer, folder.join("config"), Rc::new(Nobody))
            .expect("a new broker");
        let made = put_topic(&broker, TopicConfig::new(TOPIC, QUEUES), NOW_MS).expect("a good topic");
        if let TopicReady::Later(later) = made {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(later).expect("the topic is durable");
        }
        let log_config = CommitLogConfig { segment_bytes: SEGMENT_BYTES, flush_bytes_max: FLUSH_BYTES_MAX };
        let mut log =
            CommitLog::new(RecoveredLog::default(), log_config, BlockPool::new(TAIL_BLOCK_BYTES, 64));
        log.segment_ready(NOW_MS);
        let peer = "127.0.0.1:40000".parse().expect("an address");
        let connections = (0..CONNECTIONS)
            .map(|id| (Connection::detached(ConnectionId(id), peer), BytesMut::new()))
            .collect();
        let payload = Payload::new(RunId(0x0123_4567_89AB_CDEF), body_bytes);
        let frame = |queue_id| {
            let spec =
                FrameSpec { topic: TOPIC, broker_name: "ringmq-0", queue_id, batch: 1, delay_level: 0 };
            SendFrame::new(&spec, &payload)
        };
        let frames = (0..QUEUES).map(frame).collect();
        Self { broker, log, connections, frames, buffer: vec![0; FLUSH_BYTES_MAX], sent: 0 }
    }

    /// Sends a round; returns what each stage took.
    fn round(&mut self, messages_per_commit: u64) -> [Duration; STAGES.len()] {
        // What the side thread has to write must not disturb.
        while self.broker.borrow().store.derived_backlog_entries() > 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut costs = [Duration::ZERO; STAGES.len()];
        for _ in 0..COMMITS_PER_ROUND {
            self.arrive(messages_per_commit);
            for (total, cost) in costs.iter_mut().zip(self.commit()) {
                *total += cost;
            }
            self.check_answers(messages_per_commit);
        }
        costs
    }

    fn arrive(&mut self, messages: u64) {
        let mut out = Vec::new();
        for at in self.sent..self.sent + messages {
            out.clear();
            let frame = &self.frames[usize::try_from(at % u64::from(QUEUES)).expect("small")];
            let opaque = OPAQUE_BASE + u32::try_from(at % 1_000_000).expect("small");
            frame.append_to(&mut out, opaque, NOW_MS.unsigned_abs(), at, 0);
            let connection = usize::try_from(at / 4 % CONNECTIONS).expect("small");
            self.connections[connection].1.extend_from_slice(&out);
        }
        self.sent += messages;
    }

    fn commit(&mut self) -> [Duration; STAGES.len()] {
        let observer = Rc::clone(&self.broker.borrow().observer);
        let start = Instant::now();
        for (connection, input) in &mut self.connections {
            connection.note_read(start);
            while let Some(frame) = split_frame(input).expect("good frames") {
                let began = observer.has_stages().then(Instant::now);
                let served = serve(&self.broker, connection, &frame).expect("a good header");
                assert!(matches!(served, Served::Now));
                if let Some(began) = began {
                    observer.decoded(began);
                }
            }
        }
        let served = Instant::now();
        let batch = self.broker.borrow_mut().appends.take_batch().expect("records");
        let records = batch.count;
        self.log.append(batch, NOW_MS);
        let placed = Instant::now();
        if self.log.ready_end().since(self.log.placed_end()) < SEGMENT_BYTES / 2 {
            self.log.segment_ready(NOW_MS);
        }
        while let Some(plan) = self.log.plan_flush() {
            self.log.fill(&plan, &mut self.buffer[..plan.bytes]);
            self.log.flushed(&plan);
        }
        let filled = Instant::now();
        let mut committed = self.log.take_committed().expect("results");
        // As the log core does, so that what is counted of every send is a part of the cost.
        committed.times = Box::new([AppendTimes { records, arrived: served, placed, flushed: filled }]);
        commit::committed(&self.broker, committed);
        [served - start, placed - served, filled - placed, filled.elapsed()]
    }

    /// Takes the answers, as a socket would.
    fn check_answers(&self, messages: u64) {
        let mut answers = 0;
        for (connection, _) in &self.connections {
            for piece in connection.take_output() {
                let mut output = BytesMut::from(&piece[..]);
                while let Some(frame) = split_frame(&mut output).expect("good frames") {
                    assert!(frame.header.starts_with(b"{\"code\":0,"), "{:?}", frame.header);
                    answers += 1;
                }
            }
        }
        assert_eq!(answers, messages);
    }
}
