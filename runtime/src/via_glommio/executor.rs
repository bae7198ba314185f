//! Starting a core on glommio.

use std::future::Future;
use std::io;

use glommio::io::DmaFile;
use glommio::{LocalExecutorBuilder, Placement};

use crate::executor::{CoreSpec, PROBE_BYTES};
use crate::host::{self, Resource};

/// Ring memory registered per core, bytes, where the limit on locked memory allows it. The runtime locks three times this.
const IO_MEMORY_BYTES_MAX: u64 = 1 << 20;
const IO_MEMORY_BYTES_MIN: u64 = 64 << 10;

/// What glommio asks of the limit of a process before it makes an executor.
const LOCKED_MEMORY_BYTES_MIN: u64 = 512 << 10;

/// Runs `main` on an executor on this thread, until it ends.
///
/// # Errors
/// The executor cannot be made, or the probe file cannot be read; the text says which.
pub(crate) fn run(spec: &CoreSpec, main: impl Future<Output = ()>) -> io::Result<()> {
    if host::raise_limit(Resource::LockedMemory)?.soft < LOCKED_MEMORY_BYTES_MIN {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    let failed = |what: &str, error: &dyn std::fmt::Display| io::Error::other(format!("{what}: {error}"));
    let io_memory = (spec.locked_memory_bytes / 4).clamp(IO_MEMORY_BYTES_MIN, IO_MEMORY_BYTES_MAX);
    let io_memory = usize::try_from(io_memory).expect("clamped to a mebibyte");
    // The preempt timer and the latency class stay at the runtime's defaults: with shorter ones an executor can park with a task that is
    // ready to run.
    let executor = LocalExecutorBuilder::new(Placement::Fixed(spec.cpu))
        .name(&spec.name)
        .io_memory(io_memory)
        .ring_depth(spec.ring_depth)
        .spin_before_park(spec.spin)
        .make()
        .map_err(|error| failed("the executor cannot start", &error))?;
    executor.run(async {
        let probe = DmaFile::open(&spec.probe_file).await.map_err(|error| failed("probe file", &error))?;
        let read =
            probe.read_at_aligned(0, PROBE_BYTES).await.map_err(|error| failed("probe file", &error))?;
        assert_eq!(read.len(), PROBE_BYTES, "the probe file was written with {PROBE_BYTES} bytes");
        drop(read);
        probe.close().await.map_err(|error| failed("probe file", &error))?;
        main.await;
        Ok(())
    })
}
