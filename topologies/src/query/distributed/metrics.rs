//! Metrics of queries that are divided among workers.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::metrics::{register, registry_of, rendered};

/// Where a query ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ran {
    /// Parts of it on workers.
    OnWorkers,
    /// All of it in this process.
    Here,
}

/// The metrics of whoever asks workers.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    queries: IntCounterVec,
    lost: IntCounter,
    answering: IntGauge,
}

impl Metrics {
    /// Registers all of them.
    pub(super) fn new(topology: &str) -> Self {
        let registry = registry_of("isobar_workers", topology);
        let queries = Opts::new(
            "queries_total",
            "Attempts at queries by where they ran: on `workers`, or `here`, in this process alone.",
        );
        let lost =
            IntCounter::new("attempts_lost_total", "Attempts on workers that failed and were made again.");
        let answering = IntGauge::new("answering", "Workers that answered when they were last asked.");
        Self {
            queries: register(&registry, IntCounterVec::new(queries, &["ran"])),
            lost: register(&registry, lost),
            answering: register(&registry, answering),
            registry,
        }
    }

    /// An attempt begins.
    pub(super) fn ran(&self, ran: Ran) {
        let ran = match ran {
            Ran::OnWorkers => "workers",
            Ran::Here => "here",
        };
        self.queries.with_label_values(&[ran]).inc();
    }

    /// An attempt on workers failed, and another one is made.
    pub(super) fn lost(&self) {
        self.lost.inc();
    }

    /// So many workers answered.
    pub(super) fn answering(&self, count: usize) {
        self.answering.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// The exposition text.
    pub(super) fn render(&self) -> String {
        rendered(&self.registry)
    }
}

/// The metrics of a worker.
#[derive(Debug, Clone)]
pub(crate) struct TaskMetrics {
    registry: Registry,
    tasks: IntCounterVec,
    refused: IntCounter,
}

impl TaskMetrics {
    /// Registers all of them.
    pub(crate) fn new(topology: &str) -> Self {
        let registry = registry_of("isobar_worker", topology);
        let tasks = Opts::new(
            "tasks_total",
            "Parts of queries by what became of their plans: `accepted`, or `refused` because of what they would read or do.",
        );
        let refused = IntCounter::new("unauthenticated_total", "Requests that did not show the secret.");
        Self {
            tasks: register(&registry, IntCounterVec::new(tasks, &["outcome"])),
            refused: register(&registry, refused),
            registry,
        }
    }

    /// A plan has come.
    pub(super) fn task(&self, is_accepted: bool) {
        let outcome = if is_accepted { "accepted" } else { "refused" };
        self.tasks.with_label_values(&[outcome]).inc();
    }

    /// Somebody asked without the secret.
    pub(crate) fn unauthenticated(&self) {
        self.refused.inc();
    }

    /// The exposition text.
    pub(crate) fn render(&self) -> String {
        rendered(&self.registry)
    }
}
