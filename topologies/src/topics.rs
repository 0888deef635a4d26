//! The topics that a topology reads: which there are, what their partitions are called in the chain, and how that
//! changes while it runs.
//!
//! ```text
//! every ten seconds: describe ─▶ gone, or another one of the same name ─▶ hard stop
//!                             └▶ more partitions ─▶ ask where they begin ─▶ sighting ─▶ the pipeline takes them up
//! ```
//!
//! Positions are kept under the ids of cluster, topic and partition, so a topic that was deleted and created anew is
//! another one; the Kafka client does not notice that, the watcher here does. A partition that is added while a
//! topology runs is read from its first record, whatever `start` says: nobody notices it in the moment it appears, so
//! records may lie in it already, and they were written after the topology began. `start` is about records from before.
//!
//! The watcher only tells. Who leads has the first positions decided before anything is read of the new partitions
//! (`Pipeline::follow_topics`); a worker reads what the leader gives it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use isobar_connectors::delta;
use isobar_connectors::kafka::{ClusterInfo, KafkaCluster};
use isobar_schemas::TopicPartition;
use tokio::sync::{Notify, watch};
use tracing::{debug, info};

use crate::error::Error;
use crate::spec::{TopicIdentity, Topology};
use crate::stage::PartitionIdentity;

/// How often the topics are described while a topology runs.
pub(crate) const TOPICS_INTERVAL: Duration = Duration::from_secs(10);

/// The topics of a topology, as Kafka described them at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Topics {
    /// How every partition of every topic is named in the chain.
    pub(crate) identities: BTreeMap<TopicPartition, PartitionIdentity>,
    /// By topic, the index of the source that reads it.
    sources: BTreeMap<Arc<str>, usize>,
}

impl Topics {
    /// What `cluster` says about the topics of `topology`.
    ///
    /// # Errors
    /// [`Error::Configuration`] if the brokers do not tell the ids that positions are to be kept under.
    pub(crate) fn resolve(topology: &Topology, cluster: &ClusterInfo) -> Result<Self, Error> {
        let cluster_id =
            topology.kafka.cluster_id.clone().or_else(|| cluster.cluster_id.clone()).ok_or_else(|| {
                Error::Configuration(
                    "the brokers do not tell a cluster id: set kafka.cluster_id to a name of your own".into(),
                )
            })?;
        let (mut identities, mut sources) = (BTreeMap::new(), BTreeMap::new());
        for topic in &cluster.topics {
            let name: Arc<str> = topic.name.as_str().into();
            let topic_id = match topology.kafka.topic_identity {
                TopicIdentity::Name => topic.name.clone(),
                TopicIdentity::Id => topic.id.clone().ok_or_else(|| {
                    Error::Configuration(format!(
                        "the brokers tell no id for topic {name}: set kafka.topic_identity to name"
                    ))
                })?,
            };
            for partition in 0..topic.partitions {
                let identity = PartitionIdentity { cluster: cluster_id.clone(), topic_id: topic_id.clone() };
                identities.insert(TopicPartition { topic: name.clone(), partition }, identity);
            }
            let source = topology.sources.iter().position(|source| source.topic == topic.name);
            let source = source.ok_or_else(|| Error::Bug(format!("no source reads topic {name}")))?;
            sources.insert(name, source);
        }
        Ok(Self { identities, sources })
    }

    /// The index of the source that reads `topic`.
    pub(crate) fn source_of(&self, topic: &str) -> Option<usize> {
        self.sources.get(topic).copied()
    }

    /// The partitions of one source and their names in the chain.
    pub(crate) fn of_source(
        &self,
        source: usize,
    ) -> impl Iterator<Item = (&TopicPartition, &PartitionIdentity)> {
        self.identities.iter().filter(move |(partition, _)| self.source_of(&partition.topic) == Some(source))
    }

    /// The partitions that `earlier` does not have.
    fn beyond(&self, earlier: &Self) -> Vec<TopicPartition> {
        let new = self.identities.keys().filter(|partition| !earlier.identities.contains_key(partition));
        new.cloned().collect()
    }
}

/// The name of a partition's position in the chain.
pub(crate) fn app_id(
    topology: &Topology,
    partition: &TopicPartition,
    identity: &PartitionIdentity,
) -> String {
    delta::actions::app_id(&topology.name, &identity.cluster, &identity.topic_id, partition.partition)
}

/// Asks `cluster` about the topics of `topology`.
pub(crate) async fn describe(
    topology: &Topology,
    cluster: &KafkaCluster,
) -> Result<ClusterInfo, isobar_connectors::Error> {
    let topics: Vec<String> = topology.sources.iter().map(|source| source.topic.clone()).collect();
    match topology.kafka.topic_identity {
        TopicIdentity::Id => cluster.describe(&topics).await,
        TopicIdentity::Name => cluster.describe_by_name(&topics).await,
    }
}

/// More partitions than there were when the watcher began.
#[derive(Debug, Clone)]
pub(crate) struct Sighting {
    /// All topics as they are now.
    pub(crate) topics: Topics,
    /// Where each partition begins that was not there at first.
    pub(crate) first_offsets: BTreeMap<TopicPartition, i64>,
}

/// What a pipeline hears of the watcher.
#[derive(Debug)]
pub(crate) struct TopicWatch {
    sightings: watch::Receiver<Option<Sighting>>,
    look: Arc<Notify>,
}

impl TopicWatch {
    /// The newest sighting, if there was one since the last call.
    pub(crate) fn news(&mut self) -> Option<Sighting> {
        let is_news = self.sightings.has_changed().unwrap_or(false);
        is_news.then(|| self.sightings.borrow_and_update().clone()).flatten()
    }

    /// Has the topics described at once: there is a partition that was not seen yet.
    pub(crate) fn look_now(&self) {
        self.look.notify_one();
    }
}

/// Describes the topics from time to time.
pub(crate) struct Watcher {
    topology: Topology,
    cluster: KafkaCluster,
    interval: Duration,
    /// As they were told last.
    known: ClusterInfo,
    topics: Topics,
    first_offsets: BTreeMap<TopicPartition, i64>,
    sightings: watch::Sender<Option<Sighting>>,
    look: Arc<Notify>,
}

impl Watcher {
    /// Watches the topics that were found as `known`, and what to hear it by.
    ///
    /// # Errors
    /// As [`Topics::resolve`].
    pub(crate) fn new(
        topology: &Topology,
        cluster: KafkaCluster,
        known: ClusterInfo,
        interval: Duration,
    ) -> Result<(Self, TopicWatch), Error> {
        let topics = Topics::resolve(topology, &known)?;
        let (sightings, seen) = watch::channel(None);
        let look = Arc::new(Notify::new());
        let heard = TopicWatch { sightings: seen, look: look.clone() };
        let first_offsets = BTreeMap::new();
        let topology = topology.clone();
        Ok((Self { topology, cluster, interval, known, topics, first_offsets, sightings, look }, heard))
    }

    /// Returns when a topic is gone, or is another one of the same name: the source does not notice.
    pub(crate) async fn run(mut self) -> Error {
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.interval) => {}
                () = self.look.notified() => {}
            }
            if let Err(error) = self.look().await {
                return error;
            }
        }
    }

    /// Brokers that do not answer are the source's affair, and new partitions that cannot be asked where they begin are
    /// seen again the next time.
    async fn look(&mut self) -> Result<(), Error> {
        let now = match describe(&self.topology, &self.cluster).await {
            Ok(now) => now,
            Err(isobar_connectors::Error::TopicMissing { topic, .. }) => {
                return Err(Error::Gap(format!(
                    "topic {topic} was deleted while it was read; what it still held is not in the datasets"
                )));
            }
            Err(error) => {
                debug!(error = %crate::chain_of(&error), "topics not described");
                return Ok(());
            }
        };
        refuse_replaced(&self.known, &now)?;
        let topics = Topics::resolve(&self.topology, &now)?;
        let new = topics.beyond(&self.topics);
        if new.is_empty() {
            return Ok(());
        }
        let ends = match self.cluster.watermarks(&new).await {
            Ok(ends) => ends,
            Err(error) => {
                debug!(error = %crate::chain_of(&error), "new partitions do not tell where they begin");
                return Ok(());
            }
        };
        for partition in &new {
            info!(topic = &*partition.topic, partition = partition.partition, "new partition");
        }
        self.first_offsets.extend(ends.into_iter().map(|(partition, ends)| (partition, ends.low)));
        (self.known, self.topics) = (now, topics.clone());
        let first_offsets = self.first_offsets.clone();
        self.sightings.send_replace(Some(Sighting { topics, first_offsets }));
        Ok(())
    }
}

/// A topic of the same name and another id, or with fewer partitions than before, is another topic.
fn refuse_replaced(before: &ClusterInfo, now: &ClusterInfo) -> Result<(), Error> {
    for known in &before.topics {
        let Some(found) = now.topics.iter().find(|topic| topic.name == known.name) else { continue };
        if found.id != known.id || found.partitions < known.partitions {
            return Err(Error::Gap(format!(
                "topic {} was deleted and created again while it was read: the new one is not read under the old one's \
                 positions. Start a new topology name for it",
                known.name
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use isobar_connectors::kafka::TopicInfo;

    use super::*;
    use crate::spec::{self, CheckOptions};

    fn topology() -> Topology {
        let text = spec::schema::EXAMPLE;
        spec::check_text(text, "topology.yaml", Path::new("/specs"), CheckOptions::default()).unwrap()
    }

    fn cluster(partitions: i32, id: &str) -> ClusterInfo {
        let topic = TopicInfo { name: "flights".into(), id: Some(id.into()), partitions };
        ClusterInfo { cluster_id: Some("c".into()), topics: vec![topic] }
    }

    #[test]
    fn partitions_are_named_by_cluster_and_topic_id_and_belong_to_their_source() {
        let topology = topology();
        let topics = Topics::resolve(&topology, &cluster(2, "id")).unwrap();
        let partition = TopicPartition::new("flights", 1);
        assert_eq!(app_id(&topology, &partition, &topics.identities[&partition]), "flight_delays/c/id/1");
        assert_eq!(topics.of_source(0).count(), 2);
        assert_eq!(topics.of_source(1).count(), 0);
        let without_id = ClusterInfo { cluster_id: None, ..cluster(2, "id") };
        let error = Topics::resolve(&topology, &without_id).unwrap_err();
        assert!(error.to_string().contains("kafka.cluster_id") && error.exit_code() == 2, "{error}");
    }

    #[test]
    fn more_partitions_are_new_ones_and_fewer_or_another_id_are_another_topic() {
        let topology = topology();
        let [few, many] = [2, 4].map(|count| Topics::resolve(&topology, &cluster(count, "id")).unwrap());
        let numbers: Vec<i32> = many.beyond(&few).iter().map(|partition| partition.partition).collect();
        assert_eq!(numbers, [2, 3]);
        assert!(few.beyond(&many).is_empty() && many.beyond(&many).is_empty());

        assert!(refuse_replaced(&cluster(2, "id"), &cluster(4, "id")).is_ok());
        for other in [cluster(1, "id"), cluster(2, "other")] {
            let error = refuse_replaced(&cluster(2, "id"), &other).unwrap_err();
            assert!(error.needs_a_person() && error.to_string().contains("created again"), "{error}");
        }
    }
}
