//! `ringmq check`: whether this host can run a node well, and the cure for what it lacks.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use runtime::host::{self, Resource};
use serde::Serialize;

use super::Output;

/// Below this, rings cannot be made at all.
const LOCKED_MEMORY_BYTES_MIN: u64 = 512 << 10;
const LOCKED_MEMORY_BYTES_GOOD: u64 = 8 << 20;
const OPEN_FILES_GOOD: u64 = 65_536;
const DURABLE_WRITE_SLOW: Duration = Duration::from_millis(2);
/// The oldest kernel whose io_uring does all that the runtime asks for.
const KERNEL_MIN: (u32, u32) = (5, 8);

/// Checks what a node needs of this host; each finding comes with its cure.
///
/// Exits with 1 when something is missing that `ringmq serve` cannot do without.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of the store to check [default: data, or where it will be made].
    #[arg(long, value_name = "DIR", default_value = "data")]
    data: PathBuf,
    /// `json` for scripts.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Good,
    /// It runs, slower or with less than it could.
    Warning,
    /// It does not run.
    Missing,
}

#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    verdict: Verdict,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cure: Option<String>,
}

/// Something is missing.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error("this host cannot run a node; see the cures above")]
    Missing,
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Checks and prints.
///
/// # Errors
/// Something is missing, or the system does not answer.
pub fn run(args: Args) -> Result<(), CheckError> {
    let findings = [
        kernel()?,
        io_uring(),
        locked_memory()?,
        open_files()?,
        cpus()?,
        direct_io(nearest_folder(&args.data)),
    ];
    if args.output == Output::Json {
        println!("{}", serde_json::to_string(&findings).expect("findings are plain text"));
    } else {
        for Finding { what, verdict, found, cure } in &findings {
            let mark = match verdict {
                Verdict::Good => "ok  ",
                Verdict::Warning => "warn",
                Verdict::Missing => "FAIL",
            };
            println!("{mark}  {what:<14} {found}");
            if let Some(cure) = cure {
                println!("      {:<14} cure: {cure}", "");
            }
        }
    }
    if findings.iter().any(|finding| finding.verdict == Verdict::Missing) {
        return Err(CheckError::Missing);
    }
    Ok(())
}

fn finding(
    what: &'static str,
    verdict: Verdict,
    found: impl Into<String>,
    cure: impl Into<String>,
) -> Finding {
    let cure = (verdict != Verdict::Good).then(|| cure.into());
    Finding { what, verdict, found: found.into(), cure }
}

fn kernel() -> std::io::Result<Finding> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let verdict = if version >= KERNEL_MIN { Verdict::Good } else { Verdict::Missing };
    Ok(finding("kernel", verdict, release, format!("run Linux {}.{} or newer", KERNEL_MIN.0, KERNEL_MIN.1)))
}

fn io_uring() -> Finding {
    match host::try_io_uring() {
        Ok(()) => finding("io_uring", Verdict::Good, "allowed", ""),
        Err(error) => {
            Finding { what: "io_uring", verdict: Verdict::Missing, found: error.to_string(), cure: None }
        }
    }
}

fn locked_memory() -> std::io::Result<Finding> {
    let limit = host::raise_limit(Resource::LockedMemory)?.soft;
    let verdict = match limit {
        ..LOCKED_MEMORY_BYTES_MIN => Verdict::Missing,
        LOCKED_MEMORY_BYTES_MIN..LOCKED_MEMORY_BYTES_GOOD => Verdict::Warning,
        _ => Verdict::Good,
    };
    let found = if limit == u64::MAX { "unlimited".to_owned() } else { format!("{} KiB", limit >> 10) };
    Ok(finding(
        "locked memory",
        verdict,
        found,
        "`ulimit -l unlimited`, or LimitMEMLOCK=infinity in the systemd unit",
    ))
}

fn open_files() -> std::io::Result<Finding> {
    let limit = host::raise_limit(Resource::OpenFiles)?.soft;
    let verdict = if limit < OPEN_FILES_GOOD { Verdict::Warning } else { Verdict::Good };
    Ok(finding(
        "open files",
        verdict,
        limit.to_string(),
        format!("`ulimit -n {OPEN_FILES_GOOD}`, or LimitNOFILE in the systemd unit"),
    ))
}

fn cpus() -> std::io::Result<Finding> {
    let cpus = host::allowed_cpus()?;
    let verdict = if cpus.len() < 2 { Verdict::Warning } else { Verdict::Good };
    Ok(finding(
        "CPUs",
        verdict,
        format!("{cpus:?}"),
        "allow two or more, so that flushing and serving do not share one",
    ))
}

fn direct_io(folder: &Path) -> Finding {
    match host::try_direct_io(folder) {
        Ok(direct) => {
            let verdict =
                if direct.durable_write > DURABLE_WRITE_SLOW { Verdict::Warning } else { Verdict::Good };
            let found = format!(
                "{}: blocks of {} bytes, durable 4 KiB write {} us",
                folder.display(),
                direct.block_bytes,
                direct.durable_write.as_micros()
            );
            finding(
                "direct I/O",
                verdict,
                found,
                "use a disk with a fast flush; every acknowledgement waits for one",
            )
        }
        Err(error) => {
            let found = format!("{}: {error}", folder.display());
            finding(
                "direct I/O",
                Verdict::Missing,
                found,
                "put the store on ext4 or xfs (tmpfs and overlay have no direct I/O), writable for this user",
            )
        }
    }
}

/// The folder itself, or the nearest one above it that exists.
fn nearest_folder(path: &Path) -> &Path {
    path.ancestors().find(|ancestor| ancestor.is_dir()).unwrap_or(Path::new("."))
}
