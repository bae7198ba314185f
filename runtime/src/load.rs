//! How busy a core is: the time that it ran tasks against the time that it waited, and how long its turns were.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::meter::{Distribution, Meter, nanos};
use crate::ring::core::current;

/// What a core has done since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Load {
    /// Time with something to do, nanoseconds.
    pub busy_ns: u64,
    /// Time in which it waited in the kernel, or polled, with nothing to do, nanoseconds. 0 where the backend does not tell.
    pub waited_ns: u64,
    /// Times that it asked the kernel.
    pub kernel_entries: u64,
    /// How long tasks ran before the kernel was asked again, nanoseconds. Empty where the backend does not tell.
    pub turns: Distribution,
}

/// The load of the core that this is called on.
pub fn of_this_core() -> Load {
    match current() {
        Some(core) => core.load(),
        None => {
            let busy = glommio::executor().executor_stats().total_runtime();
            Load { busy_ns: nanos(busy), ..Load::default() }
        }
    }
}

/// Keeps a core's load. It costs no look at the clock that the loop does not take anyway.
#[derive(Debug, Default)]
pub(crate) struct LoadMeter {
    busy_ns: Cell<u64>,
    waited_ns: Cell<u64>,
    kernel_entries: Cell<u64>,
    turns: Meter,
}

impl LoadMeter {
    /// A turn began at `began`, perhaps ended at `waited_from` to wait, and now the next begins. `was_idle`: it ran no task.
    pub(crate) fn turn_ended(
        &self,
        began: Instant,
        waited_from: Option<Instant>,
        now: Instant,
        was_idle: bool,
    ) {
        let add = |sum: &Cell<u64>, time: Duration| sum.set(sum.get() + nanos(time));
        if was_idle {
            add(&self.waited_ns, now - began);
            return;
        }
        let ended = waited_from.unwrap_or(now);
        add(&self.busy_ns, ended - began);
        add(&self.waited_ns, now - ended);
        self.turns.record_time(ended - began);
    }

    pub(crate) fn entered_kernel(&self) {
        self.kernel_entries.set(self.kernel_entries.get() + 1);
    }

    pub(crate) fn load(&self) -> Load {
        Load {
            busy_ns: self.busy_ns.get(),
            waited_ns: self.waited_ns.get(),
            kernel_entries: self.kernel_entries.get(),
            turns: self.turns.distribution(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_either_busy_or_waited() {
        let meter = LoadMeter::default();
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        meter.turn_ended(start, None, after(3), false);
        meter.turn_ended(after(3), Some(after(4)), after(10), false);
        meter.turn_ended(after(10), None, after(15), true);
        let load = meter.load();
        assert_eq!((load.busy_ns, load.waited_ns), (4_000_000, 11_000_000));
        assert_eq!((load.turns.count(), load.turns.max), (2, 3_000_000));
    }
}
