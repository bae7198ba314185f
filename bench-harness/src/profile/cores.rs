//! What each core of a RingMQ node did for a message, from the node's own counters at two moments.

use ringmq::metrics::page::NodeSnapshot;
use ringmq::metrics::snapshot::CoreSnapshot;
use serde::Serialize;

/// All cores of a node.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cores {
    pub cores: Vec<CoreWork>,
    pub logs: Vec<LogWork>,
}

/// One core, per message.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CoreWork {
    pub core: usize,
    /// Time with something to do, microseconds.
    pub busy_us: f64,
    pub kernel_entries: f64,
    pub allocations: f64,
    pub allocated_bytes: f64,
}

/// One log.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LogWork {
    pub broker: String,
    pub flushes: u64,
    pub records_per_flush: f64,
    /// Padding included.
    pub bytes_per_flush: f64,
    pub flush_mean_us: f64,
    pub prewrite_waits: u64,
}

/// What happened between the two, in which `messages` were acknowledged. A core that did not answer is left out.
pub fn work(before: &NodeSnapshot, after: &NodeSnapshot, messages: f64) -> Cores {
    let per_message = |amount: u64| if messages > 0.0 { amount as f64 / messages } else { 0.0 };
    let mut cores = Vec::new();
    let mut logs = Vec::new();
    for (before, after) in pairs(before, after) {
        let spent = |of: fn(&CoreSnapshot) -> u64| per_message(of(after).saturating_sub(of(before)));
        cores.push(CoreWork {
            core: after.core,
            busy_us: spent(|core| core.load.busy_ns) / 1000.0,
            kernel_entries: spent(|core| core.load.kernel_entries),
            allocations: spent(|core| core.allocations.count),
            allocated_bytes: spent(|core| core.allocations.bytes),
        });
        for (before, after) in
            before.logs.iter().zip(&after.logs).filter(|(one, other)| one.shard == other.shard)
        {
            let flushes = after.load.flush_time.since(&before.load.flush_time);
            let records = after.load.group_commit_records.since(&before.load.group_commit_records);
            let bytes = after.load.flush_bytes.since(&before.load.flush_bytes);
            logs.push(LogWork {
                broker: after.broker.clone(),
                flushes: flushes.count(),
                records_per_flush: records.mean(),
                bytes_per_flush: bytes.mean(),
                flush_mean_us: flushes.mean() / 1000.0,
                prewrite_waits: after.prewrite_waits - before.prewrite_waits,
            });
        }
    }
    Cores { cores, logs }
}

fn pairs<'a>(
    before: &'a NodeSnapshot,
    after: &'a NodeSnapshot,
) -> impl Iterator<Item = (&'a CoreSnapshot, &'a CoreSnapshot)> {
    let both = before.cores.iter().zip(&after.cores);
    both.filter_map(|(one, other)| Some((one.snapshot.as_ref()?, other.snapshot.as_ref()?)))
}

impl Cores {
    /// Of all cores.
    pub fn sum(&self, of: fn(&CoreWork) -> f64) -> f64 {
        self.cores.iter().map(of).sum()
    }

    /// What the logs did, in a line.
    pub fn flush_note(&self) -> String {
        let log = |log: &LogWork| {
            format!(
                "{}: {} flushes of {:.1} records and {:.0} bytes, {:.0} us each, {} waited for zeros",
                log.broker,
                log.flushes,
                log.records_per_flush,
                log.bytes_per_flush,
                log.flush_mean_us,
                log.prewrite_waits
            )
        };
        self.logs.iter().map(log).collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use ringmq::metrics::page::CoreReport;

    use super::*;

    fn node(busy_ns: u64, allocations: u64) -> NodeSnapshot {
        let mut snapshot = CoreSnapshot { core: 1, ..CoreSnapshot::default() };
        snapshot.load.busy_ns = busy_ns;
        snapshot.allocations.count = allocations;
        let silent = CoreReport::default();
        let core = CoreReport { core: 1, snapshot: Some(snapshot), ..CoreReport::default() };
        NodeSnapshot { cores: vec![silent, core], ..NodeSnapshot::default() }
    }

    #[test]
    fn counters_become_work_per_message_and_a_silent_core_is_left_out() {
        let work = work(&node(1_000, 10), &node(4_001_000, 2_010), 1000.0);
        let [core] = &work.cores[..] else { panic!("one core answered") };
        assert_eq!((core.core, core.busy_us, core.allocations), (1, 4.0, 2.0));
        assert_eq!(work.sum(|core| core.allocations), 2.0);
    }
}
