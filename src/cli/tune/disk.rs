//! Measures the disk: on a core of the runtime that will write the log, with the same calls. The scratch files have no name any more
//! while they are written, so that nothing of them stays behind however the process ends.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use runtime::executor::{CoreSpec, start_core};
use runtime::file::{Access, File, WriteKind, remove};
use runtime::task::{Signal, spawn};

use super::TuneError;
use super::measurement::{DiskCell, DiskFigure, Extents, Latency, Method};

/// One write of the preparation, bytes.
const CHUNK_BYTES: usize = 1 << 20;

/// Where, for how long and how much is written.
#[derive(Clone, Debug)]
pub(super) struct DiskRun {
    pub(super) folder: PathBuf,
    pub(super) cells: Vec<DiskCell>,
    /// The longest for one cell.
    pub(super) time: Duration,
    /// Size of a scratch file, and the most that one cell writes.
    pub(super) file_bytes: u64,
    /// Set when the user has had enough.
    pub(super) stop: Arc<AtomicBool>,
}

/// Measures every cell in turn, and gives each figure to `found` as it comes.
///
/// # Errors
/// The core does not start, the disk refuses, or the user interrupts.
pub(super) fn measure(
    spec: CoreSpec,
    run: DiskRun,
    mut found: impl FnMut(DiskFigure),
) -> Result<(), TuneError> {
    let (results, figures) = mpsc::channel();
    let backend = spec.backend;
    let thread = start_core(spec, move || async move {
        let ended = run_cells(&run, |cell, per_second, latency| {
            // The main thread listens until this core ends.
            let _ = results.send(Ok(DiskFigure { backend, cell, per_second, latency }));
        });
        if let Err(error) = ended.await {
            let _ = results.send(Err(error));
        }
    })?;
    let mut failed = None;
    for figure in figures {
        match figure {
            Ok(figure) => found(figure),
            Err(error) => failed = Some(error),
        }
    }
    thread.join().map_err(|_| TuneError::CorePanicked)??;
    failed.map_or(Ok(()), |error| match error.kind() {
        io::ErrorKind::Interrupted => Err(TuneError::Interrupted),
        _ => Err(TuneError::Io(error)),
    })
}

async fn run_cells(run: &DiskRun, found: impl Fn(DiskCell, f64, Latency)) -> io::Result<()> {
    let [durable, plain] = prewritten(run).await?;
    for &cell in &run.cells {
        let kind = match cell.method {
            Method::Dsync => WriteKind::Durable,
            Method::Fdatasync | Method::Plain => WriteKind::Plain,
        };
        let (file, fresh) = match (cell.extents, kind) {
            (Extents::Prewritten, WriteKind::Durable) => (Rc::clone(&durable), false),
            (Extents::Prewritten, WriteKind::Plain) => (Rc::clone(&plain), false),
            (Extents::Allocated, kind) => (Rc::new(allocated(run, kind).await?), true),
        };
        let begun = Instant::now();
        let lanes = Lanes::run(&file, cell, run).await;
        let seconds = begun.elapsed().as_secs_f64();
        // What is under way in the device must not be charged to the next cell.
        file.sync().await?;
        if let (true, Some(file)) = (fresh, Rc::into_inner(file)) {
            file.close().await?;
        }
        let nanos = lanes?;
        let per_second = nanos.len() as f64 / seconds;
        if run.stop.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let latency = Latency::of(nanos).ok_or_else(|| io::Error::other("nothing was written"))?;
        found(cell, per_second, latency);
    }
    for file in [durable, plain].map(Rc::into_inner).into_iter().flatten() {
        file.close().await?;
    }
    Ok(())
}

/// One file, written all over, opened with O_DSYNC and without, and then without a name.
async fn prewritten(run: &DiskRun) -> io::Result<[Rc<File>; 2]> {
    let path = run.folder.join("prewritten");
    let file = File::open(&path, Access::Create(WriteKind::Plain)).await?;
    file.allocate(run.file_bytes).await?;
    let zeros = file.zero_buffer(CHUNK_BYTES);
    let mut at = 0;
    while at < run.file_bytes && !run.stop.load(Ordering::Relaxed) {
        file.write_zeros(&zeros, at).await?;
        at += CHUNK_BYTES as u64;
    }
    file.sync().await?;
    file.close().await?;
    let durable = File::open(&path, Access::Write(WriteKind::Durable)).await?;
    let plain = File::open(&path, Access::Write(WriteKind::Plain)).await?;
    remove(&path).await?;
    Ok([durable, plain].map(Rc::new))
}

/// A file with room and no written extent, and without a name.
async fn allocated(run: &DiskRun, kind: WriteKind) -> io::Result<File> {
    let path: &Path = &run.folder.join("allocated");
    let file = File::open(path, Access::Create(kind)).await?;
    remove(path).await?;
    file.allocate(run.file_bytes).await?;
    file.sync().await?;
    Ok(file)
}

/// The writes of one cell: as many tasks as there are writes in flight, one place after the other as in a log.
struct Lanes {
    file: Rc<File>,
    cell: DiskCell,
    file_bytes: u64,
    stop: Arc<AtomicBool>,
    deadline: Instant,
    next: Cell<u64>,
    running: Cell<usize>,
    nanos: RefCell<Vec<u64>>,
    failed: RefCell<Option<io::Error>>,
    ended: Signal,
}

impl Lanes {
    /// The times of all writes, nanoseconds.
    async fn run(file: &Rc<File>, cell: DiskCell, run: &DiskRun) -> io::Result<Vec<u64>> {
        let lanes = Rc::new(Self {
            file: Rc::clone(file),
            cell,
            file_bytes: run.file_bytes,
            stop: Arc::clone(&run.stop),
            deadline: Instant::now() + run.time,
            next: Cell::new(0),
            running: Cell::new(cell.in_flight),
            nanos: RefCell::default(),
            failed: RefCell::default(),
            ended: Signal::default(),
        });
        for _ in 0..cell.in_flight {
            let lanes = Rc::clone(&lanes);
            spawn(async move {
                if let Err(error) = lanes.write().await {
                    lanes.failed.borrow_mut().get_or_insert(error);
                }
                lanes.running.set(lanes.running.get() - 1);
                lanes.ended.raise();
            });
        }
        while lanes.running.get() > 0 {
            lanes.ended.wait().await;
        }
        match lanes.failed.take() {
            Some(error) => Err(error),
            None => Ok(lanes.nanos.take()),
        }
    }

    async fn write(&self) -> io::Result<()> {
        let bytes = self.cell.bytes as u64;
        while self.next.get() + bytes <= self.file_bytes
            && Instant::now() < self.deadline
            && !self.stop.load(Ordering::Relaxed)
        {
            let at = self.next.replace(self.next.get() + bytes);
            let mut buffer = self.file.buffer(self.cell.bytes);
            buffer.as_mut().fill(0x5a);
            let begun = Instant::now();
            self.file.write(buffer, at).await?;
            if self.cell.method == Method::Fdatasync {
                self.file.sync().await?;
            }
            self.nanos.borrow_mut().push(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
        Ok(())
    }
}
