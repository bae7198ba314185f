//! The kernel: its version, what each runtime needs of it, and whether io_uring is allowed.

use std::fs;
use std::io;

use runtime::executor::Backend;
use runtime::host::{self, IoUringDenied};

use super::{Finding, Verdict};
use crate::cli::machine;

/// The oldest kernels whose io_uring does all that a backend asks for.
const GLOMMIO_MIN: (u32, u32) = (5, 8);
const RING_MIN: (u32, u32) = (6, 1);

pub(super) fn findings(wanted: Option<Backend>) -> io::Result<Vec<Finding>> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
    let allowed =
        ring_allowed(host::try_io_uring(), machine::read("/proc/sys/kernel/io_uring_disabled").as_deref());
    let is_allowed = allowed.verdict != Verdict::Missing;
    let mut findings = vec![kernel(&release, wanted), allowed];
    // Without io_uring no backend is offered, which has been said.
    if is_allowed {
        findings.push(backend(Backend::best(), wanted));
    }
    Ok(findings)
}

fn kernel(release: &str, wanted: Option<Backend>) -> Finding {
    let mut numbers = release.split(['.', '-']).map(|number| number.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let least = if wanted == Some(Backend::Ring) { RING_MIN } else { GLOMMIO_MIN };
    let [needed, better] = [least, RING_MIN].map(|(major, minor)| format!("Linux {major}.{minor} or newer"));
    match version {
        _ if version < least => Finding::missing("kernel", release, format!("run {needed}")),
        _ if version < RING_MIN => Finding::warning(
            "kernel",
            format!("{release}: enough for the runtime `glommio`"),
            format!("run {better}, for the runtime `ring`, which takes less CPU time per message"),
        ),
        _ => Finding::good("kernel", release),
    }
}

fn ring_allowed(tried: Result<(), IoUringDenied>, sysctl: Option<&str>) -> Finding {
    let set = match sysctl {
        Some("1") => "; kernel.io_uring_disabled=1: only for processes of its group or with CAP_SYS_ADMIN",
        Some("2") => "; kernel.io_uring_disabled=2: for nobody",
        _ => "",
    };
    match tried {
        Ok(()) => Finding::good("io_uring", format!("allowed{set}")),
        Err(error) => {
            let text = error.to_string();
            let (found, cure) =
                text.split_once(" Cure: ").unwrap_or((&text, "see io_uring_setup(2) for this error"));
            Finding::missing("io_uring", format!("{}{set}", found.trim_end_matches('.')), cure)
        }
    }
}

fn backend(best: Backend, wanted: Option<Backend>) -> Finding {
    match (wanted, best) {
        (Some(Backend::Ring), Backend::Glommio) => Finding::missing(
            "runtime",
            "`ring` is configured, and this kernel does not give it its ring",
            "run Linux 6.1 or newer, or set runtime = \"glommio\"",
        ),
        (None, Backend::Glommio) => Finding::warning(
            "runtime",
            "`glommio`: this kernel does not give `ring` its ring",
            "run Linux 6.1 or newer",
        ),
        (wanted, best) => Finding::good("runtime", format!("`{}`", wanted.unwrap_or(best))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_are_told_what_they_can_run() {
        let verdict = |release, wanted| kernel(release, wanted).verdict;
        assert_eq!(verdict("6.18.44-fc-v595", None), Verdict::Good);
        assert_eq!(verdict("5.15.0-91-generic", None), Verdict::Warning);
        assert_eq!(verdict("5.15.0-91-generic", Some(Backend::Ring)), Verdict::Missing);
        assert_eq!(verdict("5.4.0", None), Verdict::Missing);
        assert_eq!(verdict("what", None), Verdict::Missing);
        assert_eq!(backend(Backend::Glommio, Some(Backend::Ring)).verdict, Verdict::Missing);
        assert_eq!(backend(Backend::Ring, Some(Backend::Glommio)).found, "`glommio`");
    }

    #[test]
    fn what_forbids_the_ring_is_told_with_its_cure() {
        let denied = ring_allowed(Err(IoUringDenied::Blocked), Some("2"));
        assert_eq!(denied.verdict, Verdict::Missing);
        assert!(denied.found.contains("kernel.io_uring_disabled=2"), "{denied:?}");
        assert!(denied.cure.is_some_and(|cure| cure.contains("seccomp")));
        assert_eq!(ring_allowed(Ok(()), Some("0")), Finding::good("io_uring", "allowed"));
    }
}
