//! Asking a cluster who it is, which topics it has, and where their partitions begin and end.
//!
//! Positions are kept under the ids of cluster and topic, not under their names: a topic that was deleted and created
//! anew has the same name and other records. The ids are read here, once, at start. Everything is a question with a
//! time-out; nothing is retried, and the answers to "nobody there", "no such topic" and "not allowed" are different
//! errors.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use isobar_schemas::TopicPartition;
use rdkafka::{
    Offset, TopicPartitionList,
    bindings::rd_kafka_resp_err_t as Code,
    consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata},
};

use super::{
    config::KafkaConfig,
    context::QuestionContext,
    ffi,
    source::{client_error, is_denied, is_gone},
};
use crate::{Error, nearest::nearest};

/// Most events served at a time. Some log lines and an error come with each attempt to connect.
const EVENTS_MAX: usize = 100;
/// How long to wait for the first of them: a new client wants a token in the moment it begins.
const SERVE_TIME: Duration = Duration::from_millis(10);

/// What a cluster says about itself and some of its topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterInfo {
    /// The cluster's id; `None` from a broker too old to have one (before 0.10.1).
    pub cluster_id: Option<String>,
    /// The topics asked for, in the order asked.
    pub topics: Vec<TopicInfo>,
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    /// Its name.
    pub name: String,
    /// Its id as Kafka's tools print it (base64, safe in paths); `None` from a broker without topic ids (before 2.8).
    pub id: Option<String>,
    /// How many partitions it has; they are numbered from 0.
    pub partitions: i32,
}

/// What every client of a cluster is told: its brokers, and the topics that may be described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterOverview {
    /// The cluster's id; `None` from a broker too old to have one.
    pub cluster_id: Option<String>,
    /// How many brokers are up.
    pub brokers: usize,
    /// The partitions of every topic, in the order of their numbers.
    pub topics: BTreeMap<String, Vec<PartitionOverview>>,
}

/// Who has a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionOverview {
    /// Its number.
    pub partition: i32,
    /// Whether it has a leader, without which it can be neither read nor written.
    pub has_leader: bool,
    /// How many brokers are to have a copy.
    pub replicas: usize,
    /// How many of these copies are up to date.
    pub in_sync: usize,
}

/// What credentials may do in a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicRights {
    /// Whether they have READ.
    pub read: bool,
    /// Whether they have WRITE.
    pub write: bool,
}

/// The ends of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// The first offset there is.
    pub low: i64,
    /// The offset after the last one that can be read: open transactions are not counted.
    pub high: i64,
}

/// A connection to ask questions with.
#[derive(Clone)]
pub struct KafkaCluster {
    consumer: Arc<BaseConsumer<QuestionContext>>,
    brokers: String,
    timeout: Duration,
}

impl KafkaCluster {
    /// Prepares to ask the cluster of `config`; each question may take `timeout`. Does not connect yet.
    pub fn new(config: &KafkaConfig, timeout: Duration) -> Result<Self, Error> {
        Self::from_client(config, config.client()?, timeout)
    }

    /// The same, to ask about the progress of the group of `config` as well. The group is not joined.
    pub fn of_group(config: &KafkaConfig, timeout: Duration) -> Result<Self, Error> {
        let mut client = config.client()?;
        client.set("group.id", &config.group_id);
        client.set("enable.auto.commit", "false");
        Self::from_client(config, client, timeout)
    }

    fn from_client(
        config: &KafkaConfig,
        mut client: rdkafka::ClientConfig,
        timeout: Duration,
    ) -> Result<Self, Error> {
        // The end of a partition is then the end of what a source can read.
        client.set("isolation.level", "read_committed");
        let consumer = client.create_with_context(QuestionContext::new(config.tokens.clone()));
        let consumer = consumer.map_err(|error| client_error(&error))?;
        Ok(Self { consumer: Arc::new(consumer), brokers: config.brokers(), timeout })
    }

    /// The names of all topics that may be described, in no order.
    pub async fn topic_names(&self) -> Result<Vec<String>, Error> {
        self.ask(|cluster| {
            let all = cluster.consumer.fetch_metadata(None, cluster.timeout).map_err(|error| {
                let code = error.rdkafka_error_code().map_or(0, |code| code as i32);
                cluster.failure("ask for the topics", code, error.to_string())
            })?;
            Ok(all.topics().iter().map(|topic| topic.name().to_owned()).collect())
        })
        .await
    }

    /// The brokers, and all topics that may be described.
    pub async fn overview(&self) -> Result<ClusterOverview, Error> {
        self.ask(|cluster| {
            let all = cluster.consumer.fetch_metadata(None, cluster.timeout).map_err(|error| {
                let code = error.rdkafka_error_code().map_or(0, |code| code as i32);
                cluster.failure("ask for the topics", code, error.to_string())
            })?;
            let partitions = |topic: &rdkafka::metadata::MetadataTopic| {
                let partitions = topic.partitions().iter().map(|partition| PartitionOverview {
                    partition: partition.id(),
                    has_leader: partition.leader() >= 0,
                    replicas: partition.replicas().len(),
                    in_sync: partition.isr().len(),
                });
                let mut partitions: Vec<PartitionOverview> = partitions.collect();
                partitions.sort_by_key(|partition| partition.partition);
                partitions
            };
            Ok(ClusterOverview {
                cluster_id: cluster.consumer.client().fetch_cluster_id(cluster.timeout),
                brokers: all.brokers().len(),
                topics: all
                    .topics()
                    .iter()
                    .map(|topic| (topic.name().to_owned(), partitions(topic)))
                    .collect(),
            })
        })
        .await
    }

    /// Ids and partitions of `topics`, in their order; what is wrong with one does not hide the others.
    pub async fn describe_each(&self, topics: &[String]) -> Result<Vec<Result<TopicInfo, Error>>, Error> {
        let topics = topics.to_vec();
        self.ask(move |cluster| cluster.each_topic(&topics)).await
    }

    /// What these credentials may do in each of `topics`, by name, where the brokers tell. Nothing of it is tried.
    pub async fn rights(&self, topics: &[String]) -> Result<BTreeMap<String, TopicRights>, Error> {
        let topics = topics.to_vec();
        self.ask(move |cluster| {
            if topics.is_empty() {
                return Ok(BTreeMap::new());
            }
            let (client, timeout) = (cluster.consumer.client(), cluster.timeout);
            let described = ffi::describe_topics(client, &topics, true, timeout, || cluster.is_refused());
            let described = described
                .map_err(|(code, reason)| cluster.failure("ask what is allowed in topics", code, reason))?;
            Ok(described.into_iter().filter_map(|topic| Some((topic.name, topic.rights?))).collect())
        })
        .await
    }

    /// The settings of each of `topics`, by name. Those that the broker calls sensitive are left out.
    pub async fn settings(
        &self,
        topics: &[String],
    ) -> Result<BTreeMap<String, Result<BTreeMap<String, String>, Error>>, Error> {
        let topics = topics.to_vec();
        self.ask(move |cluster| {
            if topics.is_empty() {
                return Ok(BTreeMap::new());
            }
            let described =
                ffi::describe_settings(cluster.consumer.client(), &topics, cluster.timeout, || {
                    cluster.is_refused()
                });
            let described = described
                .map_err(|(code, reason)| cluster.failure("ask for the settings of topics", code, reason))?;
            let settings = described.into_iter().map(|topic| {
                let settings = match topic.error {
                    Some((code, reason)) => Err(cluster.topic_failure(&topic.name, code, reason)),
                    None => Ok(topic.settings),
                };
                (topic.name, settings)
            });
            Ok(settings.collect())
        })
        .await
    }

    /// Asks for the group's progress in `partitions`, to see whether that is allowed: isobar reports its own there for tools
    /// that show lag.
    ///
    /// # Errors
    /// If it is not, or there is no answer. A client that was not made [for a group](Self::of_group) gets none.
    pub async fn check_group(&self, partitions: &[TopicPartition]) -> Result<(), Error> {
        let partitions = partitions.to_vec();
        self.ask(move |cluster| {
            let mut question = TopicPartitionList::with_capacity(partitions.len());
            for TopicPartition { topic, partition } in &partitions {
                question.add_partition(topic, *partition);
            }
            cluster.consumer.committed_offsets(question, cluster.timeout).map_err(|error| {
                let code = error.rdkafka_error_code().map_or(0, |code| code as i32);
                if code == Code::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED as i32 {
                    return Error::KafkaDenied { what: "the group".into(), reason: error.to_string() };
                }
                cluster.failure("ask for the progress of the group", code, error.to_string())
            })?;
            Ok(())
        })
        .await
    }

    /// How far the group of this client is in `partition` and what was noted there, where something was committed. Blocks. What
    /// a transaction has left open is waited for.
    pub(super) fn committed(&self, partition: &TopicPartition) -> Result<Option<(i64, String)>, Error> {
        let action = || format!("ask how far the group is in {partition}");
        self.serve();
        let mut question = TopicPartitionList::with_capacity(1);
        question.add_partition(&partition.topic, partition.partition);
        let answer = self.consumer.committed_offsets(question, self.timeout).map_err(|error| {
            let code = error.rdkafka_error_code().map_or(0, |code| code as i32);
            self.failure(&action(), code, error.to_string())
        })?;
        let refused = |reason: String| Error::Kafka { action: action(), reason };
        let found = answer.find_partition(&partition.topic, partition.partition);
        let found = found.ok_or_else(|| refused("no answer for it".into()))?;
        found.error().map_err(|error| refused(error.to_string()))?;
        Ok(match found.offset() {
            Offset::Offset(next) => Some((next, found.metadata().to_owned())),
            _ => None,
        })
    }

    /// What a transaction needs to know of the group of this client, which is not joined.
    pub(super) fn group_metadata(&self) -> Result<ConsumerGroupMetadata, Error> {
        self.consumer.group_metadata().ok_or_else(|| Error::Kafka {
            action: "name the group that keeps the progress".into(),
            reason: "the client has none; this is a bug".into(),
        })
    }

    /// The cluster's id, and ids and partitions of `topics`.
    pub async fn describe(&self, topics: &[String]) -> Result<ClusterInfo, Error> {
        let topics = topics.to_vec();
        self.ask(move |cluster| {
            let topics = cluster.each_topic(&topics)?.into_iter().collect::<Result<_, _>>()?;
            // Answered from what the question before has brought.
            let cluster_id = cluster.consumer.client().fetch_cluster_id(cluster.timeout);
            Ok(ClusterInfo { cluster_id, topics })
        })
        .await
    }

    /// The cluster's id and the partitions of `topics`, without topic ids: for brokers that do not describe topics.
    pub async fn describe_by_name(&self, topics: &[String]) -> Result<ClusterInfo, Error> {
        let topics = topics.to_vec();
        self.ask(move |cluster| {
            let topics = topics.iter().map(|name| cluster.topic_by_name(name)).collect::<Result<_, _>>()?;
            Ok(ClusterInfo {
                cluster_id: cluster.consumer.client().fetch_cluster_id(cluster.timeout),
                topics,
            })
        })
        .await
    }

    /// Where `partitions` begin and end at the moment.
    pub async fn watermarks(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, Watermarks>, Error> {
        let partitions = partitions.to_vec();
        self.ask(move |cluster| {
            let lows = cluster.offsets(&partitions, Offset::Beginning)?;
            let highs = cluster.offsets(&partitions, Offset::End)?;
            let ends = lows.into_iter().zip(highs).map(|(low, high)| Watermarks { low, high });
            Ok(partitions.into_iter().zip(ends).collect())
        })
        .await
    }

    /// The first offset of each of `partitions` whose record has this time or a later one, in milliseconds since the Unix
    /// epoch; `None` where there is none.
    pub async fn offsets_at(
        &self,
        partitions: &[TopicPartition],
        timestamp_ms: i64,
    ) -> Result<BTreeMap<TopicPartition, Option<i64>>, Error> {
        let partitions = partitions.to_vec();
        self.ask(move |cluster| {
            let offsets = cluster.offsets_or_end(&partitions, Offset::Offset(timestamp_ms))?;
            Ok(partitions.into_iter().zip(offsets).collect())
        })
        .await
    }

    /// Runs a blocking question where blocking is allowed.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Self) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let cluster = self.clone();
        let answer = tokio::task::spawn_blocking(move || {
            cluster.serve();
            match cluster.consumer.client().context().token_problem() {
                None => question(&cluster),
                Some(reason) => Err(cluster.denied(reason)),
            }
        })
        .await;
        answer.unwrap_or_else(|error| {
            Err(Error::Kafka { action: "ask the kafka cluster".into(), reason: error.to_string() })
        })
    }

    /// Serves errors, which fill the context, and the wish for a token, without which nothing is asked. Without an
    /// assignment there are no records to lose.
    pub(super) fn serve(&self) {
        let _ = self.consumer.poll(SERVE_TIME);
        // A log line counts as an event, and there is no telling it from the end of the queue.
        for _ in 0..EVENTS_MAX {
            let _ = self.consumer.poll(Duration::ZERO);
        }
    }

    fn denied(&self, reason: String) -> Error {
        Error::KafkaDenied { what: format!("the brokers {}", self.brokers), reason }
    }

    fn each_topic(&self, names: &[String]) -> Result<Vec<Result<TopicInfo, Error>>, Error> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let described =
            ffi::describe_topics(self.consumer.client(), names, false, self.timeout, || self.is_refused())
                .map_err(|(code, reason)| self.failure("describe the topics", code, reason))?;
        let mut described: HashMap<String, ffi::TopicDescription> =
            described.into_iter().map(|topic| (topic.name.clone(), topic)).collect();
        let topics = names.iter().map(|name| match described.remove(name) {
            Some(ffi::TopicDescription { error: Some((code, reason)), .. }) => {
                Err(self.topic_failure(name, code, reason))
            }
            Some(topic) if topic.partitions > 0 => Ok(TopicInfo {
                name: name.clone(),
                id: topic.id,
                partitions: i32::try_from(topic.partitions).unwrap_or(i32::MAX),
            }),
            _ => Err(self.missing(name)),
        });
        Ok(topics.collect())
    }

    /// Whether the brokers have refused the credentials: the client goes on asking, and gets the same answer.
    fn is_refused(&self) -> bool {
        self.serve();
        self.consumer.client().context().denied().is_some()
    }

    fn topic_by_name(&self, name: &str) -> Result<TopicInfo, Error> {
        let metadata = self.consumer.fetch_metadata(Some(name), self.timeout).map_err(|error| {
            let code = error.rdkafka_error_code().map_or(0, |code| code as i32);
            self.failure("ask for the topic", code, error.to_string())
        })?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == name);
        let topic = topic.filter(|topic| !topic.partitions().is_empty()).ok_or_else(|| self.missing(name))?;
        let partitions = i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX);
        Ok(TopicInfo { name: name.to_owned(), id: None, partitions })
    }

    /// The offset at `end` of each partition, in their order.
    fn offsets(&self, partitions: &[TopicPartition], end: Offset) -> Result<Vec<i64>, Error> {
        let offsets = self.offsets_or_end(partitions, end)?.into_iter().zip(partitions);
        let known = offsets.map(|(offset, partition)| {
            offset.ok_or_else(|| Error::Kafka {
                action: format!("find the ends of {partition}"),
                reason: "the answer is the end".into(),
            })
        });
        known.collect()
    }

    /// The offset of a time, or of the beginning or end; `None` for a time after the last record.
    fn offsets_or_end(&self, partitions: &[TopicPartition], time: Offset) -> Result<Vec<Option<i64>>, Error> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let mut question = TopicPartitionList::with_capacity(partitions.len());
        for TopicPartition { topic, partition } in partitions {
            question
                .add_partition_offset(topic, *partition, time)
                .map_err(|error| Error::Kafka { action: "list offsets".into(), reason: error.to_string() })?;
        }
        // librdkafka answers the beginning and the end like any other time, one request per broker.
        let answer = self.consumer.offsets_for_times(question, self.timeout).map_err(|error| {
            let code = error.rdkafka_error_code().map_or(0, |code| code as i32);
            self.failure("list offsets", code, error.to_string())
        })?;
        partitions
            .iter()
            .map(|topic_partition| {
                let TopicPartition { topic, partition } = topic_partition;
                let action = || format!("find the ends of {topic_partition}");
                let Some(found) = answer.find_partition(topic, *partition) else {
                    return Err(Error::Kafka { action: action(), reason: "no answer for it".into() });
                };
                if let Err(error) = found.error() {
                    return Err(Error::Kafka { action: action(), reason: error.to_string() });
                }
                match found.offset() {
                    Offset::Offset(offset) => Ok(Some(offset)),
                    Offset::End => Ok(None),
                    other => {
                        Err(Error::Kafka { action: action(), reason: format!("the answer is {other:?}") })
                    }
                }
            })
            .collect()
    }

    fn topic_failure(&self, topic: &str, code: i32, reason: String) -> Error {
        if is_gone(code) {
            self.missing(topic)
        } else if is_denied(code) {
            Error::KafkaDenied { what: format!("topic {topic}"), reason }
        } else {
            Error::Kafka { action: format!("describe topic {topic}"), reason }
        }
    }

    fn missing(&self, topic: &str) -> Error {
        let all = self.consumer.fetch_metadata(None, self.timeout).ok();
        let names = all.iter().flat_map(|all| all.topics()).map(|topic| topic.name());
        Error::TopicMissing { topic: topic.to_string(), similar: similar(topic, names) }
    }

    /// Why a whole question failed: errors that librdkafka told on the side say more than its time-out.
    fn failure(&self, action: &str, code: i32, reason: String) -> Error {
        self.serve();
        let context = self.consumer.client().context();
        if let Some(reason) = context.denied() {
            return self.denied(reason);
        }
        let unreachable = [
            Code::RD_KAFKA_RESP_ERR__TIMED_OUT,
            Code::RD_KAFKA_RESP_ERR__TRANSPORT,
            Code::RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN,
            Code::RD_KAFKA_RESP_ERR__RESOLVE,
            Code::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        ];
        if unreachable.iter().any(|known| *known as i32 == code) {
            return Error::KafkaUnreachable {
                brokers: self.brokers.clone(),
                timeout_ms: self.timeout.as_millis(),
                reason: context.reason().unwrap_or(reason),
            };
        }
        if is_denied(code) {
            return self.denied(reason);
        }
        Error::Kafka { action: action.to_string(), reason }
    }
}

/// Those of `names` that may be meant by `topic`, which nobody knows more of. Not that name itself: of a topic that was created
/// an instant ago a broker may have heard the name alone.
fn similar<'a>(topic: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    nearest(topic, names.filter(|name| *name != topic)).into_iter().map(String::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::{EmbeddedBroker, KafkaProducer, ProducedRecord};

    const TIMEOUT: Duration = Duration::from_secs(10);

    fn cluster(broker: &EmbeddedBroker) -> KafkaCluster {
        KafkaCluster::new(&KafkaConfig::new([broker.bootstrap_servers()], "test"), TIMEOUT).unwrap()
    }

    #[tokio::test]
    async fn an_unreachable_broker_is_named_with_the_time_waited() {
        // Port 1 is not listened on.
        let config = KafkaConfig::new(["127.0.0.1:1"], "test");
        let cluster = KafkaCluster::new(&config, Duration::from_millis(800)).unwrap();
        let error = cluster.describe(&["flights".to_string()]).await.unwrap_err();
        assert!(matches!(error, Error::KafkaUnreachable { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("127.0.0.1:1") && text.contains("800 ms"), "{text}");
        assert!(text.contains("refused"), "{text}");
    }

    #[test]
    fn a_file_of_a_key_or_certificate_that_is_not_there_is_a_wrong_option() {
        for option in ["ssl.ca.location", "ssl.certificate.location", "ssl.key.location"] {
            let mut config = KafkaConfig::new(["127.0.0.1:1"], "test");
            config.options.insert("security.protocol".into(), "SSL".into());
            config.options.insert(option.into(), "/nowhere/at/all".into());
            let error = KafkaCluster::new(&config, TIMEOUT).err().unwrap();
            assert!(error.is_configuration(), "{error:?}");
            assert!(error.to_string().contains(option) && error.to_string().contains("PEM"), "{error}");
        }
    }

    #[tokio::test]
    async fn watermarks_are_the_ends_of_every_partition() {
        let broker = EmbeddedBroker::start(&[("flights", 3)]).unwrap();
        let producer = KafkaProducer::start(&broker.bootstrap_servers(), Default::default()).unwrap();
        for partition in [0, 0, 2] {
            producer.produce(ProducedRecord { topic: "flights", partition, ..Default::default() }).unwrap();
        }
        producer.flush(TIMEOUT).unwrap();
        let partitions: Vec<_> = (0..3).map(|partition| TopicPartition::new("flights", partition)).collect();
        let found = cluster(&broker).watermarks(&partitions).await.unwrap();
        let highs: Vec<_> = found.values().map(|watermarks| (watermarks.low, watermarks.high)).collect();
        assert_eq!(highs, [(0, 2), (0, 0), (0, 1)]);
        assert!(cluster(&broker).watermarks(&[TopicPartition::new("flights", 9)]).await.is_err());
    }

    #[tokio::test]
    async fn a_missing_topic_is_never_suggested_in_place_of_itself() {
        let names = ["flights", "flight", "weather"];
        assert_eq!(similar("flights", names.into_iter()), ["flight"]);
        assert_eq!(similar("weather", names.into_iter()), [""; 0]);
        let broker = EmbeddedBroker::start(&[("flights", 1)]).unwrap();
        let error = cluster(&broker).describe_by_name(&["flihgts".to_owned()]).await.unwrap_err();
        assert!(
            matches!(&error, Error::TopicMissing { similar, .. } if similar[..] == ["flights"]),
            "{error}"
        );
    }

    #[tokio::test]
    async fn an_overview_names_brokers_topics_and_copies() {
        let broker = EmbeddedBroker::start(&[("flights", 3), ("weather", 1)]).unwrap();
        let overview = cluster(&broker).overview().await.unwrap();
        assert_eq!(overview.brokers, 1);
        let topics: Vec<_> =
            overview.topics.iter().map(|(name, parts)| (name.as_str(), parts.len())).collect();
        assert_eq!(topics, [("flights", 3), ("weather", 1)]);
        let partition = PartitionOverview { partition: 2, has_leader: true, replicas: 1, in_sync: 1 };
        assert_eq!(overview.topics["flights"][2], partition);
    }

    #[tokio::test]
    async fn settings_that_a_broker_does_not_describe_are_an_error_in_time() {
        let broker = EmbeddedBroker::start(&[("flights", 1)]).unwrap();
        let cluster = cluster(&broker);
        assert!(cluster.settings(&[]).await.unwrap().is_empty());
        // The embedded broker is never a controller, which is waited for.
        let error = cluster.settings(&["flights".to_owned()]).await.unwrap_err();
        assert!(matches!(error, Error::KafkaUnreachable { .. }), "{error}");
    }

    #[tokio::test]
    async fn the_progress_of_a_group_can_be_asked_for() {
        let broker = EmbeddedBroker::start(&[("flights", 1)]).unwrap();
        let config = KafkaConfig::new([broker.bootstrap_servers()], "test");
        let cluster = KafkaCluster::of_group(&config, TIMEOUT).unwrap();
        cluster.check_group(&[TopicPartition::new("flights", 0)]).await.unwrap();
    }
}
