//! Sockets through the core's own ring: one request receives as long as the connection lasts, and everything that is to be sent in one
//! turn leaves with one request.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use io_uring::{opcode, types};

use super::core::{Core, current};
use super::operation::{Entry, Message, Operation, OperationKey, Owned};
use super::receive_buffers;

/// Received bytes that nobody has taken, beyond which a socket receives no more.
const UNTAKEN_BYTES_MAX: usize = 256 << 10;
/// Pieces that one request sends.
const PIECES_MAX: usize = 64;

/// One connection.
pub(crate) struct RingStream {
    core: Rc<Core>,
    socket: TcpStream,
    receiving: Rc<Receiving>,
    sending: Option<Operation>,
}

/// What a connection receives, shared with the request that receives it.
#[derive(Default)]
pub(crate) struct Receiving {
    input: RefCell<BytesMut>,
    untaken_bytes: Cell<usize>,
    /// The request that receives, while there is one.
    request: Cell<Option<OperationKey>>,
    is_cancelled: Cell<bool>,
    end: Cell<Option<io::Result<()>>>,
    waiting: Cell<Option<Waker>>,
}

impl Receiving {
    /// `bytes` arrived.
    pub(super) fn received(&self, bytes: &[u8]) {
        self.input.borrow_mut().extend_from_slice(bytes);
        self.untaken_bytes.set(self.untaken_bytes.get() + bytes.len());
        self.wake();
    }

    /// Whether to receive no more until somebody takes what is there. True once.
    pub(super) fn has_enough(&self) -> bool {
        self.untaken_bytes.get() > UNTAKEN_BYTES_MAX && !self.is_cancelled.replace(true)
    }

    /// The request is over: the connection has ended, or it was cancelled or has to be made again.
    pub(super) fn receiving_ended(&self, result: i32) {
        self.request.set(None);
        self.is_cancelled.set(false);
        match result {
            0 => self.end.set(Some(Ok(()))),
            // All buffers of the core were full for a moment, or we asked for it.
            error if error == -libc::ENOBUFS || error == -libc::ECANCELED || error == -libc::EINTR => {}
            error if error < 0 => self.end.set(Some(Err(io::Error::from_raw_os_error(-error)))),
            _ => {}
        }
        self.wake();
    }

    /// Puts what arrived behind `input`. How many bytes.
    fn take(&self, input: &mut BytesMut) -> usize {
        let received = self.untaken_bytes.take();
        if received > 0 {
            let arrived = self.input.take();
            if input.is_empty() {
                *input = arrived;
            } else {
                input.extend_from_slice(&arrived);
            }
        }
        received
    }

    fn wake(&self) {
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
    }
}

impl RingStream {
    /// Takes over a connected socket.
    pub(crate) fn new(socket: TcpStream) -> Self {
        let core = current().expect("a socket of a ring is made on a core of this backend");
        Self { core, socket, receiving: Rc::default(), sending: None }
    }

    /// See [`crate::socket::Stream::poll_receive`].
    pub(crate) fn poll_receive(
        &self,
        context: &Context<'_>,
        input: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        let receiving = &self.receiving;
        let received = receiving.take(input);
        if received > 0 {
            return Poll::Ready(Ok(received));
        }
        if let Some(end) = receiving.end.take() {
            return Poll::Ready(end.map(|()| 0));
        }
        // What is there already stays in front of what arrives, without another copy.
        if receiving.input.borrow().is_empty() {
            receiving.input.replace(std::mem::take(input));
        }
        receiving.waiting.set(Some(context.waker().clone()));
        if receiving.request.get().is_none() {
            let request = opcode::RecvMulti::new(self.fd(), receive_buffers::GROUP).build();
            // SAFETY: the request names no memory but the registered buffers, which outlive it (see `core::run`). The socket is shut
            // down before it is closed, which ends the request.
            let key = unsafe { self.core.start_entry(request, Entry::Receiving(Rc::clone(receiving))) };
            receiving.request.set(Some(key));
        }
        Poll::Pending
    }

    /// See [`crate::socket::Stream::take_last`].
    pub(crate) fn take_last(&mut self, input: &mut BytesMut) {
        self.receiving.take(input);
    }

    /// See [`crate::socket::Stream::poll_send`].
    pub(crate) fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        pieces: &mut VecDeque<Bytes>,
    ) -> Poll<io::Result<usize>> {
        if let Some(sending) = &mut self.sending {
            let (result, owned) = ready!(Pin::new(sending).poll(context));
            self.sending = None;
            let Owned::Message(message) = owned else { unreachable!("an operation gives back what it got") };
            let sent = match usize::try_from(result) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(sent) => sent,
                Err(_) => return Poll::Ready(Err(io::Error::from_raw_os_error(-result))),
            };
            put_back_unsent(message.pieces, sent, pieces);
            return Poll::Ready(Ok(sent));
        }
        if pieces.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let count = pieces.len().min(PIECES_MAX);
        let message = Message::new(pieces.drain(..count).collect());
        let request = match &message.vectors[..] {
            [only] => {
                let length = u32::try_from(only.iov_len).unwrap_or(u32::MAX);
                opcode::Send::new(self.fd(), only.iov_base.cast(), length).flags(libc::MSG_NOSIGNAL).build()
            }
            _ => {
                let flags = u32::try_from(libc::MSG_NOSIGNAL).expect("a flag is not negative");
                opcode::SendMsg::new(self.fd(), &raw const message.header).flags(flags).build()
            }
        };
        // SAFETY: header, vectors and pieces all lie on the heap and belong to the message. The socket is shut down before it is closed,
        // which ends the request.
        let mut sending = unsafe { self.core.start(request, Owned::Message(message)) };
        assert!(
            Pin::new(&mut sending).poll(context).is_pending(),
            "nothing is done before the ring is entered"
        );
        self.sending = Some(sending);
        Poll::Pending
    }

    pub(crate) fn shutdown(&self) {
        // An error means that the connection is down already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    fn fd(&self) -> types::Fd {
        types::Fd(self.socket.as_raw_fd())
    }
}

impl Drop for RingStream {
    fn drop(&mut self) {
        self.shutdown();
        if let Some(request) = self.receiving.request.get() {
            self.core.cancel(request);
        }
        self.core.submit();
    }
}

impl Message {
    fn new(pieces: Vec<Bytes>) -> Box<Self> {
        let vectors: Vec<_> = pieces
            .iter()
            .map(|piece| libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: piece.len() })
            .collect();
        // SAFETY: a `msghdr` is plain numbers and pointers, for which all zeros is valid.
        let header = unsafe { std::mem::zeroed() };
        let mut message = Box::new(Self { pieces, vectors, header });
        message.header.msg_iov = message.vectors.as_mut_ptr();
        message.header.msg_iovlen = message.vectors.len();
        message
    }
}

/// Puts what the kernel did not take back in front.
fn put_back_unsent(sent_pieces: Vec<Bytes>, mut sent: usize, pieces: &mut VecDeque<Bytes>) {
    let mut unsent = Vec::new();
    for mut piece in sent_pieces {
        if piece.len() <= sent {
            sent -= piece.len();
            continue;
        }
        piece.advance(sent);
        sent = 0;
        unsent.push(piece);
    }
    for piece in unsent.into_iter().rev() {
        pieces.push_front(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_sent_goes_first_and_in_order() {
        let mut pieces = VecDeque::from([Bytes::from_static(b"last")]);
        let sent = ["one", "two", "three"].map(|piece| Bytes::from_static(piece.as_bytes()));
        put_back_unsent(sent.to_vec(), 4, &mut pieces);
        assert_eq!(pieces, ["wo", "three", "last"]);
        put_back_unsent(vec![Bytes::from_static(b"x")], 1, &mut pieces);
        assert_eq!(pieces.len(), 3);
    }
}
