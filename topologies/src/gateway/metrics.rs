//! Metrics of a gateway: name, unit, help, labels. Label values are words of our own, and names of the file's.

use std::time::Instant;

use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

use super::balance::Ended;
use super::kind::Kind;
use crate::metrics::{register, rendered};

/// Upper bounds of the histogram, seconds.
const SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0];

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// With the beginning of an answer, whatever it says.
    Answered,
    Unavailable,
    Broken,
    Late,
    Refused,
    /// The client went away.
    Cancelled,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Unavailable => "unavailable",
            Self::Broken => "broken",
            Self::Late => "late",
            Self::Refused => "refused",
            Self::Cancelled => "cancelled",
        }
    }
}

/// The metrics of one gateway.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    seconds: HistogramVec,
    attempts: IntCounterVec,
    broken: IntCounterVec,
    up: IntGaugeVec,
    /// Requests sent again.
    pub(super) retries: IntCounter,
    /// Requests sent to a second backend.
    pub(super) hedges: IntCounter,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let registry = Registry::new_custom(Some("isobar_gateway".to_owned()), None)
            .expect("the prefix is fixed and valid");
        let counters = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let seconds = HistogramOpts::new("request_seconds", "From a request to the beginning of its answer.");
        let seconds = seconds.buckets(SECONDS.to_vec());
        let up = Opts::new("backend_up", "Whether a backend gets requests.");
        Self {
            requests: counters("requests_total", "Requests by how they ended.", &["kind", "outcome"]),
            seconds: register(&registry, HistogramVec::new(seconds, &["kind"])),
            attempts: counters(
                "attempts_total",
                "What became of requests at backends.",
                &["cloud", "backend", "outcome"],
            ),
            broken: counters(
                "answers_broken_total",
                "Answers that broke off after they had begun.",
                &["cloud", "backend"],
            ),
            up: register(&registry, IntGaugeVec::new(up, &["cloud", "backend"])),
            retries: register(&registry, IntCounter::new("retries_total", "Requests sent again.")),
            hedges: register(
                &registry,
                IntCounter::new(
                    "hedges_total",
                    "Requests sent to a second backend because the first was slow.",
                ),
            ),
            registry,
        }
    }

    /// A request that begins.
    pub(super) fn begin(&self, kind: Kind) -> Counted {
        Counted { metrics: self.clone(), kind, since: Instant::now(), outcome: Outcome::Cancelled }
    }

    /// What became of a request at a backend.
    pub(super) fn attempt(&self, cloud: &str, backend: &str, ended: Ended) {
        let outcome = match ended {
            Ended::Answered(_) => "answered",
            Ended::Full => "full",
            Ended::Failed => "failed",
            Ended::Broken => "broken",
            Ended::Unreachable => "unreachable",
            Ended::Abandoned(_) => "abandoned",
        };
        self.attempts.with_label_values(&[cloud, backend, outcome]).inc();
    }

    /// An answer broke off.
    pub(super) fn broken(&self, cloud: &str, backend: &str) {
        self.broken.with_label_values(&[cloud, backend]).inc();
    }

    /// Whether a backend gets requests.
    pub(super) fn up(&self, cloud: &str, backend: &str, is_up: bool) {
        self.up.with_label_values(&[cloud, backend]).set(i64::from(is_up));
    }

    /// The exposition text.
    pub(super) fn render(&self) -> String {
        rendered(&self.registry)
    }
}

/// A request under way. One that is dropped before it has ended was cancelled.
#[derive(Debug)]
pub(super) struct Counted {
    metrics: Metrics,
    kind: Kind,
    since: Instant,
    outcome: Outcome,
}

impl Counted {
    /// It has an answer, or will have none.
    pub(super) fn end(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let kind = self.kind.name();
        self.metrics.requests.with_label_values(&[kind, self.outcome.name()]).inc();
        if self.outcome == Outcome::Answered {
            self.metrics.seconds.with_label_values(&[kind]).observe(self.since.elapsed().as_secs_f64());
        }
    }
}
