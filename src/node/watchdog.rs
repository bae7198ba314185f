//! Sees cores that do not turn. Each core leaves a mark every few milliseconds; a thread off the cores looks at the marks. A core
//! that is late is logged with what it was doing, and the longest stall is kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use runtime::task;
use tracing::warn;

const MARK_INTERVAL: Duration = Duration::from_millis(50);
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// A core that leaves no mark for this long is reported. On a host whose CPUs are shared a few ticks are nothing unusual.
const REPORTED_STALL: Duration = Duration::from_millis(500);

/// What a core is doing, as far as it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Activity {
    Idle,
    ServingRequests,
    PlacingRecords,
    Committing,
}

impl Activity {
    const ALL: [Self; 4] = [Self::Idle, Self::ServingRequests, Self::PlacingRecords, Self::Committing];
}

/// The marks of one core. Written by that core, read by anyone.
#[derive(Debug)]
pub struct Turns {
    started: Instant,
    last_mark_ms: AtomicU64,
    longest_stall_ms: AtomicU64,
    activity: AtomicU8,
}

impl Turns {
    /// Marks of a core that starts now.
    pub fn start() -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            last_mark_ms: AtomicU64::new(0),
            longest_stall_ms: AtomicU64::new(0),
            activity: AtomicU8::new(Activity::Idle as u8),
        })
    }

    /// Leaves marks from now on. Runs on the core.
    pub async fn mark(self: Arc<Self>) {
        loop {
            self.last_mark_ms.store(self.now_ms(), Ordering::Relaxed);
            task::sleep(MARK_INTERVAL).await;
        }
    }

    /// Runs `work` under the name of `activity`.
    pub fn during<T>(&self, activity: Activity, work: impl FnOnce() -> T) -> T {
        // Only this core writes it: no need to lock the bus for an exchange, once per request.
        let before = self.activity.load(Ordering::Relaxed);
        self.activity.store(activity as u8, Ordering::Relaxed);
        let result = work();
        self.activity.store(before, Ordering::Relaxed);
        result
    }

    /// The longest time without a turn that was seen, milliseconds; 0 when never over the reported length.
    pub fn longest_stall_ms(&self) -> u64 {
        self.longest_stall_ms.load(Ordering::Relaxed)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn activity(&self) -> Activity {
        let activity = usize::from(self.activity.load(Ordering::Relaxed));
        Activity::ALL[activity]
    }

    /// Looks once: a stall that has grown past the reported length is returned when it is first seen.
    fn look(&self, reported: &mut bool) -> Option<Duration> {
        let late_ms = self.now_ms().saturating_sub(self.last_mark_ms.load(Ordering::Relaxed));
        let stall = Duration::from_millis(late_ms).saturating_sub(MARK_INTERVAL);
        if stall < REPORTED_STALL {
            *reported = false;
            return None;
        }
        self.longest_stall_ms
            .fetch_max(u64::try_from(stall.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        (!std::mem::replace(reported, true)).then_some(stall)
    }
}

/// Starts the thread that looks, for as long as the process lives.
///
/// # Errors
/// The system refuses another thread.
pub fn start(cores: Vec<Arc<Turns>>) -> std::io::Result<()> {
    std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
        let mut reported = vec![false; cores.len()];
        loop {
            std::thread::sleep(LOOK_INTERVAL);
            for (core, (turns, reported)) in cores.iter().zip(&mut reported).enumerate() {
                if let Some(stall) = turns.look(reported) {
                    warn!(core, stall_ms = stall.as_millis(), activity = ?turns.activity(), "the core does not turn");
                }
            }
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_reported_once_with_what_ran() {
        let turns = Turns {
            started: Instant::now().checked_sub(Duration::from_secs(10)).unwrap(),
            last_mark_ms: AtomicU64::new(9_900),
            longest_stall_ms: AtomicU64::new(0),
            activity: AtomicU8::new(Activity::Idle as u8),
        };
        let mut reported = false;
        assert_eq!(turns.look(&mut reported), None, "a mark 100 ms ago is fine");
        turns.last_mark_ms.store(2_000, Ordering::Relaxed);
        turns.during(Activity::Committing, || {
            assert!(turns.look(&mut reported).unwrap() >= Duration::from_secs(7));
            assert_eq!(turns.activity(), Activity::Committing);
        });
        assert_eq!(turns.look(&mut reported), None, "the same stall is not reported again");
        assert!(turns.longest_stall_ms() >= 7_000);
        assert_eq!(turns.activity(), Activity::Idle);
    }
}
