//! Hostile peers: what is not a request ends its connection or gets an error answer, other clients notice nothing, and memory
//! stays bounded.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, RngCore};

use crate::support::load::Ledger;
use crate::support::raw_peer::{connect, frame, read_frame, request};
use crate::support::server::{Server, Settings};
use crate::support::witness::Witness;
use crate::support::{alone, seeded};

/// Growth of the resident memory that bad peers may cause, together.
const GROWTH_BYTES_MAX: u64 = 192 << 20;

/// What came back.
#[derive(Debug, PartialEq, Eq)]
enum Reaction {
    /// The connection ended without an answer.
    Ended,
    /// An answer came: its whole frame.
    Answered(Vec<u8>),
    /// Neither, in a time in which an answer would have come.
    Nothing,
}

#[test]
fn bad_peers_do_not_disturb_others() {
    let _guard = alone();
    let mut random = seeded(7);
    let mut server = Server::start(Settings::default());
    let ledger = Ledger::new(&server, "hostile", 1);
    let witness = Witness::start(&server, &ledger);
    let before = server.resident_bytes();
    for address in [server.broker(0), server.broker(1), server.namesrv()] {
        malformed_frames_end_or_are_answered(&address);
        random_bytes_do_no_harm(&address, &mut random);
        every_code_without_fields_is_answered_or_ends(&address);
        one_way_requests_get_no_answer(&address);
        answers_that_nobody_reads_are_bounded(&address);
    }
    let grown = server.resident_bytes().saturating_sub(before);
    println!("resident memory grew by {} MiB", grown >> 20);
    assert!(grown < GROWTH_BYTES_MAX, "grew by {grown} bytes");

    let half_open = half_open_connections(&server, 500);
    let grown = server.resident_bytes().saturating_sub(before);
    println!("with 500 half-open connections it has grown by {} MiB", grown >> 20);
    assert!(grown < GROWTH_BYTES_MAX, "grew by {grown} bytes with {} half-open connections", half_open.len());
    witness.finish();
    drop(half_open);
    assert!(server.is_running(), "the server has ended");
    assert!(server.stop().success(), "SIGTERM at the end");
}

fn malformed_frames_end_or_are_answered(address: &str) {
    let json = |text: &str| frame(0, text.as_bytes(), &[]);
    let deep = format!("{{\"code\":105,\"extFields\":{}", "[".repeat(200_000));
    let many = format!(
        "{{\"code\":105,\"flag\":0,\"opaque\":1,\"extFields\":{{{}}}}}",
        (0..100_000).map(|i| format!("\"k{i}\":\"v\"")).collect::<Vec<_>>().join(",")
    );
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("length 2^31-1", 0x7FFF_FFFF_u32.to_be_bytes().to_vec()),
        ("length -1", u32::MAX.to_be_bytes().to_vec()),
        ("length -2^31", 0x8000_0000_u32.to_be_bytes().to_vec()),
        ("length just over 16 MiB", (16 * 1024 * 1024 + 1_u32).to_be_bytes().to_vec()),
        ("length 0", 0_u32.to_be_bytes().to_vec()),
        ("length 3", [&3_u32.to_be_bytes()[..], &[0; 3]].concat()),
        ("header longer than the frame", [&8_u32.to_be_bytes()[..], &[0, 0, 1, 0], b"abcd"].concat()),
        (
            "header of 16 MiB in a small frame",
            [&8_u32.to_be_bytes()[..], &[0, 0xFF, 0xFF, 0xFF], b"abcd"].concat(),
        ),
        ("unknown serialise type", frame(9, b"{\"code\":105}", &[])),
        ("empty header", json("")),
        ("not JSON", json("hello")),
        ("a JSON array", json("[1,2,3]")),
        ("JSON without an end", json("{\"code\":105,\"opaque\":1")),
        ("JSON with a text as code", json("{\"code\":\"many\",\"opaque\":1,\"flag\":0}")),
        ("JSON with a huge number", json("{\"code\":99999999999999999999,\"opaque\":1,\"flag\":0}")),
        ("JSON that is not UTF-8", frame(0, b"{\"code\":105,\"remark\":\"\xFF\xFE\"}", &[])),
        ("deeply nested JSON", json(&deep)),
        ("a hundred thousand fields", json(&many)),
        ("binary header of one byte", frame(1, &[0], &[])),
        ("binary header with a negative remark", frame(1, &binary_header(-5, 0, &[]), &[])),
        ("binary header with a remark of 2 GiB", frame(1, &binary_header(i32::MAX, 0, &[]), &[])),
        ("binary header with 2 GiB of fields", frame(1, &binary_header(0, i32::MAX, &[]), &[])),
        ("binary header with a negative key", frame(1, &binary_header(0, 6, &[0xFF, 0xFF, 0, 0, 0, 0]), &[])),
        (
            "binary header with a negative value",
            frame(1, &binary_header(0, 7, &[0, 1, b'k', 0xFF, 0xFF, 0xFF, 0xFF]), &[]),
        ),
        ("a TLS greeting", vec![0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xFC, 0x03, 0x03]),
        ("an HTTP request", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
    ];
    for (name, bytes) in cases {
        let reaction = react(address, &bytes);
        assert_ne!(reaction, Reaction::Nothing, "{address}: {name}: the connection stays, without an answer");
    }
    // A frame that was cut off: the peer goes away.
    let whole = request(105, 0, 1, "{\"topic\":\"TBW102\"}", &[]);
    for end in 0..whole.len() {
        let mut stream = connect(address);
        stream.write_all(&whole[..end]).expect("write");
        let _ = stream.shutdown(Shutdown::Write);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{address}: an answer to {end} of {} bytes", whole.len());
    }
}

fn random_bytes_do_no_harm(address: &str, random: &mut StdRng) {
    for _ in 0..200 {
        let mut bytes = vec![0; random.random_range(1..2000)];
        random.fill_bytes(&mut bytes);
        if random.random() {
            // A length that fits, so that the bytes reach the header decoders.
            let length = u32::try_from(bytes.len()).expect("small");
            bytes.splice(
                0..0,
                [length.to_be_bytes(), [random.random_range(0..2), 0, 0, random.random()]].concat(),
            );
        }
        let mut stream = connect(address);
        // The server may close while this is written.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
}

fn every_code_without_fields_is_answered_or_ends(address: &str) {
    for code in (0..420).chain([501, 700, 901, 1001, 32_767, 200_050, i32::MAX, -1, i32::MIN]) {
        for fields in [
            "{}",
            "{\"topic\":\"\",\"queueId\":\"x\",\"consumerGroup\":\"\\u0001\",\"b\":\"a/b\",\"e\":\"-99999999999\"}",
        ] {
            let reaction = react(address, &request(code, 0, 7, fields, b"\x00\x01{[broken"));
            assert_ne!(reaction, Reaction::Nothing, "{address}: code {code} with {fields}");
        }
    }
    let Reaction::Answered(answer) = react(address, &request(9_999, 0, 77, "{}", &[])) else {
        panic!("{address}: no answer to an unknown code");
    };
    let text = String::from_utf8_lossy(&answer);
    assert!(text.contains("\"code\":3") && text.contains("\"opaque\":77"), "{address}: {text}");
}

fn one_way_requests_get_no_answer(address: &str) {
    let mut stream = connect(address);
    for code in [9_999, 105, 310] {
        stream.write_all(&request(code, 2, 1, "{}", &[])).expect("write");
    }
    stream.write_all(&request(9_999, 0, 55, "{}", &[])).expect("write");
    match read_reaction(&mut stream) {
        Reaction::Answered(answer) => {
            let text = String::from_utf8_lossy(&answer).into_owned();
            assert!(text.contains("\"opaque\":55"), "{address}: an answer to a one-way request: {text}");
        }
        other => panic!("{address}: one-way requests ended the connection or its answers: {other:?}"),
    }
}

/// Writes requests until the server takes no more: it must stop reading, not remember.
fn answers_that_nobody_reads_are_bounded(address: &str) {
    let mut stream = connect(address);
    stream.set_write_timeout(Some(Duration::from_millis(500))).expect("set a timeout");
    let block = request(9_999, 0, 1, "{}", &[]).repeat(1000);
    let mut written = 0;
    while written < 256 << 20 {
        match stream.write(&block) {
            Ok(bytes) => written += bytes,
            Err(_) => break,
        }
    }
    println!("{address}: took {} MiB of requests whose answers nobody reads", written >> 20);
    assert!(written < 256 << 20, "{address}: reads on without end");
}

fn half_open_connections(server: &Server, count: usize) -> Vec<TcpStream> {
    let begun = request(310, 0, 1, "{}", &vec![0; 4 << 20]);
    (0..count)
        .map(|i| {
            let address = if i % 3 == 0 { server.namesrv() } else { server.broker(u32::from(i % 2 == 0)) };
            let mut stream = connect(&address);
            // Some announce 4 MiB and send a little of it.
            let part = [0, 2, 4, 7, 8, 50, 1000][i % 7];
            stream.write_all(&begun[..part]).expect("write");
            stream
        })
        .collect()
}

/// What comes back for these bytes on a connection of their own.
fn react(address: &str, bytes: &[u8]) -> Reaction {
    let mut stream = connect(address);
    // The server may have closed before all was written.
    let _ = stream.write_all(bytes);
    read_reaction(&mut stream)
}

fn read_reaction(stream: &mut TcpStream) -> Reaction {
    match read_frame(stream) {
        Ok(answer) => Reaction::Answered(answer),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Reaction::Nothing
        }
        Err(_) => Reaction::Ended,
    }
}

/// A binary header with these lengths of remark and fields, whatever follows.
fn binary_header(remark_bytes: i32, fields_bytes: i32, fields: &[u8]) -> Vec<u8> {
    let mut header = vec![0, 105, 9, 1, 0x3D];
    header.extend(1_i32.to_be_bytes());
    header.extend(0_i32.to_be_bytes());
    header.extend(remark_bytes.to_be_bytes());
    header.extend(fields_bytes.to_be_bytes());
    header.extend(fields);
    header
}
