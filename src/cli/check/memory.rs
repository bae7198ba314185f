//! Memory and limits: what may be locked, how many files may be open, large pages, swap.

use std::io;

use runtime::executor::Backend;
use runtime::host::{self, Resource};

use super::{Finding, chosen};
use crate::cli::machine;

/// What the ring of one core takes at its default depth, measured: 96 KiB were enough. Processes with CAP_IPC_LOCK have no limit there.
const RING_LOCKED_BYTES_PER_CORE: u64 = 128 << 10;
/// Below this the other runtime makes no core, whatever the process may.
const GLOMMIO_LOCKED_BYTES: u64 = 512 << 10;
const LOCKED_MEMORY_BYTES_GOOD: u64 = 8 << 20;
/// The bit of this capability, as in capability.h.
const CAP_IPC_LOCK: u32 = 14;
const OPEN_FILES_GOOD: u64 = 65_536;
const SWAPPINESS_GOOD: u64 = 10;

pub(super) fn findings(backend: Backend, cores: usize) -> io::Result<Vec<Finding>> {
    let meminfo = machine::read("/proc/meminfo").unwrap_or_default();
    let swappiness = machine::read("/proc/sys/vm/swappiness").and_then(|text| text.parse().ok());
    let mut findings = vec![
        locked_memory(host::raise_limit(Resource::LockedMemory)?.soft, backend, cores, may_lock_anything()),
        open_files(host::raise_limit(Resource::OpenFiles)?.soft),
        swap(machine::meminfo_bytes(&meminfo, "SwapTotal").unwrap_or(0), swappiness),
    ];
    let mode = machine::read("/sys/kernel/mm/transparent_hugepage/enabled");
    findings.extend(mode.map(|mode| huge_pages(chosen(&mode))));
    Ok(findings)
}

fn locked_memory(limit: u64, backend: Backend, cores: usize, may_lock_anything: bool) -> Finding {
    const CURE: &str = "`ulimit -l unlimited`, LimitMEMLOCK=infinity in the systemd unit, --ulimit memlock=-1 for a container";
    let found = if limit == u64::MAX { "unlimited".to_owned() } else { format!("{} KiB", limit >> 10) };
    let needed = match backend {
        Backend::Ring if may_lock_anything => {
            return Finding::good("locked memory", format!("{found}, and CAP_IPC_LOCK"));
        }
        Backend::Ring => RING_LOCKED_BYTES_PER_CORE * cores as u64,
        Backend::Glommio => GLOMMIO_LOCKED_BYTES,
    };
    if limit < needed {
        let found = format!("{found}; {cores} cores on the runtime `{backend}` need {} KiB", needed >> 10);
        return Finding::missing("locked memory", found, CURE);
    }
    if limit < LOCKED_MEMORY_BYTES_GOOD {
        return Finding::warning("locked memory", found, CURE);
    }
    Finding::good("locked memory", found)
}

/// Whether this process has CAP_IPC_LOCK.
fn may_lock_anything() -> bool {
    machine::read("/proc/self/status").is_some_and(|status| has_capability(&status, CAP_IPC_LOCK))
}

fn has_capability(status: &str, bit: u32) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    bits.is_some_and(|bits| bits >> bit & 1 == 1)
}

fn open_files(limit: u64) -> Finding {
    if limit < OPEN_FILES_GOOD {
        let cure =
            format!("`ulimit -n {OPEN_FILES_GOOD}`, or LimitNOFILE={OPEN_FILES_GOOD} in the systemd unit");
        return Finding::warning("open files", limit.to_string(), cure);
    }
    Finding::good("open files", limit.to_string())
}

fn swap(swap_bytes: u64, swappiness: Option<u64>) -> Finding {
    if swap_bytes == 0 {
        return Finding::good("swap", "none");
    }
    let found = format!(
        "{} MiB, vm.swappiness={}",
        swap_bytes >> 20,
        swappiness.map_or("(not known)".to_owned(), |value| value.to_string())
    );
    if swappiness.is_some_and(|value| value > SWAPPINESS_GOOD) {
        let cure = "`sysctl vm.swappiness=1`: a core whose memory is swapped out stalls all its clients";
        return Finding::warning("swap", found, cure);
    }
    Finding::good("swap", found)
}

fn huge_pages(mode: &str) -> Finding {
    if mode == "always" {
        let cure = "`echo madvise > /sys/kernel/mm/transparent_hugepage/enabled`: gathering large pages in the background can stall a core";
        return Finding::warning("huge pages", "transparent: always", cure);
    }
    Finding::good("huge pages", format!("transparent: {mode}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::Verdict;

    #[test]
    fn limits_are_judged_by_what_a_core_needs() {
        let verdict = |limit, backend, all| locked_memory(limit, backend, 4, all).verdict;
        assert_eq!(verdict(0, Backend::Ring, true), Verdict::Good);
        assert_eq!(verdict(0, Backend::Ring, false), Verdict::Missing);
        assert_eq!(verdict(512 << 10, Backend::Ring, false), Verdict::Warning);
        assert_eq!(verdict(256 << 10, Backend::Glommio, true), Verdict::Missing);
        assert_eq!(verdict(u64::MAX, Backend::Glommio, false), Verdict::Good);
        assert!(has_capability("CapPrm:\t0\nCapEff:\t0000000000004000\n", CAP_IPC_LOCK));
        assert!(!has_capability("CapEff:\t000001ffffffbfff\n", CAP_IPC_LOCK));
        assert_eq!(open_files(1024).verdict, Verdict::Warning);
        assert_eq!(open_files(1 << 20).verdict, Verdict::Good);
    }

    #[test]
    fn swap_matters_only_where_there_is_some_and_the_kernel_likes_it() {
        assert_eq!(swap(0, Some(60)).verdict, Verdict::Good);
        assert_eq!(swap(1 << 30, Some(60)).verdict, Verdict::Warning);
        assert_eq!(swap(1 << 30, Some(1)).verdict, Verdict::Good);
        assert_eq!(huge_pages("always").verdict, Verdict::Warning);
        assert_eq!(huge_pages("madvise").verdict, Verdict::Good);
    }
}
