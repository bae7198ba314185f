//! A broker for tests: acknowledges sends on loopback, stalls or refuses when told to, and remembers nothing but queue offsets.

use ringmq::remoting::field_text::FieldText;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use ringmq::remoting::frame::split_frame;
use ringmq::remoting::request::Request;
use ringmq::remoting::response::write_response_head;

/// How it behaves.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Behaviour {
    /// It answers nothing from this long after its first request, for this long.
    pub(crate) stall: Option<(Duration, Duration)>,
    /// Every so many-th request is refused with SYSTEM_BUSY.
    pub(crate) refuse_every: Option<u64>,
    /// It closes the connection at this request.
    pub(crate) close_at: Option<u64>,
}

#[derive(Default)]
struct State {
    first_request: Option<Instant>,
    requests: u64,
    offsets: HashMap<i64, u64>,
}

/// Starts one; it lives as long as the test's process.
pub(crate) fn start(behaviour: Behaviour) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let addr = listener.local_addr().expect("it is bound");
    let state = Arc::new(Mutex::new(State::default()));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let state = state.clone();
            std::thread::spawn(move || serve(stream, behaviour, &state));
        }
    });
    addr
}

/// Answers requests until the connection ends.
fn serve(mut stream: TcpStream, behaviour: Behaviour, state: &Mutex<State>) -> Option<()> {
    let mut input = BytesMut::new();
    let mut chunk = [0; 65536];
    loop {
        let read = stream.read(&mut chunk).ok().filter(|read| *read > 0)?;
        input.extend_from_slice(&chunk[..read]);
        let mut out = BytesMut::new();
        while let Some(frame) = split_frame(&mut input).ok()? {
            let request = Request::decode(&frame).ok()?;
            let mut state = state.lock().ok()?;
            state.requests += 1;
            if behaviour.close_at.is_some_and(|at| state.requests >= at) {
                return None;
            }
            let started = *state.first_request.get_or_insert_with(Instant::now);
            if let Some((from, length)) = behaviour.stall {
                let age = started.elapsed();
                if age >= from && age < from + length {
                    std::thread::sleep(from + length - age);
                }
            }
            let queue_id: i64 = request.ext.parse("e").ok()?;
            let refused = behaviour.refuse_every.is_some_and(|every| state.requests % every == 0);
            let next = state.offsets.entry(queue_id).or_default();
            let offset = *next;
            *next += u64::from(!refused);
            let ext: [(&str, &dyn FieldText); 3] = [
                ("msgId", &"7F00000100002A9F0000000000000000"),
                ("queueId", &queue_id),
                ("queueOffset", &offset),
            ];
            let (code, remark) = if refused { (2, Some("busy")) } else { (0, None) };
            write_response_head(&mut out, request.reply_to(), code, remark, &ext, 0);
        }
        stream.write_all(&out).ok()?;
    }
}
