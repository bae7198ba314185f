//! Locks that ordered consumers hold on queues. In memory only, as in RocketMQ: after a restart whoever asks first gets a queue.
//!
//! A lock is a lease of 60 s that its owner renews by asking again; clients believe in theirs for 30 s, so that a new owner
//! never meets the old one.

use std::collections::HashMap;

use shards::limits::QUEUE_LOCKS_MAX;

use crate::remoting::body::queue::MessageQueue;

/// How long a lock lives after it was last asked for, milliseconds.
pub const LEASE_MS: i64 = 60_000;

/// Who holds a queue, and since when the lease runs.
#[derive(Debug)]
struct Lease {
    client_id: String,
    renewed_ms: i64,
}

impl Lease {
    fn is_expired(&self, now_ms: i64) -> bool {
        now_ms - self.renewed_ms > LEASE_MS
    }
}

/// Locks by group and queue. Queues are told apart by topic, broker name and id, as clients name them.
#[derive(Debug, Default)]
pub struct QueueLockTable {
    groups: HashMap<String, HashMap<MessageQueue, Lease>>,
    count: usize,
}

impl QueueLockTable {
    /// Locks those of `queues` that are free, expired or already `client_id`'s, and returns them.
    pub fn lock(
        &mut self,
        group: &str,
        client_id: &str,
        queues: &[MessageQueue],
        now_ms: i64,
    ) -> Vec<MessageQueue> {
        let leases = self.groups.entry(group.to_owned()).or_default();
        let mut granted = Vec::with_capacity(queues.len());
        for queue in queues {
            match leases.get_mut(queue) {
                Some(lease) if lease.client_id == client_id => lease.renewed_ms = now_ms,
                Some(lease) if !lease.is_expired(now_ms) => continue,
                None if self.count >= QUEUE_LOCKS_MAX => continue,
                _ => {
                    let lease = Lease { client_id: client_id.to_owned(), renewed_ms: now_ms };
                    self.count += usize::from(leases.insert(queue.clone(), lease).is_none());
                }
            }
            granted.push(queue.clone());
        }
        if leases.is_empty() {
            self.groups.remove(group);
        }
        granted
    }

    /// Gives up those of `queues` that are `client_id`'s; those of others stay as they are.
    pub fn unlock(&mut self, group: &str, client_id: &str, queues: &[MessageQueue]) {
        let Some(leases) = self.groups.get_mut(group) else { return };
        for queue in queues {
            if leases.get(queue).is_some_and(|lease| lease.client_id == client_id) {
                leases.remove(queue);
                self.count -= 1;
            }
        }
        if leases.is_empty() {
            self.groups.remove(group);
        }
    }

    /// Whether anyone of the group holds a lock: then the group consumes in order, and a message that it sends back by an
    /// ordinary send goes to its dead-letter topic.
    pub fn is_any_held(&self, group: &str, now_ms: i64) -> bool {
        self.groups.get(group).is_some_and(|leases| leases.values().any(|lease| !lease.is_expired(now_ms)))
    }

    /// Forgets leases that ran out.
    pub fn expire(&mut self, now_ms: i64) {
        self.groups.retain(|_, leases| {
            leases.retain(|_, lease| !lease.is_expired(now_ms));
            !leases.is_empty()
        });
        self.count = self.groups.values().map(HashMap::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queues<const N: usize>(ids: [i32; N]) -> Vec<MessageQueue> {
        ids.map(|queue_id| MessageQueue { topic: "T".to_owned(), broker_name: "b".to_owned(), queue_id })
            .to_vec()
    }

    #[test]
    fn a_queue_has_one_owner_until_its_lease_ends() {
        let mut locks = QueueLockTable::default();
        assert_eq!(locks.lock("g", "a", &queues([0, 1]), 0), queues([0, 1]));
        assert_eq!(locks.lock("g", "b", &queues([0, 1, 2]), 1_000), queues([2]));
        assert_eq!(locks.lock("h", "b", &queues([0]), 1_000), queues([0]), "another group does not care");
        assert_eq!(locks.lock("g", "b", &queues([0]), LEASE_MS), [], "the lease ends after 60 s, not at");
        assert_eq!(locks.lock("g", "b", &queues([0]), LEASE_MS + 1), queues([0]));
        assert_eq!(locks.lock("g", "a", &queues([0]), LEASE_MS + 2), [], "the old owner lost it");
    }

    #[test]
    fn asking_again_renews() {
        let mut locks = QueueLockTable::default();
        locks.lock("g", "a", &queues([0]), 0);
        locks.lock("g", "a", &queues([0]), 50_000);
        assert_eq!(locks.lock("g", "b", &queues([0]), 100_000), []);
    }

    #[test]
    fn only_the_owner_unlocks() {
        let mut locks = QueueLockTable::default();
        locks.lock("g", "a", &queues([0, 1]), 0);
        locks.unlock("g", "b", &queues([0, 1]));
        assert!(locks.is_any_held("g", 1));
        locks.unlock("g", "a", &queues([0]));
        assert_eq!(locks.lock("g", "b", &queues([0, 1]), 2), queues([0]));
        locks.unlock("g", "a", &queues([1]));
        locks.unlock("g", "b", &queues([0]));
        assert!(!locks.is_any_held("g", 3));
        assert!(locks.groups.is_empty() && locks.count == 0);
    }

    #[test]
    fn expired_leases_are_forgotten_and_do_not_count_as_held() {
        let mut locks = QueueLockTable::default();
        locks.lock("g", "a", &queues([0]), 0);
        assert!(!locks.is_any_held("g", LEASE_MS + 1));
        locks.expire(LEASE_MS);
        assert!(!locks.groups.is_empty());
        locks.expire(LEASE_MS + 1);
        assert!(locks.groups.is_empty());
    }
}
