//! Starts the executor of one core: a thread pinned to a CPU with a ring of its own.

use std::fs::File;
use std::future::Future;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use glommio::io::DmaFile;
use glommio::{LocalExecutorBuilder, Placement};

/// Ring memory registered per core, bytes, where the limit on locked memory allows it. The runtime locks three times this.
const IO_MEMORY_BYTES_MAX: u64 = 1 << 20;
const IO_MEMORY_BYTES_MIN: u64 = 64 << 10;
const PROBE_BYTES: usize = 4096;

/// How a core runs.
#[derive(Clone, Debug)]
pub struct CoreSpec {
    /// For thread names and messages.
    pub name: String,
    /// The CPU it is pinned to.
    pub cpu: usize,
    /// Submission entries of its rings.
    pub ring_depth: usize,
    /// Busy polling before it parks; zero parks at once.
    pub spin: Duration,
    /// Locked memory that this core may use, bytes.
    pub locked_memory_bytes: u64,
    /// See [`write_probe_file`].
    pub probe_file: PathBuf,
}

/// Writes and syncs the small file that every core opens before any other direct I/O. The runtime decides by the first file
/// that a thread opens on a device whether reads can be polled for, and decides wrongly on an empty or sparse file.
///
/// # Errors
/// The folder cannot be written.
pub fn write_probe_file(folder: &Path) -> io::Result<PathBuf> {
    let path = folder.join("probe");
    let mut file = File::create(&path)?;
    file.write_all(&[0x52; PROBE_BYTES])?;
    file.sync_all()?;
    Ok(path)
}

/// Starts a thread that runs `main` on an executor of its own, until `main` ends.
///
/// # Errors
/// The thread's result is an error, which says what, when the executor cannot be made or the probe file cannot be opened.
pub fn start_core<M, F>(spec: CoreSpec, main: M) -> io::Result<JoinHandle<io::Result<()>>>
where
    M: FnOnce() -> F + Send + 'static,
    F: Future<Output = ()> + 'static,
{
    let io_memory = (spec.locked_memory_bytes / 4).clamp(IO_MEMORY_BYTES_MIN, IO_MEMORY_BYTES_MAX);
    let io_memory = usize::try_from(io_memory).expect("clamped to a mebibyte");
    std::thread::Builder::new().name(spec.name.clone()).spawn(move || {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            io::Error::other(format!("core {} on CPU {}: {what}: {error}", spec.name, spec.cpu))
        };
        // The preempt timer and the latency class stay at the runtime's defaults: with shorter ones an executor can park
        // with a task that is ready to run.
        let executor = LocalExecutorBuilder::new(Placement::Fixed(spec.cpu))
            .name(&spec.name)
            .io_memory(io_memory)
            .ring_depth(spec.ring_depth)
            .spin_before_park(spec.spin)
            .make()
            .map_err(|error| failed("the executor cannot start", &error))?;
        executor.run(async {
            let probe =
                DmaFile::open(&spec.probe_file).await.map_err(|error| failed("probe file", &error))?;
            let read =
                probe.read_at_aligned(0, PROBE_BYTES).await.map_err(|error| failed("probe file", &error))?;
            assert_eq!(read.len(), PROBE_BYTES, "the probe file was written with {PROBE_BYTES} bytes");
            drop(read);
            probe.close().await.map_err(|error| failed("probe file", &error))?;
            main().await;
            Ok(())
        })
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::io::mailbox::mailbox;
    use crate::io::{host, task};

    #[test]
    fn two_cores_exchange_mail() {
        let folder = tempfile::tempdir_in(".").unwrap();
        let probe_file = write_probe_file(folder.path()).unwrap();
        let cpus = host::allowed_cpus().unwrap();
        let spec = |index: usize| CoreSpec {
            name: format!("core-{index}"),
            cpu: cpus[index % cpus.len()],
            ring_depth: 64,
            spin: Duration::ZERO,
            locked_memory_bytes: 1 << 20,
            probe_file: probe_file.clone(),
        };
        let (to_second, second_box) = mailbox::<u32>();
        let (to_first, first_box) = mailbox::<u32>();
        let (report, result) = mpsc::channel();
        let first = start_core(spec(0), move || async move {
            for number in 0..1000 {
                to_second.send(number).await.unwrap();
                assert_eq!(first_box.receive().await, Some(number + 1));
            }
            report.send(()).unwrap();
        })
        .unwrap();
        let second = start_core(spec(1), move || async move {
            while let Some(number) = second_box.receive().await {
                task::yield_now().await;
                if to_first.send(number + 1).await.is_err() {
                    break;
                }
            }
        })
        .unwrap();
        result.recv_timeout(Duration::from_secs(20)).expect("the cores exchange mail");
        first.join().unwrap().unwrap();
        second.join().unwrap().unwrap();
    }
}
