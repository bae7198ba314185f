//! Sockets of the serve core: the only file of this crate's way of a message that names the runtime's network types.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use shards::io::task::Signal;

use crate::remoting::response::ReplyTo;
use std::fmt::Display;

/// Identity of a connection within its listener; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// One connection as request processors see it: who it is, and where answers go. What is pushed during a turn leaves in
/// one write; pushing to a connection that has ended does nothing.
#[derive(Debug)]
pub struct Connection {
    id: ConnectionId,
    peer: SocketAddr,
    out: RefCell<Vec<Bytes>>,
    tail: RefCell<BytesMut>,
    out_bytes: Cell<usize>,
    closed: Cell<bool>,
    writable: Signal,
}

impl Connection {
    /// A connection without a socket: what is pushed stays in it. For whoever tests a processor.
    pub fn detached(id: ConnectionId, peer: SocketAddr) -> Rc<Self> {
        Rc::new(Self {
            id,
            peer,
            out: RefCell::default(),
            tail: RefCell::default(),
            out_bytes: Cell::new(0),
            closed: Cell::new(false),
            writable: Signal::default(),
        })
    }

    pub fn id(&self) -> ConnectionId {
        self.id
    }

    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Pushes a response whose body is `body`; nothing when the request was oneway.
    pub fn reply(
        &self,
        to: ReplyTo,
        code: i32,
        remark: Option<&str>,
        ext: &[(&str, &dyn Display)],
        body: &[u8],
    ) {
        if to.oneway || self.closed.get() {
            return;
        }
        let mut tail = self.tail.borrow_mut();
        crate::remoting::response::write_response_head(&mut tail, to, code, remark, ext, body.len());
        tail.extend_from_slice(body);
        self.writable.raise();
    }

    /// Pushes a response whose body is the given pieces back to back, without copying large ones.
    pub fn reply_pieces(
        &self,
        to: ReplyTo,
        code: i32,
        remark: Option<&str>,
        ext: &[(&str, &dyn Display)],
        pieces: Vec<Bytes>,
    ) {
        let _ = (to, code, remark, ext, pieces);
        todo!()
    }

    /// Pushes a oneway request of ours (JSON).
    pub fn notify(&self, code: i32, ext: &[(&str, &dyn Display)], body: &[u8]) {
        let _ = (code, ext, body);
        todo!()
    }

    /// Takes everything pushed so far, in order, as the socket's writer does.
    pub fn take_output(&self) -> Vec<Bytes> {
        todo!()
    }
}
