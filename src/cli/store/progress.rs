//! How far a pass over a store is and how fast it goes, on standard error; nothing when it ends soon.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// What ends sooner needs no progress.
const SILENT: Duration = Duration::from_secs(2);
/// How often it is told, on a terminal and elsewhere.
const INTERVAL: Duration = Duration::from_millis(250);
const INTERVAL_IN_FILE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Progress {
    what: String,
    begun: Instant,
    told: Option<Instant>,
    is_terminal: bool,
}

impl Progress {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            begun: Instant::now(),
            told: None,
            is_terminal: std::io::stderr().is_terminal(),
        }
    }

    /// So much of so much is done, bytes.
    pub(super) fn at(&mut self, done: u64, total: u64) {
        let elapsed = self.begun.elapsed();
        let interval = if self.is_terminal { INTERVAL } else { INTERVAL_IN_FILE };
        if elapsed < SILENT || self.told.is_some_and(|told| told.elapsed() < interval) {
            return;
        }
        self.told = Some(Instant::now());
        let line = line(&self.what, done, total, elapsed);
        // Losing the progress is no reason to stop.
        let _ = if self.is_terminal {
            write!(std::io::stderr(), "\r\x1b[K{line}")
        } else {
            writeln!(std::io::stderr(), "{line}")
        };
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.told.is_some() && self.is_terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn line(what: &str, done: u64, total: u64, elapsed: Duration) -> String {
    let rate = done as f64 / elapsed.as_secs_f64().max(0.001);
    let left = total.saturating_sub(done) as f64 / rate.max(1.0);
    format!(
        "{what}: {} of at most {} MiB, {:.0} MiB/s, at most {left:.0} s left",
        done >> 20,
        total >> 20,
        rate / f64::from(1 << 20)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_how_far_it_is_and_how_fast_it_goes() {
        let line = line("shard 0", 100 << 20, 300 << 20, Duration::from_secs(2));
        assert_eq!(line, "shard 0: 100 of at most 300 MiB, 50 MiB/s, at most 4 s left");
    }
}
