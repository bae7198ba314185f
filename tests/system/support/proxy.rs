//! Bad networks: proxies between clients and a server that delay, block, swallow and cut what goes through them, each switchable while
//! connections are open.
//!
//! [`Network`] puts one in front of the name server and of every shard. Routes that go through it name the proxies instead of the shards,
//! so that unmodified clients take the way over them. Two threads for each connection, one for each direction.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ringmq::client::Queue;

use super::server::Server;

/// How a proxy treats what goes through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Open,
    /// Whatever is read goes on after so long, both ways.
    Delayed(Duration),
    /// Nothing arrives at the server: it waits, and so do its senders once the buffers are full.
    ToServerBlocked,
    /// Nothing comes back from the server.
    ToClientBlocked,
    /// Connections are accepted and nothing is read from them, on either side. Ends are not seen, either.
    HalfOpen,
    /// Connections are accepted and closed at once.
    Down,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

impl Link {
    /// Whether bytes go on in this direction, and after how long.
    fn passes(self, direction: Direction) -> Option<Duration> {
        match (self, direction) {
            (Self::Delayed(delay), _) => Some(delay),
            (Self::HalfOpen, _)
            | (Self::ToServerBlocked, Direction::ToServer)
            | (Self::ToClientBlocked, Direction::ToClient) => None,
            _ => Some(Duration::ZERO),
        }
    }
}

#[derive(Debug)]
struct Shared {
    link: Mutex<Link>,
    changed: Condvar,
    /// Both ends of every connection.
    streams: Mutex<Vec<TcpStream>>,
    is_over: AtomicBool,
}

impl Shared {
    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until bytes may go on.
    fn await_passage(&self, direction: Direction) {
        let delay = {
            let mut link = self.link();
            loop {
                if self.is_over.load(Ordering::Relaxed) {
                    return;
                }
                match link.passes(direction) {
                    Some(delay) => break delay,
                    None => link = self.changed.wait(link).unwrap_or_else(PoisonError::into_inner),
                }
            }
        };
        std::thread::sleep(delay);
    }

    fn cut(&self) {
        let streams = std::mem::take(&mut *self.streams.lock().unwrap_or_else(PoisonError::into_inner));
        for stream in streams {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// A proxy in front of one address.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    fn start(target: String, renamed: Vec<(String, String)>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared {
            link: Mutex::new(Link::Open),
            changed: Condvar::new(),
            streams: Mutex::default(),
            is_over: AtomicBool::new(false),
        });
        let of_thread = Arc::clone(&shared);
        std::thread::spawn(move || accept(&listener, &target, &renamed, &of_thread));
        Self { port, shared }
    }

    fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn set(&self, link: Link) {
        *self.shared.link() = link;
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.set(Link::Down);
        self.shared.cut();
        // Ends the thread that accepts.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn accept(listener: &TcpListener, target: &str, renamed: &[(String, String)], shared: &Arc<Shared>) {
    loop {
        let Ok((client, _)) = listener.accept() else { return };
        if shared.is_over.load(Ordering::Relaxed) {
            return;
        }
        if *shared.link() == Link::Down {
            continue;
        }
        // The server may be down, too: then the client sees a connection that ends.
        if let Ok(server) = TcpStream::connect(target) {
            let _ = join(client, server, renamed, shared);
        }
    }
}

fn join(
    client: TcpStream,
    server: TcpStream,
    renamed: &[(String, String)],
    shared: &Arc<Shared>,
) -> io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ends = [client.try_clone()?, server.try_clone()?];
    shared.streams.lock().unwrap_or_else(PoisonError::into_inner).extend(ends);
    let (client_too, server_too) = (client.try_clone()?, server.try_clone()?);
    let (to_server, to_client) = (Arc::clone(shared), Arc::clone(shared));
    let renamed = renamed.to_vec();
    std::thread::spawn(move || pump(client, server, &to_server, Direction::ToServer, &[]));
    std::thread::spawn(move || pump(server_too, client_too, &to_client, Direction::ToClient, &renamed));
    Ok(())
}

/// Carries bytes one way until one end is closed.
fn pump(
    mut from: TcpStream,
    mut to: TcpStream,
    shared: &Shared,
    direction: Direction,
    renamed: &[(String, String)],
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        shared.await_passage(direction);
        let read = from.read(&mut buffer);
        // An end, too, waits for its passage.
        shared.await_passage(direction);
        let Ok(bytes @ 1..) = read else { break };
        renamed.iter().for_each(|(name, new)| rename(&mut buffer[..bytes], name, new));
        if to.write_all(&buffer[..bytes]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// Puts one address in the place of another of the same length. Answers of the name server are small: each comes whole.
fn rename(bytes: &mut [u8], name: &str, new: &str) {
    assert_eq!(name.len(), new.len(), "lengths in frames stay right");
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(name.len()).position(|window| window == name.as_bytes()) {
        bytes[at + found..at + found + name.len()].copy_from_slice(new.as_bytes());
        at += found + name.len();
    }
}

/// Proxies in front of a server: one for its name server, which names the others to clients, and one for each shard.
#[derive(Debug)]
pub(crate) struct Network {
    namesrv: Proxy,
    /// Of the shards themselves.
    addresses: Vec<String>,
    shards: Vec<Proxy>,
}

impl Network {
    pub(crate) fn before(server: &Server) -> Self {
        let addresses: Vec<_> = (0..server.settings().shards).map(|shard| server.broker(shard)).collect();
        let shards: Vec<_> = addresses.iter().map(|addr| Proxy::start(addr.clone(), Vec::new())).collect();
        let renamed = addresses.iter().cloned().zip(shards.iter().map(Proxy::addr)).collect();
        Self { namesrv: Proxy::start(server.namesrv(), renamed), addresses, shards }
    }

    /// Address of the name server for clients that are to come through here.
    pub(crate) fn namesrv(&self) -> String {
        self.namesrv.addr()
    }

    /// The same queues as clients see them that come through here.
    pub(crate) fn queues(&self, queues: &[Queue]) -> Vec<Queue> {
        let proxied = |queue: &Queue| {
            let shard =
                self.addresses.iter().position(|addr| *addr == queue.addr).expect("a queue of a shard");
            Queue { addr: self.shards[shard].addr(), ..queue.clone() }
        };
        queues.iter().map(proxied).collect()
    }

    /// Treats all connections to shards so from now on, those that are open too.
    pub(crate) fn set(&self, link: Link) {
        self.shards.iter().for_each(|proxy| proxy.set(link));
    }

    /// The same for one shard.
    pub(crate) fn set_shard(&self, shard: usize, link: Link) {
        self.shards[shard].set(link);
    }

    /// Closes all connections to shards that are open. What is on its way is lost.
    pub(crate) fn cut(&self) {
        self.shards.iter().for_each(|proxy| proxy.shared.cut());
    }
}
