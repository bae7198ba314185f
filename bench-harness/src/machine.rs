//! What a result was measured on: kernel, processor, memory, file system and commit. Whatever cannot be found is left empty.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// The machine and the build.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Machine {
    /// `git describe` of the tree that this program lies in.
    pub commit: Option<String>,
    pub harness_version: String,
    pub kernel: String,
    pub cpu_model: String,
    pub cores: usize,
    pub memory_bytes: u64,
    /// Of the broker's data folder, when it was named.
    pub file_system: Option<FileSystem>,
}

/// Where a folder lies.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct FileSystem {
    pub path: String,
    pub kind: String,
    pub device: String,
    pub options: String,
}

impl Machine {
    /// Looks at this machine; `data_dir` is the broker's data folder.
    pub fn look(data_dir: Option<&Path>) -> Self {
        Self {
            commit: commit(),
            harness_version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: first_line("/proc/sys/kernel/osrelease"),
            cpu_model: field_of("/proc/cpuinfo", "model name").unwrap_or_default(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: memory_bytes(),
            file_system: data_dir.and_then(file_system),
        }
    }
}

fn first_line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}

/// The value behind `name … :` in a file of such lines.
fn field_of(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn memory_bytes() -> u64 {
    let total = field_of("/proc/meminfo", "MemTotal").unwrap_or_default();
    total.split(' ').next().and_then(|kibibytes| kibibytes.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn commit() -> Option<String> {
    let program = std::env::current_exe().ok()?;
    let output = Command::new("git")
        .arg("-C")
        .arg(program.parent()?)
        .args(["describe", "--always", "--dirty", "--abbrev=12"])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().to_owned()).filter(|commit| output.status.success() && !commit.is_empty())
}

fn file_system(dir: &Path) -> Option<FileSystem> {
    let dir = dir.canonicalize().ok()?;
    file_system_in(&fs::read_to_string("/proc/self/mounts").ok()?, &dir)
}

/// The mount that `dir` lies on: the deepest that holds it, and of those the last, which hides the others.
fn file_system_in(mounts: &str, dir: &Path) -> Option<FileSystem> {
    let mut best: Option<(usize, FileSystem)> = None;
    for line in mounts.lines() {
        let mut fields = line.split(' ');
        let (Some(device), Some(point), Some(kind), Some(options)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let point = point.replace("\\040", " ");
        if dir.starts_with(&point) && best.as_ref().is_none_or(|(depth, _)| point.len() >= *depth) {
            let found = FileSystem {
                path: dir.display().to_string(),
                kind: kind.to_owned(),
                device: device.to_owned(),
                options: options.to_owned(),
            };
            best = Some((point.len(), found));
        }
    }
    best.map(|(_, found)| found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_mount_wins() {
        let mounts = "/dev/vda / ext4 rw 0 0\ntmpfs /data tmpfs rw,size=1g 0 0\n/dev/vdb /data/my\\040store xfs rw 0 0\n";
        let kind = |dir: &str| file_system_in(mounts, Path::new(dir)).map(|found| found.kind);
        assert_eq!(kind("/home/x").as_deref(), Some("ext4"));
        assert_eq!(kind("/data/other").as_deref(), Some("tmpfs"));
        assert_eq!(kind("/database").as_deref(), Some("ext4"));
        assert_eq!(kind("/data/my store/a").as_deref(), Some("xfs"));
    }

    #[test]
    fn looks_at_this_machine() {
        let machine = Machine::look(Some(Path::new("/")));
        assert!(machine.cores > 0 && machine.memory_bytes > 0 && !machine.kernel.is_empty());
        assert!(machine.file_system.is_some());
    }
}
