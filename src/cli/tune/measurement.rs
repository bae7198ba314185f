//! What `ringmq tune` measures: the cells of its plan, and the figures that come back. Plain data, on no core.

use std::time::Duration;

use runtime::executor::Backend;
use serde::{Serialize, Serializer};

/// Sizes of one write, bytes: from a page to the most that one flush writes.
const SIZES: [usize; 5] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];
const SIZES_QUICK: [usize; 3] = [4 << 10, 64 << 10, 1 << 20];
const IN_FLIGHT: [usize; 4] = [1, 2, 4, 8];
const IN_FLIGHT_QUICK: [usize; 2] = [1, 4];
const METHODS: [Method; 3] = [Method::Dsync, Method::Fdatasync, Method::Plain];
/// Busy polling before a core parks, microseconds; zero parks at once.
const SPINS_US: [u64; 4] = [0, 10, 20, 50];
/// The smallest write that there is.
const SMALL_BYTES: usize = 4 << 10;

/// How a write is made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Method {
    /// One write to a file that was opened with O_DSYNC: what the broker does.
    Dsync,
    /// A write, then an fdatasync.
    Fdatasync,
    /// A write that no one makes durable.
    Plain,
}

impl Method {
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Dsync => "O_DSYNC",
            Self::Fdatasync => "write + fdatasync",
            Self::Plain => "plain (not durable)",
        }
    }
}

/// Where a write goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Extents {
    /// To extents that were written before: what the broker sees, as it prewrites its log.
    Prewritten,
    /// To extents that were only allocated.
    Allocated,
}

impl Extents {
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Prewritten => "prewritten",
            Self::Allocated => "allocated only",
        }
    }
}

/// One way of writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct DiskCell {
    pub(super) extents: Extents,
    pub(super) method: Method,
    /// Bytes of one write.
    pub(super) bytes: usize,
    pub(super) in_flight: usize,
}

impl DiskCell {
    /// What a lone small message waits for; decides between backends.
    pub(super) const SMALL: Self =
        Self { extents: Extents::Prewritten, method: Method::Dsync, bytes: SMALL_BYTES, in_flight: 1 };
}

/// What a way of writing gave.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct DiskFigure {
    #[serde(serialize_with = "as_text")]
    pub(super) backend: Backend,
    #[serde(flatten)]
    pub(super) cell: DiskCell,
    pub(super) per_second: f64,
    #[serde(flatten)]
    pub(super) latency: Latency,
}

impl DiskFigure {
    pub(super) fn bytes_per_second(&self) -> f64 {
        self.per_second * self.cell.bytes as f64
    }
}

/// One way between two cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct HopCell {
    #[serde(serialize_with = "as_text")]
    pub(super) backend: Backend,
    pub(super) from_cpu: usize,
    pub(super) to_cpu: usize,
    pub(super) spin_us: u64,
}

/// Round trips between the mailboxes of two cores, of which each has nothing else to do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct HopFigure {
    #[serde(flatten)]
    pub(super) cell: HopCell,
    #[serde(flatten)]
    pub(super) round_trip: Latency,
}

/// Times of many equal things, microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Latency {
    pub(super) count: usize,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) max_us: f64,
}

impl Latency {
    /// Of times in nanoseconds, in any order; `None` without any.
    pub(super) fn of(mut nanos: Vec<u64>) -> Option<Self> {
        nanos.sort_unstable();
        let last = nanos.len().checked_sub(1)?;
        let at = |percent: usize| nanos[last * percent / 100] as f64 / 1000.0;
        Some(Self { count: nanos.len(), p50_us: at(50), p99_us: at(99), max_us: at(100) })
    }
}

/// Everything that was measured.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Measurements {
    pub(super) disk: Vec<DiskFigure>,
    pub(super) hops: Vec<HopFigure>,
}

impl Measurements {
    pub(super) fn disk(&self, backend: Backend, cell: DiskCell) -> Option<&DiskFigure> {
        self.disk.iter().find(|figure| figure.backend == backend && figure.cell == cell)
    }

    /// The hop from the first core to the second.
    pub(super) fn hop(&self, backend: Backend, spin_us: u64) -> Option<&HopFigure> {
        self.hops.iter().find(|figure| figure.cell.backend == backend && figure.cell.spin_us == spin_us)
    }
}

/// What to measure, and for how long.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// For each backend, the best one first. The others get only what decides between them.
    pub(super) disk: Vec<(Backend, Vec<DiskCell>)>,
    pub(super) hops: Vec<HopCell>,
    /// The longest for one way of writing.
    pub(super) disk_time: Duration,
    pub(super) hop_time: Duration,
    /// The most bytes that one way of writing writes; also the size of each of the two scratch files.
    pub(super) file_bytes: u64,
}

impl Plan {
    /// `backends` are those that this kernel can, the best one first; `cpus` those that may be used.
    pub(super) fn new(quick: bool, backends: &[Backend], cpus: &[usize]) -> Self {
        let best = backends.first().copied();
        let cells = |backend| match (Some(backend) == best, quick) {
            (true, false) => grid(&SIZES, &IN_FLIGHT, &[Extents::Prewritten, Extents::Allocated]),
            (true, true) => {
                let mut cells = grid(&SIZES_QUICK, &IN_FLIGHT_QUICK, &[Extents::Prewritten]);
                cells.extend(grid(&[SMALL_BYTES], &IN_FLIGHT_QUICK, &[Extents::Allocated]));
                cells
            }
            (false, _) => vec![DiskCell::SMALL],
        };
        let mut hops = Vec::new();
        if let [from_cpu, to_cpu, ..] = *cpus {
            for &backend in backends {
                let spins = if Some(backend) == best { &SPINS_US[..] } else { &SPINS_US[..1] };
                hops.extend(spins.iter().map(|&spin_us| HopCell { backend, from_cpu, to_cpu, spin_us }));
            }
        }
        let time = |full: u64, short: u64| Duration::from_millis(if quick { short } else { full });
        Self {
            disk: backends.iter().map(|&backend| (backend, cells(backend))).collect(),
            hops,
            disk_time: time(600, 250),
            hop_time: time(1000, 300),
            file_bytes: if quick { 64 << 20 } else { 128 << 20 },
        }
    }

    /// How many things there are to measure.
    pub(super) fn steps(&self) -> usize {
        self.disk.iter().map(|(_, cells)| cells.len()).sum::<usize>() + self.hops.len()
    }

    /// The most disk space that is in use at once, bytes.
    pub(super) fn space_bytes(&self) -> u64 {
        2 * self.file_bytes
    }
}

fn grid(sizes: &[usize], in_flight: &[usize], extents: &[Extents]) -> Vec<DiskCell> {
    let mut cells = Vec::new();
    for &extents in extents {
        for method in METHODS {
            for &bytes in sizes {
                cells.extend(in_flight.iter().map(|&in_flight| DiskCell {
                    extents,
                    method,
                    bytes,
                    in_flight,
                }));
            }
        }
    }
    cells
}

fn as_text<S: Serializer>(backend: &Backend, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(backend)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_full_plan_has_every_combination_and_both_plans_keep_their_time() {
        let full = Plan::new(false, &Backend::ALL, &[0, 1, 2]);
        assert_eq!(full.disk[0].1.len(), 5 * 4 * 3 * 2);
        assert_eq!(full.hops.len(), SPINS_US.len() + 1);
        let quick = Plan::new(true, &Backend::ALL, &[0, 1]);
        let longest = |plan: &Plan| {
            let cells: usize = plan.disk.iter().map(|(_, cells)| cells.len()).sum();
            plan.disk_time * u32::try_from(cells).unwrap()
                + plan.hop_time * u32::try_from(plan.hops.len()).unwrap()
        };
        assert!(longest(&full) < Duration::from_secs(85), "{:?}", longest(&full));
        assert!(longest(&quick) < Duration::from_secs(9), "{:?}", longest(&quick));
    }

    #[test]
    fn one_cpu_has_no_hop() {
        assert!(Plan::new(true, &[Backend::Glommio], &[3]).hops.is_empty());
    }

    #[test]
    fn percentiles_are_of_the_sorted_times() {
        let latency = Latency::of((1..=101).rev().map(|micros| micros * 1000).collect()).unwrap();
        assert_eq!((latency.p50_us, latency.p99_us, latency.max_us), (51.0, 100.0, 101.0));
        assert_eq!(Latency::of(Vec::new()), None);
    }
}
