//! The topics that a topology reads: which there are, what their partitions are called in the chain, and how that
//! changes while it runs.
//!
//! ```text
//! every ten seconds: describe ─▶ gone, or another one of the same name ─▶ hard stop
//!                             └▶ more partitions or topics ─▶ ask where they begin ─▶ sighting ─▶ the pipeline takes them up
//! ```
//!
//! Positions are kept under the ids of cluster, topic and partition, so a topic that was deleted and created anew is
//! another one; the Kafka client does not notice that, the watcher here does. A partition that is added while a
//! topology runs is read from its first record, whatever `start` says: nobody notices it in the moment it appears, so
//! records may lie in it already, and they were written after the topology began. `start` is about records from before.
//! The same holds for a topic that begins to match the pattern of a source.
//!
//! The watcher only tells. Who leads has the first positions decided before anything is read of the new partitions
//! (`Pipeline::follow_topics`); a worker reads what the leader gives it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use isobar_connectors::delta;
use isobar_connectors::kafka::{ClusterInfo, KafkaCluster};
use isobar_schemas::TopicPartition;
use tokio::sync::{Notify, watch};
use tracing::{debug, info, warn};

use crate::commit::Chain;
use crate::error::Error;
use crate::spec::{SourceTopics, TopicIdentity, TopicPattern, Topology};
use crate::stage::PartitionIdentity;

/// Topics that one topology reads.
const TOPICS_MAX: usize = 1000;
/// How often a topic that is not there is asked for at a start, and the pauses between: the first, and the longest. Five
/// seconds, about.
const NEW_TOPIC_QUESTIONS: u32 = 8;
const NEW_TOPIC_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// How often the topics are described while a topology runs.
pub(crate) const TOPICS_INTERVAL: Duration = Duration::from_secs(10);

/// The topics of a topology, as Kafka described them at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Topics {
    /// How every partition of every topic is named in the chain.
    pub(crate) identities: BTreeMap<TopicPartition, PartitionIdentity>,
    /// By topic, the index of the source that reads it.
    sources: BTreeMap<Arc<str>, usize>,
    /// The patterns of the sources that have one.
    patterns: Vec<TopicPattern>,
}

impl Topics {
    /// What `cluster` says about the topics of `topology`.
    ///
    /// # Errors
    /// [`Error::Configuration`] if the brokers do not tell the ids that positions are to be kept under, if two sources read
    /// the same topic, or if there are too many.
    pub(crate) fn resolve(topology: &Topology, cluster: &ClusterInfo) -> Result<Self, Error> {
        let cluster_id =
            topology.kafka.cluster_id.clone().or_else(|| cluster.cluster_id.clone()).ok_or_else(|| {
                Error::Configuration(
                    "the brokers do not tell a cluster id: set kafka.cluster_id to a name of your own".into(),
                )
            })?;
        if cluster.topics.len() > TOPICS_MAX {
            let count = cluster.topics.len();
            return Err(Error::Configuration(format!(
                "the sources read {count} topics; at most {TOPICS_MAX} are possible: narrow their patterns"
            )));
        }
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
            let source = reader_of(topology, &name)?;
            sources.insert(name, source);
        }
        let patterns = topology.sources.iter().filter_map(|source| match &source.topics {
            SourceTopics::Named(_) => None,
            SourceTopics::Matching(pattern) => Some(pattern.clone()),
        });
        Ok(Self { identities, sources, patterns: patterns.collect() })
    }

    /// Whether `topic` is read as soon as there is such a topic.
    pub(crate) fn awaits(&self, topic: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(topic))
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

/// The index of the one source that reads `topic`.
fn reader_of(topology: &Topology, topic: &str) -> Result<usize, Error> {
    let mut readers =
        (0..topology.sources.len()).filter(|index| topology.sources[*index].topics.contains(topic));
    let first = readers.next().ok_or_else(|| Error::Bug(format!("no source reads topic {topic}")))?;
    match readers.next() {
        None => Ok(first),
        Some(second) => {
            let [first, second] = [first, second].map(|index| &topology.sources[index].name);
            Err(Error::Configuration(format!(
                "topic {topic} is read by the sources {first} and {second}: its records would be there twice. Make their patterns \
                 exclude each other"
            )))
        }
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

/// Asks `cluster` about the topics of `topology`, and about those that are `known` already: they must still be there.
pub(crate) async fn describe(
    topology: &Topology,
    cluster: &KafkaCluster,
    known: Option<&ClusterInfo>,
) -> Result<ClusterInfo, isobar_connectors::Error> {
    let named = topology.sources.iter().flat_map(|source| source.topics.named().iter().cloned());
    let known = known.iter().flat_map(|known| known.topics.iter().map(|topic| topic.name.clone()));
    let mut topics: BTreeSet<String> = named.chain(known).collect();
    let is_matching = |topic: &String| topology.sources.iter().any(|source| source.topics.contains(topic));
    if topology.sources.iter().any(|source| matches!(source.topics, SourceTopics::Matching(_))) {
        topics.extend(cluster.topic_names().await?.into_iter().filter(is_matching));
    }
    let topics: Vec<String> = topics.into_iter().collect();
    describe_named(topology.kafka.topic_identity, cluster, &topics).await
}

/// Asks `cluster` about `topics`, which are told apart by `identity`.
pub(crate) async fn describe_named(
    identity: TopicIdentity,
    cluster: &KafkaCluster,
    topics: &[String],
) -> Result<ClusterInfo, isobar_connectors::Error> {
    match identity {
        TopicIdentity::Id => cluster.describe(topics).await,
        TopicIdentity::Name => cluster.describe_by_name(topics).await,
    }
}

/// The same for a start. A topic that is not there may have been created an instant ago, which brokers hear of one after the
/// other: it is asked for again, for some seconds.
pub(crate) async fn describe_at_start(
    topology: &Topology,
    cluster: &KafkaCluster,
) -> Result<ClusterInfo, isobar_connectors::Error> {
    let (mut pause, longest) = NEW_TOPIC_PAUSE;
    for _ in 1..NEW_TOPIC_QUESTIONS {
        match describe(topology, cluster, None).await {
            Err(error @ isobar_connectors::Error::TopicMissing { .. }) => {
                warn!(%error, "asking again, in case the topic was created an instant ago");
            }
            outcome => return outcome,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
    describe(topology, cluster, None).await
}

/// A dataset that has read a topic goes on with it, or says why it cannot: positions whose topics are not among `topics`
/// must belong to topics that the cluster still has and the specification no longer names.
pub(crate) async fn refuse_lost(
    topology: &Topology,
    cluster: &KafkaCluster,
    chain: &Chain,
    topics: &Topics,
) -> Result<(), Error> {
    let left = left_behind(topology, chain, topics);
    if left.is_empty() {
        return Ok(());
    }
    let ask = |error| Error::connector("ask Kafka about topics that are no longer read", error);
    let names = cluster.topic_names().await.map_err(ask)?;
    let described = match topology.kafka.topic_identity {
        TopicIdentity::Id => cluster.describe(&names).await.map_err(ask)?.topics,
        TopicIdentity::Name => Vec::new(),
    };
    for (dataset, topic_id) in left {
        let by_id = described.iter().find(|topic| topic.id.as_ref() == Some(&topic_id));
        let name = by_id.map(|topic| &topic.name).or_else(|| names.iter().find(|name| **name == topic_id));
        let Some(name) = name else {
            return Err(Error::Gap(format!(
                "dataset {dataset} has read topic {topic_id} of this cluster, and there is no such topic any more: it was deleted, or \
                 deleted and created again. What it still held is not in the dataset; start a new topology name to go on without it"
            )));
        };
        warn!(dataset, topic = name, "topic is no longer read; where it was left is kept");
    }
    Ok(())
}

/// Datasets and the ids of topics of which they have positions and that are not among `topics`.
fn left_behind(topology: &Topology, chain: &Chain, topics: &Topics) -> BTreeSet<(String, String)> {
    let clusters: BTreeSet<&str> = topics.identities.values().map(|identity| &*identity.cluster).collect();
    let read: BTreeSet<&str> = topics.identities.values().map(|identity| &*identity.topic_id).collect();
    let mut left = BTreeSet::new();
    for dataset in &topology.datasets {
        let Some(head) = chain.tables.get(&dataset.name) else { continue };
        for app_id in head.positions.keys() {
            let parts: Vec<&str> = app_id.split('/').collect();
            if let [owner, cluster, topic_id, _] = parts[..]
                && owner == topology.name
                && clusters.contains(cluster)
                && !read.contains(topic_id)
            {
                left.insert((dataset.name.clone(), topic_id.to_owned()));
            }
        }
    }
    left
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

    fn reads(&self, topic: &str) -> bool {
        self.known.topics.iter().any(|known| known.name == topic)
    }

    /// Brokers that do not answer are the source's affair, and new partitions that cannot be asked where they begin are
    /// seen again the next time.
    async fn look(&mut self) -> Result<(), Error> {
        let now = match describe(&self.topology, &self.cluster, Some(&self.known)).await {
            Ok(now) => now,
            // One that appeared and went again was never read.
            Err(isobar_connectors::Error::TopicMissing { topic, .. }) if self.reads(&topic) => {
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

    use isobar_connectors::kafka::{EmbeddedBroker, KafkaConfig, TopicInfo};

    use super::*;
    use crate::commit::chain::TableHead;
    use crate::spec::{self, CheckOptions};

    fn topology() -> Topology {
        let text = spec::schema::EXAMPLE;
        spec::check_text(text, "topology.yaml", Path::new("/specs"), CheckOptions::default()).unwrap()
    }

    /// Two sources of these topics.
    fn topology_of(one: &str, other: &str) -> Topology {
        let sources =
            format!("  delays: {{ topics: {other}, format: json, fields: {{ a: int32 }} }}\ndatasets:\n");
        let text = spec::schema::EXAMPLE
            .replace("    topic: flights\n", &format!("    topics: {one}\n"))
            .replace("datasets:\n", &sources);
        let text = format!("{text}  delayed: {{ from: delays, sql: SELECT a FROM delays }}\n");
        spec::check_text(&text, "topology.yaml", Path::new("/specs"), CheckOptions::default())
            .unwrap_or_else(|problems| panic!("{problems}"))
    }

    fn cluster_of(topics: &[&str]) -> ClusterInfo {
        let topics = topics.iter().map(|name| {
            let id = Some(format!("id-of-{name}"));
            TopicInfo { name: (*name).to_owned(), id, partitions: 2 }
        });
        ClusterInfo { cluster_id: Some("c".into()), topics: topics.collect() }
    }

    #[test]
    fn every_topic_belongs_to_the_source_that_names_or_matches_it() {
        let topology = topology_of("[flights, early]", "{ pattern: \"^late-.*\" }");
        let topics = Topics::resolve(&topology, &cluster_of(&["early", "flights", "late-1"])).unwrap();
        let found: Vec<_> =
            ["early", "flights", "late-1", "late-2"].map(|topic| topics.source_of(topic)).into();
        assert_eq!(found, [Some(0), Some(0), Some(1), None]);
        assert_eq!((topics.of_source(0).count(), topics.of_source(1).count()), (4, 2));
        assert!(topics.awaits("late-2") && !topics.awaits("flights-2"));
    }

    #[test]
    fn a_topic_of_two_sources_and_too_many_topics_are_refused() {
        let topology = topology_of("{ pattern: \"^a.*\" }", "{ pattern: \"^.*b\" }");
        assert!(Topics::resolve(&topology, &cluster_of(&["a", "b"])).is_ok());
        let error = Topics::resolve(&topology, &cluster_of(&["a", "ab", "b"])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("topic ab is read by the sources flights and delays"), "{text}");
        assert_eq!(error.exit_code(), 2);

        let names: Vec<String> = (0..=TOPICS_MAX).map(|number| format!("a{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert!(Topics::resolve(&topology, &cluster_of(&names[1..])).is_ok());
        let error = Topics::resolve(&topology, &cluster_of(&names)).unwrap_err();
        assert!(error.to_string().contains("1001 topics") && error.exit_code() == 2, "{error}");
    }

    #[test]
    fn positions_without_a_topic_are_those_of_this_topology_and_cluster_only() {
        let topology = topology_of("[flights, early]", "[late]");
        let topics = Topics::resolve(&topology, &cluster_of(&["early", "flights", "late"])).unwrap();
        let mut chain = Chain::default();
        let mut begin = |positions: &[&str]| {
            let positions = positions.iter().map(|app_id| (app_id.to_string(), 7)).collect();
            let head = TableHead {
                version: 0,
                sha256: String::new(),
                positions,
                maintained: 0,
                checkpoint: None,
                previous_checkpoint: None,
                described: None,
            };
            chain.tables.insert("flight_features".into(), head);
            left_behind(&topology, &chain, &topics)
        };
        assert!(begin(&["flight_delays/c/id-of-early/0", "flight_delays/c/id-of-flights/1"]).is_empty());
        // A lane beside the topics, another cluster, another topology.
        let others = ["flight_delays#redrive/c/gone/0", "flight_delays/other/gone/0", "other/c/gone/0"];
        assert!(begin(&others).is_empty());
        let left =
            begin(&["flight_delays/c/gone/0", "flight_delays/c/gone/1", "flight_delays/c/id-of-early/0"]);
        assert_eq!(left, BTreeSet::from([("flight_features".to_owned(), "gone".to_owned())]));
    }

    #[tokio::test]
    async fn a_topic_that_was_created_an_instant_ago_is_asked_for_again() {
        let broker = EmbeddedBroker::start(&[("flights", 1)]).unwrap();
        let mut topology = topology_of("[flights]", "[late]");
        topology.kafka.topic_identity = TopicIdentity::Name;
        let config = KafkaConfig::new([broker.bootstrap_servers()], "test");
        let cluster = KafkaCluster::new(&config, Duration::from_secs(30)).unwrap();
        let create = async {
            let error = describe(&topology, &cluster, None).await.unwrap_err();
            let is_late =
                matches!(&error, isobar_connectors::Error::TopicMissing { topic, .. } if topic == "late");
            assert!(is_late, "{error}");
            broker.create_topic("late", 3).unwrap();
        };
        // It is asked for while nobody has heard of it.
        let (found, ()) = tokio::join!(describe_at_start(&topology, &cluster), create);
        let found: Vec<_> =
            found.unwrap().topics.into_iter().map(|topic| (topic.name, topic.partitions)).collect();
        assert_eq!(found, [("flights".to_owned(), 1), ("late".to_owned(), 3)]);
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
