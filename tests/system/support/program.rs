//! Programs that run to their end: `ringmq store`, and what the tests need besides Rust, found, or named together with what installs it.

use std::path::Path;
use std::process::{Command, Output};
use std::time::SystemTime;

/// Runs to the end and returns what it printed.
///
/// # Panics
/// When it is not there or fails: with its output, and what would help.
pub(crate) fn run(command: &mut Command, help: &str) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}\n{help}"));
    assert!(
        output.status.success(),
        "{command:?} failed: {}\n{}{}\n{help}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    output
}

/// Runs `ringmq store` to the end, with the faults of a disk when there is a file of them; its exit code, what it printed, and what it told
/// on standard error.
pub(crate) fn store(args: &[&str], disk_faults: Option<&Path>) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringmq"));
    if let Some(faults) = disk_faults {
        command.env("DISK_FAULTS", faults);
    }
    let output = command.arg("store").args(args).output().expect("run ringmq store");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().expect("it ends by itself"), text(&output.stdout), text(&output.stderr))
}

/// Whether `made` is there and younger than every file below `source`.
pub(crate) fn up_to_date(made: &Path, source: &Path) -> bool {
    let time_of = |path: &Path| path.metadata().and_then(|metadata| metadata.modified()).ok();
    time_of(made).is_some_and(|made| newest(source) < made)
}

fn newest(path: &Path) -> SystemTime {
    let own = path.metadata().and_then(|metadata| metadata.modified()).expect("read a time of a source file");
    if !path.is_dir() {
        return own;
    }
    let entries = std::fs::read_dir(path).expect("list a source folder");
    entries.map(|entry| newest(&entry.expect("list a source folder").path())).fold(own, SystemTime::max)
}
