//! How far a measurement is, on one line of the terminal that is written again and again; nothing when nobody looks.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// What ends sooner needs no progress.
const SILENT: Duration = Duration::from_secs(2);

/// A count of steps on standard error.
#[derive(Debug)]
pub(super) struct Progress {
    steps: usize,
    done: usize,
    begun: Instant,
    shown: bool,
    is_terminal: bool,
}

impl Progress {
    pub(super) fn new(steps: usize) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        Self { steps, done: 0, begun: Instant::now(), shown: false, is_terminal }
    }

    /// One more step is done; `next` says what is measured.
    pub(super) fn step(&mut self, what: &str) {
        self.done += 1;
        let elapsed = self.begun.elapsed();
        if !self.is_terminal || elapsed < SILENT {
            return;
        }
        self.shown = true;
        let line = line(self.done, self.steps, elapsed, what);
        // Losing the progress is no reason to stop.
        let _ = write!(std::io::stderr(), "\r\x1b[K{line}");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn line(done: usize, steps: usize, elapsed: Duration, what: &str) -> String {
    let left = elapsed.as_secs_f64() / done.max(1) as f64 * steps.saturating_sub(done) as f64;
    format!("measuring {done}/{steps}, about {left:.0} s left: {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_from_the_time_taken() {
        let line = line(30, 120, Duration::from_secs(10), "4 KiB");
        assert_eq!(line, "measuring 30/120, about 30 s left: 4 KiB");
    }
}
