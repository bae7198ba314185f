//! What to configure, from what was measured. Pure: the same measurements give the same proposal, and every choice says why.

use runtime::executor::Backend;
use serde::Serialize;
use shards::limits::{COLD_CACHE_BYTES, FLUSH_BYTES_MAX, HOT_TAIL_BYTES};

use super::measurement::{DiskCell, DiskFigure, Extents, Measurements, Method};
use crate::config::FlushDiskType;
use crate::config::placement::Placement;

/// The better backend must win by this factor to displace the default one.
const WIN: f64 = 1.1;
/// A size or a depth is enough when it gives this share of the best.
const ENOUGH: f64 = 0.9;
/// Busy polling must bring the hop down to this share of that between parked cores.
const SPIN_PAYS: f64 = 0.5;
const RING_DEPTH: usize = 256;
const RING_DEPTH_MAX: usize = 1024;
/// Requests of sockets, timers and reads that a ring holds for each write in flight.
const ENTRIES_PER_WRITE: usize = 64;
const BLOCK_BYTES_MIN: usize = 256 << 10;
/// Unused blocks are kept for as much as the disk takes in this time.
const BLOCKS_SECONDS: f64 = 0.02;
const BLOCKS: std::ops::RangeInclusive<usize> = 16..=256;
/// The share of the memory that recent messages may take, of all cores together.
const HOT_TAIL_SHARE: u64 = 8;
const HOT_TAIL_BYTES_MAX: u64 = 1 << 30;
/// Beyond this a durable write is slow enough to say so.
const DURABLE_SLOW_US: f64 = 2000.0;

/// What the choice depends on besides the measurements.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Host {
    /// Those that may be used.
    pub(super) cpus: Vec<usize>,
    /// Shards of the store that is there, or that was asked for.
    pub(super) shards: Option<u32>,
    /// Memory that may be taken, bytes.
    pub(super) memory_bytes: u64,
    /// CPUs' worth of time that the control group may use.
    pub(super) cpu_quota: Option<f64>,
}

/// A value, and what speaks for it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Chosen<T> {
    pub(super) value: T,
    pub(super) because: String,
}

/// A configuration.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Proposal {
    #[serde(serialize_with = "backend_text")]
    pub(super) runtime: Chosen<Backend>,
    #[serde(serialize_with = "placement_text")]
    pub(super) placement: Chosen<Placement>,
    #[serde(serialize_with = "flush_text")]
    pub(super) flush: Chosen<FlushDiskType>,
    pub(super) ring_depth: Chosen<usize>,
    /// Bytes of a block.
    pub(super) block_bytes: Chosen<usize>,
    pub(super) blocks: Chosen<usize>,
    /// Bytes per shard that is served on a core.
    pub(super) hot_tail_bytes: Chosen<u64>,
    pub(super) spin_us: Chosen<u64>,
    pub(super) cores: Vec<Core>,
    /// What the user should know of, beyond keys.
    pub(super) remarks: Vec<String>,
}

/// One `[[core]]` table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Core {
    pub(super) cpu: usize,
    pub(super) log: Vec<u32>,
    pub(super) serve: Vec<u32>,
}

/// What cannot be proposed for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoProposal {
    #[error("this process may use no CPU; allow one (taskset, cpuset)")]
    NoCpu,
    #[error("no durable write was measured")]
    NoDurableWrite,
}

/// Chooses.
///
/// # Errors
/// See [`NoProposal`].
pub(super) fn propose(found: &Measurements, host: &Host) -> Result<Proposal, NoProposal> {
    let runtime = choose_runtime(found)?;
    let durable = *found.disk(runtime.value, DiskCell::SMALL).ok_or(NoProposal::NoDurableWrite)?;
    // The grid was measured on the first backend only; the disk is the same.
    let grid =
        found.disk.iter().filter(|figure| Some(figure.backend) == found.disk.first().map(|f| f.backend));
    let is_log_write =
        |f: &&DiskFigure| (f.cell.extents, f.cell.method) == (Extents::Prewritten, Method::Dsync);
    let log_writes: Vec<_> = grid.filter(is_log_write).copied().collect();
    let mut remarks = Vec::new();
    let cpus = usable_cpus(host, &mut remarks)?;
    let shards = host.shards.unwrap_or(u32::try_from(cpus.len()).unwrap_or(u32::MAX)).max(1);
    let placement = choose_placement(found, runtime.value, &durable, shards, cpus.len());
    let best = log_writes.iter().map(DiskFigure::bytes_per_second).fold(0.0, f64::max);
    let block_bytes = choose_block(&log_writes, best);
    remarks.extend(remarks_on_the_disk(found, &durable));
    Ok(Proposal {
        spin_us: choose_spin(found, runtime.value, placement.value, host),
        ring_depth: choose_ring_depth(&log_writes),
        blocks: choose_blocks(block_bytes.value, best),
        block_bytes,
        hot_tail_bytes: choose_hot_tail(host.memory_bytes, shards, best),
        flush: choose_flush(found, &durable),
        cores: lay_out(cpus, shards, placement.value),
        runtime,
        placement,
        remarks,
    })
}

fn choose_runtime(found: &Measurements) -> Result<Chosen<Backend>, NoProposal> {
    let mut candidates: Vec<(Backend, f64, String)> = Vec::new();
    for figure in found.disk.iter().filter(|figure| figure.cell == DiskCell::SMALL) {
        let hop = found.hop(figure.backend, 0).map(|hop| hop.round_trip.p50_us);
        let cost = figure.latency.p50_us + hop.unwrap_or(0.0);
        let mut text = format!("{}: durable 4 KiB p50 {:.0} us", figure.backend, figure.latency.p50_us);
        if let Some(hop) = hop {
            text += &format!(", mailbox round trip p50 {hop:.1} us");
        }
        candidates.push((figure.backend, cost, text));
    }
    // The first one is the one that the broker takes by itself.
    let &(first, cost, _) = candidates.first().ok_or(NoProposal::NoDurableWrite)?;
    let better = candidates.iter().filter(|(_, other, _)| other * WIN < cost);
    let value = better.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(first, |(backend, ..)| *backend);
    let texts: Vec<_> = candidates.into_iter().map(|(_, _, text)| text).collect();
    Ok(Chosen { value, because: texts.join("; ") })
}

/// As many CPUs as there is time for.
fn usable_cpus<'a>(host: &'a Host, remarks: &mut Vec<String>) -> Result<&'a [usize], NoProposal> {
    if host.cpus.is_empty() {
        return Err(NoProposal::NoCpu);
    }
    let Some(quota) = host.cpu_quota else { return Ok(&host.cpus) };
    let count = (1..=host.cpus.len()).rev().find(|&count| count as f64 <= quota).unwrap_or(1);
    if count < host.cpus.len() {
        remarks.push(format!(
            "The control group gives {quota:.1} CPUs' worth of time, so {count} of {} CPUs get a core: a core that is throttled stalls \
             its clients for tens of milliseconds.",
            host.cpus.len()
        ));
    }
    Ok(&host.cpus[..count])
}

fn choose_placement(
    found: &Measurements,
    backend: Backend,
    durable: &DiskFigure,
    shards: u32,
    cores: usize,
) -> Chosen<Placement> {
    if shards as usize >= cores {
        let because = format!(
            "{shards} shards on {cores} cores: every core has a shard, a hop between halves would only cost CPU"
        );
        return Chosen { value: Placement::CoLocated, because };
    }
    let Some(hop) = found.hop(backend, 0) else {
        return Chosen { value: Placement::CoLocated, because: "there is no second core".to_owned() };
    };
    let [round_trip, write] = [hop.round_trip.p50_us, durable.latency.p50_us];
    let figures = format!(
        "{shards} shards on {cores} cores; the two hops cost {round_trip:.1} us, a durable write {write:.0} us"
    );
    if round_trip < write {
        Chosen { value: Placement::Spread, because: format!("{figures}: a second core per shard pays") }
    } else {
        Chosen { value: Placement::CoLocated, because: format!("{figures}: the hops would dominate") }
    }
}

/// Log halves on the first cores; the clients of a shard beside its log, or on a core of their own as far as there are any.
fn lay_out(cpus: &[usize], shards: u32, placement: Placement) -> Vec<Core> {
    let count = u32::try_from(cpus.len()).unwrap_or(u32::MAX);
    let distance = match placement {
        Placement::CoLocated => 0,
        Placement::Spread => shards,
    };
    let on = |core: u32, distance: u32| {
        (0..shards)
            .filter(|&shard| (u64::from(shard) + u64::from(distance)) % u64::from(count) == u64::from(core))
            .collect()
    };
    let core = |(core, &cpu)| Core { cpu, log: on(core, 0), serve: on(core, distance) };
    // A core without a half has nothing to do.
    (0..).zip(cpus).map(core).filter(|core| !core.log.is_empty() || !core.serve.is_empty()).collect()
}

fn choose_spin(found: &Measurements, backend: Backend, placement: Placement, host: &Host) -> Chosen<u64> {
    let mut figures = found.hops.iter().filter(|figure| figure.cell.backend == backend).collect::<Vec<_>>();
    figures.sort_by_key(|figure| figure.cell.spin_us);
    let told: Vec<_> = figures
        .iter()
        .map(|figure| format!("{} us: {:.1} us", figure.cell.spin_us, figure.round_trip.p50_us))
        .collect();
    let told = if told.is_empty() {
        "no hop measured".to_owned()
    } else {
        format!("round trip with {}", told.join(", "))
    };
    let park = |why: &str| Chosen { value: 0, because: format!("{told}; {why}") };
    if placement == Placement::CoLocated {
        return park("no message hops between cores here, so a core parks at once");
    }
    if host.cpu_quota.is_some() {
        return park("busy polling would use up the CPU quota");
    }
    let parked =
        figures.iter().find(|figure| figure.cell.spin_us == 0).map(|figure| figure.round_trip.p50_us);
    let pays = |spun: f64| parked.is_some_and(|parked| spun <= parked * SPIN_PAYS);
    match figures.iter().find(|figure| figure.cell.spin_us > 0 && pays(figure.round_trip.p50_us)) {
        Some(figure) => Chosen {
            value: figure.cell.spin_us,
            because: format!("{told}; the shortest that halves the round trip"),
        },
        None => park("none halves the round trip"),
    }
}

fn choose_ring_depth(log_writes: &[DiskFigure]) -> Chosen<usize> {
    let small = |figure: &&DiskFigure| figure.cell.bytes == DiskCell::SMALL.bytes;
    let mut by_depth: Vec<_> = log_writes.iter().filter(small).collect();
    by_depth.sort_by_key(|figure| figure.cell.in_flight);
    let best = by_depth.iter().map(|figure| figure.per_second).fold(0.0, f64::max);
    let enough = by_depth.iter().find(|figure| figure.per_second >= best * ENOUGH);
    let depth = enough.map_or(1, |figure| figure.cell.in_flight);
    let told: Vec<_> = by_depth
        .iter()
        .map(|figure| format!("{} in flight {:.0}/s", figure.cell.in_flight, figure.per_second))
        .collect();
    Chosen {
        value: (depth * ENTRIES_PER_WRITE).next_power_of_two().clamp(RING_DEPTH, RING_DEPTH_MAX),
        because: format!(
            "durable 4 KiB writes: {}; {ENTRIES_PER_WRITE} entries for each of the {depth} that the disk makes use of, at least \
             {RING_DEPTH}",
            told.join(", ")
        ),
    }
}

fn choose_block(log_writes: &[DiskFigure], best: f64) -> Chosen<usize> {
    let mut by_size: Vec<_> = log_writes.iter().filter(|figure| figure.cell.in_flight == 1).collect();
    by_size.sort_by_key(|figure| figure.cell.bytes);
    let enough = by_size.iter().find(|figure| figure.bytes_per_second() >= best * ENOUGH);
    let bytes = enough.map_or(FLUSH_BYTES_MAX, |figure| figure.cell.bytes);
    let told: Vec<_> = by_size
        .iter()
        .map(|figure| {
            format!("{} {}/s", size_text(figure.cell.bytes as u64), bytes_text(figure.bytes_per_second()))
        })
        .collect();
    Chosen {
        value: bytes.clamp(BLOCK_BYTES_MIN, FLUSH_BYTES_MAX),
        because: format!(
            "durable, one in flight: {}; the smallest with {:.0} % of the best, from {} to {}",
            told.join(", "),
            ENOUGH * 100.0,
            size_text(BLOCK_BYTES_MIN as u64),
            size_text(FLUSH_BYTES_MAX as u64)
        ),
    }
}

fn choose_blocks(block_bytes: usize, best: f64) -> Chosen<usize> {
    let wanted = best * BLOCKS_SECONDS / block_bytes as f64;
    let value = BLOCKS.clone().find(|&count| count as f64 >= wanted).unwrap_or(*BLOCKS.end());
    let millis = (value * block_bytes) as f64 / best.max(1.0) * 1000.0;
    let because =
        format!("{value} unused blocks are what the disk takes in {millis:.0} ms at {}/s", bytes_text(best));
    Chosen { value, because }
}

fn choose_hot_tail(memory_bytes: u64, shards: u32, best: f64) -> Chosen<u64> {
    let shards = u64::from(shards);
    let share = (memory_bytes / HOT_TAIL_SHARE).saturating_sub(shards * COLD_CACHE_BYTES as u64) / shards;
    // Whole mebibytes, for who reads it.
    let value = (share >> 20 << 20).clamp(HOT_TAIL_BYTES as u64 / 4, HOT_TAIL_BYTES_MAX);
    let because = format!(
        "per shard, about an eighth of {} of memory in all; {:.1} s of writing as fast as the disk can",
        size_text(memory_bytes >> 20 << 20),
        (value * shards) as f64 / best.max(1.0)
    );
    Chosen { value, because }
}

/// Durability is not for sale here: what the other mode would bring is said, and that it is the user's choice.
fn choose_flush(found: &Measurements, durable: &DiskFigure) -> Chosen<FlushDiskType> {
    let plain = found.disk(durable.backend, DiskCell { method: Method::Plain, ..DiskCell::SMALL });
    let other = plain.map_or(String::new(), |plain| {
        format!(
            " ASYNC_FLUSH would wait for {:.0} us, and lose up to half a second with the power.",
            plain.latency.p50_us
        )
    });
    Chosen {
        value: FlushDiskType::SyncFlush,
        because: format!(
            "a message is acknowledged when it is on the disk: 4 KiB take p50 {:.0} us, p99 {:.0} us.{other}",
            durable.latency.p50_us, durable.latency.p99_us
        ),
    }
}

fn remarks_on_the_disk(found: &Measurements, durable: &DiskFigure) -> Vec<String> {
    let mut remarks = Vec::new();
    let p50 = durable.latency.p50_us;
    if p50 > DURABLE_SLOW_US {
        remarks.push(format!(
            "A durable write takes {:.1} ms here. Every acknowledgement waits for one: use a disk with power-loss protection, or many \
             senders, which share a write.",
            p50 / 1000.0
        ));
    }
    let p50_of = |cell| found.disk(durable.backend, cell).map(|figure| figure.latency.p50_us);
    if let Some(other) = p50_of(DiskCell { method: Method::Fdatasync, ..DiskCell::SMALL })
        && other * WIN < p50
    {
        remarks.push(format!(
            "write + fdatasync ({other:.0} us) is faster here than the O_DSYNC write ({p50:.0} us) that the broker uses: the device has no \
             FUA writes, or emulates them. `ringmq check` shows its write cache."
        ));
    }
    if let Some(other) = p50_of(DiskCell { extents: Extents::Allocated, ..DiskCell::SMALL })
        && other > p50 * WIN
    {
        remarks.push(format!(
            "A durable write to extents that were only allocated takes {other:.0} us, to written ones {p50:.0} us: this is what prewriting \
             the log brings."
        ));
    }
    remarks
}

/// `64 KiB`, `1 MiB`.
pub(super) fn size_text(bytes: u64) -> String {
    match bytes {
        _ if bytes >= 1 << 30 && bytes.is_multiple_of(1 << 30) => format!("{} GiB", bytes >> 30),
        _ if bytes >= 1 << 20 && bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ => format!("{} KiB", bytes >> 10),
    }
}

/// `2.9 GiB`, `41 MiB`.
pub(super) fn bytes_text(bytes: f64) -> String {
    let mebibytes = bytes / f64::from(1 << 20);
    if mebibytes >= 1024.0 { format!("{:.1} GiB", mebibytes / 1024.0) } else { format!("{mebibytes:.0} MiB") }
}

fn backend_text<S: serde::Serializer>(chosen: &Chosen<Backend>, serializer: S) -> Result<S::Ok, S::Error> {
    text(chosen.value.to_string(), chosen, serializer)
}

fn placement_text<S: serde::Serializer>(
    chosen: &Chosen<Placement>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    text(placement_name(chosen.value).to_owned(), chosen, serializer)
}

fn flush_text<S: serde::Serializer>(
    chosen: &Chosen<FlushDiskType>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    text(flush_name(chosen.value).to_owned(), chosen, serializer)
}

fn text<T, S: serde::Serializer>(
    value: String,
    chosen: &Chosen<T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    Chosen { value, because: chosen.because.clone() }.serialize(serializer)
}

/// As the configuration spells it.
pub(super) const fn placement_name(placement: Placement) -> &'static str {
    match placement {
        Placement::CoLocated => "co-located",
        Placement::Spread => "spread",
    }
}

/// As the configuration spells it.
pub(super) const fn flush_name(flush: FlushDiskType) -> &'static str {
    match flush {
        FlushDiskType::SyncFlush => "SYNC_FLUSH",
        FlushDiskType::AsyncFlush => "ASYNC_FLUSH",
    }
}

#[cfg(test)]
mod tests;
