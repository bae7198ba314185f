//! Sockets of a core: listeners, connections, and the task that reads, serves and writes one connection. It lives on the
//! core that owns the listener.
//!
//! A [`Connection`] is what request processors see. Answers are pushed to it from anywhere on the core; what was pushed in
//! one turn leaves together. The connection's task stops reading while too much of the peer's work is unanswered, so that a
//! peer that sends without reading fills its own socket and nothing of ours. What all connections may hold together, and for how
//! long a peer may be behind, is in `held`.

mod held;

use crate::remoting::field_text::FieldText;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use runtime::host;
use runtime::mailbox::{MailSender, Mailbox, mailbox};
use runtime::socket::Stream;
use runtime::task;
use shards::limits::{CONNECTION_IN_FLIGHT_BYTES_MAX, CONNECTIONS_MAX, MAILBOX_MESSAGES_MAX};
use tracing::{debug, warn};

use self::held::{HeldTotal, Looks, Progress};
use crate::remoting::frame::{Frame, FrameError, SerializeType, split_frame};
use crate::remoting::request::HeaderError;
use crate::remoting::response::{ReplyTo, write_request, write_response_head};

/// A piece of a body below this size is copied behind its header; a larger one is sent from where it lies.
const COPIED_PIECE_BYTES_MAX: usize = 2048;
/// Reads of one connection before the others of its core get their turn.
const READS_PER_TURN: u32 = 4;
/// A connection on which nothing moved for this long is closed, as RocketMQ does, unless the listener was told otherwise.
const IDLE_CLOSE: Duration = Duration::from_secs(120);
/// How often the answers of peers that are behind are looked at.
const BEHIND_INTERVAL: Duration = Duration::from_secs(1);
/// Answers of such peers that are copied before the core does something else, bytes: some 100 us.
const COPIED_BYTES_PER_TURN: usize = 1 << 20;
/// How often idle connections are looked for, or a quarter of the time that they have, if that is less.
const IDLE_SCAN_INTERVAL_MAX: Duration = Duration::from_secs(10);

/// Identity of a connection within its listener; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// What a listener's connections are for.
pub trait Service {
    /// Serves one frame. Answers go to `connection`, now or later. A returned future is awaited before the next frame of
    /// this connection is served.
    ///
    /// # Errors
    /// A header that cannot be read: the connection is closed.
    fn serve(&self, connection: &Rc<Connection>, frame: &Frame) -> Result<Option<Deferred>, HeaderError>;

    /// The connection has ended; nothing that is pushed to it from now on arrives.
    fn closed(&self, connection: &Connection);
}

/// The rest of serving a request that has to wait for something.
pub type Deferred = Pin<Box<dyn Future<Output = ()>>>;

/// One connection as request processors see it: who it is, and where answers go. Pushing to a connection that has ended
/// does nothing.
#[derive(Debug)]
pub struct Connection {
    id: ConnectionId,
    peer: SocketAddr,
    output: RefCell<Output>,
    /// Request bytes that were taken and not yet answered, as reported by the processors.
    in_flight_bytes: Cell<usize>,
    closed: Cell<bool>,
    /// A request is being served that has to wait for something.
    is_deferring: Cell<bool>,
    last_moved: Cell<Instant>,
    last_read: Cell<Instant>,
    next_opaque: Cell<i32>,
    task: RefCell<Option<Waker>>,
    /// Memory of what has arrived of a request that is not whole.
    input_bytes: Cell<usize>,
    /// What of this connection is in the listener's sum.
    reported_bytes: Cell<usize>,
    held_total: Rc<HeldTotal>,
    taken_bytes: Cell<u64>,
    came_bytes: Cell<u64>,
    looks: Cell<Looks>,
    /// It is in the list of those whose peers are behind.
    is_behind: Cell<bool>,
    /// It is in the list of those that are not read from because of the others.
    is_waiting: Cell<bool>,
    /// It is not read from, because of what it holds itself or what the others do.
    is_held_back: Cell<bool>,
    /// It is being read from, and nothing is there.
    awaits_input: Cell<bool>,
    /// Nothing of it is served for a moment.
    rests: Cell<bool>,
}

#[derive(Debug, Default)]
struct Output {
    /// Leaves first, behind what is under way.
    pieces: VecDeque<Bytes>,
    /// Of the pieces and what is under way.
    pieces_bytes: usize,
    /// Leaves after the pieces; grows while nothing large is pushed.
    tail: BytesMut,
}

impl Output {
    fn bytes(&self) -> usize {
        self.pieces_bytes + self.tail.len()
    }

    fn push_piece(&mut self, piece: Bytes) {
        if piece.len() < COPIED_PIECE_BYTES_MAX {
            self.tail.extend_from_slice(&piece);
            return;
        }
        self.close_tail();
        self.pieces_bytes += piece.len();
        self.pieces.push_back(piece);
    }

    /// Makes the tail the last piece.
    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.pieces_bytes += self.tail.len();
            self.pieces.push_back(self.tail.split().freeze());
        }
    }
}

impl Connection {
    /// A connection without a socket: what is pushed stays in it until [`Self::take_output`].
    pub fn detached(id: ConnectionId, peer: SocketAddr) -> Rc<Self> {
        Self::new(id, peer, Rc::default())
    }

    fn new(id: ConnectionId, peer: SocketAddr, held_total: Rc<HeldTotal>) -> Rc<Self> {
        Rc::new(Self {
            id,
            peer,
            output: RefCell::default(),
            in_flight_bytes: Cell::new(0),
            closed: Cell::new(false),
            is_deferring: Cell::new(false),
            last_moved: Cell::new(Instant::now()),
            last_read: Cell::new(Instant::now()),
            next_opaque: Cell::new(0),
            task: RefCell::default(),
            input_bytes: Cell::new(0),
            reported_bytes: Cell::new(0),
            held_total,
            taken_bytes: Cell::new(0),
            came_bytes: Cell::new(0),
            looks: Cell::default(),
            is_behind: Cell::new(false),
            is_waiting: Cell::new(false),
            is_held_back: Cell::new(false),
            awaits_input: Cell::new(false),
            rests: Cell::new(false),
        })
    }

    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// The address of the other end.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Takes note that something was read from it at `now`.
    pub fn note_read(&self, now: Instant) {
        self.last_moved.set(now);
        self.last_read.set(now);
    }

    /// When something was last read from it. For a request that is being served: when its last bytes came, or later.
    pub fn last_read(&self) -> Instant {
        self.last_read.get()
    }

    /// Pushes a response whose body is `body`; nothing when the request was oneway.
    pub fn reply(
        &self,
        to: ReplyTo,
        code: i32,
        remark: Option<&str>,
        ext: &[(&str, &dyn FieldText)],
        body: &[u8],
    ) {
        if to.oneway || self.closed.get() {
            return;
        }
        let mut output = self.output.borrow_mut();
        write_response_head(&mut output.tail, to, code, remark, ext, body.len());
        output.tail.extend_from_slice(body);
        self.wake();
    }

    /// Pushes a response whose body is the given pieces back to back, without copying large ones.
    pub fn reply_pieces(
        &self,
        to: ReplyTo,
        code: i32,
        remark: Option<&str>,
        ext: &[(&str, &dyn FieldText)],
        pieces: Vec<Bytes>,
    ) {
        if to.oneway || self.closed.get() {
            return;
        }
        let mut output = self.output.borrow_mut();
        let body_bytes = pieces.iter().map(Bytes::len).sum();
        write_response_head(&mut output.tail, to, code, remark, ext, body_bytes);
        for piece in pieces {
            output.push_piece(piece);
        }
        self.wake();
    }

    /// Pushes a oneway request of ours. Always JSON: some clients read nothing else. Left out for a peer that does not read: clients
    /// look by themselves, too.
    pub fn notify(&self, code: i32, ext: &[(&str, &dyn FieldText)], body: &[u8]) {
        if self.closed.get() || self.output.borrow().bytes() > CONNECTION_IN_FLIGHT_BYTES_MAX {
            return;
        }
        let opaque = self.next_opaque.get();
        self.next_opaque.set(opaque.wrapping_add(1) & i32::MAX);
        write_request(&mut self.output.borrow_mut().tail, SerializeType::Json, code, opaque, true, ext, body);
        self.wake();
    }

    /// Counts request bytes that wait for their answer. While there are more than
    /// [`CONNECTION_IN_FLIGHT_BYTES_MAX`], nothing is read from this connection.
    pub fn add_in_flight(&self, bytes: usize) {
        self.in_flight_bytes.set(self.in_flight_bytes.get() + bytes);
        self.report_held();
    }

    /// Takes back what [`Self::add_in_flight`] counted.
    ///
    /// # Panics
    /// If more is taken back than was counted.
    pub fn sub_in_flight(&self, bytes: usize) {
        let before = self.in_flight_bytes.get();
        assert!(before >= bytes, "{bytes} bytes answered of {before} in flight");
        self.in_flight_bytes.set(before - bytes);
        self.report_held();
        if self.is_held_back.get() {
            self.wake();
        }
    }

    /// Ends the connection; what was pushed and not yet sent is dropped.
    pub fn close(&self) {
        self.closed.set(true);
        self.wake();
    }

    /// Takes everything pushed so far, in order, as the socket's writer does.
    pub fn take_output(&self) -> Vec<Bytes> {
        let mut output = self.output.borrow_mut();
        output.close_tail();
        output.pieces_bytes = 0;
        output.pieces.drain(..).collect()
    }

    fn wake(&self) {
        if let Some(task) = self.task.borrow_mut().take() {
            task.wake();
        }
    }

    /// Serves nothing of it for a few milliseconds: one of its requests was refused because this node is busy.
    pub fn rest(self: &Rc<Self>) {
        if !self.rests.replace(true) {
            self.held_total.rest(Rc::clone(self));
        }
    }

    /// Whether another of its requests may be served, which may hold more.
    fn may_serve(&self) -> bool {
        let unanswered = self.unanswered_bytes();
        !self.rests.get()
            && unanswered <= CONNECTION_IN_FLIGHT_BYTES_MAX
            && self.held_total.allows(self.reported_bytes.get(), unanswered)
    }

    /// Whether more of a request that is not whole may come.
    fn may_read(&self) -> bool {
        self.may_serve() && self.held_total.allows(self.reported_bytes.get(), self.held_bytes())
    }

    /// Whether nothing keeps it from being read from but what the others hold.
    fn waits_for_others(&self) -> bool {
        let is_full = self.unanswered_bytes() > CONNECTION_IN_FLIGHT_BYTES_MAX;
        !self.rests.get() && !is_full && !self.may_read()
    }

    /// Whether it has the front of a request, waits for the others to hold less before the rest is read, and has not been read from
    /// since `since`.
    fn is_stuck(&self, since: Instant) -> bool {
        self.is_waiting.get()
            && self.input_bytes.get() > 0
            && self.may_serve()
            && self.last_read.get() < since
    }

    fn unanswered_bytes(&self) -> usize {
        self.in_flight_bytes.get() + self.output.borrow().bytes()
    }

    fn held_bytes(&self) -> usize {
        self.unanswered_bytes() + self.input_bytes.get()
    }

    /// Brings the listener's sum up to date.
    fn report_held(&self) {
        let held = if self.closed.get() { 0 } else { self.held_bytes() };
        let before = self.reported_bytes.replace(held);
        if before != held {
            self.held_total.change(before, held);
        }
    }

    /// Whether its peer does not get on, at one of the looks at all connections.
    fn look(&self) -> bool {
        let progress = Progress {
            taken: self.taken_bytes.get(),
            came: self.came_bytes.get(),
            owes_taking: self.output.borrow().bytes() > 0,
            owes_sending: self.input_bytes.get() > 0 && self.awaits_input.get(),
        };
        let mut looks = self.looks.get();
        let is_too_slow = looks.look(progress, self.held_bytes(), self.held_total.is_short());
        self.looks.set(looks);
        is_too_slow
    }

    /// Copies what waits for a peer that is behind: a piece keeps a whole block of the log's tail, or of what was read from the disk,
    /// in memory. Stops behind the piece with which it has copied `bytes_max`. Returns how many bytes it copied.
    fn let_go_of_blocks(&self, bytes_max: usize) -> usize {
        let mut copied = 0;
        for piece in self.output.borrow_mut().pieces.iter_mut().filter(|piece| !piece.is_unique()) {
            *piece = Bytes::copy_from_slice(piece);
            copied += piece.len();
            if copied >= bytes_max {
                break;
            }
        }
        copied
    }
}

/// A bound address whose connections can be handed to a core.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
    idle_close: Duration,
}

impl Listener {
    /// Binds `address`; port 0 picks a free one.
    ///
    /// # Errors
    /// The address is in use or not of this host; the text names it.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"));
        let listener = TcpListener::bind(address).map_err(named)?;
        host::widen_backlog(&listener).map_err(named)?;
        let address = listener.local_addr().map_err(named)?;
        Ok(Self { listener, address, idle_close: IDLE_CLOSE })
    }

    /// The same with another time after which a connection is closed on which nothing moves.
    #[must_use]
    pub fn closing_idle_after(mut self, idle_close: Duration) -> Self {
        self.idle_close = idle_close;
        self
    }

    /// The address as bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts a thread that waits for connections, and gives the end on which a core takes them. Accepting is rare and
    /// blocking; on a thread of its own it needs no place in the ring.
    ///
    /// # Errors
    /// The system refuses another thread.
    pub fn start(self) -> io::Result<Accepted> {
        let (sender, sockets) = mailbox(MAILBOX_MESSAGES_MAX);
        let (address, idle_close) = (self.address, self.idle_close);
        std::thread::Builder::new()
            .name(format!("accept-{}", address.port()))
            .spawn(move || accept(&self.listener, &sender))?;
        Ok(Accepted { sockets, address, idle_close })
    }
}

/// Accepts until the core that takes the connections is gone.
fn accept(listener: &TcpListener, sender: &MailSender<(TcpStream, SocketAddr)>) {
    loop {
        match listener.accept() {
            Ok(accepted) => {
                if sender.send_blocking(accepted).is_err() {
                    return;
                }
            }
            Err(error) => {
                // Out of descriptors or a connection that ended meanwhile: both go away, and must not spin.
                warn!(%error, "a connection could not be accepted");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

/// Connections on their way to a core. Travels to that core.
#[derive(Debug)]
pub struct Accepted {
    sockets: Mailbox<(TcpStream, SocketAddr)>,
    address: SocketAddr,
    idle_close: Duration,
}

/// The listener's connections on their core: serves them, closes idle ones, and knows who is there.
pub struct Server {
    service: Rc<dyn Service>,
    connections: RefCell<HashMap<ConnectionId, Rc<Connection>>>,
    next_id: Cell<u64>,
    address: SocketAddr,
    held_total: Rc<HeldTotal>,
    /// Connections with answers that the kernel did not take at once.
    behind: RefCell<Vec<Rc<Connection>>>,
}

impl Server {
    /// Starts serving on this core.
    pub fn start(accepted: Accepted, service: Rc<dyn Service>) -> Rc<Self> {
        let server = Rc::new(Self {
            service,
            connections: RefCell::default(),
            next_id: Cell::new(1),
            address: accepted.address,
            held_total: Rc::default(),
            behind: RefCell::default(),
        });
        task::spawn(Rc::clone(&server).take_connections(accepted.sockets));
        task::spawn(Rc::clone(&server).close_slow());
        task::spawn(Rc::clone(&server).let_go_of_blocks());
        task::spawn(Rc::clone(&server.held_total).wake_rested());
        task::spawn(Rc::clone(&server).close_idle_connections(accepted.idle_close));
        server
    }

    /// Connections that are open.
    pub fn connection_count(&self) -> usize {
        self.connections.borrow().len()
    }

    /// Request bytes that are taken and not answered, over all connections.
    pub fn in_flight_bytes(&self) -> usize {
        self.connections.borrow().values().map(|connection| connection.in_flight_bytes.get()).sum()
    }

    /// Answers that are pushed and not yet handed to the kernel, bytes over all connections.
    pub fn unsent_bytes(&self) -> usize {
        self.connections.borrow().values().map(|connection| connection.output.borrow().bytes()).sum()
    }

    /// Requests that are being served and have to wait for something.
    pub fn deferred_requests(&self) -> usize {
        self.connections.borrow().values().filter(|connection| connection.is_deferring.get()).count()
    }

    async fn take_connections(self: Rc<Self>, sockets: Mailbox<(TcpStream, SocketAddr)>) {
        while let Some((socket, peer)) = sockets.receive().await {
            if self.connections.borrow().len() >= CONNECTIONS_MAX {
                warn!(%peer, "connection refused: {CONNECTIONS_MAX} are open on {}", self.address);
                continue;
            }
            if let Err(error) = socket.set_nodelay(true) {
                debug!(%peer, %error, "the connection ended before it was served");
                continue;
            }
            let id = ConnectionId(self.next_id.replace(self.next_id.get() + 1));
            let connection = Connection::new(id, peer, Rc::clone(&self.held_total));
            self.connections.borrow_mut().insert(id, Rc::clone(&connection));
            task::spawn(Rc::clone(&self).run(connection, Stream::new(socket)));
        }
    }

    async fn run(self: Rc<Self>, connection: Rc<Connection>, stream: Stream) {
        let mut driver = Driver {
            server: &self,
            connection: &connection,
            stream,
            input: BytesMut::new(),
            is_receiving: false,
            deferred: None,
        };
        let end = poll_fn(|context| driver.poll(context)).await;
        if let Some(rest) = driver.deferred.take() {
            // What was begun is ended: a topic half made would never get to the other shards.
            task::spawn(rest);
        }
        driver.stream.shutdown().await;
        connection.closed.set(true);
        connection.report_held();
        match end {
            End::ByPeer | End::ByUs => debug!(peer = %connection.peer, ?end, "connection ended"),
            End::Io(error) => debug!(peer = %connection.peer, %error, "connection broke"),
            End::Frame(error) => warn!(peer = %connection.peer, %error, "connection closed: not a frame"),
            End::Header(error) => {
                warn!(peer = %connection.peer, %error, "connection closed: unreadable header")
            }
        }
        self.connections.borrow_mut().remove(&connection.id);
        self.service.closed(&connection);
    }

    async fn close_idle_connections(self: Rc<Self>, idle_close: Duration) {
        loop {
            task::sleep(IDLE_SCAN_INTERVAL_MAX.min(idle_close / 4)).await;
            for connection in self.connections.borrow().values() {
                if connection.last_moved.get().elapsed() > idle_close {
                    connection.close();
                }
            }
        }
    }

    async fn close_slow(self: Rc<Self>) {
        let mut full_at = None;
        loop {
            task::sleep(held::SCAN_INTERVAL).await;
            for connection in self.connections.borrow().values() {
                let is_slow = connection.look();
                if is_slow && !connection.is_closed() {
                    let held_bytes = connection.held_bytes();
                    warn!(peer = %connection.peer, held_bytes, "connection closed: its peer does not take its answers, or does not go on \
                        with its request");
                    connection.close();
                }
            }
            let was_full_at = full_at;
            full_at = self.held_total.is_full().then(Instant::now);
            if let (Some(since), Some(_)) = (was_full_at, full_at) {
                self.close_stuck(since);
            }
        }
    }

    /// Closes connections that wait for the others in the middle of a request and were not read from since `since`, those first that were
    /// read from last the longest ago, until there is room for the rest of them: with nothing but fronts of requests in it, the sum would
    /// stay full for ever.
    fn close_stuck(&self, since: Instant) {
        let mut stuck: Vec<_> = {
            let connections = self.connections.borrow();
            connections.values().filter(|connection| connection.is_stuck(since)).map(Rc::clone).collect()
        };
        stuck.sort_unstable_by_key(|connection| connection.last_read());
        let mut to_free = self.held_total.short_of_bytes();
        for connection in stuck {
            if to_free == 0 {
                return;
            }
            let held_bytes = connection.held_bytes();
            warn!(peer = %connection.peer, held_bytes, "connection closed: it waited too long for room for the rest of its request");
            to_free = to_free.saturating_sub(held_bytes);
            connection.close();
        }
    }

    async fn let_go_of_blocks(self: Rc<Self>) {
        let mut before: Vec<Rc<Connection>> = Vec::new();
        loop {
            task::sleep(BEHIND_INTERVAL).await;
            let mut copied = 0;
            // Those that came into the list since the last time may just be busy.
            for connection in std::mem::replace(&mut before, self.behind.take()) {
                while !connection.is_closed() {
                    copied += connection.let_go_of_blocks(COPIED_BYTES_PER_TURN - copied);
                    if copied < COPIED_BYTES_PER_TURN {
                        break;
                    }
                    copied = 0;
                    task::yield_now().await;
                }
                if !connection.is_closed() && !connection.output.borrow().pieces.is_empty() {
                    self.behind.borrow_mut().push(connection);
                } else {
                    connection.is_behind.set(false);
                }
            }
        }
    }
}

/// Why a connection ended.
#[derive(Debug)]
enum End {
    ByPeer,
    ByUs,
    Io(io::Error),
    Frame(FrameError),
    Header(HeaderError),
}

/// The task of one connection: serves what arrived, writes what was pushed, reads what comes, in this order, until nothing
/// moves.
struct Driver<'a> {
    server: &'a Server,
    connection: &'a Rc<Connection>,
    stream: Stream,
    input: BytesMut,
    /// The stream has the front of the next request, and waits for more of it.
    is_receiving: bool,
    deferred: Option<Deferred>,
}

impl Driver<'_> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<End> {
        let polled = self.move_on(context);
        self.connection.report_held();
        polled
    }

    fn move_on(&mut self, context: &mut Context<'_>) -> Poll<End> {
        // What this very turn pushes is written by this very turn.
        self.connection.task.take();
        self.connection.is_held_back.set(false);
        self.connection.awaits_input.set(false);
        for _ in 0..READS_PER_TURN {
            if self.connection.closed.get() {
                return Poll::Ready(End::ByUs);
            }
            if let Err(end) = self.serve_input(context) {
                return Poll::Ready(end);
            }
            let was_held_back = !self.connection.may_serve();
            if let Poll::Ready(Err(error)) = self.write_output(context) {
                self.serve_last_input(context);
                return Poll::Ready(End::Io(error));
            }
            self.connection.task.replace(Some(context.waker().clone()));
            if self.deferred.is_some() {
                return Poll::Pending;
            }
            if !self.connection.may_read() {
                // It is woken when it has rested and when it holds less itself. When others do, only those hear of it that wait for that.
                self.connection.is_held_back.set(true);
                if self.connection.waits_for_others() && !self.connection.is_waiting.replace(true) {
                    self.server.held_total.wait(self.connection);
                }
                return Poll::Pending;
            }
            if was_held_back {
                // Whole frames may have arrived already: nothing else would wake this task for them.
                continue;
            }
            if let Err(end) = ready!(self.read_input(context)) {
                return Poll::Ready(end);
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Serves the whole frames that have arrived, up to the first that has to be waited for.
    fn serve_input(&mut self, context: &mut Context<'_>) -> Result<(), End> {
        loop {
            if let Some(deferred) = &mut self.deferred {
                if deferred.as_mut().poll(context).is_pending() {
                    return Ok(());
                }
                self.deferred = None;
                self.connection.is_deferring.set(false);
            }
            if !self.connection.may_serve() {
                self.note_input();
                return Ok(());
            }
            let Some(frame) = split_frame(&mut self.input).map_err(End::Frame)? else { break };
            self.deferred = self.server.service.serve(self.connection, &frame).map_err(End::Header)?;
            self.connection.is_deferring.set(self.deferred.is_some());
        }
        if self.input.is_empty() {
            // An idle connection holds no memory.
            self.input = BytesMut::new();
        }
        self.note_input();
        Ok(())
    }

    fn note_input(&self) {
        if !self.is_receiving {
            self.connection.input_bytes.set(self.input.capacity());
        }
    }

    /// Serves what arrived before the connection broke: a client that stops sends its offsets and goes, without reading what is under
    /// way to it.
    fn serve_last_input(&mut self, context: &mut Context<'_>) {
        self.stream.take_last(&mut self.input);
        if let Err(end) = self.serve_input(context) {
            debug!(peer = %self.connection.peer, ?end, "the last requests of a broken connection");
        }
    }

    fn write_output(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut output = self.connection.output.borrow_mut();
        loop {
            output.close_tail();
            if output.pieces_bytes == 0 {
                return Poll::Ready(Ok(()));
            }
            let Poll::Ready(sent) = self.stream.poll_send(context, &mut output.pieces) else {
                if !output.pieces.is_empty() && !self.connection.is_behind.replace(true) {
                    self.server.behind.borrow_mut().push(Rc::clone(self.connection));
                }
                return Poll::Pending;
            };
            let sent = sent?;
            self.connection.last_moved.set(Instant::now());
            self.connection.taken_bytes.set(self.connection.taken_bytes.get() + sent as u64);
            output.pieces_bytes -= sent;
        }
    }

    fn read_input(&mut self, context: &mut Context<'_>) -> Poll<Result<(), End>> {
        self.is_receiving = true;
        let Poll::Ready(received) = self.stream.poll_receive(context, &mut self.input) else {
            self.connection.awaits_input.set(true);
            return Poll::Pending;
        };
        self.is_receiving = false;
        match received {
            Ok(0) => Poll::Ready(Err(End::ByPeer)),
            Ok(received) => {
                self.connection.came_bytes.set(self.connection.came_bytes.get() + received as u64);
                self.connection.note_read(Instant::now());
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(End::Io(error))),
        }
    }
}

#[cfg(test)]
mod tests;
