//! Faults of the disk on demand, for tests of the real program: errors, delays and short writes at chosen operations, at the seam at
//! which the simulator's disk stands in for the kernel.
//!
//! They exist only with the feature `fault-injection`, which the tests of the root package switch on, and only in builds with debug
//! assertions: no release has them, and neither has what `cargo build` makes. `cargo test` builds one program anyway, so that nothing is
//! built twice. Even then nothing happens unless the variable `DISK_FAULTS` names a file. It is looked at before each operation, so
//! that a test can change it while the program runs; what is counted begins anew then. Each line of it is a rule:
//!
//! ```text
//! PATH                 OPERATION  WHICH          EFFECT
//! shard-0/commitlog    write      7              EIO        the seventh
//! shard-0/commitlog    write      3-5            ENOSPC     the third to the fifth
//! shard-1/             sync       1-             300ms      all take so much longer
//! shard-0/consumequeue read       @0-4096        EIO        those that touch these bytes of the file
//! ```
//!
//! PATH is a part of the file's path. OPERATION is `write` (records of the log, and everything written by the side thread and a start),
//! `zeros` (written ahead of the records), `sync`, `read`, or `allocate` (room for the next file of the log). EFFECT is `EIO`, `ENOSPC`, a
//! delay in milliseconds, or `short`: half of a write is done and the rest is not. An operation that fails is not done at all.

use std::io;
use std::path::Path;

/// What is done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Write,
    Zeros,
    Sync,
    Read,
    Allocate,
}

/// Bytes of a file from the first to before the second; all of it where an operation has no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) u64, pub(crate) u64);

impl Bytes {
    pub(crate) const ALL: Self = Self(0, u64::MAX);

    pub(crate) fn at(offset: u64, bytes: usize) -> Self {
        Self(offset, offset + bytes as u64)
    }
}

/// How much of an operation to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    All,
    Half,
}

/// Asks before an operation on a core, and waits as long as the faults want.
///
/// # Errors
/// The operation is to fail.
#[inline]
pub(crate) async fn before(operation: Operation, path: &Path, bytes: Bytes) -> io::Result<Share> {
    #[cfg(all(feature = "fault-injection", debug_assertions))]
    {
        let struck = rules::strike(operation, path, bytes);
        if !struck.delay.is_zero() {
            runtime::task::sleep(struck.delay).await;
        }
        struck.result()
    }
    #[cfg(not(all(feature = "fault-injection", debug_assertions)))]
    {
        let _ = (operation, path, bytes);
        Ok(Share::All)
    }
}

/// The same before an operation that blocks its thread, on an open file.
///
/// # Errors
/// The operation is to fail.
#[inline]
pub(crate) fn before_blocking(operation: Operation, file: &std::fs::File, bytes: Bytes) -> io::Result<Share> {
    #[cfg(all(feature = "fault-injection", debug_assertions))]
    {
        if !rules::are_wanted() {
            return Ok(Share::All);
        }
        let descriptor = std::os::fd::AsRawFd::as_raw_fd(file);
        let path = std::fs::read_link(format!("/proc/self/fd/{descriptor}"))?;
        let struck = rules::strike(operation, &path, bytes);
        std::thread::sleep(struck.delay);
        struck.result()
    }
    #[cfg(not(all(feature = "fault-injection", debug_assertions)))]
    {
        let _ = (operation, file, bytes);
        Ok(Share::All)
    }
}

#[cfg(all(feature = "fault-injection", debug_assertions))]
mod rules {
    //! The file of rules, and how often each was met.

    use std::io;
    use std::os::unix::fs::MetadataExt;
    use std::path::{Path, PathBuf};
    use std::sync::{Mutex, OnceLock, PoisonError};
    use std::time::Duration;

    use super::{Bytes, Operation, Share};

    /// The environment variable that names the file of rules. Not with the prefix of the broker's own settings.
    const VARIABLE: &str = "DISK_FAULTS";

    static FAULTS: Mutex<Faults> = Mutex::new(Faults { version: None, rules: Vec::new() });

    struct Faults {
        /// Inode, length and time of the file when it was read.
        version: Option<(u64, u64, i64, i64)>,
        rules: Vec<Rule>,
    }

    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Rule {
        text: String,
        path: String,
        operation: Operation,
        which: Which,
        effect: Effect,
        met: u64,
        has_struck: bool,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Which {
        /// Those with these numbers, which begin at 1, both included.
        Numbers(u64, u64),
        /// Those that touch these bytes.
        Touching(Bytes),
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Effect {
        Error(i32),
        Short,
        Delay(Duration),
    }

    /// What happens to one operation.
    #[derive(Debug, Default, PartialEq, Eq)]
    pub(super) struct Struck {
        pub(super) delay: Duration,
        is_short: bool,
        error: Option<i32>,
    }

    impl Struck {
        pub(super) fn result(&self) -> io::Result<Share> {
            match self.error {
                Some(error) => Err(io::Error::from_raw_os_error(error)),
                None if self.is_short => Ok(Share::Half),
                None => Ok(Share::All),
            }
        }
    }

    fn file() -> Option<&'static Path> {
        static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
        FILE.get_or_init(|| std::env::var_os(VARIABLE).map(PathBuf::from)).as_deref()
    }

    pub(super) fn are_wanted() -> bool {
        file().is_some()
    }

    pub(super) fn strike(operation: Operation, path: &Path, bytes: Bytes) -> Struck {
        let Some(file) = file() else { return Struck::default() };
        let mut faults = FAULTS.lock().unwrap_or_else(PoisonError::into_inner);
        faults.read_anew(file);
        strike_by(&mut faults.rules, operation, &path.to_string_lossy(), bytes)
    }

    impl Faults {
        fn read_anew(&mut self, file: &Path) {
            let version = file
                .metadata()
                .ok()
                .map(|metadata| (metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()));
            if self.version == version {
                return;
            }
            // A file that is gone between the two has no rules either.
            let text = std::fs::read_to_string(file).unwrap_or_default();
            self.rules = match parse(&text) {
                Ok(rules) => rules,
                // Whoever asked for a fault must not believe that it came.
                Err(error) => {
                    eprintln!("{}: {error}", file.display());
                    std::process::abort();
                }
            };
            self.version = version;
            tracing::warn!(file = %file.display(), rules = self.rules.len(), "the disk has faults on demand");
        }
    }

    fn strike_by(rules: &mut [Rule], operation: Operation, path: &str, bytes: Bytes) -> Struck {
        let mut struck = Struck::default();
        for rule in rules.iter_mut().filter(|rule| rule.operation == operation && path.contains(&rule.path)) {
            rule.met += 1;
            let strikes = match rule.which {
                Which::Numbers(first, last) => (first..=last).contains(&rule.met),
                Which::Touching(Bytes(from, to)) => bytes.0 < to && from < bytes.1,
            };
            if !strikes {
                continue;
            }
            if !rule.has_struck {
                rule.has_struck = true;
                tracing::warn!(rule = rule.text, path, from = bytes.0, to = bytes.1, "a fault on demand");
            }
            match rule.effect {
                Effect::Error(error) => struck.error = struck.error.or(Some(error)),
                Effect::Short => struck.is_short = true,
                Effect::Delay(delay) => struck.delay += delay,
            }
        }
        struck
    }

    fn parse(text: &str) -> Result<Vec<Rule>, String> {
        let rules = text.lines().filter(|line| !line.trim().is_empty());
        rules.map(|line| rule(line).ok_or_else(|| format!("`{line}` is no fault"))).collect()
    }

    fn rule(line: &str) -> Option<Rule> {
        let words: Vec<_> = line.split_whitespace().collect();
        let [path, operation, which, effect] = words[..] else { return None };
        let operation = match operation {
            "write" => Operation::Write,
            "zeros" => Operation::Zeros,
            "sync" => Operation::Sync,
            "read" => Operation::Read,
            "allocate" => Operation::Allocate,
            _ => return None,
        };
        let which = match which.strip_prefix('@') {
            Some(bytes) => {
                let (from, to) = bytes.split_once('-')?;
                Which::Touching(Bytes(from.parse().ok()?, to.parse().ok()?))
            }
            None => match which.split_once('-') {
                None => Which::Numbers(which.parse().ok()?, which.parse().ok()?),
                Some((first, "")) => Which::Numbers(first.parse().ok()?, u64::MAX),
                Some((first, last)) => Which::Numbers(first.parse().ok()?, last.parse().ok()?),
            },
        };
        let effect = match effect {
            "EIO" => Effect::Error(libc::EIO),
            "ENOSPC" => Effect::Error(libc::ENOSPC),
            "short" => Effect::Short,
            delay => Effect::Delay(Duration::from_millis(delay.strip_suffix("ms")?.parse().ok()?)),
        };
        Some(Rule {
            text: line.trim().to_owned(),
            path: path.to_owned(),
            operation,
            which,
            effect,
            met: 0,
            has_struck: false,
        })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn rules_strike_the_operations_that_they_name() {
            let text = "shard-0/ write 2 EIO\nshard-0/ write 2- 30ms\n\nshard-1/ read @4096-8192 EIO\n";
            let mut rules = parse(text).unwrap();
            let mut strike = |operation, path, bytes| strike_by(&mut rules, operation, path, bytes);
            let write = |strike: &mut dyn FnMut(Operation, &'static str, Bytes) -> Struck| {
                strike(Operation::Write, "data/shard-0/commitlog/0", Bytes::ALL)
            };
            assert_eq!(write(&mut strike), Struck::default());
            assert_eq!(strike(Operation::Write, "data/shard-1/commitlog/0", Bytes::ALL), Struck::default());
            let second = write(&mut strike);
            assert_eq!(second.delay, Duration::from_millis(30));
            assert_eq!(second.result().unwrap_err().raw_os_error(), Some(libc::EIO));
            let third = write(&mut strike);
            assert_eq!((third.delay, third.result().unwrap()), (Duration::from_millis(30), Share::All));
            let mut read = |at, bytes| {
                strike(Operation::Read, "shard-1/commitlog/0", Bytes::at(at, bytes)).result().is_err()
            };
            assert!(!read(0, 4096) && read(0, 4097) && read(8191, 1) && !read(8192, 4096));
        }

        #[test]
        fn what_is_no_rule_is_told() {
            for line in
                ["x", "x write 1 EPERM", "x pull 1 EIO", "x write one EIO", "x write 1 3s", "x read @1 EIO"]
            {
                let error = parse(line).unwrap_err();
                assert!(error.contains(line), "{error}");
            }
            let half = parse("x write 1 short").unwrap().remove(0);
            assert_eq!((half.which, half.effect), (Which::Numbers(1, 1), Effect::Short));
        }
    }
}
