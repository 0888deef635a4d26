//! Every metric of a running topology: name, unit, help, labels.
//!
//! Label values come from the specification (topics, partitions, datasets, rules, clouds), never from records, so
//! that the number of series is bounded by what a person wrote.

use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};

/// Upper bounds of the commit latency histogram, seconds.
const LATENCY_BUCKETS_S: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0];

/// Upper bounds of the group size histogram.
const GROUP_SIZE_BUCKETS: [f64; 7] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];

/// The metrics of one running topology.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    /// Kafka records consumed, by topic.
    pub records: IntCounterVec,
    /// Bytes of keys and payloads consumed, by topic.
    pub record_bytes: IntCounterVec,
    /// Rows by dataset, outcome and rule, counted when they are decided.
    pub rows: IntCounterVec,
    /// Records between the position and the end of the partition, by topic and partition.
    pub consumer_lag: IntGaugeVec,
    /// Decided commits.
    pub commits: IntCounter,
    /// Batches read again because they were not stored or were stale.
    pub batches_retried: IntCounter,
    /// From the end of a batch to its decision.
    pub commit_latency: Histogram,
    /// When the last commit was decided, seconds since the Unix epoch.
    pub last_commit: Gauge,
    /// Bytes of Parquet staged, by dataset.
    pub file_bytes: IntCounterVec,
    /// Decisions a cloud has not published yet, by cloud.
    pub replication_lag: IntGaugeVec,
    /// Bytes uploaded, by cloud.
    pub cloud_bytes: IntGaugeVec,
    /// Whether a cloud answers, by cloud.
    pub cloud_up: IntGaugeVec,
    /// Small files combined into larger ones, by table.
    pub compacted_files: IntCounterVec,
    /// Bytes of those, by table.
    pub compacted_bytes: IntCounterVec,
    /// Files of old versions deleted in every cloud, by table.
    pub vacuumed_files: IntCounterVec,
    /// Checkpoints decided, by table.
    pub checkpoints: IntCounterVec,
    /// Superseded checkpoints deleted, each once for all clouds, by table.
    pub checkpoints_deleted: IntCounterVec,
    /// Maintenance that did not work and is tried again, by table.
    pub maintenance_failures: IntCounterVec,
    /// Quarantined rows that went through the topology again, by dataset and outcome, counted when they are decided here.
    pub redriven_rows: IntCounterVec,
    /// Versions of the quarantine that were not sent to the dead-letter topic yet, by dataset.
    pub dead_letter_versions_behind: IntGaugeVec,
    /// Rejected rows by what became of them at the dead-letter topic, by dataset and outcome.
    pub dead_letter_rows: IntCounterVec,
    /// Attempts to send to the dead-letter topic that did not work and are repeated, by dataset.
    pub dead_letter_failures: IntCounterVec,
    /// Versions of the dataset that were not published to its topic yet, by dataset.
    pub publish_versions_behind: IntGaugeVec,
    /// Rows by what became of them at the topic that they are published to, by dataset and outcome.
    pub publish_rows: IntCounterVec,
    /// Attempts to publish rows that did not work and are repeated, by dataset.
    pub publish_failures: IntCounterVec,
    /// The epoch led.
    pub epoch: IntGauge,
    /// Workers that this leader hears.
    pub workers: IntGauge,
    /// Commits of workers that wait for the next decision.
    pub workers_waiting: IntGauge,
    /// Commits of workers, by what they were answered.
    pub worker_commits: IntCounterVec,
    /// Commits that were decided together, the leader's own included.
    pub group_size: Histogram,
    /// Memory by use.
    pub memory: GaugeVec,
}

impl Metrics {
    /// Registers all metrics of `topology`.
    pub fn new(topology: &str) -> Self {
        let registry = registry_of("isobar", topology);
        let counters = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntGaugeVec::new(Opts::new(name, help), labels))
        };
        let latency =
            HistogramOpts::new("commit_latency_seconds", "From the end of a batch to its decision.")
                .buckets(LATENCY_BUCKETS_S.to_vec());
        let group_size = HistogramOpts::new(
            "commit_group_size",
            "Commits that were decided together, the leader's own included.",
        )
        .buckets(GROUP_SIZE_BUCKETS.to_vec());
        Self {
            records: counters("records_consumed_total", "Kafka records consumed.", &["topic"]),
            record_bytes: counters(
                "record_bytes_consumed_total",
                "Bytes of keys and payloads consumed.",
                &["topic"],
            ),
            rows: counters(
                "rows_total",
                "Kafka records by what became of them, counted when decided. The rule is empty for outcomes without one.",
                &["dataset", "outcome", "rule"],
            ),
            consumer_lag: gauges(
                "consumer_lag_records",
                "Records not yet consumed.",
                &["topic", "partition"],
            ),
            commits: register(&registry, IntCounter::new("commits_total", "Decided commits.")),
            batches_retried: register(
                &registry,
                IntCounter::new("batches_retried_total", "Batches read again from the chain's positions."),
            ),
            commit_latency: register(&registry, Histogram::with_opts(latency)),
            last_commit: register(
                &registry,
                Gauge::new("last_commit_timestamp_seconds", "When the last commit was decided."),
            ),
            file_bytes: counters("file_bytes_total", "Bytes of Parquet committed.", &["dataset"]),
            replication_lag: gauges(
                "replication_lag_versions",
                "Decisions that a cloud has not published yet.",
                &["cloud"],
            ),
            cloud_bytes: gauges(
                "cloud_written_bytes",
                "Bytes of data files written since the start.",
                &["cloud"],
            ),
            cloud_up: gauges("cloud_up", "1 when the cloud's last request succeeded, else 0.", &["cloud"]),
            compacted_files: counters(
                "compacted_files_total",
                "Small files combined into larger ones.",
                &["table"],
            ),
            compacted_bytes: counters(
                "compacted_bytes_total",
                "Bytes of small files combined into larger ones.",
                &["table"],
            ),
            vacuumed_files: counters(
                "vacuumed_files_total",
                "Files of old versions deleted in every cloud.",
                &["table"],
            ),
            checkpoints: counters("checkpoints_total", "Checkpoints decided.", &["table"]),
            checkpoints_deleted: counters(
                "checkpoints_deleted_total",
                "Superseded checkpoints deleted, each once for all clouds.",
                &["table"],
            ),
            maintenance_failures: counters(
                "maintenance_failures_total",
                "Maintenance that did not work and is tried again.",
                &["table"],
            ),
            redriven_rows: counters(
                "redriven_rows_total",
                "Quarantined rows that went through the topology again, by what became of them.",
                &["dataset", "outcome"],
            ),
            dead_letter_versions_behind: gauges(
                "dead_letter_versions_behind",
                "Versions of the quarantine not yet sent to the dead-letter topic.",
                &["dataset"],
            ),
            dead_letter_rows: counters(
                "dead_letter_rows_total",
                "Rejected rows by what became of them at the dead-letter topic: `sent`, `sent_in_part` where the topic did not take all \
                 of the record, `gone` where the file was deleted before.",
                &["dataset", "outcome"],
            ),
            dead_letter_failures: counters(
                "dead_letter_failures_total",
                "Attempts to send to the dead-letter topic that did not work and are repeated.",
                &["dataset"],
            ),
            publish_versions_behind: gauges(
                "publish_versions_behind",
                "Versions of the dataset not yet published to its topic.",
                &["dataset"],
            ),
            publish_rows: counters(
                "publish_rows_total",
                "Rows by what became of them at the topic that they are published to: `sent`, `gone` where the file was deleted before.",
                &["dataset", "outcome"],
            ),
            publish_failures: counters(
                "publish_failures_total",
                "Attempts to publish rows that did not work and are repeated.",
                &["dataset"],
            ),
            epoch: register(&registry, IntGauge::new("epoch", "The epoch this process leads.")),
            workers: register(&registry, IntGauge::new("workers", "Workers that this leader hears.")),
            workers_waiting: register(
                &registry,
                IntGauge::new(
                    "worker_commits_waiting",
                    "Commits of workers that wait for the next decision.",
                ),
            ),
            worker_commits: counters(
                "worker_commits_total",
                "Commits received from workers, by what they were answered.",
                &["outcome"],
            ),
            group_size: register(&registry, Histogram::with_opts(group_size)),
            memory: register(
                &registry,
                GaugeVec::new(
                    Opts::new("memory_bytes", "Memory by use; `budget` is the limit set."),
                    &["use"],
                ),
            ),
            registry,
        }
    }

    /// The exposition text.
    pub fn render(&self) -> String {
        rendered(&self.registry)
    }
}

/// A registry for metrics whose names begin with `prefix`, all of them labelled with the name of `topology`.
pub(crate) fn registry_of(prefix: &str, topology: &str) -> Registry {
    let labels = [("topology".to_owned(), topology.to_owned())].into_iter().collect();
    Registry::new_custom(Some(prefix.to_owned()), Some(labels))
        .expect("the prefix and the label are fixed and valid")
}

/// The exposition text of all metrics in `registry`.
pub(crate) fn rendered(registry: &Registry) -> String {
    let mut text = Vec::new();
    TextEncoder::new()
        .encode(&registry.gather(), &mut text)
        .expect("metrics with registered names encode into memory");
    String::from_utf8(text).expect("the text encoder writes UTF-8")
}

/// Puts a new metric into `registry`.
pub(crate) fn register<C: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    collector: prometheus::Result<C>,
) -> C {
    let collector = collector.expect("names and labels are fixed and valid");
    registry.register(Box::new(collector.clone())).expect("every name is registered once");
    collector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_render_with_prefix_and_topology_label() {
        let metrics = Metrics::new("flights");
        metrics.rows.with_label_values(&["d", "dropped", "departed"]).inc_by(3);
        metrics.commit_latency.observe(0.2);
        let text = metrics.render();
        let line =
            "isobar_rows_total{dataset=\"d\",outcome=\"dropped\",rule=\"departed\",topology=\"flights\"} 3";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("isobar_commit_latency_seconds_bucket"));
    }
}
