//! What librdkafka tells about itself on the side: errors, statistics, log lines, results of commits.
//!
//! Connection trouble is noise while librdkafka works on it: it is turned into one state, connected or not, logged
//! when it changes. Errors that no waiting will cure are kept for the reader to stop on. A token that cannot be had
//! at the moment is none of them: librdkafka asks for it again.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
};

use rdkafka::{
    ClientContext, TopicPartitionList,
    client::OAuthToken,
    config::RDKafkaLogLevel,
    consumer::ConsumerContext,
    error::{KafkaError, KafkaResult},
    message::DeliveryResult,
    producer::ProducerContext,
    types::RDKafkaErrorCode,
};
use serde::Deserialize;

use super::oauth::{TokenSource, now_ms};
use crate::{Error, source::SourceStatus};

/// The context of a source's client.
pub(super) struct SourceContext {
    brokers: String,
    status: Arc<SourceStatus>,
    fatal: Mutex<Option<Error>>,
    tokens: Tokens,
}

impl SourceContext {
    pub(super) fn new(brokers: String, status: Arc<SourceStatus>, tokens: Option<TokenSource>) -> Self {
        Self { brokers, status, fatal: Mutex::default(), tokens: Tokens::from(tokens) }
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
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        Ok(self.tokens.next()?)
    }

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
            code if denied(code, reason) && self.tokens.explain(reason) => {
                tracing::debug!(?code, reason, "refused for want of a new token, the next one will do");
            }
            code if denied(code, reason) => self.fail(Error::KafkaDenied {
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
pub(super) struct QuestionContext {
    reason: Mutex<Option<String>>,
    denied: Mutex<Option<String>>,
    tokens: Tokens,
}

impl QuestionContext {
    pub(super) fn new(tokens: Option<TokenSource>) -> Self {
        Self { reason: Mutex::default(), denied: Mutex::default(), tokens: Tokens::from(tokens) }
    }

    /// Why there is no token, if one is needed.
    pub(super) fn token_problem(&self) -> Option<String> {
        self.tokens.problem()
    }

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
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        let token = self.tokens.next()?;
        // What the last token was refused for is over.
        self.denied.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(token)
    }

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
            if denied(code, reason) && !self.tokens.explain(reason) {
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

/// The context of a client that sends in transactions: notes which records did not arrive.
pub(super) struct TransactionContext {
    failed: Mutex<Vec<(usize, RDKafkaErrorCode)>>,
    reason: Mutex<Option<String>>,
    tokens: Tokens,
}

impl TransactionContext {
    pub(super) fn new(tokens: Option<TokenSource>) -> Self {
        Self { failed: Mutex::default(), reason: Mutex::default(), tokens: Tokens::from(tokens) }
    }

    /// Notes that a record, by its place in its transaction, cannot be delivered.
    pub(super) fn note_failure(&self, record: usize, code: RDKafkaErrorCode) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).push((record, code));
    }

    /// Whether a record cannot be delivered.
    pub(super) fn has_failures(&self) -> bool {
        !self.failed.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// The records that cannot be delivered, and why.
    pub(super) fn take_failures(&self) -> Vec<(usize, RDKafkaErrorCode)> {
        std::mem::take(&mut *self.failed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Why there is no token, if one is needed, or else the last trouble, in librdkafka's words.
    pub(super) fn trouble(&self) -> Option<String> {
        let reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.tokens.problem().or(reason)
    }
}

impl ClientContext for TransactionContext {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        Ok(self.tokens.next()?)
    }

    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        // Whoever sends is told what did not work. The lines repeat as often as librdkafka tries.
        tracing::debug!(facility, "librdkafka: {message}");
    }

    fn stats_raw(&self, _statistics: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka error");
        if !is_about_token(reason) {
            *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_string());
        }
    }
}

impl ProducerContext for TransactionContext {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, record: usize) {
        if let Err((error, _)) = result {
            self.note_failure(record, error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown));
        }
    }
}

/// The tokens of one client, and whether there is one.
struct Tokens {
    source: Option<TokenSource>,
    problem: Mutex<Option<String>>,
    /// How many were given.
    given: AtomicU64,
    /// When the last one given is to be renewed; in milliseconds since 1970.
    due_ms: AtomicI64,
}

impl From<Option<TokenSource>> for Tokens {
    fn from(source: Option<TokenSource>) -> Self {
        Self { source, problem: Mutex::default(), given: AtomicU64::new(0), due_ms: AtomicI64::new(i64::MAX) }
    }
}

impl Tokens {
    /// A token for librdkafka. Whether there is one is logged when it changes.
    fn next(&self) -> Result<OAuthToken, String> {
        let token = match &self.source {
            Some(source) => source.token(),
            None => Err("nothing says where tokens come from".to_owned()),
        };
        let problem = token.as_ref().err().cloned();
        let before = std::mem::replace(&mut *self.lock(), problem.clone());
        match (before, problem) {
            (None, Some(problem)) => tracing::warn!(problem, "no token for kafka, asking again"),
            (Some(_), None) => tracing::info!("there is a token for kafka again"),
            _ => {}
        }
        if let Ok(token) = &token {
            let now_ms = now_ms();
            let left_ms = token.lifetime_ms.saturating_sub(now_ms);
            self.due_ms.store(now_ms.saturating_add(left_ms / 5 * 4), Relaxed);
            self.given.fetch_add(1, Relaxed);
        }
        token
    }

    /// Whether a refusal says nothing about the credentials, because the token it is about is old or missing: none can
    /// be had at the moment, or the last one is over, or nearly so by a clock that is not the broker's, and the next
    /// one is being asked for.
    fn explain(&self, reason: &str) -> bool {
        let is_due = now_ms() >= self.due_ms.load(Relaxed);
        is_about_token(reason) || self.problem().is_some() || is_due || self.renewed_too_soon(reason)
    }

    /// Whether a broker only refused to authenticate a connection again within a second of the last time, as librdkafka tries
    /// with a token that is about to expire (`KafkaChannel.maybeBeginServerReauthentication`); the connection is made anew.
    /// A listener without SASL says the same, but of the first token.
    fn renewed_too_soon(&self, reason: &str) -> bool {
        self.given.load(Relaxed) > 1 && reason.contains("Request not valid in current SASL state")
    }

    fn problem(&self) -> Option<String> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        // Replaced as a whole, so it is sound even if a holder of the lock has panicked.
        self.problem.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an error only repeats that no token could be had, which is known here.
fn is_about_token(reason: &str) -> bool {
    reason.starts_with("Failed to acquire SASL OAUTHBEARER token")
}

/// Whether an error of the whole client means that its credentials do not do. Being denied the group is not one: it
/// only costs the lag shown by tools. Nor is a connection that broke before the broker had answered, which librdkafka counts
/// among the failed authentications as well (`rd_kafka_broker_handle_SaslHandshake`).
fn denied(code: RDKafkaErrorCode, reason: &str) -> bool {
    let unanswered = reason.contains("mechanism handshake failed: Local: ");
    !unanswered
        && matches!(
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::oauth::Lookup;
    use super::*;

    #[test]
    fn a_connection_that_broke_in_the_handshake_is_no_refusal() {
        let handshake = |what: &str| {
            format!(
                "SASL SCRAM-SHA-512 mechanism handshake failed: {what}: broker's supported mechanisms: (n/a)"
            )
        };
        for (reason, is_refusal) in [
            (handshake("Local: Broker transport failure"), false),
            (handshake("Local: Timed out"), false),
            (handshake("Broker: Unsupported SASL mechanism"), true),
        ] {
            let context = SourceContext::new("b:9092".to_owned(), Arc::default(), None);
            context.error(KafkaError::Global(RDKafkaErrorCode::Authentication), &reason);
            assert_eq!(context.take_fatal().is_some(), is_refusal, "{reason}");
            let context = QuestionContext::new(None);
            context.error(KafkaError::Global(RDKafkaErrorCode::Authentication), &reason);
            assert_eq!(context.denied().is_some(), is_refusal, "{reason}");
        }
    }

    #[test]
    fn the_refusal_of_a_token_that_is_over_is_no_refusal_of_the_credentials() {
        let refused = "SASL authentication error: {\"status\":\"invalid_token\"}";
        let token: Lookup = Arc::new(|| Ok("an-opaque-token".to_owned()));
        let tokens =
            TokenSource::from_options(&BTreeMap::from([("sasl.oauthbearer.token".to_owned(), token)]))
                .unwrap();
        let context = SourceContext::new("b:9092".to_owned(), Arc::default(), tokens);
        let refuse = || {
            context.error(KafkaError::Global(RDKafkaErrorCode::Authentication), refused);
            context.take_fatal().is_some()
        };
        context.generate_oauth_token(None).unwrap();
        // A token that nobody knows the end of is good for five minutes, and renewed after four.
        let due_ms = context.tokens.due_ms.load(Relaxed) - now_ms();
        assert!((200_000..=240_000).contains(&due_ms), "{due_ms}");
        assert!(refuse());
        context.tokens.due_ms.store(now_ms(), Relaxed);
        assert!(!refuse());
        context.generate_oauth_token(None).unwrap();
        assert!(refuse(), "a new token that is refused is no good");
    }

    #[test]
    fn a_connection_that_was_renewed_too_soon_is_no_refusal_where_tokens_are_used() {
        let too_soon = "SASL OAUTHBEARER mechanism handshake failed: Broker: Request not valid in current SASL state: \
                        broker's supported mechanisms:  (after 0ms in state AUTH_HANDSHAKE)";
        let token: Lookup = Arc::new(|| Ok("an-opaque-token".to_owned()));
        let tokens =
            TokenSource::from_options(&BTreeMap::from([("sasl.oauthbearer.token".to_owned(), token)]))
                .unwrap();
        assert!(tokens.is_some());
        let wrong = "SASL authentication error: {\"status\":\"invalid_token\"}";
        for (tokens, given, reason, is_refusal) in [
            (tokens.clone(), 2, too_soon, false),
            (tokens.clone(), 1, too_soon, true),
            (tokens, 2, wrong, true),
            (None, 0, too_soon, true),
        ] {
            let context = SourceContext::new("b:9092".to_owned(), Arc::default(), tokens);
            for _ in 0..given {
                context.generate_oauth_token(None).unwrap();
            }
            context.error(KafkaError::Global(RDKafkaErrorCode::Authentication), reason);
            assert_eq!(
                matches!(context.take_fatal(), Some(Error::KafkaDenied { .. })),
                is_refusal,
                "{reason}"
            );
        }
    }
}
