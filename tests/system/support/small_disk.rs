//! A file system of its own, so small that a test can fill it: an image mounted through a loop device. Needs root.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::disk_dir;

/// Steps in which [`SmallDisk::fill`] takes what is free, bytes.
const STEPS: [u64; 4] = [64 << 20, 1 << 20, 64 << 10, 4 << 10];

/// A mounted ext4 file system. Dropping it unmounts it.
pub(crate) struct SmallDisk {
    dir: TempDir,
    fillers: Vec<PathBuf>,
}

impl SmallDisk {
    /// Makes and mounts one of `mib` MiB; its image takes only what is written.
    ///
    /// # Errors
    /// This process may not mount, or a program is missing: the text says which.
    pub(crate) fn mount(mib: u64) -> Result<Self, String> {
        let dir =
            tempfile::Builder::new().prefix("small-disk-").tempdir_in(disk_dir()).expect("make a folder");
        let (image, root) = (dir.path().join("image"), dir.path().join("root"));
        std::fs::create_dir(&root).expect("make a folder");
        let made = std::fs::File::create(&image).and_then(|file| file.set_len(mib << 20));
        made.expect("make an image");
        run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&root))?;
        Ok(Self { dir, fillers: Vec::new() })
    }

    /// Its root folder.
    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// Takes all space that is left.
    pub(crate) fn fill(&mut self) {
        for step in STEPS {
            loop {
                let filler = self.root().join(format!("filler-{}", self.fillers.len()));
                self.fillers.push(filler.clone());
                if !allocate(&filler, step).expect("run fallocate") {
                    break;
                }
            }
        }
    }

    /// Takes so much of it, bytes.
    pub(crate) fn take(&mut self, bytes: u64) {
        let filler = self.root().join(format!("filler-{}", self.fillers.len()));
        assert!(allocate(&filler, bytes).expect("run fallocate"), "there is room");
        self.fillers.push(filler);
    }

    /// How full it is, percent.
    pub(crate) fn used_percent(&self) -> f64 {
        runtime::host::disk_usage(&self.root()).expect("ask the file system").used_percent()
    }

    /// Gives it back.
    pub(crate) fn free(&mut self) {
        for filler in self.fillers.drain(..) {
            std::fs::remove_file(filler).expect("remove a filler");
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = run(Command::new("umount").arg(self.root()));
        if let Err(reason) = unmounted {
            eprintln!("{} stays mounted: {reason}", self.root().display());
        }
    }
}

/// Whether there was room for `bytes`; the file is there in any case.
fn allocate(path: &Path, bytes: u64) -> io::Result<bool> {
    std::fs::File::create(path)?;
    let allocated = Command::new("fallocate").args(["-l", &bytes.to_string()]).arg(path).output()?;
    Ok(allocated.status.success())
}

fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
