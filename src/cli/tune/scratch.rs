//! The folder of the scratch files, beside the data that will lie there. It goes when this value is dropped, on Ctrl-C too; what a killed
//! process has left behind, the next one removes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const PREFIX: &str = ".ringmq-tune-";

/// A folder of our own.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Makes it below `folder`, which exists.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(super) fn make(folder: &Path) -> io::Result<Self> {
        let folder = fs::canonicalize(folder)?;
        remove_left_behind(&folder)?;
        let path = folder.join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("ringmq: cannot remove {}: {error}; remove it by hand", self.0.display());
        }
    }
}

/// Removes the folders of processes that are no more.
fn remove_left_behind(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        // In a container every process may have the number that an earlier one had.
        let is_gone =
            |process| process == std::process::id().to_string() || !Path::new("/proc").join(process).exists();
        if process.is_some_and(is_gone) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_with_its_files_and_with_what_a_killed_one_left() {
        let folder = tempfile::tempdir().unwrap();
        let left = folder.path().join(format!("{PREFIX}{}", u32::MAX));
        fs::create_dir(&left).unwrap();
        fs::write(left.join("file"), "x").unwrap();
        let scratch = Scratch::make(folder.path()).unwrap();
        assert!(!left.exists());
        fs::write(scratch.path().join("file"), "x").unwrap();
        drop(scratch);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
