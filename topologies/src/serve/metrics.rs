//! Metrics of `isobar serve`: name, unit, help, labels. Label values are words of our own, never of a caller's.

use std::time::Instant;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::audit::Entry;
use super::record_log::LogMetrics;
use crate::metrics::{register, registry_of, rendered};

/// Upper bounds of the histogram, seconds.
const SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0];

/// The metrics of one server.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    registry: Registry,
    queries: IntCounterVec,
    running: IntGauge,
    seconds: Histogram,
    rows: IntCounter,
    bytes: IntCounter,
    /// Of the log of queries.
    pub(super) audit: LogMetrics,
}

impl Metrics {
    /// Registers all metrics of a server of `topology`.
    pub(super) fn new(topology: &str) -> Self {
        let registry = registry_of("isobar_serve", topology);
        let queries = Opts::new(
            "queries_total",
            "Queries by how they ended: `ok`, `cancelled` by the client, or why there was no answer.",
        );
        let seconds = HistogramOpts::new("query_seconds", "From the beginning of a query to its last row.");
        Self {
            audit: LogMetrics::new(&registry, "audit", "the log of queries"),
            queries: register(&registry, IntCounterVec::new(queries, &["outcome"])),
            running: register(
                &registry,
                IntGauge::new("queries_running", "Queries whose rows are on their way."),
            ),
            seconds: register(&registry, Histogram::with_opts(seconds.buckets(SECONDS.to_vec()))),
            rows: register(&registry, IntCounter::new("answer_rows_total", "Rows of answers.")),
            bytes: register(
                &registry,
                IntCounter::new("answer_bytes_total", "Bytes of answers, in memory before they are written."),
            ),
            registry,
        }
    }

    /// A query that begins.
    pub(super) fn begin(&self) -> Running {
        self.running.inc();
        Running { metrics: self.clone(), since: Instant::now(), is_over: false, entry: None }
    }

    /// A question that was refused before it became a query.
    pub(super) fn refused(&self, outcome: &str) {
        self.queries.with_label_values(&[outcome]).inc();
    }

    /// The exposition text.
    pub(super) fn render(&self) -> String {
        rendered(&self.registry)
    }
}

/// A query that runs. One that is dropped before it has ended was cancelled.
#[derive(Debug)]
pub(super) struct Running {
    metrics: Metrics,
    since: Instant,
    is_over: bool,
    /// What is written of it.
    entry: Option<Entry>,
}

impl Running {
    /// The same, which is written down as well.
    pub(super) fn written(self, entry: Option<Entry>) -> Self {
        let mut running = self;
        running.entry = entry;
        running
    }

    /// Counts rows of the answer.
    pub(super) fn rows(&mut self, rows: u64, bytes: u64) {
        if let Some(entry) = &mut self.entry {
            entry.rows(rows, bytes);
        }
        self.metrics.rows.inc_by(rows);
        self.metrics.bytes.inc_by(bytes);
    }

    /// It has ended so. Only the first word counts.
    pub(super) fn ended(&mut self, outcome: &str) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        self.metrics.running.dec();
        self.metrics.seconds.observe(self.since.elapsed().as_secs_f64());
        self.metrics.queries.with_label_values(&[outcome]).inc();
        if let Some(entry) = &mut self.entry {
            entry.ended(outcome);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ended("cancelled");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_counted_once_however_it_ends() {
        let metrics = Metrics::new("t");
        let mut running = metrics.begin();
        assert!(
            metrics.render().contains("isobar_serve_queries_running{topology=\"t\"} 1"),
            "{}",
            metrics.render()
        );
        running.rows(3, 100);
        running.ended("ok");
        running.ended("unavailable");
        drop(running);
        drop(metrics.begin());
        metrics.refused("wrong");
        let text = metrics.render();
        for line in [
            "isobar_serve_queries_total{outcome=\"ok\",topology=\"t\"} 1",
            "isobar_serve_queries_total{outcome=\"cancelled\",topology=\"t\"} 1",
            "isobar_serve_queries_total{outcome=\"wrong\",topology=\"t\"} 1",
            "isobar_serve_queries_running{topology=\"t\"} 0",
            "isobar_serve_query_seconds_count{topology=\"t\"} 2",
            "isobar_serve_answer_rows_total{topology=\"t\"} 3",
            "isobar_serve_answer_bytes_total{topology=\"t\"} 100",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(!text.contains("unavailable"), "{text}");
    }
}
