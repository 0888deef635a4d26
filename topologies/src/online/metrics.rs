//! Metrics of online look-ups: name, unit, help, labels. Label values are names of datasets, and words of our own.

use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry};

use crate::metrics::{register, registry_of, rendered};

/// The metrics of the views of one topology.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    registry: Registry,
    /// The version of the dataset that look-ups are answered from, by dataset.
    pub(super) version: IntGaugeVec,
    /// The newest version that a cloud had when it was last asked, by dataset.
    pub(super) newest_version: IntGaugeVec,
    /// When the version of look-ups was committed, seconds since the Unix epoch, by dataset.
    pub(super) commit_time: GaugeVec,
    /// Entities with a row in the store, by dataset.
    pub(super) entities: IntGaugeVec,
    /// Bytes of the store, by dataset.
    pub(super) bytes: IntGaugeVec,
    /// Keys looked up, by dataset and what became of them.
    pub(super) keys_looked_up: IntCounterVec,
    /// Steps of a view that did not work and are tried again, by dataset.
    pub(super) failures: IntCounterVec,
    /// Stores that were built again because they could not be followed, by dataset.
    pub(super) rebuilds: IntCounterVec,
}

impl Metrics {
    /// Registers all metrics of the views of `topology`.
    pub(super) fn new(topology: &str) -> Self {
        let registry = registry_of("isobar_online", topology);
        let counters = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let gauges = |name: &str, help: &str| {
            register(&registry, IntGaugeVec::new(Opts::new(name, help), &["dataset"]))
        };
        let commit_time = Opts::new(
            "commit_timestamp_seconds",
            "When the version that online look-ups are answered from was committed.",
        );
        Self {
            version: gauges("version", "The version of the dataset that online look-ups are answered from."),
            newest_version: gauges(
                "newest_version",
                "The newest version of the dataset that a cloud had when it was last asked.",
            ),
            commit_time: register(&registry, GaugeVec::new(commit_time, &["dataset"])),
            entities: gauges("entities", "Entities with a row in the online store."),
            bytes: gauges("store_bytes", "Bytes of the online store."),
            keys_looked_up: counters(
                "keys_looked_up_total",
                "Keys looked up, by what became of them: `found`, `expired` or `not_found`.",
                &["dataset", "status"],
            ),
            failures: counters(
                "failures_total",
                "Attempts to read what is new that did not work and are repeated.",
                &["dataset"],
            ),
            rebuilds: counters(
                "rebuilds_total",
                "Online stores built again because they could not be followed.",
                &["dataset"],
            ),
            registry,
        }
    }

    /// The exposition text.
    pub(super) fn render(&self) -> String {
        rendered(&self.registry)
    }
}
