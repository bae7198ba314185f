//! What a broker tells of itself to who reads metrics. Runs as a task of the serve core and lets requests go on between groups, as there
//! may be many.

use std::collections::BTreeMap;

use runtime::task;
use shards::limits::{METRIC_GROUPS_MAX, METRIC_LAG_QUEUES_MAX};
use shards::message_store::{Get, GetRequest, RecordLookup, TagFilter};
use shards::position::{PhysicalOffset, QueueOffset};
use shards::record::RecordView;

use super::consumer_table::Member;
use super::name::{RETRY_PREFIX, is_system_group};
use super::{BrokerCell, wall_clock_ms};
use crate::metrics::snapshot::{ClientSample, LagSample, Series, ShardSnapshot};
use crate::metrics::traffic::OTHERS;
use crate::remoting::body::heartbeat::ConsumeType;
use crate::remoting::code::{language, version};

/// Looks at the disk that one observation takes to find out how old what a group has not consumed is. Groups beyond have no such time.
const LAG_DISK_READS_MAX: usize = 16;

/// Observes the broker of shard `shard`; what has time series by name only if `with_series`.
pub async fn observe(cell: &BrokerCell, shard: u32, with_series: bool) -> ShardSnapshot {
    let mut snapshot = counters(cell, shard);
    if with_series {
        let mut series = {
            let broker = cell.borrow();
            Series {
                topics: broker.traffic.topic_samples(),
                groups: broker.traffic.group_samples(),
                ..Series::default()
            }
        };
        (series.producers, series.consumers) = clients(cell);
        task::yield_if_needed().await;
        series.lags = lags(cell).await;
        series.reserve_time_ms = oldest_ms(cell).await.map(|oldest_ms| wall_clock_ms() - oldest_ms);
        snapshot.series = Some(series);
    }
    snapshot
}

fn counters(cell: &BrokerCell, shard: u32) -> ShardSnapshot {
    let broker = cell.borrow();
    let (messages_in, messages_out) = broker.traffic.totals();
    ShardSnapshot {
        shard,
        cluster: broker.identity.cluster.clone(),
        broker: broker.identity.broker_name.clone(),
        store: broker.store.load(),
        appends_waiting: broker.appends.waiting(),
        append_queued_bytes: broker.appends.queued_bytes(),
        disk_used_ratio: broker.disk.usage().used_percent() / 100.0,
        held_pulls: broker.held_pulls.len(),
        hot_reads: broker.traffic.hot_reads(),
        cold_reads: broker.traffic.cold_reads(),
        messages_in,
        messages_out,
        topics: broker.topics.len(),
        groups: broker.groups.len(),
        series: None,
    }
}

/// Producers and consumers that are connected, counted by kind.
fn clients(cell: &BrokerCell) -> (Vec<ClientSample>, Vec<ClientSample>) {
    let broker = cell.borrow();
    let mut producers = BTreeMap::new();
    broker.producers.all_members().for_each(|member| count(&mut producers, client("", "", false, member)));
    let mut consumers = BTreeMap::new();
    for (name, group) in broker.consumers.groups() {
        let mode = match group.consume_type {
            ConsumeType::Passively => "push",
            ConsumeType::Actively => "pull",
            ConsumeType::Pop => "pop",
        };
        let is_system = is_system_group(name);
        group.members().for_each(|member| count(&mut consumers, client(name, mode, is_system, member)));
    }
    let samples = |counts: BTreeMap<ClientSample, u64>| {
        counts.into_iter().map(|(client, connections)| ClientSample { connections, ..client }).collect()
    };
    (samples(producers), samples(consumers))
}

fn client(group: &str, consume_mode: &str, is_system: bool, member: &Member) -> ClientSample {
    ClientSample {
        group: group.to_owned(),
        language: language::name(member.language).to_lowercase(),
        version: version::name(member.version).to_lowercase(),
        consume_mode: consume_mode.to_owned(),
        is_system,
        connections: 0,
    }
}

fn count(counts: &mut BTreeMap<ClientSample, u64>, client: ClientSample) {
    let client = if counts.len() < METRIC_GROUPS_MAX || counts.contains_key(&client) {
        client
    } else {
        let others = || OTHERS.to_owned();
        ClientSample { group: others(), language: others(), version: others(), ..client }
    };
    *counts.entry(client).or_default() += 1;
}

/// How far every group is behind, as far as the bound on queues goes.
async fn lags(cell: &BrokerCell) -> Vec<LagSample> {
    let pairs: Vec<(String, String)> = {
        let broker = cell.borrow();
        let pairs = broker.offsets.pairs().take(METRIC_GROUPS_MAX);
        pairs.map(|(topic, group)| (topic.to_owned(), group.to_owned())).collect()
    };
    let (mut queues_left, mut disk_reads_left) = (METRIC_LAG_QUEUES_MAX, LAG_DISK_READS_MAX);
    let mut lags = Vec::with_capacity(pairs.len());
    for (topic, group) in pairs {
        task::yield_if_needed().await;
        let Some(behind) = queues_behind(cell, &topic, &group, &mut queues_left) else { break };
        let mut oldest_ms = Some(i64::MAX);
        for (queue_id, offset, _) in &behind {
            let stored_ms = stored_ms(cell, &topic, *queue_id, *offset, &mut disk_reads_left).await;
            oldest_ms = oldest_ms.zip(stored_ms).map(|(oldest, stored)| oldest.min(stored));
        }
        let latency_ms = oldest_ms.map(|oldest| wall_clock_ms().saturating_sub(oldest).max(0));
        lags.push(LagSample {
            is_retry: topic.starts_with(RETRY_PREFIX),
            is_system: cell.borrow().topics.is_system(&topic) || is_system_group(&group),
            messages: behind.iter().map(|(_, _, messages)| messages).sum(),
            latency_ms: if behind.is_empty() { Some(0) } else { latency_ms },
            topic,
            group,
        });
    }
    lags
}

/// The queues in which a group is behind, with the next message and how many it is behind. `None` when no more queues may be looked
/// at.
fn queues_behind(
    cell: &BrokerCell,
    topic: &str,
    group: &str,
    queues_left: &mut usize,
) -> Option<Vec<(u32, QueueOffset, u64)>> {
    let broker = cell.borrow();
    let Some(offsets) = broker.offsets.queues(group, topic) else { return Some(Vec::new()) };
    *queues_left = queues_left.checked_sub(offsets.len())?;
    let behind = offsets.iter().filter_map(|(&queue_id, &offset)| {
        let queue_id = u32::try_from(queue_id).ok()?;
        let bounds = broker.store.bounds(topic, queue_id)?;
        let next = QueueOffset::from_i64(offset)?.max(bounds.min);
        (next < bounds.max).then(|| (queue_id, next, bounds.max.since(next)))
    });
    Some(behind.collect())
}

/// When a message was stored; `None` when it cannot be read, or only with a look at the disk too many.
async fn stored_ms(
    cell: &BrokerCell,
    topic: &str,
    queue_id: u32,
    offset: QueueOffset,
    disk_reads_left: &mut usize,
) -> Option<i64> {
    let filter = TagFilter::All;
    let request = GetRequest { topic, queue_id, offset, messages_max: 1, bytes_max: 1, filter: &filter };
    let get = cell.borrow().store.get(&request);
    let result = match get {
        Get::Ready(result) => result,
        Get::Cold(cold) => {
            *disk_reads_left = disk_reads_left.checked_sub(1)?;
            cold.run().await.ok()?
        }
    };
    stored_at(result.records.first()?)
}

/// When the oldest message of the log was stored.
async fn oldest_ms(cell: &BrokerCell) -> Option<i64> {
    let log_min = cell.borrow().store.load().log_min;
    if let Some((at, oldest_ms)) = cell.borrow().traffic.oldest.get()
        && at == log_min
    {
        return Some(oldest_ms);
    }
    let lookup = cell.borrow().store.record(PhysicalOffset::new(log_min));
    let record = match lookup {
        RecordLookup::Ready(record) => record,
        RecordLookup::Cold(cold) => cold.run().await.ok()??,
        RecordLookup::None => return None,
    };
    let oldest_ms = stored_at(&record)?;
    cell.borrow().traffic.oldest.set(Some((log_min, oldest_ms)));
    Some(oldest_ms)
}

fn stored_at(record: &[u8]) -> Option<i64> {
    RecordView::parse(record).ok().map(|record| record.store_timestamp_ms())
}
