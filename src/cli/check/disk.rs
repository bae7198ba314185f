//! The disk below the data folder: direct I/O, how long a durable write takes, the file system and the device.

use std::io;
use std::path::Path;

use runtime::host::{self, DirectIo};

use super::{Finding, chosen};
use crate::cli::machine::{self, Mount};

const DURABLE_WRITE_SLOW_US: u128 = 2000;
const DURABLE_TAIL_SLOW_US: u128 = 20_000;

pub(super) fn findings(folder: &Path) -> io::Result<Vec<Finding>> {
    let mut findings = match host::try_direct_io(folder) {
        Ok(direct) => vec![direct_io(folder, &direct), durable_write(&direct)],
        Err(error) => vec![Finding::missing(
            "direct I/O",
            format!("{}: {error}", folder.display()),
            "put the store on ext4 or xfs (tmpfs has no direct I/O, overlay not always), writable for this user",
        )],
    };
    findings.push(match machine::mount_of(folder)? {
        Some(mount) => file_system(&mount),
        None => Finding::good("file system", "not known"),
    });
    if let Some(queue) = machine::block_queue(folder)? {
        let text = |file: &str| machine::read(queue.join(file)).unwrap_or_default();
        findings.push(write_cache(&text("write_cache"), &text("fua")));
        findings.push(scheduler(chosen(&text("scheduler")), &text("rotational")));
    }
    Ok(findings)
}

fn direct_io(folder: &Path, direct: &DirectIo) -> Finding {
    Finding::good("direct I/O", format!("{}: blocks of {} bytes", folder.display(), direct.block_bytes))
}

fn durable_write(direct: &DirectIo) -> Finding {
    let [p50, p99] = [direct.durable_write, direct.durable_write_p99].map(|time| time.as_micros());
    let found = format!("4 KiB and fdatasync: p50 {p50} us, p99 {p99} us");
    if p50 > DURABLE_WRITE_SLOW_US || p99 > DURABLE_TAIL_SLOW_US {
        let cure = "use a disk with power-loss protection and nothing else on it: every acknowledgement waits for a flush";
        return Finding::warning("durable write", found, cure);
    }
    Finding::good("durable write", found)
}

fn file_system(mount: &Mount) -> Finding {
    let found = format!("{} at {}", mount.kind, mount.point.display());
    let with = |what: &str| format!("{found}, {what}");
    match mount.kind.as_str() {
        "tmpfs" | "ramfs" => {
            Finding::missing("file system", with("in memory"), "put the store on a disk: ext4 or xfs")
        }
        "overlay" => Finding::warning(
            "file system",
            with("a container's layer"),
            "mount a volume for the data folder: what is in the layer goes with the container",
        ),
        "btrfs" | "zfs" | "bcachefs" => Finding::warning(
            "file system",
            with("copy on write"),
            "use ext4 or xfs: here prewriting the log does not save the journal, and each flush writes a tree",
        ),
        "nfs" | "nfs4" | "cifs" | "smb3" | "9p" | "fuse" | "virtiofs" => Finding::warning(
            "file system",
            with("not a local disk"),
            "use a local disk: locks, direct I/O and durability depend on another machine here",
        ),
        _ if mount.has("data=journal") => Finding::warning(
            "file system",
            with("data=journal"),
            "mount with data=ordered: otherwise all data is written twice, and direct I/O is not direct",
        ),
        _ if mount.has("nobarrier") || mount.has("barrier=0") => Finding::warning(
            "file system",
            with("without barriers"),
            "mount with barriers: otherwise acknowledged messages may not survive a power cut",
        ),
        _ if mount.has("sync") || mount.has("dirsync") => Finding::warning(
            "file system",
            with("sync"),
            "mount without sync: what must be durable is made so",
        ),
        _ if mount.has("discard") => Finding::warning(
            "file system",
            with("discard"),
            "mount without discard and run fstrim by a timer: removing old log files can stall writes meanwhile",
        ),
        _ => Finding::good("file system", found),
    }
}

fn write_cache(cache: &str, fua: &str) -> Finding {
    let found = format!("{cache}, {}", if fua == "1" { "FUA writes" } else { "no FUA writes" });
    if cache == "write back" && fua != "1" {
        let cure = "a durable write is a write and a flush of the whole cache here; a disk with power-loss protection needs neither";
        return Finding::warning("write cache", found, cure);
    }
    Finding::good("write cache", found)
}

fn scheduler(name: &str, rotational: &str) -> Finding {
    let found = format!("{name}, rotational={rotational}");
    match (name, rotational) {
        ("bfq" | "cfq", _) | ("mq-deadline" | "kyber", "0") => Finding::warning(
            "disk scheduler",
            found,
            "`echo none > /sys/block/DISK/queue/scheduler`: sorting writes costs time and gains nothing on this disk",
        ),
        _ => Finding::good("disk scheduler", found),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::check::Verdict;

    fn mount(kind: &str, options: &str) -> Finding {
        file_system(&Mount {
            point: "/data".into(),
            kind: kind.to_owned(),
            options: options.split(',').map(str::to_owned).collect(),
        })
    }

    #[test]
    fn file_systems_and_their_options_are_judged() {
        assert_eq!(mount("ext4", "rw,relatime").verdict, Verdict::Good);
        assert_eq!(mount("xfs", "rw").verdict, Verdict::Good);
        assert_eq!(mount("tmpfs", "rw").verdict, Verdict::Missing);
        for (kind, options, told) in [
            ("ext4", "rw,discard", "fstrim"),
            ("ext4", "rw,data=journal", "data=ordered"),
            ("ext4", "rw,nobarrier", "power cut"),
            ("btrfs", "rw", "ext4 or xfs"),
            ("overlay", "rw", "volume"),
            ("nfs4", "rw", "local disk"),
        ] {
            let finding = mount(kind, options);
            assert_eq!(finding.verdict, Verdict::Warning, "{kind} {options}");
            assert!(finding.cure.as_ref().is_some_and(|cure| cure.contains(told)), "{finding:?}");
        }
    }

    #[test]
    fn devices_are_judged() {
        assert_eq!(write_cache("write through", "0").verdict, Verdict::Good);
        assert_eq!(write_cache("write back", "1").verdict, Verdict::Good);
        assert_eq!(write_cache("write back", "0").verdict, Verdict::Warning);
        assert_eq!(scheduler("none", "0").verdict, Verdict::Good);
        assert_eq!(scheduler("mq-deadline", "1").verdict, Verdict::Good);
        assert_eq!(scheduler("mq-deadline", "0").verdict, Verdict::Warning);
        assert_eq!(scheduler("bfq", "1").verdict, Verdict::Warning);
    }

    #[test]
    fn slow_flushes_are_told() {
        let direct = |p50, p99| {
            let [durable_write, durable_write_p99] = [p50, p99].map(Duration::from_micros);
            durable_write_verdict(DirectIo { block_bytes: 512, durable_write, durable_write_p99 })
        };
        assert_eq!(direct(90, 400), Verdict::Good);
        assert_eq!(direct(5000, 6000), Verdict::Warning);
        assert_eq!(direct(90, 60_000), Verdict::Warning);
    }

    fn durable_write_verdict(direct: DirectIo) -> Verdict {
        durable_write(&direct).verdict
    }
}
