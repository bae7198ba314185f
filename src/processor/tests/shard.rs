//! A shard for tests, all on one thread: a real broker over a real store in a folder of its own, clients without sockets, and a
//! log half that places what it is given and calls it durable when the test says so.

use crate::remoting::field_text::FieldText;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use futures_lite::future::block_on;
use shards::append::{AppendOutcome, AppendRefusal, Committed, Placement};
use shards::index_file::IndexLayout;
use shards::io::block::{BlockPool, BlockWriter};
use shards::io::disk::StdDisk;
use shards::message_store::{MessageStore, MessageStoreConfig};
use shards::position::{PhysicalOffset, QueueOffset};
use shards::record::{self, RecordView, peek_size};
use shards::recovery::{ShardConfig, recover_shard};
use shards::side_writer::SideWriter;
use tempfile::TempDir;

use crate::broker::{Broker, BrokerCell, BrokerRegistration, Identity, Outside, Settings};
use crate::processor::{Served, commit, serve};
use crate::remoting::body::topic::TopicConfig;
use crate::remoting::frame::{SerializeType, split_frame};
use crate::remoting::request::Request;
use crate::remoting::response::write_request;
use crate::transport::{Connection, ConnectionId};

/// When the test's log says that it stored its first record, milliseconds since the epoch.
pub(super) const STORED_MS: i64 = 1_700_000_000_000;

/// A broker, its log half and its clients.
pub(super) struct TestShard {
    pub(super) broker: BrokerCell,
    pub(super) outside: Rc<Told>,
    /// What the log's clock says; a test may move it on.
    pub(super) log_now_ms: i64,
    log_end: PhysicalOffset,
    queue_offsets: HashMap<(String, u32), u64>,
    pool: BlockPool,
    block: Option<BlockWriter>,
    next_client: u64,
    /// Removed when the test ends.
    _dir: TempDir,
}

/// What the broker told the rest of its node.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) registered: RefCell<Vec<BrokerRegistration>>,
    pub(super) made_elsewhere: RefCell<Vec<TopicConfig>>,
}

impl Outside for Told {
    fn register(&self, registration: BrokerRegistration) {
        self.registered.borrow_mut().push(registration);
    }

    fn create_topic_elsewhere(&self, config: &TopicConfig) {
        self.made_elsewhere.borrow_mut().push(config.clone());
    }

    fn longest_stalls_ms(&self) -> Vec<u64> {
        vec![0, 7]
    }
}

/// An answer as a client reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) opaque: i32,
    pub(super) code: i32,
    pub(super) remark: String,
    pub(super) ext: HashMap<String, String>,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn field(&self, name: &str) -> &str {
        self.ext.get(name).map_or("", String::as_str)
    }

    /// The records of the body.
    pub(super) fn records(&self) -> Vec<RecordView<'_>> {
        let mut rest = &self.body[..];
        let mut records = Vec::new();
        while !rest.is_empty() {
            let view = RecordView::parse(rest).expect("a body of whole records");
            view.verify_crc().expect("records are whole");
            rest = &rest[view.total_size()..];
            records.push(view);
        }
        records
    }
}

/// A request for [`TestShard::ask`].
pub(super) struct Ask<'a> {
    pub(super) code: i32,
    pub(super) fields: &'a [(&'a str, &'a str)],
    pub(super) body: &'a [u8],
    pub(super) oneway: bool,
}

impl TestShard {
    pub(super) fn start() -> Self {
        Self::with_settings(Settings::default())
    }

    pub(super) fn with_settings(settings: Settings) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        for folder in ["commitlog", "config"] {
            std::fs::create_dir_all(dir.path().join(folder)).expect("a folder");
        }
        let config = ShardConfig {
            index: IndexLayout { slots: 64, items: 4096 },
            ..ShardConfig::new(shards::limits::SEGMENT_BYTES_MIN)
        };
        let recovered =
            recover_shard(&StdDisk, dir.path(), &config, &mut |_| {}).expect("an empty shard recovers");
        let writer = SideWriter::start(StdDisk, recovered.side).expect("a thread");
        let store = MessageStore::open(recovered.serve, MessageStoreConfig::default(), writer.clone());
        let outside = Rc::new(Told::default());
        let broker = Broker::open(
            Identity::for_tests(),
            settings,
            store,
            writer,
            dir.path().join("config"),
            Rc::clone(&outside) as Rc<dyn Outside>,
        )
        .expect("no file is damaged");
        Self {
            broker,
            outside,
            log_now_ms: STORED_MS,
            log_end: PhysicalOffset::ZERO,
            queue_offsets: HashMap::new(),
            pool: BlockPool::new(1 << 20, 2),
            block: None,
            next_client: 0,
            _dir: dir,
        }
    }

    /// A shard with this topic of four queues.
    pub(super) fn with_topic(topic: &str) -> Self {
        let shard = Self::start();
        shard.make_topic(TopicConfig::new(topic, 4));
        shard
    }

    pub(super) fn make_topic(&self, config: TopicConfig) {
        let made = crate::broker::topic_creation::put_topic(&self.broker, config, STORED_MS);
        match made.expect("a good topic") {
            crate::broker::topic_creation::TopicReady::Now(_) => {}
            crate::broker::topic_creation::TopicReady::Later(later) => {
                block_on(later).expect("the disk takes the file");
            }
        }
    }

    pub(super) fn client(&mut self) -> Rc<Connection> {
        self.next_client += 1;
        Connection::detached(ConnectionId(self.next_client), "127.0.0.1:4000".parse().expect("an address"))
    }

    /// Serves a request to its end, apart from what waits for a commit or a message.
    pub(super) fn ask(&self, client: &Rc<Connection>, opaque: i32, ask: &Ask<'_>) {
        let fields: Vec<(&str, &dyn FieldText)> =
            ask.fields.iter().map(|(name, value)| (*name, value as &dyn FieldText)).collect();
        let mut bytes = BytesMut::new();
        write_request(&mut bytes, SerializeType::Json, ask.code, opaque, ask.oneway, &fields, ask.body);
        let frame = split_frame(&mut bytes).expect("a frame").expect("a whole frame");
        match serve(&self.broker, client, &frame).expect("a readable header") {
            Served::Now => {}
            Served::Later(later) => block_on(later),
        }
    }

    /// The log half takes what was pushed and makes it durable.
    pub(super) fn commit(&mut self) {
        let mut committed = Committed::default();
        while let Some(batch) = { self.broker.borrow_mut().appends.take_batch() } {
            let mut rest = &batch.records[..];
            for _ in 0..batch.count {
                let size = peek_size(rest).expect("an encoded record");
                let outcome = self.place(&rest[..size], &mut committed);
                committed.outcomes.push(outcome);
                rest = &rest[size..];
            }
            assert!(rest.is_empty(), "the batch says how many records it holds");
        }
        committed.confirm_offset = self.log_end;
        commit::committed(&self.broker, committed);
    }

    fn place(&mut self, encoded: &[u8], committed: &mut Committed) -> AppendOutcome {
        if self.block.as_ref().is_none_or(|block| block.room_bytes() < encoded.len()) {
            let block = self.pool.writer(self.log_end, encoded.len());
            committed.new_blocks.push(block.block());
            self.block = Some(block);
        }
        let view = RecordView::parse(encoded).expect("an encoded record");
        let next = self.queue_offsets.entry((view.topic().to_owned(), view.queue_id())).or_default();
        let placement = Placement {
            queue_offset: QueueOffset::new(*next),
            physical_offset: self.log_end,
            store_timestamp_ms: self.log_now_ms,
        };
        *next += 1;
        let block = self.block.as_mut().expect("made above");
        block.append(encoded, |copy| record::place(copy, &placement));
        self.log_end = self.log_end.plus(encoded.len() as u64);
        AppendOutcome::Placed(placement)
    }

    /// The log half refuses everything that was pushed.
    pub(super) fn refuse(&mut self, refusal: &AppendRefusal) {
        let mut committed = Committed { confirm_offset: self.log_end, ..Committed::default() };
        while let Some(batch) = { self.broker.borrow_mut().appends.take_batch() } {
            let refused = AppendOutcome::Refused(refusal.clone());
            committed.outcomes.extend(std::iter::repeat_n(refused, batch.count as usize));
        }
        commit::committed(&self.broker, committed);
    }
}

/// What a client has been answered since it last looked.
pub(super) fn answers(client: &Connection) -> Vec<Answer> {
    let mut bytes = BytesMut::new();
    for piece in client.take_output() {
        bytes.extend_from_slice(&piece);
    }
    let mut answers = Vec::new();
    while let Some(frame) = split_frame(&mut bytes).expect("whole frames") {
        let response = Request::decode(&frame).expect("a readable header");
        assert!(response.is_response());
        answers.push(Answer {
            opaque: response.opaque,
            code: response.code,
            remark: response.remark.as_deref().unwrap_or_default().to_owned(),
            ext: response.ext.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            body: frame.body.clone(),
        });
    }
    assert!(bytes.is_empty(), "the last answer is whole");
    answers
}

/// The one thing that a client has been answered since it last looked.
pub(super) fn answer(client: &Connection) -> Answer {
    let mut answers = answers(client);
    assert_eq!(answers.len(), 1, "{answers:?}");
    answers.remove(0)
}
