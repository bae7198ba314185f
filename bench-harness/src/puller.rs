//! Consumers of the harness: threads that pull queues with long polling, one request under way for each queue, as a push consumer
//! does, but without a group's heartbeat and rebalance: the harness says who reads what.
//!
//! Promises: every message counted was read whole and was the next of its queue; a gap is an error, and so is a delayed message
//! that comes too early.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::BytesMut;
use ringmq::client::Messages;
use ringmq::remoting::code::{request, response};
use ringmq::remoting::frame::{Frame, SerializeType, split_frame};
use ringmq::remoting::request::Request;
use ringmq::remoting::response::write_request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use crate::clock::{RunClock, duration_ns};
use crate::error::BenchError;
use crate::lane::make_room;
use crate::payload::{RunId, read_body_head};
use crate::series::{Recorder, Recording};
use crate::tally::{Counts, Errors, Tally};

/// How long a broker may hold a pull, as push consumers have it.
const HOLD: Duration = Duration::from_secs(15);
/// How often a thread looks whether it is to stop.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Brokers count delays in whole milliseconds, and round some of them down.
const EARLY_NS: u64 = 2_000_000;
/// Pull flags: commit the offset given, hold the request, the subscription is in the request.
const COMMIT: i32 = 0x1;
const SUSPEND: i32 = 0x2;
const SUBSCRIPTION: i32 = 0x4;

/// One queue to read.
#[derive(Clone, Debug)]
pub struct PullQueue {
    pub broker: String,
    pub addr: String,
    pub queue_id: u32,
    /// The next offset to read.
    pub offset: u64,
    /// Reading ends here; `None` reads on until told to stop.
    pub end: Option<u64>,
    /// Where to go on when the end is reached; `None` ends there.
    pub again_from: Option<u64>,
}

/// Which messages are counted, and from when on their latency.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    pub run: RunId,
    pub warmup: Duration,
    /// How long after its send time each message is due.
    pub delay: Duration,
}

/// What to read.
#[derive(Clone, Debug)]
pub struct PullPlan {
    pub topic: String,
    /// Each of these groups reads every queue.
    pub groups: Vec<String>,
    pub queues: Vec<PullQueue>,
    /// Connections of each group to each broker.
    pub connections: usize,
    pub threads: usize,
    /// Messages in one answer at most.
    pub messages_max: u32,
    /// Commit the offset with each pull.
    pub commit: bool,
    /// Count only these messages; without it all, and none for their latency.
    pub measured: Option<Measured>,
    /// Length of an interval of the time series.
    pub interval: Duration,
}

/// What the threads read.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// Latencies count from the time at which the message was due, its delay included.
    pub recording: Recording,
    pub messages: u64,
    pub body_bytes: u64,
    pub errors: Errors,
}

/// Consumers at work.
#[derive(Debug)]
pub struct Pulling {
    threads: Vec<(JoinHandle<Result<Received, BenchError>>, Arc<Tally>)>,
    stop: Arc<AtomicBool>,
}

/// One connection's share.
#[derive(Clone, Debug)]
struct ConnectionSpec {
    addr: String,
    group: String,
    queues: Vec<PullQueue>,
}

impl Pulling {
    /// Connects and begins to read at once; `clock` may start later.
    ///
    /// # Errors
    /// A broker cannot be connected to.
    pub fn start(plan: PullPlan, clock: RunClock) -> Result<Self, BenchError> {
        let specs = connection_specs(&plan);
        let plan = Arc::new(plan);
        let stop = Arc::new(AtomicBool::new(false));
        let (ready, all_ready) = mpsc::channel();
        let shares = plan.threads.clamp(1, specs.len().max(1));
        let mut threads = Vec::new();
        for share in 0..shares {
            let specs: Vec<_> = specs.iter().skip(share).step_by(shares).cloned().collect();
            let (plan, stop, ready) = (plan.clone(), stop.clone(), ready.clone());
            let tally = Arc::new(Tally::default());
            let counted = tally.clone();
            let handle = std::thread::Builder::new()
                .name(format!("puller-{share}"))
                .spawn(move || run_thread(plan, specs, clock, &stop, counted, &ready))
                .map_err(BenchError::Runtime)?;
            threads.push((handle, tally));
        }
        drop(ready);
        for _ in 0..shares {
            all_ready.recv().map_err(|_| BenchError::ThreadPanicked)??;
        }
        Ok(Self { threads, stop })
    }

    /// Messages received and errors so far.
    pub fn counts(&self) -> Counts {
        Counts::of(self.threads.iter().map(|(_, tally)| tally.as_ref()))
    }

    /// Whether every queue has been read to its end.
    pub fn is_finished(&self) -> bool {
        self.threads.iter().all(|(handle, tally)| tally.is_finished() || handle.is_finished())
    }

    /// Ends the reading and sums up.
    ///
    /// # Errors
    /// A thread failed.
    pub fn stop(self) -> Result<Received, BenchError> {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Received::default();
        for (handle, _) in self.threads {
            let part = handle.join().map_err(|_| BenchError::ThreadPanicked)??;
            sum.recording.merge(part.recording);
            sum.messages += part.messages;
            sum.body_bytes += part.body_bytes;
            sum.errors.merge(&part.errors);
        }
        Ok(sum)
    }
}

/// Deals each broker's queues out to the connections of each group.
fn connection_specs(plan: &PullPlan) -> Vec<ConnectionSpec> {
    let mut addrs: Vec<&str> = plan.queues.iter().map(|queue| queue.addr.as_str()).collect();
    addrs.sort_unstable();
    addrs.dedup();
    let mut specs = Vec::new();
    for (group, addr) in plan.groups.iter().flat_map(|group| addrs.iter().map(move |addr| (group, *addr))) {
        let queues: Vec<_> = plan.queues.iter().filter(|queue| queue.addr == addr).cloned().collect();
        let connections = plan.connections.clamp(1, queues.len());
        for index in 0..connections {
            let queues = queues.iter().skip(index).step_by(connections).cloned().collect();
            specs.push(ConnectionSpec { addr: addr.to_owned(), group: group.clone(), queues });
        }
    }
    specs
}

fn run_thread(
    plan: Arc<PullPlan>,
    specs: Vec<ConnectionSpec>,
    clock: RunClock,
    stop: &AtomicBool,
    tally: Arc<Tally>,
    ready: &mpsc::Sender<Result<(), BenchError>>,
) -> Result<Received, BenchError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(BenchError::Runtime)?;
    LocalSet::new().block_on(&runtime, async {
        let mut streams = Vec::new();
        for spec in &specs {
            match connect(spec).await {
                Ok(stream) => streams.push(stream),
                Err(error) => {
                    // Whoever starts the consumers returns this error.
                    let _ = ready.send(Err(error));
                    return Ok(Received::default());
                }
            }
        }
        let _ = ready.send(Ok(()));
        let recorder = RefCell::new(Recorder::new(plan.interval));
        let reader = Rc::new(Reader { plan, clock, tally, recorder, received: RefCell::default() });
        let mut tasks: Vec<_> = specs
            .into_iter()
            .zip(streams)
            .map(|(spec, stream)| tokio::task::spawn_local(reader.clone().drive(spec, stream)))
            .collect();
        while !stop.load(Ordering::Relaxed) {
            tasks.retain(|task| !task.is_finished());
            if tasks.is_empty() {
                reader.tally.set_finished();
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        for task in tasks {
            task.abort();
        }
        let recording = reader.recorder.borrow_mut().finish();
        Ok(Received { recording, ..reader.received.take() })
    })
}

async fn connect(spec: &ConnectionSpec) -> Result<TcpStream, BenchError> {
    let broker = spec.queues.first().map(|queue| queue.broker.clone()).unwrap_or_default();
    let failed = |source| BenchError::Connect { broker: broker.clone(), addr: spec.addr.clone(), source };
    let stream = tokio::time::timeout(Duration::from_secs(10), TcpStream::connect(&spec.addr))
        .await
        .map_err(|_| failed(io::ErrorKind::TimedOut.into()))?
        .map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}

/// What the tasks of one thread share.
struct Reader {
    plan: Arc<PullPlan>,
    clock: RunClock,
    tally: Arc<Tally>,
    recorder: RefCell<Recorder>,
    received: RefCell<Received>,
}

impl Reader {
    /// The task of one connection: keeps a pull under way for each queue that is not read to its end.
    async fn drive(self: Rc<Self>, mut spec: ConnectionSpec, mut stream: TcpStream) {
        if let Err(error) = self.pull_all(&spec.group, &mut spec.queues, &mut stream).await {
            self.received.borrow_mut().errors.add("connection lost", &error.to_string(), 1);
            self.tally.add_error();
        }
    }

    async fn pull_all(
        &self,
        group: &str,
        queues: &mut [PullQueue],
        stream: &mut TcpStream,
    ) -> io::Result<()> {
        let mut out = BytesMut::new();
        let mut input = BytesMut::new();
        let mut open = 0;
        for (index, queue) in queues.iter_mut().enumerate() {
            open += usize::from(self.put_pull(&mut out, group, index, queue));
        }
        while open > 0 {
            stream.write_all(&out).await?;
            out.clear();
            make_room(&mut input);
            if stream.read_buf(&mut input).await? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the broker closed the connection"));
            }
            let now_ns = self.clock.now_ns();
            while let Some(frame) = split_frame(&mut input).map_err(io::Error::other)? {
                let Some(index) = self.take_answer(&frame, queues, now_ns)? else { continue };
                open -= usize::from(!self.put_pull(&mut out, group, index, &mut queues[index]));
            }
        }
        Ok(())
    }

    /// Appends the next pull of a queue; not when it is read to its end.
    fn put_pull(&self, out: &mut BytesMut, group: &str, index: usize, queue: &mut PullQueue) -> bool {
        if queue.end.is_some_and(|end| queue.offset >= end) {
            match queue.again_from {
                Some(offset) if offset < queue.offset => queue.offset = offset,
                _ => return false,
            }
        }
        let flags = SUSPEND | SUBSCRIPTION | if self.plan.commit { COMMIT } else { 0 };
        write_request(
            out,
            SerializeType::Json,
            request::PULL_MESSAGE,
            i32::try_from(index).expect("a connection has few queues"),
            false,
            &[
                ("consumerGroup", &group),
                ("topic", &self.plan.topic),
                ("queueId", &queue.queue_id),
                ("queueOffset", &queue.offset),
                ("maxMsgNums", &self.plan.messages_max),
                ("sysFlag", &flags),
                ("commitOffset", &queue.offset),
                ("suspendTimeoutMillis", &HOLD.as_millis()),
                ("subscription", &"*"),
                ("subVersion", &0),
                ("expressionType", &"TAG"),
            ],
            &[],
        );
        true
    }

    /// Takes in one answer; returns whose it was, `None` for a request of the broker's own.
    fn take_answer(&self, frame: &Frame, queues: &mut [PullQueue], now_ns: u64) -> io::Result<Option<usize>> {
        let answer = Request::decode(frame).map_err(io::Error::other)?;
        if !answer.is_response() {
            return Ok(None);
        }
        let index = usize::try_from(answer.opaque)
            .ok()
            .filter(|index| *index < queues.len())
            .ok_or_else(|| io::Error::other(format!("a stray answer, opaque {}", answer.opaque)))?;
        let queue = &mut queues[index];
        let next = answer.ext.get("nextBeginOffset").and_then(|text| text.parse().ok());
        match (answer.code, next) {
            (response::SUCCESS, Some(next)) => {
                self.count(&frame.body, queue, now_ns)?;
                if queue.offset != next {
                    self.add_error("next offset is not behind the last message");
                }
            }
            (response::PULL_NOT_FOUND | response::PULL_RETRY_IMMEDIATELY, Some(next)) => queue.offset = next,
            (response::PULL_OFFSET_MOVED, Some(next)) => {
                self.add_error(&format!("offset {} moved to {next}", queue.offset));
                queue.offset = next;
            }
            (code, _) => {
                let remark = answer.remark.as_deref().unwrap_or_default();
                return Err(io::Error::other(format!("pull refused: code {code}, {remark}")));
            }
        }
        Ok(Some(index))
    }

    /// Counts the messages of an answer and moves the queue's offset behind them.
    fn count(&self, body: &[u8], queue: &mut PullQueue, now_ns: u64) -> io::Result<()> {
        let mut received = self.received.borrow_mut();
        let mut recorder = self.recorder.borrow_mut();
        let mut counted = 0;
        for message in Messages::new(body) {
            let message = message.map_err(io::Error::other)?;
            if message.queue_offset != queue.offset {
                let text = format!("offset {} where {} was next", message.queue_offset, queue.offset);
                received.errors.add("gap in a queue", &text, 1);
                self.tally.add_error();
            }
            queue.offset = message.queue_offset + 1;
            let mut latency_ns = None;
            if let Some(Measured { run, warmup, delay }) = self.plan.measured {
                let Some(head) = read_body_head(message.body).filter(|head| head.run == run) else {
                    continue;
                };
                let due_ns = head.intended_ns + duration_ns(delay);
                if now_ns + EARLY_NS < due_ns {
                    received.errors.add("came before its delay was over", "", 1);
                    self.tally.add_error();
                }
                latency_ns = (head.intended_ns >= duration_ns(warmup)).then(|| now_ns.saturating_sub(due_ns));
            }
            recorder.record(now_ns, 1, latency_ns);
            counted += 1;
            received.body_bytes += message.body.len() as u64;
        }
        received.messages += counted;
        self.tally.add_messages(counted);
        Ok(())
    }

    fn add_error(&self, what: &str) {
        self.received.borrow_mut().errors.add("pull answer", what, 1);
        self.tally.add_error();
    }
}
