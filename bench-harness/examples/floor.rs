//! What this machine lets any broker do: the harness's own load against two servers that do nothing but read requests, write their bytes
//! to the disk with one durable direct write per read (or not at all), and answer: a thread per connection, no log, no queues, no pinned
//! cores. A broker's percentiles and CPU under the same load are to be compared with these, not with those of a disk or a network alone.
//!
//! `cargo run --release -p bench-harness --example floor -- DIR [seconds per line] [messages per second]`
//!
//! DIR is a folder on the disk in question; two files of 64 MiB are made there and removed. Run it alone.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bench_harness::clock::RunClock;
use bench_harness::generator::{BrokerTarget, LoadPlan, Pace, Prepared};
use bench_harness::payload::{Payload, RunId};
use bytes::BytesMut;
use ringmq::remoting::field_text::FieldText;
use ringmq::remoting::frame::split_frame;
use ringmq::remoting::request::Request;
use ringmq::remoting::response::write_response_head;
use rustix::fs::OFlags;
use rustix::time::{ClockId, clock_gettime};

const BROKERS: usize = 2;
const BODY_BYTES: usize = 1024;
const FILE_BYTES: u64 = 64 << 20;
const PAGE_BYTES: usize = 4096;
const INPUT_BYTES: usize = 64 << 10;
const WARMUP: Duration = Duration::from_secs(1);

/// CPU time of the servers, and what they answered, in all.
static CPU_NS: AtomicU64 = AtomicU64::new(0);
static ANSWERED: AtomicU64 = AtomicU64::new(0);

fn main() {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().expect("the first argument is a folder on the disk in question"));
    let seconds: f64 = args.next().map_or(6.0, |text| text.parse().expect("seconds"));
    let rate = args.next().map_or(20_000.0, |text| text.parse().expect("messages per second"));
    for writes in [false, true] {
        let files: Vec<_> = (0..BROKERS).map(|index| dir.join(format!("floor-{index}"))).collect();
        let brokers: Vec<_> = files.iter().map(|path| start(writes.then_some(path.as_path()))).collect();
        for (load, connections, pace, in_flight) in [
            ("one sender", 1, Pace::Closed, 1),
            ("64 in flight", 1, Pace::Closed, 64),
            ("64 on 8 conn.", 8, Pace::Closed, 64),
            ("64 on 64 conn.", 64, Pace::Closed, 64),
            ("open loop", 1, Pace::Open { messages_per_second: rate }, 4096),
        ] {
            let before = (CPU_NS.load(Ordering::Relaxed), ANSWERED.load(Ordering::Relaxed));
            let end = WARMUP + Duration::from_secs_f64(seconds);
            let sent = Prepared::open(plan(&brokers, connections, pace, in_flight, end))
                .and_then(|prepared| prepared.go(RunClock::starting_at(Instant::now())).join())
                .expect("the servers answer");
            assert_eq!(sent.errors.total(), 0, "{:?}", sent.errors);
            let found = sent.recording.total.percentiles();
            let cpu_us = (CPU_NS.load(Ordering::Relaxed) - before.0) as f64 / 1000.0;
            let answered = ANSWERED.load(Ordering::Relaxed) - before.1;
            println!(
                "{:<13} {:<14} {:>8.0} msg/s  CPU {:>5.2} s per million  p50 {:>6.0} us  p99 {:>7.0} us  p99.9 {:>7.0} us  max {:>7.0} us  {} late",
                if writes { "durable write" } else { "no write" },
                load,
                found.count as f64 / seconds,
                cpu_us / answered as f64,
                found.p50,
                found.p99,
                found.p99_9,
                found.max,
                sent.late,
            );
        }
        for path in files.iter().filter(|_| writes) {
            std::fs::remove_file(path).expect("it was made here");
        }
    }
}

fn plan(brokers: &[String], connections: usize, pace: Pace, in_flight: usize, end: Duration) -> LoadPlan {
    let target = |(index, addr): (usize, &String)| BrokerTarget {
        name: format!("floor-{index}"),
        addr: addr.clone(),
        queue_ids: (0..8).collect(),
    };
    LoadPlan {
        topic: "floor".to_owned(),
        brokers: brokers.iter().enumerate().map(target).collect(),
        connections,
        in_flight,
        threads: 1,
        batch: 1,
        pace,
        delay_level: 0,
        warmup: WARMUP,
        interval: Duration::from_secs(1),
        end: Some(end),
        messages_max: None,
        patience: Duration::from_secs(10),
        until_disconnect: false,
        payload: Payload::new(RunId::random(), BODY_BYTES),
        acks: None,
    }
}

/// Starts a server, which lives as long as the process; returns its address.
fn start(file: Option<&Path>) -> String {
    let file = file.map(|path| {
        let made = File::create(path).expect("the folder can be written to");
        let zeros = vec![0; 1 << 20];
        for at in (0..FILE_BYTES).step_by(zeros.len()) {
            made.write_all_at(&zeros, at).expect("the disk has room");
        }
        made.sync_all().expect("the disk is well");
        let flags = OFlags::DIRECT | OFlags::DSYNC;
        let flags = i32::try_from(flags.bits()).expect("flags of open(2) are an int");
        Arc::new(OpenOptions::new().write(true).custom_flags(flags).open(path).expect("it was just made"))
    });
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let addr = listener.local_addr().expect("it is bound").to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let file = file.clone();
            std::thread::spawn(move || serve(stream, file.as_deref()));
        }
    });
    addr
}

/// Serves one connection until it ends.
fn serve(mut stream: TcpStream, file: Option<&File>) {
    stream.set_nodelay(true).expect("a connection of TCP");
    let memory = vec![0; 2 * INPUT_BYTES + PAGE_BYTES];
    let from = memory.as_ptr().align_offset(PAGE_BYTES);
    let (mut input, mut chunk, mut out) = (BytesMut::new(), vec![0; INPUT_BYTES], BytesMut::new());
    let mut at = 0;
    let mut cpu_before = thread_cpu_ns();
    while let Ok(read @ 1..) = stream.read(&mut chunk) {
        input.extend_from_slice(&chunk[..read]);
        out.clear();
        while let Some(frame) = split_frame(&mut input).expect("the harness sends whole frames") {
            answer(&Request::decode(&frame).expect("the harness sends requests"), &mut out);
            ANSWERED.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(file) = file
            && !out.is_empty()
        {
            let bytes = read.next_multiple_of(PAGE_BYTES);
            file.write_all_at(&memory[from..][..bytes], at).expect("the disk is well");
            at = (at + bytes as u64) % (FILE_BYTES - INPUT_BYTES as u64);
            at -= at % PAGE_BYTES as u64;
        }
        if stream.write_all(&out).is_err() {
            return;
        }
        let cpu = thread_cpu_ns();
        CPU_NS.fetch_add(cpu - cpu_before, Ordering::Relaxed);
        cpu_before = cpu;
    }
}

fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    seconds.expect("since the thread began") * 1_000_000_000 + nanos.expect("part of a second")
}

fn answer(request: &Request<'_>, out: &mut BytesMut) {
    let queue_id: i64 = request.ext.parse("e").expect("the harness sends short headers");
    let ext: [(&str, &dyn FieldText); 3] =
        [("msgId", &"7F00000100002A9F0000000000000000"), ("queueId", &queue_id), ("queueOffset", &0_i64)];
    write_response_head(out, request.reply_to(), 0, None, &ext, 0);
}
