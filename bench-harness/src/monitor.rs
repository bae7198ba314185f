//! Watches a run from the main thread: takes processor time at the ends of the measured window, and shows
//! progress.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::clock::{RunClock, duration_ns};
use crate::process_cpu::{Usage, own_usage, usage_of};
use crate::tally::Counts;

/// How often the run is looked at when it may end at any moment.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What to watch.
#[derive(Clone, Debug)]
pub struct Watch {
    /// The measured window begins here …
    pub warmup: Duration,
    /// … and ends here, or with the run.
    pub end: Option<Duration>,
    pub broker_pids: Vec<u32>,
    /// Processes that send in the place of this one: what they use counts as its own.
    pub client_pids: Vec<u32>,
    /// A line of progress each second.
    pub progress: bool,
}

/// What was seen in the measured window.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    pub seconds: f64,
    pub messages: u64,
    pub broker_cpu_seconds: f64,
    pub own_cpu_seconds: f64,
    pub broker_resident_bytes_max: u64,
}

/// Everything that is read at one moment.
#[derive(Clone, Copy, Debug)]
struct Reading {
    at: Instant,
    messages: u64,
    broker: Usage,
    own: Usage,
}

/// Whether progress is to be shown: when asked for, or when somebody looks at standard error.
pub fn shows_progress(asked: bool) -> bool {
    asked || std::io::stderr().is_terminal()
}

/// Watches until the window has ended or the run has.
pub fn watch(
    clock: RunClock,
    watch: &Watch,
    counts: impl Fn() -> Counts,
    is_finished: impl Fn() -> bool,
) -> Observed {
    let read = || Reading {
        at: Instant::now(),
        messages: counts().messages,
        broker: usage_of(&watch.broker_pids),
        own: own_usage().and(usage_of(&watch.client_pids)),
    };
    let mut observed = Observed::default();
    let mut progress = Progress::new(watch.progress);

    wait_until(clock.instant_at(0), || false);
    let mut begin = read();
    let mut in_warmup = !watch.warmup.is_zero();
    let mut before = begin.messages;
    let mut last_broker = begin.broker;
    for second in 1.. {
        let tick = Duration::from_secs(second);
        if in_warmup && watch.warmup <= tick {
            wait_until(clock.instant_at(duration_ns(watch.warmup)), &is_finished);
            begin = read();
            in_warmup = false;
        }
        let stop = watch.end.unwrap_or(Duration::MAX).min(tick);
        wait_until(clock.instant_at(duration_ns(stop)), &is_finished);
        let now = counts();
        let broker = usage_of(&watch.broker_pids);
        // A broker that was killed meanwhile has used what it had used a second ago.
        if broker.cpu_seconds >= last_broker.cpu_seconds {
            last_broker = broker;
        }
        observed.broker_resident_bytes_max = observed.broker_resident_bytes_max.max(broker.resident_bytes);
        let ended = is_finished() || watch.end.is_some_and(|end| end <= tick);
        progress.show(second, now, now.messages - before, in_warmup);
        before = now.messages;
        if ended {
            break;
        }
    }
    let end = read();
    progress.clear();
    observed.seconds = (end.at - begin.at).as_secs_f64();
    observed.messages = end.messages - begin.messages;
    let broker_cpu_seconds = end.broker.cpu_seconds.max(last_broker.cpu_seconds);
    observed.broker_cpu_seconds = broker_cpu_seconds - begin.broker.cpu_seconds;
    observed.own_cpu_seconds = end.own.cpu_seconds - begin.own.cpu_seconds;
    observed
}

/// Sleeps until `deadline`, or until `done`.
fn wait_until(deadline: Instant, done: impl Fn() -> bool) {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || done() {
            return;
        }
        std::thread::sleep(left.min(LOOK_EVERY));
    }
}

/// The line of progress: overwritten in place on a terminal, one line each otherwise.
struct Progress {
    shown: bool,
    terminal: bool,
}

impl Progress {
    fn new(shown: bool) -> Self {
        Self { shown, terminal: std::io::stderr().is_terminal() }
    }

    fn show(&self, second: u64, counts: Counts, in_second: u64, in_warmup: bool) {
        if !self.shown {
            return;
        }
        let (start, end) = if self.terminal { ("\r\x1b[K", "") } else { ("", "\n") };
        let warmup = if in_warmup { "  (warming up)" } else { "" };
        let mut err = std::io::stderr().lock();
        // Progress that cannot be shown is no reason to end the run.
        let _ = write!(
            err,
            "{start}{second:>4} s  {in_second:>8} msg/s  {:>10} in all  {} errors{warmup}{end}",
            counts.messages, counts.errors
        );
        let _ = err.flush();
    }

    fn clear(&mut self) {
        if self.shown && self.terminal {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_leaves_out_the_warm_up() {
        let clock = RunClock::starting_at(Instant::now());
        let plan = Watch {
            warmup: Duration::from_millis(300),
            end: Some(Duration::from_millis(1200)),
            broker_pids: vec![std::process::id()],
            client_pids: Vec::new(),
            progress: false,
        };
        // One message each millisecond.
        let counts = || Counts { messages: clock.now_ns() / 1_000_000, errors: 0 };
        let observed = watch(clock, &plan, counts, || false);
        assert!((0.85..1.7).contains(&observed.seconds), "{observed:?}");
        let rate = observed.messages as f64 / observed.seconds;
        assert!((800.0..1250.0).contains(&rate), "{observed:?}");
        assert!(observed.broker_resident_bytes_max > 0);
    }

    #[test]
    fn a_run_that_finishes_ends_the_window() {
        let clock = RunClock::starting_at(Instant::now());
        let plan = Watch {
            warmup: Duration::ZERO,
            end: None,
            broker_pids: Vec::new(),
            client_pids: Vec::new(),
            progress: false,
        };
        let observed =
            watch(clock, &plan, || Counts { messages: 5, errors: 0 }, || clock.now_ns() > 100_000_000);
        assert!(observed.seconds < 1.0 && observed.messages == 0);
    }
}
