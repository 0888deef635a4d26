//! Kafka: reading records from given positions, asking a cluster who it is, sending records in transactions or one by one, and
//! producing them for demonstrations, benchmarks and tests.
//!
//! Everything goes through librdkafka. No consumer group is joined: partitions are assigned explicitly, with the
//! positions found in the dataset, so a broker's opinion of the progress never matters. What the `rdkafka` crate
//! does not wrap is in `ffi`, the only place with `unsafe`.

mod config;
mod context;
mod embedded;
mod ffi;
mod identity;
mod oauth;
mod producer;
mod sender;
mod source;
mod transactions;

pub use config::{KafkaConfig, OptionProblem, TopicFilter, check_options};
pub use embedded::EmbeddedBroker;
pub use identity::{
    ClusterInfo, ClusterOverview, KafkaCluster, PartitionOverview, TopicInfo, TopicRights, Watermarks,
};
pub use oauth::{Lookup, TokenSource};
pub use producer::{Compression, KafkaProducer, ProducedRecord, partition_of_key};
pub use sender::{RecordSender, Told};
pub use source::KafkaSource;
pub use transactions::{OutgoingRecord, Progress, Refusal, Sent, TransactionalProducer};
