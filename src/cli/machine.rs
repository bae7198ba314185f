//! What /proc and /sys say about this machine. The functions that read are thin; what they read is judged by pure ones.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The folder itself, or the nearest one above it that exists.
pub(super) fn nearest_folder(path: &Path) -> &Path {
    let parents = path.ancestors().filter(|ancestor| !ancestor.as_os_str().is_empty());
    parents.into_iter().find(|ancestor| ancestor.is_dir()).unwrap_or(Path::new("."))
}

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) point: PathBuf,
    /// `ext4`, `xfs`, `overlay` …
    pub(super) kind: String,
    /// Of the mount and of the file system.
    pub(super) options: Vec<String>,
}

impl Mount {
    /// Whether an option is set, alone or with a value.
    pub(super) fn has(&self, option: &str) -> bool {
        self.options.iter().any(|set| set == option)
    }
}

/// The file system on which a folder lies.
///
/// # Errors
/// The folder is not there, or the system does not tell its mounts.
pub(super) fn mount_of(folder: &Path) -> io::Result<Option<Mount>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(mount_above(&mounts, &fs::canonicalize(folder)?))
}

/// The last mount that has the longest mount point above `path`.
fn mount_above(mountinfo: &str, path: &Path) -> Option<Mount> {
    let mounts = mountinfo.lines().filter_map(parse_mount);
    mounts.filter(|mount| path.starts_with(&mount.point)).max_by_key(|mount| mount.point.components().count())
}

/// `36 35 98:0 /root /point options shared:1 - kind source options`
fn parse_mount(line: &str) -> Option<Mount> {
    let (first, second) = line.split_once(" - ")?;
    let mut first = first.split(' ').skip(4);
    let mut second = second.split(' ');
    let point = PathBuf::from(first.next()?.replace("\\040", " "));
    let of_mount = first.next()?;
    let kind = second.next()?.to_owned();
    let of_system = second.nth(1).unwrap_or_default();
    let options = of_mount.split(',').chain(of_system.split(',')).map(str::to_owned).collect();
    Some(Mount { point, kind, options })
}

/// The `queue` folder of the disk under a folder; a partition's is that of its disk. `None` where there is no single disk.
///
/// # Errors
/// The folder is not there.
pub(super) fn block_queue(folder: &Path) -> io::Result<Option<PathBuf>> {
    let (major, minor) = device_numbers(fs::metadata(folder)?.dev());
    let Ok(device) = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")) else { return Ok(None) };
    let candidates = [device.join("queue"), device.join("../queue")];
    Ok(candidates.into_iter().find(|queue| queue.is_dir()))
}

/// As the kernel's `st_dev` is made on Linux.
fn device_numbers(dev: u64) -> (u64, u64) {
    let major = ((dev >> 8) & 0xfff) | ((dev >> 32) & !0xfff);
    let minor = (dev & 0xff) | ((dev >> 12) & !0xff);
    (major, minor)
}

/// CPUs' worth of time that the control group may use; `None` without a limit.
pub(super) fn cpu_quota() -> Option<f64> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let second = folders_above(&groups, "", Path::new("/sys/fs/cgroup"));
    let first = folders_above(&groups, "cpu", Path::new("/sys/fs/cgroup/cpu"));
    let unified = second.iter().filter_map(|folder| parse_cpu_max(&read(folder.join("cpu.max"))?));
    let legacy = first.iter().filter_map(|folder| {
        parse_cfs(&read(folder.join("cpu.cfs_quota_us"))?, &read(folder.join("cpu.cfs_period_us"))?)
    });
    unified.chain(legacy).min_by(f64::total_cmp)
}

/// Memory that a new process may take, bytes: what is available, and what the control group leaves.
///
/// # Errors
/// The system does not tell.
pub(super) fn available_memory() -> io::Result<u64> {
    let available = meminfo_bytes(&fs::read_to_string("/proc/meminfo")?, "MemAvailable").unwrap_or(0);
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let second = folders_above(&groups, "", Path::new("/sys/fs/cgroup"));
    let first = folders_above(&groups, "memory", Path::new("/sys/fs/cgroup/memory"));
    let limit = |file: PathBuf| read(file)?.trim().parse::<u64>().ok();
    let unified = second.iter().filter_map(|folder| limit(folder.join("memory.max")));
    let legacy = first.iter().filter_map(|folder| limit(folder.join("memory.limit_in_bytes")));
    Ok(unified.chain(legacy).fold(available, u64::min))
}

/// A value of /proc/meminfo, bytes.
pub(super) fn meminfo_bytes(meminfo: &str, key: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

/// The text of a small file, without the line's end; `None` where there is none.
pub(super) fn read(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// The folder of this process' control group and those above it. In a container the group's own path may not be visible: then the root is
/// its group.
fn folders_above(groups: &str, controller: &str, root: &Path) -> Vec<PathBuf> {
    let line = groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        controllers.split(',').any(|named| named == controller).then_some(path)
    });
    let Some(path) = line else { return Vec::new() };
    let below = Path::new(path.trim_start_matches('/'));
    below.ancestors().map(|ancestor| root.join(ancestor)).collect()
}

/// `max 100000` or `150000 100000`.
fn parse_cpu_max(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    parse_cfs(quota, period)
}

fn parse_cfs(quota: &str, period: &str) -> Option<f64> {
    let quota: f64 = quota.trim().parse().ok()?;
    let period: f64 = period.trim().parse().ok()?;
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n\
                          30 22 0:40 / /var/my\\040data rw,noatime shared:3 - xfs /dev/vdb rw,prjquota\n\
                          not a mount\n";

    #[test]
    fn the_nearest_mount_is_found_with_the_options_of_both_kinds() {
        let mount = mount_above(MOUNTS, Path::new("/var/my data/store")).unwrap();
        assert_eq!((mount.kind.as_str(), mount.has("noatime"), mount.has("prjquota")), ("xfs", true, true));
        let root = mount_above(MOUNTS, Path::new("/var/my")).unwrap();
        assert_eq!((root.point.as_path(), root.has("discard")), (Path::new("/"), true));
        assert_eq!(mount_above("", Path::new("/")), None);
    }

    #[test]
    fn a_quota_is_in_cpus() {
        assert_eq!(parse_cpu_max("150000 100000\n"), Some(1.5));
        assert_eq!(parse_cpu_max("max 100000"), None);
        assert_eq!(parse_cfs("-1", "100000"), None);
        assert_eq!(parse_cfs("200000", "0"), None);
    }

    #[test]
    fn a_group_has_the_folders_of_all_groups_above_it() {
        let groups = "4:memory:/a/b\n1:cpu,cpuacct:/\n0::/x\n";
        assert_eq!(
            folders_above(groups, "memory", Path::new("/m")),
            ["/m/a/b", "/m/a", "/m"].map(PathBuf::from)
        );
        assert_eq!(folders_above(groups, "", Path::new("/u")), ["/u/x", "/u"].map(PathBuf::from));
        assert!(folders_above(groups, "cpuset", Path::new("/c")).is_empty());
    }

    #[test]
    fn this_machine_answers() {
        let mount = mount_of(Path::new(".")).unwrap().expect("every folder is on a mount");
        assert!(!mount.kind.is_empty());
        assert!(available_memory().unwrap() > 0);
        assert_eq!(meminfo_bytes("MemTotal:  2 kB\nSwapTotal: 0 kB\n", "SwapTotal"), Some(0));
        assert_eq!(device_numbers(0xfe00), (254, 0));
    }
}
