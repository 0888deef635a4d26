//! What librdkafka tells about itself on the side: errors, statistics, log lines, results of commits.
//!
//! Connection trouble is noise while librdkafka works on it: it is turned into one state, connected or not, logged
//! when it changes. Errors that no waiting will cure are kept for the reader to stop on.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
};

use rdkafka::{
    ClientContext, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::ConsumerContext,
    error::{KafkaError, KafkaResult},
    types::RDKafkaErrorCode,
};
use serde::Deserialize;

use crate::{Error, source::SourceStatus};

/// The context of a source's client.
pub(super) struct SourceContext {
    brokers: String,
    status: Arc<SourceStatus>,
    fatal: Mutex<Option<Error>>,
}

impl SourceContext {
    pub(super) fn new(brokers: String, status: Arc<SourceStatus>) -> Self {
        Self { brokers, status, fatal: Mutex::default() }
    }

    /// Takes the error that ends reading, if one has come.
    pub(super) fn take_fatal(&self) -> Option<Error> {
        self.fatal.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Notes whether a broker can be reached, and logs a change.
    pub(super) fn set_connected(&self, connected: bool) {
        if self.status.connected.swap(connected, Relaxed) == connected {
            return;
        }
        if connected {
            tracing::info!(brokers = self.brokers, "connected to kafka");
        } else {
            tracing::warn!(brokers = self.brokers, "no kafka broker can be reached, waiting for one");
        }
    }
}

impl ClientContext for SourceContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        match serde_json::from_slice::<Statistics>(statistics) {
            Ok(statistics) => {
                self.set_connected(statistics.brokers.values().any(|broker| broker.state == "UP"));
            }
            Err(error) => tracing::debug!(%error, "unreadable librdkafka statistics"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let KafkaError::Global(code) = error else {
            tracing::debug!(%error, reason, "librdkafka error");
            return;
        };
        match code {
            // Told again by the consumer's queue, with topic and partition.
            RDKafkaErrorCode::PartitionEOF => {}
            RDKafkaErrorCode::AllBrokersDown => self.set_connected(false),
            code if denied(code) => self.fail(Error::KafkaDenied {
                what: format!("the brokers {}", self.brokers),
                reason: reason.to_string(),
            }),
            RDKafkaErrorCode::Fatal => self.fail(Error::Kafka {
                action: format!("read from {}", self.brokers),
                reason: reason.to_string(),
            }),
            code => tracing::debug!(?code, reason, "librdkafka error, it goes on by itself"),
        }
    }
}

impl SourceContext {
    fn fail(&self, error: Error) {
        self.fatal.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

impl ConsumerContext for SourceContext {
    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            self.status.progress_failures.fetch_add(1, Relaxed);
            tracing::debug!(%error, "progress not reported");
        }
    }
}

/// The few fields of librdkafka's statistics that matter here.
#[derive(Deserialize)]
struct Statistics {
    #[serde(default)]
    brokers: HashMap<String, BrokerStatistics>,
}

#[derive(Deserialize)]
struct BrokerStatistics {
    state: String,
}

/// The context of a client that asks a few questions and goes: keeps the last reason why something did not work.
#[derive(Default)]
pub(super) struct QuestionContext {
    reason: Mutex<Option<String>>,
    denied: Mutex<Option<String>>,
}

impl QuestionContext {
    /// The last trouble, in librdkafka's words.
    pub(super) fn reason(&self) -> Option<String> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why the credentials were refused, if they were.
    pub(super) fn denied(&self) -> Option<String> {
        self.denied.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ClientContext for QuestionContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // Only the log says why a connection failed: `[thrd:…]: host:port/…: Connect to … failed: Connection refused …`.
        if facility == "FAIL" {
            let reason = message.split_once("]: ").map_or(message, |(_, reason)| reason);
            *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_string());
        }
        log(level, facility, message);
    }

    fn stats_raw(&self, _statistics: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        if let KafkaError::Global(code) = error {
            if denied(code) {
                *self.denied.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_string());
            }
            // "All brokers down" says less than what brought the last one down.
            if code != RDKafkaErrorCode::AllBrokersDown {
                *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_string());
            }
        }
    }
}

impl ConsumerContext for QuestionContext {}

/// Whether an error of the whole client means that its credentials do not do. Being denied the group is not one: it
/// only costs the lag shown by tools.
fn denied(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::Authentication
            | RDKafkaErrorCode::SaslAuthenticationFailed
            | RDKafkaErrorCode::UnsupportedSASLMechanism
            | RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
    )
}

/// librdkafka's log lines. Those about connections repeat on every attempt and are covered by the connected state.
pub(super) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    let connection = matches!(facility, "FAIL" | "ERROR" | "BROKERFAIL" | "SESSION" | "MAXPOLL");
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(facility, "librdkafka: {message}");
        }
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning if !connection => {
            tracing::warn!(facility, "librdkafka: {message}");
        }
        _ => tracing::debug!(facility, "librdkafka: {message}"),
    }
}
