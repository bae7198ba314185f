//! The store: whether there is one, whether a node runs on it, and whether its next log files have room.

use std::io;
use std::path::{Path, PathBuf};

use runtime::host;
use shards::limits::SEGMENT_BYTES;
use shards::store_dir::{self, StoreDirError, StoreLook};

use super::Finding;
use crate::config::Config;

/// Log files that a shard has at the least while it runs: the one that is written, and the next.
const SEGMENTS_PER_SHARD: u64 = 2;

/// What lies in the data folder.
pub(super) struct Look {
    path: PathBuf,
    found: Result<Option<StoreLook>, StoreDirError>,
}

impl Look {
    pub(super) fn at(data: &Path) -> Self {
        Self { path: data.to_owned(), found: store_dir::look(data) }
    }

    /// Shards of the store, if there is one.
    pub(super) fn shards(&self) -> Option<u32> {
        self.store().map(|store| store.shards)
    }

    pub(super) fn is_in_use(&self) -> bool {
        self.store().is_some_and(|store| store.user.is_some())
    }

    fn store(&self) -> Option<&StoreLook> {
        self.found.as_ref().ok().and_then(Option::as_ref)
    }

    pub(super) fn findings(&self, folder: &Path, config: &Config) -> io::Result<Vec<Finding>> {
        let segment_bytes = self.store().map_or(config.segment_bytes, |store| store.segment_bytes);
        let mut findings = vec![self.usable()];
        findings.extend(self.store().map(|store| damage(&self.path, store.damaged_ranges)));
        findings.extend(self.store().map(|store| failed_logs(&store.failed_logs)));
        findings.push(free_space(
            host::free_bytes(folder)?,
            self.store().is_some(),
            config.shards,
            segment_bytes,
        ));
        Ok(findings)
    }

    fn usable(&self) -> Finding {
        let path = self.path.display();
        match &self.found {
            Err(error) => Finding::missing("store", error.to_string(), "choose another folder with --data"),
            Ok(None) => Finding::good("store", format!("{path}: none yet")),
            Ok(Some(StoreLook { user: Some(process), .. })) => Finding::warning(
                "store",
                format!(
                    "{path}: a node runs on it (process {process}), which also counts in the figures above"
                ),
                "stop it before another one is started here, or choose another folder with --data",
            ),
            Ok(Some(store)) => Finding::good(
                "store",
                format!("{path}: {} shards, made for the node {}; nobody uses it", store.shards, store.node),
            ),
        }
    }
}

/// What starts and readers of the store have met.
fn damage(path: &Path, ranges: u64) -> Finding {
    match ranges {
        0 => Finding::good("store damage", "none is known"),
        _ => Finding::warning(
            "store damage",
            format!("{ranges} damaged places are known in the logs; their messages are passed over"),
            format!(
                "look after the disk; when the node is stopped, `ringmq store verify {}` tells what is lost",
                path.display()
            ),
        ),
    }
}

/// Logs whose last write failed.
fn failed_logs(reasons: &[String]) -> Finding {
    match reasons {
        [] => Finding::good("store logs", "none has failed"),
        _ => Finding::missing(
            "store logs",
            format!("{} failed and takes no messages: {}", count_of_logs(reasons.len()), reasons.join("; ")),
            "look after the disk, then restart the broker; what was acknowledged is there",
        ),
    }
}

fn count_of_logs(count: usize) -> String {
    if count == 1 { "one".to_owned() } else { count.to_string() }
}

fn free_space(free_bytes: u64, exists: bool, shards: u32, segment_bytes: u64) -> Finding {
    // What exists has the first of its two files already.
    let files = if exists { SEGMENTS_PER_SHARD - 1 } else { SEGMENTS_PER_SHARD };
    let needed = files * u64::from(shards) * segment_bytes;
    let found = format!(
        "{} MiB; {shards} shards with log files of {} MiB need {} MiB",
        free_bytes >> 20,
        segment_bytes >> 20,
        needed >> 20
    );
    let cure = if segment_bytes < SEGMENT_BYTES || exists {
        "free space, or use a larger disk"
    } else {
        "free space, use a larger disk, or make the store with smaller files: mappedFileSizeCommitLog = \"128MiB\""
    };
    match free_bytes {
        _ if free_bytes < needed / SEGMENTS_PER_SHARD && !exists => {
            Finding::missing("free space", found, cure)
        }
        _ if free_bytes < needed => Finding::warning("free space", found, cure),
        _ => Finding::good("free space", found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::Verdict;

    #[test]
    fn room_is_needed_for_two_files_of_each_new_shard_and_for_one_of_an_old_one() {
        let verdict = |free_mib: u64, exists| free_space(free_mib << 20, exists, 2, 1 << 30).verdict;
        assert_eq!(verdict(4096, false), Verdict::Good);
        assert_eq!(verdict(4095, false), Verdict::Warning);
        assert_eq!(verdict(2047, false), Verdict::Missing);
        assert_eq!(verdict(2048, true), Verdict::Good);
        assert_eq!(verdict(100, true), Verdict::Warning);
    }

    #[test]
    fn known_damage_is_a_warning() {
        assert_eq!(damage(Path::new("data"), 0).verdict, Verdict::Good);
        assert_eq!(damage(Path::new("data"), 2).verdict, Verdict::Warning);
    }

    #[test]
    fn a_log_that_failed_is_named_with_its_reason() {
        assert_eq!(failed_logs(&[]).verdict, Verdict::Good);
        let failed = failed_logs(&["writing shard-0/commitlog/0 failed".to_owned()]);
        assert_eq!(failed.verdict, Verdict::Missing);
        assert!(
            failed.found.starts_with("one failed") && failed.found.contains("shard-0"),
            "{}",
            failed.found
        );
    }

    #[test]
    fn a_store_that_cannot_be_read_is_told() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("manifest"), "no manifest").unwrap();
        let look = Look::at(folder.path());
        assert_eq!(look.usable().verdict, Verdict::Missing);
        assert_eq!(Look::at(&folder.path().join("none")).usable().verdict, Verdict::Good);
    }
}
