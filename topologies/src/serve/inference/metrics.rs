//! Metrics of inference: name, unit, help, labels. Label values are words of our own, never of a caller's.

use std::time::Instant;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::metrics::{register, registry_of, rendered};
use crate::serve::record_log::LogMetrics;

/// Upper bounds of the histogram of times, seconds.
const SECONDS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Upper bounds of the histogram of runs, requests.
const REQUESTS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// The metrics of one server.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    running: IntGauge,
    seconds: Histogram,
    rows: IntCounter,
    pub(super) run_requests: Histogram,
    /// Of the log of served vectors.
    pub(super) log: LogMetrics,
}

impl Metrics {
    /// Registers all metrics of a server of `topology`.
    pub(super) fn new(topology: &str) -> Self {
        let registry = registry_of("isobar_inference", topology);
        let requests = Opts::new(
            "requests_total",
            "Requests to models by how they ended: `ok`, `cancelled` by the client, or why there was no answer.",
        );
        let seconds = HistogramOpts::new("request_seconds", "From when a request was there to its answer.");
        let run_requests =
            HistogramOpts::new("run_requests", "Requests that were answered in one run of a model.");
        Self {
            requests: register(&registry, IntCounterVec::new(requests, &["outcome"])),
            running: register(
                &registry,
                IntGauge::new("requests_running", "Requests to models that are being answered."),
            ),
            seconds: register(&registry, Histogram::with_opts(seconds.buckets(SECONDS.to_vec()))),
            rows: register(&registry, IntCounter::new("rows_total", "Rows that models have answered.")),
            log: LogMetrics::new(&registry, "log", "the log of served vectors"),
            run_requests: register(&registry, Histogram::with_opts(run_requests.buckets(REQUESTS.to_vec()))),
            registry,
        }
    }

    /// A request that begins.
    pub(super) fn begin(&self) -> Running {
        self.running.inc();
        Running { metrics: self.clone(), since: Instant::now(), outcome: "cancelled" }
    }

    /// A request that was refused before it began.
    pub(super) fn refused(&self, outcome: &str) {
        self.requests.with_label_values(&[outcome]).inc();
    }

    /// The exposition text.
    pub(super) fn render(&self) -> String {
        rendered(&self.registry)
    }
}

/// A request that is being answered. One that is dropped before it has ended was cancelled.
#[derive(Debug)]
pub(super) struct Running {
    metrics: Metrics,
    since: Instant,
    outcome: &'static str,
}

impl Running {
    /// It has ended so, with an answer of so many rows.
    pub(super) fn ended(mut self, outcome: &'static str, rows: usize) {
        self.outcome = outcome;
        self.metrics.rows.inc_by(rows as u64);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.metrics.running.dec();
        self.metrics.seconds.observe(self.since.elapsed().as_secs_f64());
        self.metrics.refused(self.outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_once_however_it_ends() {
        let metrics = Metrics::new("t");
        metrics.begin().ended("ok", 3);
        drop(metrics.begin());
        metrics.refused("unauthenticated");
        let text = metrics.render();
        for line in [
            "isobar_inference_requests_total{outcome=\"ok\",topology=\"t\"} 1",
            "isobar_inference_requests_total{outcome=\"cancelled\",topology=\"t\"} 1",
            "isobar_inference_requests_total{outcome=\"unauthenticated\",topology=\"t\"} 1",
            "isobar_inference_requests_running{topology=\"t\"} 0",
            "isobar_inference_rows_total{topology=\"t\"} 3",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
