//! One TCP connection to a broker or name server: requests out, their answers in, by `opaque`.

use std::collections::HashMap;
use std::fmt::Display;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::str::FromStr;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::error::ClientError;
use crate::remoting::code::response;
use crate::remoting::field_text::FieldText;
use crate::remoting::frame::{Frame, SerializeType, split_frame};
use crate::remoting::request::Request;
use crate::remoting::response::write_request;

/// Bytes asked of the socket in one read.
const READ_BYTES: usize = 64 * 1024;

/// A connection on which requests are under way, each until its answer was taken.
#[derive(Debug)]
pub struct Connection {
    addr: String,
    stream: TcpStream,
    input: BytesMut,
    last_opaque: i32,
    /// The requests whose answers were not taken, with those that came before they were asked for.
    under_way: HashMap<i32, Option<Answer>>,
}

/// The answer to a request: its code is not yet judged.
#[derive(Clone, Debug)]
pub struct Answer {
    addr: String,
    code: i32,
    remark: String,
    frame: Frame,
}

impl Connection {
    /// Connects to `host:port`.
    ///
    /// # Errors
    /// The name cannot be resolved, or nobody answers there within `timeout`.
    pub fn open(addr: &str, timeout: Duration) -> Result<Self, ClientError> {
        let failed = |source| ClientError::Connect { addr: addr.to_owned(), source };
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for resolved in addr.to_socket_addrs().map_err(failed)? {
            match TcpStream::connect_timeout(&resolved, timeout) {
                Ok(stream) => {
                    stream.set_nodelay(true).map_err(failed)?;
                    return Ok(Self {
                        addr: addr.to_owned(),
                        stream,
                        input: BytesMut::with_capacity(READ_BYTES),
                        last_opaque: 0,
                        under_way: HashMap::new(),
                    });
                }
                Err(error) => last = error,
            }
        }
        Err(failed(last))
    }

    /// Sends a request and waits for its answer. Requests that the peer sends meanwhile are passed over.
    ///
    /// # Errors
    /// The connection breaks, speaks another protocol, or the answer is not there within `timeout`. The connection is of no
    /// more use then.
    pub fn call(
        &mut self,
        code: i32,
        ext: &[(&str, &dyn FieldText)],
        body: &[u8],
        timeout: Duration,
    ) -> Result<Answer, ClientError> {
        let opaque = self.begin(code, ext, body, timeout)?;
        self.finish(code, opaque, timeout)
    }

    /// Sends a request and does not wait for its answer, which [`Self::finish`] takes by the number that this returns.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn begin(
        &mut self,
        code: i32,
        ext: &[(&str, &dyn FieldText)],
        body: &[u8],
        timeout: Duration,
    ) -> Result<i32, ClientError> {
        self.last_opaque = self.last_opaque.wrapping_add(1) & i32::MAX;
        let opaque = self.last_opaque;
        let mut out = BytesMut::new();
        write_request(&mut out, SerializeType::Json, code, opaque, false, ext, body);
        self.stream
            .set_write_timeout(Some(timeout))
            .and_then(|()| self.stream.write_all(&out))
            .map_err(|source| self.broken(code, source))?;
        self.under_way.insert(opaque, None);
        Ok(opaque)
    }

    /// Waits for the answer to a request that was begun here, and keeps those to others.
    ///
    /// # Errors
    /// As [`Self::call`].
    ///
    /// # Panics
    /// When no request of this number is under way.
    pub fn finish(&mut self, code: i32, opaque: i32, timeout: Duration) -> Result<Answer, ClientError> {
        if let Some(answer) = self.under_way.remove(&opaque).expect("a request that is under way") {
            return Ok(answer);
        }
        let deadline = Instant::now() + timeout;
        loop {
            let frame = self.next_frame(code, deadline, timeout)?;
            let (answered, answer_code, remark) = {
                let command = Request::decode(&frame).map_err(|error| self.not_remoting(&error))?;
                let remark = command.remark.as_deref().unwrap_or_default().to_owned();
                (command.is_response().then_some(command.opaque), command.code, remark)
            };
            let Some(answered) = answered else { continue };
            let answer = Answer { addr: self.addr.clone(), code: answer_code, remark, frame };
            if answered == opaque {
                return Ok(answer);
            }
            if let Some(other) = self.under_way.get_mut(&answered) {
                *other = Some(answer);
            }
        }
    }

    /// Reads until a whole frame is there.
    fn next_frame(&mut self, code: i32, deadline: Instant, timeout: Duration) -> Result<Frame, ClientError> {
        loop {
            if let Some(frame) = split_frame(&mut self.input).map_err(|error| self.not_remoting(&error))? {
                return Ok(frame);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ClientError::TimedOut { addr: self.addr.clone(), code, after: timeout });
            }
            let filled = self.input.len();
            self.input.resize(filled + READ_BYTES, 0);
            let read = self
                .stream
                .set_read_timeout(Some(left))
                .and_then(|()| self.stream.read(&mut self.input[filled..]));
            self.input.truncate(filled + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => {
                    let closed =
                        io::Error::new(io::ErrorKind::UnexpectedEof, "the peer closed the connection");
                    return Err(self.broken(code, closed));
                }
                Ok(_) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(self.broken(code, error)),
            }
        }
    }

    fn broken(&self, code: i32, source: io::Error) -> ClientError {
        ClientError::Broken { addr: self.addr.clone(), code, source }
    }

    fn not_remoting(&self, what: &dyn Display) -> ClientError {
        ClientError::NotRemoting { addr: self.addr.clone(), what: what.to_string() }
    }
}

impl Answer {
    pub fn code(&self) -> i32 {
        self.code
    }

    /// The text that came with the answer; empty on success.
    pub fn remark(&self) -> &str {
        &self.remark
    }

    pub fn addr(&self) -> &str {
        &self.addr
    }

    pub fn body(&self) -> &Bytes {
        &self.frame.body
    }

    pub fn into_body(self) -> Bytes {
        self.frame.body
    }

    /// A header field.
    pub fn field(&self, name: &str) -> Option<String> {
        Request::decode(&self.frame).ok()?.ext.get(name).map(str::to_owned)
    }

    /// A header field that must be there and read as a number.
    ///
    /// # Errors
    /// It is missing or malformed.
    pub fn number<T: FromStr>(&self, field: &'static str) -> Result<T, ClientError> {
        self.field(field)
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| ClientError::MissingField { addr: self.addr.clone(), field })
    }

    /// The answer itself when its code is SUCCESS.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with code and remark otherwise; `doing` says what was refused.
    pub fn success(self, doing: &'static str) -> Result<Self, ClientError> {
        if self.code == response::SUCCESS { Ok(self) } else { Err(self.refused(doing)) }
    }

    /// The answer itself when it means that a message was stored: SUCCESS, or stored but not (yet) flushed or replicated as
    /// asked.
    ///
    /// # Errors
    /// [`ClientError::Refused`] otherwise.
    pub fn stored(self, doing: &'static str) -> Result<Self, ClientError> {
        match self.code {
            response::SUCCESS
            | response::FLUSH_DISK_TIMEOUT
            | response::SLAVE_NOT_AVAILABLE
            | response::FLUSH_SLAVE_TIMEOUT => Ok(self),
            _ => Err(self.refused(doing)),
        }
    }

    pub(super) fn refused(self, doing: &'static str) -> ClientError {
        ClientError::Refused { addr: self.addr, doing, code: self.code, remark: self.remark }
    }

    pub(super) fn bad_body(&self, what: &'static str, reason: &dyn Display) -> ClientError {
        ClientError::BadBody { addr: self.addr.clone(), what, reason: reason.to_string() }
    }
}
