//! Pull requests that found nothing and wait for a message: long polling.
//!
//! Serve core. A pull is held under its (topic, queue) and leaves in one of three ways: a message that its filter lets through
//! arrives ([`HeldPulls::arrived`]), its time is over ([`HeldPulls::take_due`]), or its connection ends. An arrival costs one lookup, and nothing at all while nobody waits; deadlines are ordered, so that waiting costs nothing
//! until the first is due. At most [`HELD_PULLS_MAX`] are held.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::time::Instant;

use hashbrown::{Equivalent, HashMap};
use runtime::task::Signal;
use shards::limits::HELD_PULLS_MAX;
use shards::message_store::TagFilter;
use shards::position::QueueOffset;
use smallvec::SmallVec;

use crate::metrics::traffic::GroupTraffic;
use crate::remoting::body::topic::TopicConfig;
use crate::remoting::response::ReplyTo;
use crate::transport::{Connection, ConnectionId};

/// A pull request with everything that is needed to run it again.
#[derive(Clone, Debug)]
pub struct HeldPull {
    pub connection: Rc<Connection>,
    pub reply_to: ReplyTo,
    /// As the topic was when the request came.
    pub topic: Rc<TopicConfig>,
    pub queue_id: u32,
    pub offset: QueueOffset,
    pub messages_max: u32,
    pub bytes_max: usize,
    pub filter: TagFilter,
    /// Told with the answer.
    pub group_sys_flag: i32,
    /// Where what it gets is counted.
    pub traffic: Rc<GroupTraffic>,
}

/// A message that can be read from now on.
#[derive(Clone, Copy, Debug)]
pub struct NewMessage<'a> {
    pub topic: &'a str,
    pub queue_id: u32,
    pub queue_offset: QueueOffset,
    pub tags_code: i64,
    /// The encoded property string.
    pub properties: &'a [u8],
}

/// All held pulls of one shard.
#[derive(Debug, Default)]
pub struct HeldPulls {
    pulls: HashMap<PullId, Held>,
    by_queue: HashMap<QueueKey, SmallVec<[PullId; 4]>>,
    by_deadline: BTreeSet<(Instant, PullId)>,
    by_connection: BTreeSet<(ConnectionId, PullId)>,
    next_id: PullId,
    deadline_moved: Rc<Signal>,
}

type PullId = u64;

#[derive(Debug)]
struct Held {
    pull: HeldPull,
    deadline: Instant,
}

impl HeldPulls {
    /// How many are held.
    pub fn len(&self) -> usize {
        self.pulls.len()
    }

    pub fn is_empty(&self) -> bool {
        self.pulls.is_empty()
    }

    /// Raised when [`Self::next_deadline`] has become earlier than it was. One task waits for it.
    pub fn deadline_moved(&self) -> Rc<Signal> {
        Rc::clone(&self.deadline_moved)
    }

    /// Holds `pull` until a message arrives for it, at the latest until `deadline`.
    ///
    /// # Errors
    /// Gives the pull back when [`HELD_PULLS_MAX`] are held: it must be answered at once.
    pub fn hold(&mut self, pull: HeldPull, deadline: Instant) -> Result<(), HeldPull> {
        if self.pulls.len() >= HELD_PULLS_MAX {
            return Err(pull);
        }
        let id = self.next_id;
        self.next_id += 1;
        let is_first = self.next_deadline().is_none_or(|first| deadline < first);
        self.by_deadline.insert((deadline, id));
        self.by_connection.insert((pull.connection.id(), id));
        let queue = pull.queue();
        match self.by_queue.get_mut(&queue) {
            Some(ids) => ids.push(id),
            None => {
                let queue = QueueKey { topic: Rc::clone(&pull.topic), queue_id: pull.queue_id };
                self.by_queue.insert(queue, SmallVec::from_elem(id, 1));
            }
        }
        self.pulls.insert(id, Held { pull, deadline });
        if is_first {
            self.deadline_moved.raise();
        }
        Ok(())
    }

    /// Moves the pulls that `message` satisfies to `woken`. Whoever is woken sees all that has arrived when it runs, so call
    /// this for every message of a commit first and run the woken afterwards.
    pub fn arrived(&mut self, message: NewMessage<'_>, woken: &mut Vec<HeldPull>) {
        if self.pulls.is_empty() {
            return;
        }
        let queue = QueueRef { topic: message.topic, queue_id: message.queue_id };
        let Some(ids) = self.by_queue.get_mut(&queue) else { return };
        let pulls = &mut self.pulls;
        let (by_deadline, by_connection) = (&mut self.by_deadline, &mut self.by_connection);
        ids.retain(|id| {
            let pull = &pulls.get(id).expect("a queue lists only held pulls").pull;
            if message.queue_offset < pull.offset
                || !pull.filter.matches_message(message.tags_code, message.properties)
            {
                return true;
            }
            let held = pulls.remove(id).expect("looked up just now");
            by_deadline.remove(&(held.deadline, *id));
            by_connection.remove(&(held.pull.connection.id(), *id));
            woken.push(held.pull);
            false
        });
        if ids.is_empty() {
            self.by_queue.remove(&queue);
        }
    }

    /// When the first pull has waited long enough; `None` while none is held.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.by_deadline.first().map(|(deadline, _)| *deadline)
    }

    /// Takes a pull whose time is over at `now`, the most overdue first.
    pub fn take_due(&mut self, now: Instant) -> Option<HeldPull> {
        let (deadline, id) = *self.by_deadline.first()?;
        (deadline <= now).then(|| self.remove(id))
    }

    /// Forgets the pulls of a connection that has ended.
    pub fn connection_closed(&mut self, connection: ConnectionId) {
        loop {
            let first = self.by_connection.range((connection, 0)..=(connection, PullId::MAX)).next();
            let Some(&(_, id)) = first else { return };
            self.remove(id);
        }
    }

    fn remove(&mut self, id: PullId) -> HeldPull {
        let Held { pull, deadline } = self.pulls.remove(&id).expect("the orders list only held pulls");
        self.by_deadline.remove(&(deadline, id));
        self.by_connection.remove(&(pull.connection.id(), id));
        let queue = pull.queue();
        let ids = self.by_queue.get_mut(&queue).expect("a held pull is listed under its queue");
        ids.retain(|other| *other != id);
        if ids.is_empty() {
            self.by_queue.remove(&queue);
        }
        pull
    }
}

impl HeldPull {
    fn queue(&self) -> QueueRef<'_> {
        QueueRef { topic: &self.topic.topic_name, queue_id: self.queue_id }
    }
}

/// A queue with pulls. Holds the configuration of its topic for the name alone: nothing is allocated for a pull that is held.
#[derive(Debug)]
struct QueueKey {
    topic: Rc<TopicConfig>,
    queue_id: u32,
}

impl PartialEq for QueueKey {
    fn eq(&self, other: &Self) -> bool {
        self.queue_id == other.queue_id && self.topic.topic_name == other.topic.topic_name
    }
}

impl Eq for QueueKey {}

/// A [`QueueKey`] that owns nothing, so that an arrival is looked up without an allocation.
struct QueueRef<'a> {
    topic: &'a str,
    queue_id: u32,
}

impl Hash for QueueKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        QueueRef { topic: &self.topic.topic_name, queue_id: self.queue_id }.hash(state);
    }
}

impl Hash for QueueRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.topic.hash(state);
        self.queue_id.hash(state);
    }
}

impl Equivalent<QueueKey> for QueueRef<'_> {
    fn equivalent(&self, key: &QueueKey) -> bool {
        self.queue_id == key.queue_id && self.topic == key.topic.topic_name
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::traffic::Traffic;
    use crate::remoting::frame::SerializeType;

    fn pull(connection: u64, topic: &str, queue_id: u32, offset: u64, filter: TagFilter) -> HeldPull {
        let peer = "127.0.0.1:4000".parse().expect("an address");
        HeldPull {
            connection: Connection::detached(ConnectionId(connection), peer),
            reply_to: ReplyTo { opaque: 1, serialize_type: SerializeType::Json, oneway: false },
            topic: Rc::new(TopicConfig { topic_name: topic.to_owned(), ..TopicConfig::default() }),
            queue_id,
            offset: QueueOffset::new(offset),
            messages_max: 32,
            bytes_max: 1024,
            filter,
            group_sys_flag: 0,
            traffic: Traffic::default().group(topic, "g", || false),
        }
    }

    fn message(topic: &str, queue_id: u32, offset: u64, tags_code: i64) -> NewMessage<'_> {
        NewMessage { topic, queue_id, queue_offset: QueueOffset::new(offset), tags_code, properties: &[] }
    }

    fn is_consistent(held: &HeldPulls) -> bool {
        let listed: usize = held.by_queue.values().map(SmallVec::len).sum();
        let none_empty = held.by_queue.values().all(|ids| !ids.is_empty());
        none_empty
            && listed == held.len()
            && held.by_deadline.len() == held.len()
            && held.by_connection.len() == held.len()
    }

    #[test]
    fn an_arrival_wakes_only_the_pulls_of_its_queue_whose_filter_and_offset_fit() {
        let mut held = HeldPulls::default();
        let deadline = Instant::now() + Duration::from_secs(15);
        held.hold(pull(1, "t", 0, 5, TagFilter::All), deadline).expect("room");
        held.hold(pull(2, "t", 0, 5, TagFilter::Codes(vec![7])), deadline).expect("room");
        held.hold(pull(3, "t", 1, 5, TagFilter::All), deadline).expect("room");
        held.hold(pull(4, "t", 0, 9, TagFilter::All), deadline).expect("room");
        let mut woken = Vec::new();
        held.arrived(message("t", 0, 5, 8), &mut woken);
        let ids: Vec<u64> = woken.iter().map(|pull| pull.connection.id().0).collect();
        assert_eq!(ids, [1]);
        held.arrived(message("t", 0, 6, 7), &mut woken);
        let ids: Vec<u64> = woken.iter().map(|pull| pull.connection.id().0).collect();
        assert_eq!(ids, [1, 2], "a pull is woken once");
        assert_eq!(held.len(), 2);
        assert!(is_consistent(&held));
    }

    #[test]
    fn pulls_time_out_in_the_order_of_their_deadlines_and_not_before() {
        let mut held = HeldPulls::default();
        let start = Instant::now();
        for (connection, seconds) in [(1, 20), (2, 5), (3, 15)] {
            held.hold(pull(connection, "t", 0, 0, TagFilter::All), start + Duration::from_secs(seconds))
                .expect("room");
        }
        assert_eq!(held.next_deadline(), Some(start + Duration::from_secs(5)));
        assert!(held.take_due(start + Duration::from_millis(4_999)).is_none());
        let now = start + Duration::from_secs(15);
        assert_eq!(held.take_due(now).expect("due").connection.id().0, 2);
        assert_eq!(held.take_due(now).expect("due").connection.id().0, 3);
        assert!(held.take_due(now).is_none());
        assert!(is_consistent(&held));
    }

    #[test]
    fn a_closed_connection_leaves_nothing_behind() {
        let mut held = HeldPulls::default();
        let deadline = Instant::now();
        for queue_id in 0..100 {
            held.hold(pull(1, "t", queue_id, 0, TagFilter::All), deadline).expect("room");
            held.hold(pull(2, "t", queue_id, 0, TagFilter::All), deadline).expect("room");
        }
        held.connection_closed(ConnectionId(1));
        assert_eq!(held.len(), 100);
        assert!(is_consistent(&held));
        held.connection_closed(ConnectionId(2));
        assert!(held.is_empty() && held.by_queue.is_empty() && held.next_deadline().is_none());
    }

    #[test]
    fn a_pull_beyond_the_limit_is_given_back() {
        let mut held = HeldPulls::default();
        let deadline = Instant::now();
        let one = pull(1, "t", 0, 0, TagFilter::All);
        for _ in 0..HELD_PULLS_MAX {
            held.hold(one.clone(), deadline).expect("room");
        }
        assert!(held.hold(one.clone(), deadline).is_err());
        held.take_due(deadline).expect("many are held");
        assert!(held.hold(one, deadline).is_ok());
    }
}
