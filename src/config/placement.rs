//! Which shard half lives on which core: as the `[[core]]` tables say, or both halves together by default. A pure function.

use std::time::Duration;

use serde::Deserialize;
use shards::limits;

use super::text::{ConfigText, CoreText};
use super::{ConfigError, CoreConfig, WriteBuffers, bytes, in_range, value_error};

/// How shards are laid over cores when no `[[core]]` tables say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// Both halves of a shard on one core: no hop between them. Won when both were measured, see
    /// `docs/decisions/0001-placement.md`.
    #[default]
    CoLocated,
    /// The log of shard `s` on core `s`, its clients on the next: one hot shard can use two cores.
    Spread,
}

/// Cores that do not add up.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    #[error("shard {shard} has its {half} on {count} cores; list it in `{half}` of exactly one [[core]]")]
    NotOnce { shard: u32, half: &'static str, count: usize },
    #[error("CPU {cpu} is given to two [[core]] tables; give each its own")]
    CpuTwice { cpu: usize },
    #[error("CPU {cpu} is not one that this process may use ({allowed:?})")]
    CpuNotAllowed { cpu: usize, allowed: Vec<usize> },
    #[error("cores = {wanted}, but this process may use {allowed} CPUs")]
    TooManyCores { wanted: usize, allowed: usize },
    #[error("cores = {cores}, but there are {tables} [[core]] tables; leave `cores` out or make them agree")]
    CountMismatch { cores: usize, tables: usize },
}

/// The cores of a node, every shard placed.
///
/// # Errors
/// See [`PlacementError`]; a value out of its range.
pub(super) fn resolve(
    text: &ConfigText,
    shards: u32,
    allowed_cpus: &[usize],
) -> Result<Vec<CoreConfig>, ConfigError> {
    if text.core.is_empty() {
        return by_default(text, shards, allowed_cpus);
    }
    if let Some(cores) = text.cores.filter(|&cores| cores != text.core.len()) {
        return Err(PlacementError::CountMismatch { cores, tables: text.core.len() }.into());
    }
    let cores = text.core.iter().map(one_core).collect::<Result<Vec<_>, _>>()?;
    for (index, core) in cores.iter().enumerate() {
        if !allowed_cpus.contains(&core.cpu) {
            return Err(
                PlacementError::CpuNotAllowed { cpu: core.cpu, allowed: allowed_cpus.to_vec() }.into()
            );
        }
        if cores[..index].iter().any(|earlier| earlier.cpu == core.cpu) {
            return Err(PlacementError::CpuTwice { cpu: core.cpu }.into());
        }
    }
    for shard in 0..shards {
        for half in ["log", "serve"] {
            let listed = cores.iter().flat_map(|core| if half == "log" { &core.log } else { &core.serve });
            let count = listed.filter(|&&listed| listed == shard).count();
            if count != 1 {
                return Err(PlacementError::NotOnce { shard, half, count }.into());
            }
        }
    }
    Ok(cores)
}

fn by_default(
    text: &ConfigText,
    shards: u32,
    allowed_cpus: &[usize],
) -> Result<Vec<CoreConfig>, ConfigError> {
    let count = text.cores.unwrap_or(allowed_cpus.len());
    in_range("cores", count, 1, usize::MAX)?;
    if count > allowed_cpus.len() {
        return Err(PlacementError::TooManyCores { wanted: count, allowed: allowed_cpus.len() }.into());
    }
    let serve_distance = match text.placement.unwrap_or_default() {
        Placement::Spread => 1,
        Placement::CoLocated => 0,
    };
    let shards_where = |core: usize, distance: usize| {
        (0..shards).filter(|&shard| (shard as usize + distance) % count == core).collect::<Vec<_>>()
    };
    let table = |(core, &cpu): (usize, &usize)| {
        one_core(&CoreText {
            cpu,
            log: shards_where(core, 0),
            serve: shards_where(core, serve_distance),
            hot_tail: text.hot_tail,
            spin: text.spin,
            ..CoreText::default()
        })
    };
    allowed_cpus[..count].iter().enumerate().map(table).collect()
}

fn one_core(text: &CoreText) -> Result<CoreConfig, ConfigError> {
    let ring_depth = text.ring_depth.unwrap_or(256);
    in_range("ring_depth", ring_depth, 8, 4096)?;
    let defaults = WriteBuffers::default();
    let write_buffers = text.write_buffers.map_or(defaults, |buffers| WriteBuffers {
        block_bytes: bytes(buffers.size, defaults.block_bytes),
        count: buffers.count.unwrap_or(defaults.count),
    });
    in_range("write_buffers.size", write_buffers.block_bytes, 64 << 10, 64 << 20)?;
    if !write_buffers.block_bytes.is_multiple_of(4096) {
        return Err(value_error(
            "write_buffers.size",
            write_buffers.block_bytes,
            "must be a multiple of 4096",
        ));
    }
    let hot_tail_bytes = bytes(text.hot_tail, limits::HOT_TAIL_BYTES * text.serve.len().max(1));
    in_range("hot_tail", hot_tail_bytes, write_buffers.block_bytes, usize::MAX)?;
    let spin = text.spin.map_or(Duration::ZERO, |spin| spin.0);
    in_range("spin in microseconds", spin.as_micros(), 0, 10_000)?;
    Ok(CoreConfig {
        cpu: text.cpu,
        log: text.log.clone(),
        serve: text.serve.clone(),
        ring_depth,
        write_buffers,
        hot_tail_bytes,
        spin,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn config(toml: &str, cpus: &[usize]) -> Result<Config, ConfigError> {
        let text = ConfigText::parse(toml, "test.toml").unwrap();
        let shards = text.wanted_shards().unwrap_or_else(|| text.default_shards(cpus));
        Config::resolve(text, shards, cpus)
    }

    #[test]
    fn spread_puts_log_and_clients_of_a_shard_on_two_cores() {
        let config = config("placement = 'spread'", &[4, 5, 7]).unwrap();
        assert_eq!(config.shards, 3);
        assert_eq!(config.cores.iter().map(|core| core.cpu).collect::<Vec<_>>(), [4, 5, 7]);
        for shard in 0..3 {
            assert_eq!(config.log_core(shard), shard as usize);
            assert_eq!(config.serve_core(shard), (shard as usize + 1) % 3);
        }
    }

    #[test]
    fn by_default_no_shard_needs_a_hop_and_one_core_hosts_all_shards() {
        let two = config("", &[0, 1]).unwrap();
        assert_eq!(two.cores[1].log, two.cores[1].serve);
        let one = config("cores = 1\nshards = 5", &[0, 1]).unwrap();
        assert_eq!(one.cores[0].log, [0, 1, 2, 3, 4]);
        assert_eq!(one.cores[0].serve, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn core_tables_place_every_shard_once() {
        let table = "[[core]]\ncpu = 1\nlog = [0]\nserve = [1]\nhot_tail = '256MiB'\nspin = '10us'\n\
                     [[core]]\ncpu = 0\nlog = [1]\nserve = [0]\nwrite_buffers = { size = '2MiB', count = 8 }\n";
        let config = config(table, &[0, 1]).unwrap();
        assert_eq!((config.shards, config.log_core(0), config.serve_core(0)), (2, 0, 1));
        assert_eq!(config.cores[0].hot_tail_bytes, 256 << 20);
        assert_eq!(config.cores[0].spin, Duration::from_micros(10));
        assert_eq!(config.cores[1].write_buffers, WriteBuffers { block_bytes: 2 << 20, count: 8 });
    }

    #[test]
    fn tables_that_do_not_add_up_are_named() {
        let error = |toml: &str| config(toml, &[0, 1]).unwrap_err().to_string();
        assert_eq!(
            error("[[core]]\ncpu = 0\nlog = [0]\nserve = []"),
            "shard 0 has its serve on 0 cores; list it in `serve` of exactly one [[core]]"
        );
        assert!(error("[[core]]\ncpu = 3\nlog = [0]\nserve = [0]").starts_with("CPU 3 is not one"));
        assert!(error("cores = 9").starts_with("cores = 9, but this process may use 2"));
        assert!(error("shards = 0").starts_with("shards = 0: must be from 1"));
        assert!(error("port = 65535\nshards = 2").starts_with("shards = 2: must be from 1 to 1"));
    }
}
