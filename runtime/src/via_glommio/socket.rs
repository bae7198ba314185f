//! Sockets on a core of glommio's.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Read};
use std::net::{Shutdown, TcpStream};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures_lite::{AsyncRead, AsyncWrite};

/// Read at once, into memory that the connections of a core share.
const READ_BYTES: usize = 256 << 10;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// One connection.
pub(crate) struct GlommioStream(glommio::net::TcpStream);

impl GlommioStream {
    pub(crate) fn new(socket: TcpStream) -> Self {
        Self(glommio::net::TcpStream::from(socket2::Socket::from(socket)))
    }

    /// See [`crate::socket::Stream::poll_receive`].
    pub(crate) fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        input: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let read = ready!(Pin::new(&mut self.0).poll_read(context, scratch))?;
            input.extend_from_slice(&scratch[..read]);
            Poll::Ready(Ok(read))
        })
    }

    /// See [`crate::socket::Stream::take_last`].
    pub(crate) fn take_last(&mut self, input: &mut BytesMut) {
        let socket = socket2::SockRef::from(&self.0);
        if socket.set_nonblocking(true).is_err() {
            return;
        }
        SCRATCH.with_borrow_mut(|scratch| {
            while let Ok(read @ 1..) = (&*socket).read(scratch) {
                input.extend_from_slice(&scratch[..read]);
            }
        });
    }

    /// See [`crate::socket::Stream::poll_send`].
    pub(crate) fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        pieces: &mut VecDeque<Bytes>,
    ) -> Poll<io::Result<usize>> {
        let Some(first) = pieces.front_mut() else { return Poll::Ready(Ok(0)) };
        let sent = ready!(Pin::new(&mut self.0).poll_write(context, first))?;
        if sent == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        first.advance(sent);
        if first.is_empty() {
            pieces.pop_front();
        }
        Poll::Ready(Ok(sent))
    }

    pub(crate) async fn shutdown(&self) {
        // An error means that the connection is down already.
        let _ = self.0.shutdown(Shutdown::Both).await;
    }
}
