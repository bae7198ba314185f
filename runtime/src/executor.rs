//! Starts a core: a thread pinned to a CPU with a ring of its own.

use std::fmt;
use std::fs::File;
use std::future::Future;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::host::{IoUringDenied, pin_to_cpu};
use crate::{ring, via_glommio};

pub(crate) const PROBE_BYTES: usize = 4096;

/// What a core runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// Our own loop over io_uring. Needs Linux 6.1.
    Ring,
    /// The glommio runtime. Needs Linux 5.8.
    Glommio,
}

/// A backend has no such name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no runtime {0:?}: `ring` or `glommio`")]
pub struct UnknownBackend(String);

impl Backend {
    pub const ALL: [Self; 2] = [Self::Ring, Self::Glommio];

    /// The best one that this kernel can.
    pub fn best() -> Self {
        match ring::core::make_ring(1) {
            Ok(_) => Self::Ring,
            Err(error) => {
                tracing::info!(%error, "the runtime `ring` needs Linux 6.1 or newer; using `glommio`");
                Self::Glommio
            }
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ring => "ring",
            Self::Glommio => "glommio",
        })
    }
}

impl FromStr for Backend {
    type Err = UnknownBackend;

    fn from_str(name: &str) -> Result<Self, UnknownBackend> {
        let named = Self::ALL.into_iter().find(|backend| backend.to_string() == name);
        named.ok_or_else(|| UnknownBackend(name.to_owned()))
    }
}

/// How a core runs.
#[derive(Clone, Debug)]
pub struct CoreSpec {
    /// For thread names and messages.
    pub name: String,
    pub backend: Backend,
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

/// Writes and syncs the small file that every core of glommio's opens before any other direct I/O. It decides by the first file
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
/// The thread's result is an error, which says what, when the executor cannot be made.
pub fn start_core<M, F>(spec: CoreSpec, main: M) -> io::Result<JoinHandle<io::Result<()>>>
where
    M: FnOnce() -> F + Send + 'static,
    F: Future<Output = ()> + 'static,
{
    std::thread::Builder::new().name(spec.name.clone()).spawn(move || {
        let run = || match spec.backend {
            Backend::Ring => {
                pin_to_cpu(spec.cpu)?;
                let depth = u32::try_from(spec.ring_depth).unwrap_or(u32::MAX);
                ring::core::run(depth, spec.spin, async move { main().await })
            }
            Backend::Glommio => via_glommio::executor::run(&spec, async move { main().await }),
        };
        run().map_err(|error| {
            let kind = error.kind();
            let cause = if kind == io::ErrorKind::OutOfMemory {
                IoUringDenied::Memlock.to_string()
            } else {
                error.to_string()
            };
            io::Error::new(kind, format!("core {} on CPU {}: {cause}", spec.name, spec.cpu))
        })
    })
}
