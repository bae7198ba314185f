//! Opening of files on a core of glommio's.

use std::io;
use std::path::Path;

use glommio::GlommioError;
use glommio::io::{Directory, DmaFile, OpenOptions};

use crate::file::Access;

/// A core must have opened its probe file (see [`crate::executor::write_probe_file`]) before it opens one of these.
pub(crate) async fn open(path: &Path, access: Access) -> io::Result<DmaFile> {
    let mut options = OpenOptions::new();
    options.read(true).write(access != Access::Read).custom_flags(access.sync_flag());
    if matches!(access, Access::Create(_)) {
        options.create(true).truncate(true).mode(0o644);
    }
    Ok(options.dma_open(path).await?)
}

/// The error with the number that the system gave it, by which callers tell a broken place from a full disk.
pub(crate) fn io_error(error: GlommioError<()>) -> io::Error {
    match error.raw_os_error() {
        Some(number) => io::Error::from_raw_os_error(number),
        None => error.into(),
    }
}

pub(crate) async fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = Directory::open(dir).await?;
    dir.sync().await?;
    Ok(dir.close().await?)
}
