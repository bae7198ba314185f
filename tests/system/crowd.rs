//! Crowds: thousands of connections that are idle, that never finish their request, or that do not take what they asked for. Memory
//! stays within what is stated here, honest clients go on, and who does not get on is closed.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use ringmq::client::OutMessage;
use runtime::host::{Resource, raise_limit};

use crate::support::alone;
use crate::support::load::Ledger;
use crate::support::raw_peer::{connect, read_frame, request};
use crate::support::server::{Server, Settings};
use crate::support::witness::Witness;

/// What one idle connection costs a node beside the kernel's own part, bytes.
const IDLE_CONNECTION_BYTES_MAX: u64 = 6 << 10;
/// What all connections of one listener may hold (`CONNECTIONS_HELD_BYTES_MAX`), and what memory is not given back at once.
const HELD_BYTES_MAX: u64 = (192 << 20) + (128 << 20);
/// What comes in at once on a connection before it is seen that it is not to be read from: all receive buffers of the core, in memory that
/// has doubled.
const UNTAKEN_BYTES_MAX: u64 = 4 << 20;
/// Open files of this process and of the server besides the crowd.
const OTHER_FILES: u64 = 2_000;
/// A peer that does not get on while memory is short is closed at the second look, at the latest 20 s after it stopped. Those that are
/// not read from because the others fill the memory go half by half, every 20 s.
const CLOSED_WITHIN: Duration = Duration::from_secs(160);

fn one_shard() -> Server {
    Server::start(Settings { shards: 1, ..Settings::default() })
}

/// How much more memory it has resident than before, bytes.
fn grown(server: &Server, before: u64) -> u64 {
    server.resident_bytes().saturating_sub(before)
}

/// Whether the server has closed a connection on which reads do not wait.
fn is_closed(stream: &TcpStream) -> bool {
    match stream.peek(&mut [0]) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

#[test]
fn ten_thousand_idle_and_a_thousand_half_requests_cost_bounded_memory_and_disturb_nobody() {
    let _guard = alone();
    let limit = raise_limit(Resource::OpenFiles).expect("a limit").soft;
    let server = one_shard();
    let ledger = Ledger::new(&server, "crowd", 1);
    let witness = Witness::start(&server, &ledger);
    // Each costs a descriptor here and one there; where the system allows fewer, there are fewer.
    let idle_count = usize::try_from(limit.saturating_sub(OTHER_FILES).min(10_000)).expect("small");
    assert!(
        idle_count >= 1_000,
        "{idle_count} connections are no crowd: allow {} open files at least (ulimit -n), not {limit}",
        OTHER_FILES + 1_000
    );
    let before = server.resident_bytes();
    let address = server.broker(0);
    let idle: Vec<TcpStream> = (0..idle_count).map(|_| connect(&address)).collect();
    // The last one is answered: all before it are being served.
    let mut last = connect(&address);
    last.write_all(&request(9_999, 0, 1, "{}", &[])).expect("write");
    read_frame(&mut last).expect("an answer");
    let per_idle = grown(&server, before) / idle_count as u64;
    println!("{idle_count} idle connections cost {per_idle} bytes each");
    assert!(per_idle < IDLE_CONNECTION_BYTES_MAX, "an idle connection costs {per_idle} bytes");

    let begun = request(310, 0, 1, "{}", &vec![0; 4 << 20]);
    let half_count = idle_count / 10;
    let before = server.resident_bytes();
    let half: Vec<TcpStream> = (0..half_count)
        .map(|number| {
            let mut stream = connect(&address);
            stream.write_all(&begun[..[4, 100, 1_000, 8_000, 60_000][number % 5]]).expect("write");
            stream
        })
        .collect();
    last.write_all(&request(9_999, 0, 2, "{}", &[])).expect("write");
    read_frame(&mut last).expect("an answer");
    let grown = grown(&server, before);
    println!("{half_count} half requests cost {} KiB each", (grown >> 10) / half_count as u64);
    assert!(grown < HELD_BYTES_MAX, "{half_count} half requests cost {grown} bytes");
    witness.finish();
    drop((idle, half));
}

#[test]
fn requests_that_are_sent_to_the_last_byte_but_one_hold_bounded_memory_and_are_closed() {
    const COUNT: usize = 200;
    let _guard = alone();
    let server = one_shard();
    let ledger = Ledger::new(&server, "bombs", 1);
    let witness = Witness::start(&server, &ledger);
    let before = server.resident_bytes();
    let begun = request(310, 0, 1, "{}", &vec![0; 15 << 20]);
    let mut crowd: Vec<(TcpStream, usize)> = (0..COUNT).map(|_| (connect(&server.broker(0)), 0)).collect();
    for (stream, _) in &crowd {
        stream.set_nonblocking(true).expect("a socket");
    }
    let started = Instant::now();
    let (mut most, mut ended) = (0, 0);
    while ended < COUNT {
        for (stream, sent) in crowd.iter_mut().filter(|(_, sent)| *sent < begun.len() - 1) {
            match stream.write(&begun[*sent..begun.len() - 1]) {
                Ok(bytes) => *sent += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => *sent = begun.len(),
            }
        }
        most = most.max(grown(&server, before));
        ended = crowd.iter().filter(|(stream, _)| is_closed(stream)).count();
        assert!(
            started.elapsed() < CLOSED_WITHIN,
            "{ended} of {COUNT} are closed after {:?}",
            started.elapsed()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    println!(
        "{COUNT} times 15 MiB without the last byte: {} MiB, closed in {:?}",
        most >> 20,
        started.elapsed()
    );
    assert!(most < HELD_BYTES_MAX + COUNT as u64 * UNTAKEN_BYTES_MAX, "{most} bytes");
    witness.finish();
}

#[test]
fn readers_that_take_a_byte_a_second_hold_bounded_memory_and_are_closed() {
    const COUNT: usize = 200;
    const MESSAGES: u64 = 4_000;
    let _guard = alone();
    let server = one_shard();
    let ledger = Ledger::new(&server, "slow", 1);
    let witness = Witness::start(&server, &ledger);
    let queue = &server.create_topic("large", 1)[0];
    let body = vec![7; 64 << 10];
    let mut client = server.client();
    for number in 0..MESSAGES {
        client.send(queue, "p", &OutMessage::new(&number.to_string(), &body), 0).expect("sent");
    }
    let before = server.resident_bytes();
    // Each asks for 32 MiB and more, from memory and from the disk.
    let pulls = |reader: u64| -> Vec<u8> {
        let pull = |number: u64| {
            let offset = (reader * 37 + number * 4) % (MESSAGES - 4);
            let fields = format!(
                "{{\"consumerGroup\":\"g\",\"topic\":\"large\",\"queueId\":\"{}\",\"queueOffset\":\"{offset}\",\"maxMsgNums\":\"32\",\
                 \"sysFlag\":\"4\",\"commitOffset\":\"0\",\"suspendTimeoutMillis\":\"0\",\"subscription\":\"*\",\"subVersion\":\"0\"}}",
                queue.queue_id
            );
            request(11, 0, i32::try_from(number).expect("small"), &fields, &[])
        };
        (0..200).flat_map(pull).collect()
    };
    let others = server.metric("ringmq_core_connections");
    let mut crowd: Vec<TcpStream> = (0..COUNT as u64)
        .map(|reader| {
            let mut stream = connect(&server.broker(0));
            stream.set_write_timeout(Some(Duration::from_secs(1))).expect("a socket");
            // What it does not take any more is left out.
            let _ = stream.write_all(&pulls(reader));
            stream.set_nonblocking(true).expect("a socket");
            stream
        })
        .collect();
    let started = Instant::now();
    let (mut most, mut open, mut next_byte) = (0, COUNT as f64, started);
    while open > others {
        most = most.max(grown(&server, before));
        if Instant::now() >= next_byte {
            next_byte += Duration::from_secs(1);
            for stream in &mut crowd {
                let _ = stream.read(&mut [0]);
            }
            open = server.metric("ringmq_core_connections");
        }
        assert!(started.elapsed() < CLOSED_WITHIN, "{open} are open after {:?}", started.elapsed());
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("{COUNT} readers of a byte a second: {} MiB, closed in {:?}", most >> 20, started.elapsed());
    // Until they are copied, a second or two after they were pushed, answers keep all of what was read from the disk for them.
    assert!(most < 2 * HELD_BYTES_MAX, "{most} bytes");
    witness.finish();
}

/// The only thing that a node inflates is a broker's registration; it may come to 64 MiB, and is looked at one at a time.
#[test]
fn registrations_that_inflate_without_end_are_refused_in_bounded_memory() {
    const COUNT: usize = 20;
    let _guard = alone();
    let server = one_shard();
    let before = server.resident_bytes();
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&i32::MAX.to_be_bytes()).expect("into memory");
    for _ in 0..256 {
        encoder.write_all(&vec![b' '; 1 << 20]).expect("into memory");
    }
    let bomb = encoder.finish().expect("into memory");
    let fields = "{\"brokerName\":\"b\",\"brokerAddr\":\"127.0.0.1:1\",\"clusterName\":\"c\",\"haServerAddr\":\"\",\
                  \"brokerId\":\"0\",\"compressed\":\"true\",\"bodyCrc32\":\"0\"}";
    let mut crowd: Vec<TcpStream> = (0..COUNT).map(|_| connect(&server.namesrv())).collect();
    for stream in &mut crowd {
        stream.write_all(&request(103, 0, 1, fields, &bomb)).expect("write");
    }
    for stream in &mut crowd {
        let answer = read_frame(stream).expect("an answer");
        let text = String::from_utf8_lossy(&answer);
        assert!(text.contains("\"code\":1,") && text.contains("inflates beyond the limit"), "{text}");
    }
    let grown = grown(&server, before);
    println!("{COUNT} times {} KiB that inflate to 256 MiB: {} MiB", bomb.len() >> 10, grown >> 20);
    assert!(grown < 256 << 20, "{grown} bytes");
}
