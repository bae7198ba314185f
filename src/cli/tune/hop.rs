//! Measures the hop between two cores: one sends into the other's mailbox and waits for the answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use runtime::executor::{CoreSpec, start_core};
use runtime::mailbox::mailbox;

use super::TuneError;
use super::measurement::{HopCell, HopFigure, Latency};

/// Messages that fit into a mailbox; one is on its way at a time.
const MAILBOX_MESSAGES: usize = 16;

/// Sends messages to and fro for `time`. `spec` gives a core on a CPU.
///
/// # Errors
/// A core does not start, or the user interrupts.
pub(super) fn measure(
    cell: HopCell,
    spec: impl Fn(usize) -> CoreSpec,
    time: Duration,
    stop: &Arc<AtomicBool>,
) -> Result<HopFigure, TuneError> {
    let (to_second, inbox_of_second) = mailbox(MAILBOX_MESSAGES);
    let (to_first, inbox_of_first) = mailbox(MAILBOX_MESSAGES);
    let (results, result) = mpsc::channel();
    let second = start_core(spec(cell.to_cpu), move || async move {
        while let Some(message) = inbox_of_second.receive().await {
            if to_first.send(message).await.is_err() {
                return;
            }
        }
    })?;
    let stop_first = Arc::clone(stop);
    let first = start_core(spec(cell.from_cpu), move || async move {
        let mut nanos = Vec::new();
        let deadline = Instant::now() + time;
        while Instant::now() < deadline && !stop_first.load(Ordering::Relaxed) {
            let begun = Instant::now();
            if to_second.send(()).await.is_err() || inbox_of_first.receive().await.is_none() {
                break;
            }
            nanos.push(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
        // The main thread waits for it until this core ends.
        let _ = results.send(nanos);
    })?;
    for thread in [first, second] {
        thread.join().map_err(|_| TuneError::CorePanicked)??;
    }
    if stop.load(Ordering::Relaxed) {
        return Err(TuneError::Interrupted);
    }
    let nanos = result.recv().unwrap_or_default();
    let round_trip = Latency::of(nanos).ok_or(TuneError::CorePanicked)?;
    Ok(HopFigure { cell, round_trip })
}
