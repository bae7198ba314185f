//! Real sockets against a server on a real core.

use std::io::{Read, Write};
use std::sync::mpsc;
use std::time::Duration;

use runtime::executor::{Backend, CoreSpec, start_core, write_probe_file};
use runtime::host;

use super::*;
use crate::remoting::field_text::FieldText;
use crate::remoting::request::Request;
use crate::remoting::response::write_request;

const ECHO: i32 = 1;
/// Answered with a body of as many mebibytes as the header's `MiB` says, in pieces of one.
const LARGE: i32 = 2;
/// Deferred: the answer comes after two turns, and whatever follows on the connection after it.
const SLOW: i32 = 3;

/// Answered at once, while all that the connection may have in flight stays so.
const HOLD: i32 = 4;
/// Not answered; the test hears of it.
const NOTE: i32 = 5;
/// Answered, and then the connection rests.
const BUSY: i32 = 6;
/// Never answered; holds a mebibyte for a moment.
const BRIEF: i32 = 7;

/// Answers with the request's body.
struct EchoService {
    closed: flume::Sender<ConnectionId>,
    noted: flume::Sender<()>,
}

impl Service for EchoService {
    fn serve(&self, connection: &Rc<Connection>, frame: &Frame) -> Result<Option<Deferred>, HeaderError> {
        let request = Request::decode(frame)?;
        let to = request.reply_to();
        match request.code {
            LARGE => {
                let count: u32 = request.ext.parse("MiB")?;
                let piece = Bytes::from(vec![7; 1 << 20]);
                connection.reply_pieces(to, 0, None, &[], vec![piece; count as usize]);
                Ok(None)
            }
            SLOW => {
                let connection = Rc::clone(connection);
                Ok(Some(Box::pin(async move {
                    task::yield_now().await;
                    task::yield_now().await;
                    connection.reply(to, 0, Some("slow"), &[], &[]);
                })))
            }
            HOLD => {
                connection.add_in_flight(CONNECTION_IN_FLIGHT_BYTES_MAX);
                connection.reply(to, 0, None, &[], &[]);
                Ok(None)
            }
            BUSY => {
                connection.reply(to, 2, None, &[], &[]);
                connection.rest();
                Ok(None)
            }
            BRIEF => {
                let connection = Rc::clone(connection);
                connection.add_in_flight(1 << 20);
                task::spawn(async move {
                    task::sleep(Duration::from_millis(50)).await;
                    connection.sub_in_flight(1 << 20);
                });
                Ok(None)
            }
            NOTE => {
                self.noted.send(()).expect("the test outlives its connections");
                Ok(None)
            }
            _ => {
                connection.reply(to, 0, None, &[("echo", &request.code)], request.body);
                Ok(None)
            }
        }
    }

    fn closed(&self, connection: &Connection) {
        self.closed.send(connection.id()).expect("the test outlives its connections");
    }
}

/// A server on a core of its own, until it is dropped.
struct Fixture {
    address: SocketAddr,
    closed: flume::Receiver<ConnectionId>,
    noted: flume::Receiver<()>,
    stop: MailSender<()>,
}

impl Fixture {
    fn start() -> Self {
        Self::start_on(Backend::best())
    }

    fn start_on(backend: Backend) -> Self {
        let folder = tempfile::tempdir_in(".").unwrap();
        let spec = CoreSpec {
            backend,
            name: "transport-test".to_owned(),
            cpu: host::allowed_cpus().unwrap()[0],
            ring_depth: 64,
            spin: Duration::ZERO,
            locked_memory_bytes: 1 << 20,
            probe_file: write_probe_file(folder.path()).unwrap(),
        };
        let (closed_sender, closed) = flume::unbounded();
        let (noted_sender, noted) = flume::unbounded();
        let (stop, stopped) = mailbox(1);
        let (ready, started) = mpsc::channel();
        start_core(spec, move || async move {
            let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let address = listener.address();
            let service = EchoService { closed: closed_sender, noted: noted_sender };
            let server = Server::start(listener.start().unwrap(), Rc::new(service));
            ready.send(address).unwrap();
            stopped.receive().await;
            drop(server);
        })
        .unwrap();
        let address = started.recv_timeout(Duration::from_secs(20)).unwrap();
        Self { address, closed, noted, stop }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.stop.send_blocking(()).unwrap();
    }
}

fn request(code: i32, opaque: i32, ext: &[(&str, &dyn FieldText)], body: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    write_request(&mut out, SerializeType::Json, code, opaque, false, ext, body);
    out
}

/// Reads frames until `count` have come.
fn read_frames(stream: &mut TcpStream, count: usize) -> Vec<Frame> {
    let (mut input, mut frames) = (BytesMut::new(), Vec::new());
    let mut chunk = vec![0; 1 << 16];
    while frames.len() < count {
        let read = match stream.read(&mut chunk) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.unwrap(),
        };
        assert!(read > 0, "the server closed the connection after {} of {count} answers", frames.len());
        input.extend_from_slice(&chunk[..read]);
        while let Some(frame) = split_frame(&mut input).unwrap() {
            frames.push(frame);
        }
    }
    frames
}

#[test]
fn pipelined_requests_are_answered_in_order_and_a_deferred_one_holds_back_what_follows() {
    let fixture = Fixture::start();
    let mut stream = fixture.connect();
    let mut sent = BytesMut::new();
    for opaque in 0..1000 {
        let code = if opaque % 100 == 50 { SLOW } else { ECHO };
        sent.extend_from_slice(&request(code, opaque, &[], format!("body {opaque}").as_bytes()));
    }
    stream.write_all(&sent).unwrap();
    for (opaque, frame) in (0..).zip(read_frames(&mut stream, 1000)) {
        let answer = Request::decode(&frame).unwrap();
        assert_eq!(answer.opaque, opaque);
        if opaque % 100 == 50 {
            assert_eq!(answer.remark.as_deref(), Some("slow"));
        } else {
            assert_eq!(frame.body, format!("body {opaque}"));
        }
    }
}

#[test]
fn a_large_body_arrives_in_pieces_and_leaves_in_pieces() {
    let fixture = Fixture::start();
    let mut stream = fixture.connect();
    let body: Vec<u8> = (0..5_000_000u32).map(|number| number.to_be_bytes()[3]).collect();
    let sent = request(ECHO, 1, &[], &body);
    let writer = {
        let mut stream = stream.try_clone().unwrap();
        std::thread::spawn(move || {
            stream.write_all(&sent).unwrap();
            stream.write_all(&request(LARGE, 2, &[("MiB", &9)], &[])).unwrap();
        })
    };
    let frames = read_frames(&mut stream, 2);
    writer.join().unwrap();
    assert!(frames[0].body == body, "the body came back changed");
    assert_eq!(frames[1].body.len(), 9 << 20);
    assert!(frames[1].body.iter().all(|&byte| byte == 7));
}

#[test]
fn a_peer_that_does_not_read_is_not_read_from_and_harms_no_other() {
    let fixture = Fixture::start();
    let mut deaf = fixture.connect();
    deaf.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    // Each of these few bytes asks for a mebibyte; a server that kept on reading would need hundreds of gibibytes.
    let asks = request(LARGE, 1, &[("MiB", &1)], &[]).repeat(100_000);
    let sent = deaf.write_all(&asks);
    assert!(sent.is_err(), "the server took everything and would have had to keep the answers");
    let mut other = fixture.connect();
    other.write_all(&request(ECHO, 1, &[], b"still there")).unwrap();
    assert_eq!(read_frames(&mut other, 1)[0].body, "still there");
}

/// The story: an answer was too much together with what was in flight, so the frames behind it were left for later. Writing it made
/// room again, and then the task waited for more bytes to arrive.
#[test]
fn frames_that_were_held_back_are_served_when_the_answers_before_them_have_left() {
    let fixture = Fixture::start();
    let mut stream = fixture.connect();
    let mut sent = request(HOLD, 0, &[], &[]);
    for opaque in 1..=9 {
        sent.extend_from_slice(&request(ECHO, opaque, &[], b"behind"));
    }
    stream.write_all(&sent).unwrap();
    for (opaque, frame) in (0..).zip(read_frames(&mut stream, 10)) {
        assert_eq!(Request::decode(&frame).unwrap().opaque, opaque);
    }
}

/// Refusals as fast as requests come took the time in which what was accepted could be stored.
#[test]
fn a_connection_rests_after_a_refusal_and_goes_on() {
    let fixture = Fixture::start();
    let mut stream = fixture.connect();
    let mut sent = BytesMut::new();
    for opaque in 0..20 {
        sent.extend_from_slice(&request(BUSY, opaque, &[], &[]));
    }
    let started = Instant::now();
    stream.write_all(&sent).unwrap();
    for (opaque, frame) in (0..).zip(read_frames(&mut stream, 20)) {
        assert_eq!(Request::decode(&frame).unwrap().opaque, opaque);
    }
    assert!(started.elapsed() > Duration::from_millis(19 * 4), "{:?}", started.elapsed());
}

/// Connections that no socket belongs to, with one sum.
fn sharing_a_sum(count: u64) -> Vec<Rc<Connection>> {
    let total = Rc::new(HeldTotal::default());
    let peer = "127.0.0.1:4000".parse().unwrap();
    (0..count).map(|id| Connection::new(ConnectionId(id), peer, Rc::clone(&total))).collect()
}

/// The story: ten producers sent 20 MiB each without asking for answers, and then nothing. It was all stored and still in the sum.
#[test]
fn what_nobody_is_told_of_leaves_the_sum_when_it_is_stored() {
    let connections = sharing_a_sum(10);
    for connection in &connections {
        connection.add_in_flight(20 << 20);
        connection.report_held();
    }
    let total = &connections[0].held_total;
    assert!(total.is_full());
    for connection in &connections {
        connection.sub_in_flight(20 << 20);
    }
    assert!(!total.is_short());
}

#[test]
fn a_connection_goes_on_when_it_holds_less_itself_however_much_the_others_hold() {
    let fixture = Fixture::start();
    let holding: Vec<TcpStream> = (0..8)
        .map(|_| {
            let mut stream = fixture.connect();
            stream.write_all(&request(HOLD, 0, &[], &[])).unwrap();
            read_frames(&mut stream, 1);
            stream
        })
        .collect();
    let mut stream = fixture.connect();
    let sent = [request(BRIEF, 1, &[], &[]), request(ECHO, 2, &[], b"behind")].concat();
    stream.write_all(&sent).unwrap();
    assert_eq!(read_frames(&mut stream, 1)[0].body, "behind");
    drop(holding);
}

#[test]
fn a_peer_does_not_owe_what_we_do_not_read() {
    let connection = sharing_a_sum(1).remove(0);
    connection.input_bytes.set(1 << 20);
    assert!((0..20).all(|_| !connection.look()), "nothing is being read");
    connection.awaits_input.set(true);
    assert_eq!((1..20).find(|_| connection.look()), Some(7));
}

#[test]
fn only_those_wait_for_the_others_that_nothing_else_keeps_from_going_on() {
    let connections = sharing_a_sum(8);
    for connection in &connections[1..] {
        connection.add_in_flight(CONNECTION_IN_FLIGHT_BYTES_MAX);
    }
    let connection = &connections[0];
    assert!(!connection.waits_for_others(), "it holds no more than its share");
    connection.add_in_flight(1 << 20);
    assert!(connection.waits_for_others());
    connection.rests.set(true);
    assert!(!connection.waits_for_others());
    connection.rests.set(false);
    connection.add_in_flight(CONNECTION_IN_FLIGHT_BYTES_MAX);
    assert!(!connection.waits_for_others(), "it is at its own limit");
}

#[test]
fn the_front_of_a_request_is_stuck_when_nothing_was_read_while_the_sum_was_full() {
    let connection = sharing_a_sum(1).remove(0);
    connection.input_bytes.set(1 << 20);
    connection.is_waiting.set(true);
    assert!(!connection.is_stuck(connection.last_read()));
    assert!(connection.is_stuck(connection.last_read() + Duration::from_secs(1)));
    connection.is_waiting.set(false);
    assert!(!connection.is_stuck(connection.last_read() + Duration::from_secs(1)), "it waits for its peer");
}

#[test]
fn answers_of_a_peer_that_is_behind_are_copied_a_little_at_a_time() {
    let connection = sharing_a_sum(1).remove(0);
    let block = Bytes::from(vec![7; 4 << 20]);
    for piece in 0..4 {
        connection.output.borrow_mut().push_piece(block.slice(piece << 20..(piece + 1) << 20));
    }
    let copied: Vec<usize> = (0..4).map(|_| connection.let_go_of_blocks(3 << 19)).collect();
    assert_eq!(copied, [2 << 20, 2 << 20, 0, 0]);
    assert!(block.is_unique());
}

#[test]
fn notices_do_not_pile_up_before_a_peer_that_does_not_read() {
    let connection = Connection::detached(ConnectionId(1), "127.0.0.1:4000".parse().unwrap());
    let body = vec![0; 1 << 20];
    for _ in 0..100 {
        connection.notify(40, &[], &body);
    }
    assert!(connection.output.borrow().bytes() <= CONNECTION_IN_FLIGHT_BYTES_MAX + (2 << 20));
}

/// The story: a consumer stopped. It sent its offsets and closed its connection, with answers to it still under way; the connection was
/// found broken by writing to it, and the offsets in it were never looked at.
#[test]
fn the_last_requests_of_a_client_that_goes_without_reading_are_served() {
    for backend in Backend::ALL {
        let fixture = Fixture::start_on(backend);
        for round in 0..50 {
            let mut stream = fixture.connect();
            stream.write_all(&request(LARGE, 1, &[("MiB", &8)], &[])).unwrap();
            assert_eq!(stream.peek(&mut [0]).unwrap(), 1, "the answer is under way");
            stream.write_all(&request(NOTE, 2, &[], &[])).unwrap();
            // With unread bytes this is a reset.
            drop(stream);
            let noted = fixture.noted.recv_timeout(Duration::from_secs(20));
            assert!(noted.is_ok(), "round {round} on {backend}: not served");
        }
    }
}

#[test]
fn garbage_ends_only_its_own_connection() {
    let fixture = Fixture::start();
    let mut good = fixture.connect();
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 64],
        &i32::MAX.to_be_bytes(),
        &[0, 0, 0, 8, 9, 0, 0, 0, 1, 2, 3, 4],
    ] {
        let mut bad = fixture.connect();
        bad.write_all(garbage).unwrap();
        let mut rest = Vec::new();
        // Closed with what we sent unread is a reset, closed otherwise is an end.
        assert!(bad.read_to_end(&mut rest).is_ok_and(|read| read == 0) || rest.is_empty());
        fixture.closed.recv_timeout(Duration::from_secs(20)).expect("the server noticed");
    }
    good.write_all(&request(ECHO, 9, &[], b"unharmed")).unwrap();
    assert_eq!(read_frames(&mut good, 1)[0].body, "unharmed");
}

#[test]
fn an_address_in_use_is_named() {
    let first = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let error = Listener::bind(first.address()).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot listen on {}", first.address())), "{error}");
}

#[test]
fn a_thousand_clients_that_come_at_once_wait_until_they_are_accepted() {
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let of_the_kernel: usize =
        std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim().parse().unwrap();
    // Who finds no room tries again after a second.
    let connect = |_| TcpStream::connect_timeout(&listener.address(), Duration::from_millis(900)).unwrap();
    let waiting: Vec<TcpStream> = (0..of_the_kernel.min(1000)).map(connect).collect();
    drop(waiting);
}
