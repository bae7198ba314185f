//! One simulated history: a node with its disk and its clock, clients, the network between them, and what the plan does to them.
//!
//! Everything is an event in one queue, handled on one thread; chance comes from the seed alone. So a plan has one history, whatever
//! machine runs it.

use std::collections::BTreeMap;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use shards::commit_log::scan::{ScanError, ScanLog, Scanned, scan};
use shards::io::disk::Disk;
use shards::limits::FLUSH_BYTES_MAX;
use shards::position::PhysicalOffset;
use shards::segment::list_segments;

use crate::bug::Bug;
use crate::disk::{ModelDisk, Stop};
use crate::events::EventQueue;
use crate::network::{Address, Letter, Message, Network, Pulled};
use crate::oracle::{Known, Oracle, know};
use crate::plan::{Act, CONSUMERS, Plan, QUEUES, QueueKey};
use crate::process::{Host, MachineOff, Process, SHARD_DIR, StartError, Timer};
use crate::trace::Trace;

/// What the clocks of nodes show at the start, milliseconds since the epoch.
const EPOCH_MS: i64 = 1_800_000_000_000;
const POLL_INTERVAL_US: u64 = 40_000;
const REQUEST_TIMEOUT_US: u64 = 2_000_000;
/// How long a healed shard may take until everything is delivered, microseconds.
const CALM_US: u64 = 300_000_000;

/// What may happen at a time.
#[derive(Debug)]
enum Event {
    Step(usize),
    Letter(Letter),
    Timer {
        life: u64,
        timer: Timer,
    },
    Start {
        life: u64,
    },
    /// Somebody looks after a process whose log has failed.
    Supervise {
        life: u64,
    },
    Poll(usize),
    DiskHasRoom,
    DiskIsFast,
}

/// A machine with at most one process.
struct Node {
    disk: ModelDisk,
    process: Option<Process>,
    /// Counts starts and stops: what belongs to an earlier life is of no use.
    life: u64,
    clock_ms: i64,
    /// How the machine stops when its disk says so.
    stop: Stop,
    /// The worst stop since the last recovery.
    worst: Stop,
    disk_factor: u64,
    is_supervised: bool,
}

#[derive(Default)]
struct Consumer {
    next: BTreeMap<QueueKey, u64>,
    /// Until when it waits for an answer, microseconds.
    waits_until_us: Option<u64>,
    turn: usize,
}

/// A history under way.
pub struct World<'a> {
    plan: &'a Plan,
    bug: Option<Bug>,
    pub(crate) trace: &'a mut Trace,
    pub(crate) oracle: Oracle,
    pub(crate) random: StdRng,
    queue: EventQueue<Event>,
    network: Network,
    node: Node,
    consumers: Vec<Consumer>,
    is_healed: bool,
    log_syncs_failed: u64,
}

impl<'a> World<'a> {
    /// A new shard, to which `plan` will happen.
    pub fn new(plan: &'a Plan, bug: Option<Bug>, trace: &'a mut Trace) -> Self {
        let disk = ModelDisk::default();
        disk.seed_chance(plan.seed ^ 0xD15C);
        let node = Node {
            disk,
            process: None,
            life: 0,
            clock_ms: EPOCH_MS,
            stop: Stop::Kill,
            worst: Stop::Kill,
            disk_factor: 1,
            is_supervised: false,
        };
        let mut queue = EventQueue::default();
        queue.put(0, Event::Start { life: 0 });
        for (index, step) in plan.steps.iter().enumerate() {
            queue.put(step.at_us, Event::Step(index));
        }
        for consumer in 0..CONSUMERS {
            queue.put(POLL_INTERVAL_US * (consumer as u64 + 1) / 2, Event::Poll(consumer));
        }
        Self {
            bug,
            trace,
            oracle: Oracle::default(),
            random: StdRng::seed_from_u64(plan.seed ^ 0x1FE),
            queue,
            network: Network::new(plan.shape.network_us, plan.shape.lost_of_thousand),
            node,
            consumers: (0..CONSUMERS).map(|_| Consumer::default()).collect(),
            is_healed: false,
            log_syncs_failed: 0,
            plan,
        }
    }

    /// Lets everything happen that the plan says, then heals all and lets the shard come to rest.
    ///
    /// # Errors
    /// What the oracle found wrong.
    pub fn run(&mut self) -> Result<(), String> {
        self.go_on_until(self.plan.end_us)?;
        self.heal();
        let calm_us = self.queue.now_us() + CALM_US;
        while !self.is_at_rest() {
            let next_us = self.queue.now_us() + 500_000;
            self.go_on_until(next_us)?;
            if next_us >= calm_us {
                return Err(format!(
                    "the shard does not come to rest: {} delayed messages are not delivered, the node is {}",
                    self.oracle.undelivered().len(),
                    if self.node.process.is_some() { "up" } else { "down" }
                ));
            }
        }
        Ok(())
    }

    /// Stops and starts the node as it should be done, and reads everything from the disk.
    ///
    /// # Errors
    /// What the oracle found wrong.
    pub fn read_everything_after_a_restart(&mut self) -> Result<(), String> {
        self.restart_cleanly()?;
        self.read_everything()
    }

    fn is_at_rest(&self) -> bool {
        let is_whole =
            |process: &Process| process.is_idle() && !process.has_failed() && !process.is_rebuilding();
        self.node.process.as_ref().is_some_and(is_whole) && self.oracle.undelivered().is_empty()
    }

    fn heal(&mut self) {
        self.note(format_args!("everything is healed"));
        self.is_healed = true;
        self.network.heal();
        self.node.disk.heal();
        self.node.disk_factor = 1;
        // A process whose disk has failed is not whole again.
        let stop = if self.random.random_bool(0.5) { Stop::PowerCut } else { Stop::Kill };
        self.stop(stop);
    }

    fn go_on_until(&mut self, until_us: u64) -> Result<(), String> {
        while let Some(event) = self.queue.take(until_us) {
            self.happen(event);
            self.hear_of_failed_syncs();
            self.verdict()?;
        }
        Ok(())
    }

    /// Whoever's sync of the log failed: what the lazy flush mode had not synced may be gone from now on.
    fn hear_of_failed_syncs(&mut self) {
        let failed = self.node.disk.log_syncs_failed();
        if failed > self.log_syncs_failed {
            self.log_syncs_failed = failed;
            self.oracle.sync_failed();
        }
    }

    pub(crate) fn verdict(&self) -> Result<(), String> {
        self.oracle.violation().map_or(Ok(()), |what| Err(what.to_owned()))
    }

    pub(crate) fn note(&mut self, what: std::fmt::Arguments<'_>) {
        self.trace.note(self.queue.now_us(), what);
    }

    pub(crate) fn disk(&self) -> &ModelDisk {
        &self.node.disk
    }

    pub(crate) fn process(&mut self) -> Option<(&mut Process, &mut Oracle)> {
        Some((self.node.process.as_mut()?, &mut self.oracle))
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Step(index) => self.step(index),
            Event::Letter(letter) => self.arrive(&letter),
            Event::Timer { life, timer } => {
                if life == self.node.life {
                    self.with_process(|process, host| process.timer(timer, host));
                }
            }
            Event::Start { life } => {
                if life == self.node.life && self.node.process.is_none() {
                    self.start();
                }
            }
            Event::Supervise { life } => {
                if life == self.node.life {
                    match self.random.random_range(0..3) {
                        0 => self.stop(Stop::Kill),
                        1 => self.stop(Stop::PowerCut),
                        _ => self.stop_cleanly(),
                    }
                }
            }
            Event::Poll(consumer) => self.poll(consumer),
            Event::DiskHasRoom => {
                self.note(format_args!("the disk has room again"));
                self.node.disk.set_full(false);
            }
            Event::DiskIsFast => self.node.disk_factor = 1,
        }
    }

    fn step(&mut self, index: usize) {
        let step = &self.plan.steps[index];
        self.note(format_args!("step {}: {:?}", step.number, step.act));
        let now_us = self.queue.now_us();
        match &step.act {
            Act::Send(_) => self.say(Address::Producer, Address::Node(0), Message::Send { step: index }),
            Act::Stop(stop) => self.stop(*stop),
            Act::StopAtChange { changes, stop } => {
                self.node.stop = *stop;
                self.node.disk.stop_at(*changes);
            }
            Act::CleanStop => self.stop_cleanly(),
            Act::LoseDerived(derived) => {
                self.stop(Stop::Kill);
                let folder = Path::new(SHARD_DIR).join(derived.folder());
                if let Err(error) = self.node.disk.remove_dir_all(&folder) {
                    self.note(format_args!("nobody can remove it: {error}"));
                }
            }
            Act::ClockJump { ms } => {
                self.node.clock_ms += ms;
                self.oracle.clock_jumps(*ms);
            }
            Act::Disk(fault) => self.node.disk.inject(*fault),
            Act::DiskFull { for_us } => {
                self.node.disk.set_full(true);
                self.queue.put(now_us + for_us, Event::DiskHasRoom);
            }
            Act::DiskSlow { factor, for_us } => {
                self.node.disk_factor = *factor;
                self.queue.put(now_us + for_us, Event::DiskIsFast);
            }
            Act::Blocked { to_node, for_us } => {
                for client in [Address::Producer, Address::Consumer(0), Address::Consumer(1)] {
                    let (from, to) =
                        if *to_node { (client, Address::Node(0)) } else { (Address::Node(0), client) };
                    self.network.block(from, to, now_us + for_us);
                }
            }
        }
    }

    // The node.

    fn now_ms(&self) -> i64 {
        self.node.clock_ms + i64::try_from(self.queue.now_us() / 1000).expect("a simulation is short")
    }

    fn with_process(&mut self, work: impl FnOnce(&mut Process, &mut Host<'_>) -> Result<(), MachineOff>) {
        let Some(mut process) = self.node.process.take() else { return };
        let worked = self.with_host(|host| work(&mut process, host));
        let has_failed = process.has_failed();
        self.node.process = Some(process);
        match worked {
            Err(MachineOff) => self.machine_stopped(),
            Ok(()) if has_failed && !self.node.is_supervised => {
                self.node.is_supervised = true;
                let at_us = self.queue.now_us() + self.random.random_range(1_000..300_000);
                self.queue.put(at_us, Event::Supervise { life: self.node.life });
            }
            Ok(()) => {}
        }
    }

    fn with_host<T>(&mut self, work: impl FnOnce(&mut Host<'_>) -> T) -> T {
        let (now_us, now_ms, life) = (self.queue.now_us(), self.now_ms(), self.node.life);
        self.node.disk.set_clock_ms(now_ms);
        let mut host = Host {
            now_us,
            now_ms,
            disk_factor: self.node.disk_factor,
            random: &mut self.random,
            oracle: &mut self.oracle,
            trace: self.trace,
            timers: Vec::new(),
            said: Vec::new(),
        };
        let result = work(&mut host);
        let Host { timers, said, .. } = host;
        for (at_us, timer) in timers {
            self.queue.put(at_us, Event::Timer { life, timer });
        }
        for (to, message) in said {
            self.say(Address::Node(0), to, message);
        }
        result
    }

    fn start(&mut self) {
        let (disk, shape, bug) = (self.node.disk.clone(), self.plan.shape.clone(), self.bug);
        let faults_before = disk.faults_struck();
        let started = self.with_host(|host| Process::start(&disk, &shape, bug, host));
        self.hear_of_failed_syncs();
        match started {
            Ok(process) => {
                let report = process.report().clone();
                if report.damaged_ranges > 0 {
                    self.oracle.violate(format!("nothing was tampered with, yet: {report:?}"));
                }
                self.note(format_args!("the node is up: {report:?}"));
                self.node.process = Some(process);
                self.node.is_supervised = false;
                self.judge_recovery();
            }
            Err(StartError::Off) => self.machine_stopped(),
            Err(error) if disk.faults_struck() > faults_before || disk.is_full() => {
                self.note(format_args!("the node does not start, as the disk refuses: {error:?}"));
                // What the attempt left behind is not the next one's.
                self.node.life += 1;
                self.start_later();
            }
            Err(error) => self.oracle.violate(format!("the node does not start: {error:?}")),
        }
    }

    fn judge_recovery(&mut self) {
        match found(&self.node.disk, self.plan.shape.segment_bytes) {
            Ok((log_start, found)) => self.oracle.recovered(log_start, &found, self.node.worst),
            Err(what) => self.oracle.violate(format!("after recovery: {what}")),
        }
        self.node.worst = Stop::Kill;
    }

    fn start_later(&mut self) {
        // Mostly at once, so that most of what happens finds a node that is up.
        let longest_us = if self.random.random_bool(0.8) { 20_000 } else { 1_500_000 };
        let at_us = self.queue.now_us() + self.random.random_range(1_000..longest_us);
        self.queue.put(at_us, Event::Start { life: self.node.life });
    }

    /// The machine stopped in the middle of an operation of its disk.
    fn machine_stopped(&mut self) {
        let stop = self.node.stop;
        self.note(format_args!("{stop:?} at a change of the disk"));
        self.end_life(stop);
        self.start_later();
    }

    fn stop(&mut self, stop: Stop) {
        self.note(format_args!("{stop:?}"));
        self.end_life(stop);
        self.start_later();
    }

    /// The process is gone, and its connections with it.
    fn end_life(&mut self, stop: Stop) {
        self.node.process = None;
        self.node.life += 1;
        if stop == Stop::PowerCut {
            self.node.worst = stop;
        }
        self.node.disk.restart(stop, &mut self.random);
        for consumer in &mut self.consumers {
            consumer.waits_until_us = None;
            consumer.next.clear();
        }
    }

    fn stop_cleanly(&mut self) {
        let Some(process) = self.node.process.take() else { return };
        let stopped = self.with_host(|host| process.stop(host));
        match stopped {
            Ok(is_clean) => {
                self.note(format_args!("the process has stopped, cleanly: {is_clean}"));
                self.end_life(Stop::Kill);
                self.start_later();
            }
            Err(MachineOff) => self.machine_stopped(),
        }
    }

    /// Stops the node as it should be done and starts it again at once.
    pub(crate) fn restart_cleanly(&mut self) -> Result<(), String> {
        self.halt()?;
        self.boot()
    }

    /// Stops the node as it should be done.
    pub(crate) fn halt(&mut self) -> Result<(), String> {
        let process = self.node.process.take().ok_or("the node is down")?;
        for (consumer, queue) in (0..CONSUMERS).flat_map(|consumer| QUEUES.map(|queue| (consumer, queue))) {
            self.oracle.offset_told(consumer, queue, process.offset(consumer, queue));
        }
        let stopped = self.with_host(|host| process.stop(host));
        self.end_life(Stop::Kill);
        self.verdict()?;
        if stopped != Ok(true) {
            return Err("nothing is wrong with the disk, yet the process cannot stop cleanly".to_owned());
        }
        let offsets = self.oracle.offsets_now();
        self.oracle.offsets_persisted(&offsets);
        Ok(())
    }

    /// Starts the node, which must come up.
    pub(crate) fn boot(&mut self) -> Result<(), String> {
        self.start();
        self.verdict()?;
        let process = self.node.process.as_ref().ok_or("the node does not come up")?;
        if !process.report().clean || process.report().records > 0 {
            return Err(format!("there is something to repair after a clean stop: {:?}", process.report()));
        }
        Ok(())
    }

    /// Starts the node on a disk that was tampered with; an error when it refuses.
    pub(crate) fn boot_tampered(&mut self) -> Result<(), StartError> {
        let (disk, shape, bug) = (self.node.disk.clone(), self.plan.shape.clone(), self.bug);
        let process = self.with_host(|host| Process::start(&disk, &shape, bug, host))?;
        self.node.process = Some(process);
        Ok(())
    }

    /// Another disk in the same machine, whose process has stopped.
    pub(crate) fn replace_disk(&mut self, disk: ModelDisk) {
        self.node.disk = disk;
    }

    /// Ends the process without another word.
    pub(crate) fn kill(&mut self) {
        self.end_life(Stop::Kill);
    }

    /// Reads all queues from their start, and finds each message by its key.
    pub(crate) fn read_everything(&mut self) -> Result<(), String> {
        let process = self.node.process.as_mut().ok_or("the node is down")?;
        for queue in QUEUES {
            if let Err((offset, error)) = process.read_queue(queue, &mut self.oracle) {
                return Err(format!("message {offset} of {queue} cannot be read: {error}"));
            }
        }
        let oracle = &self.oracle;
        let kept = oracle.acknowledged().iter().filter(|known| !oracle.is_removed(known));
        let known: Vec<_> = kept.map(|known| (known.given.topic, known.given.id)).collect();
        for (topic, id) in known.into_iter().step_by(7) {
            match process.find(topic, id) {
                Ok(found) if found.contains(&id) => {}
                other => return Err(format!("message {id} of {topic} is not found by its key: {other:?}")),
            }
        }
        self.verdict()
    }

    // Clients.

    fn say(&mut self, from: Address, to: Address, message: Message) {
        let now_us = self.queue.now_us();
        if let Some(at_us) = self.network.arrival_us(now_us, from, to, &mut self.random) {
            self.queue.put(at_us, Event::Letter(Letter { from, to, life: self.node.life, message }));
        }
    }

    fn arrive(&mut self, letter: &Letter) {
        let is_gone = letter.life != self.node.life || self.node.process.is_none();
        if is_gone {
            return;
        }
        self.note(format_args!("{} to {}: {:?}", letter.from, letter.to, letter.message));
        match letter.to {
            Address::Node(_) => {
                let plan = self.plan;
                let outgoing = |step: usize| match &plan.steps[step].act {
                    Act::Send(outgoing) => outgoing.clone(),
                    _ => Vec::new(),
                };
                self.with_process(|process, host| {
                    process.message(letter.from, &letter.message, &outgoing, host)
                });
            }
            // What it is told was noted when the node said it.
            Address::Producer => {}
            Address::Consumer(consumer) => self.consumer_hears(consumer, &letter.message),
        }
    }

    fn poll(&mut self, index: usize) {
        let now_us = self.queue.now_us();
        let interval_us = if self.is_healed { 10 * POLL_INTERVAL_US } else { POLL_INTERVAL_US };
        self.queue.put(now_us + interval_us, Event::Poll(index));
        let consumer = &mut self.consumers[index];
        if self.node.process.is_none() || consumer.waits_until_us.is_some_and(|until_us| now_us < until_us) {
            return;
        }
        consumer.turn = (consumer.turn + 1) % QUEUES.len();
        consumer.waits_until_us = Some(now_us + REQUEST_TIMEOUT_US);
        let queue = QUEUES[consumer.turn];
        let message = match consumer.next.get(&queue) {
            Some(offset) => Message::Pull { queue, offset: *offset },
            None => Message::AskOffset { queue },
        };
        self.say(Address::Consumer(index), Address::Node(0), message);
    }

    fn consumer_hears(&mut self, index: usize, message: &Message) {
        let consumer = &mut self.consumers[index];
        consumer.waits_until_us = None;
        let (queue, next) = match message {
            Message::Offset { queue, offset } => {
                consumer.next.insert(*queue, offset.unwrap_or(0));
                return;
            }
            // An answer that comes after its request was given up says nothing about where to go on.
            Message::Pulled { queue, offset, .. } if consumer.next.get(queue) != Some(offset) => return,
            Message::Pulled { queue, found: Pulled::UpTo(next), .. } => (*queue, *next),
            _ => return,
        };
        consumer.next.insert(queue, next);
        if self.random.random_bool(0.5) {
            let commit = Message::Commit { queue, offset: next };
            self.say(Address::Consumer(index), Address::Node(0), commit);
        }
    }
}

/// Where the log on the disk begins, and all its records.
fn found(disk: &ModelDisk, segment_bytes: u64) -> Result<(PhysicalOffset, Vec<Known>), String> {
    let disk = disk.fork();
    disk.heal();
    let dir = Path::new(SHARD_DIR).join("commitlog");
    let segments = list_segments(&disk, &dir, segment_bytes).map_err(|error| error.to_string())?;
    let log = ScanLog {
        dir: &dir,
        segments: &segments,
        segment_bytes,
        torn_window_bytes: FLUSH_BYTES_MAX as u64,
        durable_to: PhysicalOffset::ZERO,
        is_in_use: false,
    };
    let start = segments.first().copied().unwrap_or(PhysicalOffset::ZERO);
    let mut found = Vec::new();
    let mut strange = None;
    let end = scan(&disk, &log, start, &mut |scanned| {
        match scanned {
            Scanned::Record(record) => match know(&record) {
                Ok(known) => found.push(known),
                Err(what) => strange = Some(what),
            },
            Scanned::Damaged(damage) => strange = Some(format!("{damage:?}")),
        }
        Ok::<_, ScanError>(())
    })
    .map_err(|error| error.to_string())?;
    match (strange, end.torn) {
        (Some(what), _) => Err(format!("a record that nobody sent: {what}")),
        (None, Some(torn)) => Err(format!("a torn tail is left: {torn:?}")),
        (None, None) => Ok((start, found)),
    }
}
