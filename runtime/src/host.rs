//! What the host offers: io_uring, limits, direct I/O. Asked before the first executor starts, because the runtime would
//! only panic and blame the kernel, and by the `check` command, which tells the cure.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// Why io_uring cannot be used, with the cure.
#[derive(Debug, thiserror::Error)]
pub enum IoUringDenied {
    #[error(
        "io_uring is disabled or blocked (EPERM). Cure: `sysctl kernel.io_uring_disabled=0`; in a container allow io_uring_setup, \
         io_uring_enter and io_uring_register in its seccomp profile"
    )]
    Blocked,
    #[error("this kernel has no io_uring (ENOSYS). Cure: run Linux 5.8 or newer")]
    NoKernelSupport,
    #[error(
        "not enough lockable memory for a ring (ENOMEM). Cure: `ulimit -l unlimited`, LimitMEMLOCK=infinity in the systemd unit, or \
         --ulimit memlock=-1 for a container"
    )]
    Memlock,
    #[error("io_uring_setup failed: {0}")]
    Other(io::Error),
}

/// Connections that may wait at a listener; the kernel's own bound is `net.core.somaxconn`, 4096 unless set.
const BACKLOG: i32 = 4096;

/// Lets more connections wait until they are accepted than the 128 that the standard library asks for: who finds no room comes back a
/// second later, and later still the next time.
///
/// # Errors
/// The system refuses.
pub fn widen_backlog(listener: &TcpListener) -> io::Result<()> {
    socket2::SockRef::from(listener).listen(BACKLOG)
}

/// Tries to make a ring.
///
/// # Errors
/// See [`IoUringDenied`].
pub fn try_io_uring() -> Result<(), IoUringDenied> {
    // The kernel's `struct io_uring_params`: 120 bytes, all zero for a plain ring.
    let mut params = [0u8; 120];
    // SAFETY: `params` outlives the call and has the size that the kernel reads and writes; no other memory is involved.
    let descriptor = unsafe { libc::syscall(libc::SYS_io_uring_setup, 4u32, params.as_mut_ptr()) };
    if let Ok(descriptor) = i32::try_from(descriptor)
        && descriptor >= 0
    {
        // SAFETY: the descriptor was just made and belongs to nobody else.
        unsafe { libc::close(descriptor) };
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => IoUringDenied::Blocked,
        Some(libc::ENOSYS) => IoUringDenied::NoKernelSupport,
        Some(libc::ENOMEM) => IoUringDenied::Memlock,
        _ => IoUringDenied::Other(error),
    })
}

/// A resource limit of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// In force, after it was raised as far as allowed. `u64::MAX` is unlimited.
    pub soft: u64,
    pub hard: u64,
}

/// Which limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Memory that may be locked, bytes: rings and their buffers.
    LockedMemory,
    /// Open descriptors: connections and files.
    OpenFiles,
}

/// Raises the soft limit to the hard one and tells both.
///
/// # Errors
/// The system refuses to tell the limit.
pub fn raise_limit(resource: Resource) -> io::Result<Limit> {
    let kind = match resource {
        Resource::LockedMemory => libc::RLIMIT_MEMLOCK,
        Resource::OpenFiles => libc::RLIMIT_NOFILE,
    };
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the answer.
    if unsafe { libc::getrlimit(kind, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let wanted = libc::rlimit { rlim_cur: limit.rlim_max, rlim_max: limit.rlim_max };
    // SAFETY: `wanted` is a valid limit; a refusal leaves the old one in force.
    if unsafe { libc::setrlimit(kind, &raw const wanted) } == 0 {
        limit = wanted;
    }
    Ok(Limit { soft: limit.rlim_cur, hard: limit.rlim_max })
}

/// The CPUs that this process may run on, in rising order.
///
/// # Errors
/// The system refuses to tell.
pub fn allowed_cpus() -> io::Result<Vec<usize>> {
    // SAFETY: a `cpu_set_t` is a bit set, for which all zeros is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the size is that of the set that is passed.
    if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let bits = 8 * size_of::<libc::cpu_set_t>();
    // SAFETY: every index is below the number of bits in the set.
    Ok((0..bits).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect())
}

/// Makes this thread run on `cpu` only.
///
/// # Errors
/// There is no such CPU, or this process may not use it.
pub(crate) fn pin_to_cpu(cpu: usize) -> io::Result<()> {
    // SAFETY: as in `allowed_cpus`.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    if cpu >= 8 * size_of::<libc::cpu_set_t>() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no such CPU"));
    }
    // SAFETY: the index is below the number of bits in the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the size is that of the set that is passed.
    match unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What direct I/O does in a folder.
#[derive(Clone, Copy, Debug)]
pub struct DirectIo {
    /// The smallest write that the device takes directly, bytes.
    pub block_bytes: usize,
    /// Median time of a 4 KiB direct write to written extents plus fdatasync.
    pub durable_write: Duration,
    /// One in a hundred takes longer.
    pub durable_write_p99: Duration,
}

/// Writes a scratch file in `folder` with direct I/O, measures, and removes it.
///
/// # Errors
/// The folder's file system has no direct I/O (EINVAL), or the write failed.
pub fn try_direct_io(folder: &Path) -> io::Result<DirectIo> {
    const WRITES: usize = 300;
    const TIME_MAX: Duration = Duration::from_secs(2);
    let path = folder.join(format!(".direct-io-probe-{}", std::process::id()));
    let measured = (|| {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .custom_flags(libc::O_DIRECT)
            .open(&path)?;
        let mut memory = vec![1u8; 3 * 4096];
        let skip = memory.as_ptr().align_offset(4096);
        let page = &mut memory[skip..skip + 4096];
        file.write_all_at(page, 0)?;
        file.sync_data()?;
        let smallest = |bytes: &usize| file.write_all_at(&page[..*bytes], 0).is_ok();
        let block_bytes = [512, 1024, 2048, 4096].into_iter().find(smallest).unwrap_or(4096);
        let mut times = Vec::with_capacity(WRITES);
        let begun = Instant::now();
        while times.len() < WRITES && (times.is_empty() || begun.elapsed() < TIME_MAX) {
            let start = Instant::now();
            file.write_all_at(page, 0)?;
            file.sync_data()?;
            times.push(start.elapsed());
        }
        times.sort_unstable();
        let at = |percent: usize| times[(times.len() - 1) * percent / 100];
        Ok(DirectIo { block_bytes, durable_write: at(50), durable_write_p99: at(99) })
    })();
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => measured.and(Err(error)),
        _ => measured,
    }
}

/// How full a file system is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    pub used_bytes: u64,
    /// Free for this process: what is kept for root is neither used nor free.
    pub free_bytes: u64,
}

impl DiskUsage {
    /// The used part of what this process could use, percent, as `df` and RocketMQ count it.
    pub fn used_percent(&self) -> f64 {
        let usable_bytes = self.used_bytes.saturating_add(self.free_bytes).max(1);
        self.used_bytes as f64 * 100.0 / usable_bytes as f64
    }

    /// What it would be, were so many used bytes free.
    #[must_use]
    pub fn without(self, bytes: u64) -> Self {
        let freed = bytes.min(self.used_bytes);
        Self { used_bytes: self.used_bytes - freed, free_bytes: self.free_bytes + freed }
    }
}

/// Bytes free for this process on the file system of `path`.
///
/// # Errors
/// The path cannot be opened.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    disk_usage(path).map(|usage| usage.free_bytes)
}

/// How full the file system of `path` is.
///
/// # Errors
/// The path cannot be opened.
pub fn disk_usage(path: &Path) -> io::Result<DiskUsage> {
    let file = File::open(path)?;
    // SAFETY: a `statvfs` is plain numbers, for which all zeros is valid.
    let mut answer: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open for the length of the call and `answer` is a valid place.
    if unsafe { libc::fstatvfs(file.as_raw_fd(), &raw mut answer) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(DiskUsage {
        used_bytes: answer.f_blocks.saturating_sub(answer.f_bfree) * answer.f_frsize,
        free_bytes: answer.f_bavail * answer.f_frsize,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_can_run_us() {
        try_io_uring().unwrap();
        assert!(!allowed_cpus().unwrap().is_empty());
        let limit = raise_limit(Resource::OpenFiles).unwrap();
        assert_eq!(limit.soft, limit.hard);
    }

    #[test]
    fn direct_io_is_measured_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir_in(".").unwrap();
        let direct = try_direct_io(folder.path()).unwrap();
        assert!(direct.block_bytes <= 4096);
        assert!(direct.durable_write > Duration::ZERO);
        assert!(direct.durable_write_p99 >= direct.durable_write);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(free_bytes(folder.path()).unwrap() > 0);
    }
}
