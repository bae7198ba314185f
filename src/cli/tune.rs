//! `ringmq tune`: measures disk and cores by the runtime that will use them, and proposes a configuration.
//!
//! [`measurement`] says what is measured, [`disk`] and [`hop`] measure it, [`proposal`] decides, [`report`] prints.

mod disk;
mod hop;
mod measurement;
mod progress;
mod proposal;
mod report;
mod scratch;

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use runtime::executor::{Backend, CoreSpec, write_probe_file};
use runtime::host::{self, IoUringDenied, Resource};
use shards::store_dir::{self, StoreDirError};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::{Output, machine};
use disk::DiskRun;
use measurement::{Measurements, Plan};
use progress::Progress;
use proposal::{Host, NoProposal, propose};
use report::Place;
use scratch::Scratch;

/// Free space that must stay, bytes, besides what is written.
const SPARE_BYTES: u64 = 256 << 20;
const RING_DEPTH: usize = 256;
/// What the shell gives a process that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// Measures the disk and the cores, and proposes a configuration.
///
/// Writes of several sizes, with several in flight, made durable in several ways, and messages between two cores, all through the
/// runtime that `ringmq serve` uses. Takes about a minute (with --quick ten seconds), uses at most 256 MiB of disk space at a time
/// below the data folder and writes at most 16 GiB (--quick: 2 GiB). Measure while nothing else runs.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of the store to tune for; where it is missing, the nearest folder above it.
    #[arg(long, value_name = "DIR", default_value = "data")]
    data: PathBuf,
    /// Fewer sizes and shorter runs: about ten seconds.
    #[arg(long)]
    quick: bool,
    /// Shards of a new store [default: one per core]; an existing store keeps its own.
    #[arg(long)]
    shards: Option<u32>,
    /// Write the configuration into this new file, for `ringmq serve --config`; otherwise it is printed.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// `json` for scripts.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Why nothing was proposed.
#[derive(Debug, thiserror::Error)]
pub enum TuneError {
    #[error("interrupted; the scratch files are removed")]
    Interrupted,
    #[error("{path} is there already; remove it, or choose another file with --write")]
    FileExists { path: PathBuf },
    #[error("cannot write {path}: {source}")]
    Unwritable { path: PathBuf, source: io::Error },
    #[error(
        "{folder} has {free_mib} MiB free, measuring needs {needed_mib}; free some, or measure elsewhere with --data"
    )]
    NoRoom { folder: PathBuf, free_mib: u64, needed_mib: u64 },
    #[error("a node (process {process}) uses the store {data}, and would be measured too; stop it first")]
    InUse { data: PathBuf, process: String },
    #[error("cannot use {folder} for measuring: {source}; choose a writable folder with --data")]
    Folder { folder: PathBuf, source: io::Error },
    #[error("a core panicked; its message is above")]
    CorePanicked,
    #[error(transparent)]
    IoUring(#[from] IoUringDenied),
    #[error(transparent)]
    Store(#[from] StoreDirError),
    #[error(transparent)]
    Nothing(#[from] NoProposal),
    #[error("{0}; `ringmq check` says what this host lacks")]
    Io(#[from] io::Error),
}

/// Measures, prints, and writes the configuration.
///
/// # Errors
/// See [`TuneError`].
pub fn run(args: Args) -> Result<(), TuneError> {
    host::try_io_uring()?;
    if let Some(path) = args.write.as_ref().filter(|path| path.exists()) {
        return Err(TuneError::FileExists { path: path.clone() });
    }
    let store = store_dir::look(&args.data)?;
    if let Some(process) = store.as_ref().and_then(|store| store.user.clone()) {
        return Err(TuneError::InUse { data: args.data, process });
    }
    let host = Host {
        cpus: host::allowed_cpus()?,
        shards: store.map(|store| store.shards).or(args.shards),
        memory_bytes: machine::available_memory()?,
        cpu_quota: machine::cpu_quota(),
    };
    let folder = machine::nearest_folder(&args.data);
    let found = measure(folder, args.quick, &host.cpus)?;
    let proposal = propose(&found, &host)?;
    let file_system =
        machine::mount_of(folder)?.map_or("file system not known".to_owned(), |mount| mount.kind);
    let kernel = machine::read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let data = std::path::absolute(&args.data)?;
    let place = Place { data: &data, file_system: &file_system, kernel: &kernel };
    let toml = report::toml(&proposal, &place);
    if let Some(path) = &args.write {
        write_new(path, &toml)?;
    }
    let mut out = io::stdout().lock();
    if args.output == Output::Json {
        let all = serde_json::json!({
            "data": data, "file_system": file_system, "kernel": kernel, "host": host,
            "measured": found, "proposal": proposal, "toml": toml,
        });
        return Ok(writeln!(out, "{all}")?);
    }
    write!(out, "{}", report::tables(&found))?;
    match &args.write {
        None => writeln!(out, "\nProposed configuration (--write FILE puts it into a file):\n\n{toml}")?,
        Some(path) => {
            writeln!(out)?;
            for remark in &proposal.remarks {
                writeln!(out, "{remark}")?;
            }
            writeln!(out, "The proposed configuration is in {0}: ringmq serve --config {0}", path.display())?;
        }
    }
    Ok(())
}

fn measure(folder: &Path, quick: bool, cpus: &[usize]) -> Result<Measurements, TuneError> {
    let in_folder = |source| TuneError::Folder { folder: folder.to_owned(), source };
    let backends = match Backend::best() {
        Backend::Ring => &Backend::ALL[..],
        Backend::Glommio => &[Backend::Glommio],
    };
    let plan = Plan::new(quick, backends, cpus);
    let needed = plan.space_bytes() + SPARE_BYTES;
    let free = host::free_bytes(folder).map_err(in_folder)?;
    if free < needed {
        let folder = folder.to_owned();
        return Err(TuneError::NoRoom { folder, free_mib: free >> 20, needed_mib: needed >> 20 });
    }
    let stop = stop_on_signals()?;
    let scratch = Scratch::make(folder).map_err(in_folder)?;
    let probe_file = write_probe_file(scratch.path()).map_err(in_folder)?;
    let locked_memory = host::raise_limit(Resource::LockedMemory)?;
    let spec = |backend, cpu, spin_us| CoreSpec {
        name: format!("tune-{cpu}"),
        backend,
        cpu,
        ring_depth: RING_DEPTH,
        spin: Duration::from_micros(spin_us),
        locked_memory_bytes: locked_memory.soft / 2,
        probe_file: probe_file.clone(),
    };
    let mut progress = Progress::new(plan.steps());
    let mut found = Measurements::default();
    let first_cpu = *cpus.first().ok_or(NoProposal::NoCpu)?;
    for &cell in &plan.hops {
        let on = |cpu| spec(cell.backend, cpu, cell.spin_us);
        found.hops.push(hop::measure(cell, on, plan.hop_time, &stop)?);
        progress.step("messages between two cores");
    }
    for (backend, cells) in plan.disk {
        let run = DiskRun {
            folder: scratch.path().to_owned(),
            cells,
            time: plan.disk_time,
            file_bytes: plan.file_bytes,
            stop: Arc::clone(&stop),
        };
        disk::measure(spec(backend, first_cpu, 0), run, |figure| {
            found.disk.push(figure);
            progress.step(&format!(
                "{} writes of {}, {} in flight, {}",
                figure.cell.method.title(),
                proposal::size_text(figure.cell.bytes as u64),
                figure.cell.in_flight,
                figure.cell.extents.title()
            ));
        })?;
    }
    Ok(found)
}

/// A flag that the first Ctrl-C or SIGTERM sets. The second one ends the process.
fn stop_on_signals() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, INTERRUPTED, Arc::clone(&stop))?;
        flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

fn write_new(path: &Path, toml: &str) -> Result<(), TuneError> {
    let written = File::create_new(path).and_then(|mut file| {
        file.write_all(toml.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|source| TuneError::Unwritable { path: path.to_owned(), source })
}
