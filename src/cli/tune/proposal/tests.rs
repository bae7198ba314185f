//! Decisions on made-up machines, and that the broker takes what is proposed.

use std::path::Path;

use super::*;
use crate::cli::tune::measurement::{HopCell, HopFigure, Latency};
use crate::cli::tune::report::{Place, toml};
use crate::config::Config;
use crate::config::text::ConfigText;

fn latency(p50_us: f64) -> Latency {
    Latency { count: 100, p50_us, p99_us: p50_us * 2.0, max_us: p50_us * 9.0 }
}

fn write(backend: Backend, cell: DiskCell, per_second: f64, p50_us: f64) -> DiskFigure {
    DiskFigure { backend, cell, per_second, latency: latency(p50_us) }
}

fn hop(backend: Backend, spin_us: u64, p50_us: f64) -> HopFigure {
    let cell = HopCell { backend, from_cpu: 0, to_cpu: 1, spin_us };
    HopFigure { cell, round_trip: latency(p50_us) }
}

/// A fast disk, and cores that are worth spinning for.
fn fast_machine() -> Measurements {
    let small = DiskCell::SMALL;
    Measurements {
        disk: vec![
            write(Backend::Ring, small, 10_000.0, 70.0),
            write(Backend::Ring, DiskCell { in_flight: 4, ..small }, 24_000.0, 150.0),
            write(Backend::Ring, DiskCell { bytes: 256 << 10, ..small }, 7000.0, 140.0),
            write(Backend::Ring, DiskCell { bytes: 1 << 20, ..small }, 1800.0, 500.0),
            write(Backend::Ring, DiskCell { method: Method::Fdatasync, ..small }, 8000.0, 90.0),
            write(Backend::Ring, DiskCell { extents: Extents::Allocated, ..small }, 2000.0, 400.0),
            write(Backend::Glommio, small, 9000.0, 80.0),
        ],
        hops: vec![
            hop(Backend::Ring, 0, 20.0),
            hop(Backend::Ring, 10, 12.0),
            hop(Backend::Ring, 20, 2.0),
            hop(Backend::Ring, 50, 1.9),
            hop(Backend::Glommio, 0, 25.0),
        ],
    }
}

fn host(cpus: usize, shards: Option<u32>) -> Host {
    Host { cpus: (0..cpus).collect(), shards, memory_bytes: 16 << 30, cpu_quota: None }
}

/// The proposal as the broker reads it.
fn as_configured(proposal: &Proposal, cpus: usize) -> Config {
    let place = Place { data: Path::new("/var/lib/a \"b\""), file_system: "ext4", kernel: "6.18" };
    let toml = toml(proposal, &place);
    let text = ConfigText::parse(&toml, "tuned.toml").unwrap_or_else(|error| panic!("{error}\n{toml}"));
    let shards = text.wanted_shards().expect("core tables place shards");
    let cpus: Vec<_> = (0..cpus).collect();
    Config::resolve(text, shards, &cpus).unwrap_or_else(|error| panic!("{error}\n{toml}"))
}

#[test]
fn every_core_with_a_shard_keeps_both_halves_and_parks() {
    let proposal = propose(&fast_machine(), &host(2, None)).unwrap();
    assert_eq!((proposal.placement.value, proposal.spin_us.value), (Placement::CoLocated, 0));
    assert_eq!(proposal.runtime.value, Backend::Ring);
    let config = as_configured(&proposal, 2);
    assert_eq!((config.shards, config.log_core(1), config.serve_core(1)), (2, 1, 1));
    assert_eq!((config.runtime, config.flush), (Some(Backend::Ring), FlushDiskType::SyncFlush));
    assert_eq!(config.data, Path::new("/var/lib/a \"b\""));
}

#[test]
fn a_core_without_a_shard_serves_one_if_the_hop_is_cheaper_than_a_write() {
    let proposal = propose(&fast_machine(), &host(4, Some(2))).unwrap();
    assert_eq!(proposal.placement.value, Placement::Spread);
    // 10 us do not halve the round trip, 20 do.
    assert_eq!(proposal.spin_us.value, 20);
    let config = as_configured(&proposal, 4);
    for shard in 0..2 {
        assert_eq!((config.log_core(shard), config.serve_core(shard)), (shard as usize, shard as usize + 2));
    }
    let mut slow_hops = fast_machine();
    for parked in [0, 4] {
        slow_hops.hops[parked].round_trip = latency(90.0);
    }
    let proposal = propose(&slow_hops, &host(4, Some(2))).unwrap();
    assert_eq!(proposal.placement.value, Placement::CoLocated);
    assert_eq!(proposal.cores.len(), 2, "a core without a half has nothing to do");
    as_configured(&proposal, 4);
}

#[test]
fn any_number_of_shards_and_cores_is_placed_once() {
    for cpus in 1..=9 {
        for shards in 1..=12 {
            let proposal = propose(&fast_machine(), &host(cpus, Some(shards))).unwrap();
            assert_eq!(as_configured(&proposal, cpus).shards, shards, "{cpus} CPUs");
        }
    }
}

#[test]
fn the_other_backend_must_win_clearly() {
    let mut found = fast_machine();
    let with_other = |found: &mut Measurements, p50_us| {
        found.disk.last_mut().unwrap().latency = latency(p50_us);
        propose(found, &host(2, None)).unwrap().runtime.value
    };
    assert_eq!(with_other(&mut found, 60.0), Backend::Ring);
    assert_eq!(with_other(&mut found, 30.0), Backend::Glommio);
}

#[test]
fn blocks_are_as_large_as_the_disk_rewards_and_as_many_as_it_takes_in_a_moment() {
    let proposal = propose(&fast_machine(), &host(2, None)).unwrap();
    // 7000 x 256 KiB is 97 % of 1800 x 1 MiB.
    assert_eq!(proposal.block_bytes.value, 256 << 10);
    // 1800 MiB/s for 20 ms.
    assert_eq!(proposal.blocks.value, 144);
    let config = as_configured(&proposal, 2);
    assert_eq!(config.cores[0].write_buffers.block_bytes, 256 << 10);
    assert_eq!(config.cores[0].write_buffers.count, 144);
}

#[test]
fn the_hot_tail_is_a_share_of_the_memory_that_there_is() {
    let hot_tail = |memory_bytes, shards| {
        let host = Host { memory_bytes, ..host(2, Some(shards)) };
        let proposal = propose(&fast_machine(), &host).unwrap();
        as_configured(&proposal, 2).cores.iter().map(|core| core.hot_tail_bytes as u64).sum::<u64>()
    };
    assert_eq!(hot_tail(8 << 30, 2), (1 << 30) - (32 << 20));
    assert_eq!(hot_tail(1 << 40, 2), 2 * HOT_TAIL_BYTES_MAX);
    assert_eq!(hot_tail(100 << 20, 4), HOT_TAIL_BYTES as u64);
}

#[test]
fn a_cpu_quota_limits_the_cores_and_forbids_polling() {
    let host = Host { cpu_quota: Some(2.5), ..host(4, Some(1)) };
    let proposal = propose(&fast_machine(), &host).unwrap();
    assert_eq!((proposal.placement.value, proposal.cores.len()), (Placement::Spread, 2));
    assert_eq!(proposal.spin_us.value, 0);
    assert!(proposal.remarks[0].contains("2.5 CPUs"), "{:?}", proposal.remarks);
    let host = Host { cpu_quota: Some(0.5), ..host };
    assert_eq!(propose(&fast_machine(), &host).unwrap().cores.len(), 1);
}

#[test]
fn what_no_key_changes_is_remarked() {
    let mut found = fast_machine();
    let remarks = |found: &Measurements| propose(found, &host(2, None)).unwrap().remarks.join("\n");
    let fast = remarks(&found);
    assert!(
        fast.contains("only allocated takes 400 us") && !fast.contains("FUA") && !fast.contains("ms here")
    );
    for small in [0, 6] {
        found.disk[small].latency = latency(8000.0);
    }
    let slow = remarks(&found);
    assert!(slow.contains("takes 8.0 ms here") && slow.contains("no FUA"), "{slow}");
}

#[test]
fn nothing_is_proposed_from_nothing() {
    assert_eq!(propose(&Measurements::default(), &host(2, None)), Err(NoProposal::NoDurableWrite));
    assert_eq!(propose(&fast_machine(), &host(0, None)), Err(NoProposal::NoCpu));
}
