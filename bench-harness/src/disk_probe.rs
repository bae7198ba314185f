//! A probe of the disk beside a run: one thread that writes 4 KiB with O_DSYNC every few milliseconds into a file of its own, which was
//! written before, and keeps the writes that took long with their times. What stalls the probe is the disk, not the broker.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::clock::{duration_ns, unix_ms};
use crate::error::BenchError;
use crate::latency::{Latency, Percentiles};

const WRITE_BYTES: usize = 4096;
const FILE_BYTES: u64 = 16 << 20;
/// From the end of a write to the begin of the next.
const PAUSE: Duration = Duration::from_millis(4);
/// Writes that take longer are stalls.
const STALL: Duration = Duration::from_millis(15);
/// Stalls that are kept; later ones are only counted.
const STALLS_KEPT: usize = 1000;

/// The probe at work. Its file goes when it is dropped.
#[derive(Debug)]
pub struct DiskProbe {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread has seen since it was last asked.
#[derive(Debug, Default)]
struct Seen {
    latency: Latency,
    stalls: Vec<(u64, Duration)>,
    stall_count: u64,
    failure: Option<String>,
}

/// What the probe saw during a run.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct ProbeSummary {
    pub write_latency_us: Percentiles,
    /// Writes that took longer than this are stalls.
    pub stall_ms: f64,
    pub stall_count: u64,
    /// The first of them.
    pub stalls: Vec<Stall>,
    /// Why the probe ended early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// One write that took long.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub struct Stall {
    /// When it began, seconds since the start of the run.
    pub at_seconds: f64,
    pub milliseconds: f64,
}

impl DiskProbe {
    /// Writes the file in `dir`, which must lie on the brokers' file system, and begins.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn start(dir: &Path) -> Result<Self, BenchError> {
        let path = dir.join("disk-probe");
        let failed = |source| BenchError::File { doing: "write", path: path.clone(), source };
        prewrite(&path).map_err(failed)?;
        let flags = i32::try_from(OFlags::DSYNC.bits()).expect("a flag of open(2) is an int");
        let file = OpenOptions::new().write(true).custom_flags(flags).open(&path).map_err(failed)?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (stopped, writing) = (stop.clone(), seen.clone());
        let thread = std::thread::Builder::new()
            .name("disk-probe".to_owned())
            .spawn(move || write_until_stopped(&file, &stopped, &writing))
            .map_err(BenchError::Runtime)?;
        Ok(Self { path, stop, seen, thread: Some(thread) })
    }

    /// Forgets what was seen so far: a run begins.
    pub fn reset(&self) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Seen::default();
    }

    /// What was seen since [`Self::reset`], with times of the run that began at `started_unix_ms`.
    pub fn summary(&self, started_unix_ms: u64) -> ProbeSummary {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let stall = |(at_unix_ms, duration): &(u64, Duration)| Stall {
            at_seconds: (*at_unix_ms as f64 - started_unix_ms as f64) / 1000.0,
            milliseconds: duration.as_secs_f64() * 1000.0,
        };
        ProbeSummary {
            write_latency_us: seen.latency.percentiles(),
            stall_ms: STALL.as_secs_f64() * 1000.0,
            stall_count: seen.stall_count,
            stalls: seen.stalls.iter().map(stall).collect(),
            failure: seen.failure.clone(),
        }
    }
}

impl Drop for DiskProbe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A probe that panicked has nothing more to say.
            let _ = thread.join();
        }
        // A file that cannot be removed is in a folder that is about to go.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Writes the whole file, so that no write of the probe allocates.
fn prewrite(path: &Path) -> io::Result<()> {
    let file = File::create(path)?;
    let chunk = vec![0xA5; 1 << 20];
    for at in (0..FILE_BYTES).step_by(chunk.len()) {
        file.write_all_at(&chunk, at)?;
    }
    file.sync_all()
}

fn write_until_stopped(file: &File, stop: &AtomicBool, seen: &Mutex<Seen>) {
    let block = [0x5A; WRITE_BYTES];
    let mut at = 0;
    while !stop.load(Ordering::Relaxed) {
        let (began, began_unix_ms) = (Instant::now(), unix_ms());
        let written = file.write_all_at(&block, at);
        let took = began.elapsed();
        at = (at + WRITE_BYTES as u64) % FILE_BYTES;
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = written {
            seen.failure = Some(error.to_string());
            return;
        }
        seen.latency.record(duration_ns(took), 1);
        if took > STALL {
            seen.stall_count += 1;
            if seen.stalls.len() < STALLS_KEPT {
                seen.stalls.push((began_unix_ms, took));
            }
        }
        drop(seen);
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_its_writes_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let probe = DiskProbe::start(dir.path()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while probe.summary(0).write_latency_us.count < 10 {
            assert!(Instant::now() < deadline, "ten writes of 4 KiB took 30 s");
            std::thread::sleep(Duration::from_millis(1));
        }
        let summary = probe.summary(0);
        assert_eq!(summary.failure, None);
        assert!(summary.write_latency_us.max > 0.0);
        drop(probe);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn stalls_have_times_of_the_run() {
        let dir = tempfile::tempdir().unwrap();
        let probe = DiskProbe::start(dir.path()).unwrap();
        probe.stop.store(true, Ordering::Relaxed);
        {
            let mut seen = probe.seen.lock().unwrap();
            seen.stalls = vec![(12_500, Duration::from_millis(40))];
        }
        let stalls = probe.summary(10_000).stalls;
        assert!(stalls.contains(&Stall { at_seconds: 2.5, milliseconds: 40.0 }), "{stalls:?}");
    }
}
