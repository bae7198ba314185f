//! The Prometheus page: what the cores told, under RocketMQ's names where the meaning is the same, under `ringmq_…` otherwise.
//! `docs/metrics.md` says what each is.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use runtime::meter::Distribution;
use serde::{Deserialize, Serialize};

use super::snapshot::{CoreSnapshot, LogSnapshot, Series, ShardSnapshot};
use super::thread_time::ThreadTime;
use super::traffic::SIZE_BUCKETS;

/// The media type of the page.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Powers of two nanoseconds that end the buckets of times: from a microsecond to 17 seconds.
const TIME_POWERS: [u32; 13] = [10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34];
const RECORD_POWERS: [u32; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
const BYTE_POWERS: [u32; 9] = [13, 14, 15, 16, 17, 18, 19, 20, 21];
const NANOS: f64 = 1e9;
const MICROS: f64 = 1e6;

/// A node at one moment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NodeSnapshot {
    /// Since the node's page was started, nanoseconds.
    pub uptime_ns: u64,
    pub resident_bytes: Option<u64>,
    pub cores: Vec<CoreReport>,
}

/// What is known of one core.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CoreReport {
    pub core: usize,
    /// `None` when the core did not answer in time.
    pub snapshot: Option<CoreSnapshot>,
    pub thread_time: Option<ThreadTime>,
    /// The longest time without a turn that the watchdog saw, milliseconds.
    pub longest_stall_ms: u64,
}

impl NodeSnapshot {
    /// The page in OpenMetrics text.
    ///
    /// # Errors
    /// Never in practice: text is written to memory.
    pub fn page(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }

    fn answered(&self) -> impl Iterator<Item = (&CoreReport, &CoreSnapshot)> {
        self.cores.iter().filter_map(|report| Some((report, report.snapshot.as_ref()?)))
    }

    fn logs(&self) -> impl Iterator<Item = (&CoreSnapshot, &LogSnapshot)> {
        self.answered().flat_map(|(_, core)| core.logs.iter().map(move |log| (core, log)))
    }

    fn shards(&self) -> impl Iterator<Item = (&CoreSnapshot, &ShardSnapshot)> {
        self.answered().flat_map(|(_, core)| core.shards.iter().map(move |shard| (core, shard)))
    }

    fn series(&self) -> impl Iterator<Item = (&ShardSnapshot, &Series)> {
        self.shards().filter_map(|(_, shard)| Some((shard, shard.series.as_ref()?)))
    }
}

impl Collector for NodeSnapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        self.encode_traffic(&mut page)?;
        self.encode_clients(&mut page)?;
        self.encode_storage(&mut page)?;
        self.encode_cores(&mut page)?;
        self.encode_log_cores(&mut page)?;
        self.encode_tails(&mut page)
    }
}

type Labels = Vec<(&'static str, String)>;
type Buckets = Vec<(f64, u64)>;

impl NodeSnapshot {
    fn encode_traffic(&self, page: &mut Page<'_>) -> fmt::Result {
        let topics = || {
            self.series().flat_map(|(shard, series)| {
                series.topics.iter().map(move |topic| {
                    let labels = of_broker(
                        shard,
                        [
                            ("topic", topic.topic.clone()),
                            ("message_type", topic.message_type.clone()),
                            ("is_system", topic.is_system.to_string()),
                        ],
                    );
                    (labels, topic)
                })
            })
        };
        page.counters(
            "rocketmq_messages_in",
            "Messages that were stored",
            topics().map(|(labels, topic)| (labels, topic.messages)),
        )?;
        page.counters(
            "rocketmq_throughput_in",
            "Bytes of records that were stored",
            topics().map(|(labels, topic)| (labels, topic.bytes)),
        )?;
        let sizes = topics().map(|(labels, topic)| {
            let ends = SIZE_BUCKETS.iter().map(|end| *end as f64).chain([f64::INFINITY]);
            let buckets = ends.zip(topic.sizes.iter().copied()).collect();
            (labels, Histogram { sum: topic.bytes as f64, count: topic.messages, buckets })
        });
        page.histograms("rocketmq_message_size", "Sizes of the records that were stored, bytes", sizes)?;

        let groups = || {
            self.series().flat_map(|(shard, series)| {
                series.groups.iter().map(move |group| {
                    let labels = of_broker(
                        shard,
                        [
                            ("topic", group.topic.clone()),
                            ("consumer_group", group.group.clone()),
                            ("is_system", group.is_system.to_string()),
                        ],
                    );
                    (labels, group)
                })
            })
        };
        page.counters(
            "rocketmq_messages_out",
            "Messages that were handed out",
            groups().map(|(labels, group)| (labels, group.messages)),
        )?;
        page.counters(
            "rocketmq_throughput_out",
            "Bytes of records that were handed out",
            groups().map(|(labels, group)| (labels, group.bytes)),
        )?;
        page.counters(
            "rocketmq_send_to_dlq_messages",
            "Messages that failed too often",
            groups().map(|(labels, group)| (labels, group.dead_letters)),
        )?;

        let lags = || {
            self.series().flat_map(|(shard, series)| {
                series.lags.iter().map(move |lag| {
                    let labels = of_broker(
                        shard,
                        [
                            ("consumer_group", lag.group.clone()),
                            ("topic", lag.topic.clone()),
                            ("is_retry", lag.is_retry.to_string()),
                            ("is_system", lag.is_system.to_string()),
                        ],
                    );
                    (labels, lag)
                })
            })
        };
        page.gauges(
            "rocketmq_consumer_lag_messages",
            "Messages that a group has not confirmed",
            lags().map(|(labels, lag)| (labels, lag.messages as f64)),
        )?;
        page.gauges(
            "rocketmq_consumer_lag_latency",
            "Time since the oldest message that a group has not confirmed was stored, milliseconds",
            lags().filter_map(|(labels, lag)| Some((labels, lag.latency_ms? as f64))),
        )
    }

    fn encode_clients(&self, page: &mut Page<'_>) -> fmt::Result {
        let remoting = ("protocol_type", "remoting".to_owned());
        let producers = self.series().flat_map(|(shard, series)| {
            let remoting = &remoting;
            series.producers.iter().map(move |client| {
                let labels = of_broker(
                    shard,
                    [
                        ("language", client.language.clone()),
                        ("version", client.version.clone()),
                        remoting.clone(),
                    ],
                );
                (labels, client.connections as f64)
            })
        });
        page.gauges("rocketmq_producer_connections", "Producers that are connected", producers)?;
        let consumers = self.series().flat_map(|(shard, series)| {
            let remoting = &remoting;
            series.consumers.iter().map(move |client| {
                let labels = of_broker(
                    shard,
                    [
                        ("consumer_group", client.group.clone()),
                        ("language", client.language.clone()),
                        ("version", client.version.clone()),
                        ("consume_mode", client.consume_mode.clone()),
                        remoting.clone(),
                        ("is_system", client.is_system.to_string()),
                    ],
                );
                (labels, client.connections as f64)
            })
        });
        page.gauges("rocketmq_consumer_connections", "Consumers that are connected", consumers)?;
        let watermarks = self.shards().map(|(_, shard)| {
            (of_broker(shard, [("processor", "send".to_owned())]), shard.appends_waiting as f64)
        });
        page.gauges("rocketmq_processor_watermark", "Requests that wait for their answer", watermarks)?;
        let by_shard = |value: fn(&ShardSnapshot) -> usize| {
            self.shards().map(move |(_, shard)| (of_broker(shard, []), value(shard) as f64))
        };
        page.gauges("rocketmq_topic_number", "Topics", by_shard(|shard| shard.topics))?;
        page.gauges("rocketmq_consumer_group_number", "Consumer groups", by_shard(|shard| shard.groups))
    }

    fn encode_storage(&self, page: &mut Page<'_>) -> fmt::Result {
        let storage = || [("storage_type", "local".to_owned()), ("storage_medium", "disk".to_owned())];
        let sizes = self.shards().map(|(_, shard)| {
            let bytes = shard.store.confirm_offset.saturating_sub(shard.store.log_min);
            (of_broker(shard, storage()), bytes as f64)
        });
        page.gauges("rocketmq_storage_size", "Bytes of the log that hold messages", sizes)?;
        let cluster = self.shards().next().map_or_else(String::new, |(_, shard)| shard.cluster.clone());
        let behind = self.logs().map(|(_, log)| {
            let labels = broker_labels(&cluster, &log.broker, storage());
            (labels, log.load.flush_behind_bytes as f64)
        });
        page.gauges("rocketmq_storage_flush_behind_bytes", "Placed and not yet durable, bytes", behind)?;
        let behind = self
            .shards()
            .map(|(_, shard)| (of_broker(shard, storage()), shard.store.dispatch_behind_bytes as f64));
        page.gauges(
            "rocketmq_storage_dispatch_behind_bytes",
            "Durable and not yet in the ConsumeQueue files, bytes",
            behind,
        )?;
        let used = self.shards().map(|(_, shard)| (of_broker(shard, storage()), shard.disk_used_ratio));
        page.gauges("ringmq_disk_used_ratio", "How full the disk of the shard is", used)?;
        let reserved = self.series().filter_map(|(shard, series)| {
            Some((of_broker(shard, storage()), series.reserve_time_ms? as f64))
        });
        page.gauges(
            "rocketmq_storage_message_reserve_time",
            "Time since the oldest message was stored, milliseconds",
            reserved,
        )
    }

    fn encode_cores(&self, page: &mut Page<'_>) -> fmt::Result {
        let core = |report: &CoreReport| vec![("core", report.core.to_string())];
        page.gauges(
            "ringmq_core_up",
            "Whether the core answered within the time for it",
            self.cores.iter().map(|report| (core(report), f64::from(report.snapshot.is_some()))),
        )?;
        page.gauges(
            "ringmq_core_longest_stall_seconds",
            "The longest time without a turn that the watchdog saw; 0 below its threshold",
            self.cores.iter().map(|report| (core(report), report.longest_stall_ms as f64 / 1000.0)),
        )?;
        let times = || self.cores.iter().filter_map(|report| Some((core(report), report.thread_time?)));
        page.float_counters(
            "ringmq_core_cpu_seconds",
            "Time that the core's thread was on a CPU",
            times().map(|(labels, time)| (labels, time.cpu_ns as f64 / NANOS)),
        )?;
        page.float_counters(
            "ringmq_core_cpu_wait_seconds",
            "Time that the core was ready to run while something else had its CPU",
            times().map(|(labels, time)| (labels, time.queued_ns as f64 / NANOS)),
        )?;
        let answered = || self.answered().map(|(report, snapshot)| (core(report), snapshot));
        page.float_counters(
            "ringmq_core_busy_seconds",
            "Time in which the core had something to do",
            answered().map(|(labels, core)| (labels, core.load.busy_ns as f64 / NANOS)),
        )?;
        page.counters(
            "ringmq_core_kernel_entries",
            "Times that the core's ring was entered",
            answered().map(|(labels, core)| (labels, core.load.kernel_entries)),
        )?;
        page.counters(
            "ringmq_core_allocations",
            "Times that the core's thread allocated memory, or changed the size of what it had",
            answered().map(|(labels, core)| (labels, core.allocations.count)),
        )?;
        page.counters(
            "ringmq_core_allocated_bytes",
            "Bytes that the core's thread allocated",
            answered().map(|(labels, core)| (labels, core.allocations.bytes)),
        )?;
        let mut times = |name, help, of: fn(&CoreSnapshot) -> &Distribution| {
            page.histograms(name, help, answered().map(|(labels, core)| (labels, seconds(of(core)))))
        };
        times("ringmq_core_turn_seconds", "How long the core ran between two looks at the kernel", |core| {
            &core.load.turns
        })?;
        times("ringmq_core_hop_seconds", "How long messages of other threads to the core took", |core| {
            &core.hops
        })?;
        times("ringmq_core_send_seconds", "From the read of a send until its answer is made", |core| {
            &core.sends
        })?;
        let mut gauge = |name, help, of: fn(&CoreSnapshot) -> usize| {
            page.gauges(name, help, answered().map(|(labels, core)| (labels, of(core) as f64)))
        };
        gauge("ringmq_core_mailbox_messages", "Messages that wait for the core", |core| {
            core.mailbox_messages
        })?;
        gauge("ringmq_core_outgoing_messages", "Messages that other cores have no room for", |core| {
            core.outgoing_messages
        })?;
        gauge("ringmq_core_connections", "Connections", |core| core.connections)?;
        gauge("ringmq_core_in_flight_bytes", "Bytes of requests that are not answered", |core| {
            core.in_flight_bytes
        })?;
        gauge("ringmq_core_unsent_bytes", "Bytes of answers that the kernel has not taken", |core| {
            core.unsent_bytes
        })?;
        gauge("ringmq_core_stages_enabled", "Whether the time of every stage is measured", |core| {
            usize::from(core.stages_on)
        })?;
        let stages = || {
            answered().flat_map(|(labels, core)| core.stages.iter().map(move |stage| (labels.clone(), stage)))
        };
        page.gauges(
            "ringmq_core_stage_seconds",
            "Quantiles of the time of a stage since stages were switched on",
            stages().flat_map(|(labels, stage)| {
                let quantiles = [("0.5", stage.p50_us), ("0.99", stage.p99_us), ("0.999", stage.p999_us)];
                quantiles.map(|(quantile, us)| {
                    let own = [("stage", stage.stage.clone()), ("quantile", quantile.to_owned())];
                    (labels.iter().cloned().chain(own).collect(), us / 1e6)
                })
            }),
        )?;
        page.gauges(
            "ringmq_resident_bytes",
            "Memory of the process that is in RAM",
            self.resident_bytes.map(|bytes| (Labels::new(), bytes as f64)).into_iter(),
        )
    }

    fn encode_log_cores(&self, page: &mut Page<'_>) -> fmt::Result {
        let logs = || self.logs().map(|(core, log)| (of_shard(core, &log.broker), log));
        page.histograms(
            "ringmq_core_group_commit_records",
            "Records that one flush acknowledged",
            logs().map(|(labels, log)| (labels, numbers(&log.load.group_commit_records, &RECORD_POWERS))),
        )?;
        page.histograms(
            "ringmq_core_group_commit_wait_seconds",
            "How long the first record of a flush had waited when it began",
            logs().map(|(labels, log)| (labels, seconds(&log.load.group_commit_wait))),
        )?;
        page.histograms(
            "ringmq_core_flush_seconds",
            "How long a flush took",
            logs().map(|(labels, log)| (labels, seconds(&log.load.flush_time))),
        )?;
        page.histograms(
            "ringmq_core_flush_bytes",
            "Bytes of one flush, padding included",
            logs().map(|(labels, log)| (labels, numbers(&log.load.flush_bytes, &BYTE_POWERS))),
        )?;
        page.counters(
            "ringmq_core_prewrite_waits",
            "Flushes that waited for zeros that were being written in their place",
            logs().map(|(labels, log)| (labels, log.prewrite_waits)),
        )?;
        page.gauges(
            "ringmq_core_log_failed",
            "Whether a write of the log failed: its shard takes nothing any more",
            logs().map(|(labels, log)| (labels, f64::from(log.failed))),
        )?;
        page.gauges(
            "ringmq_core_log_disk_full",
            "Whether the next CommitLog file cannot be made",
            logs().map(|(labels, log)| (labels, f64::from(log.disk_full))),
        )
    }

    fn encode_tails(&self, page: &mut Page<'_>) -> fmt::Result {
        let shards = || self.shards().map(|(core, shard)| (of_shard(core, &shard.broker), shard));
        let mut gauge = |name, help, of: fn(&ShardSnapshot) -> u64| {
            page.gauges(name, help, shards().map(|(labels, shard)| (labels, of(shard) as f64)))
        };
        gauge("ringmq_core_held_pulls", "Pulls that wait for a message", |shard| shard.held_pulls as u64)?;
        gauge("ringmq_core_append_queued_bytes", "Records that wait for a batch, bytes", |shard| {
            shard.append_queued_bytes as u64
        })?;
        gauge(
            "ringmq_core_derived_backlog_entries",
            "Messages that wait for the ConsumeQueue writer",
            |shard| shard.store.derived_backlog_entries,
        )?;
        gauge("ringmq_tail_bytes", "Memory of the hot tail", |shard| shard.store.hot_tail_bytes)?;
        gauge("ringmq_tail_cold_cache_bytes", "Memory of the cache of cold reads", |shard| {
            shard.store.cold.cached_bytes
        })?;
        gauge("ringmq_tail_cold_reads_under_way", "Reads of old data under way", |shard| {
            shard.store.cold.reads_under_way
        })?;
        gauge("ringmq_tail_cold_reads_waiting", "Reads of old data that wait for their turn", |shard| {
            shard.store.cold.reads_waiting
        })?;
        gauge("ringmq_damaged_ranges", "Damaged stretches of the log that are known", |shard| {
            shard.store.damaged_ranges
        })?;
        gauge(
            "ringmq_rebuild_left_bytes",
            "Log to read for ConsumeQueue and index files built anew",
            |shard| shard.store.rebuild_left_bytes,
        )?;
        gauge("ringmq_scrub_position", "Place in the log where the background check is", |shard| {
            shard.store.scrub.position
        })?;
        let mut counter = |name, help, of: fn(&ShardSnapshot) -> u64| {
            page.counters(name, help, shards().map(|(labels, shard)| (labels, of(shard))))
        };
        counter("ringmq_tail_hits", "Pulls whose messages all were in memory", |shard| shard.hot_reads)?;
        counter("ringmq_tail_misses", "Pulls of which something was not in memory", |shard| {
            shard.cold_reads
        })?;
        counter(
            "ringmq_damaged_messages_skipped",
            "Messages that readers went past because they are damaged",
            |shard| shard.store.skipped_messages,
        )?;
        counter(
            "ringmq_consume_queue_entries_healed",
            "Wrong ConsumeQueue entries whose messages were found in the log",
            |shard| shard.store.healed_entries,
        )?;
        counter(
            "ringmq_index_items_wrong",
            "Index items that led a lookup to no record with their key",
            |shard| shard.store.wrong_index_items,
        )?;
        counter(
            "ringmq_scrub_checked_bytes",
            "Bytes of the log that were checked in the background",
            |shard| shard.store.scrub.checked_bytes,
        )?;
        counter("ringmq_scrub_passes", "Times that all of the log was checked in the background", |shard| {
            shard.store.scrub.passes
        })?;
        counter("ringmq_scrub_found", "Damaged stretches that the background check met", |shard| {
            shard.store.scrub.found_ranges
        })?;
        counter("ringmq_tail_cold_cache_hits", "Chunks of old data that were in the cache", |shard| {
            shard.store.cold.cache_hits
        })?;
        counter("ringmq_tail_cold_cache_misses", "Chunks of old data that had to be read", |shard| {
            shard.store.cold.cache_misses
        })?;
        counter("ringmq_tail_cold_read_bytes", "Bytes of old data that were read", |shard| {
            shard.store.cold.read_bytes
        })?;
        page.float_counters(
            "ringmq_tail_cold_rest_seconds",
            "Time that reads of old data made way for writes",
            shards().map(|(labels, shard)| (labels, shard.store.cold.rested_micros as f64 / MICROS)),
        )
    }
}

fn of_broker<const N: usize>(shard: &ShardSnapshot, own: [(&'static str, String); N]) -> Labels {
    broker_labels(&shard.cluster, &shard.broker, own)
}

/// The labels that every metric of RocketMQ's has, and its own.
fn broker_labels<const N: usize>(cluster: &str, broker: &str, own: [(&'static str, String); N]) -> Labels {
    let common =
        [("cluster", cluster.to_owned()), ("node_type", "broker".to_owned()), ("node_id", broker.to_owned())];
    common.into_iter().chain(own).collect()
}

fn of_shard(core: &CoreSnapshot, broker: &str) -> Labels {
    vec![("core", core.core.to_string()), ("node_id", broker.to_owned())]
}

struct Histogram {
    sum: f64,
    count: u64,
    /// Ends, and the values in each bucket alone.
    buckets: Buckets,
}

/// A distribution of nanoseconds, in seconds.
fn seconds(times: &Distribution) -> Histogram {
    let mut histogram = numbers(times, &TIME_POWERS);
    histogram.sum /= NANOS;
    for (end, _) in &mut histogram.buckets {
        *end /= NANOS;
    }
    histogram
}

/// A distribution of whole numbers, in buckets that end below powers of two.
fn numbers(values: &Distribution, powers: &[u32]) -> Histogram {
    let count = values.count();
    let mut before = 0;
    let mut buckets = Buckets::new();
    for &power in powers {
        let below = values.count_below(power);
        buckets.push(((1u64 << power) as f64 - 1.0, below - before));
        before = below;
    }
    buckets.push((f64::INFINITY, count - before));
    Histogram { sum: values.sum as f64, count, buckets }
}

/// Writes families of metrics.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    /// The name is given without `_total`.
    fn counters(
        &mut self,
        name: &str,
        help: &str,
        samples: impl Iterator<Item = (Labels, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in samples {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
        }
        Ok(())
    }

    /// The name is given without `_total`.
    fn float_counters(
        &mut self,
        name: &str,
        help: &str,
        samples: impl Iterator<Item = (Labels, f64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in samples {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
        }
        Ok(())
    }

    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        samples: impl Iterator<Item = (Labels, f64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in samples {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn histograms(
        &mut self,
        name: &str,
        help: &str,
        samples: impl Iterator<Item = (Labels, Histogram)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, histogram) in samples {
            let Histogram { sum, count, buckets } = histogram;
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use runtime::meter::Meter;

    use super::*;
    use crate::metrics::snapshot::TopicSample;

    #[test]
    fn times_and_numbers_are_cut_into_buckets_that_hold_everything_once() {
        let meter = Meter::default();
        [0, 1_000, 5_000, 1 << 40].iter().for_each(|&ns| meter.record(ns));
        let histogram = seconds(&meter.distribution());
        assert_eq!(histogram.buckets.iter().map(|(_, count)| count).sum::<u64>(), 4);
        assert_eq!((histogram.buckets[0].1, histogram.buckets[2].1, histogram.buckets[13].1), (2, 1, 1));
        assert!((histogram.buckets[0].0 - 1.023e-6).abs() < 1e-12);
        let records = Meter::default();
        (1..=4).for_each(|count| records.record(count));
        let histogram = numbers(&records.distribution(), &RECORD_POWERS);
        assert_eq!(histogram.buckets[..3], [(1.0, 1), (3.0, 2), (7.0, 1)]);
    }

    #[test]
    fn a_core_that_does_not_answer_is_on_the_page_and_names_are_escaped() {
        let topic = TopicSample {
            topic: "a\"b\\\n".to_owned(),
            is_system: false,
            message_type: "normal".to_owned(),
            messages: 3,
            bytes: 30,
            sizes: vec![3, 0, 0, 0, 0, 0, 0],
        };
        let series = Series { topics: vec![topic], ..Series::default() };
        let shard =
            ShardSnapshot { series: Some(series), broker: "b-0".to_owned(), ..ShardSnapshot::default() };
        let snapshot = CoreSnapshot { shards: vec![shard], ..CoreSnapshot::default() };
        let report = CoreReport { snapshot: Some(snapshot), ..CoreReport::default() };
        let silent = CoreReport { core: 1, ..CoreReport::default() };
        let page = NodeSnapshot { cores: vec![report, silent], ..NodeSnapshot::default() }.page().unwrap();
        assert!(page.contains("ringmq_core_up{core=\"0\"} 1.0\nringmq_core_up{core=\"1\"} 0.0\n"), "{page}");
        let line = page.lines().find(|line| line.starts_with("rocketmq_messages_in_total")).unwrap();
        assert!(line.contains("node_id=\"b-0\",topic=\"a\\\"b\\\\\\n\"") && line.ends_with("} 3"), "{line}");
        assert!(page.ends_with("# EOF\n"));
    }
}
