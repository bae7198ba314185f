//! What the system tests share: a running server, client programs, load with a memory of what was acknowledged, and who may
//! run beside whom.

pub(crate) mod enduring;
pub(crate) mod go;
pub(crate) mod java;
pub(crate) mod load;
pub(crate) mod program;
pub(crate) mod proxy;
pub(crate) mod raw_peer;
pub(crate) mod scenarios;
pub(crate) mod server;
pub(crate) mod small_disk;
pub(crate) mod stock_broker;
pub(crate) mod witness;

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

static MACHINE: RwLock<()> = RwLock::new(());

/// For tests that wait more than they work: they run side by side.
pub(crate) fn beside_others() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}

/// For tests that need the machine for themselves.
pub(crate) fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

/// A folder on the disk that the build is on: a temporary one of the system may be in memory, where there is no direct I/O.
pub(crate) fn disk_dir() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// A number that the environment may set. Not with the prefix of the broker's own settings: it refuses those that it does not know.
pub(crate) fn number_from_env<N: FromStr>(name: &str, default: N) -> N {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Chance from the seed that the environment sets (`SEED`), or this one; it is printed, so that a failure can be repeated.
pub(crate) fn seeded(default: u64) -> StdRng {
    let seed = number_from_env("SEED", default);
    println!("SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// A file or folder of the source tree.
pub(crate) fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Waits until the condition holds.
///
/// # Panics
/// When it does not within `patience`; says what was waited for.
pub(crate) fn await_until(what: &str, patience: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !condition() {
        assert!(Instant::now() < deadline, "waited {patience:?} for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
