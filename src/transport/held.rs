//! What the connections of one listener hold of the node's memory, all together, and which of them do not get on. Serve core.
//!
//! A connection holds what it was sent and has not been answered, answers that its peer has not taken, and the front of a request that
//! is not whole yet. One alone may hold [`CONNECTION_IN_FLIGHT_BYTES_MAX`]; all together [`CONNECTIONS_HELD_BYTES_MAX`]: beyond that
//! only those are read from that hold no more than [`CONNECTION_SHARE_BYTES`], which is what clients need that read and write. A peer
//! that is behind with [`LAG_BYTES_PER_SCAN`] for [`LAG_SCANS_MAX`] looks in a row is closed; when memory is short, after the first. When
//! the sum is full at two looks in a row, fronts of requests of which nothing was read in between go, until memory is not short any more.
//!
//! The sum is no bound of what is held: on top of it comes, for each connection, its share, the one request or answer with which it goes
//! beyond that, and what its socket receives before it is told to stop. Against a crowd that does all this there are only the looks.
//!
//! [`CONNECTION_IN_FLIGHT_BYTES_MAX`]: shards::limits::CONNECTION_IN_FLIGHT_BYTES_MAX

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use runtime::task::{self, Signal};
use shards::limits::{CONNECTION_SHARE_BYTES, CONNECTIONS_HELD_BYTES_MAX};

/// How often connections are looked at.
pub(super) const SCAN_INTERVAL: Duration = Duration::from_secs(10);
/// What a peer has to take of its answers, or to send of its request, between two looks, bytes: a kibibyte a second.
const LAG_BYTES_PER_SCAN: u64 = 10 << 10;
/// Looks in a row at which a peer may be behind: it is closed 60 to 70 s after it got on last.
const LAG_SCANS_MAX: u8 = 6;
/// How long nothing is served of a connection after a refusal because this node is busy. Refusing as fast as requests come takes the
/// CPU time in which what was accepted could be stored.
const REST: Duration = Duration::from_millis(5);
/// What a peer that is behind may hold when memory is short.
const LAG_HELD_BYTES_MAX: usize = 16 << 10;

/// The sum over the connections of a listener.
#[derive(Debug, Default)]
pub(super) struct HeldTotal {
    bytes: Cell<usize>,
    /// Tasks of connections that are not read from because of the others.
    waiting: RefCell<Vec<Rc<super::Connection>>>,
    /// Connections that rest, and whether there are any.
    resting: RefCell<Vec<Rc<super::Connection>>>,
    rests: Signal,
}

impl HeldTotal {
    /// Takes note that a connection which held `before` holds `now`; wakes those that waited for room.
    pub(super) fn change(&self, before: usize, now: usize) {
        self.bytes.set(self.bytes.get() - before + now);
        if now < before && !self.is_full() && !self.waiting.borrow().is_empty() {
            for connection in self.waiting.take() {
                connection.is_waiting.set(false);
                connection.wake();
            }
        }
    }

    /// Whether a connection may hold `own` bytes of which `reported` are in the sum.
    pub(super) fn allows(&self, reported: usize, own: usize) -> bool {
        own <= CONNECTION_SHARE_BYTES || self.bytes.get() - reported + own <= CONNECTIONS_HELD_BYTES_MAX
    }

    /// Lets a connection rest that was refused because this node is busy.
    pub(super) fn rest(&self, connection: Rc<super::Connection>) {
        self.resting.borrow_mut().push(connection);
        self.rests.raise();
    }

    /// Wakes connections when they have rested, as long as the core turns.
    pub(super) async fn wake_rested(self: Rc<Self>) {
        loop {
            self.rests.wait().await;
            task::sleep(REST).await;
            for connection in self.resting.take() {
                connection.rests.set(false);
                connection.wake();
            }
        }
    }

    /// Whether there is so little room that peers which are behind have to go.
    pub(super) fn is_short(&self) -> bool {
        self.short_of_bytes() > 0
    }

    /// Whether there is no more room but for shares.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.get() > CONNECTIONS_HELD_BYTES_MAX
    }

    /// What has to be freed until memory is not short any more, bytes.
    pub(super) fn short_of_bytes(&self) -> usize {
        self.bytes.get().saturating_sub(CONNECTIONS_HELD_BYTES_MAX / 2)
    }

    /// Wakes the connection, once, when there is room.
    pub(super) fn wait(&self, connection: &Rc<super::Connection>) {
        self.waiting.borrow_mut().push(Rc::clone(connection));
    }
}

/// How far a connection was when it was looked at last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Bytes that its peer has taken, and that came from it, since it was opened.
    pub(super) taken: u64,
    pub(super) came: u64,
    /// There are answers that the peer has not taken, or the front of a request whose rest we wait for. What we do not read, it does not
    /// owe.
    pub(super) owes_taking: bool,
    pub(super) owes_sending: bool,
}

/// A connection at its looks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Looks {
    last: Progress,
    behind: u8,
}

impl Looks {
    /// Looks at a connection that holds `held` bytes. Whether it is to be closed because its peer does not get on.
    pub(super) fn look(&mut self, now: Progress, held: usize, is_short: bool) -> bool {
        let last = std::mem::replace(&mut self.last, now);
        let is_slow = |owes: bool, moved: u64| owes && moved < LAG_BYTES_PER_SCAN;
        let is_behind = is_slow(last.owes_taking && now.owes_taking, now.taken - last.taken)
            || is_slow(last.owes_sending && now.owes_sending, now.came - last.came);
        self.behind = if is_behind { self.behind.saturating_add(1) } else { 0 };
        self.behind >= LAG_SCANS_MAX || is_behind && is_short && held > LAG_HELD_BYTES_MAX
    }
}

const _: () = assert!(CONNECTION_SHARE_BYTES > LAG_HELD_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    const DEAF: Progress = Progress { taken: 5, came: 100, owes_taking: true, owes_sending: false };

    /// Looks that it takes until the connection is closed; `None` when it never is.
    fn looks(is_short: bool, held: usize, progress: impl Fn(u64) -> Progress) -> Option<u64> {
        let mut looks = Looks::default();
        (1..100).find(|number| looks.look(progress(*number), held, is_short))
    }

    #[test]
    fn a_peer_that_takes_nothing_is_closed_and_sooner_when_memory_is_short() {
        assert_eq!(looks(false, 1 << 20, |_| DEAF), Some(7));
        assert_eq!(looks(true, 1 << 20, |_| DEAF), Some(2));
        assert_eq!(looks(true, 1000, |_| DEAF), Some(7), "it holds next to nothing");
    }

    #[test]
    fn a_byte_a_second_is_not_enough_and_neither_are_requests_instead() {
        assert_eq!(looks(false, 1 << 20, |number| Progress { taken: 10 * number, ..DEAF }), Some(7));
        assert_eq!(looks(false, 1 << 20, |number| Progress { came: number << 20, ..DEAF }), Some(7));
        let half = |number| Progress { came: number, owes_sending: true, owes_taking: false, taken: 0 };
        assert_eq!(looks(false, 1 << 20, half), Some(7));
    }

    #[test]
    fn a_slow_peer_that_gets_on_and_an_idle_one_stay() {
        assert_eq!(looks(true, 32 << 20, |number| Progress { taken: number * (20 << 10), ..DEAF }), None);
        assert_eq!(looks(true, 0, |_| Progress { owes_taking: false, ..DEAF }), None);
        // Behind at most looks, but never at so many in a row.
        let now_and_then = |number| Progress { taken: number / 5 * (20 << 10), ..DEAF };
        assert_eq!(looks(false, 1 << 20, now_and_then), None);
    }

    #[test]
    fn beyond_the_sum_only_those_are_read_from_that_hold_their_share() {
        let total = HeldTotal::default();
        assert!(total.allows(0, 32 << 20));
        total.change(0, CONNECTIONS_HELD_BYTES_MAX);
        assert!(total.is_short());
        assert!(total.allows(0, CONNECTION_SHARE_BYTES));
        assert!(!total.allows(0, CONNECTION_SHARE_BYTES + 1));
        assert!(total.allows(CONNECTIONS_HELD_BYTES_MAX, CONNECTIONS_HELD_BYTES_MAX), "it is its own");
        total.change(CONNECTIONS_HELD_BYTES_MAX, 0);
        assert!(!total.is_short() && total.allows(0, CONNECTION_SHARE_BYTES + 1));
    }
}
