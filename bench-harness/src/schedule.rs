//! When messages are to be sent. Open loop: at times fixed beforehand, whatever the broker does; a message that leaves late is
//! counted from the time at which it should have left (so a stall of the broker shows up in every message that it held up, not only in
//! those in flight). Closed loop: when the answer to an earlier one has come.

use std::collections::VecDeque;

/// A send that leaves this much after its intended time counts as late.
pub const LATE_NS: u64 = 1_000_000;

/// The intended times of one thread's share of an open-loop run, and which of them are still to be sent.
///
/// Invariant: `handed_out <= next`; times in `waiting` lie before `next`'s time and are in order.
#[derive(Debug)]
pub struct OpenSchedule {
    rate_per_second: f64,
    /// This thread sends the messages `share`, `share + shares`, …
    share: u64,
    shares: u64,
    end_ns: u64,
    next: u64,
    waiting: VecDeque<u64>,
    late: u64,
}

impl OpenSchedule {
    /// The part `share` of `shares` of a schedule of `rate_per_second` sends that ends at `end_ns`.
    pub fn new(rate_per_second: f64, share: u64, shares: u64, end_ns: u64) -> Self {
        assert!(rate_per_second > 0.0 && share < shares);
        Self { rate_per_second, share, shares, end_ns, next: 0, waiting: VecDeque::new(), late: 0 }
    }

    /// The intended time of this share's send number `index`. Computed from the index, so that rounding does not add up.
    fn time_of(&self, index: u64) -> u64 {
        let position = (index * self.shares + self.share) as f64;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a positive time within the run"
        )]
        let ns = (position * 1e9 / self.rate_per_second) as u64;
        ns
    }

    /// When the next send becomes due; `None` when the schedule has ended.
    pub fn next_time(&self) -> Option<u64> {
        Some(self.time_of(self.next)).filter(|time| *time < self.end_ns)
    }

    /// Moves everything that is due at `now_ns` to the sends that wait for a place.
    pub fn advance(&mut self, now_ns: u64) {
        while let Some(time) = self.next_time().filter(|time| *time <= now_ns) {
            self.waiting.push_back(time);
            self.next += 1;
        }
    }

    /// Whether a send is due that has not been taken.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Takes the intended time of the oldest send that waits; the caller sends it at `now_ns`.
    pub fn take(&mut self, now_ns: u64) -> Option<u64> {
        let time = self.waiting.pop_front()?;
        self.late += u64::from(now_ns.saturating_sub(time) > LATE_NS);
        Some(time)
    }

    /// Sends that left more than [`LATE_NS`] after their time.
    pub fn late(&self) -> u64 {
        self.late
    }

    /// The intended times of the sends that were due before the end and never left. Asked once, after the end.
    pub fn missed(&mut self) -> Vec<u64> {
        self.advance(self.end_ns);
        std::mem::take(&mut self.waiting).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_together_are_the_whole_schedule() {
        let mut times = Vec::new();
        for share in 0..3 {
            let mut schedule = OpenSchedule::new(1000.0, share, 3, 1_000_000_000);
            schedule.advance(2_000_000_000);
            while let Some(time) = schedule.take(2_000_000_000) {
                times.push(time);
            }
        }
        times.sort_unstable();
        let wanted: Vec<u64> = (0..1000).map(|i| i * 1_000_000).collect();
        assert_eq!(times, wanted);
    }

    #[test]
    fn what_could_not_leave_is_late_and_what_never_left_is_missed() {
        let mut schedule = OpenSchedule::new(1000.0, 0, 1, 10_000_000);
        schedule.advance(0);
        assert_eq!(schedule.take(500_000), Some(0));
        assert_eq!(schedule.late(), 0);
        schedule.advance(5_000_000);
        assert_eq!(schedule.take(5_000_000), Some(1_000_000));
        assert_eq!(schedule.late(), 1);
        assert_eq!(schedule.missed(), (2..10).map(|i| i * 1_000_000).collect::<Vec<_>>());
    }

    #[test]
    fn rounding_does_not_drift() {
        let mut schedule = OpenSchedule::new(3333.0, 0, 1, 3_600_000_000_000);
        schedule.advance(3_600_000_000_000);
        assert_eq!(schedule.missed().len(), 3333 * 3600);
    }
}
