//! The settings of a Kafka client: what the user says, what isobar decides, and what follows from the memory budget.
//!
//! The user's options are librdkafka's own properties. Those that would break a promise (automatic commits, jumping
//! over lost offsets, skipping checksums) or the memory budget belong to isobar and are refused, each with the reason.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use rdkafka::{ClientConfig, config::RDKafkaLogLevel, error::KafkaError};

use super::oauth::{self, TokenSource};
use crate::{Error, nearest::nearest};

/// Says of a topic, by its name, whether something is wanted of it.
pub type TopicFilter = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// How to reach a Kafka cluster, and how much to read ahead.
#[derive(Clone)]
pub struct KafkaConfig {
    /// Addresses `host:port` to begin with.
    pub brokers: Vec<String>,
    /// Name under which progress is shown to tools that display lag, and the client's name in the broker's logs.
    /// No group of that name is joined.
    pub group_id: String,
    /// librdkafka properties by name, secrets resolved. [`check_options`] tells which are accepted.
    pub options: BTreeMap<String, String>,
    /// Where tokens come from, for SASL OAUTHBEARER.
    pub tokens: Option<TokenSource>,
    /// Of which topics the headers of records are kept; `None`: of none. Where they are not they cost nothing.
    pub keeps_headers: Option<TopicFilter>,
    /// Bytes of memory the source may use: records fetched and waiting in the client, and chunks on their way to
    /// the consumer.
    pub memory_bytes_max: usize,
    /// Most records in a chunk.
    pub chunk_records_max: usize,
    /// Bytes of keys, payloads and headers after which a chunk is full; one record may exceed it.
    pub chunk_bytes_max: usize,
    /// How long a record may wait for its chunk to fill.
    pub linger: Duration,
    /// How long a partition may be unknown to the brokers before anything was heard of it: a new one is known to
    /// some brokers earlier than to others.
    pub unknown_patience: Duration,
}

impl KafkaConfig {
    /// The defaults: 96 MiB of memory, chunks of at most 16,384 records or 4 MiB, 75 ms of waiting, half a minute for
    /// new partitions.
    pub fn new(brokers: impl IntoIterator<Item = impl Into<String>>, group_id: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into_iter().map(Into::into).collect(),
            group_id: group_id.into(),
            options: BTreeMap::new(),
            tokens: None,
            keeps_headers: None,
            memory_bytes_max: 96 << 20,
            chunk_records_max: 16_384,
            chunk_bytes_max: 4 << 20,
            linger: Duration::from_millis(75),
            unknown_patience: Duration::from_secs(30),
        }
    }

    /// The brokers as one string, as they appear in messages.
    pub(crate) fn brokers(&self) -> String {
        self.brokers.join(",")
    }

    /// What every kind of client has in common.
    pub(crate) fn client(&self) -> Result<ClientConfig, Error> {
        if let Some(OptionProblem { option, problem }) = check_each(&self.options).next() {
            return Err(Error::KafkaOption { option, problem });
        }
        let mut client = ClientConfig::new();
        client.extend(self.options.clone());
        client.set("bootstrap.servers", self.brokers());
        client.set("client.id", format!("isobar-{}", self.group_id));
        // The default follows the `log` crate's global level, which nothing sets here.
        client.set_log_level(RDKafkaLogLevel::Info);
        Ok(client)
    }

    /// A consumer that is assigned partitions and commits nothing by itself.
    pub(crate) fn consumer(&self) -> Result<ClientConfig, Error> {
        let mut client = self.client()?;
        client.set("group.id", &self.group_id);
        for (name, value) in OWNED {
            client.set(name, value);
        }
        for (name, value) in ReadAhead::within(self.memory_bytes_max).properties() {
            client.set(name, value);
        }
        Ok(client)
    }

    /// A producer that sends in transactions of this id.
    pub(crate) fn transactional_producer(&self, id: &str, one_by_one: bool) -> Result<ClientConfig, Error> {
        let mut client = self.of_connections().client()?;
        client.set("transactional.id", id);
        for (name, value) in TRANSACTIONAL {
            client.set(name, value);
        }
        if one_by_one {
            client.set("batch.num.messages", "1");
        }
        Ok(client)
    }

    /// A producer of single records, each of which is given up after `patience`; never, if there is none.
    pub(crate) fn record_sender(&self, patience: Option<Duration>) -> Result<ClientConfig, Error> {
        let mut client = self.of_connections().client()?;
        for (name, value) in SINGLE_RECORDS {
            client.set(name, value);
        }
        // librdkafka wants more than `linger.ms`.
        let patience_ms = patience.map_or(0, |patience| patience.as_millis().clamp(10, i32::MAX as u128));
        client.set("message.timeout.ms", patience_ms.to_string());
        Ok(client)
    }

    /// The same without the options that are about something else than how to reach the brokers and to be let in: those of
    /// the consumer mean nothing to a producer, and its own are isobar's.
    pub(crate) fn of_connections(&self) -> Self {
        let is_kept = |name: &String| {
            CONNECTION_OPTIONS.iter().any(|prefix| name.starts_with(prefix)) && name != "socket.timeout.ms"
        };
        let mut config = self.clone();
        config.options.retain(|name, _| is_kept(name));
        config
    }

    /// Bytes that chunks may hold, open ones included. What is left of the budget is librdkafka's.
    pub(crate) fn chunks_bytes_max(&self) -> usize {
        (self.memory_bytes_max / 2).max(1 << 20)
    }
}

/// Shows no option's value: some are secrets.
impl fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaConfig")
            .field("brokers", &self.brokers)
            .field("group_id", &self.group_id)
            .field("options", &self.options.keys())
            .field("tokens", &self.tokens)
            .field("keeps_headers", &self.keeps_headers.is_some())
            .field("memory_bytes_max", &self.memory_bytes_max)
            .field("chunk_records_max", &self.chunk_records_max)
            .field("chunk_bytes_max", &self.chunk_bytes_max)
            .field("linger", &self.linger)
            .field("unknown_patience", &self.unknown_patience)
            .finish()
    }
}

/// What keeps the promises. Set last, so that nothing overrides it.
const OWNED: [(&str, &str); 7] = [
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("auto.offset.reset", "error"),
    ("check.crcs", "true"),
    ("isolation.level", "read_committed"),
    ("enable.partition.eof", "true"),
    // Often enough to notice within seconds that a broker is back.
    ("statistics.interval.ms", "2000"),
];

/// How records are sent in transactions.
const TRANSACTIONAL: [(&str, &str); 9] = [
    ("enable.idempotence", "true"),
    ("transaction.timeout.ms", "60000"),
    ("message.timeout.ms", "45000"),
    // Keys are put where Java's producers put them.
    ("partitioner", "murmur2_random"),
    // Whether a record fits into the topic then depends on its size alone.
    ("compression.type", "none"),
    ("linger.ms", "5"),
    // A record that is larger is a batch of its own: if a batch is too large, it usually is that one.
    ("batch.size", "16384"),
    // The topic says what it takes.
    ("message.max.bytes", "134217728"),
    // Room for one such record, and for what is sent at a time.
    ("queue.buffering.max.kbytes", "262144"),
];

const SINGLE_RECORDS: [(&str, &str); 6] = [
    ("enable.idempotence", "true"),
    // Keys are put where Java's producers put them.
    ("partitioner", "murmur2_random"),
    ("compression.type", "lz4"),
    // Somebody may wait for it.
    ("linger.ms", "2"),
    // Whoever sends bounds what is on its way.
    ("queue.buffering.max.messages", "0"),
    ("queue.buffering.max.kbytes", "2097151"),
];

/// How the names of options begin that are about connections, encryption and credentials.
const CONNECTION_OPTIONS: [&str; 14] = [
    "api.version.",
    "broker.",
    "client.dns.",
    "connections.",
    "debug",
    "enable.ssl.",
    "https.",
    "metadata.max.",
    "reconnect.",
    "sasl.",
    "security.",
    "socket.",
    "ssl.",
    "topic.metadata.",
];

/// How much librdkafka fetches ahead.
struct ReadAhead {
    queue_kib: usize,
    queue_records: usize,
    fetch_bytes: usize,
}

impl ReadAhead {
    /// Half of the budget is librdkafka's. A quarter goes to queued records: librdkafka counts payloads only, and
    /// adds some 400 bytes to each record, so their number is bounded too. A queue may be overshot by the fetch
    /// under way, one per broker, and its batches unfold when decompressed: hence the small fetches.
    fn within(memory_bytes_max: usize) -> Self {
        let queue_bytes = (memory_bytes_max / 8).clamp(1 << 20, 1 << 30);
        Self {
            queue_kib: queue_bytes >> 10,
            queue_records: (memory_bytes_max / 4 / 1024).clamp(1_000, 1_000_000),
            // Not below librdkafka's `message.max.bytes`, which it refuses.
            fetch_bytes: (memory_bytes_max / 32).clamp(1_048_576, 16 << 20),
        }
    }

    fn properties(&self) -> [(&'static str, String); 5] {
        [
            ("queued.max.messages.kbytes", self.queue_kib.to_string()),
            ("queued.min.messages", self.queue_records.to_string()),
            ("fetch.max.bytes", self.fetch_bytes.to_string()),
            ("max.partition.fetch.bytes", self.fetch_bytes.to_string()),
            // How long a full queue stops a partition's fetches: a second by default, longer than the queue lasts.
            ("fetch.queue.backoff.ms", "2".to_string()),
        ]
    }
}

/// Properties that a user may not set, and why or what instead.
const REFUSED: [(&str, &str); 28] = [
    ("bootstrap.servers", "set `brokers` instead"),
    ("metadata.broker.list", "set `brokers` instead"),
    ("client.id", "isobar uses the topology's name"),
    ("group.id", "isobar uses the topology's name"),
    ("group.instance.id", "no consumer group is joined"),
    ("group.protocol", "no consumer group is joined"),
    ("group.remote.assignor", "no consumer group is joined"),
    ("partition.assignment.strategy", "no consumer group is joined"),
    ("session.timeout.ms", "no consumer group is joined"),
    ("heartbeat.interval.ms", "no consumer group is joined"),
    ("max.poll.interval.ms", "no consumer group is joined"),
    ("enable.auto.commit", "positions are committed with the data only"),
    ("auto.commit.enable", "positions are committed with the data only"),
    ("auto.commit.interval.ms", "positions are committed with the data only"),
    ("enable.auto.offset.store", "positions are committed with the data only"),
    (
        "auto.offset.reset",
        "a lost position must stop the topology; where new partitions begin is set by `start`",
    ),
    ("check.crcs", "checksums are always checked"),
    ("isolation.level", "only committed records are read"),
    ("enable.partition.eof", "isobar needs the end of partitions"),
    ("queued.max.messages.kbytes", "follows from `memory`"),
    ("queued.min.messages", "follows from `memory`"),
    ("fetch.max.bytes", "follows from `memory`"),
    ("fetch.message.max.bytes", "follows from `memory`"),
    ("max.partition.fetch.bytes", "follows from `memory`"),
    ("fetch.queue.backoff.ms", "follows from `memory`"),
    ("statistics.interval.ms", "isobar needs the statistics"),
    ("allow.auto.create.topics", "a source's topic must exist"),
    ("test.mock.num.brokers", "this would replace the brokers by a mock"),
];

/// A property that is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionProblem {
    /// The property's name.
    pub option: String,
    /// What is wrong with it and what would be right.
    pub problem: String,
}

/// Every problem with the user's librdkafka properties: those that are isobar's, unknown names, bad values. Opens no
/// file and no connection.
pub fn check_options(options: &BTreeMap<String, String>) -> Vec<OptionProblem> {
    check_each(options).chain(oauth::check_together(options)).collect()
}

fn check_each(options: &BTreeMap<String, String>) -> impl Iterator<Item = OptionProblem> {
    options.iter().filter_map(|(option, value)| {
        let problem = problem_of(option, value)?;
        Some(OptionProblem { option: option.clone(), problem })
    })
}

fn problem_of(option: &str, value: &str) -> Option<String> {
    if let Some((_, reason)) = REFUSED.iter().find(|(name, _)| *name == option) {
        return Some(format!("is set by isobar: {reason}"));
    }
    if TokenSource::is_option(option) {
        return oauth::check_value(option, value);
    }
    if option.starts_with("sasl.oauthbearer.") || option == "enable.sasl.oauthbearer.unsecure.jwt" {
        let how =
            "isobar gets tokens itself; set `sasl.oauthbearer.token`, or `sasl.oauthbearer.method: oidc`";
        return Some(format!("is not supported: {how}"));
    }
    let mut probe = ClientConfig::new();
    probe.set(option, value);
    match probe.create_native_config() {
        Ok(_) => None,
        // The value is left out, it may be a secret; librdkafka's own text repeats only numbers and choices.
        Err(KafkaError::ClientConfig(_, text, ..)) if text.starts_with("No such configuration property") => {
            let similar = nearest(option, COMMON);
            let hint = if similar.is_empty() {
                "see librdkafka's CONFIGURATION.md for the names".to_string()
            } else {
                format!("did you mean {}?", similar.join(" or "))
            };
            Some(format!("is no librdkafka property; {hint}"))
        }
        Err(KafkaError::ClientConfig(_, text, ..)) => Some(text),
        Err(_) => Some("has a value that librdkafka cannot take".to_string()),
    }
}

/// Properties people set, to suggest from.
const COMMON: [&str; 25] = [
    "security.protocol",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.username",
    "sasl.password",
    "sasl.oauthbearer.token",
    "sasl.oauthbearer.method",
    "sasl.oauthbearer.scope",
    "sasl.oauthbearer.client.id",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.token.endpoint.url",
    "ssl.ca.location",
    "ssl.ca.pem",
    "ssl.certificate.location",
    "ssl.certificate.pem",
    "ssl.key.location",
    "ssl.key.password",
    "ssl.key.pem",
    "ssl.endpoint.identification.algorithm",
    "enable.ssl.certificate.verification",
    "socket.timeout.ms",
    "fetch.min.bytes",
    "fetch.wait.max.ms",
    "client.rack",
    "broker.address.family",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(options: &[(&str, &str)]) -> Vec<OptionProblem> {
        check_options(&options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect())
    }

    #[test]
    fn every_owned_property_is_refused_from_users_and_known_to_librdkafka() {
        for (name, value) in OWNED {
            assert!(problem_of(name, value).is_some_and(|problem| problem.contains("isobar")), "{name}");
        }
        for (name, value) in ReadAhead::within(64 << 20).properties() {
            assert!(problem_of(name, &value).is_some(), "{name}");
        }
        for config in [1 << 20, 64 << 20, 4 << 30].map(|memory_bytes_max| KafkaConfig {
            memory_bytes_max,
            ..KafkaConfig::new(["localhost:9092"], "t")
        }) {
            config.consumer().unwrap().create_native_config().unwrap();
        }
    }

    #[test]
    fn a_transactional_producer_takes_what_is_about_connections_and_nothing_else_of_the_users() {
        let mut config = KafkaConfig::new(["localhost:9092"], "t");
        for (name, value) in [
            ("security.protocol", "PLAINTEXT"),
            ("socket.keepalive.enable", "true"),
            ("socket.timeout.ms", "600000"),
            ("fetch.min.bytes", "5"),
            ("acks", "1"),
            ("delivery.timeout.ms", "900000"),
            ("message.max.bytes", "1000"),
        ] {
            config.options.insert(name.into(), value.into());
        }
        for one_by_one in [false, true] {
            let client = config.transactional_producer("id", one_by_one).unwrap();
            client.create_native_config().unwrap();
            assert_eq!(client.get("transactional.id"), Some("id"));
            assert_eq!(client.get("socket.keepalive.enable"), Some("true"));
            assert_eq!(client.get("message.max.bytes"), Some("134217728"));
            assert_eq!(client.get("batch.num.messages"), one_by_one.then_some("1"));
            for name in ["socket.timeout.ms", "fetch.min.bytes", "acks", "delivery.timeout.ms"] {
                assert_eq!(client.get(name), None, "{name}");
            }
        }
    }

    #[test]
    fn a_sender_of_records_takes_what_librdkafka_knows() {
        let config = KafkaConfig::new(["localhost:9092"], "t");
        for (patience, said) in
            [(None, "0"), (Some(Duration::ZERO), "10"), (Some(Duration::MAX), "2147483647")]
        {
            let client = config.record_sender(patience).unwrap();
            client.create_native_config().unwrap();
            assert_eq!(client.get("message.timeout.ms"), Some(said));
        }
    }

    #[test]
    fn suggested_properties_exist() {
        for name in COMMON {
            let problem = problem_of(name, "x").unwrap_or_default();
            assert!(!problem.contains("is no librdkafka property"), "{name}: {problem}");
        }
    }

    #[test]
    fn all_problems_are_reported_without_values() {
        let found = problems(&[
            ("enable.auto.commit", "true"),
            ("sasl.pasword", "hunter2"),
            ("security.protocol", "SASL_PLAIN"),
            ("socket.timeout.ms", "1000"),
        ]);
        let options: Vec<&str> = found.iter().map(|found| found.option.as_str()).collect();
        assert_eq!(options, ["enable.auto.commit", "sasl.pasword", "security.protocol"]);
        assert!(found[1].problem.contains("did you mean sasl.password?"), "{:?}", found[1]);
        assert!(found.iter().all(|found| !found.problem.contains("hunter2")));
    }

    #[test]
    fn tokens_are_isobars_affair_and_their_options_are_checked() {
        let mechanism = ("sasl.mechanism", "OAUTHBEARER");
        assert_eq!(problems(&[mechanism, ("sasl.oauthbearer.token", "${file:/run/token}")]), []);
        let found = problems(&[
            mechanism,
            ("sasl.oauthbearer.config", "principal=x"),
            ("sasl.oauthbearer.method", "OIDC"),
        ]);
        let options: Vec<&str> = found.iter().map(|found| found.option.as_str()).collect();
        assert_eq!(options, ["sasl.oauthbearer.config", "sasl.oauthbearer.method", "sasl.mechanism"]);
    }

    #[test]
    fn the_debug_form_hides_option_values() {
        let mut config = KafkaConfig::new(["localhost:9092"], "t");
        config.options.insert("sasl.password".into(), "hunter2".into());
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
