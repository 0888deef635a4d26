//! What can go wrong at the edges, and what a caller should do about it.

use isobar_schemas::TopicPartition;

/// An error of this crate. Each variant's documentation says what helps: retry, fix the input, fix the
/// configuration, stop because another writer took over, or report a bug.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A cloud did not answer or refused a request. Retry; other clouds are not affected.
    #[error("cloud {cloud}: {action}")]
    Store {
        /// The cloud's name in the topology.
        cloud: String,
        /// What was being done, with the object's path.
        action: String,
        /// The store's own answer.
        #[source]
        source: object_store::Error,
    },
    /// A `_delta_log` body or a checkpoint breaks the format. On reading: a foreign writer, another version of isobar or bit rot; stop
    /// and look. On writing: a bug of ours; nothing was written.
    #[error("log entry: {0}")]
    LogEntry(String),
    /// A column cannot be stored in a Delta table. Fix the query or the configuration.
    #[error("schema: {0}")]
    Schema(String),
    /// A batch does not have the columns of its table. A bug of ours, or of whoever produced the batch.
    #[error("table {table}: {detail}")]
    Batch {
        /// The table's path.
        table: String,
        /// The column and what is wrong with it.
        detail: String,
    },
    /// A data file or a checkpoint could not be encoded, or what was to receive it failed. A bug of ours or a lack of
    /// memory or space; nothing of the file is used.
    #[error("encode {path}")]
    Encode {
        /// The file's path in every cloud; `checkpoint` for a checkpoint.
        path: String,
        /// What the encoder says.
        #[source]
        source: parquet::errors::ParquetError,
    },

    /// A cloud's URL or options are wrong. Fix the configuration.
    #[error("cloud {cloud}: {problem}")]
    CloudConfig {
        /// The cloud's name in the topology.
        cloud: String,
        /// What is wrong and what would be right. Holds no option's value that may be a secret.
        problem: String,
    },

    /// An object is larger than anything that belongs under its key. Not written by isobar: look at it.
    #[error("cloud {cloud}: {path} holds {bytes} bytes, more than the {bytes_max} that may be there")]
    ObjectTooLarge {
        /// The cloud's name in the topology.
        cloud: String,
        /// The object's path in the cloud.
        path: String,
        /// Its size.
        bytes: u64,
        /// The largest size expected.
        bytes_max: u64,
    },

    /// A Kafka client option is unknown, has a bad value, or belongs to isobar. Fix the configuration.
    #[error("kafka option {option}: {problem}")]
    KafkaOption {
        /// The option's name.
        option: String,
        /// What is wrong with it and what would be right.
        problem: String,
    },

    /// No broker answered. Fix the address or the network, or retry when the brokers are back.
    #[error(
        "no kafka broker of {brokers} answered within {timeout_ms} ms: {reason}; check the addresses, the network, \
         and that security.protocol, and ssl.ca.location and ssl.certificate.location for TLS, are what the listener \
         expects"
    )]
    KafkaUnreachable {
        /// The brokers asked, as configured.
        brokers: String,
        /// How long was waited, in milliseconds.
        timeout_ms: u128,
        /// The client's own account.
        reason: String,
    },

    /// A topic does not exist, or these credentials may not see it. Fix the configuration or create the topic.
    #[error("topic {topic} does not exist, or these credentials may not see it{}", did_you_mean(.similar))]
    TopicMissing {
        /// The topic's name.
        topic: String,
        /// Topics with similar names.
        similar: Vec<String>,
    },

    /// Kafka refused the credentials or a permission. Fix the configuration or the access rules.
    #[error(
        "kafka denied access to {what}: {reason}; check the credentials, and that they may describe and read it"
    )]
    KafkaDenied {
        /// What was asked for.
        what: String,
        /// The client's or broker's own account.
        reason: String,
    },

    /// The records at a position are not in the partition any more, or not yet: retention was faster than the
    /// reader, or the topic was truncated or created anew. Nothing may be skipped silently, so stop; a person must
    /// decide.
    #[error("{}", position_lost(.topic_partition, *.next_offset, *.log_start, *.log_end))]
    PositionLost {
        /// The partition.
        topic_partition: TopicPartition,
        /// The next offset to read.
        next_offset: i64,
        /// The first offset the broker has, if known.
        log_start: Option<i64>,
        /// The offset after the last one the broker has, if known.
        log_end: Option<i64>,
    },

    /// A partition that was being read is gone: its topic was deleted. Stop; a person must decide.
    #[error(
        "{topic_partition}, being read at offset {next_offset}, does not exist any more: {reason}; if the topic was \
         deleted and created anew it is another topic, and the dataset needs a new source or an accepted gap"
    )]
    PartitionGone {
        /// The partition.
        topic_partition: TopicPartition,
        /// The next offset to read.
        next_offset: i64,
        /// The client's or broker's own account.
        reason: String,
    },

    /// A setting of the schema registry is wrong. Fix the configuration.
    #[error("schema registry: {problem}")]
    RegistryConfig {
        /// What is wrong and what would be right. Holds no secret.
        problem: String,
    },

    /// No server of the schema registry gave an answer. Nothing is known of what was asked for: retry later, and never
    /// take it for "there is none".
    #[error("the schema registry gave no answer about {what}, asked {attempts} times: {reason}")]
    RegistryUnreachable {
        /// What was asked for.
        what: String,
        /// How often each server was asked.
        attempts: usize,
        /// Each server with the last account of why it did not answer.
        reason: String,
    },

    /// The schema registry refused the credentials or a permission. Fix the configuration or the access rules.
    #[error("{}", registry_denied(.server, .what, *.status, *.has_credentials))]
    RegistryDenied {
        /// Who refused: the base URL, without credentials.
        server: String,
        /// What was asked for.
        what: String,
        /// 401 or 403.
        status: u16,
        /// Whether credentials were sent.
        has_credentials: bool,
    },

    /// A server answers, but not as a schema registry does. Fix the URL, or look at the server or at what is in front
    /// of it.
    #[error(
        "{server} answers a question about {what} with {answer}; check that this is the base URL of a registry that          speaks Confluent's API, with the API's path, such as /apis/ccompat/v7 for Apicurio"
    )]
    RegistryAnswer {
        /// Who answered: the base URL, without credentials.
        server: String,
        /// What was asked for.
        what: String,
        /// The answer, shortened.
        answer: String,
    },

    /// The schema registry has another schema under an id than it had before. It was created anew or restored, so the
    /// ids in records mean one thing or the other: stop; a person must decide.
    #[error(
        "the schema registry at {servers} has another schema under id {id} than the one recorded before: it was created          anew or restored; use the registry that the records were written with, or remove the recorded schemas if no          record refers to them any more"
    )]
    RegistryChanged {
        /// The id.
        id: u32,
        /// The base URLs, without credentials.
        servers: String,
    },

    /// Recorded schemas cannot be read or written. To go on without them costs only the start without the registry.
    #[error("recorded schemas: {0}")]
    RegistryArchive(String),

    /// Kafka failed in a way that the client does not get over by itself. Retry; if it stays, look at the broker.
    #[error("{action}: {reason}")]
    Kafka {
        /// What was being done, with topic, partition and position where they apply.
        action: String,
        /// The client's or broker's own account.
        reason: String,
    },
}

impl Error {
    /// Whether only a changed configuration helps.
    pub fn is_configuration(&self) -> bool {
        matches!(
            self,
            Error::Schema(_)
                | Error::CloudConfig { .. }
                | Error::KafkaOption { .. }
                | Error::TopicMissing { .. }
                | Error::KafkaDenied { .. }
                | Error::RegistryConfig { .. }
                | Error::RegistryDenied { .. }
                | Error::RegistryAnswer { .. }
        )
    }
}

fn did_you_mean(similar: &[String]) -> String {
    if similar.is_empty() { String::new() } else { format!("; did you mean {}?", similar.join(" or ")) }
}

fn registry_denied(server: &str, what: &str, status: u16, has_credentials: bool) -> String {
    let advice = match (status, has_credentials) {
        (401, true) => "it does not accept the credentials; check user and password, or the token",
        (_, true) => "it knows who asks and does not allow it; let these credentials read schemas",
        (_, false) => "no credentials were sent; give user and password, or a token",
    };
    format!("{server} denied access to {what} ({status}): {advice}")
}

fn position_lost(partition: &TopicPartition, next: i64, start: Option<i64>, end: Option<i64>) -> String {
    match (start, end) {
        (Some(start), _) if next < start => format!(
            "{partition} now starts at offset {start}, but {next} is the next one to read: retention removed offsets \
             {next} to {start} before they were read; restore them, or accept the gap: isobar accept-gap"
        ),
        (_, Some(end)) if next > end => format!(
            "{partition} ends at offset {end}, but {next} is the next one to read: the topic was truncated or created \
             anew; restore it, or start a new topology name: positions never go back"
        ),
        _ => format!(
            "{partition} cannot be read at offset {next}, the next one to read: the broker has lost it; restore the \
             topic, or accept the gap: isobar accept-gap"
        ),
    }
}
