//! The load generator: threads with one tokio runtime each, each with its share of the connections ([`Lane`]) and, in an open
//! loop, of the schedule.
//!
//! It runs in two steps, so that producers and consumers can begin on one clock: [`Prepared::open`] connects, [`Prepared::go`]
//! starts the load. A request is never sent twice. Promises: every acknowledged message is in the file of acknowledgements; every
//! message counted has been acknowledged; an open loop's latencies count from the intended time, for missed sends too.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;
use tokio::task::LocalSet;

use crate::acks::{Ack, AckWriter};
use crate::clock::{RunClock, duration_ns, unix_ms};
use crate::error::BenchError;
use crate::lane::{Answered, Lane, LaneQueue, SendFailure, make_room};
use crate::payload::Payload;
use crate::precise_timer::PreciseTimer;
use crate::schedule::OpenSchedule;
use crate::send_frame::{FrameSpec, SendFrame};
use crate::series::{Recorder, Recording};
use crate::tally::{Counts, Errors, Tally};

/// Acknowledgements that a thread collects before it writes them to the file.
const ACKS_PER_WRITE: usize = 4096;
/// How often a thread looks whether answers still come.
const PATIENCE_STEP: Duration = Duration::from_millis(100);

/// One broker and the queues to send to on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerTarget {
    pub name: String,
    pub addr: String,
    pub queue_ids: Vec<u32>,
}

/// When messages are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// As fast as answers come.
    Closed,
    /// At fixed times.
    Open { messages_per_second: f64 },
}

/// What a run is to do.
#[derive(Clone, Debug)]
pub struct LoadPlan {
    pub topic: String,
    pub brokers: Vec<BrokerTarget>,
    pub connections: usize,
    /// Requests under way at most, over all connections.
    pub in_flight: usize,
    pub threads: usize,
    /// Messages in one request.
    pub batch: usize,
    pub pace: Pace,
    /// Delay level of each message; 0 sends without delay.
    pub delay_level: u8,
    /// Messages due before this are sent but not measured.
    pub warmup: Duration,
    /// Length of an interval of the time series.
    pub interval: Duration,
    /// No message is sent later than this.
    pub end: Option<Duration>,
    pub messages_max: Option<u64>,
    /// The run is given up when requests are under way and this long no answer has come.
    pub patience: Duration,
    /// A lost connection ends its lane and is not an error: the broker is to be killed.
    pub until_disconnect: bool,
    pub payload: Payload,
    pub acks: Option<Arc<AckWriter>>,
}

/// What the threads of a run saw.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    /// Of messages due after the warm-up, from the intended time to the acknowledgement.
    pub recording: Recording,
    pub errors: Errors,
    /// The same during the warm-up; they do not spoil the run.
    pub warmup_errors: Errors,
    pub acknowledged: u64,
    /// Messages that left more than a millisecond late (open loop).
    pub late: u64,
    /// Messages that were due and never left (open loop). They are in the recording's total, with the time that they had waited
    /// at the end, and in no interval.
    pub missed: u64,
    /// Messages whose request was sent and never answered.
    pub unanswered: u64,
}

/// A run whose connections are open.
#[derive(Debug)]
pub struct Prepared {
    threads: Vec<(mpsc::Sender<RunClock>, JoinHandle<Result<Sent, BenchError>>, Arc<Tally>)>,
    acks: Option<Arc<AckWriter>>,
}

/// A run under way.
#[derive(Debug)]
pub struct Running {
    threads: Vec<(JoinHandle<Result<Sent, BenchError>>, Arc<Tally>)>,
    acks: Option<Arc<AckWriter>>,
}

/// What one thread needs to make one of its connections.
#[derive(Clone, Debug)]
struct LaneSpec {
    broker: u16,
    places: usize,
    first_queue: usize,
    rests: bool,
}

impl Prepared {
    /// Starts the threads and opens all connections.
    ///
    /// # Errors
    /// A broker cannot be connected to.
    pub fn open(plan: LoadPlan) -> Result<Self, BenchError> {
        let plan = Arc::new(plan);
        let sequence = Arc::new(AtomicU64::new(0));
        let specs = lane_specs(&plan);
        let shares = plan.threads.clamp(1, specs.len());
        let (ready, all_ready) = mpsc::channel();
        let mut threads = Vec::new();
        for share in 0..shares {
            let lanes = specs.iter().skip(share).step_by(shares).cloned().collect();
            let (go, gone) = mpsc::channel();
            let tally = Arc::new(Tally::default());
            let thread = GeneratorThread {
                plan: plan.clone(),
                sequence: sequence.clone(),
                tally: tally.clone(),
                share: share as u64,
                shares: shares as u64,
            };
            let ready = ready.clone();
            let handle = std::thread::Builder::new()
                .name(format!("generator-{share}"))
                .spawn(move || thread.run(lanes, &ready, &gone))
                .map_err(BenchError::Runtime)?;
            threads.push((go, handle, tally));
        }
        drop(ready);
        for _ in 0..shares {
            all_ready.recv().map_err(|_| BenchError::ThreadPanicked)??;
        }
        Ok(Self { threads, acks: plan.acks.clone() })
    }

    /// Starts the load on `clock`.
    pub fn go(self, clock: RunClock) -> Running {
        let start = |(go, handle, tally): (mpsc::Sender<RunClock>, _, _)| {
            // A thread that has ended meanwhile tells why when it is joined.
            let _ = go.send(clock);
            (handle, tally)
        };
        Running { threads: self.threads.into_iter().map(start).collect(), acks: self.acks }
    }
}

impl Running {
    /// Acknowledged messages and errors so far.
    pub fn counts(&self) -> Counts {
        Counts::of(self.threads.iter().map(|(_, tally)| tally.as_ref()))
    }

    pub fn is_finished(&self) -> bool {
        self.threads.iter().all(|(handle, tally)| tally.is_finished() || handle.is_finished())
    }

    /// Waits for the threads and sums up what they saw.
    ///
    /// # Errors
    /// A thread failed, or the acknowledgements could not be written.
    pub fn join(self) -> Result<Sent, BenchError> {
        let mut sum = Sent::default();
        for (handle, _) in self.threads {
            let part = handle.join().map_err(|_| BenchError::ThreadPanicked)??;
            sum.recording.merge(part.recording);
            sum.errors.merge(&part.errors);
            sum.warmup_errors.merge(&part.warmup_errors);
            sum.acknowledged += part.acknowledged;
            sum.late += part.late;
            sum.missed += part.missed;
            sum.unanswered += part.unanswered;
        }
        if let Some(acks) = &self.acks {
            acks.flush()?;
        }
        Ok(sum)
    }
}

/// Spreads connections over brokers, at least one each, and requests under way over connections. With fewer requests than connections
/// some connections rest: they take turns, as a sender does who goes from broker to broker.
fn lane_specs(plan: &LoadPlan) -> Vec<LaneSpec> {
    let brokers = plan.brokers.len();
    let connections = plan.connections.min(plan.in_flight).max(brokers);
    (0..connections)
        .map(|index| LaneSpec {
            broker: u16::try_from(index % brokers).expect("a cluster has fewer than 65,536 brokers"),
            places: (plan.in_flight / connections + usize::from(index < plan.in_flight % connections)).max(1),
            rests: index >= plan.in_flight,
            first_queue: index / brokers,
        })
        .collect()
}

/// What a thread takes along.
struct GeneratorThread {
    plan: Arc<LoadPlan>,
    sequence: Arc<AtomicU64>,
    tally: Arc<Tally>,
    share: u64,
    shares: u64,
}

impl GeneratorThread {
    fn run(
        self,
        specs: Vec<LaneSpec>,
        ready: &mpsc::Sender<Result<(), BenchError>>,
        go: &mpsc::Receiver<RunClock>,
    ) -> Result<Sent, BenchError> {
        let tally = self.tally.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(BenchError::Runtime)?;
        let result = LocalSet::new().block_on(&runtime, async {
            let connected = self.connect(&specs).await;
            let (lanes, readers) = match connected {
                Ok(connected) => connected,
                Err(error) => {
                    // Whoever prepares the run returns this error; the thread's own result is not asked for.
                    let _ = ready.send(Err(error));
                    return Ok(Sent::default());
                }
            };
            let _ = ready.send(Ok(()));
            // Nothing else runs on this thread yet: it may block.
            let Ok(clock) = go.recv() else { return Ok(Sent::default()) };
            Load::new(self, clock, lanes).run(readers).await
        });
        tally.set_finished();
        result
    }

    async fn connect(&self, specs: &[LaneSpec]) -> Result<(Vec<LoadLane>, Vec<OwnedReadHalf>), BenchError> {
        let mut lanes = Vec::new();
        let mut readers = Vec::new();
        let mut frames: HashMap<u16, Rc<[LaneQueue]>> = HashMap::new();
        for spec in specs {
            let broker = &self.plan.brokers[usize::from(spec.broker)];
            let failed = |source| BenchError::Connect {
                broker: broker.name.clone(),
                addr: broker.addr.clone(),
                source,
            };
            let stream = tokio::time::timeout(Duration::from_secs(10), TcpStream::connect(&broker.addr))
                .await
                .map_err(|_| failed(io::ErrorKind::TimedOut.into()))?
                .map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            let (reader, writer) = stream.into_split();
            let queues = frames.entry(spec.broker).or_insert_with(|| self.queues(broker)).clone();
            lanes.push(LoadLane {
                lane: Lane::new(queues, spec.places, spec.first_queue),
                broker: spec.broker,
                writer: Rc::new(writer),
                wake: Rc::new(Notify::new()),
                rests: spec.rests,
                ended: false,
            });
            readers.push(reader);
        }
        Ok((lanes, readers))
    }

    /// The requests for each queue of a broker, shared by its lanes: with thousands of queues they are megabytes.
    fn queues(&self, broker: &BrokerTarget) -> Rc<[LaneQueue]> {
        let plan = &self.plan;
        let queue = |queue_id: &u32| {
            let spec = FrameSpec {
                topic: &plan.topic,
                broker_name: &broker.name,
                queue_id: *queue_id,
                batch: plan.batch,
                delay_level: plan.delay_level,
            };
            LaneQueue { queue_id: *queue_id, frame: SendFrame::new(&spec, &plan.payload) }
        };
        broker.queue_ids.iter().map(queue).collect()
    }
}

/// A lane with its connection.
struct LoadLane {
    lane: Lane,
    broker: u16,
    writer: Rc<OwnedWriteHalf>,
    /// Told when the lane has something to do that its connection does not tell of.
    wake: Rc<Notify>,
    /// It is the turn of others: no message is begun here.
    rests: bool,
    ended: bool,
}

impl LoadLane {
    fn may_begin(&self) -> bool {
        self.lane.has_place() && !self.rests && !self.ended
    }
}

/// What an open loop keeps: the schedule, and which lane is next.
struct OpenLoop {
    schedule: OpenSchedule,
    next_lane: usize,
}

/// One thread's load. Shared by the tasks of the thread; borrowed only between awaits.
struct Load {
    thread: GeneratorThread,
    clock: RunClock,
    warmup_ns: u64,
    end_ns: u64,
    batch: u64,
    lanes: Vec<RefCell<LoadLane>>,
    open_loop: Option<RefCell<OpenLoop>>,
    /// The lanes that rest, the next one in front.
    resting: RefCell<VecDeque<usize>>,
    /// No message is begun any more.
    closing: Cell<bool>,
    lane_ended: Notify,
    answers: Cell<u64>,
    sent: RefCell<Sent>,
    recorder: RefCell<Recorder>,
    acks: RefCell<Vec<Ack>>,
}

impl Load {
    fn new(thread: GeneratorThread, clock: RunClock, lanes: Vec<LoadLane>) -> Rc<Self> {
        let plan = &thread.plan;
        let end_ns = plan.end.map_or(u64::MAX, duration_ns);
        let open_loop = match plan.pace {
            Pace::Closed => None,
            Pace::Open { messages_per_second } => {
                let requests_per_second = messages_per_second / plan.batch as f64;
                let schedule = OpenSchedule::new(requests_per_second, thread.share, thread.shares, end_ns);
                Some(RefCell::new(OpenLoop { schedule, next_lane: 0 }))
            }
        };
        Rc::new(Self {
            clock,
            warmup_ns: duration_ns(plan.warmup),
            end_ns,
            batch: plan.batch as u64,
            resting: RefCell::new((0..lanes.len()).filter(|index| lanes[*index].rests).collect()),
            lanes: lanes.into_iter().map(RefCell::new).collect(),
            open_loop,
            closing: Cell::new(false),
            lane_ended: Notify::new(),
            answers: Cell::new(0),
            sent: RefCell::default(),
            recorder: RefCell::new(Recorder::new(plan.interval)),
            acks: RefCell::default(),
            thread,
        })
    }

    async fn run(self: Rc<Self>, readers: Vec<OwnedReadHalf>) -> Result<Sent, BenchError> {
        tokio::time::sleep_until(self.clock.instant_at(0).into()).await;
        let mut tasks: Vec<_> = readers
            .into_iter()
            .enumerate()
            .map(|(index, reader)| tokio::task::spawn_local(self.clone().drive(index, reader)))
            .collect();
        if self.open_loop.is_some() {
            tasks.push(tokio::task::spawn_local(self.clone().pace()));
        }
        self.wait_until_done().await;
        for task in tasks {
            task.abort();
        }
        self.finish()
    }

    /// Returns when all lanes have ended, or no answers have come for too long.
    async fn wait_until_done(&self) {
        let patience = self.thread.plan.patience;
        let mut silent = Duration::ZERO;
        let mut answers_before = 0;
        loop {
            let looked = tokio::time::Instant::now();
            tokio::select! {
                () = tokio::time::sleep(PATIENCE_STEP) => {}
                () = self.lane_ended.notified() => {}
            }
            if self.closing.get() || self.clock.now_ns() >= self.end_ns {
                self.close();
            }
            if self.lanes.iter().all(|lane| lane.borrow().ended) {
                return;
            }
            let waits = self.lanes.iter().any(|lane| lane.borrow().lane.under_way() > 0);
            silent = if waits && self.answers.get() == answers_before {
                silent + looked.elapsed()
            } else {
                Duration::ZERO
            };
            answers_before = self.answers.get();
            if silent >= patience {
                return;
            }
        }
    }

    /// Begins no further message; lanes end when they have their answers.
    fn close(&self) {
        self.closing.set(true);
        for lane in &self.lanes {
            lane.borrow().wake.notify_one();
        }
    }

    /// The task of one connection: reads answers, sends what may be sent, until nothing is left to do.
    async fn drive(self: Rc<Self>, index: usize, mut reader: OwnedReadHalf) {
        let (wake, writer) = {
            let lane = self.lanes[index].borrow();
            (lane.wake.clone(), lane.writer.clone())
        };
        let mut input = BytesMut::new();
        loop {
            self.refill(index);
            if let Err(error) = self.write(index) {
                return self.lose(index, &error);
            }
            if self.may_end(index) {
                return self.end_lane(index);
            }
            make_room(&mut input);
            // When the socket takes no more for now, wait for it as well as for answers.
            let blocked = !self.lanes[index].borrow().lane.output().is_empty();
            tokio::select! {
                biased;
                read = reader.read_buf(&mut input) => {
                    if let Err(error) = self.received(index, read, &mut input) {
                        return self.lose(index, &error);
                    }
                }
                // An error shows itself when the socket is written to.
                _ = writer.writable(), if blocked => {}
                () = wake.notified() => {}
            }
        }
    }

    /// The task of an open loop's schedule: hands out sends when they are due.
    async fn pace(self: Rc<Self>) {
        let Some(open_loop) = &self.open_loop else { return };
        let timer = match PreciseTimer::new() {
            Ok(timer) => timer,
            Err(error) => return self.give_up(&error),
        };
        loop {
            let now = self.clock.now_ns();
            open_loop.borrow_mut().schedule.advance(now);
            self.hand_out();
            let next = open_loop.borrow().schedule.next_time();
            let Some(time) = next.filter(|_| !self.closing.get()) else { break };
            if let Err(error) = timer.wait_ns(time.saturating_sub(self.clock.now_ns())).await {
                return self.give_up(&error);
            }
            // Other tasks first, when the schedule is denser than the time that one turn takes.
            tokio::task::yield_now().await;
        }
        // What still waits for a place may leave until the end; lanes take it as places become free.
    }

    fn give_up(&self, error: &io::Error) {
        self.sent.borrow_mut().errors.add("the timer failed", &error.to_string(), 1);
        self.thread.tally.add_error();
        self.close();
    }

    /// Sends what is due and has a place, lanes in turn.
    fn hand_out(&self) {
        let Some(open_loop) = &self.open_loop else { return };
        let mut open_loop = open_loop.borrow_mut();
        let OpenLoop { schedule, next_lane } = &mut *open_loop;
        let mut passed_over = 0;
        while schedule.is_waiting() && passed_over < self.lanes.len() {
            let begun = self.begin_open(*next_lane, schedule, 1);
            passed_over = if begun { 0 } else { passed_over + 1 };
            *next_lane = (*next_lane + 1) % self.lanes.len();
        }
        for (index, lane) in self.lanes.iter().enumerate() {
            let has_output = !lane.borrow().lane.output().is_empty();
            // Should the socket fail or take only a part, the lane's own task goes on from there.
            if has_output && (self.write(index).is_err() || !lane.borrow().lane.output().is_empty()) {
                lane.borrow().wake.notify_one();
            }
        }
    }

    /// Puts up to `count` due sends into a lane; whether it put any.
    fn begin_open(&self, index: usize, schedule: &mut OpenSchedule, count: usize) -> bool {
        let mut lane = self.lanes[index].borrow_mut();
        let mut begun = 0;
        while begun < count && !self.closing.get() && lane.may_begin() {
            let now = self.clock.now_ns();
            if now >= self.end_ns {
                break;
            }
            let Some(intended_ns) = schedule.take(now) else { break };
            let Some(sequence) = self.next_sequence() else { break };
            lane.lane.send(sequence, intended_ns, unix_ms());
            begun += 1;
        }
        begun > 0
    }

    /// Fills the lane's places with whatever may be sent now.
    fn refill(&self, index: usize) {
        if let Some(open_loop) = &self.open_loop {
            self.begin_open(index, &mut open_loop.borrow_mut().schedule, usize::MAX);
            return;
        }
        let mut lane = self.lanes[index].borrow_mut();
        if !lane.may_begin() || self.closing.get() {
            return;
        }
        let (now, born) = (self.clock.now_ns(), unix_ms());
        while lane.may_begin() && now < self.end_ns {
            let Some(sequence) = self.next_sequence() else { break };
            lane.lane.send(sequence, now, born);
        }
    }

    /// The first sequence of the next request; `None` when the run has had its messages.
    fn next_sequence(&self) -> Option<u64> {
        let limit = self.thread.plan.messages_max.unwrap_or(u64::MAX);
        let first = self.thread.sequence.fetch_add(self.batch, Ordering::Relaxed);
        if first >= limit {
            self.closing.set(true);
            return None;
        }
        Some(first)
    }

    /// Writes as much of the lane's output as the socket takes.
    fn write(&self, index: usize) -> io::Result<()> {
        let mut lane = self.lanes[index].borrow_mut();
        while !lane.lane.output().is_empty() {
            match lane.writer.try_write(lane.lane.output()) {
                Ok(count) => lane.lane.advance_output(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes in what was read.
    fn received(&self, index: usize, read: io::Result<usize>, input: &mut BytesMut) -> io::Result<()> {
        if read? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the broker closed the connection"));
        }
        let now = self.clock.now_ns();
        let mut lane = self.lanes[index].borrow_mut();
        let broker = lane.broker;
        lane.lane
            .receive(input, |answered| self.count(broker, answered, now))
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let mut resting = self.resting.borrow_mut();
        if lane.lane.under_way() == 0
            && let Some(next) = resting.pop_front()
        {
            lane.rests = true;
            resting.push_back(index);
            let mut next = self.lanes[next].borrow_mut();
            next.rests = false;
            next.wake.notify_one();
        }
        Ok(())
    }

    /// Counts one answer that was read at `now_ns`.
    fn count(&self, broker: u16, answered: Answered, now_ns: u64) {
        self.answers.set(self.answers.get() + 1);
        let mut sent = self.sent.borrow_mut();
        let Answered { request, queue_id, result } = answered;
        let measured = request.intended_ns >= self.warmup_ns;
        match result {
            Ok(queue_offset) => {
                sent.acknowledged += self.batch;
                self.thread.tally.add_messages(self.batch);
                let latency_ns = measured.then(|| now_ns.saturating_sub(request.intended_ns));
                self.recorder.borrow_mut().record(now_ns, self.batch, latency_ns);
                self.record_acks(broker, queue_id, queue_offset, request.first_sequence);
            }
            Err(failure) => {
                self.thread.tally.add_error();
                let Sent { errors, warmup_errors, .. } = &mut *sent;
                let errors = if measured { errors } else { warmup_errors };
                match failure {
                    SendFailure::Refused { code, remark } => errors.add_refusal(code, &remark),
                    SendFailure::Malformed(what) => errors.add("malformed answer", what, 1),
                }
            }
        }
    }

    fn record_acks(&self, broker: u16, queue_id: u32, queue_offset: u64, first_sequence: u64) {
        let Some(writer) = &self.thread.plan.acks else { return };
        let mut acks = self.acks.borrow_mut();
        acks.extend((0..self.batch).map(|index| Ack {
            broker,
            queue_id,
            queue_offset: queue_offset + index,
            sequence: first_sequence + index,
        }));
        if acks.len() >= ACKS_PER_WRITE {
            self.write_acks(writer, &mut acks);
        }
    }

    fn write_acks(&self, writer: &AckWriter, acks: &mut Vec<Ack>) {
        if let Err(error) = writer.append(acks) {
            self.sent.borrow_mut().errors.add(
                "the acknowledgements cannot be recorded",
                &error.to_string(),
                1,
            );
            self.thread.tally.add_error();
            self.closing.set(true);
        }
        acks.clear();
    }

    fn may_end(&self, index: usize) -> bool {
        let over = self.closing.get() || self.clock.now_ns() >= self.end_ns;
        over && self.lanes[index].borrow().lane.under_way() == 0
    }

    fn end_lane(&self, index: usize) {
        self.lanes[index].borrow_mut().ended = true;
        self.lane_ended.notify_one();
    }

    /// Ends a lane whose connection is gone. What it had under way stays unanswered.
    fn lose(&self, index: usize, error: &io::Error) {
        self.end_lane(index);
        if !self.thread.plan.until_disconnect {
            self.sent.borrow_mut().errors.add("connection lost", &error.to_string(), 1);
            self.thread.tally.add_error();
        }
    }

    /// Sums up after the last answer.
    fn finish(&self) -> Result<Sent, BenchError> {
        if let Some(writer) = &self.thread.plan.acks {
            self.write_acks(writer, &mut self.acks.borrow_mut());
        }
        let mut sent = self.sent.take();
        sent.recording = self.recorder.borrow_mut().finish();
        let under_way: usize = self.lanes.iter().map(|lane| lane.borrow().lane.under_way()).sum();
        sent.unanswered = under_way as u64 * self.batch;
        if sent.unanswered > 0 && !self.thread.plan.until_disconnect {
            sent.errors.add("unanswered", "no answer came to these requests", sent.unanswered);
        }
        if let Some(open_loop) = &self.open_loop {
            let schedule = &mut open_loop.borrow_mut().schedule;
            let now = self.clock.now_ns();
            // A run that ends after a number of messages has no sends left over: the schedule just goes on.
            let missed = if self.thread.plan.messages_max.is_none() { schedule.missed() } else { Vec::new() };
            for time in missed.iter().filter(|time| **time >= self.warmup_ns) {
                sent.recording.total.record(now.saturating_sub(*time), self.batch);
            }
            sent.missed = missed.len() as u64 * self.batch;
            sent.late = schedule.late() * self.batch;
        }
        Ok(sent)
    }
}

#[cfg(test)]
mod tests;
