//! Connected sockets, on the core that took them over.

use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};

use crate::ring::core::current;
use crate::ring::socket::RingStream;
use crate::via_glommio::socket::GlommioStream;

/// One connection. Lives and dies on its core.
pub struct Stream(Backend);

enum Backend {
    Ring(RingStream),
    Glommio(GlommioStream),
}

impl Stream {
    /// Takes over a connected socket, for this core.
    pub fn new(socket: TcpStream) -> Self {
        Self(match current() {
            Some(_) => Backend::Ring(RingStream::new(socket)),
            None => Backend::Glommio(GlommioStream::new(socket)),
        })
    }

    /// Puts what has arrived behind `input`, and tells how many bytes; 0 when the peer has ended its side. While it is pending, `input`
    /// is empty: it comes back in front of what arrives.
    ///
    /// Who stops calling this stops the peer: beyond a quarter of a mebibyte that nobody takes (and what is under way), nothing more is
    /// received.
    pub fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        input: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Backend::Ring(stream) => stream.poll_receive(context, input),
            Backend::Glommio(stream) => stream.poll_receive(context, input),
        }
    }

    /// Puts what has arrived on a broken connection behind `input`, without waiting. Nothing is to be received any more.
    pub fn take_last(&mut self, input: &mut BytesMut) {
        match &mut self.0 {
            Backend::Ring(stream) => stream.take_last(input),
            Backend::Glommio(stream) => stream.take_last(input),
        }
    }

    /// Sends from the front of `pieces`, which are gone from there when they are under way. Tells how many bytes the kernel took: call
    /// it again until nothing is left, 0 when there is nothing.
    pub fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        pieces: &mut VecDeque<Bytes>,
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Backend::Ring(stream) => stream.poll_send(context, pieces),
            Backend::Glommio(stream) => stream.poll_send(context, pieces),
        }
    }

    /// Ends both directions.
    pub async fn shutdown(&self) {
        match &self.0 {
            Backend::Ring(stream) => stream.shutdown(),
            Backend::Glommio(stream) => stream.shutdown().await,
        }
    }
}
