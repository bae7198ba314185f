//! What is to happen, in the order of the simulated clock; what falls on the same instant, in the order in which it was put in.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Things of kind `E` with their times, microseconds since the start of the simulation.
#[derive(Debug)]
pub struct EventQueue<E> {
    heap: BinaryHeap<Scheduled<E>>,
    now_us: u64,
    put_in: u64,
}

#[derive(Debug)]
struct Scheduled<E> {
    at_us: u64,
    number: u64,
    event: E,
}

impl<E> Default for EventQueue<E> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), now_us: 0, put_in: 0 }
    }
}

impl<E> EventQueue<E> {
    /// The time of the event that was taken last.
    pub fn now_us(&self) -> u64 {
        self.now_us
    }

    /// Lets `event` happen at `at_us`, now at the earliest.
    pub fn put(&mut self, at_us: u64, event: E) {
        self.put_in += 1;
        self.heap.push(Scheduled { at_us: at_us.max(self.now_us), number: self.put_in, event });
    }

    /// Takes the next event, unless it is later than `until_us`; the clock then stands at its time, or at `until_us`.
    pub fn take(&mut self, until_us: u64) -> Option<E> {
        if self.heap.peek().is_none_or(|next| next.at_us > until_us) {
            self.now_us = self.now_us.max(until_us);
            return None;
        }
        let next = self.heap.pop()?;
        assert!(next.at_us >= self.now_us, "time does not go back");
        self.now_us = next.at_us;
        Some(next.event)
    }
}

impl<E> Ord for Scheduled<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap gives the greatest first.
        (other.at_us, other.number).cmp(&(self.at_us, self.number))
    }
}

impl<E> PartialOrd for Scheduled<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Scheduled<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Scheduled<E> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_as_they_were_put_in() {
        let mut queue = EventQueue::default();
        for (at_us, event) in [(5, 'b'), (1, 'a'), (5, 'c'), (9, 'd')] {
            queue.put(at_us, event);
        }
        let taken: Vec<_> = std::iter::from_fn(|| queue.take(5)).collect();
        assert_eq!(taken, ['a', 'b', 'c']);
        assert_eq!(queue.now_us(), 5);
        queue.put(2, 'e');
        assert_eq!(queue.take(100), Some('e'), "what is put in late happens now");
        assert_eq!((queue.take(8), queue.now_us()), (None, 8));
    }
}
