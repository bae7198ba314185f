//! A peer that writes whatever it likes to a socket: frames of the remoting protocol by hand, whole or in part.

use std::io::{self, Read};
use std::net::TcpStream;
use std::time::Duration;

/// How long the server may take to react, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection whose reads end in time.
pub(crate) fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
    stream
}

/// A request with a JSON header.
pub(crate) fn request(code: i32, flag: i32, opaque: i32, fields: &str, body: &[u8]) -> Vec<u8> {
    let header = format!(
        "{{\"code\":{code},\"language\":\"OTHER\",\"version\":317,\"opaque\":{opaque},\"flag\":{flag},\"extFields\":{fields}}}"
    );
    frame(0, header.as_bytes(), body)
}

/// A frame with this header.
pub(crate) fn frame(serialise_type: u8, header: &[u8], body: &[u8]) -> Vec<u8> {
    let total = u32::try_from(4 + header.len() + body.len()).expect("a small frame");
    let header_word = u32::from(serialise_type) << 24 | u32::try_from(header.len()).expect("a small header");
    [&total.to_be_bytes()[..], &header_word.to_be_bytes(), header, body].concat()
}

/// The next frame that comes, without its length.
///
/// # Errors
/// The connection ends first, or nothing comes in time.
///
/// # Panics
/// When the frame is larger than any may be, or not whole.
pub(crate) fn read_frame(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    assert!(length <= 16 << 20, "an answer of {length} bytes");
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).expect("the rest of the answer");
    Ok(answer)
}
