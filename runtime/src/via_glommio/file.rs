//! Opening of files on a core of glommio's.

use std::io;
use std::path::Path;

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

pub(crate) async fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = Directory::open(dir).await?;
    dir.sync().await?;
    Ok(dir.close().await?)
}
